//! Across tasks: what one acknowledged and another covers, slices that meet, the destination, and the end.

use common::ids::{Epoch, TaskId};
use hydfs::client::Streams;
use protocol::control::TaskPlan;
use protocol::task_log::LinePosition;

use super::log::TaskLog;
use super::shape::Shape;
use super::shape::is_peer;
use super::{Checker, Finding, JobFacts, Outcome, Totals, Verdict, spans_wrong};

struct Judge {
    checker: Checker,
    ended: bool,
}

pub fn finish(
    checker: Checker,
    after: &JobFacts,
    dest: Option<&Streams>,
    poison: Option<&Streams>,
) -> Verdict {
    let ended = checker.facts.outcome == Outcome::Ended;
    let mut judge = Judge { checker, ended };
    judge.missing_logs();
    judge.launched(after);
    judge.channels();
    judge.slices();
    let name = format!("the destination {}", judge.checker.facts.plan.dest);
    match dest {
        Some(dest) => judge.written(&name, dest, after, |p| p.dest.as_ref().map(|_| 0)),
        // A job that has just been planned has not made it yet.
        None if !ended && judge.checker.logs.values().all(|log| log.orders == 0) => {}
        None => judge.checker.unchecked.push(format!("{name} is not there")),
    }
    if let Some(file) = judge.checker.poison().map(str::to_owned) {
        // Made by the first task that begins.
        let none = Streams::default();
        let name = format!("the file of tuples set aside, {file},");
        judge.written(&name, poison.unwrap_or(&none), after, |p| {
            let shape = Shape::of(p);
            shape.aside.then_some(shape.channels)
        });
    }
    judge.ends();
    let none = Streams::default();
    let totals = judge.totals(dest.unwrap_or(&none));
    Verdict {
        outcome: judge.checker.facts.outcome,
        findings: judge.checker.findings,
        unchecked: judge.checker.unchecked,
        totals,
    }
}

impl Judge {
    fn wrong(&mut self, task: Option<TaskId>, what: String) {
        self.checker.findings.push(Finding {
            task,
            byte: None,
            pos: None,
            what,
        });
    }

    /// The task's log, if it says where the task stands.
    fn log(&self, task: TaskId) -> Option<&TaskLog> {
        self.checker.logs.get(&task).filter(|log| !log.damaged)
    }

    fn plans(&self) -> Vec<TaskPlan> {
        self.checker.plans.values().cloned().collect()
    }

    fn stream_of(&self, task: TaskId) -> String {
        format!("{}/{task}", self.checker.facts.plan.job)
    }

    fn missing_logs(&mut self) {
        let facts = &self.checker.facts;
        let expected = facts
            .plan
            .tasks()
            .filter(|t| self.ended || facts.done.contains(t));
        let gone: Vec<TaskId> = expected.filter(|t| !self.checker.logs.contains_key(t)).collect();
        for task in gone {
            self.checker
                .unchecked
                .push(format!("{task}: its log is not there"));
        }
    }

    /// No process wrote that was never started.
    fn launched(&mut self, after: &JobFacts) {
        let newest = |log: &TaskLog| log.epochs.iter().max().copied().unwrap_or_default();
        let wild: Vec<(TaskId, Epoch, Epoch)> = self
            .checker
            .logs
            .iter()
            .map(|(task, log)| {
                (
                    *task,
                    newest(log),
                    after.launched.get(task).copied().unwrap_or_default(),
                )
            })
            .filter(|(_, began, launched)| began > launched)
            .collect();
        for (task, began, launched) in wild {
            self.never_started(
                task,
                format!("epoch {began} began, the newest that was started is {launched}"),
            );
        }
    }

    /// While the job goes on its journal may lag behind what its leader does, and lack the end of what a dead one did.
    fn never_started(&mut self, task: TaskId, what: String) {
        match self.checker.facts.outcome {
            Outcome::Open => self
                .checker
                .unchecked
                .push(format!("{task}: {what}, by a journal that may lag behind")),
            _ => self.wrong(Some(task), what),
        }
    }

    /// What a sender forgot, its receiver never needs again; at the end both counts agree.
    fn channels(&mut self) {
        for plan in self.plans() {
            let opened = self.log(plan.task).map(|log| log.state.targets.clone());
            let shape = Shape::of(&plan);
            for (channel, to) in opened.unwrap_or_default().iter().enumerate() {
                let output = shape.output(channel);
                let (Some(sender), receiver) = (self.log(plan.task), self.log(*to)) else {
                    continue;
                };
                if receiver.is_none() && self.checker.logs.contains_key(to) {
                    continue;
                }
                if receiver.is_none() && self.ended {
                    continue;
                }
                let (acked, sent) = (sender.acked(output), sender.sent(output));
                let covered = receiver.map_or(0, |r| r.covered(plan.task));
                let from = plan.task;
                // Of two tasks of one stage either may have been read first: while the job runs, that says nothing.
                if acked > covered && (self.ended || !is_peer(*to, &plan)) {
                    self.wrong(
                        Some(*to),
                        format!(
                            "{from} was told that {acked} units are safe, but the newest checkpoint covers {covered}: a restart would lose units {covered}..{acked}"
                        ),
                    );
                } else if self.ended && sent != covered {
                    self.wrong(
                        Some(*to),
                        format!("it consumed {covered} units of {from}, which sent {sent}"),
                    );
                }
            }
        }
    }

