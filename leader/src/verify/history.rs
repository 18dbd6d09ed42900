//! Made-up jobs: consistent histories of all tasks, from a seed, with restarts. Made without the checker's code: lines
//! have real places in a file, units are counted as they are emitted.

use std::collections::{BTreeMap, BTreeSet};

use common::control::{OpKind, Slice};
use common::ids::{Epoch, NodeName, TaskId};
use common::task_log::{CUT_VERSION, Cut, Order, Record, SourcePos, SourceRun, encode};
use hydfs::client::{ClientId, Span, StreamInfo, Streams};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{Checker, JobFacts, Outcome, TaskFiles, Verdict};
use crate::plan::Plan;
use crate::plan::tests::sample;

/// A record and the process that appended it.
pub type Written = (Epoch, Record);

/// Everything that is stored of a job.
#[derive(Debug, Clone)]
pub struct History {
    pub facts: JobFacts,
    pub logs: BTreeMap<TaskId, Vec<Written>>,
    /// Length of each snapshot file.
    pub snapshots: BTreeMap<TaskId, u64>,
    pub dest: Streams,
}

/// One task's files, as bytes.
#[derive(Debug, Clone)]
pub struct Stored {
    pub log: Vec<u8>,
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
        len: streams.iter().map(|s| s.length).sum(),
        missing: false,
        clients: streams.into_iter().map(|s| (s.client, s)).collect(),
    }
}

impl History {
    pub fn stored(&self, task: TaskId) -> Stored {
        let (mut log, mut spans): (Vec<u8>, Vec<Span>) = Default::default();
        for (epoch, record) in self.logs.get(&task).into_iter().flatten() {
            let start = log.len() as u64;
            encode(record, &mut log);
            let end = log.len() as u64;
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
                log_streams: &stored.streams,
                snapshots: stored.snapshots.as_ref(),
            };
            checker.task(*task, files);
        }
        checker.finish(&self.facts, Some(&self.dest), None)
    }

    pub fn dest_stream(&mut self, task: TaskId) -> &mut StreamInfo {
        let id = ClientId::of(&format!("j/{task}"));
        self.dest.clients.get_mut(&id).expect("the task has a stream")
    }
}

/// A job that has ended.
pub fn ended(seed: u64) -> History {
    let mut rng = StdRng::seed_from_u64(seed);
    let nodes = [NodeName::new("n1").unwrap()];
    let (stages, tasks, sources) = (
        rng.random_range(1..4),
        rng.random_range(1..4),
        rng.random_range(1..4),
    );
    let mut plan = sample(stages, tasks, sources, &nodes);
    let files = Files::make(&mut rng, sources);
    plan.sources = files.slices.clone();
    for stage in plan.stages.iter_mut().skip(1) {
        if let Some(op) = &mut stage.op {
            op.kind = [OpKind::Transform, OpKind::Filter, OpKind::Aggregate][rng.random_range(0..3)];
            op.deterministic = rng.random_bool(0.8);
        }
    }
    let mut job = Maker {
        rng,
        plan,
        files,
        logs: BTreeMap::new(),
        sent: BTreeMap::new(),
        snapshots: BTreeMap::new(),
        launched: BTreeMap::new(),
        dest: vec![],
    };
    for task in job.plan.tasks().collect::<Vec<_>>() {
        job.task(task);
    }
    let facts = JobFacts {
        done: job.plan.tasks().collect(),
        outcome: Outcome::Ended,
        launched: job.launched,
        plan: job.plan,
    };
    History {
        facts,
        logs: job.logs,
        snapshots: job.snapshots,
        dest: file(job.dest),
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
                .zip(&cut.emitted)
                .all(|(to, n)| *n <= covered.get(&(*to, task)).copied().unwrap_or(0)),
            _ => true,
        };
        let keep = log.iter().take(most).take_while(|(_, r)| acknowledged(r)).count();
        log.truncate(keep);
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
            let acked = newest.emitted.first().copied().unwrap_or(0);
            let stream = job.dest_stream(task);
            let end = rng.random_range(acked..=stream.length);
            stream.spans.retain(|s| s.start < end);
            if let Some(last) = stream.spans.last_mut() {
                last.end = end;
            }
            stream.length = end;
        }
    }
    // Some of it may be under way still.
    job.dest.len = job.dest.total() - rng.random_range(0..=job.dest.total().min(5));
    job
}

/// The input: files of lines, cut into slices anywhere.
struct Files {
    /// Per file: where each line starts, and the length.
    lines: BTreeMap<String, (Vec<u64>, u64)>,
    slices: Vec<Vec<Slice>>,
}

