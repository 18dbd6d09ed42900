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
use common::ids::{Epoch, NodeName, TaskId};
use protocol::control::{Route, TaskPlan, ToWorker};

use super::{Effect, Event, Job, State, Task};
use crate::autoscale::{Decision, Load};
use crate::plan::Change;

impl Job {
    fn scaled_stages(&self) -> impl Iterator<Item = u16> + use<> {
        1..self.plan.stages.len() as u16
    }

    /// Tasks of the stage before that may still route.
    fn routers(&self, stage: u16) -> impl Iterator<Item = &Task> {
        self.tasks
            .values()
            .filter(move |t| t.id.stage + 1 == stage && !t.retired)
    }

    fn released(&self, stage: u16) -> u32 {
        self.released.get(&stage).copied().unwrap_or(0)
    }

    /// No change of the stage's routing is under way.
    pub(super) fn is_settled(&self, stage: u16) -> bool {
        let version = self.plan.version(stage);
        version == 0
            || (self.released(stage) == version
                && self.routers(stage).all(|t| t.routed >= version)
                && self.retiring(stage).is_none()
                && self.has_moved(stage, |_| true))
    }

    /// The other tasks of the stage, where they hand state over to each other.
    pub(super) fn peers(&self, id: TaskId) -> Vec<TaskId> {
        let peers = self.tasks.keys().filter(|t| t.stage == id.stage && **t != id);
        match self.plan.moves_state(id.stage) {
            true => peers.copied().collect(),
            false => vec![],
        }
    }

    /// Those of the stage's tasks for which `which` says so have put its newest version in force, or have finished without: where
    /// no state moves nothing is to be waited for.
    fn has_moved(&self, stage: u16, which: impl Fn(TaskId) -> bool) -> bool {
        let version = self.plan.version(stage);
        let mut tasks = self.tasks.values().filter(|t| t.id.stage == stage && !t.retired);
        !self.plan.moves_state(stage) || tasks.all(|t| !which(t.id) || t.was_done || t.moved >= version)
    }

    /// A change of the stage could move its state now: none of its tasks finishes before all upstream tasks that there are. One that
    /// did would know nothing of a mark that comes later, and would have given its results out.
    fn can_move(&self, stage: u16) -> bool {
        let active = self.plan.active(stage);
        let knows = |id: &TaskId| {
            let task = self.tasks.get(id).filter(|t| t.conn().is_some());
            task.is_some_and(|t| t.report.awaits as usize == self.plan.upstream(*id).len())
        };
        !self.plan.moves_state(stage) || active.iter().all(knows)
    }

    /// Who was taken out and is not gone yet.
    fn retiring(&self, stage: u16) -> Option<TaskId> {
        let mut of_stage = self.tasks.values().filter(|t| t.id.stage == stage && !t.retired);
        of_stage.find(|t| self.plan.is_out(t.id)).map(|t| t.id)
    }

    /// How many changes of its stages' tasks the job has seen.
    pub fn scale_events(&self) -> u32 {
        self.scaled_stages().map(|s| self.plan.version(s)).sum()
    }

    /// What the autoscaler is to decide on.
    fn loads(&self) -> Vec<Load> {
        let Some(scaling) = self.plan.scaling else {
            return vec![];
        };
        let load = |stage: u16| {
            let active = self.plan.active(stage);
            let tasks: Vec<&Task> = active.iter().filter_map(|id| self.tasks.get(id)).collect();
            let steady = tasks
                .iter()
                .all(|t| matches!(t.state, State::Attached { started: true, .. }));
            Load {
                stage,
                scales: self.plan.scales(stage),
                steady: steady && self.can_move(stage),
                scaling,
                tasks: tasks
                    .iter()
                    .map(|t| (t.id, t.report.in_per_s, t.report.backlog_tuples))
                    .collect(),
            }
        };
        self.scaled_stages().map(load).collect()
    }

