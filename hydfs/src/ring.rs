//! The consistent-hash ring: which range a file belongs to, and which nodes replicate a range in a view.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::view::{NodeIx, View};

/// A range of the ring, named by the cluster-file index of the node whose token ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RangeIx(pub u16);

/// A place on the ring.
pub fn token(name: &str) -> u64 {
    xxh3_64(name.as_bytes())
}

#[derive(Debug, Clone)]
pub struct Ring {
    /// Nodes by token, clockwise.
    order: Vec<(u64, NodeIx)>,
    /// In the cluster file's order.
    names: Vec<String>,
    replication: usize,
}

impl Ring {
    /// `names` in the cluster file's order.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>, replication: usize) -> Self {
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let mut order: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(i, n)| (token(n), NodeIx(i as u16)))
            .collect();
        order.sort_unstable();
        Self {
            order,
            names,
            replication,
        }
    }

    /// The node as people call it.
    pub fn name(&self, node: NodeIx) -> &str {
        self.names.get(node.0 as usize).map_or("?", String::as_str)
    }

    pub fn replication(&self) -> usize {
        self.replication
    }

    pub fn ranges(&self) -> impl Iterator<Item = RangeIx> + '_ {
        (0..self.order.len() as u16).map(RangeIx)
    }

    /// The nodes clockwise with their tokens.
    pub fn nodes(&self) -> &[(u64, NodeIx)] {
        &self.order
    }

    /// The range that a file belongs to.
    pub fn range_of(&self, file: &str) -> RangeIx {
        let at = token(file);
        let place = self.order.partition_point(|(t, _)| *t < at) % self.order.len().max(1);
        RangeIx(self.order[place].1.0)
    }

    /// The first R nodes alive in `view`, clockwise from the range's own; the first is the coordinator. Fewer when fewer live.
    pub fn replicas(&self, range: RangeIx, view: &View) -> Vec<NodeIx> {
        let start = self.order.iter().position(|(_, n)| n.0 == range.0).unwrap_or(0);
        let clockwise = self.order[start..].iter().chain(&self.order[..start]);
        clockwise
            .map(|(_, n)| *n)
            .filter(|n| view.is_alive(*n))
            .take(self.replication)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Incarnation;

    #[test]
    fn replicas_are_the_first_live_successors_of_the_files_token() {
        let names: Vec<String> = (0..7).map(|i| format!("n{i}")).collect();
        let ring = Ring::new(names.iter().map(String::as_str), 3);
        let mut view = View::new(7);
        (0..7).for_each(|n| assert!(view.join(NodeIx(n), Incarnation(1))));
        for dead in [None, Some(NodeIx(3)), Some(NodeIx(5))] {
            if let Some(dead) = dead {
                view.fail(dead, Incarnation(1));
            }
            for f in 0..500 {
                let file = format!("dir/file{f}");
                // Naively: all live nodes sorted by clockwise distance from the file's token.
                let mut by_distance: Vec<_> = view
                    .alive()
                    .map(|n| (token(&names[n.0 as usize]).wrapping_sub(token(&file)), n))
                    .collect();
                by_distance.sort_unstable();
                let want: Vec<_> = by_distance.into_iter().take(3).map(|(_, n)| n).collect();
                assert_eq!(ring.replicas(ring.range_of(&file), &view), want, "{file}");
            }
        }
    }
}
