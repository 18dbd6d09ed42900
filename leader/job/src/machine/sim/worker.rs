//! A simulated process: registers, beats, works, fails at poison, is done when its input has ended and its receivers have
//! acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use common::exit::Exit;
use common::ids::{Epoch, NodeName, TaskId};
use protocol::control::{Failure, Report, Route, Slice, TaskPlan, ToLeader, ToWorker, Unit};

use super::{SimEvent, World};
use crate::machine::{ConnId, Input, resume};
use crate::plan::Plan;

#[derive(Debug, Clone)]
pub(super) struct Worker {
    pub task: TaskId,
    pub epoch: Epoch,
    pub node: NodeName,
    pub planned: bool,
    pub started: bool,
    pub stopped: bool,
    pub done: bool,
    pub work: u64,
    pub peers: BTreeMap<TaskId, Epoch>,
    pub slices: Vec<Slice>,
    pub follow: bool,
    pub drain: bool,
    pub careful: bool,
    pub skip: Vec<Unit>,
    /// Tasks whose ends it awaits.
    pub upstream: Vec<TaskId>,
    /// All that it ever had a channel to.
    pub downstream: BTreeSet<TaskId>,
    /// The newest routing that it knows, and those in it.
    pub route: u32,
    pub targets: Vec<TaskId>,
    pub gone: BTreeSet<TaskId>,
}

impl World {
    pub(super) fn up(&mut self, task: TaskId, epoch: Epoch) {
        self.conns += 1;
        let conn = ConnId(self.conns);
        // A late one: its place may have been taken. The node of the newest launch is near enough.
        let Some((_, node)) = self.launched.get(&task).cloned() else {
            return;
        };
        if self.down.contains(&node) || self.job.is_none() {
            return;
        }
        let worker = Worker {
            task,
            epoch,
            node,
            planned: false,
            started: false,
            stopped: false,
            done: false,
            // More than there is poison: every process meets all of it that it is not told to pass over.
            work: 4 + self.rng.below(6),
            peers: BTreeMap::new(),
            slices: vec![],
            follow: false,
            drain: false,
            careful: false,
            skip: vec![],
            upstream: vec![],
            downstream: BTreeSet::new(),
            route: 0,
            targets: vec![],
            gone: BTreeSet::new(),
        };
        self.workers.insert(conn, worker);
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        self.give(Input::Registered {
            conn,
            task,
            epoch,
            pid: self.conns as u32,
            addr,
        });
    }

    pub(super) fn receive(&mut self, conn: ConnId, message: ToWorker) {
        let Some(mut w) = self.workers.get(&conn).cloned() else {
            return;
        };
        match message {
            ToWorker::Plan(plan) => {
                let id = (plan.task, plan.epoch);
                assert_eq!(id, (w.task, w.epoch), "seed {}", self.seed);
                assert_eq!(
                    Some(w.epoch),
                    self.launched.get(&w.task).map(|l| l.0),
                    "seed {}: not the newest",
                    self.seed
                );
                assert!(
                    self.planned.insert(id),
                    "seed {}: {id:?} planned twice",
                    self.seed
                );
                self.is_stored(&plan);
                w.planned = true;
                w.upstream = plan.upstream;
                w.route = plan.route;
                w.targets.clone_from(&plan.downstream);
                w.downstream.extend(&plan.downstream);
                for route in plan.routes {
                    w.hear(route);
                }
                if !self.plan.exactly_once {
                    self.logged.insert(w.task, plan.route);
                    self.routed.insert(w.task, plan.route);
                }
                w.slices = plan.slices;
                self.sees(&w);
                (w.follow, w.drain, w.careful, w.skip) = (plan.follow, plan.drain, plan.careful, plan.skip);
                let delay = 5 + self.rng.below(100);
                self.at(delay, SimEvent::Step(conn));
            }
            ToWorker::Slices(more) => {
                w.slices.extend(more);
                self.sees(&w);
            }
            ToWorker::Drain => {
                let stored = resume(&self.durable, Epoch(2)).expect("a job that runs");
                assert!(stored.plan.drain, "seed {}: drained too early", self.seed);
                w.drain = true;
            }
            ToWorker::Peers(peers) => w.peers.extend(peers.into_iter().map(|p| (p.task, p.epoch))),
            ToWorker::Beat { .. } | ToWorker::Rate(_) => {}
            ToWorker::Upstream(tasks) => {
                self.is_known(&tasks);
                w.upstream.extend(&tasks);
                let delay = self.rng.below(300);
                let message = ToLeader::Knows(tasks);
                self.at(delay, SimEvent::Tell(Input::Message { conn, message }));
            }
            ToWorker::Route(route) => {
                self.is_known(&route.tasks);
                assert!(
                    route.tasks.iter().all(|t| self.ready.contains(t)),
                    "seed {}: released before all are ready",
                    self.seed
                );
                w.hear(route);
            }
            ToWorker::Gone(task) => drop(w.gone.insert(task)),
            ToWorker::Finish | ToWorker::Refused { .. } => {
                if !w.stopped {
                    self.workers.remove(&conn);
                    return;
                }
            }
        }
        self.workers.insert(conn, w);
    }

