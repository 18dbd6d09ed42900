//! One task's log: against itself, against HyDFS's record of who wrote it, against the snapshot file.

use std::collections::{BTreeSet, VecDeque};

use common::control::{OpKind, TaskPlan};
use common::ids::{Epoch, TaskId};
use common::task_log::{self, Cut, Order, Record};
use hydfs::client::{ClientId, Span};

use super::state::State;
use super::{Finding, Findings, TaskFiles, spans_wrong};

/// What is left of a log for the checks across tasks.
#[derive(Debug, Clone, Default)]
pub struct TaskLog {
    pub orders: u64,
    pub checkpoints: u64,
    pub epochs: Vec<Epoch>,
    /// The newest order record's position.
    pub pos: u64,
    /// After all order records.
    pub state: State,
    pub checkpoint: Option<Cut>,
    /// The log could not be read to its end: what it says last is not known.
    pub damaged: bool,
}

impl TaskLog {
    /// Units of an output that the newest checkpoint knows to be acknowledged.
    pub fn acked(&self, output: usize) -> u64 {
        self.checkpoint
            .as_ref()
            .and_then(|c| c.emitted.get(output))
            .copied()
            .unwrap_or(0)
    }

    /// Units of an upstream task's channel that the newest checkpoint covers.
    pub fn covered(&self, from: TaskId) -> u64 {
        self.checkpoint
            .as_ref()
            .and_then(|c| c.consumed.get(&from))
            .copied()
            .unwrap_or(0)
    }
}

struct Check<'a> {
    plan: &'a TaskPlan,
    log: TaskLog,
    findings: Findings,
    /// Where the record at hand begins.
    byte: u64,
    /// Order records that no checkpoint has passed, and the state before them.
    behind: VecDeque<(u64, Order)>,
    at_checkpoint: State,
    snapshot_len: u64,
    /// Per output: where the next production begins.
    produced: Vec<u64>,
    productions: u64,
    produced_pos: u64,
    /// Positions whose order record is a batch of tuples; only while positions are dense.
    batches: Vec<bool>,
    /// Positions whose consumed tuples are kept.
    kept: BTreeSet<u64>,
}

/// Checks one task's log. `ended`: nothing more will come.
pub fn check(plan: &TaskPlan, ended: bool, files: TaskFiles<'_>) -> (TaskLog, Vec<Finding>) {
    let name = plan.task.to_string();
    let mut check = Check {
        plan,
        log: TaskLog {
            state: State::new(plan),
            ..TaskLog::default()
        },
        findings: Findings::default(),
        byte: 0,
        behind: VecDeque::new(),
        at_checkpoint: State::new(plan),
        snapshot_len: files.snapshots.and_then(|s| s.of(&name)).map_or(0, |s| s.length),
        produced: vec![],
        productions: 0,
        produced_pos: 0,
        batches: vec![],
        kept: BTreeSet::new(),
    };
    let spans = check.owners(ended, &name, &files);
    let mut records = task_log::records(files.log);
    while let Some(next) = records.next() {
        match next {
            Ok((at, record)) => {
                check.byte = at as u64;
                check.record(record);
                if let Some(spans) = &spans {
                    check.owned(spans, at as u64..records.at() as u64);
                }
            }
            Err(error) => {
                check.byte = records.at() as u64;
                check.log.damaged = true;
                check.wrong(None, format!("{error}; what stands behind it was not checked"));
            }
        }
    }
    check.end();
    (check.log, check.findings.into_list(Some(plan.task)))
}

