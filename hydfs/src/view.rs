//! Views: what is known of which storage node has joined and which has failed. Facts only grow, so views merge.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

/// A node's index in the cluster file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeIx(pub u16);

/// Which start of a storage node: wall-clock milliseconds, always rising. 0: never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Facts {
    joined: Incarnation,
    failed: Incarnation,
}

/// The facts about all nodes of the cluster file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct View(Vec<Facts>);

/// Stands for a view: XXH3-128 of its facts. What is sent often names its view by this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ViewId(u64, u64);

impl View {
    /// Nobody has joined yet.
    pub fn new(nodes: usize) -> Self {
        Self(vec![Facts::default(); nodes])
    }

    /// Number of nodes in the cluster file.
    pub fn nodes(&self) -> usize {
        self.0.len()
    }

    pub fn id(&self) -> ViewId {
        let mut hash = Xxh3::new();
        for facts in &self.0 {
            hash.update(&facts.joined.0.to_le_bytes());
            hash.update(&facts.failed.0.to_le_bytes());
        }
        let id = hash.digest128();
        ViewId((id >> 64) as u64, id as u64)
    }

    /// Grows with each new fact: of two views one of which contains the other, the larger is the newer.
    pub fn size(&self) -> u128 {
        self.0
            .iter()
            .map(|f| f.joined.0 as u128 + f.failed.0 as u128)
            .sum()
    }

    pub fn is_alive(&self, node: NodeIx) -> bool {
        self.0.get(node.0 as usize).is_some_and(|f| f.joined > f.failed)
    }

    /// The newest incarnation known to have joined.
    pub fn incarnation(&self, node: NodeIx) -> Incarnation {
        self.0.get(node.0 as usize).map_or(Incarnation(0), |f| f.joined)
    }

    /// The newest incarnation called failed.
    pub fn failed(&self, node: NodeIx) -> Incarnation {
        self.0.get(node.0 as usize).map_or(Incarnation(0), |f| f.failed)
    }

    /// Has this incarnation, or a later one, ever been called failed?
    pub fn failed_since(&self, node: NodeIx, incarnation: Incarnation) -> bool {
        self.0
            .get(node.0 as usize)
            .is_none_or(|f| f.failed >= incarnation)
    }

    /// Nodes alive, in the cluster file's order.
    pub fn alive(&self) -> impl Iterator<Item = NodeIx> + '_ {
        (0..self.0.len() as u16).map(NodeIx).filter(|n| self.is_alive(*n))
    }

    pub fn has_majority(&self) -> bool {
        self.alive().count() > self.nodes() / 2
    }

    /// Notes that `incarnation` of `node` has joined. True if that is news.
    pub fn join(&mut self, node: NodeIx, incarnation: Incarnation) -> bool {
        self.raise(node, incarnation, |f| &mut f.joined)
    }

    /// Notes that `incarnation` of `node` is called failed. True if that is news.
    pub fn fail(&mut self, node: NodeIx, incarnation: Incarnation) -> bool {
        self.raise(node, incarnation, |f| &mut f.failed)
    }

    fn raise(
        &mut self,
        node: NodeIx,
        to: Incarnation,
        which: impl Fn(&mut Facts) -> &mut Incarnation,
    ) -> bool {
        let Some(fact) = self.0.get_mut(node.0 as usize).map(which) else {
            return false;
        };
        let news = *fact < to;
        *fact = to.max(*fact);
        news
    }

    /// Takes every fact of `other`. True if one was news. A view over another number of nodes has nothing to say.
    pub fn merge(&mut self, other: &View) -> bool {
        if other.nodes() != self.nodes() {
            return false;
        }
        let before = self.size();
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            mine.joined = mine.joined.max(theirs.joined);
            mine.failed = mine.failed.max(theirs.failed);
        }
        self.size() != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn view(facts: Vec<(u8, u8)>) -> View {
        let fact = |(j, f): (u8, u8)| Facts {
            joined: Incarnation(j.into()),
            failed: Incarnation(f.into()),
        };
        View(facts.into_iter().map(fact).collect())
    }

    fn any_view() -> impl Strategy<Value = View> {
        prop::collection::vec((0u8..4, 0u8..4), 4).prop_map(view)
    }

    proptest! {
        #[test]
        fn merging_is_commutative_idempotent_and_grows(a in any_view(), b in any_view()) {
            let (mut ab, mut ba) = (a.clone(), b.clone());
            let news = ab.merge(&b);
            ba.merge(&a);
            prop_assert_eq!(&ab, &ba);
            prop_assert_eq!(news, ab != a);
            prop_assert!(ab.size() >= a.size() && ab.size() >= b.size());
            prop_assert!(!ab.clone().merge(&a));
        }
    }

    #[test]
    fn a_failed_node_lives_again_under_a_higher_incarnation() {
        let mut v = view(vec![(1, 0), (1, 0), (1, 0)]);
        assert!(v.fail(NodeIx(1), Incarnation(1)) && !v.is_alive(NodeIx(1)) && v.has_majority());
        assert!(v.join(NodeIx(1), Incarnation(2)) && v.is_alive(NodeIx(1)));
        assert!(v.failed_since(NodeIx(1), Incarnation(1)) && !v.failed_since(NodeIx(1), Incarnation(2)));
        assert!(!v.merge(&View::new(5)));
    }
}
