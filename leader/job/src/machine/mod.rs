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

mod change;
mod effects;
mod end;
mod fail;
mod files;
mod messages;
mod resume;
mod scale;
mod share;
#[cfg(test)]
mod sim;
mod task;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::clock::Time;
use common::ids::{Epoch, NodeName, TaskId};
use common::lateness::{Lateness, patience};
use protocol::control::ToWorker;

use crate::autoscale::Autoscaler;
use crate::plan::{Change, Plan};
use crate::record::Ticket;
pub use effects::{ConnId, Effect, Event, Input};
use files::GivenFiles;
pub use resume::{ResumeError, Resumed, resume};
use share::{Shares, Source};
pub use task::{State, Task, Totals};

/// How often the driver gives a tick.
pub const TICK: Duration = Duration::from_millis(50);
/// How often rates are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A launch that has not registered by then is given up.
pub const REGISTER_WITHIN: Duration = Duration::from_secs(10);
/// How long a job waits for a node to come back when none is left.
pub const NO_NODE_WITHIN: Duration = Duration::from_secs(30);
/// A process that was given up while it may still live is killed after this; fencing keeps it harmless meanwhile.
pub const ZOMBIE_AFTER: Duration = Duration::from_secs(30);
/// After a process's exit its connection's last words may still be on the way.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// A done task's process is gone: how long its upstream tasks have to become done as well.
const REVIVE_AFTER: Duration = Duration::from_secs(1);
/// How long a node where a launch came to nothing is only used when there is no other.
const UNREACHABLE_FOR: Duration = Duration::from_secs(30);
/// Consecutive launches of one task that end by themselves before they register.
const MOST_STRIKES: u32 = 8;
/// The same for launches of which nothing was heard: only after this long.
const STRIKES_OVER: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub struct Config {
    pub lease: Duration,
    /// Failures of an operator at the same tuple before the job is failed or the tuple set aside.
    pub max_restarts: u32,
}

/// A process that was launched and whose end has not been seen.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    node: NodeName,
    pid: Option<u32>,
    /// When to kill it, for one that was given up.
    kill_at: Option<Time>,
    /// The launcher lost sight of it: its end will not be seen.
    out_of_sight: bool,
}

pub struct Job {
    plan: Plan,
    config: Config,
    tasks: BTreeMap<TaskId, Task>,
    conns: BTreeMap<ConnId, (TaskId, Epoch)>,
    processes: BTreeMap<(TaskId, Epoch), Process>,
    /// All nodes that tasks may run on, in the cluster file's order.
    nodes: Vec<NodeName>,
    failed_nodes: BTreeSet<NodeName>,
    /// Where a launch came to nothing, and when: membership may not have noticed, or may be out of this leader's sight.
    unreachable: BTreeMap<NodeName, Time>,
    no_node_since: Option<Time>,
    next_beat: Time,
    restarts: u32,
    over: bool,
    /// Changes of the plan that are being stored, in the order in which that ends.
    changes: BTreeMap<Ticket, Change>,
    last_ticket: Ticket,
    /// All files that were given to a source task, and how many slices each of these has; what is being stored counts.
    files: GivenFiles,
    slices: Vec<usize>,
    /// Those of them that are UTF-16 or UTF-32.
    wide_files: BTreeSet<String>,
    draining: bool,
    poisoned: u64,
    /// Tuples that were in the destination before this leader, and may come again: without exactly-once.
    before: u64,
    /// This leader's processes have epochs above it.
    base: Epoch,
    /// Up to which version of a stage's routing the stage before may be told.
    released: BTreeMap<u16, u32>,
    /// By stage: the newest version of which was said that all is over.
    settled: BTreeMap<u16, u32>,
    autoscaler: Autoscaler,
    next_look: Time,
    /// What led to the change that is being stored.
    why: String,
    shares: Shares,
    /// Of the ticks that the driver gives.
    lateness: Lateness,
}

impl Job {
    /// `nodes`: where tasks may run, in a fixed order; `failed`: those of them that are known to be down.
    pub fn new(plan: Plan, config: Config, nodes: Vec<NodeName>, failed: BTreeSet<NodeName>) -> Self {
        // The cluster file may have changed since the job was planned.
        let planned = |id| plan.nodes.get(&id).filter(|node| nodes.contains(node));
        let tasks = plan
            .tasks()
            .filter_map(|id| Some((id, Task::new(id, planned(id).or(nodes.first())?.clone()))))
            .map(|(id, task)| {
                let routed = plan.born(id).down;
                (id, Task { routed, ..task })
            })
            .collect();
        // Before the newest change was made, those before it were over.
        let newest = (1..plan.stages.len() as u16).map(|s| (s, plan.version(s).saturating_sub(1)));
        let released = newest.collect();
        Self {
            changes: BTreeMap::new(),
            last_ticket: Ticket(0),
            files: GivenFiles::of(plan.sources.iter().flatten()),
            slices: plan.sources.iter().map(Vec::len).collect(),
            wide_files: BTreeSet::new(),
            draining: plan.drain,
            poisoned: plan.skips.values().map(|units| units.len() as u64).sum(),
            before: 0,
            base: Epoch(0),
            released,
            settled: BTreeMap::new(),
            autoscaler: Autoscaler::default(),
            next_look: Time::ZERO,
            why: String::new(),
            shares: Shares::default(),
            lateness: Lateness::new(TICK),
            plan,
            config,
            tasks,
            conns: BTreeMap::new(),
            processes: BTreeMap::new(),
            nodes,
            failed_nodes: failed,
            unreachable: BTreeMap::new(),
            no_node_since: None,
            next_beat: Time::ZERO,
            restarts: 0,
            over: false,
        }
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.tasks.values()
    }

