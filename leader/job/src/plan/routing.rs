//! Which tasks a stage has: those of the start, those that came and those that were taken out since.

use std::collections::BTreeMap;

use common::ids::TaskId;
use protocol::control::{OpKind, OpSpec, Route};
use serde::{Deserialize, Serialize};

use super::Plan;

/// When a task is to have company, and when it is too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scaling {
    /// Tuples per second and task: below `low` there is one task fewer, above `high` one more.
    pub low: u64,
    pub high: u64,
    /// The most tasks of a stage.
    pub most: u16,
    /// Stages that keep state are scaled too: it moves between their tasks.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stateful: bool,
}

/// Where in the routing's history a task that came later began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Born {
    /// The version of the stage before's routing: who was out by then never speaks to it.
    pub up: u32,
    /// The version of the next stage's routing.
    pub down: u32,
}

/// Stages' routing tables after the first, and tasks that came later. An index is never used again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routing {
    /// By stage: versions 1, 2, ...
    versions: BTreeMap<u16, Vec<Vec<TaskId>>>,
    born: BTreeMap<TaskId, Born>,
}

impl Plan {
    /// The newest version of a stage's routing; 0: as it began.
    pub fn version(&self, stage: u16) -> u32 {
        self.routing.versions.get(&stage).map_or(0, |v| v.len() as u32)
    }

    /// The newest version of each stage that was ever changed.
    pub fn versions(&self) -> BTreeMap<u16, u32> {
        let stages = self.routing.versions.iter();
        stages.map(|(stage, v)| (*stage, v.len() as u32)).collect()
    }

    /// Stages have the tasks that they began with.
    pub fn unroute(&mut self) {
        self.routing = Routing::default();
    }

    /// The first version that has the task.
    pub fn came_with(&self, task: TaskId) -> u32 {
        let mut versions = 0..=self.version(task.stage);
        let first = versions.find(|v| self.route(task.stage, *v).contains(&task));
        first.unwrap_or(u32::MAX)
    }

    /// A stage's tasks in routing order, by that version.
    pub fn route(&self, stage: u16, version: u32) -> Vec<TaskId> {
        let later = (version as usize)
            .checked_sub(1)
            .and_then(|i| self.routing.versions.get(&stage)?.get(i));
        match later {
            Some(tasks) => tasks.clone(),
            None => {
                let tasks = self.stages.get(usize::from(stage)).map_or(0, |s| s.tasks);
                (0..tasks).map(|i| TaskId::new(stage, i)).collect()
            }
        }
    }

    /// The tasks that something is routed to.
    pub fn active(&self, stage: u16) -> Vec<TaskId> {
        self.route(stage, self.version(stage))
    }

    /// All tasks that a stage ever had.
    pub fn stage_tasks(&self, stage: u16) -> Vec<TaskId> {
        let born = self.routing.born.keys().filter(|t| t.stage == stage);
        let mut tasks = self.route(stage, 0);
        tasks.extend(born);
        tasks
    }

    pub fn born(&self, task: TaskId) -> Born {
        self.routing.born.get(&task).copied().unwrap_or_default()
    }

    /// Something was routed to it once, and is no more.
    pub fn is_out(&self, task: TaskId) -> bool {
        !self.active(task.stage).contains(&task)
    }

    /// All tasks that ever spoke to `task`, or will.
    pub fn upstream(&self, task: TaskId) -> Vec<TaskId> {
        let Some(stage) = task.stage.checked_sub(1) else {
            return vec![];
        };
        // Who began when it was out never speaks to it.
        let versions = |from: TaskId| self.born(from).down..=self.version(task.stage);
        let meets = |from: &TaskId| versions(*from).any(|v| self.route(task.stage, v).contains(&task));
        let mut all = self.since(stage, self.born(task).up);
        all.retain(meets);
        all
    }

    /// All tasks that `task` ever spoke to, or will.
    pub fn downstream(&self, task: TaskId) -> Vec<TaskId> {
        self.since(task.stage + 1, self.born(task).down)
    }

    fn since(&self, stage: u16, version: u32) -> Vec<TaskId> {
        let mut all = self.route(stage, version);
        for later in version + 1..=self.version(stage) {
            let more = self.route(stage, later);
            all.extend(more.into_iter().filter(|t| t.stage == stage));
        }
        all.sort();
        all.dedup();
        all
    }

    /// The routing of the next stage as `task` began with it, and what became of it until version `until`.
    pub(super) fn routes(&self, task: TaskId, until: u32) -> (u32, Vec<TaskId>, Vec<Route>) {
        let (next, from) = (task.stage + 1, self.born(task).down);
        let later = (from + 1..=until).map(|version| Route {
            version,
            tasks: self.route(next, version),
        });
        (from, self.route(next, from), later.collect())
    }