    /// Looks at the rates, and scales where it must.
    pub(super) fn autoscale(&mut self, now: Time, out: &mut Vec<Effect>) {
        if self.over || self.plan.scaling.is_none() {
            return;
        }
        let ending = self.draining || self.tasks.values().any(|t| t.was_done && !self.plan.is_out(t.id));
        let busy = ending || !self.changes.is_empty() || self.scaled_stages().any(|s| !self.is_settled(s));
        for decision in self.autoscaler.decide(now, &self.loads(), !busy) {
            match decision {
                Decision::Scale { stage, up, per_task } => {
                    if let Some((version, tasks)) = self.plan.scaled(stage, up) {
                        self.why = format!("{per_task:.0} tuples/s per task");
                        self.store(
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
                    out.push(Effect::Event(Event::HotTask { task, per_s, others }));
                }
            }
        }
    }

    /// For tests and by hand: one task more or fewer, if that can be now.
    pub fn scale(&mut self, stage: u16, up: bool, out: &mut Vec<Effect>) -> bool {
        let settled = self.changes.is_empty() && self.scaled_stages().all(|s| self.is_settled(s));
        if self.over || !settled || !self.plan.scales(stage) || !self.can_move(stage) {
            return false;
        }
        let scaled = self.plan.scaled(stage, up);
        if let Some((version, tasks)) = scaled {
            self.store(
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
        let new: Vec<TaskId> = new.into_iter().filter(|t| !self.tasks.contains_key(t)).collect();
        for id in &new {
            let node = self.choose_node(now, *id).or(self.nodes.first().cloned());
            let Some(node) = node else { continue };
            let mut task = Task::new(*id, node);
            (task.epoch, task.base) = (self.base, self.base);
            task.routed = self.plan.born(*id).down;
            task.moved = self.plan.came_with(*id).saturating_sub(1);
            self.tasks.insert(*id, task);
        }
        let out_of = self.retiring(stage);
        out.push(Effect::Event(Event::Scale {
            stage,
            task: new.first().copied().or(out_of).unwrap_or(TaskId::new(stage, 0)),
            up: !new.is_empty(),
            tasks: self.plan.active(stage).len(),
            why: std::mem::take(&mut self.why),
        }));
        if !new.is_empty() {
            let conns = self.tasks.values().filter(|t| t.id.stage == stage + 1);
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
        for stage in self.scaled_stages() {
            let version = self.plan.version(stage);
            if version == 0 || self.is_settled(stage) {
                // It may be a report that said so.
                self.say_settled(stage, version, out);
                continue;
            }
            self.launch_known(now, stage, out);
            if self.released(stage) < version && self.has_begun(stage) {
                self.released.insert(stage, version);
                let route = Route {
                    version,
                    tasks: self.plan.active(stage),
                };
                for conn in self.routers(stage).filter_map(Task::conn).collect::<Vec<_>>() {
                    let message = ToWorker::Route(route.clone());
                    out.push(Effect::Send { conn, message });
                }
            }
            self.retire(now, stage, out);
            if self.is_settled(stage) {
                self.say_settled(stage, version, out);
                self.end_if_done(out);
            }
        }
    }

    /// Says once of each version that all is over.
    fn say_settled(&mut self, stage: u16, version: u32, out: &mut Vec<Effect>) {
        let said = self.settled.entry(stage).or_default();
        if *said < version {
            *said = version;
            out.push(Effect::Event(Event::Scaled { stage, version }));
        }
    }

    /// Starts who waits for the next stage to know of it.
    fn launch_known(&mut self, now: Time, stage: u16, out: &mut Vec<Effect>) {
        let waiting =
            |t: &&Task| t.id.stage == stage && t.epoch == t.base && matches!(t.state, State::Waiting { .. });
        let waiting: Vec<TaskId> = self.tasks.values().filter(waiting).map(|t| t.id).collect();
        for id in waiting {
            if !self.is_parked(id) {
                self.launch(now, id, None, out);
            }
        }
    }

    /// Some task of the next stage does not know of it yet, and would refuse it.
    pub(super) fn is_parked(&self, id: TaskId) -> bool {
        let all = self.plan.stage_tasks(id.stage).len();
        let mut next = self.tasks.values().filter(|t| t.id.stage == id.stage + 1);
        next.any(|t| t.conn().is_some() && t.knows < all)
    }

    /// All that are routed to have had a process that was ready.
    fn has_begun(&self, stage: u16) -> bool {
        let active = self.plan.active(stage);
        let mut active = active.iter().filter_map(|id| self.tasks.get(id));
        active.all(|t| t.was_done || matches!(t.state, State::Attached { started: true, .. }))
    }

    /// Who was taken out, has ended and is needed by nobody goes.
    fn retire(&mut self, now: Time, stage: u16, out: &mut Vec<Effect>) {
        let version = self.plan.version(stage);
        let routed = self.released(stage) == version && self.routers(stage).all(|t| t.routed >= version);
        let Some(id) = self.retiring(stage).filter(|_| routed) else {
            return;
        };
        // Nobody may need what it handed over any more.
        if !self.has_moved(stage, |t| t != id) {
            return;
        }
        let Some(task) = self.tasks.get_mut(&id).filter(|t| t.was_done) else {
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
        let peers = self.peers(id);
        let peers = peers.iter().filter_map(|t| self.tasks.get(t));
        let senders = self.routers(stage).chain(peers);
        for conn in senders.filter_map(Task::conn).collect::<Vec<_>>() {
            let message = ToWorker::Gone(id);
            out.push(Effect::Send { conn, message });
        }
    }

    /// A worker's plan as far as changes have come.
    pub(super) fn plan_now(&mut self, id: TaskId, epoch: Epoch) -> TaskPlan {
        let next = id.stage + 1;
        let mut plan = self.plan.task_plan_until(id, epoch, self.released(next));
        if !self.plan.exactly_once {
            // Nothing is left of earlier processes: it begins with the table in force, or if that is not settled with the
            // one before, so that it tells who was taken out.
            let unsettled = !self.is_settled(next);
            let version = self.plan.version(next).saturating_sub(u32::from(unsettled));
            plan.routes.retain(|r| r.version > version);
            plan.downstream = self.plan.route(next, version);
            plan.route = version;
            plan.upstream
                .retain(|t| !self.tasks.get(t).is_some_and(|t| t.retired));
        }
        let all = id
            .stage
            .checked_sub(1)
            .map_or(0, |up| self.plan.stage_tasks(up).len());
        if let Some(task) = self.tasks.get_mut(&id) {
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
        if let Some(task) = self.tasks.get_mut(&id) {
            let upto = tasks.iter().map(|t| usize::from(t.index) + 1).max().unwrap_or(0);
            task.knows = task.knows.max(upto);
        }
        self.advance(now, out);
    }

    /// The tasks on each node that have work, for placing new ones.
    pub(super) fn load_of(&self, node: &NodeName, but: TaskId) -> usize {
        let on_it = self.tasks.values().filter(|t| t.id != but && t.node == *node);
        on_it.filter(|t| !t.is_done()).count()
    }
}
