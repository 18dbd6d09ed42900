//! What changes a job's plan while it runs: new files, tuples set aside, the end of following. A change is stored first
//! ([`Effect::Store`]), and acted on when that is done ([`super::Input::Stored`]): a leader that takes the job up knows all
//! that any worker was ever told.

use common::clock::Time;
use common::ids::TaskId;
use protocol::control::{Failure, ToWorker, Unit};

use super::mutants::Mutant;
use super::{Effect, Job, JobEvent, State};
use crate::plan::{Change, SourceFile};
use crate::record::Ticket;

/// A record of the journal stays small, and so does a message.
const FILES_PER_CHANGE: usize = 1000;

impl Job {
    pub(super) fn store(&mut self, now: Time, change: Change, out: &mut Vec<Effect>) -> Ticket {
        let ticket = self.pending.store(change, out);
        if Mutant::ActBeforeStored.is_on() {
            self.stored(now, ticket, out);
        }
        ticket
    }

    /// Files that are there: those that are new go to the source tasks that have the fewest.
    pub(super) fn files(&mut self, now: Time, files: Vec<SourceFile>, out: &mut Vec<Effect>) {
        if self.over || !self.plan.follow || self.intake.is_draining() {
            return;
        }
        for (index, slices) in self.intake.assign(files) {
            let task = TaskId::new(0, index);
            for some in slices.chunks(FILES_PER_CHANGE) {
                let slices = some.to_vec();
                self.store(now, Change::Slices { task, slices }, out);
            }
        }
    }

    pub(super) fn drain(&mut self, now: Time, out: &mut Vec<Effect>) {
        if !self.over && self.plan.follow && self.intake.drain() {
            self.store(now, Change::Drain, out);
        }
    }

    /// The sources' rate from now on.
    pub(super) fn set_rate(&mut self, now: Time, rate: u64, out: &mut Vec<Effect>) {
        if !self.over {
            self.store(now, Change::Rate(rate), out);
        }
    }

    /// From now on the tuple is not given to the operator any more. The task waits until that is stored.
    pub(super) fn set_aside(
        &mut self,
        now: Time,
        id: TaskId,
        unit: Unit,
        failure: &Failure,
        out: &mut Vec<Effect>,
    ) {
        let change = Change::Skip {
            task: id,
            unit,
            key: failure.key.clone(),
            why: failure.what.clone(),
        };
        let ticket = self.store(now, change, out);
        if let Some(task) = self.tasks.get_mut(id) {
            task.held = Some(ticket);
        }
    }

    pub(super) fn stored(&mut self, now: Time, ticket: Ticket, out: &mut Vec<Effect>) {
        let Some(change) = self.pending.settle(ticket) else {
            return;
        };
        self.plan.apply(&change);
        if self.over {
            return;
        }
        match change {
            Change::Slices { task, slices } => {
                let (files, first) = (slices.len(), slices.first().map(|s| s.file.clone()));
                out.push(Effect::Event(JobEvent::Files {
                    task,
                    files,
                    first: first.unwrap_or_default(),
                }));
                for slice in slices.iter().filter(|s| s.label.is_some()) {
                    out.push(Effect::Event(JobEvent::FileReplaced {
                        task,
                        file: slice.file.clone(),
                        label: slice.label().to_owned(),
                    }));
                }
                self.tell_source(task, ToWorker::Slices(slices), out);
            }
            Change::Drain => {
                out.push(Effect::Event(JobEvent::Drain));
                for task in self.plan.stage_tasks(0) {
                    self.tell_source(task, ToWorker::Drain, out);
                }
            }
            Change::Scale { stage, .. } => self.rescaled(now, stage, out),
            Change::Rate(rate) => {
                out.push(Effect::Event(JobEvent::Rate { rate }));
                self.shares.forget();
                if rate == 0 {
                    for task in self.plan.stage_tasks(0) {
                        self.tell_source(task, ToWorker::Rate(0), out);
                    }
                }
                self.share(now, out);
            }
            Change::Skip {
                task: id,
                unit,
                key,
                why,
            } => {
                self.tally.poisoned += 1;
                let Some(task) = self.tasks.get_mut(id) else {
                    return;
                };
                if task.held == Some(ticket) {
                    task.held = None;
                }
                // What comes after it is another matter.
                task.blame.begin_anew();
                task.careful = false;
                task.failures = 0;
                out.push(Effect::Event(JobEvent::Poison {
                    task: id,
                    epoch: task.epoch,
                    unit,
                    key,
                    why,
                }));
                if matches!(task.state, State::Waiting { .. }) {
                    self.launch(now, id, None, out);
                }
            }
        }
    }

    /// A process that has its plan is told what came after it; one that comes finds it in its plan.
    pub(super) fn tell_source(&self, id: TaskId, message: ToWorker, out: &mut Vec<Effect>) {
        if let Some(conn) = self.tasks.get(id).and_then(|t| t.conn()) {
            out.push(Effect::Send { conn, message });
        }
    }
}
