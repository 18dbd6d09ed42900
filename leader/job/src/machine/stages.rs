//! What a job's stages stand at: rules that need only the plan, the tasks and how far changes have come.

use common::ids::TaskId;

use super::mutants::Mutant;
use super::rollout::Rollout;
use super::task::{State, Task};
use super::tasks::TaskTable;
use crate::autoscale::Load;
use crate::plan::Plan;

#[derive(Clone, Copy)]
pub(super) struct Stages<'a> {
    pub plan: &'a Plan,
    pub tasks: &'a TaskTable,
    pub rollout: &'a Rollout,
}

impl<'a> Stages<'a> {
    /// Those that are scaled.
    pub fn scaled(self) -> impl Iterator<Item = u16> + use<> {
        1..self.plan.stages.len() as u16
    }

    /// Tasks of the stage before that may still route.
    pub fn routers(self, stage: u16) -> impl Iterator<Item = &'a Task> {
        let before = self.tasks.iter().filter(move |t| t.id.stage + 1 == stage);
        before.filter(|t| !t.retired)
    }

    /// No change of the stage's routing is under way.
    pub fn is_settled(self, stage: u16) -> bool {
        let version = self.plan.version(stage);
        version == 0
            || (self.all_route_by(stage, version)
                && self.retiring(stage).is_none()
                && self.has_moved(stage, |_| true))
    }

    pub fn all_settled(self) -> bool {
        self.scaled().all(|stage| self.is_settled(stage))
    }

    /// The version is released, and no task of the stage before can fall behind it.
    pub fn all_route_by(self, stage: u16, version: u32) -> bool {
        self.rollout.released(stage) == version && self.routers(stage).all(|t| t.routed >= version)
    }

    /// The other tasks of the stage, where they hand state over to each other.
    pub fn peers(self, id: TaskId) -> Vec<TaskId> {
        let peers = self.tasks.of_stage(id.stage).map(|t| t.id).filter(|t| *t != id);
        match self.plan.moves_state(id.stage) {
            true => peers.collect(),
            false => vec![],
        }
    }

    /// Those of the stage's tasks for which `which` says so have put its newest version in force, or have finished without: where
    /// no state moves nothing is to be waited for.
    pub fn has_moved(self, stage: u16, which: impl Fn(TaskId) -> bool) -> bool {
        let version = self.plan.version(stage);
        let mut tasks = self.tasks.of_stage(stage).filter(|t| !t.retired);
        !self.plan.moves_state(stage) || tasks.all(|t| !which(t.id) || t.was_done || t.moved >= version)
    }

    /// A change of the stage could move its state now: none of its tasks finishes before all upstream tasks that there are. One that
    /// did would know nothing of a mark that comes later, and would have given its results out.
    pub fn can_move(self, stage: u16) -> bool {
        let active = self.plan.active(stage);
        let knows = |id: &TaskId| {
            let task = self.tasks.get(*id).filter(|t| t.conn().is_some());
            task.is_some_and(|t| t.report.awaits as usize == self.plan.upstream(*id).len())
        };
        !self.plan.moves_state(stage) || active.iter().all(knows)
    }

    /// Who was taken out and is not gone yet.
    pub fn retiring(self, stage: u16) -> Option<TaskId> {
        let mut of_stage = self.tasks.of_stage(stage).filter(|t| !t.retired);
        of_stage.find(|t| self.plan.is_out(t.id)).map(|t| t.id)
    }

    /// All that are routed to have had a process that was ready.
    pub fn has_begun(self, stage: u16) -> bool {
        let active = self.plan.active(stage);
        let mut active = active.iter().filter_map(|id| self.tasks.get(*id));
        active.all(|t| t.was_done || matches!(t.state, State::Attached { started: true, .. }))
    }

    /// Some task of the next stage does not know of it yet, and would refuse it.
    pub fn is_parked(self, id: TaskId) -> bool {
        if Mutant::StartUnannounced.is_on() {
            return false;
        }
        let all = self.plan.stage_tasks(id.stage).len();
        let mut next = self.tasks.of_stage(id.stage + 1);
        next.any(|t| t.conn().is_some() && t.knows < all)
    }

    /// Is there an upstream task that may still want this task's acknowledgement? Without a log a receiver, too, may need it: its
    /// next process has to be told again that this task has ended.
    pub fn needed(self, id: TaskId) -> bool {
        let Some(task) = self.tasks.get(id).filter(|t| !t.retired) else {
            return false;
        };
        if Mutant::LeaveDone.is_on() {
            return false;
        }
        // It has to say its end to who came later.
        if task.routed < self.rollout.released(id.stage + 1) {
            return true;
        }
        let receivers = match self.plan.exactly_once {
            true => vec![],
            false => self.plan.downstream(id),
        };
        // Where no routing was changed no state has moved.
        let peers = match self.plan.version(id.stage) {
            0 => vec![],
            _ => self.peers(id),
        };
        let senders = self.plan.upstream(id).into_iter().chain(peers);
        let neighbours = senders.chain(receivers);
        // Who routes past it for good has no use for it.
        let (out, version) = (self.plan.is_out(id), self.plan.version(id.stage));
        let past = |n: &Task| out && n.id.stage < id.stage && n.routed >= version;
        neighbours
            .filter_map(|n| self.tasks.get(n))
            .any(|n| !n.is_done() && !past(n))
    }

    /// What the autoscaler is to decide on.
    pub fn loads(self) -> Vec<Load> {
        let Some(scaling) = self.plan.scaling else {
            return vec![];
        };
        let load = |stage: u16| {
            let active = self.plan.active(stage);
            let tasks: Vec<&Task> = active.iter().filter_map(|id| self.tasks.get(*id)).collect();
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
        self.scaled().map(load).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::ConnId;
    use crate::plan::Change;
    use crate::plan::sample::sample;
    use common::clock::Time;
    use common::ids::NodeName;

    /// Two sources and two tasks, of which the second came with the first change.
    fn scaled() -> (Plan, TaskTable, Rollout) {
        let node = NodeName::new("n1").unwrap();
        let mut plan = sample(1, 1, 2, std::slice::from_ref(&node));
        let tasks = vec![TaskId::new(1, 0), TaskId::new(1, 1)];
        plan.apply(&Change::Scale {
            stage: 1,
            version: 1,
            tasks,
        });
        let tasks = plan.tasks().map(|id| Task::new(id, node.clone())).collect();
        let rollout = Rollout::of(&plan);
        (plan, tasks, rollout)
    }

    #[test]
    fn a_change_is_over_when_it_is_released_and_all_route_by_it() {
        let (plan, mut tasks, mut rollout) = scaled();
        let settled = |tasks: &TaskTable, rollout: &Rollout| {
            let stages = Stages {
                plan: &plan,
                tasks,
                rollout,
            };
            stages.is_settled(1) && stages.all_settled()
        };
        for index in 0..2 {
            tasks.get_mut(TaskId::new(0, index)).unwrap().routed = 1;
        }
        assert!(!settled(&tasks, &rollout), "nobody was told");
        rollout.release(1, 1);
        assert!(settled(&tasks, &rollout));
        tasks.get_mut(TaskId::new(0, 1)).unwrap().routed = 0;
        assert!(!settled(&tasks, &rollout), "one may fall behind it");
        tasks.get_mut(TaskId::new(0, 1)).unwrap().retired = true;
        assert!(settled(&tasks, &rollout));
    }

    #[test]
    fn a_done_task_is_needed_as_long_as_a_sender_is_not_done() {
        let (plan, mut tasks, rollout) = scaled();
        let needed = |tasks: &TaskTable| {
            let stages = Stages {
                plan: &plan,
                tasks,
                rollout: &rollout,
            };
            stages.needed(TaskId::new(1, 0))
        };
        let done = State::Done {
            conn: None,
            lost: None,
        };
        tasks.get_mut(TaskId::new(0, 0)).unwrap().state = done;
        assert!(needed(&tasks));
        tasks.get_mut(TaskId::new(0, 1)).unwrap().state = done;
        assert!(!needed(&tasks));
    }

    #[test]
    fn a_stage_has_begun_when_each_of_its_tasks_was_ready() {
        let (plan, mut tasks, rollout) = scaled();
        let begun = |tasks: &TaskTable| {
            let stages = Stages {
                plan: &plan,
                tasks,
                rollout: &rollout,
            };
            stages.has_begun(1)
        };
        for index in 0..2 {
            assert!(!begun(&tasks));
            let (now, id) = (Time::from_millis(1), TaskId::new(1, index));
            let conn = ConnId(u64::from(index));
            let addr = "127.0.0.1:1".parse().unwrap();
            tasks.attach(now, conn, id, 1, addr).unwrap().state = State::Attached { conn, started: true };
        }
        assert!(begun(&tasks));
    }
}