impl Check<'_> {
    fn wrong(&mut self, pos: Option<u64>, what: String) {
        self.findings.add(Finding {
            task: Some(self.plan.task),
            byte: Some(self.byte),
            pos,
            what,
        });
    }

    fn wrong_file(&mut self, what: String) {
        self.findings.add(Finding {
            task: Some(self.plan.task),
            byte: None,
            pos: None,
            what,
        });
    }

    // --- who wrote it ---------------------------------------------------------------------------------------------

    /// Is the log one stream, of this task? Its spans, if they can be relied on.
    fn owners(&mut self, ended: bool, name: &str, files: &TaskFiles<'_>) -> Option<Vec<Span>> {
        let (streams, len) = (files.log_streams, files.log.len() as u64);
        let others = streams
            .clients
            .values()
            .filter(|s| s.client != ClientId::of(name));
        let others: u64 = others.map(|s| s.length).sum();
        if others > 0 {
            self.wrong_file(format!("{others} bytes of its log were written by somebody else"));
        }
        let Some(mine) = streams.of(name) else {
            if len > 0 {
                self.wrong_file("it never wrote to its log, and there is one".into());
            }
            return None;
        };
        if let Some(what) = spans_wrong(mine, streams.missing) {
            self.wrong_file(format!("its log: {what}"));
        }
        if mine.length < len || (ended && mine.length != len) {
            self.wrong_file(format!(
                "its log has {len} bytes, HyDFS's record of it comes to {}",
                mine.length
            ));
        }
        let reliable = others == 0 && !streams.missing;
        reliable.then(|| mine.spans.clone())
    }

    /// The record's bytes were appended by the process that the log says was at work.
    fn owned(&mut self, spans: &[Span], bytes: std::ops::Range<u64>) {
        let epoch = self.log.epochs.last().copied().unwrap_or_default();
        let first = spans.partition_point(|s| s.end <= bytes.start);
        let by: Vec<Epoch> = spans[first..]
            .iter()
            .take_while(|s| s.start < bytes.end)
            .map(|s| s.epoch)
            .collect();
        if by.iter().any(|e| *e != epoch) && epoch != Epoch::default() {
            let by = by.iter().map(Epoch::to_string).collect::<Vec<_>>().join(" and ");
            self.wrong(
                None,
                format!("the record was appended by epoch {by}, by the log epoch {epoch} was at work"),
            );
        }
    }

    // --- records --------------------------------------------------------------------------------------------------

    fn record(&mut self, record: Record) {
        if self.log.epochs.is_empty() && !matches!(record, Record::Began { .. }) {
            self.wrong(None, "no process had begun: who wrote this is not known".into());
            // Said once.
            self.log.epochs.push(Epoch::default());
        }
        match record {
            Record::Began { epoch, pos } => self.began(epoch, pos),
            Record::Order { pos, order } => self.order(pos, order),
            Record::Checkpoint(cut) => self.checkpoint(*cut),
            Record::Production {
                pos,
                output,
                start,
                end,
                ..
            } => self.production(pos, output, start, end),
            Record::Tuples { pos, .. } => {
                if !self.kept.insert(pos) {
                    self.wrong(Some(pos), "the consumed tuples are kept twice".into());
                }
            }
        }
    }

    fn began(&mut self, epoch: Epoch, pos: u64) {
        if let Some(last) = self.log.epochs.last()
            && epoch <= *last
        {
            self.wrong(Some(pos), format!("epoch {epoch} began after epoch {last}"));
        } else if epoch == Epoch::default() {
            self.wrong(Some(pos), "epoch 0 began; epochs count from 1".into());
        }
        if pos != self.log.pos {
            let what = format!(
                "epoch {epoch} began after position {pos}; the log was at {}",
                self.log.pos
            );
            self.wrong(Some(pos), what);
        }
        self.log.epochs.push(epoch);
    }

    fn order(&mut self, pos: u64, order: Order) {
        self.log.orders += 1;
        let next = self.log.pos.saturating_add(1);
        if pos < next {
            self.wrong(
                Some(pos),
                format!("position {pos} is there twice; {next} was next"),
            );
            return;
        }
        if pos > next {
            self.wrong(Some(pos), format!("positions {next}..{pos} are missing"));
        }
        self.log.pos = pos;
        for what in self.log.state.apply(&order, self.plan) {
            self.wrong(Some(pos), what);
        }
        if pos == self.batches.len() as u64 + 1 {
            self.batches.push(matches!(order, Order::Input { .. }));
        }
        self.behind.push_back((pos, order));
    }

    fn checkpoint(&mut self, cut: Cut) {
        self.log.checkpoints += 1;
        let pos = Some(cut.pos);
        let before = self.log.checkpoint.as_ref().map_or(0, |c| c.pos);
        if cut.pos <= before {
            self.wrong(
                pos,
                format!("a checkpoint of position {} after one of {before}", cut.pos),
            );
            return;
        }
        if cut.pos > self.log.pos {
            let what = format!(
                "a checkpoint of position {}; the log had come to {}",
                cut.pos, self.log.pos
            );
            self.wrong(pos, what);
        }
        while self.behind.front().is_some_and(|(p, _)| *p <= cut.pos)
            && let Some((_, order)) = self.behind.pop_front()
        {
            // What is wrong with it was said when it was read.
            let _ = self.at_checkpoint.apply(&order, self.plan);
        }
        let differs = self.at_checkpoint.differs(&cut, self.plan);
        if !differs.is_empty() {
            differs.into_iter().for_each(|what| self.wrong(pos, what));
            self.at_checkpoint.adopt(&cut);
        }
        self.emitted(&cut);
        self.snapshot(&cut);
        self.log.checkpoint = Some(cut);
    }

    /// Outputs only grow, and come to what was counted.
    fn emitted(&mut self, cut: &Cut) {
        let pos = Some(cut.pos);
        let outputs = self.plan.downstream.len().max(1);
        if cut.emitted.len() != outputs {
            self.wrong(
                pos,
                format!("it speaks of {} outputs, there are {outputs}", cut.emitted.len()),
            );
            return;
        }
        let mut wrong = vec![];
        if let Some(last) = &self.log.checkpoint {
            let counters = [
                ("tuples came in", last.tuples_in, cut.tuples_in),
                ("tuples went out", last.tuples_out, cut.tuples_out),
                ("bytes came in", last.bytes_in, cut.bytes_in),
            ];
            for (what, before, now) in counters {
                if now < before {
                    wrong.push(format!(
                        "it says that {now} {what}, the checkpoint before said {before}"
                    ));
                }
            }
            for (i, (before, now)) in last.emitted.iter().zip(&cut.emitted).enumerate() {
                if now < before {
                    wrong.push(format!(
                        "output {i} has come to {now} units, in the checkpoint before to {before}"
                    ));
                }
            }
        }
        if self.plan.downstream.is_empty() {
            // Each tuple is a line of at least its newline.
            if cut.emitted[0] < cut.tuples_out {
                wrong.push(format!("{} tuples in {} bytes", cut.tuples_out, cut.emitted[0]));
            }
        } else {
            let ends = u128::from(cut.done) * outputs as u128;
            let units: u128 = cut.emitted.iter().map(|e| u128::from(*e)).sum();
            if units != u128::from(cut.tuples_out) + ends {
                wrong.push(format!(
                    "{} tuples went out{}, the outputs come to {units} units",
                    cut.tuples_out,
                    if cut.done { " and each output's end" } else { "" }
                ));
            }
        }
        match self.plan.op.as_ref().map(|op| op.kind) {
            // A source's outputs follow from what it read.
            None => {
                let ends = u64::from(cut.done);
                for (i, (says, routed)) in cut.emitted.iter().zip(&self.at_checkpoint.routed).enumerate() {
                    if *says != routed.saturating_add(ends) {
                        wrong.push(format!(
                            "output {i} has come to {says} units, by the lines read it is {}",
                            routed.saturating_add(ends)
                        ));
                    }
                }
            }
            Some(OpKind::Filter) if cut.tuples_out > cut.tuples_in => wrong.push(format!(
                "a filter put {} tuples out, of {}",
                cut.tuples_out, cut.tuples_in
            )),
            Some(_) => {}
        }
        let ends = u64::from(cut.done && !self.plan.downstream.is_empty());
        let kept = |i: usize| self.produced.get(i).copied().unwrap_or(0);
        let repeats = self.plan.op.as_ref().is_none_or(|op| op.deterministic);
        for (i, acked) in cut.emitted.iter().enumerate().filter(|_| !repeats) {
            let logged = kept(i);
            if *acked > logged.saturating_add(ends) {
                wrong.push(format!(
                    "{acked} units of output {i} are acknowledged, and only {logged} were kept as they were put out"
                ));
            }
        }
        wrong.into_iter().for_each(|what| self.wrong(pos, what));
    }

    fn snapshot(&mut self, cut: &Cut) {
        let mut end = 0u64;
        for (offset, len) in &cut.snapshot {
            let to = offset.saturating_add(*len);
            if *len == 0 || *offset < end {
                self.wrong(
                    Some(cut.pos),
                    format!("the snapshot's piece {offset}..{to} is empty, or not behind {end}"),
                );
            }
            if to > self.snapshot_len {
                let what = format!(
                    "the snapshot's piece {offset}..{to} is not in the snapshot file, which has {} bytes",
                    self.snapshot_len
                );
                self.wrong(Some(cut.pos), what);
            }
            end = to;
        }
    }

    /// Productions of an output follow on from each other, in the order of their positions.
    fn production(&mut self, pos: u64, output: u16, start: u64, end: u64) {
        let outputs = self.plan.downstream.len().max(1);
        if usize::from(output) >= outputs {
            self.wrong(Some(pos), format!("there are {outputs} outputs, not {output}"));
            return;
        }
        self.produced.resize(outputs, 0);
        self.productions += 1;
        let have = self.produced[usize::from(output)];
        if start != have || end < start {
            self.wrong(
                Some(pos),
                format!("units {start}..{end} of output {output} were put out where unit {have} was next"),
            );
        }
        if pos < self.produced_pos {
            self.wrong(
                Some(pos),
                format!(
                    "put out by position {pos}, after what position {} put out",
                    self.produced_pos
                ),
            );
        }
        self.produced[usize::from(output)] = end;
        self.produced_pos = pos;
    }

    fn end(&mut self) {
        self.log.epochs.retain(|e| *e != Epoch::default());
        if self.log.damaged {
            return;
        }
        if self.productions > 0 && self.produced_pos > self.log.pos {
            self.wrong_file(format!(
                "what position {} put out is kept, the order records end at {}",
                self.produced_pos, self.log.pos
            ));
        }
        if self.batches.len() as u64 == self.log.pos {
            let strange = self.kept.iter().find(|pos| {
                let index = pos.checked_sub(1).and_then(|i| usize::try_from(i).ok());
                !index.and_then(|i| self.batches.get(i)).copied().unwrap_or(false)
            });
            if let Some(pos) = strange.copied() {
                self.wrong_file(format!(
                    "the tuples of position {pos} are kept, which has no order record of a batch"
                ));
            }
        }
    }
}
