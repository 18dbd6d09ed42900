//! What a task's log in HyDFS holds: order records, now and then a checkpoint, and, more rarely, a base, before which the log
//! can be trimmed. Written by the task, read back by its next process and by whoever checks a job's logs.
//!
//! On disk a record is `length u32 | XXH3-64 of the body | body`, all big-endian, the body MessagePack with named fields
//! under a one-letter tag. A new kind of record is a new tag; `Cut::version` grows when a checkpoint's meaning changes.

mod base;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

pub use base::{Base, Digest};

use crate::control::{OpCode, OpKind, Route, TaskPlan};
use common::ids::{Creation, Epoch, TaskId};

/// What is written. Version 1 is read as well: its checkpoints name every file that grows, not only those that have moved.
pub const CUT_VERSION: u8 = 2;

/// A place in one file: the next line's first byte, and its number, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LinePosition {
    pub at: u64,
    pub line: u64,
}

/// Places in files that may still grow, by slice. A copy costs nothing, however many there are: cuts are copied for each unit of work.
pub type Places = rpds::RedBlackTreeMapSync<u32, LinePosition>;

/// A place in the source's input: what comes next.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SourcePos {
    /// Index into the task's slices; their number when all is read.
    pub slice: u32,
    /// Byte of the file where the next line starts; `None` before the slice's first line was looked for.
    pub at: Option<u64>,
    /// Number of the next line, from 1.
    pub line: u64,
    /// Where the task stands in the slices whose files may still grow, by slice.
    #[serde(default, skip_serializing_if = "Places::is_empty")]
    pub growing: Places,
}

/// Lines that the source took in one go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRun {
    pub slice: u32,
    /// Which file of the slice's name the lines were read from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation: Option<Creation>,
    /// The line that starts at `from`, up to and without the one that starts at `to`.
    pub from: u64,
    pub to: u64,
    pub first_line: u64,
    pub lines: u64,
    /// Nothing of the slice is left.
    pub last: bool,
    /// The slice is one of several that are read in turn, since their files may grow.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub growing: bool,
}

impl SourcePos {
    /// Takes in where `news` stands in files that grow. Nobody ever goes back in one.
    pub fn catch_up(&mut self, news: &Places) {
        for (slice, place) in news {
            if self.growing.get(slice).is_none_or(|have| have.at < place.at) {
                self.growing.insert_mut(*slice, *place);
            }
        }
    }
}

/// One thing that a task consumed. The unit of replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Tuples `start..end` of an upstream task's channel, as one batch.
    #[serde(rename = "i")]
    Input { from: TaskId, start: u64, end: u64 },
    /// The upstream task's end mark, which stands at `at` in its channel.
    #[serde(rename = "e")]
    InputEnd { from: TaskId, at: u64 },
    #[serde(rename = "s")]
    Source(SourceRun),
    /// All inputs have ended: the operator finishes, end marks go out.
    #[serde(rename = "f")]
    Finish,
    /// From here on outputs go by this version of the next stage's routing: those who are in it for the first time have
    /// channels that begin at 0, those who are in it no more have been sent an end mark.
    #[serde(rename = "r")]
    Route { version: u32, tasks: Vec<TaskId> },
    /// The mark of a new version of this stage's own routing, which stands at `at` in a channel: what stands behind it goes
    /// by that version. On the channel of a task of the same stage: it has handed over all that it loses by the version.
    #[serde(rename = "m")]
    Mark {
        from: TaskId,
        at: u64,
        version: u32,
        tasks: Vec<TaskId>,
    },
    /// Units `start..end` of another task of the same stage: keys with their state, which are this task's from now on.
    #[serde(rename = "a")]
    Adopt { from: TaskId, start: u64, end: u64 },
    /// This version of the stage's own routing is in force here: what others own by it was handed over to `to`, and whatever
    /// they hand over to this task has come.
    #[serde(rename = "h")]
    HandOver { version: u32, to: Vec<TaskId> },
}

impl Order {
    /// Up to which unit of `from`'s channel this consumes.
    pub fn reaches(&self, from: TaskId) -> Option<u64> {
        match self {
            Order::Input { from: it, end, .. } if *it == from => Some(*end),
            Order::Adopt { from: it, end, .. } if *it == from => Some(*end),
            Order::InputEnd { from: it, at } | Order::Mark { from: it, at, .. } if *it == from => {
                Some(at + 1)
            }
            _ => None,
        }
    }
}