    /// A stage can gain and lose tasks: it keeps no state, or one that moves.
    pub fn scales(&self, stage: u16) -> bool {
        let op = self.stages.get(usize::from(stage)).and_then(|s| s.op.as_ref());
        op.is_some_and(|op| op.kind != OpKind::Aggregate) || self.moves_state(stage)
    }

    /// A stage's keys are divided by groups, which move between its tasks with their state.
    pub fn moves_state(&self, stage: u16) -> bool {
        let op = self.stages.get(usize::from(stage)).and_then(|s| s.op.as_ref());
        self.exactly_once
            && self.scaling.is_some_and(|scaling| scaling.stateful)
            && op.is_some_and(OpSpec::moves_state)
    }

    /// A stage's own routing, where its state moves with it, before the first version that the task takes part in putting in
    /// force.
    pub(super) fn owned(&self, task: TaskId) -> Option<Route> {
        let version = self.came_with(task).saturating_sub(1);
        self.moves_state(task.stage).then(|| Route {
            version,
            tasks: self.route(task.stage, version),
        })
    }

    /// The table with one task more, or without the one that came last.
    pub fn scaled(&self, stage: u16, up: bool) -> Option<(u32, Vec<TaskId>)> {
        let mut tasks = self.active(stage);
        if up {
            let index = u16::try_from(self.stage_tasks(stage).len()).ok()?;
            tasks.push(TaskId::new(stage, index));
        } else if tasks.len() > 1 {
            tasks.pop();
        } else {
            return None;
        }
        Some((self.version(stage) + 1, tasks))
    }

    pub(super) fn reroute(&mut self, stage: u16, version: u32, tasks: &[TaskId]) {
        if version != self.version(stage) + 1 {
            return;
        }
        let known = self.stage_tasks(stage);
        let born = Born {
            up: stage.checked_sub(1).map_or(0, |up| self.version(up)),
            down: self.version(stage + 1),
        };
        for task in tasks.iter().filter(|t| !known.contains(t)) {
            self.routing.born.insert(*task, born);
        }
        self.routing
            .versions
            .entry(stage)
            .or_default()
            .push(tasks.to_vec());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Change;
    use crate::plan::sample::sample;
    use common::ids::{Epoch, NodeName};

    #[test]
    fn tasks_that_come_later_know_what_they_need_and_no_more() {
        let mut plan = sample(3, 2, 2, &[NodeName::new("n1").unwrap()]);
        let change = |plan: &mut Plan, stage, up| {
            let (version, tasks) = plan.scaled(stage, up).unwrap();
            plan.apply(&Change::Scale {
                stage,
                version,
                tasks,
            });
        };
        let t = TaskId::new;
        change(&mut plan, 1, true);
        change(&mut plan, 2, true);
        change(&mut plan, 1, false);
        change(&mut plan, 2, true);
        assert_eq!(plan.active(1), [t(1, 0), t(1, 1)]);
        assert!(plan.is_out(t(1, 2)) && !plan.is_out(t(2, 3)));
        // The first began when s1t2 was there, the second after it was out.
        assert_eq!(plan.upstream(t(2, 2)), [t(1, 0), t(1, 1), t(1, 2)]);
        assert_eq!(plan.upstream(t(2, 3)), [t(1, 0), t(1, 1)]);
        assert_eq!(plan.upstream(t(2, 0)).len(), 3);
        let source = plan.task_plan(t(0, 0), Epoch(1));
        assert_eq!((source.route, source.downstream.len()), (0, 2));
        assert_eq!(
            source.routes.iter().map(|r| r.tasks.len()).collect::<Vec<_>>(),
            [3, 2]
        );
        let late = plan.task_plan(t(1, 2), Epoch(1));
        assert_eq!((late.route, late.downstream.len(), late.routes.len()), (0, 2, 2));
        change(&mut plan, 1, true);
        let later = plan.task_plan(t(1, 3), Epoch(1));
        assert_eq!(
            (later.route, later.downstream.len(), later.routes.len()),
            (2, 4, 0)
        );
        assert_eq!(plan.tasks().count(), 2 + 4 + 4 + 2);
        change(&mut plan, 3, false);
        assert!(plan.scaled(3, false).is_none());
        assert_eq!(plan.upstream(t(2, 1)).len(), 4);
        for _ in 0..3 {
            change(&mut plan, 2, false);
        }
        change(&mut plan, 1, true);
        assert_eq!(
            (plan.upstream(t(2, 0)).len(), plan.upstream(t(2, 1)).len()),
            (5, 4)
        );
        // A version that does not follow on is not a change of this plan.
        plan.apply(&Change::Scale {
            stage: 1,
            version: 9,
            tasks: vec![],
        });
        assert_eq!(plan.version(1), 4);
    }
}
