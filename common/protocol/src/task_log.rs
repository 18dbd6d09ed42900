//! What a task's log in HyDFS holds: order records, and now and then a checkpoint. Written by the task, read back by its
//! next process and by whoever checks a job's logs.
//!
//! On disk a record is `length u32 | XXH3-64 of the body | body`, all big-endian, the body MessagePack with named fields
//! under a one-letter tag. A new kind of record is a new tag; `Cut::version` grows when a checkpoint's meaning changes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::control::{OpCode, OpKind, Route, TaskPlan};
use common::ids::{Creation, Epoch, TaskId};

pub const CUT_VERSION: u8 = 1;

/// A place in one file: the next line's first byte, and its number, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LinePosition {
    pub at: u64,
    pub line: u64,
}

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
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub growing: BTreeMap<u32, LinePosition>,
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
                    source.growing.insert(run.slice, place);
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
}

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
    out.extend_from_slice(&[0; 12]);
    // Writing to a Vec cannot fail, and these types have no map keys or lengths that MessagePack could not say.
    rmp_serde::encode::write_named(out, record).expect("records are representable in MessagePack");
    let len = (out.len() - at - 12) as u32;
    let sum = xxh3_64(&out[at + 12..]);
    out[at..at + 4].copy_from_slice(&len.to_be_bytes());
    out[at + 4..at + 12].copy_from_slice(&sum.to_be_bytes());
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
        let head: [u8; 12] = log
            .get(at..at + 12)
            .and_then(|h| h.try_into().ok())
            .ok_or(damaged("a torn head"))?;
        let (len, sum) = head.split_at(4);
        let len = len.iter().fold(0usize, |acc, &b| acc << 8 | b as usize);
        let sum = sum.iter().fold(0u64, |acc, &b| acc << 8 | b as u64);
        let body = log.get(at + 12..at + 12 + len).ok_or(damaged("a torn body"))?;
        if xxh3_64(body) != sum {
            return Err(damaged("the checksum is wrong"));
        }
        let record = rmp_serde::from_slice(body).map_err(|_| damaged("not a record"))?;
        if let Record::Checkpoint(cut) = &record
            && cut.version != CUT_VERSION
        {
            return Err(Error::Version(cut.version));
        }
        Ok((record, at + 12 + len))
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_task() -> impl Strategy<Value = TaskId> {
        (0u16..4, 0u16..9).prop_map(|(s, i)| TaskId::new(s, i))
    }

    fn any_record() -> impl Strategy<Value = Record> {
        let order = prop_oneof![
            (any_task(), any::<u64>(), any::<u64>()).prop_map(|(from, start, end)| Order::Input {
                from,
                start,
                end
            }),
            (any_task(), any::<u64>()).prop_map(|(from, at)| Order::InputEnd { from, at }),
            any::<(u32, u64, u64, u64, u64, bool)>().prop_map(
                |(slice, from, to, first_line, lines, last)| {
                    Order::Source(SourceRun {
                        creation: None,
                        slice,
                        from,
                        to,
                        first_line,
                        lines,
                        last,
                        growing: last,
                    })
                }
            ),
            Just(Order::Finish),
            (any::<u32>(), prop::collection::vec(any_task(), 0..4))
                .prop_map(|(version, tasks)| Order::Route { version, tasks }),
            (
                any_task(),
                any::<u64>(),
                any::<u32>(),
                prop::collection::vec(any_task(), 0..4)
            )
                .prop_map(|(from, at, version, tasks)| Order::Mark {
                    from,
                    at,
                    version,
                    tasks
                }),
            (any_task(), any::<u64>(), any::<u64>()).prop_map(|(from, start, end)| Order::Adopt {
                from,
                start,
                end
            }),
            (any::<u32>(), prop::collection::vec(any_task(), 0..4))
                .prop_map(|(version, to)| Order::HandOver { version, to }),
        ];
        let cut = (
            any::<u64>(),
            prop::collection::btree_map(any_task(), any::<u64>(), 0..4),
            prop::collection::btree_set(any_task(), 0..4),
            any::<Vec<u64>>(),
            any::<(u32, Option<u64>, u64, bool)>(),
            any::<Vec<(u64, u64)>>(),
        )
            .prop_map(
                |(pos, consumed, ended, emitted, (slice, at, line, done), snapshot)| Cut {
                    version: CUT_VERSION,
                    pos,
                    consumed,
                    ended,
                    emitted,
                    source: SourcePos {
                        slice,
                        at,
                        line,
                        growing: BTreeMap::from([(7, LinePosition { at: pos, line: 1 })]),
                    },
                    done,
                    snapshot,
                    owned: done.then(|| Owned {
                        table: Route {
                            version: slice,
                            tasks: vec![TaskId::new(1, 0)],
                        },
                        next: at.map(|_| Route::default()),
                        marks: BTreeMap::from([(TaskId::new(0, 1), slice)]),
                    }),
                    ..Cut::default()
                },
            );
        prop_oneof![
            (any::<u64>(), order).prop_map(|(pos, order)| Record::Order { pos, order }),
            cut.prop_map(|c| Record::Checkpoint(Box::new(c))),
            any::<(u64, u64)>().prop_map(|(e, pos)| Record::Began { epoch: Epoch(e), pos }),
            any::<(u64, u16, u64, Vec<u8>)>().prop_map(|(pos, output, start, payload)| Record::Production {
                pos,
                output,
                start,
                end: pos,
                tuples: start,
                born_us: pos,
                payload: payload.into(),
            }),
            any::<(u64, Vec<u8>)>().prop_map(|(pos, frame)| Record::Tuples {
                pos,
                frame: frame.into()
            }),
        ]
    }

    proptest! {
        #[test]
        fn records_round_trip(records in prop::collection::vec(any_record(), 0..6)) {
            let mut log = vec![];
            records.iter().for_each(|r| encode(r, &mut log));
            prop_assert_eq!(decode_all(&log).unwrap(), records.clone());
            // What stands before the damage is read, and nothing behind it.
            log.push(0);
            let read: Vec<_> = super::records(&log).collect();
            prop_assert_eq!(read.len(), records.len() + 1);
            let whole = read.iter().flatten().map(|(_, r)| r.clone()).collect::<Vec<_>>();
            prop_assert_eq!(whole, records);
            prop_assert!(read.last().is_some_and(|r| r.is_err()));
        }

        #[test]
        fn a_flipped_bit_is_found(record in any_record(), at: prop::sample::Index, bit in 0u8..8) {
            let mut log = vec![];
            encode(&record, &mut log);
            let at = at.index(log.len());
            log[at] ^= 1 << bit;
            prop_assert!(decode_all(&log).is_err());
        }
    }

    #[test]
    fn another_versions_checkpoint_is_refused() {
        let mut log = vec![];
        encode(
            &Record::Checkpoint(Box::new(Cut {
                version: 9,
                ..Cut::default()
            })),
            &mut log,
        );
        assert_eq!(decode_all(&log), Err(Error::Version(9)));
    }
}
