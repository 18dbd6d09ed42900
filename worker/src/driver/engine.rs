//! The task's loop: takes events in, lets the protocol decide, runs the operator, carries the decisions out.

use std::collections::BTreeMap;
use std::time::Duration;

use common::clock::{self, Time};
use common::ids::{Epoch, NodeName, TaskId};
use protocol::control::{Report, ToLeader, ToWorker};
use tokio::sync::{mpsc, oneshot};

use super::control::Control;
use super::meter::{Latency, Rate};
use super::operator::{Collected, Runner};
use super::pace::Pace;
use super::route::{Dialer, OutLink};
use super::storage::{Plan, Storage};
use super::work::Step;
use super::{End, Event};
use crate::failpoint::{FailPoint, Point};
use crate::source::Source;
use crate::task::Task;
use crate::task::inbox::Received;
use crate::wire::{Open, Opened};

/// How often the counters for the leader's beat are made anew.
const REPORT_EVERY: Duration = Duration::from_millis(100);
/// A source that has found nothing for so long is idle.
const IDLE_AFTER: Duration = Duration::from_millis(30);
/// A process that has been at it for so long, and has put something out, tells the leader without waiting for the next beat. Not sooner: one
/// that dies right after its first output each time is to be started ever more slowly.
const WORKS_AFTER: Duration = Duration::from_millis(200);
/// How often a RATE line is logged.
const RATE_EVERY: Duration = Duration::from_secs(5);

/// A sender's newest connection.
struct Input {
    id: u64,
    acks: Option<mpsc::UnboundedSender<u64>>,
    acked: u64,
}

pub struct Engine {
    pub plan: Plan,
    pub node: NodeName,
    pub pid: u32,
    pub task: Task,
    pub storage: Storage,
    pub runner: Option<Runner>,
    pub(super) collected: Collected,
    pub source: Option<Source>,
    /// What the leader said to a source that follows, and it has not heard yet.
    pub(super) source_words: Vec<ToWorker>,
    pub events: mpsc::UnboundedReceiver<Event>,
    pub control: Control,
    pub links: Vec<OutLink>,
    pub(super) dialer: Dialer,
    pub linger: Duration,
    pub pace: Pace,
    pub fail_point: FailPoint,
    inputs: BTreeMap<TaskId, Input>,
    epochs: BTreeMap<TaskId, Epoch>,
    open_since: Option<Time>,
    began: Time,
    first_output: bool,
    said_works: bool,
    said_done: bool,
    pub(super) first_read_us: u64,
    last_durable_us: u64,
    latency: Latency,
    /// Of the last second and of the last ten, what came in and what went out.
    rates: [Rate; 4],
    reported: Time,
    /// Since when the source's files hold nothing more.
    pub(super) dry_since: Option<Time>,
    rate_logged: Time,
}

impl Engine {
    pub fn new(
        node: NodeName,
        plan: Plan,
        task: Task,
        storage: Storage,
        events: mpsc::UnboundedReceiver<Event>,
        control: Control,
        dialer: Dialer,
    ) -> Self {
        Self {
            node,
            pid: std::process::id(),
            pace: Pace::new(plan.rate_milli),
            plan,
            task,
            storage,
            runner: None,
            collected: Collected::default(),
            source: None,
            source_words: Vec::new(),
            events,
            control,
            links: Vec::new(),
            dialer,
            linger: Duration::from_millis(3),
            fail_point: FailPoint::default(),
            inputs: BTreeMap::new(),
            epochs: BTreeMap::new(),
            open_since: None,
            began: clock::now(),
            first_output: false,
            said_works: false,
            said_done: false,
            first_read_us: 0,
            last_durable_us: 0,
            latency: Latency::default(),
            rates: [Rate::SECOND, Rate::TEN, Rate::SECOND, Rate::TEN].map(Rate::over),
            reported: Time::ZERO,
            dry_since: None,
            rate_logged: clock::now(),
        }
    }

    /// Runs until the leader says that the job is over, or something ends this process.
    pub async fn run(&mut self) -> Result<(), End> {
        loop {
            while let Ok(event) = self.events.try_recv() {
                self.on_event(event)?;
            }
            self.settle()?;
            self.snapshot_if_due().await?;
            match self.step().await? {
                Step::Worked => {
                    self.linger();
                    // Lets the connections move what came and what may leave.
                    tokio::task::yield_now().await;
                }
                Step::Idle => {
                    // Closing makes chunks: let them leave before waiting.
                    if !self.linger() {
                        self.wait().await?;
                    }
                }
            }
        }
    }

