//! The task's loop: takes events in, lets the protocol decide, runs the operator, carries the decisions out.

use common::clock;
use protocol::control::{Report, ToLeader, ToWorker};
use tokio::sync::mpsc;

use super::control::Control;
use super::meter::{Meter, REPORT_EVERY};
use super::operator::{Collected, Runner};
use super::peers::{Dialer, Doors, OutLink};
use super::read::Reader;
use super::storage::{Plan, Storage};
use super::work::Step;
use super::{End, EngineEvent};
use crate::failpoint::{FailPoint, Point};
use crate::task::{Effect, Input, Task};

pub struct Engine {
    pub plan: Plan,
    pub task: Task,
    /// What the task wants done and is not done yet; empty between two steps.
    effects: Vec<Effect>,
    pub storage: Storage,
    pub runner: Option<Runner>,
    pub(super) collected: Collected,
    /// Of a source task.
    pub reader: Option<Reader>,
    pub events: mpsc::Receiver<EngineEvent>,
    pub control: Control,
    pub(super) doors: Doors,
    pub links: Vec<OutLink>,
    pub(super) dialer: Dialer,
    pub(super) meter: Meter,
    pub fail_point: FailPoint,
}

impl Engine {
    pub fn new(
        plan: Plan,
        task: Task,
        storage: Storage,
        events: mpsc::Receiver<EngineEvent>,
        control: Control,
        dialer: Dialer,
    ) -> Self {
        Self {
            plan,
            task,
            effects: Vec::new(),
            storage,
            runner: None,
            collected: Collected::default(),
            reader: None,
            events,
            control,
            doors: Doors::default(),
            links: Vec::new(),
            dialer,
            meter: Meter::new(clock::now()),
            fail_point: FailPoint::default(),
        }
    }

    /// Runs until the leader says that the job is over, or something ends this process.
    pub async fn run(&mut self) -> Result<(), End> {
        loop {
            while let Ok(event) = self.events.try_recv() {
                self.on_event(event)?;
            }
            self.settle()?;
            match self.step().await? {
                // Lets the connections move what came and what may leave.
                Step::Worked => tokio::task::yield_now().await,
                Step::Idle => self.wait().await?,
            }
        }
    }

    // --- events ---------------------------------------------------------------------------------------------------

    pub(super) fn on_event(&mut self, event: EngineEvent) -> Result<(), End> {
        match event {
            EngineEvent::Control(message) => self.on_control(*message),
            EngineEvent::ControlLost(why) => Err(End::LeaderLost(why)),
            EngineEvent::SenderConnected {
                connection,
                open,
                reply,
                acks,
            } => {
                self.doors.open(connection, reply, acks);
                self.give(Input::SenderConnected { connection, open })
            }
            EngineEvent::Task(input) => {
                let acknowledged = match &input {
                    Input::ReceiverAcknowledged { output, .. } => Some(*output),
                    _ => None,
                };
                self.give(input)?;
                if let Some(output) = acknowledged {
                    let oldest = self.task.oldest(output);
                    if let Some(link) = self.link(output) {
                        link.oldest.send_replace(oldest);
                    }
                }
                Ok(())
            }
            EngineEvent::ReceiverConnected {
                output,
                standing,
                frames,
            } => {
                if let Some(link) = self.link(output) {
                    link.frames = Some(frames);
                }
                self.give(Input::ReceiverConnected { output, standing })
            }
            EngineEvent::ReceiverLost { output } => {
                if let Some(link) = self.link(output) {
                    link.frames = None;
                }
                self.give(Input::ReceiverLost { output })
            }
        }
    }