impl Files {
    fn make(rng: &mut StdRng, sources: u16) -> Self {
        let mut lines = BTreeMap::new();
        let mut all = vec![];
        for f in 0..rng.random_range(1..4) {
            let (name, mut starts, mut at) = (format!("in/f{f}"), vec![], 0u64);
            for _ in 0..rng.random_range(1..60) {
                starts.push(at);
                at += rng.random_range(1..20);
            }
            let mut from = 0;
            while from < at {
                let to = rng.random_range(from + 1..=at).min(at);
                // Newlines are the bytes right before where lines start.
                let newlines = starts.iter().filter(|s| **s > 0 && **s - 1 < from).count();
                all.push(Slice {
                    file: name.clone(),
                    start: from,
                    end: to,
                    newlines_before: newlines as u64,
                });
                from = to;
            }
            lines.insert(name, (starts, at));
        }
        let mut slices = vec![vec![]; usize::from(sources)];
        let share = all.len().div_ceil(usize::from(sources));
        for (i, slice) in all.into_iter().enumerate() {
            slices[i / share].push(slice);
        }
        Self { lines, slices }
    }
}

struct Maker {
    rng: StdRng,
    plan: Plan,
    files: Files,
    logs: BTreeMap<TaskId, Vec<Written>>,
    /// Units emitted by (sender, receiver), the end mark included.
    sent: BTreeMap<(TaskId, TaskId), u64>,
    snapshots: BTreeMap<TaskId, u64>,
    launched: BTreeMap<TaskId, Epoch>,
    dest: Vec<StreamInfo>,
}

impl Maker {
    fn task(&mut self, task: TaskId) {
        let orders = match task.stage {
            0 => self.source_orders(task.index),
            _ => self.orders(task),
        };
        let outputs = self.plan.downstream(task);
        let op = self.plan.stages[usize::from(task.stage)].op.clone();
        let kind = op.as_ref().map(|op| op.kind);
        let produces = op.as_ref().is_some_and(|op| !op.deterministic);
        let mut now = Cut {
            version: CUT_VERSION,
            emitted: vec![0; outputs.len().max(1)],
            ..Cut::default()
        };
        let mut log: Vec<Written> = vec![];
        let (mut epoch, mut checkpoint, mut cuts) = (Epoch(0), 0, vec![]);
        let (mut snapshot, mut dest) = (0u64, Vec::<Span>::new());
        for order in orders {
            while epoch == Epoch(0) || self.rng.random_bool(0.04) {
                // Some were started and never came to write anything.
                epoch.0 += 1 + u64::from(self.rng.random_bool(0.1));
                log.push((epoch, Record::Began { epoch, pos: now.pos }));
            }
            let before = now.emitted.clone();
            self.apply(&order, kind, &mut now, &outputs);
            let pos = now.pos;
            log.push((
                epoch,
                Record::Order {
                    pos,
                    order: order.clone(),
                },
            ));
            if kind == Some(OpKind::Aggregate)
                && matches!(order, Order::Input { .. })
                && self.rng.random_bool(0.3)
            {
                let frame = b"frame".to_vec().into();
                log.push((epoch, Record::Tuples { pos, frame }));
            }
            for (output, (start, end)) in before.iter().zip(&now.emitted).enumerate() {
                if produces && start < end && !now.done {
                    let production = Record::Production {
                        pos,
                        output: output as u16,
                        start: *start,
                        end: *end,
                        tuples: 1,
                        born_us: 0,
                        payload: vec![0; 3].into(),
                    };
                    log.push((epoch, production));
                }
            }
            if outputs.is_empty() {
                let (start, end) = (before[0], now.emitted[0]);
                match dest.last_mut().filter(|s| s.epoch == epoch) {
                    Some(last) => last.end = end,
                    None if end > start => dest.push(Span { epoch, start, end }),
                    None => {}
                }
            }
            if kind == Some(OpKind::Aggregate) {
                if self.rng.random_bool(0.2) {
                    now.snapshot.clear();
                }
                let len = self.rng.random_range(1..100);
                now.snapshot.push((snapshot, len));
                snapshot += len;
            }
            cuts.push(now.clone());
            // Any cut that no checkpoint has passed may become one, however late.
            let some = self.rng.random_range(0..cuts.len());
            if self.rng.random_bool(0.3) && cuts[some].pos > checkpoint {
                checkpoint = cuts[some].pos;
                log.push((epoch, Record::Checkpoint(Box::new(cuts[some].clone()))));
            }
        }
        if checkpoint < now.pos {
            log.push((epoch, Record::Checkpoint(Box::new(now.clone()))));
        }
        for (to, emitted) in outputs.iter().zip(&now.emitted) {
            self.sent.insert((task, *to), *emitted);
        }
        if outputs.is_empty() {
            self.dest.push(stream(&format!("j/{task}"), dest));
        }
        if snapshot > 0 {
            self.snapshots.insert(task, snapshot);
        }
        let after = u64::from(self.rng.random_bool(0.2));
        self.launched.insert(task, Epoch(epoch.0 + after));
        self.logs.insert(task, log);
    }