    // --- events ---------------------------------------------------------------------------------------------------

    pub(super) fn on_event(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Control(message) => self.on_control(*message)?,
            Event::ControlLost(why) => return Err(End::LeaderLost(why)),
            Event::Opened {
                id,
                open,
                reply,
                acks,
            } => self.on_opened(id, open, reply, acks),
            Event::Data { id, from, item } => {
                let current = self
                    .inputs
                    .get(&from)
                    .is_some_and(|i| i.id == id && i.acks.is_some());
                if !current {
                    return Ok(());
                }
                match self.task.receive(from, item) {
                    Received::New => {}
                    Received::Repeat => self.acknowledge(from, true),
                    Received::Gap => {
                        tracing::warn!(job = %self.plan.job, task = %self.plan.task, %from, "DATA_GAP");
                        if let Some(input) = self.inputs.get_mut(&from) {
                            // Dropping the sender of acknowledgements closes the connection.
                            input.acks = None;
                        }
                    }
                }
            }
            Event::Connected {
                output,
                standing,
                frames,
            } => {
                self.task.output(output).resume(standing);
                if let Some(link) = self.link(output) {
                    link.frames = Some(frames);
                }
            }
            Event::OutClosed { output } => {
                if let Some(link) = self.link(output) {
                    link.frames = None;
                }
            }
            Event::Ack { output, upto } => {
                self.task.output(output).acknowledge(upto, |_| {});
                let oldest = self.task.output(output).oldest();
                if let Some(link) = self.link(output) {
                    link.oldest.send_replace(oldest);
                }
            }
            Event::Refused { to, why } => {
                return Err(End::Fenced(format!("{to} refused this process: {why}")));
            }
        }
        Ok(())
    }

    fn on_control(&mut self, message: ToWorker) -> Result<(), End> {
        match message {
            ToWorker::Peers(peers) => self.meet(peers),
            ToWorker::Rate(milli) => self.pace.set(clock::now(), milli),
            ToWorker::Upstream(tasks) => {
                self.task.hear_upstream(&tasks);
                let _ = self.control.to_leader.send(ToLeader::Knows(tasks));
            }
            ToWorker::Route(route) => self.task.hear_route(route),
            ToWorker::Gone(task) => self.part(task),
            ToWorker::Finish => return Err(End::Finished),
            ToWorker::Refused { why } => return Err(End::Fenced(why)),
            // The source may be reading just now, beside this.
            ToWorker::Slices(_) | ToWorker::Drain => self.source_words.push(message),
            ToWorker::Beat { .. } | ToWorker::Plan(_) => {}
        }
        Ok(())
    }

    fn on_opened(
        &mut self,
        id: u64,
        open: Open,
        reply: oneshot::Sender<Opened>,
        acks: mpsc::UnboundedSender<u64>,
    ) {
        let refuse = |reply: oneshot::Sender<Opened>, why: String| {
            // The other side may be gone already; then there is nobody to tell.
            let _ = reply.send(Opened::Refused(why));
        };
        if open.job != self.plan.job || open.to != self.plan.task {
            return refuse(
                reply,
                format!("this is {} of job {}", self.plan.task, self.plan.job),
            );
        }
        let seen = self.epochs.get(&open.from).copied().unwrap_or_default();
        if open.epoch < seen {
            tracing::warn!(job = %self.plan.job, task = %self.plan.task, from = %open.from, epoch = %open.epoch, newest = %seen, "FENCED_SENDER");
            return refuse(reply, format!("{} runs as epoch {seen} now", open.from));
        }
        match self.task.connect(open.from, open.oldest, open.epoch > seen) {
            Ok(standing) => {
                self.epochs.insert(open.from, open.epoch);
                self.inputs.insert(
                    open.from,
                    Input {
                        id,
                        acks: Some(acks),
                        acked: 0,
                    },
                );
                let _ = reply.send(Opened::From(standing));
                self.acknowledge(open.from, true);
            }
            Err(error) => {
                tracing::error!(job = %self.plan.job, task = %self.plan.task, from = %open.from, %error, "DATA_LOST");
                refuse(reply, error.to_string());
            }
        }
    }

    fn acknowledge(&mut self, from: TaskId, again: bool) {
        let ack = self.task.ack(from);
        if let Some(input) = self.inputs.get_mut(&from)
            && (ack > input.acked || again)
            && let Some(acks) = &input.acks
        {
            input.acked = ack;
            let _ = acks.send(ack);
        }
    }

    // --- what is decided is carried out ---------------------------------------------------------------------------

    /// Takes acknowledgements of appends in; appends what is due; lets leave what may leave.
    pub(super) fn settle(&mut self) -> Result<(), End> {
        self.control.pulse.beat();
        let now = clock::now();
        self.settle_snapshots(now);
        if let Some(log) = &self.storage.log
            && self.task.logged(now, log.acked())
        {
            self.fail_point.pass(Point::AfterLog);
        }
        for dest in &self.storage.dests {
            let (acked, wall) = (dest.appender.acked(), clock::unix_micros());
            let (latency, last) = (&mut self.latency, &mut self.last_durable_us);
            let is_result = self.plan.dest.is_some() && dest.output == 0;
            let fail_point = &self.fail_point;
            self.task.output(dest.output).acknowledge(acked, |chunk| {
                if is_result {
                    fail_point.pass(Point::AfterDest);
                    *last = wall;
                    latency.record(wall.saturating_sub(chunk.born_us), chunk.tuples);
                }
            });
        }
        let records = self.task.take_records(now);
        if let Some(log) = &mut self.storage.log
            && !records.is_empty()
        {
            self.fail_point.pass(Point::BeforeLog);
            log.append(records);
        }
        self.release();
        let senders: Vec<TaskId> = self.inputs.keys().copied().collect();
        senders.into_iter().for_each(|from| self.acknowledge(from, false));
        let turned = self.is_idle(now) != self.control.report.borrow().idle;
        if turned || now.since(self.reported) >= REPORT_EVERY {
            self.reported = now;
            let report = self.report(now);
            if now.since(self.rate_logged) >= RATE_EVERY {
                self.rate_logged = now;
                let p = &self.plan;
                tracing::info!(job = %p.job, task = %p.task, epoch = %p.epoch, node = %self.node, pid = self.pid, in_per_s = report.in_per_s as u64, out_per_s = report.out_per_s as u64, in_total = report.tuples_in, out_total = report.tuples_out, backlog = report.backlog_tuples, backlog_bytes = report.backlog_bytes, "RATE");
            }
            // A task that works again is no longer one that fails and fails, should it be killed before its next beat.
            let works = self.first_output && !self.said_works && now.since(self.began) >= WORKS_AFTER;
            self.said_works |= works;
            // The leader shares the rate of a source that has nothing to read, or nothing left, among the others: at once; and
            // it makes up for what was missed, so it must know what was read.
            let paced = self.source.is_some() && self.pace.is_limited();
            if works || turned || paced || (report.exhausted && !self.control.report.borrow().exhausted) {
                let _ = self.control.to_leader.send(ToLeader::Beat(report.clone()));
            }
            self.control.report.send_replace(report);
        }
        if self.task.is_finished() && !self.said_done {
            self.said_done = true;
            let report = self.report(now);
            let p = &self.plan;
            tracing::info!(job = %p.job, task = %p.task, epoch = %p.epoch, node = %self.node, pid = self.pid, in_total = report.tuples_in, out_total = report.tuples_out, "TASK_END");
            let _ = self.control.to_leader.send(ToLeader::Done(report));
        }
        Ok(())
    }

    fn settle_snapshots(&mut self, now: Time) {
        let Some(snapshots) = &mut self.storage.snapshots else {
            return;
        };
        if let Some((cut, extents)) = snapshots.done() {
            self.task.snapshotted(now, cut, extents);
        }
    }

    fn release(&mut self) {
        let durable = self.task.durable();
        let mut left = None;
        for dest in &mut self.storage.dests {
            while let Some(chunk) = self.task.output(dest.output).next_chunk(durable) {
                // A restarted task makes its stream again from its checkpoint on; what HyDFS has of it is not repeated.
                self.fail_point.pass(Point::BeforeDest);
                let queued = dest.appender.queued();
                let known = queued.saturating_sub(chunk.start).min(chunk.payload.len() as u64);
                dest.appender.append(chunk.payload.slice(known as usize..));
                left = Some(chunk.tuples);
            }
            if self.task.now().done {
                dest.hurry();
            }
        }
        for link in &self.links {
            let Some(frames) = &link.frames else { continue };
            while let Some(chunk) = self.task.output(link.output).next_chunk(durable) {
                left = Some(chunk.tuples);
                if frames.send(chunk.payload).is_err() {
                    break;
                }
            }
        }
        if let Some(tuples) = left
            && !self.first_output
        {
            self.first_output = true;
            let p = &self.plan;
            tracing::info!(job = %p.job, task = %p.task, epoch = %p.epoch, node = %self.node, pid = self.pid, tuples, "FIRST_OUTPUT");
        }
    }

    /// Closes open outputs that have waited long enough. True if it did.
    fn linger(&mut self) -> bool {
        if !self.task.has_open_output() || self.task.log_closes_outputs() {
            self.open_since = None;
            return false;
        }
        let now = clock::now();
        let since = *self.open_since.get_or_insert(now);
        if now.since(since) >= self.linger {
            self.task.close_outputs();
            self.open_since = None;
            return true;
        }
        false
    }

    /// Waits for an event, an acknowledged append, or the next deadline.
    async fn wait(&mut self) -> Result<(), End> {
        let now = clock::now();
        let mut deadline = now + REPORT_EVERY;
        let due = [
            self.open_since.map(|since| since + self.linger),
            self.task.log_deadline(now),
            self.task.snapshot_deadline().filter(|d| *d > now),
            self.source.as_ref().and_then(|_| self.pace.next(now)),
            self.source
                .as_ref()
                .and_then(Source::pause)
                .map(|pause| now + pause),
        ];
        deadline = due.into_iter().flatten().fold(deadline, Time::min);
        tokio::select! {
            event = self.events.recv() => match event {
                Some(event) => self.on_event(event)?,
                None => return Err(End::LeaderLost("the control task ended".into())),
            },
            changed = self.storage.changed() => changed?,
            () = clock::sleep_until(deadline) => {}
        }
        Ok(())
    }

    /// A source that found nothing for a while, and not only between two pieces of a file that grows.
    fn is_idle(&self, now: Time) -> bool {
        self.dry_since.is_some_and(|since| now.since(since) >= IDLE_AFTER)
    }

    fn report(&mut self, now: Time) -> Report {
        let (cut, is_last) = (self.task.now(), self.plan.dest.is_some());
        if self.task.replaying() > 0 {
            // What is done again says nothing of what comes in.
            self.rates.iter_mut().for_each(Rate::forget);
        }
        let idle = self.is_idle(now);
        let [in_per_s, in_per_10s, out_per_s, out_per_10s] = &mut self.rates;
        Report {
            tuples_in: cut.tuples_in,
            tuples_out: cut.tuples_out,
            lossy: cut.lossy,
            bytes_in: cut.bytes_in,
            bytes_out: if is_last { cut.emitted[0] } else { 0 },
            in_per_s: in_per_s.update(now, cut.tuples_in),
            in_per_10s: in_per_10s.update(now, cut.tuples_in),
            out_per_s: out_per_s.update(now, cut.tuples_out),
            out_per_10s: out_per_10s.update(now, cut.tuples_out),
            backlog_bytes: self.task.backlog_bytes() as u64,
            backlog_tuples: self.task.backlog_tuples(),
            routed: self.task.routed(),
            moved: self.task.moved(),
            awaits: self.task.awaits(),
            exhausted: self.plan.op.is_none() && cut.done,
            idle,
            // The thread that sends it knows.
            late_ms: 0,
            first_read_us: self.first_read_us,
            last_durable_us: self.last_durable_us,
            latency_us: if is_last { self.latency.counts() } else { vec![] },
            resent: if self.plan.exactly_once {
                0
            } else {
                self.task.resent()
            },
            arrived: (self.plan.op.is_none() && !self.plan.exactly_once).then(|| self.task.arrived().clone()),
        }
    }
}
