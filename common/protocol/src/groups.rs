//! Key groups: the unit in which a stage that keeps state is divided among its tasks, and in which state moves between them.
//!
//! A key's group follows from its hash and never changes. A group's owner follows from the routing table alone, by
//! rendezvous hashing (Thaler and Ravishankar, 1998): the task with the highest weight for the group. So a task that is added takes
//! groups from all others and nothing moves between those; one that is taken out leaves its groups to the others, and
//! nothing else moves.

use crate::batch::key_hash;
use common::ids::TaskId;

/// Groups per stage: part of the contract between versions. Many, so that the tasks' shares differ by a few percent.
pub const GROUPS: u16 = 4096;

/// The group of a key with this hash ([`key_hash`]).
pub fn of_hash(hash: u64) -> u16 {
    (hash % u64::from(GROUPS)) as u16
}

/// The owners of all groups by one routing table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owners {
    /// By group: an index into the table's tasks.
    of: Vec<u16>,
}

impl Owners {
    pub fn new(tasks: &[TaskId]) -> Self {
        let owner = |group| {
            let heaviest = tasks
                .iter()
                .enumerate()
                .max_by_key(|(_, t)| (weight(group, **t), **t));
            heaviest.map_or(0, |(at, _)| at as u16)
        };
        Self {
            of: (0..GROUPS).map(owner).collect(),
        }
    }

    /// Where in the table's tasks the owner of a key with this hash stands.
    pub fn at(&self, hash: u64) -> usize {
        usize::from(self.of[usize::from(of_hash(hash))])
    }

    /// The same for a key.
    pub fn at_key(&self, key: &[u8]) -> usize {
        self.at(key_hash(key))
    }
}

/// `SplitMix64`'s mixing of both: cheap, and any bit of the input changes half of the output's.
fn weight(group: u16, task: TaskId) -> u64 {
    let mut z = (u64::from(task.stage) << 32 | u64::from(task.index) << 16 | u64::from(group))
        .wrapping_add(1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(tasks: &[TaskId]) -> Vec<TaskId> {
        let owners = Owners::new(tasks);
        (0..GROUPS).map(|g| tasks[owners.at(u64::from(g))]).collect()
    }

    fn tasks(n: u16) -> Vec<TaskId> {
        (0..n).map(|i| TaskId::new(2, i)).collect()
    }

    #[test]
    fn groups_move_to_who_comes_and_from_who_goes_and_nowhere_else() {
        for n in 1..12 {
            let (few, many) = (owners(&tasks(n)), owners(&tasks(n + 1)));
            let new = TaskId::new(2, n);
            for (before, after) in few.iter().zip(&many) {
                assert!(before == after || *after == new, "{n}: {before} to {after}");
            }
        }
    }

    #[test]
    fn shares_are_about_even() {
        for n in 1..=16u16 {
            let of = owners(&tasks(n));
            for task in tasks(n) {
                let share =
                    of.iter().filter(|t| **t == task).count() as f64 * f64::from(n) / f64::from(GROUPS);
                assert!(
                    (0.8..1.25).contains(&share),
                    "{n} tasks: {task} has {share} of its share"
                );
            }
        }
    }

    /// Running jobs and their journals depend on it.
    #[test]
    fn owners_are_what_they_were() {
        let owners = Owners::new(&tasks(3));
        let first: Vec<usize> = (0..16).map(|hash| owners.at(hash)).collect();
        assert_eq!(first, [1, 1, 2, 0, 0, 0, 0, 0, 2, 0, 1, 1, 2, 2, 0, 2]);
    }
}