    fn on_control(&mut self, message: ToWorker) -> Result<(), End> {
        match message {
            ToWorker::Peers(peers) => self.meet(peers),
            ToWorker::Rate(milli) => {
                if let Some(reader) = &mut self.reader {
                    reader.pace.set(clock::now(), milli);
                }
            }
            ToWorker::Upstream(tasks) => {
                self.give(Input::SendersAdded(tasks.clone()))?;
                self.control.to_leader.tell(ToLeader::Knows(tasks))?;
            }
            ToWorker::Route(route) => self.give(Input::RoutingChanged(route))?,
            ToWorker::Gone(task) => self.part(task),
            ToWorker::Finish => return Err(End::Finished),
            ToWorker::Refused { why } => return Err(End::Fenced(why)),
            // The source may be reading just now, beside this.
            ToWorker::Slices(_) | ToWorker::Drain => {
                if let Some(reader) = &mut self.reader {
                    reader.hear(message);
                }
            }
            ToWorker::Beat { .. } | ToWorker::Plan(_) => {}
        }
        Ok(())
    }

    // --- what is decided is carried out ---------------------------------------------------------------------------

    /// Gives the task an input, and does what it wants done.
    pub(super) fn give(&mut self, input: Input) -> Result<(), End> {
        self.task.handle(clock::now(), input, &mut self.effects);
        self.carry_out()
    }

    /// Takes acknowledgements of appends in; then what has gathered goes.
    pub(super) fn settle(&mut self) -> Result<(), End> {
        self.control.pulse.beat();
        if let Some(upto) = self.storage.snapshots.as_mut().and_then(|s| s.news()) {
            self.give(Input::SnapshotStored { upto })?;
        }
        if let Some(upto) = self.storage.log.as_mut().and_then(|l| l.news()) {
            self.fail_point.pass(Point::AfterLog);
            self.give(Input::LogStored { upto })?;
        }
        for index in 0..self.storage.outputs.len() {
            let (output, file) = &mut self.storage.outputs[index];
            if let Some(upto) = file.news() {
                let output = *output;
                self.give(Input::OutputStored { output, upto })?;
            }
        }
        let now = clock::now();
        self.task.flush(now, &mut self.effects);
        self.carry_out()?;
        if self.meter.is_due(now) {
            let news = self.is_paced() || (self.is_exhausted() && !self.control.report.borrow().exhausted);
            self.report(news);
        }
        Ok(())
    }

    fn carry_out(&mut self) -> Result<(), End> {
        let mut effects = std::mem::take(&mut self.effects);
        let done = effects.drain(..).try_for_each(|effect| self.execute(effect));
        self.effects = effects;
        done
    }

    fn execute(&mut self, effect: Effect) -> Result<(), End> {
        match effect {
            Effect::SendFrame { output, frame } => {
                if let Some(frames) = self.link(output).and_then(|l| l.frames.as_ref()) {
                    // Where the connection has ended, its end is on the way as an event.
                    let _ = frames.send(frame);
                }
            }
            Effect::Acknowledge { connection, upto } => self.doors.acknowledge(connection, upto),
            Effect::AppendLog { records } => {
                self.fail_point.pass(Point::BeforeLog);
                if let Some(log) = &mut self.storage.log {
                    log.append(records);
                }
            }
            Effect::AppendOutput { output, bytes } => {
                self.fail_point.pass(Point::BeforeDest);
                self.storage.append_output(output, bytes);
            }
            Effect::AppendSnapshot { state } => {
                if let Some(snapshots) = &mut self.storage.snapshots {
                    snapshots.append(state);
                }
            }
            Effect::TrimLog { upto } => {
                if let Some(log) = &mut self.storage.log {
                    log.trim(upto);
                }
            }
            Effect::TrimSnapshots { upto } => {
                if let Some(snapshots) = &mut self.storage.snapshots {
                    snapshots.trim(upto);
                }
            }
            Effect::Delivered {
                output,
                tuples,
                born_us,
            } => {
                if self.plan.dest.is_some() && output == 0 {
                    self.fail_point.pass(Point::AfterDest);
                    self.meter.delivered(clock::unix_micros(), tuples, born_us);
                }
            }
            Effect::Accept { connection, standing } => self.doors.accept(connection, standing),
            Effect::Refuse {
                connection,
                from,
                epoch,
                refusal,
            } => self.refuse(connection, from, epoch, refusal),
            Effect::Disconnect {
                connection,
                from,
                gap,
            } => {
                if gap {
                    tracing::warn!(%from, "DATA_GAP");
                }
                self.doors.close(connection);
            }
            Effect::Routed(route) => self.rerouted(route),
            Effect::FirstOutput { tuples } => {
                tracing::info!(tuples, "FIRST_OUTPUT");
            }
            Effect::Report => self.report(true),
            Effect::NothingFollows => self.storage.hurry(),
            Effect::Finished => {
                let report = self.make_report();
                tracing::info!(
                    in_total = report.tuples_in,
                    out_total = report.tuples_out,
                    "TASK_END"
                );
                self.control.to_leader.tell(ToLeader::Done(report))?;
            }
            Effect::Fenced { why } => return Err(End::Fenced(why)),
        }
        Ok(())
    }

