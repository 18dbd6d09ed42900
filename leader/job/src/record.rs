//! The records of a job's journal.
//!
//! Each is `length (4 bytes, big-endian) | checksum (XXH3-64 of what follows, 8 bytes, big-endian) | MessagePack with named
//! fields`. A torn last record is no record.

use common::ids::{Epoch, NodeName, TaskId};
use common::net::frame;
use protocol::batch::key_hash;
use protocol::task_log::SourcePos;
use serde::{Deserialize, Serialize};

use crate::plan::{Change, Plan};
use crate::state::JobState;

pub const VERSION: u8 = 1;
const HEAD: usize = 12;
const MOST: usize = 64 * 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub v: u8,
    /// Wall clock, microseconds.
    pub at_us: u64,
    pub entry: Entry,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Entry {
    Plan(Box<Plan>),
    /// All that the records before it come to: they may be gone.
    State(Box<JobState>),
    /// Written before the process is started.
    Launch {
        task: TaskId,
        epoch: Epoch,
        node: NodeName,
    },
    Done {
        task: TaskId,
        epoch: Epoch,
        /// In the task's whole life.
        #[serde(default)]
        counts: Counts,
        /// The newest version of the next stage's routing that it knew.
        #[serde(default)]
        routed: u32,
    },
    /// Durable before anybody acts on it.
    Change(Change),
    /// The stage's change to this version is over: who was taken out is gone for good.
    Scaled {
        stage: u16,
        version: u32,
    },
    /// Without exactly-once: all that this source read before `place` has arrived at the destination.
    Arrived {
        task: TaskId,
        place: SourcePos,
    },
    /// Another leader goes on from here; its processes have epochs above `base`.
    Resumed {
        base: Epoch,
        node: NodeName,
        pid: u32,
        settings: Settings,
    },
    End {
        ok: bool,
        why: String,
    },
    /// What the job keeps is being removed: from here on nobody takes it up.
    Forgotten,
}

/// A change of the plan that is being stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What a task has consumed and put out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub tuples_in: u64,
    pub tuples_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    #[serde(default)]
    pub lossy: u64,
}

/// What of a plan may be said anew when a job is taken up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub max_restarts: u32,
    pub op_timeout_ms: u64,
    pub poison: Option<String>,
    /// `None`: as many as before.
    #[serde(default)]
    pub standbys: Option<u16>,
}

impl Settings {
    pub fn apply(&self, plan: &mut Plan) {
        plan.max_restarts = self.max_restarts;
        plan.op_timeout_ms = self.op_timeout_ms;
        plan.poison.clone_from(&self.poison);
        plan.standbys = self.standbys.unwrap_or(plan.standbys);
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("the journal's record at byte {at} has a wrong checksum")]
    Checksum { at: usize },
    #[error("the journal's record at byte {at} cannot be read: {why}")]
    Record { at: usize, why: String },
    #[error("the journal ends in the middle of the record at byte {at}")]
    Torn { at: usize },
}

impl Record {
    pub fn encode(&self) -> Result<Vec<u8>, common::net::Error> {
        let body = frame::encode(self)?;
        let mut out = Vec::with_capacity(HEAD + body.len());
        out.extend_from_slice(&(body.len() as u32).to_be_bytes());
        out.extend_from_slice(&key_hash(&body).to_be_bytes());
        out.extend_from_slice(&body);
        Ok(out)
    }
}

/// All whole records of a journal.
pub fn decode(journal: &[u8]) -> Result<Vec<Record>, Damage> {
    decode_some(journal).map(|(records, _)| records)
}

/// The whole records, and where they end.
pub(crate) fn decode_some(journal: &[u8]) -> Result<(Vec<Record>, usize), Damage> {
    let mut records = vec![];
    let mut at = 0;
    while let Some(head) = journal.get(at..at + HEAD) {
        let mut len = [0; 4];
        let mut sum = [0; 8];
        len.copy_from_slice(&head[..4]);
        sum.copy_from_slice(&head[4..]);
        let len = u32::from_be_bytes(len) as usize;
        if len > MOST {
            return Err(Damage::Record {
                at,
                why: format!("a length of {len} bytes"),
            });
        }
        let Some(body) = journal.get(at + HEAD..at + HEAD + len) else {
            break;
        };
        if key_hash(body) != u64::from_be_bytes(sum) {
            return Err(Damage::Checksum { at });
        }
        let record: Record = frame::decode(body).map_err(|e| Damage::Record {
            at,
            why: e.to_string(),
        })?;
        if record.v != VERSION {
            return Err(Damage::Record {
                at,
                why: format!("version {} is not {VERSION}", record.v),
            });
        }
        records.push(record);
        at += HEAD + len;
    }
    Ok((records, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::sample::sample;
    use proptest::prelude::*;

    fn records() -> Vec<Record> {
        let node = NodeName::new("n1").unwrap();
        let plan = sample(2, 3, 2, std::slice::from_ref(&node));
        let entries = [
            Entry::Plan(Box::new(plan)),
            Entry::Launch {
                task: TaskId::new(1, 2),
                epoch: Epoch(3),
                node,
            },
            Entry::Done {
                task: TaskId::new(1, 2),
                epoch: Epoch(3),
                counts: Counts {
                    tuples_in: 1,
                    ..Counts::default()
                },
                routed: 3,
            },
            Entry::Change(Change::Drain),
            Entry::Arrived {
                task: TaskId::new(0, 0),
                place: SourcePos::default(),
            },
            Entry::Resumed {
                base: Epoch(1000),
                node: NodeName::new("n2").unwrap(),
                pid: 7,
                settings: Settings {
                    max_restarts: 1,
                    op_timeout_ms: 2,
                    poison: Some("out.poison".into()),
                    standbys: None,
                },
            },
            Entry::End {
                ok: false,
                why: "boom".into(),
            },
            Entry::Forgotten,
        ];
        entries
            .into_iter()
            .enumerate()
            .map(|(i, entry)| Record {
                v: VERSION,
                at_us: i as u64,
                entry,
            })
            .collect()
    }

    proptest! {
        #[test]
        fn records_round_trip_torn_tails_are_cut_and_flips_are_seen(cut: prop::sample::Index, bit in 0u32..8) {
            let all: Vec<u8> = records().iter().flat_map(|r| r.encode().unwrap()).collect();
            prop_assert_eq!(decode(&all).unwrap(), records());
            let cut = cut.index(all.len());
            let some = decode(&all[..cut]).unwrap();
            prop_assert!(some.len() < 8 && records().starts_with(&some));
            let mut flipped = all;
            flipped[cut] ^= 1 << bit;
            prop_assert!(decode(&flipped).map_or(true, |r| r.len() < 8));
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn other_versions_are_refused() {
        let mut record = records().remove(6);
        record.v = 2;
        assert!(matches!(
            decode(&record.encode().unwrap()),
            Err(Damage::Record { .. })
        ));
    }
}