    /// Whatever becomes of this leader, the next one knows what a process was told.
    fn is_stored(&self, plan: &TaskPlan) {
        let stored = resume(&self.durable, Epoch(2)).expect("a job that runs").plan;
        let theirs = stored.task_plan(plan.task, plan.epoch);
        let seed = self.seed;
        assert!(
            plan.routes
                .iter()
                .all(|r| theirs.routes.contains(r) || !plan.exactly_once),
            "seed {seed}: routes"
        );
        assert!(
            plan.upstream.iter().all(|u| theirs.upstream.contains(u)) || !plan.exactly_once,
            "seed {seed}: upstream"
        );
        assert!(theirs.slices.starts_with(&plan.slices), "seed {seed}: slices");
        assert!(!plan.drain || theirs.drain, "seed {seed}: drain");
        assert!(
            plan.skip.iter().all(|u| theirs.skip.contains(u)),
            "seed {seed}: skip"
        );
    }

    fn is_known(&self, tasks: &[TaskId]) {
        let stored = resume(&self.durable, Epoch(2)).expect("a job that runs").plan;
        let all: BTreeSet<TaskId> = stored.tasks().collect();
        assert!(
            tasks.iter().all(|t| all.contains(t)) || !self.plan.exactly_once,
            "seed {}: told too early",
            self.seed
        );
    }

    /// What a process does about the routing: it logs a new version, and once who is out has its end mark and has said so,
    /// no restart falls behind it.
    fn routing(&mut self, w: &Worker) {
        let logged = self.logged.entry(w.task).or_default();
        if *logged < w.route {
            *logged = w.route;
            if !self.ended.contains(&w.task) {
                // From now on they may have got something.
                self.fed.extend(w.targets.iter().copied());
                self.mark(w);
            }
        }
        // No restart falls behind what was routed before: who was out by then is not needed.
        let routed = self.routed.get(&w.task).copied().unwrap_or(0);
        let plan = self.job.as_ref().map_or(&self.plan, |job| job.plan());
        let had = |d: &TaskId| (routed..w.route).any(|v| plan.route(d.stage, v).contains(d));
        let out = w.downstream.iter().filter(|d| !w.targets.contains(d) && had(d));
        // Who is done has told all, and heard that it arrived.
        let told = out
            .filter(|d| !w.gone.contains(d))
            .all(|d| w.done || self.is_there(w, *d));
        if told && *self.logged.entry(w.task).or_default() == w.route {
            self.routed.insert(w.task, w.route);
        }
    }

    /// With all changes, those that a dead leader's journal holds.
    fn plan_so_far(&self) -> Plan {
        match &self.job {
            Some(job) => job.plan().clone(),
            None => resume(&self.durable, Epoch(2)).expect("a job that runs").plan,
        }
    }

    /// Where the next stage's state moves: everybody there, and who comes, meets a mark.
    fn mark(&mut self, w: &Worker) {
        let stage = w.task.stage + 1;
        if !self.plan.moves_state(stage) {
            return;
        }
        let plan = self.plan_so_far();
        // One that came later begins by its version, and marks those that follow.
        if w.route <= plan.born(w.task).down {
            return;
        }
        let both = plan
            .route(stage, w.route - 1)
            .into_iter()
            .chain(w.targets.clone());
        for task in both {
            assert!(
                !self.ended.contains(&task),
                "seed {}: {} marks version {} for {task}, which has finished\n{}",
                self.seed,
                w.task,
                w.route,
                self.trace
            );
        }
        let marked = self.marked.entry(stage).or_default();
        *marked = (*marked).max(w.route);
    }

