//! Where a log begins whose beginning was trimmed.

use common::ids::{Epoch, TaskId};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{Cut, HEAD};

/// What all records before this one come to. A log whose beginning was trimmed begins with one: nothing before it is
/// needed by a restart, or by whoever checks the log from here on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Base {
    /// The task's place behind the newest order record before this one. Its outputs need not have arrived.
    pub cut: Cut,
    /// Tasks that outputs lead to, in the order in which they were made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub receivers: Vec<TaskId>,
    /// Those of them that the routing in force chooses from, where they are tasks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub active: Vec<TaskId>,
    /// The process that wrote it, and how many had begun by then, this one included.
    pub epoch: Epoch,
    pub processes: u64,
    pub checkpoints: u64,
    /// Where in the log it begins, and [`Digest`] of what stands before that.
    pub at: u64,
    pub digest: u64,
}

/// A hash over a log's records in order: of each its checksum, seeded with the hash of those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digest(pub u64);

impl Digest {
    /// Takes in encoded records.
    pub fn take(&mut self, mut records: &[u8]) {
        while let Some((head, rest)) = records.split_at_checked(HEAD) {
            let len = head[..4].iter().fold(0usize, |acc, &b| acc << 8 | b as usize);
            self.0 = xxh3_64_with_seed(&head[4..], self.0);
            records = rest.get(len..).unwrap_or_default();
        }
    }
}
