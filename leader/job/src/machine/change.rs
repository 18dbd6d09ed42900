//! What changes a job's plan while it runs: new files, tuples set aside, the end of following. A change is stored first
//! ([`Effect::Store`]), and acted on when that is done ([`super::Input::Stored`]): a leader that takes the job up knows all
//! that any worker was ever told.

use std::collections::BTreeMap;

use common::clock::Time;
use common::ids::TaskId;
use protocol::control::{Failure, ToWorker, Unit};

use super::{Effect, Event, Job, State};
use crate::plan::{Change, SourceFile, fewest};
use crate::record::Ticket;

/// A record of the journal stays small, and so does a message.
const FILES_PER_CHANGE: usize = 1000;

impl Job {
    pub(super) fn store(&mut self, change: Change, out: &mut Vec<Effect>) -> Ticket {
        self.last_ticket = Ticket(self.last_ticket.0 + 1);
        let ticket = self.last_ticket;
        self.changes.insert(ticket, change.clone());
        out.push(Effect::Store { ticket, change });
        ticket
    }

    /// Files that are there: those that are new go to the source tasks that have the fewest.
    pub(super) fn files(&mut self, files: Vec<SourceFile>, out: &mut Vec<Effect>) {
        if self.over || !self.plan.follow || self.draining {
            return;
        }
        let mut more: BTreeMap<usize, Vec<_>> = BTreeMap::new();
        for file in files {
            let Some(slice) = self.files.admit(file) else {
                continue;
            };
            let task = fewest(self.slices.iter().copied());
            if let Some(count) = self.slices.get_mut(task) {
                *count += 1;
                more.entry(task).or_default().push(slice);
            }
        }
        for (index, slices) in more {
            let task = TaskId::new(0, index as u16);
            for some in slices.chunks(FILES_PER_CHANGE) {
                let slices = some.to_vec();
                self.store(Change::Slices { task, slices }, out);
            }
        }
    }

    pub(super) fn drain(&mut self, out: &mut Vec<Effect>) {
        if !self.over && self.plan.follow && !self.draining {
            self.draining = true;
            self.store(Change::Drain, out);
        }
    }

    /// From now on the tuple is not given to the operator any more. The task waits until that is stored.
    pub(super) fn set_aside(&mut self, id: TaskId, unit: Unit, failure: &Failure, out: &mut Vec<Effect>) {
        let change = Change::Skip {
            task: id,
            unit,
            key: failure.key.clone(),
            why: failure.what.clone(),
        };
        let ticket = self.store(change, out);
        if let Some(task) = self.tasks.get_mut(&id) {
            task.held = Some(ticket);
        }
    }

    pub(super) fn stored(&mut self, now: Time, ticket: Ticket, out: &mut Vec<Effect>) {
        let Some(change) = self.changes.remove(&ticket) else {
            return;
        };
        self.plan.apply(&change);
        if self.over {
            return;
        }
        match change {
            Change::Slices { task, slices } => {
                let (files, first) = (slices.len(), slices.first().map(|s| s.file.clone()));
                out.push(Effect::Event(Event::Files {
                    task,
                    files,
                    first: first.unwrap_or_default(),
                }));
                for slice in slices.iter().filter(|s| s.label.is_some()) {
                    out.push(Effect::Event(Event::FileReplaced {
                        task,
                        file: slice.file.clone(),
                        label: slice.label().to_owned(),
                    }));
                }
                self.tell_source(task, ToWorker::Slices(slices), out);
            }
            Change::Drain => {
                out.push(Effect::Event(Event::Drain));
                for task in self.plan.stage_tasks(0) {
                    self.tell_source(task, ToWorker::Drain, out);
                }
            }
            Change::Scale { stage, .. } => self.rescaled(now, stage, out),
            Change::Rate(rate) => {
                out.push(Effect::Event(Event::Rate { rate }));
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
                self.poisoned += 1;
                let Some(task) = self.tasks.get_mut(&id) else {
                    return;
                };
                if task.held == Some(ticket) {
                    task.held = None;
                }
                // What comes after it is another matter.
                task.blame.begin_anew();
                task.careful = false;
                task.failures = 0;
                out.push(Effect::Event(Event::Poison {
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
        if let Some(conn) = self.tasks.get(&id).and_then(|t| t.conn()) {
            out.push(Effect::Send { conn, message });
        }
    }
}