    /// Where its own stage's state moves: puts a version in force when all upstream tasks route by it or have ended, and all that
    /// is handed over to it has come; no restart falls behind it once what it hands over has arrived. True: nothing is to be done.
    fn moving(&mut self, w: &Worker) -> bool {
        let stage = w.task.stage;
        if !self.plan.moves_state(stage) || self.ended.contains(&w.task) {
            return true;
        }
        let plan = self.plan_so_far();
        let came = plan.came_with(w.task).saturating_sub(1);
        let moved = self.moved.get(&w.task).copied().unwrap_or(came);
        let version = self.marked.get(&stage).copied().unwrap_or(0);
        if moved >= version {
            return true;
        }
        assert_eq!(
            moved + 1,
            version,
            "seed {}: {} fell behind\n{}",
            self.seed,
            w.task,
            self.trace
        );
        let by = |t: &TaskId| self.logged.get(t).copied().unwrap_or(0);
        let aligned = w
            .upstream
            .iter()
            .all(|t| self.ended.contains(t) || by(t) >= version);
        let (before, after) = (plan.route(stage, moved), plan.route(stage, version));
        let is_new = !before.contains(&w.task);
        let mut givers = before
            .iter()
            .filter(|t| **t != w.task && (is_new || !after.contains(t)));
        let come = givers.all(|t| self.given.get(t).copied().unwrap_or(0) >= version);
        if !aligned || !come {
            return false;
        }
        self.given.insert(w.task, version);
        // Who takes must be there, where this process was told.
        let stays = after.contains(&w.task);
        let mut takers = after
            .iter()
            .filter(|t| **t != w.task && (!stays || !before.contains(t)));
        if takers.all(|t| self.is_there(w, *t)) {
            self.moved.insert(w.task, version);
            self.moves += 1;
            return true;
        }
        false
    }

    /// An upstream task has sent its end mark to `task`: all has ended for it, or it routes past it.
    fn has_told(&self, plan: &Plan, up: &TaskId, task: TaskId) -> bool {
        let logged = self.logged.get(up).copied().unwrap_or(0);
        let out = (0..=logged)
            .rev()
            .find(|v| plan.route(task.stage, *v).contains(&task));
        let begun = out.is_some();
        self.ended.contains(up) && (begun || !plan.active(task.stage).contains(&task))
            || (begun && !plan.route(task.stage, logged).contains(&task))
    }

    /// A slice keeps its index for ever, whichever process of the task hears of it, and how.
    fn sees(&mut self, w: &Worker) {
        let seen = self.seen.entry(w.task).or_default();
        assert!(
            w.slices.starts_with(seen),
            "seed {}: {} had {seen:?}, now {:?}\n{}",
            self.seed,
            w.task,
            w.slices,
            self.trace
        );
        seen.clone_from(&w.slices);
    }