    /// Where one slice's lines end the next slice's begin, whoever reads them: each line is read once.
    fn slices(&mut self) {
        let place = |p: LinePosition| (p.at, p.line);
        let mut all = vec![];
        for plan in self.plans() {
            let Some(log) = self.log(plan.task) else { continue };
            for (i, slice) in plan.slices.iter().enumerate() {
                let reading = log.state.slices.get(&(i as u32));
                let (first, end) = (
                    reading.and_then(|r| r.first).map(place),
                    reading.filter(|r| r.done).and_then(|r| r.next).map(place),
                );
                let file = (slice.file.clone(), slice.creation);
                all.push((file, slice.start, slice.end, plan.task, first, end));
            }
        }
        all.sort();
        for pair in all.windows(2) {
            let [
                (file, _, end, reader, _, Some(reached)),
                (next_file, start, _, task, Some(first), _),
            ] = pair
            else {
                continue;
            };
            if file == next_file && end == start && reached != first {
                self.wrong(
                    Some(*task),
                    format!(
                        "it begins {} at byte {}, line {}; {reader}, which reads what lies before, ended at byte {}, line {}",
                        file.0, first.0, first.1, reached.0, reached.1
                    ),
                );
            }
        }
    }

    /// Sound streams that come to the file's length.
    fn file(&mut self, name: &str, streams: &Streams) {
        let tasks = self.checker.facts.plan.tasks();
        let mine = tasks
            .filter(|t| streams.of(&self.stream_of(*t)).is_some())
            .count();
        let wrong: Vec<String> = streams
            .clients
            .values()
            .filter_map(|s| spans_wrong(s, streams.missing, streams.base > 0))
            .collect();
        for what in wrong {
            self.wrong(None, format!("{name}: {what}"));
        }
        let total = streams.total();
        // Others may append just now, and what they have under way is in their streams.
        let alone = streams.clients.len() == mine;
        if total < streams.len || (self.ended && alone && total != streams.len) {
            self.wrong(
                None,
                format!(
                    "{name} has {} bytes, its clients' streams come to {total}",
                    streams.len
                ),
            );
        }
        if streams.missing {
            self.checker
                .unchecked
                .push(format!("{name}: a part of who wrote it is being repaired"));
        }
    }

    /// A file that tasks write output `output` into: what they count as written is there, and at the end all they put out.
    fn written(
        &mut self,
        name: &str,
        streams: &Streams,
        after: &JobFacts,
        output: impl Fn(&TaskPlan) -> Option<usize>,
    ) {
        self.file(name, streams);
        for plan in self.plans() {
            let task = plan.task;
            let (Some(output), Some(log)) = (output(&plan), self.log(task)) else {
                continue;
            };
            let (acked, sent) = (log.acked(output), log.sent(output));
            let stream = streams.of(&self.stream_of(task));
            let length = stream.map_or(0, |s| s.length);
            if acked > length {
                self.wrong(
                    Some(task),
                    format!(
                        "it counts {acked} bytes as written to {name}, which has {length} of it (was the file removed, or written anew by another job?)"
                    ),
                );
            } else if self.ended && length != sent {
                self.wrong(
                    Some(task),
                    format!("it ended at {sent} bytes of output to {name}, which has {length} of it"),
                );
            }
            let wrote = stream.and_then(|s| s.spans.iter().map(|s| s.epoch).max());
            let launched = after.launched.get(&task).copied().unwrap_or_default();
            if let Some(epoch) = wrote.filter(|e| *e > launched) {
                self.never_started(
                    task,
                    format!("epoch {epoch} wrote to {name}, the newest that was started is {launched}"),
                );
            }
        }
    }

    /// Who said that it was done is done; at the job's end all are.
    fn ends(&mut self) {
        let done = self.checker.facts.done.clone();
        for task in self.checker.facts.plan.tasks().collect::<Vec<_>>() {
            let Some(log) = self.log(task) else { continue };
            if !self.ended && !done.contains(&task) {
                continue;
            }
            let what = match &log.checkpoint {
                _ if !log.state.done => format!("it never finished; its log ends at position {}", log.pos),
                Some(cut) if cut.done && cut.pos == log.pos => continue,
                Some(cut) => format!(
                    "it finished at position {}, but its newest checkpoint is of {}",
                    log.pos, cut.pos
                ),
                None => "it finished without a checkpoint".into(),
            };
            let said = if self.ended {
                "the job has ended"
            } else {
                "the leader was told that it is done"
            };
            self.wrong(Some(task), format!("{said}, and {what}"));
        }
    }

    fn totals(&self, dest: &Streams) -> Totals {
        let logs = &self.checker.logs;
        let mine: Vec<TaskId> = self
            .plans()
            .iter()
            .filter(|p| p.dest.is_some())
            .map(|p| p.task)
            .filter(|t| dest.of(&self.stream_of(*t)).is_some())
            .collect();
        let epochs = |log: &TaskLog| log.epochs.len() as u64 + log.gone.map_or(0, |gone| gone.processes);
        let gone = || logs.values().filter_map(|log| log.gone);
        Totals {
            tasks: logs.len(),
            orders: logs.values().map(|l| l.orders).sum(),
            checkpoints: logs.values().map(|l| l.checkpoints).sum(),
            epochs: logs.values().map(epochs).sum(),
            restarts: logs.values().map(|l| epochs(l).saturating_sub(1)).sum(),
            lines: logs
                .iter()
                .filter(|(t, _)| t.stage == 0)
                .map(|(_, l)| l.state.tuples_in)
                .sum(),
            trimmed: gone().count(),
            trimmed_orders: gone().map(|gone| gone.orders).sum(),
            log_bytes: self.checker.log_bytes,
            dest_bytes: dest.len,
            streams: mine.len(),
            others: dest.clients.len() - mine.len(),
        }
    }
}
