//! A task's exactly-once bookkeeping, without I/O: what it consumed in which order, what it emitted, what is durable,
//! what may leave and what may be forgotten.
//!
//! ```text
//!  frames --> channel per sender --> next_work() -> operator --> outputs --> chunks --> next task / destination
//!                 |                      |                         ^           |
//!                 |                 order record                   |      acknowledged
//!                 |                      v                    leaves when      v
//!            acks to senders <---- log: records, checkpoints -- durable    cut passed
//! ```
//!
//! | part | what it decides |
//! |---|---|
//! | [`channels`] | which process of a sender is heard (the fence), over which connection; repeats; whose turn it is |
//! | [`work`] | what is consumed next, and the order record of it |
//! | [`outputs`], [`output`] | what leaves when, what is kept, who is routed to |
//! | [`log`] | what is appended to the log when; what is durable |
//! | [`base`] | up to where the log may be trimmed |
//! | [`checkpoints`], [`snapshots`] | which cuts become checkpoints; when state is stored, and where |
//! | [`handover`] | how keys and their state move between tasks of a stage |
//! | [`progress`] | what the leader should know at once |
//! | [`recover`] | where a new process begins |
//!
//! The driver calls [`Task::handle`] for each input, then [`Task::flush`] once, and carries out the effects in order. When it has
//! time it asks for [`Task::next_work`], runs the operator on that, with [`Task::router`] for what comes of it, and answers with an
//! input. The protocol is described in `docs/exactly-once.md`.

mod base;
mod channels;
mod checkpoints;
mod effect;
mod format;
mod handover;
pub mod inbox;
mod log;
mod mutants;
mod output;
mod outputs;
mod progress;
mod recover;
pub mod router;
#[cfg(test)]
mod sim;
mod snapshots;
#[cfg(test)]
mod tests;
mod work;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use common::clock::Time;
use common::ids::{Epoch, JobName, TaskId};
use protocol::control::{Format, Unit};
use protocol::task_log::{self, Base, Cut, Keeps, Record, SourcePos};

use crate::wire::{Open, Standing};
use base::LogBase;
use channels::Channels;
use checkpoints::Checkpoints;
use handover::Groups;
use inbox::{Inbox, Item, Received};
use log::LogWriter;
use mutants::Mutant;
use outputs::Outputs;
use progress::Progress;
use snapshots::Snapshots;
use work::{AtHand, Replay};

pub use effect::{ConnectionId, Effect, Input, Refusal, Work};
pub use log::HOLD;
pub use outputs::Neighbours;
pub use recover::Stored;

#[derive(Debug, Clone)]
pub struct Config {
    pub job: JobName,
    pub task: TaskId,
    pub epoch: Epoch,
    pub exactly_once: bool,
    pub keeps: Keeps,
    /// A source whose files may grow.
    pub follows: bool,
    /// The stage may gain and lose tasks.
    pub scales: bool,
    /// The operator has state: only cuts with a snapshot can become checkpoints.
    pub stateful: bool,
    pub format: Format,
    /// An output chunk closes at this many bytes ...
    pub batch_bytes: usize,
    /// ... or after this time.
    pub linger: Duration,
    /// Bytes kept per output before the task stops consuming; of all together, a few times as many.
    pub window_bytes: usize,
    pub bounds: Bounds,
    /// Tuples that are set aside instead of being given to the operator.
    pub skip: BTreeSet<Unit>,
    /// There is an output for what is set aside.
    pub sets_aside: bool,
}

/// How much the task's files grow before something is done about it, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The log, before a base is noted; 0: never.
    pub log_every: u64,
    /// Nothing is trimmed from the log.
    pub keep_log: bool,
    /// The live part of the snapshot file, over twice the state.
    pub snapshot_slack: u64,
    /// The dead part at its beginning.
    pub snapshot_dead: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            log_every: base::EVERY,
            keep_log: false,
            snapshot_slack: snapshots::SLACK,
            snapshot_dead: snapshots::DEAD,
        }
    }
}

/// Something that the log and the channels say cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Log(#[from] task_log::Error),
    #[error("the log's order records have a gap: {have} is followed by {next}")]
    LogGap { have: u64, next: u64 },
    #[error("the log begins at byte {at}, and {why}")]
    LogBegin { at: u64, why: &'static str },
    #[error("the log speaks of {what}, which is not in the plan")]
    Foreign { what: String },
    #[error("channel {from} lacks units from {have} on that the log says were consumed (asked: {want})")]
    Lost { from: TaskId, have: u64, want: u64 },
    #[error("the log does not hold the tuples that order record {pos} consumed")]
    NoTuples { pos: u64 },
    #[error("the log's tuples of order record {pos} cannot be read: {why}")]
    Tuples { pos: u64, why: String },
}

