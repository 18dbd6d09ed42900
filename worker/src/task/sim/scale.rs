//! Stages that gain and lose tasks while they run, as the leader does it: downstream tasks know of a new one before it
//! begins, it begins before anybody routes to it, and one that is taken out goes when nobody can need it any more.

use protocol::control::Route;

use super::*;

/// The routing versions of a stage, and how far the change under way is.
#[derive(Debug, Default)]
pub(super) struct Routing {
    versions: Vec<Vec<TaskId>>,
    /// Upstream tasks may be told of versions up to this.
    released: u32,
}

impl Routing {
    pub(super) fn new(tasks: Vec<TaskId>) -> Self {
        Self {
            versions: vec![tasks],
            released: 0,
        }
    }

    fn newest(&self) -> u32 {
        self.versions.len() as u32 - 1
    }

    fn active(&self) -> &[TaskId] {
        self.versions.last().map_or(&[], Vec::as_slice)
    }

    fn since(&self, version: u32) -> Vec<TaskId> {
        let all: BTreeSet<TaskId> = self
            .versions
            .iter()
            .skip(version as usize)
            .flatten()
            .copied()
            .collect();
        all.into_iter().collect()
    }
}

impl World {
    /// What a process is told when it starts.
    pub(super) fn neighbours(&self, id: TaskId) -> Neighbours {
        let (up, down) = self.born.get(&id).copied().unwrap_or_default();
        let stage = usize::from(id.stage);
        let upstream = match stage {
            0 => vec![],
            s => self.routing[s - 1].since(up),
        };
        let versions = &self.routing[stage].versions;
        let came_with = versions.iter().position(|tasks| tasks.contains(&id));
        let version = came_with.unwrap_or(0).saturating_sub(1);
        let owned = (stage == 2 && self.flow.moves_state()).then(|| {
            let (version, tasks) = (version as u32, versions[version].clone());
            Route { version, tasks }
        });
        let Some(next) = self.routing.get(stage + 1) else {
            return Neighbours {
                upstream,
                is_last: true,
                owned,
                ..Neighbours::default()
            };
        };
        let later = (down + 1..=next.released).map(|version| Route {
            version,
            tasks: next.versions[version as usize].clone(),
        });
        Neighbours {
            upstream,
            is_last: false,
            downstream: next.versions[down as usize].clone(),
            version: down,
            routes: later.collect(),
            marks: stage == 1 && self.flow.moves_state(),
            owned,
        }
    }

    /// Is no change of any stage under way?
    pub(super) fn is_settled(&self) -> bool {
        (1..3).all(|stage| self.has_settled(stage))
    }

    fn has_settled(&self, stage: u16) -> bool {
        let routing = &self.routing[usize::from(stage)];
        let newest = routing.newest();
        let routed = |u: &TaskId| {
            let task = self.newest(*u).map(|p| &self.processes[p].task);
            task.is_some_and(|task| task.routed() >= newest)
        };
        routing.released == newest
            && self.routers(stage).iter().all(routed)
            && self.out(stage).iter().all(|t| self.gone.contains(t))
            && self.has_moved(stage, |_| true)
    }

    /// Another leader takes the job up: all tasks begin anew, and hear of a change that is under way only when the tasks that came
    /// with it have begun.
    pub(super) fn take_over(&mut self) {
        for stage in 1..3 {
            if !self.has_settled(stage) {
                let routing = &mut self.routing[usize::from(stage)];
                routing.released = routing.newest().saturating_sub(1);
                self.taken_over += 1;
            }
        }
        let ids: Vec<TaskId> = self.epochs.keys().copied().collect();
        for id in ids {
            if let Some(p) = self.newest(id) {
                self.crash(p);
            }
        }
    }

