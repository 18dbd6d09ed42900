//! The job's journal, `jobs/<job>/journal` in HyDFS: the plan and every launch, so that another leader can take the job
//! up with nothing from this one's machine.
//!
//! Each record is `length (4 bytes, big-endian) | checksum (XXH3-64 of what follows, 8 bytes, big-endian) | MessagePack
//! with named fields`. A torn last record is no record.

use std::collections::VecDeque;
use std::time::Duration;

use common::clock;
use common::ids::{Epoch, JobName, NodeName, TaskId};
use common::net::frame;
use hydfs::client::{Appender, Client, Error};
use protocol::batch::key_hash;
use protocol::task_log::SourcePos;
use serde::{Deserialize, Serialize};

use crate::job::{Counts, Ticket};
use crate::plan::{Change, Plan};

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
}

/// What of a plan may be said anew when a job is taken up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub max_restarts: u32,
    pub op_timeout_ms: u64,
    pub poison: Option<String>,
}

impl Settings {
    pub fn apply(&self, plan: &mut Plan) {
        plan.max_restarts = self.max_restarts;
        plan.op_timeout_ms = self.op_timeout_ms;
        plan.poison.clone_from(&self.poison);
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
fn decode_some(journal: &[u8]) -> Result<(Vec<Record>, usize), Damage> {
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

pub fn name(job: &JobName) -> String {
    format!("jobs/{job}/journal")
}

const WRITER: &str = "leader";
/// While storage is away the job goes on as well as it can, for so long.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Bytes that are known to be stored are there at once, except in the middle of a take-over.
const READ_WITHIN: Duration = Duration::from_secs(30);
/// Each try meets another leader that takes the job up at this moment, or met one that has died since.
const MOST_TRIES: u32 = 20;

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Storage(#[from] Error),
    #[error(transparent)]
    Damaged(#[from] Damage),
    #[error("{0} cannot be read in full")]
    Short(String),
    #[error("other leaders take the job up again and again")]
    Contended,
}

/// All records of a job's journal as it is now, whoever may be writing it.
pub async fn read(client: &Client, job: &JobName) -> Result<Vec<Record>, OpenError> {
    let name = name(job);
    let len = client.stat(&name).await?.len;
    read_to(client, &name, len).await
}

async fn read_to(client: &Client, name: &str, len: u64) -> Result<Vec<Record>, OpenError> {
    let mut all = vec![];
    let began = clock::now();
    while (all.len() as u64) < len {
        if clock::now().since(began) > READ_WITHIN {
            return Err(OpenError::Short(name.into()));
        }
        let most = (len - all.len() as u64).min(1 << 20) as usize;
        let wait = Duration::from_secs(1);
        all.extend_from_slice(&client.tail(name, all.len() as u64, most, wait).await?);
    }
    // HyDFS keeps appends whole. Behind a torn record nothing could be written that is ever read again.
    match decode_some(&all)? {
        (records, at) if at == all.len() => Ok(records),
        (_, at) => Err(Damage::Torn { at }.into()),
    }
}

/// Writes the journal. Records are stored in order; nobody waits for each.
pub struct Journal {
    appender: Appender,
    /// Changes that are being stored: where each ends.
    tickets: VecDeque<(u64, Ticket)>,
}

impl Journal {
    /// Makes the journal: the one leader that succeeds owns the job's name.
    pub async fn create(client: &Client, job: &JobName) -> Result<Self, Error> {
        let name = name(job);
        client.create(&name).await?;
        let appender = client.with_patience(PATIENCE);
        let appender = appender.open_append(&name, WRITER, Epoch(1), false).await?;
        Ok(Self::new(appender))
    }

    /// Takes the journal over: whoever wrote it before can do so no more. Returns what is in it, and the epoch under which
    /// it is open now.
    pub async fn take_over(client: &Client, job: &JobName) -> Result<(Self, Vec<Record>, Epoch), OpenError> {
        let name = name(job);
        let patient = client.with_patience(PATIENCE);
        let mut epoch = Epoch(2);
        for _ in 0..MOST_TRIES {
            match patient.open_append(&name, WRITER, epoch, false).await {
                Ok(appender) => {
                    // From the fence on nothing is added. A journal that was copied is not this stream's alone.
                    let len = client.stat(&name).await?.len.max(appender.length());
                    let records = read_to(client, &name, len).await?;
                    return Ok((Self::new(appender), records, epoch));
                }
                Err(Error::Fenced { epoch: newest, .. }) => epoch = Epoch(newest.0.max(epoch.0) + 1),
                Err(other) => return Err(other.into()),
            }
        }
        Err(OpenError::Contended)
    }

    fn new(appender: Appender) -> Self {
        Self {
            appender,
            tickets: VecDeque::new(),
        }
    }

    pub fn write(&mut self, entry: Entry) {
        let record = Record {
            v: VERSION,
            at_us: clock::unix_micros(),
            entry,
        };
        match record.encode() {
            Ok(bytes) => self.appender.append(bytes),
            Err(error) => tracing::error!(error = %error, "JOURNAL_FAILED"),
        }
    }

    /// Writes a change; [`Journal::settled`] tells when it is durable.
    pub fn change(&mut self, ticket: Ticket, change: Change) {
        self.write(Entry::Change(change));
        self.tickets.push_back((self.appender.queued(), ticket));
    }

    /// Waits while something is being stored, and for ever when nothing is; returns the changes that have become durable,
    /// in their order. [`Error::Fenced`]: another leader has taken the job up. Cancel-safe.
    pub async fn settled(&mut self) -> Result<Vec<Ticket>, Error> {
        if self.appender.acked() >= self.appender.queued() && self.tickets.is_empty() {
            std::future::pending::<()>().await;
        }
        let due = self.tickets.front().map(|(end, _)| *end);
        let acked = match due {
            Some(end) if end <= self.appender.acked() => self.appender.acked(),
            _ => self.appender.changed().await?,
        };
        let mut settled = vec![];
        while let Some((_, ticket)) = self.tickets.front().filter(|(end, _)| *end <= acked) {
            settled.push(*ticket);
            self.tickets.pop_front();
        }
        Ok(settled)
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
                },
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
            prop_assert!(some.len() < 7 && records().starts_with(&some));
            let mut flipped = all;
            flipped[cut] ^= 1 << bit;
            prop_assert!(decode(&flipped).map_or(true, |r| r.len() < 7));
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