    pub(super) fn step(&mut self, conn: ConnId) {
        let Some(w) = self.workers.get(&conn).cloned() else {
            return;
        };
        if w.stopped || !w.planned {
            return;
        }
        if self.plan.exactly_once {
            let fence = self.fence.entry(w.task).or_default();
            if w.epoch < *fence {
                return self.die(conn, Exit::Code(3), false);
            }
            *fence = w.epoch;
        } else if w.epoch <= self.base
            || self
                .launched
                .get(&w.task)
                .is_some_and(|(newest, _)| w.epoch < *newest)
        {
            // Its successor begins anew: what this one still does, until it notices, is nobody's.
            return;
        }
        let stuck = self.poison.get(&w.task).and_then(|all| {
            let unit = all.iter().find(|unit| unit.number == w.work)?;
            (!w.skip.contains(unit)).then_some(*unit)
        });
        if let (true, Some(unit)) = (w.started, stuck) {
            let named = w.careful || self.rng.chance(50);
            let failure = Failure {
                what: "boom".into(),
                key: named.then(|| format!("key {}", unit.number)),
                unit: named.then_some(unit),
                stderr: vec![],
                fatal: false,
            };
            self.give(Input::Message {
                conn,
                message: ToLeader::Failed(failure),
            });
            return self.die(conn, Exit::Code(1), false);
        }
        self.at(200, SimEvent::Step(conn));
        let still = if w.started {
            self.routing(&w);
            self.moving(&w)
        } else {
            false
        };
        let message = if !w.started {
            self.ready.insert(w.task);
            ToLeader::Started { replayed: 0 }
        } else if w.done {
            self.beat(&w)
        } else if w.work > 0 {
            ToLeader::Beat(Report {
                tuples_in: self.now.0,
                ..self.report(&w)
            })
        } else {
            let plan = self
                .job
                .as_ref()
                .map_or(self.plan.clone(), |job| job.plan().clone());
            let fed = match w.follow {
                true => w.drain,
                false => still && w.upstream.iter().all(|up| self.has_told(&plan, up, w.task)),
            };
            if fed && self.ended.insert(w.task) {
                for up in plan.upstream(w.task).iter().filter(|up| self.fed.contains(up)) {
                    assert!(
                        self.has_told(&plan, up, w.task),
                        "seed {}: {} ended before {up}, which it did not know\n{}",
                        self.seed,
                        w.task,
                        self.trace
                    );
                }
            }
            let mut targets = w.targets.iter();
            let acked = targets.all(|down| self.acknowledges(&w, *down));
            let settled = self.routed.get(&w.task).copied().unwrap_or(0) == w.route;
            match (fed && acked && settled, self.beat(&w)) {
                (true, ToLeader::Beat(report)) => ToLeader::Done(report),
                (_, beat) => beat,
            }
        };
        let mut seen = false;
        if let Some(w) = self.workers.get_mut(&conn) {
            w.started = true;
            w.work = w.work.saturating_sub(1);
            if let ToLeader::Done(_) = message {
                w.done = true;
                seen = true;
            }
        }
        let job = self.job.as_ref();
        if seen
            && job
                .and_then(|j| j.task(w.task))
                .is_some_and(|t| t.conn() == Some(conn))
        {
            self.said_done.insert(w.task);
            self.ever_done.insert(w.task);
        }
        self.give(Input::Message { conn, message });
    }

    fn beat(&self, w: &Worker) -> ToLeader {
        ToLeader::Beat(self.report(w))
    }

    fn report(&self, w: &Worker) -> Report {
        let upstream: BTreeSet<TaskId> = w.upstream.iter().copied().collect();
        Report {
            routed: self.routed.get(&w.task).copied().unwrap_or(0),
            moved: self.moved.get(&w.task).copied().unwrap_or(0),
            awaits: match self.ended.contains(&w.task) {
                true => 0,
                false => upstream.len() as u32,
            },
            ..Report::default()
        }
    }

    fn is_there(&self, w: &Worker, down: TaskId) -> bool {
        let Some(epoch) = w.peers.get(&down) else {
            return false;
        };
        let mut all = self.workers.values();
        all.any(|r| r.task == down && r.epoch == *epoch && r.started && !r.stopped && r.planned)
    }

    /// The receiver as `w` knows it lives, has started, and has ended (it consumed all there is).
    fn acknowledges(&self, w: &Worker, down: TaskId) -> bool {
        let Some(epoch) = w.peers.get(&down) else {
            return false;
        };
        self.workers
            .values()
            .any(|r| r.task == down && r.epoch == *epoch && r.started && !r.stopped && r.planned)
            && (self.ended.contains(&down) || self.ended.contains(&w.task))
    }

    pub(super) fn die(&mut self, conn: ConnId, exit: Exit, silent: bool) {
        let Some(w) = self.workers.remove(&conn) else {
            return;
        };
        if silent {
            return;
        }
        let (a, b) = (self.rng.below(30), self.rng.below(200));
        self.at(a, SimEvent::Tell(Input::ConnClosed { conn }));
        // The exit may be told before, after, or never.
        if self.rng.chance(90) {
            self.at(
                b,
                SimEvent::Tell(Input::Exited {
                    task: w.task,
                    epoch: w.epoch,
                    exit,
                    stderr: vec![],
                }),
            );
        }
    }
}

impl Worker {
    fn hear(&mut self, route: Route) {
        if route.version > self.route {
            self.route = route.version;
            self.downstream.extend(&route.tasks);
            self.targets = route.tasks;
        }
    }
}