    /// Waits for an event, an acknowledged append, or the next deadline.
    async fn wait(&mut self) -> Result<(), End> {
        let now = clock::now();
        let due = [
            Some(now + REPORT_EVERY),
            self.task.deadline(now),
            self.reader.as_ref().and_then(|reader| reader.deadline(now)),
        ];
        let deadline = due.into_iter().flatten().min().unwrap_or(now);
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

    // --- reports --------------------------------------------------------------------------------------------------

    fn is_exhausted(&self) -> bool {
        self.plan.op.is_none() && self.task.now().done
    }

    /// The leader shares the rate of a source that has nothing to read, or nothing left, among the others: at once; and it makes up
    /// for what was missed, so it must know what was read.
    fn is_paced(&self) -> bool {
        self.reader
            .as_ref()
            .is_some_and(|reader| reader.pace.is_limited())
    }

    /// The counters for the leader's next beat; `now`: it is not to wait for that.
    fn report(&mut self, now: bool) {
        let report = self.make_report();
        if self.meter.logs(clock::now()) {
            tracing::info!(
                in_per_s = report.in_per_s as u64,
                out_per_s = report.out_per_s as u64,
                in_total = report.tuples_in,
                out_total = report.tuples_out,
                backlog = report.backlog_tuples,
                backlog_bytes = report.backlog_bytes,
                "RATE"
            );
        }
        match now {
            true => self.control.report_now(report),
            false => drop(self.control.report.send_replace(report)),
        }
    }

    fn make_report(&mut self) -> Report {
        let (task, is_source, is_last) = (&self.task, self.plan.op.is_none(), self.plan.dest.is_some());
        let now = clock::now();
        let cut = task.now();
        // What is done again says nothing of what comes in.
        let [in_per_s, in_per_10s, out_per_s, out_per_10s] = self.meter.rates(now, cut, task.replaying() > 0);
        Report {
            tuples_in: cut.tuples_in,
            tuples_out: cut.tuples_out,
            lossy: cut.lossy,
            bytes_in: cut.bytes_in,
            bytes_out: if is_last { cut.emitted[0] } else { 0 },
            in_per_s,
            in_per_10s,
            out_per_s,
            out_per_10s,
            backlog_bytes: task.backlog_bytes() as u64,
            backlog_tuples: task.backlog_tuples(),
            routed: task.routed(),
            moved: task.moved(),
            awaits: task.awaits(),
            exhausted: is_source && cut.done,
            idle: task.is_idle(now),
            // The thread that sends it knows.
            late_ms: 0,
            first_read_us: self.reader.as_ref().map_or(0, |reader| reader.first_read_us),
            last_durable_us: self.meter.last_durable_us(),
            latency_us: if is_last { self.meter.latency() } else { vec![] },
            resent: if self.plan.exactly_once { 0 } else { task.resent() },
            arrived: (is_source && !self.plan.exactly_once).then(|| task.arrived().clone()),
        }
    }
}