/// Where a task of a stage that moves its state stands in that stage's own routing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Owned {
    /// The version in force: what the task keeps follows from it. It need not be in it yet.
    pub table: Route,
    /// The version that comes next, once a mark of it was met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Route>,
    /// By channel: the newest version whose mark was met.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub marks: BTreeMap<TaskId, u32>,
}

/// A place in the order log, and all that must be known to go on from there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cut {
    pub version: u8,
    /// Order records consumed so far.
    pub pos: u64,
    /// Per upstream task: how many units of its channel are consumed (tuples, and the end mark as one).
    pub consumed: BTreeMap<TaskId, u64>,
    pub ended: BTreeSet<TaskId>,
    /// Per output, in routing order: how many units were emitted (tuples, or bytes for the destination).
    pub emitted: Vec<u64>,
    pub source: SourcePos,
    pub done: bool,
    /// The version of the next stage's routing that is in force.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub route: u32,
    /// The stage's own routing, where its state moves with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owned: Option<Owned>,
    pub tuples_in: u64,
    pub tuples_out: u64,
    /// Of these, how many the destination's format cannot say so that they can be read back.
    #[serde(default, skip_serializing_if = "is_none_of_them")]
    pub lossy: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Per output: how many units were acknowledged when this was written. Empty: all of `emitted`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acked: Vec<u64>,
    /// The operator's state: extents `(offset, length)` of the task's snapshot file, to be restored in this order.
    pub snapshot: Vec<(u64, u64)>,
}

fn is_none_of_them(n: &u64) -> bool {
    *n == 0
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl Cut {
    /// Notes that `order` was consumed; what was put out is not its business.
    pub fn consume(&mut self, order: &Order) {
        match order {
            Order::Input { from, start, end } => {
                self.tuples_in += end - start;
                self.consumed.insert(*from, *end);
            }
            Order::InputEnd { from, at } => {
                self.ended.insert(*from);
                self.consumed.insert(*from, at + 1);
            }
            Order::Source(run) => {
                self.tuples_in += run.lines;
                let source = &mut self.source;
                if run.growing {
                    let place = LinePosition {
                        at: run.to,
                        line: run.first_line + run.lines,
                    };
                    source.growing.insert_mut(run.slice, place);
                } else {
                    (source.slice, source.at, source.line) = match run.last {
                        true => (run.slice + 1, None, 0),
                        false => (run.slice, Some(run.to), run.first_line + run.lines),
                    };
                }
            }
            Order::Finish => self.done = true,
            Order::Route { version, .. } => self.route = *version,
            Order::Mark {
                from,
                at,
                version,
                tasks,
            } => {
                self.consumed.insert(*from, at + 1);
                let owned = self.owned.get_or_insert_default();
                owned.marks.insert(*from, *version);
                if *version > owned.table.version {
                    owned.next = Some(Route {
                        version: *version,
                        tasks: tasks.clone(),
                    });
                }
            }
            Order::Adopt { from, end, .. } => drop(self.consumed.insert(*from, *end)),
            Order::HandOver { .. } => {
                if let Some(owned) = &mut self.owned
                    && let Some(next) = owned.next.take()
                {
                    owned.table = next;
                }
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    #[serde(rename = "o")]
    Order { pos: u64, order: Order },
    #[serde(rename = "c")]
    /// Of the places in files that grow it names those that have moved since the checkpoint before it.
    Checkpoint(Box<Cut>),
    /// Process `epoch` goes on from here; order records up to `pos` are its predecessors'.
    #[serde(rename = "b")]
    Began { epoch: Epoch, pos: u64 },
    /// What order record `pos` put out, kept because making it again may give something else: units `start..end` of an
    /// output, as they are sent.
    #[serde(rename = "p")]
    Production {
        pos: u64,
        output: u16,
        start: u64,
        end: u64,
        tuples: u64,
        born_us: u64,
        payload: Bytes,
    },
    /// What order record `pos` consumed, kept because the operator cannot save its state: the data frame.
    #[serde(rename = "t")]
    Tuples { pos: u64, frame: Bytes },
    #[serde(rename = "k")]
    Base(Box<Base>),
}

/// A record's length and checksum.
const HEAD: usize = 12;

/// A task's log cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the log is damaged at byte {at}: {why}")]
    Damaged { at: usize, why: &'static str },
    #[error(
        "the log was written by another version: checkpoint version {0}, this program knows {CUT_VERSION}"
    )]
    Version(u8),
}

/// What a task's log holds, so that a restart can give again what the task has given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// The order of what was consumed: upstream still has the tuples, and the operator makes the same of them.
    Order,
    /// What was consumed as well: the operator has a state that nobody can save.
    Inputs,
    /// What was put out as well: the operator would not make the same again.
    Productions,
}

impl Keeps {
    /// What the task's log must hold, and whether the operator's state goes into snapshots.
    pub fn of(plan: &TaskPlan) -> (Self, bool) {
        let Some(op) = plan.op.as_ref().filter(|_| plan.exactly_once) else {
            return (Keeps::Order, false);
        };
        let aggregate = op.kind == OpKind::Aggregate;
        let saves = aggregate && !matches!(op.code, OpCode::Foreign { snapshot: false, .. });
        match op.deterministic {
            false => (Keeps::Productions, saves),
            true if aggregate && !saves => (Keeps::Inputs, false),
            true => (Keeps::Order, saves),
        }
    }
}

/// Appends the record's stored form to `out`.
pub fn encode(record: &Record, out: &mut Vec<u8>) {
    let at = out.len();
    out.extend_from_slice(&[0; HEAD]);
    // Writing to a Vec cannot fail, and these types have no map keys or lengths that MessagePack could not say.
    rmp_serde::encode::write_named(out, record).expect("records are representable in MessagePack");
    let len = (out.len() - at - HEAD) as u32;
    let sum = xxh3_64(&out[at + HEAD..]);
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
    out[at + 4..at + HEAD].copy_from_slice(&sum.to_be_bytes());
}

/// All records of a log. HyDFS keeps appends whole, so a torn record is damage, not an expected end.
pub fn decode_all(log: &[u8]) -> Result<Vec<Record>, Error> {
    records(log).map(|r| r.map(|(_, record)| record)).collect()
}

/// A log's records one by one, each with the byte where it begins. After the first that cannot be read nothing comes.
pub fn records(log: &[u8]) -> Records<'_> {
    Records { log, at: 0 }
}