    pub fn task(&self, id: TaskId) -> Option<&Task> {
        self.tasks.get(&id)
    }

    /// How many processes were replaced so far.
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    pub fn is_over(&self) -> bool {
        self.over
    }

    /// The sources were told to end, or are about to be.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    /// Tuples that may be in the destination twice; at most so many.
    pub fn possible_duplicates(&self) -> u64 {
        match self.plan.exactly_once {
            true => 0,
            false => self.before + self.tasks.values().map(|t| t.totals.resent()).sum::<u64>(),
        }
    }

    /// How many tuples the destination's format could not say so that they can be read back.
    pub fn lossy(&self) -> u64 {
        self.tasks.values().map(|t| t.totals.lossy).sum()
    }

    /// The sources' files, by what keys call them, that were read as lines though they are UTF-16 or UTF-32.
    pub fn wide_files(&self) -> &BTreeSet<String> {
        &self.wide_files
    }

    /// How many tuples were set aside, in the job's whole life.
    pub fn poisoned(&self) -> u64 {
        self.poisoned
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
                if self.failed_nodes.remove(&node) {
                    self.unreachable.remove(&node);
                    out.push(Effect::Event(Event::NodeBack { node }));
                }
            }
            Input::Files(files) => self.files(files, out),
            Input::Drain => self.drain(out),
            Input::SetRate(rate) => self.set_rate(rate, out),
            Input::Stored { ticket } => self.stored(now, ticket, out),
            Input::Stop { why } => self.give_up(why, out),
            Input::Tick => self.tick(now, out),
        }
    }

    fn begin(&mut self, now: Time, out: &mut Vec<Effect>) {
        let ids: Vec<TaskId> = self.tasks.keys().copied().collect();
        for id in ids {
            // One that came later has no place of its own.
            let task = self.tasks.get(&id).filter(|_| self.plan.nodes.contains_key(&id));
            let planned = task.map(|t| t.node.clone());
            let usable = planned.filter(|node| !self.failed_nodes.contains(node));
            self.launch(now, id, usable, out);
        }
    }

    /// Launches the next epoch of a task, on `node` or on the one that suits best; waits when there is none.
    fn launch(&mut self, now: Time, id: TaskId, node: Option<NodeName>, out: &mut Vec<Effect>) {
        if self.over {
            return;
        }
        // It was to come back for an upstream task that has become done meanwhile.
        if let (false, Some(task)) = (self.needed(id), self.tasks.get_mut(&id).filter(|t| t.was_done)) {
            task.state = State::Done {
                conn: None,
                lost: Some(now),
            };
            self.end_if_done(out);
            return;
        }
        // Its next plan is not durable yet; it is launched when that is. Nor is one that others would refuse.
        let parked = self.is_parked(id);
        if let Some(task) = self.tasks.get_mut(&id).filter(|t| t.held.is_some() || parked) {
            task.state = State::Waiting {
                until: now + Duration::from_millis(100),
            };
            return;
        }
        let Some(node) = node.or_else(|| self.choose_node(now, id)) else {
            let since = *self.no_node_since.get_or_insert(now);
            if now.since(since) >= NO_NODE_WITHIN {
                self.give_up(
                    format!(
                        "no node is left to run {id} on since {} s",
                        NO_NODE_WITHIN.as_secs()
                    ),
                    out,
                );
            } else if let Some(task) = self.tasks.get_mut(&id) {
                task.state = State::Waiting {
                    until: now + Duration::from_millis(100),
                };
            }
            return;
        };
        self.no_node_since = None;
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        let from = std::mem::replace(&mut task.node, node.clone());
        task.epoch = Epoch(task.epoch.0 + 1);
        task.state = State::Launching { since: now };
        task.pid = None;
        task.addr = None;
        let epoch = task.epoch;
        self.processes.insert(
            (id, epoch),
            Process {
                node: node.clone(),
                pid: None,
                kill_at: None,
                out_of_sight: false,
            },
        );
        if epoch.0 > task.base.0 + 1 {
            task.restarts += 1;
            self.restarts += 1;
            let restarts = task.restarts;
            out.push(Effect::Event(Event::Restart {
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

    /// Without exactly-once a new process numbers its tuples anew: the old numbers say nothing any more, and would set the
    /// wrong ones aside.
    fn forget_numbers_of(&mut self, id: TaskId) {
        if !self.plan.exactly_once {
            for units in self.plan.skips.values_mut() {
                units.retain(|unit| unit.from != id);
            }
        }
    }

    /// The live node with the fewest unfinished tasks; one that answers, and where this task has not just failed, if there is
    /// one.
    fn choose_node(&self, now: Time, id: TaskId) -> Option<NodeName> {
        let avoid = self.tasks.get(&id).map(|t| (&t.avoid, &t.node));
        let load = |node: &NodeName| self.load_of(node, id);
        let live = self
            .nodes
            .iter()
            .filter(|node| !self.failed_nodes.contains(*node));
        live.enumerate()
            .min_by_key(|(i, node)| {
                let (avoided, last) =
                    avoid.map_or((false, false), |(set, last)| (set.contains(*node), last == *node));
                let unreachable = self.unreachable.get(*node);
                (
                    unreachable.is_some_and(|at| now.since(*at) < UNREACHABLE_FOR),
                    avoided,
                    last && avoided,
                    load(node),
                    (i + self.nodes.len() - usize::from(id.index) % self.nodes.len()) % self.nodes.len(),
                )
            })
            .map(|(_, node)| node.clone())
    }

    fn node_failed(&mut self, now: Time, node: NodeName, out: &mut Vec<Effect>) {
        if !self.failed_nodes.insert(node.clone()) {
            return;
        }
        let hit: Vec<TaskId> = self
            .tasks
            .values()
            .filter(|t| t.node == node && t.runs())
            .map(|t| t.id)
            .collect();
        out.push(Effect::Event(Event::NodeFail {
            node: node.clone(),
            tasks: hit.len(),
        }));
        for id in hit {
            self.lost(now, id, &format!("its node {node} failed"), out);
        }
    }

    fn tick(&mut self, now: Time, out: &mut Vec<Effect>) {
        // In that time nobody could be heard here.
        let missed = self.lateness.tick(now);
        for task in self.tasks.values_mut().filter(|_| !missed.is_zero()) {
            task.last_heard = now.min(task.last_heard + missed);
        }
        let ids: Vec<TaskId> = self.tasks.keys().copied().collect();
        for id in ids {
            if self.over {
                break;
            }
            self.tick_task(now, id, out);
        }
        if now >= self.next_look {
            self.next_look = now + LOOK_EVERY;
            self.advance(now, out);
            self.autoscale(now, out);
            self.share(now, out);
        }
        if now >= self.next_beat {
            self.next_beat = now + self.config.lease / 6;
            let late_ms = self.lateness.worst().as_millis() as u64;
            out.extend(self.conns.keys().map(|conn| Effect::Send {
                conn: *conn,
                message: ToWorker::Beat { late_ms },
            }));
        }
        for (&(task, epoch), p) in &mut self.processes {
            if p.kill_at.is_some_and(|at| now >= at) {
                p.kill_at = None;
                if let Some(pid) = p.pid
                    && !self.failed_nodes.contains(&p.node)
                {
                    out.push(Effect::Kill {
                        task,
                        epoch,
                        node: p.node.clone(),
                        pid,
                    });
                }
            }
        }
    }

    /// A task's lease has run out. It is longer where the task's node does not get round to things.
    fn is_silent(&self, now: Time, task: &Task) -> bool {
        let silent = now.since(task.last_heard);
        if silent < self.config.lease {
            return false;
        }
        let beside = self
            .tasks
            .values()
            .filter(|t| t.node == task.node && t.conn().is_some());
        let late = beside.map(|t| t.report.late_ms).max().unwrap_or(0);
        silent >= patience(self.config.lease, Duration::from_millis(late))
    }

    fn tick_task(&mut self, now: Time, id: TaskId, out: &mut Vec<Effect>) {
        let Some(task) = self.tasks.get(&id) else { return };
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
            State::Attached { .. } if self.is_silent(now, task) => {
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
            State::Done { conn: Some(_), .. } if self.is_silent(now, task) => {
                self.lost(now, id, "its process was silent after its end", out);
            }
            State::Done {
                conn: None,
                lost: Some(at),
            } if now.since(at) >= REVIVE_AFTER && self.needed(id) => {
                self.lost(now, id, "its process ended before its inputs' tasks did", out);
            }
            _ => {}
        }
    }

    /// Is there an upstream task that may still want this task's acknowledgement? Without a log a receiver, too, may need it: its
    /// next process has to be told again that this task has ended.
    fn needed(&self, id: TaskId) -> bool {
        let Some(task) = self.tasks.get(&id).filter(|t| !t.retired) else {
            return false;
        };
        // It has to say its end to who came later.
        if task.routed < self.released.get(&(id.stage + 1)).copied().unwrap_or(0) {
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
            .filter_map(|n| self.tasks.get(&n))
            .any(|n| !n.is_done() && !past(n))
    }

    /// The sources' rate from now on.
    fn set_rate(&mut self, rate: u64, out: &mut Vec<Effect>) {
        if !self.over {
            self.store(Change::Rate(rate), out);
        }
    }

    /// Divides the input rate anew, if that is to be.
    fn share(&mut self, now: Time, out: &mut Vec<Effect>) {
        if self.over || self.plan.rate == 0 {
            return;
        }
        let sources = self.tasks.values().filter(|t| t.id.stage == 0);
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
