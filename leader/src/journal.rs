//! The job's journal, `jobs/<job>/journal` in HyDFS: the plan and every launch, so that another leader can take the job
//! up with nothing from this one's machine.
//!
//! Each record is `length (4 bytes, big-endian) | checksum (XXH3-64 of what follows, 8 bytes, big-endian) | MessagePack
//! with named fields`. A torn last record is no record.

use common::batch::key_hash;
use common::ids::{Epoch, JobName, NodeName, TaskId};
use common::net::frame;
use hydfs::client::{Appender, Client, Error};
use serde::{Deserialize, Serialize};

use crate::plan::Plan;

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
    /// Written before the process is started.
    Launch {
        task: TaskId,
        epoch: Epoch,
        node: NodeName,
    },
    Done {
        task: TaskId,
        epoch: Epoch,
    },
    End {
        ok: bool,
        why: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("the journal's record at byte {at} has a wrong checksum")]
    Checksum { at: usize },
    #[error("the journal's record at byte {at} cannot be read: {why}")]
    Record { at: usize, why: String },
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
    Ok(records)
}

pub fn name(job: &JobName) -> String {
    format!("jobs/{job}/journal")
}

/// Writes the journal. Records are stored in order; nobody waits for each.
pub struct Journal {
    appender: Appender,
}

impl Journal {
    /// Makes the journal: the one leader that succeeds owns the job's name.
    pub async fn create(client: &Client, job: &JobName) -> Result<Self, Error> {
        let name = name(job);
        client.create(&name).await?;
        let appender = client.open_append(&name, "leader", Epoch(1), false).await?;
        Ok(Self { appender })
    }

    pub fn write(&mut self, entry: Entry) {
        let record = Record {
            v: VERSION,
            at_us: common::clock::unix_micros(),
            entry,
        };
        match record.encode() {
            Ok(bytes) => self.appender.append(bytes),
            Err(error) => tracing::error!(error = %error, "JOURNAL_FAILED"),
        }
    }

    /// Until all that was written is durable.
    pub async fn flush(&mut self) -> Result<(), Error> {
        let all = self.appender.queued();
        self.appender.wait_acked(all).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::sample;
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
            },
            Entry::End {
                ok: false,
                why: "boom".into(),
            },
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
            prop_assert!(some.len() < 4 && records().starts_with(&some));
            let mut flipped = all;
            flipped[cut] ^= 1 << bit;
            prop_assert!(decode(&flipped).map_or(true, |r| r.len() < 4));
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn other_versions_are_refused() {
        let mut record = records().remove(3);
        record.v = 2;
        assert!(matches!(
            decode(&record.encode().unwrap()),
            Err(Damage::Record { .. })
        ));
    }
}
