//! Who is suspected here, and until when it may refute.

use std::collections::BTreeMap;
use std::time::Duration;

use common::clock::Time;
use common::ids::NodeName;

#[derive(Debug, Clone, Default)]
pub struct Suspicions(BTreeMap<NodeName, Time>);

impl Suspicions {
    /// A suspicion of a newer incarnation starts the time anew.
    pub fn start(&mut self, name: &NodeName, until: Time) {
        self.0.insert(name.clone(), until);
    }

    pub fn end(&mut self, name: &NodeName) {
        self.0.remove(name);
    }

    /// It lives: its time to refute is not over before `until`.
    pub fn extend(&mut self, name: &NodeName, until: Time) {
        if let Some(end) = self.0.get_mut(name) {
            *end = until.max(*end);
        }
    }

    pub fn deadline(&self) -> Option<Time> {
        self.0.values().min().copied()
    }

    /// Those whose time is over.
    pub fn take_due(&mut self, now: Time) -> Vec<NodeName> {
        let due: Vec<_> = self
            .0
            .iter()
            .filter(|(_, until)| **until <= now)
            .map(|(name, _)| name.clone())
            .collect();
        for name in &due {
            self.0.remove(name);
        }
        due
    }

    /// This node was out for `late`: their refutations may still wait unread, so that time does not count.
    pub fn postpone(&mut self, late: Duration, not_before: Time) {
        for until in self.0.values_mut() {
            *until = (*until + late).max(not_before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_lost_to_a_stall_is_given_back() {
        let (a, b) = (NodeName::new("a").unwrap(), NodeName::new("b").unwrap());
        let mut s = Suspicions::default();
        s.start(&a, Time(100));
        s.start(&b, Time(200));
        s.postpone(Duration::from_micros(50), Time(180));
        assert_eq!(s.deadline(), Some(Time(180)));
        assert_eq!(s.take_due(Time(180)), [a]);
        assert_eq!(s.deadline(), Some(Time(250)));
        s.end(&b);
        assert!(s.take_due(Time(999)).is_empty());
    }
}