    fn source_orders(&mut self, index: u16) -> Vec<Order> {
        let mut orders = vec![];
        for (i, slice) in self.files.slices[usize::from(index)].iter().enumerate() {
            let (starts, len) = &self.files.lines[&slice.file];
            let mine: Vec<usize> = (0..starts.len())
                .filter(|n| (slice.start..slice.end).contains(&starts[*n]))
                .collect();
            let ends = |line: usize| starts.get(line + 1).copied().unwrap_or(*len);
            if mine.is_empty() {
                // One line reaches over all of it; what comes next is behind it.
                let next = starts.partition_point(|s| *s < slice.end);
                let at = starts.get(next).copied().unwrap_or(*len);
                orders.push(Order::Source(SourceRun {
                    slice: i as u32,
                    from: at,
                    to: at,
                    first_line: next as u64 + 1,
                    lines: 0,
                    last: true,
                }));
            }
            let mut rest = &mine[..];
            while !rest.is_empty() {
                let (some, more) = rest.split_at(self.rng.random_range(1..=rest.len()));
                orders.push(Order::Source(SourceRun {
                    slice: i as u32,
                    from: starts[some[0]],
                    to: ends(some[some.len() - 1]),
                    first_line: some[0] as u64 + 1,
                    lines: some.len() as u64,
                    last: more.is_empty(),
                }));
                rest = more;
            }
        }
        orders.push(Order::Finish);
        orders
    }

    /// Batches of all upstream tasks, mixed.
    fn orders(&mut self, task: TaskId) -> Vec<Order> {
        let upstream = self.plan.upstream(task);
        let mut left: BTreeSet<TaskId> = upstream.iter().copied().collect();
        let mut at: BTreeMap<TaskId, u64> = BTreeMap::new();
        let mut orders = vec![];
        while !left.is_empty() {
            let turn = self.rng.random_range(0..left.len());
            let from = *left.iter().nth(turn).unwrap();
            let tuples = self.sent[&(from, task)] - 1;
            let start = at.get(&from).copied().unwrap_or(0);
            if start == tuples {
                orders.push(Order::InputEnd { from, at: start });
                left.remove(&from);
            } else {
                let end = self.rng.random_range(start + 1..=tuples);
                orders.push(Order::Input { from, start, end });
                at.insert(from, end);
            }
        }
        orders.push(Order::Finish);
        orders
    }

    fn apply(&mut self, order: &Order, kind: Option<OpKind>, now: &mut Cut, outputs: &[TaskId]) {
        now.pos += 1;
        match order {
            Order::Source(run) => {
                now.tuples_in += run.lines;
                now.bytes_in += run.to - run.from;
                now.tuples_out += run.lines;
                for n in run.first_line..run.first_line + run.lines {
                    now.emitted[(n % outputs.len() as u64) as usize] += 1;
                }
                let next = run.first_line + run.lines;
                now.source = SourcePos {
                    slice: run.slice + u32::from(run.last),
                    at: (!run.last).then_some(run.to),
                    line: if run.last { 0 } else { next },
                    ..SourcePos::default()
                };
            }
            Order::Input { from, start, end } => {
                let tuples = end - start;
                now.tuples_in += tuples;
                now.bytes_in += tuples * 7;
                now.consumed.insert(*from, *end);
                let out = match kind {
                    Some(OpKind::Filter) => self.rng.random_range(0..=tuples),
                    _ => self.rng.random_range(0..=2 * tuples),
                };
                now.tuples_out += out;
                for _ in 0..out {
                    match outputs.len() {
                        0 => now.emitted[0] += self.rng.random_range(1..9),
                        n => now.emitted[self.rng.random_range(0..n)] += 1,
                    }
                }
            }
            Order::InputEnd { from, at } => {
                now.consumed.insert(*from, at + 1);
                now.ended.insert(*from);
            }
            Order::Finish => {
                now.done = true;
                if !outputs.is_empty() {
                    now.emitted.iter_mut().for_each(|e| *e += 1);
                }
            }
        }
    }
}