#[derive(Debug, Clone)]
pub struct Records<'a> {
    log: &'a [u8],
    at: usize,
}

impl Records<'_> {
    /// Where the next record begins: behind all that was read.
    pub fn at(&self) -> usize {
        self.at
    }

    fn read(&self) -> Result<(Record, usize), Error> {
        let (log, at) = (self.log, self.at);
        let damaged = |why| Error::Damaged { at, why };
        let head: [u8; HEAD] = log
            .get(at..at + HEAD)
            .and_then(|h| h.try_into().ok())
            .ok_or(damaged("a torn head"))?;
        let (len, sum) = head.split_at(4);
        let len = len.iter().fold(0usize, |acc, &b| acc << 8 | b as usize);
        let sum = sum.iter().fold(0u64, |acc, &b| acc << 8 | b as u64);
        let body = log
            .get(at + HEAD..at + HEAD + len)
            .ok_or(damaged("a torn body"))?;
        if xxh3_64(body) != sum {
            return Err(damaged("the checksum is wrong"));
        }
        let record = rmp_serde::from_slice(body).map_err(|_| damaged("not a record"))?;
        let cut = match &record {
            Record::Checkpoint(cut) => Some(&**cut),
            Record::Base(base) => Some(&base.cut),
            _ => None,
        };
        if let Some(cut) = cut.filter(|cut| !(1..=CUT_VERSION).contains(&cut.version)) {
            return Err(Error::Version(cut.version));
        }
        Ok((record, at + HEAD + len))
    }
}

impl Iterator for Records<'_> {
    type Item = Result<(usize, Record), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.log.len() {
            return None;
        }
        let at = self.at;
        Some(match self.read() {
            Ok((record, next)) => {
                self.at = next;
                Ok((at, record))
            }
            Err(error) => {
                self.log = &[];
                Err(error)
            }
        })
    }
}
