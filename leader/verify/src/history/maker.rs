//! How a job that has ended is made up: input first, then task by task what it consumes and puts out.

use std::collections::{BTreeMap, BTreeSet};

use common::ids::{Creation, Epoch, NodeName, TaskId};
use hydfs::client::{Span, StreamInfo};
use protocol::control::{OpCode, OpKind, OpSpec, Protocol, Slice};
use protocol::task_log::{
    Base, CUT_VERSION, Cut, LinePosition, Order, Places, Record, SourcePos, SourceRun, encode,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{History, Written, cut_off, file, stream};
use crate::{JobFacts, Outcome};
use job::plan::Plan;
use job::plan::sample::sample;

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
    for op in plan.stages.iter_mut().filter_map(|s| s.op.as_mut()) {
        operator(&mut rng, op);
    }
    plan.follow = rng.random_bool(0.2);
    plan.poison = rng.random_bool(0.3).then(|| "out.poison".into());
    let mut job = Maker {
        rng,
        plan,
        files,
        logs: BTreeMap::new(),
        sent: BTreeMap::new(),
        snapshots: BTreeMap::new(),
        launched: BTreeMap::new(),
        dest: vec![],
        aside: vec![],
    };
    for task in job.plan.tasks().collect::<Vec<_>>() {
        job.task(task);
    }
    let poison = job.plan.poison.as_ref().map(|_| file(job.aside));
    let facts = JobFacts {
        done: job.plan.tasks().collect(),
        outcome: Outcome::Ended,
        launched: job.launched,
        plan: job.plan,
    };
    History {
        facts,
        logs: job.logs,
        begins: BTreeMap::new(),
        snapshots: job.snapshots,
        dest: file(job.dest),
        poison,
    }
}

/// One of each sort that a log keeps something else for.
fn operator(rng: &mut StdRng, op: &mut OpSpec) {
    (op.kind, op.deterministic) = [
        (OpKind::Transform, true),
        (OpKind::Filter, true),
        (OpKind::Aggregate, true),
        (OpKind::Transform, false),
        (OpKind::Aggregate, false),
    ][rng.random_range(0..5)];
    if op.kind == OpKind::Aggregate && op.deterministic && rng.random_bool(0.5) {
        op.code = OpCode::Foreign {
            hydfs_name: "ops/x".into(),
            hash: "x".into(),
            protocol: Protocol::Text,
            keys: true,
            snapshot: false,
        };
    }
}

fn append(spans: &mut Vec<Span>, epoch: Epoch, start: u64, end: u64) {
    match spans.last_mut().filter(|s| s.epoch == epoch) {
        Some(last) => last.end = end,
        None if end > start => spans.push(Span { epoch, start, end }),
        None => {}
    }
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
                    creation: Some(Creation(7)),
                    label: None,
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
    aside: Vec<StreamInfo>,
}

/// What an operator asks of its log.
#[derive(Clone, Copy)]
struct Sort {
    kind: Option<OpKind>,
    inputs: bool,
    productions: bool,
    snapshots: bool,
}

impl Sort {
    fn of(op: Option<&OpSpec>) -> Self {
        let aggregate = op.is_some_and(|op| op.kind == OpKind::Aggregate);
        let foreign = op.is_some_and(|op| op.code != OpCode::Builtin);
        Self {
            kind: op.map(|op| op.kind),
            inputs: aggregate && foreign,
            productions: op.is_some_and(|op| !op.deterministic),
            snapshots: aggregate && !foreign,
        }
    }
}

/// The record of a checkpoint: of files that grow it says what has changed since the last one.
fn tell(cut: &Cut, told: &mut Places) -> Record {
    let mut said = Box::new(cut.clone());
    let moved = cut
        .source
        .growing
        .iter()
        .filter(|(slice, place)| told.get(slice) != Some(place));
    said.source.growing = moved.map(|(slice, place)| (*slice, *place)).collect();
    told.clone_from(&cut.source.growing);
    Record::Checkpoint(said)
}

