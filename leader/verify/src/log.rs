//! One task's log: against itself, against HyDFS's record of who wrote it, against the snapshot file.

use std::collections::VecDeque;

use common::ids::{Epoch, TaskId};
use hydfs::client::{ClientId, Span};
use protocol::control::TaskPlan;
use protocol::task_log::{self, Base, Cut, Digest, Keeps, Order, Record, SourcePos};

use super::kept::Kept;
use super::shape::Shape;
use super::state::State;
use super::{Finding, Findings, TaskFiles, cut, spans_wrong};

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
    /// What the log's beginning came to, if it was trimmed.
    pub gone: Option<Gone>,
    /// The log could not be read to its end: what it says last is not known.
    pub damaged: bool,
}

/// Counts of what was trimmed from a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone {
    pub orders: u64,
    /// Those that had ended by then.
    pub processes: u64,
}

impl TaskLog {
    /// Units of an output that were emitted up to the newest checkpoint.
    pub fn sent(&self, output: usize) -> u64 {
        self.checkpoint
            .as_ref()
            .and_then(|c| c.emitted.get(output))
            .copied()
            .unwrap_or(0)
    }

    /// Those of them that it knows to be acknowledged.
    pub fn acked(&self, output: usize) -> u64 {
        match &self.checkpoint {
            Some(cut) if !cut.acked.is_empty() => cut.acked.get(output).copied().unwrap_or(0),
            _ => self.sent(output),
        }
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

pub(super) struct Check<'a> {
    pub(super) plan: &'a TaskPlan,
    pub(super) shape: Shape,
    pub(super) log: TaskLog,
    pub(super) findings: Findings,
    /// Where the log begins, and the record at hand.
    pub(super) begin: u64,
    pub(super) byte: u64,
    /// Of all records before the one at hand.
    pub(super) digest: Digest,
    /// The places in files that grow which checkpoints have told so far.
    pub(super) told: SourcePos,
    /// The base that the log begins with.
    pub(super) base: Option<Box<Base>>,
    /// Order records that no checkpoint has passed, and the state before them.
    pub(super) behind: VecDeque<(u64, Order)>,
    pub(super) at_checkpoint: State,
    pub(super) snapshot_len: u64,
    pub(super) kept: Kept,
}

/// Checks one task's log. `ended`: nothing more will come.
pub fn check(plan: &TaskPlan, ended: bool, files: TaskFiles<'_>) -> (TaskLog, Vec<Finding>) {
    let name = plan.task.to_string();
    let shape = Shape::of(plan);
    let snapshots = files.snapshots.and_then(|s| s.of(&name));
    let snapshots_begin = files.snapshots.map_or(0, |s| s.base);
    let mut check = Check {
        plan,
        shape,
        log: TaskLog {
            state: State::new(plan),
            ..TaskLog::default()
        },
        findings: Findings::default(),
        begin: files.log_begin,
        byte: files.log_begin,
        digest: Digest::default(),
        told: SourcePos::default(),
        base: None,
        behind: VecDeque::new(),
        at_checkpoint: State::new(plan),
        snapshot_len: snapshots.map_or(0, |s| s.length),
        kept: Kept::new(shape),
    };
    let spans = check.owners(ended, &name, &files);
    let mut records = task_log::records(files.log);
    while let Some(next) = records.next() {
        match next {
            Ok((at, record)) => {
                check.byte = files.log_begin + at as u64;
                check.record(record);
                check.digest.take(&files.log[at..records.at()]);
                if let Some(spans) = &spans {
                    check.owned(spans, check.byte..files.log_begin + records.at() as u64);
                }
            }
            Err(error) => {
                check.byte = files.log_begin + records.at() as u64;
                check.log.damaged = true;
                check.wrong(None, format!("{error}; what stands behind it was not checked"));
            }
        }
    }
    check.end();
    // While the job runs its snapshot file may be trimmed once more between the two looks.
    let needs = check.log.checkpoint.as_ref().and_then(|cut| cut.snapshot.first());
    if let Some((first, _)) = needs.filter(|(first, _)| ended && *first < snapshots_begin) {
        let what = format!(
            "its state begins at byte {first} of the snapshot file, which was trimmed up to {snapshots_begin}"
        );
        check.wrong_file(what);
    }
    (check.log, check.findings.into_list(Some(plan.task)))
}

impl Check<'_> {
    pub(super) fn wrong(&mut self, pos: Option<u64>, what: String) {
        self.findings.add(Finding {
            task: Some(self.plan.task),
            byte: Some(self.byte),
            pos,
            what,
        });
    }

