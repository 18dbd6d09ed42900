//! One task of a running job, and the figures that outlive its processes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use common::clock::Time;
use common::ids::{Epoch, NodeName, TaskId};
use protocol::control::Report;
use protocol::task_log::SourcePos;

use super::blame::Blame;
use super::effects::ConnId;
use super::mutants::Mutant;
use crate::record::{Counts, Ticket};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// To be launched then.
    Waiting { until: Time },
    /// Launched, not yet heard of.
    Launching { since: Time },
    /// Registered. `started`: it has read its log and consumes.
    Attached { conn: ConnId, started: bool },
    /// All its inputs have ended and all its outputs are acknowledged. `lost`: when its process went away.
    Done {
        conn: Option<ConnId>,
        lost: Option<Time>,
    },
}

/// What a task has done, over all its processes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Totals {
    pub tuples_in: u64,
    pub tuples_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Tuples in the destination that cannot be read back as they were.
    pub lossy: u64,
    /// Tuples that went out twice, of the processes that are gone, and of the present one.
    past_resent: u64,
    resent: u64,
    /// Wall clock, microseconds; `None`: not yet.
    pub first_read_us: Option<u64>,
    pub last_durable_us: Option<u64>,
    /// Microseconds to how many tuples, of the processes that are gone.
    past_latency: BTreeMap<u64, u64>,
    latency: Vec<(u64, u64)>,
}

impl Totals {
    /// Takes a newer report of the current process.
    fn take(&mut self, report: &Report) {
        self.tuples_in = self.tuples_in.max(report.tuples_in);
        self.tuples_out = self.tuples_out.max(report.tuples_out);
        self.bytes_in = self.bytes_in.max(report.bytes_in);
        self.bytes_out = self.bytes_out.max(report.bytes_out);
        self.lossy = self.lossy.max(report.lossy);
        self.resent = self.resent.max(report.resent);
        if report.first_read_us > 0 {
            let first = self
                .first_read_us
                .map_or(report.first_read_us, |f| f.min(report.first_read_us));
            self.first_read_us = Some(first);
        }
        if report.last_durable_us > 0 {
            self.last_durable_us = self.last_durable_us.max(Some(report.last_durable_us));
        }
        if !report.latency_us.is_empty() {
            self.latency.clone_from(&report.latency_us);
        }
    }

    pub fn counts(&self) -> Counts {
        Counts {
            tuples_in: self.tuples_in,
            tuples_out: self.tuples_out,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            lossy: self.lossy,
        }
    }

    pub(super) fn of(counts: Counts) -> Self {
        Self {
            tuples_in: counts.tuples_in,
            tuples_out: counts.tuples_out,
            bytes_in: counts.bytes_in,
            bytes_out: counts.bytes_out,
            lossy: counts.lossy,
            ..Self::default()
        }
    }

    /// Tuples that may have counted twice.
    pub fn resent(&self) -> u64 {
        self.past_resent + self.resent
    }

    /// The current process is gone; the next counts latencies and repeats from nothing.
    fn new_process(&mut self) {
        self.past_resent += std::mem::take(&mut self.resent);
        for (us, n) in self.latency.drain(..) {
            *self.past_latency.entry(us).or_default() += n;
        }
    }

    /// Adds all latencies seen to `sum`.
    pub fn add_latency(&self, sum: &mut BTreeMap<u64, u64>) {
        for (us, n) in self
            .past_latency
            .iter()
            .map(|(us, n)| (*us, *n))
            .chain(self.latency.iter().copied())
        {
            *sum.entry(us).or_default() += n;
        }
    }
}

#[derive(Debug, Clone)]
pub struct Task {
    pub id: TaskId,
    /// Where its newest process runs, or ran.
    pub node: NodeName,
    /// The newest launched; `base` before the first.
    pub epoch: Epoch,
    /// Epochs up to this are those of earlier leaders; 0 for a job's first.
    pub base: Epoch,
    pub state: State,
    pub pid: Option<u32>,
    pub addr: Option<SocketAddr>,
    pub restarts: u32,
    /// The newest report of the newest process that sent one.
    pub report: Report,
    pub reported_at: Time,
    pub totals: Totals,
    /// Without exactly-once, of a source: all before this has arrived at the destination.
    pub arrived: Option<SourcePos>,
    pub(super) last_heard: Time,
    /// Its process's end was seen while it is still attached.
    pub(super) exited: Option<Time>,
    /// Nodes where it failed since it last made progress.
    pub(super) avoid: BTreeSet<NodeName>,
    /// Failures since it last made progress: how long to back off.
    pub(super) failures: u32,
    /// Launches in a row that ended by themselves before they registered.
    pub(super) strikes: u32,
    pub(super) first_strike: Time,
    pub(super) blame: Blame,
    /// The operator failed without saying at which tuple: its next processes are to feed it one by one.
    pub(super) careful: bool,
    /// The newest process was told so.
    pub(super) is_careful: bool,
    /// It is not launched before this change of its plan is stored.
    pub(super) held: Option<Ticket>,
    /// The newest version of the next stage's routing that it cannot fall behind.
    pub(super) routed: u32,
    /// The newest version of its own stage's routing that it has put in force, where state moves.
    pub(super) moved: u32,
    /// How many tasks of the stage before its present process knows of.
    pub(super) knows: usize,
    /// Taken out of its stage, and gone for good.
    pub retired: bool,
    /// It was done once: its next process has nothing left to do but acknowledge.
    pub(super) was_done: bool,
}

