//! Stages that gain and lose tasks while they run. One change at a time in the whole job:
//!
//! ```text
//!   stored -> the next stage's tasks know of the new one -> it is started -> the stage before routes to it
//!   stored -> the stage before routes past one -> it ends, since all have sent their end marks -> it goes
//! ```
//! Where the stage keeps state, the change is over only when that has moved (`worker/src/task/handover.rs`): each of its tasks says which
//! version it has put in force.
//!
//! The next stage must know first: else it could take the end of those that it knows for the end of all. The change is over
//! when no task of the stage before can fall behind it in a restart: then nobody needs who was taken out.

use common::clock::Time;
use common::ids::{Epoch, TaskId};
use protocol::control::{Route, TaskPlan, ToWorker};

use super::mutants::Mutant;
use super::{Effect, Job, JobEvent, State, Task};
use crate::autoscale::Decision;
use crate::plan::Change;

impl Job {
    /// How many changes of its stages' tasks the job has seen.
    pub fn scale_events(&self) -> u32 {
        self.stages().scaled().map(|s| self.plan.version(s)).sum()
    }

    /// Looks at the rates, and scales where it must.
    pub(super) fn autoscale(&mut self, now: Time, out: &mut Vec<Effect>) {
        if self.over || self.plan.scaling.is_none() {
            return;
        }
        let ended = |t: &Task| t.was_done && !self.plan.is_out(t.id);
        let ending = self.intake.is_draining() || self.tasks.iter().any(ended);
        let busy = ending || !self.pending.is_empty() || !self.stages().all_settled();
        let loads = self.stages().loads();
        for decision in self.autoscaler.decide(now, &loads, !busy) {
            match decision {
                Decision::Scale { stage, up, per_task } => {
                    if let Some((version, tasks)) = self.plan.scaled(stage, up) {
                        self.rollout
                            .give_reason(format!("{per_task:.0} tuples/s per task"));
                        self.store(
                            now,
                            Change::Scale {
                                stage,
                                version,
                                tasks,
                            },
                            out,
                        );
                    }
                }
                Decision::Hot { task, per_s, others } => {
                    out.push(Effect::Event(JobEvent::HotTask { task, per_s, others }));
                }
            }
        }
    }

    /// For tests and by hand: one task more or fewer, if that can be now.
    pub fn scale(&mut self, now: Time, stage: u16, up: bool, out: &mut Vec<Effect>) -> bool {
        let settled = self.pending.is_empty() && self.stages().all_settled();
        if self.over || !settled || !self.plan.scales(stage) || !self.stages().can_move(stage) {
            return false;
        }
        let scaled = self.plan.scaled(stage, up);
        if let Some((version, tasks)) = scaled {
            self.store(
                now,
                Change::Scale {
                    stage,
                    version,
                    tasks,
                },
                out,
            );
            return true;
        }
        false
    }

    /// A change is durable: the plan has it already.
    pub(super) fn rescaled(&mut self, now: Time, stage: u16, out: &mut Vec<Effect>) {
        let new = self.plan.stage_tasks(stage);
        let new: Vec<TaskId> = new.into_iter().filter(|t| !self.tasks.contains(*t)).collect();
        for id in &new {
            let node = self.choose_node(now, *id).or(self.nodes.first().cloned());
            let Some(node) = node else { continue };
            let mut task = Task::new(*id, node);
            (task.epoch, task.base) = (self.base, self.base);
            task.routed = self.plan.born(*id).down;
            task.moved = self.plan.came_with(*id).saturating_sub(1);
            self.tasks.insert(task);
        }
        let out_of = self.stages().retiring(stage);
        out.push(Effect::Event(JobEvent::Scale {
            stage,
            task: new.first().copied().or(out_of).unwrap_or(TaskId::new(stage, 0)),
            up: !new.is_empty(),
            tasks: self.plan.active(stage).len(),
            why: self.rollout.take_reason(),
        }));
        if !new.is_empty() && !Mutant::StartUnannounced.is_on() {
            let conns = self.tasks.of_stage(stage + 1);
            for conn in conns.filter_map(Task::conn) {
                let message = ToWorker::Upstream(new.clone());
                out.push(Effect::Send { conn, message });
            }
        }
        self.advance(now, out);
    }