/// The record of a base, behind these.
fn found(mut base: Base, log: &[Written]) -> Record {
    let (mut at, mut digest) = (0, 0);
    for (_, record) in log {
        let mut bytes = vec![];
        encode(record, &mut bytes);
        at += bytes.len() as u64;
        // A record's checksum stands behind its length.
        digest = xxh3_64_with_seed(&bytes[4..12], digest);
    }
    (base.at, base.digest) = (at, digest);
    Record::Base(Box::new(base))
}

impl Maker {
    fn task(&mut self, task: TaskId) {
        let orders = match task.stage {
            0 => self.source_orders(task.index),
            _ => self.orders(task),
        };
        let outputs = self.plan.downstream(task);
        let sort = Sort::of(self.plan.stages[usize::from(task.stage)].op.as_ref());
        let channels = outputs.len().max(1);
        let aside = self.plan.poison.is_some() && sort.kind.is_some();
        let mut now = Cut {
            version: CUT_VERSION,
            emitted: vec![0; channels + usize::from(aside)],
            ..Cut::default()
        };
        let mut log: Vec<Written> = vec![];
        let (mut epoch, mut checkpoint, mut cuts) = (Epoch(0), now.clone(), vec![]);
        let (mut told, mut processes, mut checkpoints) = (Places::default(), 0, 0);
        let (mut snapshot, mut dest, mut away) = (0u64, Vec::<Span>::new(), Vec::<Span>::new());
        while (now.pos as usize) < orders.len() {
            while epoch == Epoch(0) || self.rng.random_bool(0.04) {
                // Some were started and never came to write anything.
                epoch.0 += 1 + u64::from(self.rng.random_bool(0.1));
                if sort.productions && sort.snapshots {
                    // Nothing of what the last checkpoint does not cover had left.
                    now = checkpoint.clone();
                    now.acked.clear();
                    cuts.clear();
                    if outputs.is_empty() {
                        cut_off(&mut dest, now.emitted[0]);
                    }
                    if aside {
                        cut_off(&mut away, now.emitted[channels]);
                    }
                }
                log.push((epoch, Record::Began { epoch, pos: now.pos }));
                processes += 1;
            }
            let order = orders[now.pos as usize].clone();
            let before = now.emitted.clone();
            self.apply(&order, sort.kind, &mut now, &outputs, aside);
            let pos = now.pos;
            if sort.inputs && matches!(order, Order::Input { .. }) {
                let frame = b"frame".to_vec().into();
                log.push((epoch, Record::Tuples { pos, frame }));
            }
            for (output, (start, end)) in before.iter().zip(&now.emitted).enumerate() {
                let middle = self.rng.random_range(*start..=*end);
                let chunks = [(*start, middle), (middle, *end)];
                for (start, end) in chunks.into_iter().filter(|(s, e)| sort.productions && s < e) {
                    let production = Record::Production {
                        pos,
                        output: output as u16,
                        start,
                        end,
                        tuples: 1,
                        born_us: 0,
                        payload: vec![0; 3].into(),
                    };
                    log.push((epoch, production));
                }
            }
            log.push((epoch, Record::Order { pos, order }));
            if outputs.is_empty() {
                append(&mut dest, epoch, before[0], now.emitted[0]);
            }
            if aside {
                append(&mut away, epoch, before[channels], now.emitted[channels]);
            }
            if sort.snapshots {
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
            let last = pos as usize == orders.len();
            if (last || self.rng.random_bool(0.3)) && cuts[some].pos > checkpoint.pos {
                checkpoint = self.checkpoint(&cuts[some], &checkpoint, sort);
                log.push((epoch, tell(&checkpoint, &mut told)));
                checkpoints += 1;
            }
            if !sort.inputs && !now.done && self.rng.random_bool(0.1) {
                let mut cut = now.clone();
                cut.acked.clear();
                let base = Base {
                    cut,
                    receivers: outputs.clone(),
                    active: outputs.clone(),
                    epoch,
                    processes,
                    checkpoints,
                    ..Base::default()
                };
                log.push((epoch, found(base, &log)));
            }
        }
        if checkpoint.pos < now.pos {
            let last = self.checkpoint(&now, &checkpoint, sort);
            log.push((epoch, tell(&last, &mut told)));
        }
        for (to, emitted) in outputs.iter().zip(&now.emitted) {
            self.sent.insert((task, *to), *emitted);
        }
        let name = format!("j/{task}");
        if outputs.is_empty() {
            self.dest.push(stream(&name, dest));
        }
        if aside {
            self.aside.push(stream(&name, away));
        }
        if snapshot > 0 {
            self.snapshots.insert(task, snapshot);
        }
        let after = u64::from(self.rng.random_bool(0.2));
        self.launched.insert(task, Epoch(epoch.0 + after));
        self.logs.insert(task, log);
    }

    /// Where the log can give everything again, not all need be acknowledged; what was by the last one still is.
    fn checkpoint(&mut self, cut: &Cut, last: &Cut, sort: Sort) -> Cut {
        let mut cut = cut.clone();
        if sort.inputs || sort.productions {
            let before = last.acked.iter().copied().chain(std::iter::repeat(0));
            let acked = cut.emitted.iter().zip(before);
            cut.acked = acked
                .map(|(e, before)| self.rng.random_range(before..=*e))
                .collect();
        }
        cut
    }

    fn source_orders(&mut self, index: u16) -> Vec<Order> {
        let mut orders = vec![];
        for (i, slice) in self.files.slices[usize::from(index)].iter().enumerate() {
            let (starts, len) = &self.files.lines[&slice.file];
            let mine: Vec<usize> = (0..starts.len())
                .filter(|n| (slice.start..slice.end).contains(&starts[*n]))
                .collect();
            let ends = |line: usize| starts.get(line + 1).copied().unwrap_or(*len);
            if mine.is_empty() && !self.plan.follow {
                // One line reaches over all of it; what comes next is behind it.
                let next = starts.partition_point(|s| *s < slice.end);
                let at = starts.get(next).copied().unwrap_or(*len);
                orders.push(Order::Source(SourceRun {
                    creation: Some(Creation(7)),
                    slice: i as u32,
                    from: at,
                    to: at,
                    first_line: next as u64 + 1,
                    lines: 0,
                    last: true,
                    growing: false,
                }));
            }
            let mut rest = &mine[..];
            while !rest.is_empty() {
                let (some, more) = rest.split_at(self.rng.random_range(1..=rest.len()));
                orders.push(Order::Source(SourceRun {
                    creation: Some(Creation(7)),
                    slice: i as u32,
                    from: starts[some[0]],
                    to: ends(some[some.len() - 1]),
                    first_line: some[0] as u64 + 1,
                    lines: some.len() as u64,
                    last: more.is_empty() && !self.plan.follow,
                    growing: self.plan.follow,
                }));
                rest = more;
            }
        }
        if self.plan.follow {
            // Now of this file, now of that one; each file's in their order.
            let slice = |o: &Order| match o {
                Order::Source(run) => run.slice,
                _ => 0,
            };
            for i in 1..orders.len() {
                if slice(&orders[i - 1]) != slice(&orders[i]) && self.rng.random_bool(0.5) {
                    orders.swap(i - 1, i);
                }
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

    fn apply(&mut self, order: &Order, kind: Option<OpKind>, now: &mut Cut, outputs: &[TaskId], aside: bool) {
        now.pos += 1;
        match order {
            // These jobs keep the tasks that they began with.
            Order::Route { version, .. } => now.route = *version,
            // Nor does their state move.
            Order::Mark { .. } | Order::Adopt { .. } | Order::HandOver { .. } => {}
            Order::Source(run) => {
                now.tuples_in += run.lines;
                now.bytes_in += run.to - run.from;
                now.tuples_out += run.lines;
                for n in run.first_line..run.first_line + run.lines {
                    now.emitted[(n % outputs.len() as u64) as usize] += 1;
                }
                let next = run.first_line + run.lines;
                if run.growing {
                    let place = LinePosition {
                        at: run.to,
                        line: next,
                    };
                    now.source.growing.insert_mut(run.slice, place);
                    return;
                }
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
                if aside && self.rng.random_bool(0.1) {
                    let last = now.emitted.len() - 1;
                    now.emitted[last] += self.rng.random_range(1..9);
                }
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
                // Files have no end mark.
                let ends = now.emitted.iter_mut().take(outputs.len());
                ends.for_each(|e| *e += 1);
            }
        }
    }
}
