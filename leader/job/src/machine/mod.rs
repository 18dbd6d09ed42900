//! A running job: which process of each task is the right one, when it is given up, where its successor starts, and
//! when all is done. A state machine without I/O: `handle(now, input, &mut effects)`.
//!
//! ```text
//!             Launch                Register             Done
//!   Waiting --------> Launching --------------> Attached ------> Done
//!      ^                  | exit, 10 s             | closed,      | closed, and an upstream task is not done:
//!      |                  |                        | silent, node | it still needs somebody to acknowledge
//!      +------------------+------------------------+ failed       |
//!      +----------------------------------------------------------+
//! ```
//! Every launch has the next epoch; each epoch is launched once and given its plan once. Older processes may live on
//! (stopped, cut off): they are refused here and fenced in HyDFS.
//!
//! ```text
//!   tasks      the tasks, and which connection is whose       pending    changes that are being stored
//!   processes  what was launched and has not ended            rollout    how far a stage's change has come
//!   nodes      where tasks may run                            stages     rules over plan, tasks and rollout
//!   intake     (files.rs) what the sources read               blame      whose fault a failure is
//!   shares     (share.rs) the sources' rates                  pace       what is done now and then
//! ```
//! The other files hold the steps that need several of them: what workers say (messages), what is lost (fail), what is stored
//! (change), how a stage is scaled (scale), how it all ends (end).

mod blame;
mod change;
mod effects;
mod end;
mod fail;
mod files;
mod messages;
mod mutants;
mod nodes;
mod pace;
mod pending;
mod processes;
mod resume;
mod rollout;
mod scale;
mod share;
#[cfg(test)]
mod sim;
mod stages;
mod task;
mod tasks;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use common::clock::Time;
use common::ids::{Epoch, NodeName, TaskId};
use protocol::control::ToWorker;

use crate::autoscale::Autoscaler;
use crate::plan::Plan;
pub use effects::{ConnId, Effect, Input, JobEvent};
use files::Intake;
pub use nodes::NO_NODE_WITHIN;
use nodes::Nodes;
use pace::Pace;
pub use pace::TICK;
use pending::PendingChanges;
use processes::Processes;
pub use processes::ZOMBIE_AFTER;
pub use resume::{ResumeError, Resumed, resume};
use rollout::Rollout;
use share::{Shares, Source};
use stages::Stages;
pub use task::{State, Task, Totals};
use tasks::TaskTable;

/// A launch that has not registered by then is given up.
pub const REGISTER_WITHIN: Duration = Duration::from_secs(10);
/// After a process's exit its connection's last words may still be on the way.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// A done task's process is gone: how long its upstream tasks have to become done as well.
const REVIVE_AFTER: Duration = Duration::from_secs(1);
/// A task that cannot be launched now is looked at again after this.
const LAUNCH_AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug, Clone)]
pub struct Config {
    pub lease: Duration,
    /// Failures of an operator at the same tuple before the job is failed or the tuple set aside.
    pub max_restarts: u32,
}

/// What the job's figures need besides its tasks'.
#[derive(Debug, Default)]
struct Tally {
    /// Tuples set aside, in the job's whole life.
    poisoned: u64,
    /// Tuples that were in the destination before this leader, and may come again: without exactly-once.
    before: u64,
    /// The sources' files that are UTF-16 or UTF-32; as many as the sources have at most.
    wide_files: BTreeSet<String>,
}

pub struct Job {
    plan: Plan,
    config: Config,
    /// This leader's processes have epochs above it.
    base: Epoch,
    tasks: TaskTable,
    processes: Processes,
    nodes: Nodes,
    pending: PendingChanges,
    intake: Intake,
    rollout: Rollout,
    autoscaler: Autoscaler,
    shares: Shares,
    pace: Pace,
    tally: Tally,
    over: bool,
}

impl Job {
    /// `nodes`: where tasks may run, in a fixed order; `failed`: those of them that are known to be down.
    pub fn new(plan: Plan, config: Config, nodes: Vec<NodeName>, failed: BTreeSet<NodeName>) -> Self {
        let nodes = Nodes::new(nodes, failed);
        // The cluster file may have changed since the job was planned.
        let planned = |id| plan.nodes.get(&id).filter(|node| nodes.contains(node));
        let tasks = plan.tasks().filter_map(|id| {
            let mut task = Task::new(id, planned(id).or(nodes.first())?.clone());
            task.routed = plan.born(id).down;
            Some(task)
        });
        Self {
            base: Epoch(0),
            tasks: tasks.collect(),
            processes: Processes::default(),
            pending: PendingChanges::default(),
            intake: Intake::of(&plan),
            rollout: Rollout::of(&plan),
            autoscaler: Autoscaler::default(),
            shares: Shares::default(),
            pace: Pace::default(),
            tally: Tally {
                poisoned: plan.skips.values().map(|units| units.len() as u64).sum(),
                ..Tally::default()
            },
            over: false,
            plan,
            config,
            nodes,
        }
    }