#[derive(Debug)]
pub struct Task {
    config: Config,
    /// What is put out, and where it goes, follows from the input alone, whatever the log says: a source of files that do
    /// not grow, for a stage that does not either. Its outputs leave at once, and its records take their time.
    fixed: bool,
    now: Cut,
    channels: Channels,
    outputs: Outputs,
    replay: VecDeque<Replay>,
    at_hand: Option<AtHand>,
    /// The frame of the unit of work at hand, for a log that keeps inputs.
    taken: Option<Bytes>,
    log: LogWriter,
    base: LogBase,
    checkpoints: Checkpoints,
    /// Of a stateful task.
    snapshots: Option<Snapshots>,
    /// Whose the stage's key groups are, where its state moves with its routing.
    groups: Option<Box<Groups>>,
    progress: Progress,
}

impl Task {
    /// Takes one input in. What follows from several is gathered for [`Task::flush`].
    pub fn handle(&mut self, now: Time, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::RoutingChanged(route) => self.outputs.announce(route, self.now.route),
            Input::SendersAdded(tasks) => {
                for task in tasks {
                    let consumed = self.consumed_of(task);
                    self.channels.add(task, consumed);
                }
            }
            Input::SenderConnected { connection, open } => self.admit(connection, open, effects),
            Input::FrameReceived {
                connection,
                from,
                item,
            } => self.receive(connection, from, item, effects),
            Input::ReceiverConnected { output, standing } => {
                if let Some(output) = self.outputs.get_mut(output) {
                    output.connect(standing);
                }
            }
            Input::ReceiverLost { output } => {
                if let Some(output) = self.outputs.get_mut(output) {
                    output.disconnect();
                }
            }
            Input::ReceiverAcknowledged { output, upto } | Input::OutputStored { output, upto } => {
                self.outputs.acknowledge(output, upto, effects);
            }
            Input::ReceiverRefused { to, why } => effects.push(Effect::Fenced {
                why: format!("{to} refused this process: {why}"),
            }),
            Input::LogStored { upto } => {
                if let Some(cut) = self.log.stored(now, upto, self.fixed) {
                    self.checkpoints.set_durable(*cut);
                }
            }
            Input::SnapshotStored { upto } => self.snapshot_stored(now, upto),
            answer => self.answer(now, answer, effects),
        }
    }

    /// What has gathered goes: open outputs that have lingered, log records, chunks that may leave, acknowledgements.
    pub fn flush(&mut self, now: Time, effects: &mut Vec<Effect>) {
        let (linger, waits, pos) = (self.config.linger, self.log_closes_outputs(), self.now.pos);
        self.outputs.close_lingering(now, linger, waits, pos);
        self.write_log(now, effects);
        if let Some(tuples) = self.outputs.release(self.durable(), effects) {
            self.progress.has_put_out(tuples, effects);
        }
        let covered = match Mutant::EarlyAck.is_on() {
            true => &self.now.consumed,
            false => &self.checkpoints.durable().consumed,
        };
        self.channels.acknowledge_all(covered, effects);
        self.trim(effects);
        self.progress
            .tell(now, self.now.done, self.is_finished(), effects);
    }

    /// When to call [`Task::flush`] again although nothing happens. What is due already waits for something to happen.
    pub fn deadline(&self, now: Time) -> Option<Time> {
        let linger = self.outputs.deadline(self.config.linger);
        let snapshot = self.snapshots.as_ref().and_then(|s| s.deadline(self.now.pos));
        let others = [self.log.deadline(), self.checkpoints.deadline(), snapshot];
        let later = others.into_iter().flatten().filter(|due| *due > now);
        linger.into_iter().chain(later).min()
    }

    // --- what the driver asks -------------------------------------------------------------------------------------

    /// The task's present place: counters and source position.
    pub fn now(&self) -> &Cut {
        &self.now
    }

    pub fn replaying(&self) -> usize {
        self.replay.len()
    }

    pub fn is_stateful(&self) -> bool {
        self.config.stateful
    }

    /// Tuples that had to be sent again over a later connection.
    pub fn resent(&self) -> u64 {
        self.outputs.resent()
    }

    /// The outputs that lead to tasks, each with its task.
    pub fn receivers(&self) -> impl Iterator<Item = (usize, TaskId)> + '_ {
        self.outputs.receivers()
    }

    /// The output for tuples that are set aside.
    #[cfg(test)]
    fn aside(&self) -> Option<usize> {
        self.outputs.aside_index()
    }

    /// The oldest unit of the output that can still be sent again.
    pub fn oldest(&mut self, output: usize) -> u64 {
        self.outputs.get_mut(output).map_or(0, |o| o.oldest())
    }

    /// The source's position before which all has arrived at the destination.
    pub fn arrived(&self) -> &SourcePos {
        &self.checkpoints.durable().source
    }

    pub fn backlog_bytes(&self) -> usize {
        self.channels.bytes()
    }

    pub fn backlog_tuples(&self) -> u64 {
        self.channels.units()
    }

    /// A source that has found nothing for a while, and not only between two pieces of a file that grows.
    pub fn is_idle(&self, now: Time) -> bool {
        self.progress.is_idle(now)
    }

    /// All consumed, emitted, acknowledged and noted: the process may end.
    pub fn is_finished(&self) -> bool {
        self.now.done
            && self.replay.is_empty()
            && !self.outputs.awaits_route()
            && (self.log.durable() >= self.now.pos || !self.config.exactly_once)
            && self.outputs.are_acknowledged()
            && self.log.is_idle()
            && self.checkpoints.durable().pos >= self.now.pos
    }

    /// The newest version of the next stage's routing that no restart falls behind: this task no longer needs receivers that were
    /// taken out by then.
    pub fn routed(&self) -> u32 {
        let durable = self.checkpoints.durable();
        let owed = self.outputs.owed(&durable.acked).next().is_some();
        durable.route.saturating_sub(u32::from(owed))
    }

    // --- channels -------------------------------------------------------------------------------------------------

    /// Units of the sender's channel that were consumed.
    fn consumed_of(&self, from: TaskId) -> u64 {
        self.now.consumed.get(&from).copied().unwrap_or(0)
    }

    /// A sender has connected: it is heard unless a newer process of it has been.
    fn admit(&mut self, connection: ConnectionId, open: Open, effects: &mut Vec<Effect>) {
        let Open { from, epoch, .. } = open;
        match self.standing_for(&open) {
            Ok(standing) => {
                if let Some(old) = self.channels.attach(from, epoch, connection) {
                    effects.push(Effect::Disconnect {
                        connection: old,
                        from,
                        gap: false,
                    });
                }
                effects.push(Effect::Accept { connection, standing });
                self.acknowledge(from, effects);
            }
            Err(refusal) => effects.push(Effect::Refuse {
                connection,
                from,
                epoch,
                refusal,
            }),
        }
    }

    fn standing_for(&mut self, open: &Open) -> Result<Standing, Refusal> {
        let Config { job, task, .. } = &self.config;
        if open.job != *job || open.to != *task {
            return Err(Refusal::OtherTask {
                job: job.clone(),
                task: *task,
            });
        }
        let new_epoch = self.channels.admit(open.from, open.epoch)?;
        self.stand(open.from, open.oldest, new_epoch)
            .map_err(Refusal::Lost)
    }

    /// Where a sender is to begin. `oldest`: the first unit that it can still send.
    fn stand(&mut self, from: TaskId, oldest: u64, new_epoch: bool) -> Result<Standing, Error> {
        let consumed = self.consumed_of(from);
        if self.is_peer(from) {
            self.channels.open(from, consumed);
        }
        let inbox = self.channels.inbox(from).ok_or(Error::Foreign {
            what: format!("upstream task {from}"),
        })?;
        if !self.config.exactly_once && new_epoch && !self.now.done {
            // Without a log a new process of the sender numbers anew: what it sends is all there is of it.
            *inbox = Inbox::new(oldest);
            self.now.consumed.insert(from, oldest);
            self.now.ended.remove(&from);
            self.checkpoints.renumber(from, oldest);
            return Ok(Standing::at(oldest));
        }
        if self.config.exactly_once && inbox.have() < oldest {
            return Err(Error::Lost {
                from,
                have: consumed,
                want: oldest,
            });
        }
        if inbox.have() < oldest {
            *inbox = Inbox::new(oldest);
            self.now.consumed.insert(from, oldest);
        }
        let have = inbox.have();
        let needs = self.replay.iter().filter_map(|r| r.needs(from)).max();
        Ok(Standing {
            have,
            needs: needs.unwrap_or(have),
        })
    }

    fn receive(&mut self, connection: ConnectionId, from: TaskId, item: Item, effects: &mut Vec<Effect>) {
        if !self.channels.is_current(from, connection) {
            return;
        }
        if !self.config.exactly_once && self.now.done {
            // Repeats from a restarted sender: everything was consumed, so all of it may be forgotten.
            self.checkpoints.forget(from, item.end());
            return self.acknowledge(from, effects);
        }
        match self.channels.receive(from, item) {
            Received::New => {}
            Received::Repeat => self.acknowledge(from, effects),
            Received::Gap => {
                self.channels.detach(from);
                effects.push(Effect::Disconnect {
                    connection,
                    from,
                    gap: true,
                });
            }
        }
    }

    /// Tells a sender what it may forget, also if it was told.
    fn acknowledge(&mut self, from: TaskId, effects: &mut Vec<Effect>) {
        let covered = self.checkpoints.durable().consumed.get(&from);
        self.channels
            .acknowledge(from, covered.copied().unwrap_or(0), true, effects);
    }

    // --- log ------------------------------------------------------------------------------------------------------

    /// The snapshot file is durable up to `upto`.
    fn snapshot_stored(&mut self, now: Time, upto: u64) {
        let stored = self.snapshots.as_mut().and_then(|s| s.stored(now, upto));
        if let Some(cut) = stored {
            self.now.snapshot.clone_from(&cut.snapshot);
            self.checkpoints.push(cut);
        }
    }

    /// What is open waits for the next append to the log anyway: that closes it.
    fn log_closes_outputs(&self) -> bool {
        self.config.exactly_once && !self.fixed && self.log.has_pending()
    }

    /// Appends what is due to the log, with a checkpoint if one is.
    fn write_log(&mut self, now: Time, effects: &mut Vec<Effect>) {
        if !self.log.is_open(now, self.now.done) {
            return;
        }
        // What is open depends on what goes now, and on nothing later: closed here, it leaves with the append's end, and never waits for the next.
        if self.log_closes_outputs() {
            self.outputs.close(self.now.pos);
        }
        let (keeps, most, rides) = (
            self.config.keeps,
            self.config.window_bytes / 4,
            self.log.has_pending(),
        );
        let due = self.checkpoints.take_due(now, rides, keeps, most, &self.outputs);
        match due {
            Some((cut, said)) if self.config.exactly_once => {
                self.base.checkpoint_written();
                self.log.note_checkpoint(cut, said);
            }
            Some((cut, _)) => self.checkpoints.set_durable(*cut),
            None => {}
        }
        if let Some(records) = self.log.take(now) {
            effects.push(Effect::AppendLog { records });
        }
    }

    /// Notes what the log has come to, if it has grown. Nothing is at hand.
    fn note_base(&mut self) {
        let (at, digest) = self.log.place();
        if self.config.keeps == Keeps::Inputs || self.now.done || !self.base.is_due(at) {
            return;
        }
        let mut base = Box::new(Base {
            cut: self.now.clone(),
            receivers: self.outputs.receivers().map(|(_, task)| task).collect(),
            active: self.outputs.active().collect(),
            epoch: self.config.epoch,
            processes: self.base.processes(),
            checkpoints: self.base.checkpoints(),
            at,
            digest: digest.0,
        });
        // Whether it has arrived is a checkpoint's to say.
        base.cut.acked.clear();
        if Mutant::Receivers.is_on() {
            base.receivers.clear();
            base.active.clear();
        }
        self.log.note(&Record::Base(base.clone()));
        self.base.note(&base, self.log.place().0 - at);
    }

    /// What no restart needs any more goes.
    fn trim(&mut self, effects: &mut Vec<Effect>) {
        let durable = self.checkpoints.durable();
        if let Some(upto) = self.base.trim(durable, self.config.keeps) {
            effects.push(Effect::TrimLog { upto });
        }
        let dead = self.config.bounds.snapshot_dead;
        if let Some(upto) = self.snapshots.as_mut().and_then(|s| s.trim(durable, dead)) {
            effects.push(Effect::TrimSnapshots { upto });
        }
    }

    /// The order records that outputs may depend on when they leave.
    fn durable(&self) -> u64 {
        if self.fixed || Mutant::EarlySend.is_on() {
            return u64::MAX;
        }
        // A state that came to be by chance must be stored before anybody sees what it led to.
        let by_chance = self.config.stateful && self.config.keeps == Keeps::Productions;
        if by_chance && !Mutant::Ungated.is_on() {
            return self.checkpoints.durable().pos;
        }
        self.log.durable()
    }
}