    /// Takes the changes under way further.
    pub(super) fn advance(&mut self, now: Time, out: &mut Vec<Effect>) {
        if self.over {
            return;
        }
        for stage in self.stages().scaled() {
            let version = self.plan.version(stage);
            if version == 0 || self.stages().is_settled(stage) {
                // It may be a report that said so.
                self.say_settled(stage, version, out);
                continue;
            }
            self.launch_known(now, stage, out);
            let has_begun = self.stages().has_begun(stage) || Mutant::ReleaseEarly.is_on();
            if self.rollout.released(stage) < version && has_begun {
                self.rollout.release(stage, version);
                let route = Route {
                    version,
                    tasks: self.plan.active(stage),
                };
                for conn in self.stages().routers(stage).filter_map(Task::conn) {
                    let message = ToWorker::Route(route.clone());
                    out.push(Effect::Send { conn, message });
                }
            }
            self.retire(now, stage, out);
            if self.stages().is_settled(stage) {
                self.say_settled(stage, version, out);
                self.end_if_done(out);
            }
        }
    }

    /// Says once of each version that all is over.
    fn say_settled(&mut self, stage: u16, version: u32, out: &mut Vec<Effect>) {
        if self.rollout.settle(stage, version) {
            out.push(Effect::Event(JobEvent::Scaled { stage, version }));
        }
    }

    /// Starts who waits for the next stage to know of it.
    fn launch_known(&mut self, now: Time, stage: u16, out: &mut Vec<Effect>) {
        let waiting = |t: &&Task| t.epoch == t.base && matches!(t.state, State::Waiting { .. });
        let waiting: Vec<TaskId> = self.tasks.of_stage(stage).filter(waiting).map(|t| t.id).collect();
        for id in waiting {
            if !self.stages().is_parked(id) {
                self.launch(now, id, None, out);
            }
        }
    }

    /// Who was taken out, has ended and is needed by nobody goes.
    fn retire(&mut self, now: Time, stage: u16, out: &mut Vec<Effect>) {
        let version = self.plan.version(stage);
        let routed = self.stages().all_route_by(stage, version) || Mutant::RetireEarly.is_on();
        let Some(id) = self.stages().retiring(stage).filter(|_| routed) else {
            return;
        };
        // Nobody may need what it handed over any more.
        if !self.stages().has_moved(stage, |t| t != id) {
            return;
        }
        let Some(task) = self.tasks.get_mut(id).filter(|t| t.was_done) else {
            return;
        };
        // A process that only waits to acknowledge has nobody left to do so to.
        if let Some(conn) = task.conn() {
            let message = ToWorker::Finish;
            out.push(Effect::Send { conn, message });
        } else {
            let lost = Some(now);
            task.state = State::Done { conn: None, lost };
        }
        task.retired = true;
        if !task.is_done() {
            let conn = task.conn();
            task.state = State::Done { conn, lost: None };
        }
        let peers = self.stages().peers(id);
        let peers = peers.iter().filter_map(|t| self.tasks.get(*t));
        let senders = self.stages().routers(stage).chain(peers);
        for conn in senders.filter_map(Task::conn) {
            let message = ToWorker::Gone(id);
            out.push(Effect::Send { conn, message });
        }
    }

    /// A worker's plan as far as changes have come.
    pub(super) fn plan_now(&mut self, id: TaskId, epoch: Epoch) -> TaskPlan {
        let next = id.stage + 1;
        let mut plan = self.plan.task_plan_until(id, epoch, self.rollout.released(next));
        if !self.plan.exactly_once {
            // Nothing is left of earlier processes: it begins with the table in force, or if that is not settled with the
            // one before, so that it tells who was taken out.
            let unsettled = !self.stages().is_settled(next);
            let version = self.plan.version(next).saturating_sub(u32::from(unsettled));
            plan.routes.retain(|r| r.version > version);
            plan.downstream = self.plan.route(next, version);
            plan.route = version;
            plan.upstream
                .retain(|t| !self.tasks.get(*t).is_some_and(|t| t.retired));
        }
        let all = id
            .stage
            .checked_sub(1)
            .map_or(0, |up| self.plan.stage_tasks(up).len());
        if let Some(task) = self.tasks.get_mut(id) {
            task.knows = all;
            task.routed = match self.plan.exactly_once {
                true => task.routed,
                false => plan.route,
            };
        }
        plan
    }

    /// A process of the next stage will not end before these have.
    pub(super) fn knows(&mut self, now: Time, id: TaskId, tasks: &[TaskId], out: &mut Vec<Effect>) {
        if let Some(task) = self.tasks.get_mut(id) {
            let upto = tasks.iter().map(|t| usize::from(t.index) + 1).max().unwrap_or(0);
            task.knows = task.knows.max(upto);
        }
        self.advance(now, out);
    }
}
