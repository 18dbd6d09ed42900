//! Made-up jobs: consistent histories of all tasks, from a seed, with restarts. Made without the checker's code: lines
//! have real places in a file, units are counted as they are emitted.

mod maker;

use std::collections::BTreeMap;

use common::ids::{Epoch, TaskId};
use hydfs::client::{ClientId, Span, StreamInfo, Streams};
use protocol::task_log::{Base, Record, encode};
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{RngExt, SeedableRng};

use super::{Checker, JobFacts, Outcome, TaskFiles, Verdict};

pub use maker::ended;

/// A record and the process that appended it.
pub type Written = (Epoch, Record);

/// Everything that is stored of a job.
#[derive(Debug, Clone)]
pub struct History {
    pub facts: JobFacts,
    pub logs: BTreeMap<TaskId, Vec<Written>>,
    /// Where the logs begin that were trimmed.
    pub begins: BTreeMap<TaskId, u64>,
    /// Length of each snapshot file.
    pub snapshots: BTreeMap<TaskId, u64>,
    pub dest: Streams,
    /// The file of tuples set aside, of a job that has one.
    pub poison: Option<Streams>,
}

/// One task's files, as bytes.
#[derive(Debug, Clone)]
pub struct Stored {
    pub log: Vec<u8>,
    pub begin: u64,
    pub streams: Streams,
    pub snapshots: Option<Streams>,
}

pub fn stream(name: &str, spans: Vec<Span>) -> StreamInfo {
    StreamInfo {
        client: ClientId::of(name),
        epoch: spans.last().map_or(Epoch(1), |s| s.epoch),
        length: spans.last().map_or(0, |s| s.end),
        spans,
    }
}

pub fn file(streams: Vec<StreamInfo>) -> Streams {
    Streams {
        base: 0,
        len: streams.iter().map(|s| s.length).sum(),
        missing: false,
        clients: streams.into_iter().map(|s| (s.client, s)).collect(),
    }
}

impl History {
    pub fn stored(&self, task: TaskId) -> Stored {
        let (mut log, mut spans): (Vec<u8>, Vec<Span>) = Default::default();
        let begin = self.begins.get(&task).copied().unwrap_or(0);
        for (epoch, record) in self.logs.get(&task).into_iter().flatten() {
            let start = begin + log.len() as u64;
            encode(record, &mut log);
            let end = begin + log.len() as u64;
            match spans.last_mut().filter(|s| s.epoch == *epoch) {
                Some(last) => last.end = end,
                None => spans.push(Span {
                    epoch: *epoch,
                    start,
                    end,
                }),
            }
        }
        let name = task.to_string();
        let snapshots = self.snapshots.get(&task).map(|len| {
            let span = Span {
                epoch: Epoch(1),
                start: 0,
                end: *len,
            };
            file(vec![stream(&name, vec![span])])
        });
        Stored {
            log,
            begin,
            streams: file(vec![stream(&name, spans)]),
            snapshots,
        }
    }

    pub fn check(&self) -> Verdict {
        self.check_with(|_, _| {})
    }

    /// After `tamper` had its way with the stored bytes.
    pub fn check_with(&self, mut tamper: impl FnMut(TaskId, &mut Stored)) -> Verdict {
        let mut checker = Checker::new(self.facts.clone());
        for task in self.logs.keys() {
            let mut stored = self.stored(*task);
            tamper(*task, &mut stored);
            let files = TaskFiles {
                log: &stored.log,
                log_begin: stored.begin,
                log_streams: &stored.streams,
                snapshots: stored.snapshots.as_ref(),
            };
            checker.task(*task, files);
        }
        checker.finish(&self.facts, Some(&self.dest), self.poison.as_ref())
    }

    pub fn dest_stream(&mut self, task: TaskId) -> &mut StreamInfo {
        let id = ClientId::of(&format!("j/{task}"));
        self.dest.clients.get_mut(&id).expect("the task has a stream")
    }

    /// Did a process of the task declare void what another had done?
    pub fn has_voids(&self, task: TaskId) -> bool {
        let orders = self.logs[&task].iter().filter_map(|(_, r)| match r {
            Record::Order { pos, .. } => Some(*pos),
            _ => None,
        });
        !orders.is_sorted()
    }
}