impl Task {
    pub(super) fn new(id: TaskId, node: NodeName) -> Self {
        Self {
            id,
            node,
            epoch: Epoch(0),
            base: Epoch(0),
            state: State::Waiting { until: Time::ZERO },
            pid: None,
            addr: None,
            restarts: 0,
            report: Report::default(),
            reported_at: Time::ZERO,
            totals: Totals::default(),
            arrived: None,
            last_heard: Time::ZERO,
            exited: None,
            avoid: BTreeSet::new(),
            failures: 0,
            strikes: 0,
            first_strike: Time::ZERO,
            blame: Blame::default(),
            careful: false,
            is_careful: false,
            held: None,
            routed: 0,
            moved: 0,
            knows: 0,
            retired: false,
            was_done: false,
        }
    }

    /// Another leader's processes were before those to come.
    pub(super) fn begin_after(&mut self, base: Epoch, done: Option<Counts>, arrived: Option<SourcePos>) {
        self.base = base;
        self.epoch = base;
        self.arrived = arrived;
        if let Some(counts) = done {
            self.was_done = true;
            self.totals = Totals::of(counts);
        }
    }

    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done { .. })
    }

    /// Has a process that is believed to live.
    pub fn runs(&self) -> bool {
        matches!(
            self.state,
            State::Launching { .. } | State::Attached { .. } | State::Done { conn: Some(_), .. }
        )
    }

    pub fn conn(&self) -> Option<ConnId> {
        match self.state {
            State::Attached { conn, .. } | State::Done { conn: Some(conn), .. } => Some(conn),
            _ => None,
        }
    }

    /// As users see it.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Waiting { .. } if self.epoch > self.base => "failed",
            State::Waiting { .. } | State::Launching { .. } => "starting",
            State::Attached { started: false, .. } if self.epoch > Epoch(1) => "replaying",
            State::Attached { started: false, .. } => "starting",
            State::Attached { started: true, .. } => "running",
            State::Done { .. } if self.retired => "retired",
            State::Done { .. } => "done",
        }
    }

    /// Takes a report; true when it shows progress over all that any process of this task has reported.
    pub(super) fn take_report(&mut self, report: Report) -> bool {
        let before = (self.totals.tuples_in, self.totals.tuples_out);
        self.totals.take(&report);
        if report.arrived.is_some() {
            self.arrived.clone_from(&report.arrived);
        }
        self.routed = self.routed.max(report.routed);
        self.moved = self.moved.max(report.moved);
        self.report = report;
        (self.totals.tuples_in, self.totals.tuples_out) != before
    }

    pub(super) fn wait(&mut self, until: Time) {
        self.state = State::Waiting { until };
    }

    /// Its next process is started, on `node`, under the next epoch. Returns where the one before ran, if it had one.
    pub(super) fn launch(&mut self, now: Time, node: NodeName) -> Option<NodeName> {
        let from = std::mem::replace(&mut self.node, node);
        if !Mutant::KeepEpoch.is_on() || self.epoch == self.base {
            self.epoch = Epoch(self.epoch.0 + 1);
        }
        self.state = State::Launching { since: now };
        self.pid = None;
        self.addr = None;
        let is_restart = self.epoch.0 > self.base.0 + 1;
        self.restarts += u32::from(is_restart);
        is_restart.then_some(from)
    }

    pub(super) fn progress(&mut self) {
        self.failures = 0;
        self.strikes = 0;
        self.avoid.clear();
        self.blame.progressed = true;
    }

    pub(super) fn gone(&mut self) {
        self.totals.new_process();
        self.exited = None;
        self.pid = None;
        self.addr = None;
        // What it reported of the moment is not true any more.
        self.report = Report {
            exhausted: self.report.exhausted,
            ..Report::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(first: u64, last: u64, latency: &[(u64, u64)]) -> Report {
        Report {
            first_read_us: first,
            last_durable_us: last,
            latency_us: latency.to_vec(),
            ..Report::default()
        }
    }

    #[test]
    fn totals_outlive_processes() {
        let mut task = Task::new(TaskId::new(1, 0), NodeName::new("n1").unwrap());
        task.take_report(Report {
            tuples_in: 10,
            ..report(50, 60, &[(100, 3)])
        });
        task.take_report(Report {
            tuples_in: 20,
            ..report(50, 70, &[(100, 5), (200, 1)])
        });
        task.gone();
        // The next process starts from a checkpoint: what it reports first is less than what was.
        assert!(!task.take_report(Report {
            tuples_in: 15,
            ..report(80, 90, &[(100, 1)])
        }));
        assert!(task.take_report(Report {
            tuples_in: 25,
            ..report(80, 95, &[(100, 2)])
        }));
        assert_eq!(
            (task.totals.first_read_us, task.totals.last_durable_us),
            (Some(50), Some(95))
        );
        let mut sum = BTreeMap::new();
        task.totals.add_latency(&mut sum);
        assert_eq!(sum, BTreeMap::from([(100, 7), (200, 1)]));
        assert_eq!(task.totals.tuples_in, 25);
    }

    #[test]
    fn repeats_add_up_over_processes_and_the_last_known_arrival_stays() {
        let mut task = Task::new(TaskId::new(0, 0), NodeName::new("n1").unwrap());
        let place = SourcePos {
            slice: 3,
            ..SourcePos::default()
        };
        task.take_report(Report {
            resent: 5,
            arrived: Some(place.clone()),
            ..Report::default()
        });
        task.gone();
        task.take_report(Report::default());
        task.take_report(Report {
            resent: 2,
            ..Report::default()
        });
        assert_eq!((task.totals.resent(), task.arrived), (7, Some(place)));
    }
}
