//! Which facts ride on the next datagrams: the least often sent first, each a bounded number of times (SWIM, section 4.1).

use std::collections::BTreeMap;

use common::ids::NodeName;

/// A fact is sent `LAMBDA * log2(n + 1)` times, rounded up, then it rests.
const LAMBDA: u32 = 3;

#[derive(Debug, Clone, Default)]
pub struct Queue(BTreeMap<NodeName, u32>);

impl Queue {
    /// `name`'s fact has changed: it starts anew.
    pub fn push(&mut self, name: &NodeName) {
        self.0.insert(name.clone(), 0);
    }

    /// Names to send, taken while `fits` says yes, and counts them as sent. `group`: how many nodes there are.
    pub fn take(&mut self, group: usize, mut fits: impl FnMut(&NodeName) -> bool) -> Vec<NodeName> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let limit = LAMBDA * (usize::BITS - group.leading_zeros()).max(1);
        let mut order: Vec<(u32, &NodeName)> = self.0.iter().map(|(name, sent)| (*sent, name)).collect();
        order.sort();
        let taken: Vec<NodeName> = order
            .into_iter()
            .map(|(_, n)| n)
            .filter(|n| fits(n))
            .cloned()
            .collect();
        for name in &taken {
            if let Some(sent) = self.0.get_mut(name) {
                *sent += 1;
                if *sent >= limit {
                    self.0.remove(name);
                }
            }
        }
        taken
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fact_is_sent_a_bounded_number_of_times_the_fresh_ones_first() {
        let name = |n: u32| NodeName::new(format!("n{n}")).unwrap();
        let mut queue = Queue::default();
        (0..10).for_each(|n| queue.push(&name(n)));
        let mut sent = [0; 10];
        let mut datagrams = 0;
        while queue.len() > 0 {
            let mut room = 3;
            for taken in queue.take(10, |_| {
                room -= 1;
                room >= 0
            }) {
                sent[taken.as_str()[1..].parse::<usize>().unwrap()] += 1;
            }
            let (least, most) = (sent.iter().min().unwrap(), sent.iter().max().unwrap());
            assert!(most - least <= 1, "{sent:?}");
            datagrams += 1;
            assert!(datagrams < 100);
        }
        assert_eq!(sent, [12; 10], "3 * log2(11) rounded up");
        queue.push(&name(1));
        assert_eq!(queue.take(10, |_| false), [], "no room");
        assert_eq!(queue.len(), 1, "and nothing lost by it");
    }
}