/// The same job, cut off in its middle: each log ends somewhere, where what it counts as acknowledged is covered.
pub fn running(seed: u64) -> History {
    let mut job = ended(seed);
    let mut rng = StdRng::seed_from_u64(!seed);
    job.facts.outcome = Outcome::Open;
    let tasks: Vec<TaskId> = job.logs.keys().rev().copied().collect();
    let mut covered: BTreeMap<(TaskId, TaskId), u64> = BTreeMap::new();
    for task in tasks {
        let outputs = job.facts.plan.downstream(task);
        let log = job.logs.get_mut(&task).unwrap();
        let most = rng.random_range(0..=log.len());
        let acknowledged = |record: &Record| match record {
            Record::Checkpoint(cut) => outputs
                .iter()
                .zip(if cut.acked.is_empty() {
                    &cut.emitted
                } else {
                    &cut.acked
                })
                .all(|(to, n)| *n <= covered.get(&(*to, task)).copied().unwrap_or(0)),
            _ => true,
        };
        let keep = log.iter().take(most).take_while(|(_, r)| acknowledged(r)).count();
        log.truncate(keep);
        // What an order record put out, or consumed, comes in one append with it.
        while matches!(
            log.last(),
            Some((_, Record::Production { .. } | Record::Tuples { .. }))
        ) {
            log.pop();
        }
        let newest = log.iter().rev().find_map(|(_, r)| match r {
            Record::Checkpoint(cut) => Some(cut.as_ref().clone()),
            _ => None,
        });
        let newest = newest.unwrap_or_default();
        for (from, n) in &newest.consumed {
            covered.insert((task, *from), *n);
        }
        if !newest.done {
            job.facts.done.remove(&task);
        }
        if outputs.is_empty() {
            let acked = match newest.acked.is_empty() {
                true => newest.emitted.first().copied().unwrap_or(0),
                false => newest.acked[0],
            };
            let stream = job.dest_stream(task);
            let end = rng.random_range(acked..=stream.length);
            cut_off(&mut stream.spans, end);
            stream.length = end;
        }
    }
    // Some of it may be under way still.
    job.dest.len = job.dest.total() - rng.random_range(0..=job.dest.total().min(5));
    job
}

/// Drops what stands before a base that may be the log's beginning. `false`: there is none.
pub fn trim(job: &mut History, task: TaskId, rng: &mut StdRng) -> bool {
    let Some(log) = job.logs.get_mut(&task) else {
        return false;
    };
    let covered = |i: usize, base: &Base| {
        log[i..].iter().any(|(_, record)| match record {
            Record::Checkpoint(cut) => {
                let mut arrived = cut.acked.iter().zip(&base.cut.emitted);
                cut.pos >= base.cut.pos && arrived.all(|(acked, emitted)| acked >= emitted)
            }
            _ => false,
        })
    };
    // A process that declared void what a base speaks of did not trim up to it.
    let void = |i: usize, base: &Base| {
        let mut later = log[i..].iter();
        later.any(|(_, record)| matches!(record, Record::Began { pos, .. } if *pos < base.cut.pos))
    };
    let bases = log
        .iter()
        .enumerate()
        .filter_map(|(i, (_, record))| match record {
            Record::Base(base) if covered(i, base) && !void(i, base) => Some((i, base.at)),
            _ => None,
        });
    let Some((first, at)) = bases.choose(rng) else {
        return false;
    };
    log.drain(..first);
    job.begins.insert(task, at);
    true
}

/// The same job, some of whose logs were trimmed.
pub fn trimmed(mut job: History, seed: u64) -> History {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x7717);
    for task in job.logs.keys().copied().collect::<Vec<_>>() {
        if rng.random_bool(0.7) {
            trim(&mut job, task, &mut rng);
        }
    }
    job
}

pub fn cut_off(spans: &mut Vec<Span>, end: u64) {
    spans.retain(|s| s.start < end);
    if let Some(last) = spans.last_mut() {
        last.end = last.end.min(end);
    }
}