    pub(super) fn all_wrong(&mut self, pos: u64, what: impl IntoIterator<Item = String>) {
        what.into_iter().for_each(|what| self.wrong(Some(pos), what));
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
        let (streams, len) = (files.log_streams, files.log_begin + files.log.len() as u64);
        // It may have been trimmed since it was read.
        let trimmed = files.log_begin > 0 || streams.base > 0;
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
        let begins = mine.spans.first().map_or(mine.length, |first| first.start);
        if begins > files.log_begin.max(streams.base) && !streams.missing {
            self.wrong_file(format!(
                "who wrote it is not known from byte {} to {begins}",
                files.log_begin
            ));
        }
        if let Some(what) = spans_wrong(mine, streams.missing, trimmed) {
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
        if let Record::Base(base) = record {
            return self.base(base);
        }
        if self.begin > 0 && self.base.is_none() {
            self.wrong(
                None,
                "its beginning was trimmed, and no base says what that came to".into(),
            );
            // Said once.
            self.base = Some(Box::default());
        }
        if self.log.epochs.is_empty() && !matches!(record, Record::Began { .. }) {
            self.wrong(None, "no process had begun: who wrote this is not known".into());
            // Said once.
            self.log.epochs.push(Epoch::default());
        }
        let next = self.log.pos.saturating_add(1);
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
            } => {
                let wrong = self.kept.production(pos, output, start..end, next);
                self.all_wrong(pos, wrong);
            }
            Record::Tuples { pos, .. } => {
                let wrong = self.kept.tuples(pos, next);
                self.all_wrong(pos, wrong);
            }
            Record::Base(_) => {}
        }
    }

    /// A process goes on behind what its predecessors did; what is behind that is void.
    fn began(&mut self, epoch: Epoch, pos: u64) {
        if let Some(last) = self.log.epochs.last()
            && epoch <= *last
        {
            self.wrong(Some(pos), format!("epoch {epoch} began after epoch {last}"));
        } else if epoch == Epoch::default() {
            self.wrong(Some(pos), "epoch 0 began; epochs count from 1".into());
        }
        self.log.epochs.push(epoch);
        let have = self.log.pos;
        let safe = self.safe();
        let right = if self.shape.voids() { safe } else { have };
        if pos != right {
            let what =
                format!("epoch {epoch} began behind position {pos}, where it was to go on behind {right}");
            self.wrong(Some(pos), what);
        }
        if (safe..have).contains(&pos) {
            self.behind.retain(|(p, _)| *p <= pos);
            self.kept.void(pos);
            self.log.pos = pos;
            self.log.state = self.at_checkpoint.clone();
            for (_, order) in &self.behind {
                // What is wrong with it was said when it was read.
                let _ = self.log.state.apply(order, self.plan);
            }
        }
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
        let wrong = self.log.state.apply(&order, self.plan);
        self.all_wrong(pos, wrong);
        if let Order::Route { .. } | Order::HandOver { .. } = order {
            self.kept.open(self.shape.outputs(self.log.state.targets.len()));
        }
        let wrong = self.kept.order(pos, matches!(order, Order::Input { .. }));
        self.all_wrong(pos, wrong);
        self.behind.push_back((pos, order));
    }

    /// The newest position that no process declares void.
    fn safe(&self) -> u64 {
        let begin = self.base.as_ref().map_or(0, |base| base.cut.pos);
        self.log.checkpoint.as_ref().map_or(begin, |c| c.pos)
    }

    fn checkpoint(&mut self, mut cut: Cut) {
        self.log.checkpoints += 1;
        let news = std::mem::take(&mut cut.source.growing);
        self.told.catch_up(&news);
        let pos = cut.pos;
        if self.base.as_ref().is_some_and(|base| pos < base.cut.pos) {
            // Of orders that are gone.
            return;
        }
        cut.source.growing.clone_from(&self.told.growing);
        let before = self.log.checkpoint.as_ref().map_or(0, |c| c.pos);
        // Where not all had arrived that was put out, it is noted again when it has: for tasks that are taken out.
        let noted = |last: &Cut| last.acked != cut.acked && !last.acked.is_empty();
        let again = pos == before && self.log.checkpoint.as_ref().is_some_and(noted);
        if pos <= before && !again {
            self.wrong(
                Some(pos),
                format!("a checkpoint of position {pos} after one of {before}"),
            );
            return;
        }
        if pos > self.log.pos {
            let what = format!(
                "a checkpoint of position {pos}; the log had come to {}",
                self.log.pos
            );
            self.wrong(Some(pos), what);
        }
        while self.behind.front().is_some_and(|(p, _)| *p <= pos)
            && let Some((_, order)) = self.behind.pop_front()
        {
            // What is wrong with it was said when it was read.
            let _ = self.at_checkpoint.apply(&order, self.plan);
        }
        let differs = self.at_checkpoint.differs(&cut, self.plan);
        if !differs.is_empty() {
            self.all_wrong(pos, differs);
            self.at_checkpoint.adopt(&cut);
        }
        let last = self.log.checkpoint.as_ref();
        let last = last.or(self.base.as_ref().map(|base| &base.cut));
        let (state, plan) = (&self.at_checkpoint, self.plan);
        let wrong = cut::wrong(&cut, last, state, plan, self.shape, self.snapshot_len);
        self.all_wrong(pos, wrong);
        let wrong = self.kept.checkpoint(pos, &cut.emitted);
        self.all_wrong(pos, wrong);
        self.log.checkpoint = Some(cut);
    }

    /// What receivers may still ask for, and the state that a restart reads, must be there.
    fn trimmed_too_far(&mut self) {
        let (Some(base), Some(checkpoint)) = (&self.base, &self.log.checkpoint) else {
            return;
        };
        let emitted = base.cut.emitted.iter().enumerate();
        let mut owed = emitted.filter(|(i, n)| checkpoint.acked.get(*i).is_some_and(|acked| acked < n));
        if self.shape.keeps == Keeps::Productions
            && let Some((i, n)) = owed.next()
        {
            let acked = checkpoint.acked[i];
            self.wrong_file(format!(
                "it was trimmed up to unit {n} of output {i}, of which {acked} had arrived: a restart could not send the rest"
            ));
        }
    }

    fn end(&mut self) {
        self.log.epochs.retain(|e| *e != Epoch::default());
        if !self.log.damaged
            && let Some(what) = self.kept.end(self.log.pos)
        {
            self.wrong_file(what);
        }
        let covered = self.log.checkpoint.as_ref().map_or(0, |c| c.pos);
        if let Some(begin) = self
            .base
            .as_ref()
            .map(|base| base.cut.pos)
            .filter(|begin| *begin > covered)
        {
            self.wrong_file(format!(
                "it was trimmed up to position {begin}, and no checkpoint from there on says where a restart begins"
            ));
        }
        self.trimmed_too_far();
    }
}