    /// A job that another leader began. See [`Job::new`].
    pub fn resumed(
        resumed: Resumed,
        config: Config,
        nodes: Vec<NodeName>,
        failed: BTreeSet<NodeName>,
    ) -> Self {
        let gone = resumed.gone();
        let Resumed {
            plan,
            base,
            done,
            settled,
            mut arrived,
            poisoned,
            before,
            ..
        } = resumed;
        let mut job = Self::new(plan, config, nodes, failed);
        (job.tally.poisoned, job.tally.before, job.base) = (poisoned, before, base);
        job.rollout.take_up(settled);
        for task in job.tasks.iter_mut() {
            task.retired = gone.contains(&task.id);
            task.was_done = task.retired;
            if task.retired || done.contains_key(&task.id) {
                task.routed = job.plan.version(task.id.stage + 1);
            }
            task.begin_after(base, done.get(&task.id).copied(), arrived.remove(&task.id));
        }
        job
    }

    fn stages(&self) -> Stages<'_> {
        Stages {
            plan: &self.plan,
            tasks: &self.tasks,
            rollout: &self.rollout,
        }
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.tasks.iter()
    }

    pub fn task(&self, id: TaskId) -> Option<&Task> {
        self.tasks.get(id)
    }

    /// This leader's processes have epochs above it.
    pub fn base(&self) -> Epoch {
        self.base
    }

    /// How many processes were replaced so far.
    pub fn restarts(&self) -> u32 {
        self.tasks.restarts()
    }

    pub fn is_over(&self) -> bool {
        self.over
    }

    /// The sources were told to end, or are about to be.
    pub fn is_draining(&self) -> bool {
        self.intake.is_draining()
    }

    /// Tuples that may be in the destination twice; at most so many.
    pub fn possible_duplicates(&self) -> u64 {
        match self.plan.exactly_once {
            true => 0,
            false => self.tally.before + self.tasks.iter().map(|t| t.totals.resent()).sum::<u64>(),
        }
    }

    /// How many tuples the destination's format could not say so that they can be read back.
    pub fn lossy(&self) -> u64 {
        self.tasks.iter().map(|t| t.totals.lossy).sum()
    }

    /// The sources' files, by what keys call them, that were read as lines though they are UTF-16 or UTF-32.
    pub fn wide_files(&self) -> &BTreeSet<String> {
        &self.tally.wide_files
    }

    /// How many tuples were set aside, in the job's whole life.
    pub fn poisoned(&self) -> u64 {
        self.tally.poisoned
    }

    pub fn handle(&mut self, now: Time, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::Begin => self.begin(now, out),
            Input::Registered {
                conn,
                task,
                epoch,
                pid,
                addr,
            } => self.registered(now, conn, (task, epoch), pid, addr, out),
            Input::Message { conn, message } => self.message(now, conn, message, out),
            Input::ConnClosed { conn } => self.conn_closed(now, conn, out),
            Input::Exited {
                task,
                epoch,
                exit,
                stderr,
            } => self.exited(now, task, epoch, exit, stderr, out),
            Input::LaunchFailed { task, epoch, why } => self.launch_failed(now, task, epoch, why, out),
            Input::NodeFailed(node) => self.node_failed(now, node, out),
            Input::NodeAlive(node) => {
                if self.nodes.revive(&node) {
                    out.push(Effect::Event(JobEvent::NodeBack { node }));
                }
            }
            Input::Files(files) => self.files(now, files, out),
            Input::Drain => self.drain(now, out),
            Input::SetRate(rate) => self.set_rate(now, rate, out),
            Input::Stored { ticket } => self.stored(now, ticket, out),
            Input::Stop { why } => self.give_up(why, out),
            Input::Tick => self.tick(now, out),
        }
    }

    fn begin(&mut self, now: Time, out: &mut Vec<Effect>) {
        for id in self.tasks.ids() {
            // One that came later has no place of its own.
            let task = self.tasks.get(id).filter(|_| self.plan.nodes.contains_key(&id));
            let planned = task.map(|t| t.node.clone());
            let usable = planned.filter(|node| !self.nodes.has_failed(node));
            self.launch(now, id, usable, out);
        }
    }

    /// Launches the next epoch of a task, on `node` or on the one that suits best; waits when there is none.
    fn launch(&mut self, now: Time, id: TaskId, node: Option<NodeName>, out: &mut Vec<Effect>) {
        if self.over {
            return;
        }
        let stages = self.stages();
        let (needed, parked) = (stages.needed(id), stages.is_parked(id));
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        // It was to come back for an upstream task that has become done meanwhile.
        if task.was_done && !needed {
            task.state = State::Done {
                conn: None,
                lost: Some(now),
            };
            return self.end_if_done(out);
        }
        // Its next plan is not durable yet; it is launched when that is. Nor is one that others would refuse.
        if task.held.is_some() || parked {
            return task.wait(now + LAUNCH_AGAIN);
        }
        match node.or_else(|| self.choose_node(now, id)) {
            Some(node) => self.launch_on(now, id, node, out),
            None => self.await_node(now, id, out),
        }
    }

    fn launch_on(&mut self, now: Time, id: TaskId, node: NodeName, out: &mut Vec<Effect>) {
        self.nodes.note_found();
        let Some(task) = self.tasks.get_mut(id) else {
            return;
        };
        let from = task.launch(now, node.clone());
        let (epoch, restarts) = (task.epoch, task.restarts);
        self.processes.launch(id, epoch, node.clone());
        if let Some(from) = from {
            out.push(Effect::Event(JobEvent::Restart {
                task: id,
                epoch,
                node: node.clone(),
                from,
                restarts,
            }));
        }
        self.forget_numbers_of(id);
        out.push(Effect::Launch {
            task: id,
            epoch,
            node,
        });
    }

    /// No node is left for it.
    fn await_node(&mut self, now: Time, id: TaskId, out: &mut Vec<Effect>) {
        if self.nodes.wait_for_one(now) {
            let seconds = NO_NODE_WITHIN.as_secs();
            self.give_up(format!("no node is left to run {id} on since {seconds} s"), out);
        } else if let Some(task) = self.tasks.get_mut(id) {
            task.wait(now + LAUNCH_AGAIN);
        }
    }

    /// Without exactly-once a new process numbers its tuples anew: the old numbers say nothing any more, and would set the
    /// wrong ones aside.
    fn forget_numbers_of(&mut self, id: TaskId) {
        if !self.plan.exactly_once {
            for units in self.plan.skips.values_mut() {
                units.retain(|unit| unit.from != id);
            }
        }
    }

    /// The live node with the fewest unfinished tasks.
    fn choose_node(&self, now: Time, id: TaskId) -> Option<NodeName> {
        let load = |node: &NodeName| self.tasks.load_of(node, id);
        self.nodes.choose(now, id, self.tasks.get(id), load)
    }

    fn node_failed(&mut self, now: Time, node: NodeName, out: &mut Vec<Effect>) {
        if !self.nodes.fail(&node) {
            return;
        }
        let hit = self.tasks.iter().filter(|t| t.node == node && t.runs());
        let hit: Vec<TaskId> = hit.map(|t| t.id).collect();
        out.push(Effect::Event(JobEvent::NodeFail {
            node: node.clone(),
            tasks: hit.len(),
        }));
        for id in hit {
            self.lost(now, id, &format!("its node {node} failed"), out);
        }
    }

    fn tick(&mut self, now: Time, out: &mut Vec<Effect>) {
        let missed = self.pace.tick(now);
        self.tasks.forgive(now, missed);
        for id in self.tasks.ids() {
            if self.over {
                break;
            }
            self.tick_task(now, id, out);
        }
        if self.pace.take_look(now) {
            self.advance(now, out);
            self.autoscale(now, out);
            self.share(now, out);
        }
        if let Some(late_ms) = self.pace.take_beat(now, self.config.lease) {
            let message = ToWorker::Beat { late_ms };
            out.extend(self.tasks.conns().map(|conn| Effect::Send {
                conn,
                message: message.clone(),
            }));
        }
        self.processes.kill_zombies(now, &self.nodes, out);
    }

    fn tick_task(&mut self, now: Time, id: TaskId, out: &mut Vec<Effect>) {
        let Some(task) = self.tasks.get(id) else { return };
        let is_silent = || self.tasks.is_silent(now, task, self.config.lease);
        match task.state {
            State::Waiting { until } if now >= until => self.launch(now, id, None, out),
            State::Launching { since } if now.since(since) >= REGISTER_WITHIN => {
                self.strike(
                    now,
                    id,
                    false,
                    format!(
                        "its process did not register within {} s",
                        REGISTER_WITHIN.as_secs()
                    ),
                    out,
                );
            }
            State::Attached { .. } if is_silent() => {
                let silent = now.since(task.last_heard);
                self.lost(
                    now,
                    id,
                    &format!("its process was silent for {} ms", silent.as_millis()),
                    out,
                );
            }
            State::Attached { .. } if task.exited.is_some_and(|at| now.since(at) >= LAST_WORDS) => {
                self.lost(now, id, "its process ended", out);
            }
            // A done process that is stopped or cut off cannot acknowledge either.
            State::Done { conn: Some(_), .. } if is_silent() => {
                self.lost(now, id, "its process was silent after its end", out);
            }
            State::Done {
                conn: None,
                lost: Some(at),
            } if now.since(at) >= REVIVE_AFTER && self.stages().needed(id) => {
                self.lost(now, id, "its process ended before its inputs' tasks did", out);
            }
            _ => {}
        }
    }

    /// Divides the input rate anew, if that is to be.
    fn share(&mut self, now: Time, out: &mut Vec<Effect>) {
        if self.over || self.plan.rate == 0 {
            return;
        }
        let sources = self.tasks.of_stage(0);
        let sources: Vec<Source> = sources
            .map(|t| Source {
                task: t.id,
                reads: matches!(t.state, State::Attached { started: true, .. }) && !t.report.exhausted,
                idle: t.report.idle,
                per_s: t.report.in_per_s,
                lines: t.totals.tuples_in,
                at: t.reported_at,
            })
            .collect();
        for (task, milli) in self.shares.divide(now, self.plan.rate, &sources) {
            self.tell_source(task, ToWorker::Rate(milli), out);
        }
    }
}