    /// All tasks of the stage for which `which` says so have put its newest version in force, or have ended.
    fn has_moved(&self, stage: u16, which: impl Fn(&TaskId) -> bool) -> bool {
        if stage != 2 || !self.flow.moves_state() {
            return true;
        }
        let newest = self.routing[2].newest();
        let tasks = self.tasks(2).into_iter().filter(which);
        tasks.filter(|t| !self.gone.contains(t)).all(|t| {
            let task = self.newest(t).map(|p| &self.processes[p].task);
            task.is_some_and(|task| task.moved() >= newest || task.is_finished())
        })
    }

    /// Upstream tasks of a stage that are still there.
    fn routers(&self, stage: u16) -> Vec<TaskId> {
        let all = self.tasks(stage - 1);
        all.into_iter().filter(|u| !self.gone.contains(u)).collect()
    }

    /// Tasks that nothing is routed to any more.
    fn out(&self, stage: u16) -> Vec<TaskId> {
        let active = self.routing[usize::from(stage)].active();
        self.tasks(stage)
            .into_iter()
            .filter(|t| !active.contains(t))
            .collect()
    }

    /// One step of the leader's.
    pub(super) fn scale(&mut self) {
        for stage in 1..3u16 {
            self.advance(stage);
        }
        if self.changes == 0 || !self.is_settled() {
            return;
        }
        self.changes -= 1;
        // A stage whose state cannot be moved is not scaled; where it can, all its tasks must know of all upstream tasks
        // before they finish.
        let stage = match self.flow {
            Flow::Inputs | Flow::Chance => 1,
            Flow::Random => self.rng.random_range(1..3u16),
            Flow::Count | Flow::Poison => 1 + u16::from(self.rng.random_bool(0.7)),
        };
        let knows = |id: &TaskId| {
            let task = self.newest(*id).map(|p| &self.processes[p].task);
            task.is_some_and(|task| task.awaits() as usize == self.neighbours(*id).upstream.len())
        };
        if stage == 2 && self.flow.moves_state() && !self.routing[2].active().iter().all(knows) {
            return;
        }
        let s = usize::from(stage);
        let mut tasks = self.routing[s].active().to_vec();
        if tasks.len() > 1 && self.rng.random_bool(0.5) {
            let index = self.rng.random_range(0..tasks.len());
            tasks.remove(index);
        } else {
            let id = TaskId::new(stage, self.shape[s]);
            let next = self.routing.get(s + 1).map_or(0, Routing::newest);
            self.born.insert(id, (self.routing[s - 1].newest(), next));
            self.shape[s] += 1;
            tasks.push(id);
            for task in self.tasks(stage + 1) {
                if let Some(p) = self.newest(task) {
                    self.give(p, Input::SendersAdded(vec![id]));
                }
            }
        }
        self.routing[s].versions.push(tasks);
    }

    fn advance(&mut self, stage: u16) {
        let s = usize::from(stage);
        let newest = self.routing[s].newest();
        if self.routing[s].released < newest {
            for id in self.routing[s].active().to_vec() {
                if self.newest(id).is_none() {
                    return self.start(id);
                }
            }
            self.routing[s].released = newest;
        }
        let routers = self.routers(stage);
        for u in &routers {
            if let Some(p) = self.newest(*u)
                && self.rng.random_bool(0.5)
            {
                let tasks = self.routing[s].active().to_vec();
                let route = Route {
                    version: newest,
                    tasks,
                };
                self.give(p, Input::RoutingChanged(route));
            }
        }
        let routed = |w: &Self, u: &TaskId| {
            w.newest(*u)
                .is_some_and(|p| w.processes[p].task.routed() >= newest)
        };
        if !routers.iter().all(|u| routed(self, u)) {
            return;
        }
        for id in self.out(stage) {
            if !self.has_moved(stage, |t| *t != id) {
                continue;
            }
            if let Some(p) = self.newest(id)
                && self.processes[p].task.is_finished()
            {
                self.processes.retain(|p| p.id != id);
                self.gone.insert(id);
                self.retired += 1;
            }
        }
    }
}
