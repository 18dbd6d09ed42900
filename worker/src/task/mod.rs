//! A task's exactly-once bookkeeping, without I/O: what it consumed in which order, what it emitted, what is durable,
//! what may leave and what may be forgotten.
//!
//! ```text
//!  frames --> inbox per upstream --> next_work() -> operator --> outputs --> chunks --> next task / destination
//!                 |                    |                        ^           |
//!                 |               order record                  |      acknowledged
//!                 |                    v                   leaves when      v
//!            acks upstream <-- log: records, checkpoints -- durable      cut passed
//! ```
//!
//! The driver calls [`Task::next_work`], runs the operator on what it gets, and calls [`Task::complete`]; it appends what
//! [`Task::take_records`] gives to the log and reports the append's end with [`Task::logged`]. The protocol is described in
//! `docs/exactly-once.md`.

pub mod inbox;
pub mod output;

pub mod router;
#[cfg(test)]
mod sim;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use common::clock::Time;
use common::control::Format;
use common::ids::TaskId;

use common::task_log::{self, CUT_VERSION, Cut, Order, Record, SourceRun};
use inbox::{Content, Inbox, Item, Received};
use output::Output;
use router::Router;

/// A checkpoint is written at least this often while there is something new to cover.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(25);
/// An operator's state is put into a snapshot at most this often ...
const SNAPSHOT_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Clone)]
pub struct Config {
    pub exactly_once: bool,
    /// The operator has state: only cuts with a snapshot can become checkpoints.
    pub stateful: bool,
    pub format: Format,
    /// An output chunk closes at this many bytes.
    pub batch_bytes: usize,
    /// Bytes kept per output before the task stops consuming.
    pub window_bytes: usize,
    #[cfg(test)]
    pub mutant: Mutant,
}

/// Protocol steps that a test leaves out, to see that its oracle sees.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    None,
    /// Received repeats are not dropped.
    Dedup,
    /// Outputs leave before the log has what they depend on.
    EarlySend,
    /// Inputs are acknowledged before a checkpoint covers them.
    EarlyAck,
    /// Older epochs are not refused.
    Fence,
    /// The snapshot holds the state of now, the cut the numbers of an earlier moment.
    Snapshot,
}

/// What to do next.
#[derive(Debug, PartialEq)]
pub enum Work {
    /// Give these tuples to the operator, as one batch.
    Input { from: TaskId, item: Item },
    /// Note an upstream task's end mark.
    InputEnd { from: TaskId, at: u64 },
    /// Read lines: exactly this run when replaying, else what the driver likes from `Task::source` on.
    Source(Option<SourceRun>),
    /// Let the operator finish; end marks follow.
    Finish,
}

/// What was done: becomes the order record.
#[derive(Debug)]
pub struct Done {
    pub order: Order,
    pub bytes_in: u64,
}

/// Something that the log and the channels say cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Log(#[from] task_log::Error),
    #[error("the log's order records have a gap: {have} is followed by {next}")]
    LogGap { have: u64, next: u64 },
    #[error("the log speaks of {what}, which is not in the plan")]
    Foreign { what: String },
    #[error("channel {from} lacks units from {have} on that the log says were consumed (asked: {want})")]
    Lost { from: TaskId, have: u64, want: u64 },
}

#[derive(Debug)]
pub struct Task {
    config: Config,
    now: Cut,
    inboxes: BTreeMap<TaskId, Inbox>,
    /// Who was served last, for fairness.
    turn: Option<TaskId>,
    outputs: Vec<Output>,
    replay: VecDeque<(u64, Order)>,
    /// Encoded records that wait for the next append to the log, and what they hold.
    pending: Vec<u8>,
    pending_pos: u64,
    pending_checkpoint: Option<Box<Cut>>,
    /// Appends to the log under way: end offset in the log, newest order record, checkpoint.
    appends: VecDeque<(u64, u64, Option<Box<Cut>>)>,
    log_end: u64,
    /// Order records up to here are in the log.
    durable: u64,
    cuts: VecDeque<Cut>,
    /// Position of the newest checkpoint written or pending, and when.
    checkpoint_pos: u64,
    checkpoint_at: Time,
    /// The newest durable checkpoint: what upstream may forget.
    checkpoint: Cut,
    bytes_since_checkpoint: usize,
    snapshot_pos: u64,
    snapshot_at: Time,
    bytes_since_snapshot: usize,
    /// All upstream tasks: whose end marks are awaited.
    ends: BTreeSet<TaskId>,
}

impl Task {
    /// A task that starts from nothing. `outputs`: channels in routing order, or one destination.
    pub fn new(config: Config, upstream: &[TaskId], outputs: Vec<Output>) -> Self {
        let cut = Cut {
            version: CUT_VERSION,
            emitted: outputs.iter().map(Output::emitted).collect(),
            ..Cut::default()
        };
        Self {
            inboxes: upstream.iter().map(|u| (*u, Inbox::new(0))).collect(),
            turn: None,
            outputs,
            replay: VecDeque::new(),
            pending: Vec::new(),
            pending_pos: 0,
            pending_checkpoint: None,
            appends: VecDeque::new(),
            log_end: 0,
            durable: 0,
            cuts: VecDeque::from([cut.clone()]),
            checkpoint_pos: 0,
            checkpoint_at: Time::ZERO,
            checkpoint: cut.clone(),
            bytes_since_checkpoint: 0,
            snapshot_pos: 0,
            snapshot_at: Time::ZERO,
            bytes_since_snapshot: 0,
            ends: upstream.iter().copied().collect(),
            now: cut,
            config,
        }
    }

    /// A task that goes on from its log: the newest checkpoint, and the order records behind it to be replayed.
    pub fn recover(
        config: Config,
        upstream: &[TaskId],
        mut outputs: Vec<Output>,
        log: &[u8],
    ) -> Result<Self, Error> {
        let records = task_log::decode_all(log)?;
        let mut cut = None;
        for record in &records {
            if let Record::Checkpoint(c) = record {
                cut = Some(c.as_ref().clone());
            }
        }
        let mut replay = VecDeque::new();
        let mut pos = cut.as_ref().map_or(0, |c| c.pos);
        for record in records {
            if let Record::Order { pos: p, order } = record
                && p > pos
            {
                if p != pos + 1 {
                    return Err(Error::LogGap { have: pos, next: p });
                }
                if let Order::Input { from, .. } | Order::InputEnd { from, .. } = &order
                    && !upstream.contains(from)
                {
                    return Err(Error::Foreign {
                        what: format!("upstream task {from}"),
                    });
                }
                pos = p;
                replay.push_back((p, order));
            }
        }
        if let Some(cut) = &cut {
            if cut.emitted.len() != outputs.len() {
                return Err(Error::Foreign {
                    what: format!("{} outputs", cut.emitted.len()),
                });
            }
            for (output, emitted) in outputs.iter_mut().zip(&cut.emitted) {
                *output = match output.is_destination() {
                    true => Output::destination(*emitted),
                    false => Output::channel(*emitted),
                };
            }
        }
        let mut task = Self::new(config, upstream, outputs);
        if let Some(cut) = cut {
            for (from, inbox) in &mut task.inboxes {
                *inbox = Inbox::new(cut.consumed.get(from).copied().unwrap_or(0));
            }
            task.cuts = VecDeque::from([cut.clone()]);
            task.checkpoint_pos = cut.pos;
            task.snapshot_pos = cut.pos;
            task.checkpoint = cut.clone();
            task.now = cut;
        }
        task.durable = pos;
        task.pending_pos = pos;
        task.replay = replay;
        task.log_end = log.len() as u64;
        Ok(task)
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

    pub fn output(&mut self, index: usize) -> &mut Output {
        &mut self.outputs[index]
    }

    pub fn outputs(&self) -> usize {
        self.outputs.len()
    }

    pub fn backlog_bytes(&self) -> usize {
        self.inboxes.values().map(Inbox::bytes).sum()
    }

    /// All consumed, emitted, acknowledged and noted: the process may end.
    pub fn is_finished(&self) -> bool {
        self.now.done
            && self.replay.is_empty()
            && (self.durable >= self.now.pos || !self.config.exactly_once)
            && self.outputs.iter().all(|o| o.acked() >= o.emitted())
            && self.appends.is_empty()
            && self.checkpoint.pos >= self.now.pos
    }

    // --- input ----------------------------------------------------------------------------------------------------

    /// A sender has connected. Returns the unit that it is to send from.
    pub fn connect(&mut self, from: TaskId, oldest: u64, new_epoch: bool) -> Result<u64, Error> {
        let done = self.now.done;
        let consumed = self.now.consumed.get(&from).copied().unwrap_or(0);
        let inbox = self.inboxes.get_mut(&from).ok_or(Error::Foreign {
            what: format!("upstream task {from}"),
        })?;
        if !self.config.exactly_once && new_epoch && !done {
            // Without a log a new process of the sender numbers anew: what it sends is all there is of it.
            *inbox = Inbox::new(oldest);
            self.now.consumed.insert(from, oldest);
            self.now.ended.remove(&from);
            for cut in &mut self.cuts {
                cut.consumed.insert(from, oldest);
            }
            self.checkpoint.consumed.insert(from, oldest);
            return Ok(oldest);
        }
        if self.config.exactly_once && inbox.have() < oldest {
            return Err(Error::Lost {
                from,
                have: consumed,
                want: oldest,
            });
        }
        if !self.config.exactly_once && inbox.have() < oldest {
            *inbox = Inbox::new(oldest);
            self.now.consumed.insert(from, oldest);
        }
        Ok(inbox.have())
    }

    pub fn receive(&mut self, from: TaskId, item: Item) -> Received {
        let Some(inbox) = self.inboxes.get_mut(&from) else {
            return Received::Gap;
        };
        if !self.config.exactly_once && self.now.done {
            // Repeats from a restarted sender: everything was consumed, so all of it may be forgotten.
            self.checkpoint.consumed.insert(from, item.end());
            return Received::Repeat;
        }
        #[cfg(test)]
        if self.config.mutant == Mutant::Dedup {
            inbox.receive_unchecked(item);
            return Received::New;
        }
        inbox.receive(item)
    }

    /// What upstream may forget: units of `from` below this are covered by a durable checkpoint.
    pub fn ack(&self, from: TaskId) -> u64 {
        #[cfg(test)]
        if self.config.mutant == Mutant::EarlyAck {
            return self.now.consumed.get(&from).copied().unwrap_or(0);
        }
        self.checkpoint.consumed.get(&from).copied().unwrap_or(0)
    }

    // --- work -----------------------------------------------------------------------------------------------------

    /// The outputs hold as much as they may.
    pub fn is_blocked(&self) -> bool {
        self.outputs
            .iter()
            .any(|o| o.kept_bytes() >= self.config.window_bytes)
    }

    /// Takes the next unit of work, if there is one. Every `Some` must be followed by [`Task::complete`], except a
    /// `Source(None)` for which nothing was read.
    pub fn next_work(&mut self) -> Option<Work> {
        // Replay is not held back: a receiver that replays too may wait for just these outputs, in its logged order, while
        // it leaves others waiting that fill the window. What is made again fitted the window when it was first made.
        if self.replay.is_empty() && self.is_blocked() {
            return None;
        }
        if let Some((_, order)) = self.replay.front() {
            return match order {
                Order::Input { from, start, end } => {
                    let item = self.inboxes.get_mut(from)?.pop_exact(*start, *end)?;
                    Some(Work::Input { from: *from, item })
                }
                Order::InputEnd { from, at } => {
                    self.inboxes.get_mut(from)?.pop_exact(*at, *at + 1)?;
                    Some(Work::InputEnd { from: *from, at: *at })
                }
                Order::Source(run) => Some(Work::Source(Some(*run))),
                Order::Finish => Some(Work::Finish),
            };
        }
        if self.now.done {
            return None;
        }
        if self.inboxes.is_empty() {
            return Some(Work::Source(None));
        }
        if self.now.ended.len() == self.ends.len() {
            return Some(Work::Finish);
        }
        let after = |t: &&TaskId| Some(**t) > self.turn;
        let ready: Vec<TaskId> = self
            .inboxes
            .iter()
            .filter(|(_, i)| i.is_ready())
            .map(|(t, _)| *t)
            .collect();
        let from = *ready.iter().find(after).or(ready.first())?;
        self.turn = Some(from);
        let item = self.inboxes.get_mut(&from)?.pop()?;
        Some(match item.content {
            Content::End => Work::InputEnd { from, at: item.start },
            Content::Tuples(_) => Work::Input { from, item },
        })
    }

    /// Where the operator's outputs for the unit of work at hand go.
    pub fn router(&mut self, born_us: u64) -> Router<'_> {
        Router::new(
            &mut self.outputs,
            &mut self.now.tuples_out,
            self.now.pos + 1,
            born_us,
            &self.config,
        )
    }

    /// The unit of work is done and its outputs are emitted: notes the order record and the cut.
    pub fn complete(&mut self, done: Done) {
        let replayed = self.replay.pop_front().is_some();
        self.now.pos += 1;
        let pos = self.now.pos;
        self.now.bytes_in += done.bytes_in;
        self.bytes_since_checkpoint += done.bytes_in as usize;
        self.bytes_since_snapshot += done.bytes_in as usize;
        match &done.order {
            Order::Input { from, start, end } => {
                self.now.tuples_in += end - start;
                self.now.consumed.insert(*from, *end);
            }
            Order::InputEnd { from, at } => {
                self.now.ended.insert(*from);
                self.now.consumed.insert(*from, at + 1);
            }
            Order::Source(run) => {
                self.now.tuples_in += run.lines;
                let source = &mut self.now.source;
                (source.slice, source.at, source.line) = match run.last {
                    true => (run.slice + 1, None, 0),
                    false => (run.slice, Some(run.to), run.first_line + run.lines),
                };
            }
            Order::Finish => {
                self.outputs.iter_mut().for_each(|o| o.end(pos));
                self.now.done = true;
            }
        }
        for (now, output) in self.now.emitted.iter_mut().zip(&self.outputs) {
            *now = output.emitted();
        }
        if !self.config.exactly_once {
            self.durable = pos;
        } else if !replayed {
            task_log::encode(
                &Record::Order {
                    pos,
                    order: done.order,
                },
                &mut self.pending,
            );
            self.pending_pos = pos;
        }
        if !self.config.stateful {
            self.cuts.push_back(self.now.clone());
        }
    }

    /// Closes what the outputs have open: after the linger, or when there is nothing else to do.
    pub fn close_outputs(&mut self) {
        let pos = self.now.pos;
        self.outputs.iter_mut().for_each(|o| o.close(pos));
    }

    pub fn has_open_output(&self) -> bool {
        self.outputs.iter().any(|o| o.open_bytes() > 0)
    }

    // --- snapshots ------------------------------------------------------------------------------------------------

    /// Is it time to put the operator's state, as it is after the last completed work, into the snapshot file?
    pub fn wants_snapshot(&self, now: Time) -> bool {
        self.config.stateful
            && self.now.pos > self.snapshot_pos
            && (now.since(self.snapshot_at) >= SNAPSHOT_EVERY
                || self.bytes_since_snapshot >= self.config.window_bytes / 4
                || self.now.done)
    }

    /// The operator's state as it was at `cut` is in these extents of the snapshot file, and they are durable.
    pub fn snapshotted(&mut self, now: Time, cut: Cut, extents: Vec<(u64, u64)>) {
        self.snapshot_pos = cut.pos;
        self.snapshot_at = now;
        self.bytes_since_snapshot = 0;
        self.now.snapshot = extents.clone();
        self.cuts.push_back(Cut {
            snapshot: extents,
            ..cut
        });
    }

    // --- log ------------------------------------------------------------------------------------------------------

    /// Records to append to the log now; empty when there is nothing. With a checkpoint when one is due.
    pub fn take_records(&mut self, now: Time) -> Vec<u8> {
        self.make_checkpoint(now);
        let bytes = std::mem::take(&mut self.pending);
        if !bytes.is_empty() {
            self.log_end += bytes.len() as u64;
            self.appends
                .push_back((self.log_end, self.pending_pos, self.pending_checkpoint.take()));
        }
        bytes
    }

    /// The newest cut whose outputs are all acknowledged becomes a checkpoint.
    fn make_checkpoint(&mut self, now: Time) {
        while self.cuts.len() > 1 && self.is_passed(&self.cuts[1]) {
            self.cuts.pop_front();
        }
        let Some(cut) = self.cuts.front().filter(|c| c.pos > self.checkpoint_pos) else {
            return;
        };
        let due = now.since(self.checkpoint_at) >= CHECKPOINT_EVERY
            || self.bytes_since_checkpoint >= self.config.window_bytes / 4
            || cut.done;
        if !due {
            return;
        }
        let cut = Box::new(cut.clone());
        self.checkpoint_pos = cut.pos;
        self.checkpoint_at = now;
        self.bytes_since_checkpoint = 0;
        if self.config.exactly_once {
            let record = Record::Checkpoint(cut.clone());
            task_log::encode(&record, &mut self.pending);
            self.pending_checkpoint = Some(cut);
        } else {
            self.checkpoint = *cut;
        }
    }

    fn is_passed(&self, cut: &Cut) -> bool {
        // A cut may be passed before its own order record is durable: both are in the log by the time that the
        // checkpoint is, since the log keeps their order.
        self.outputs
            .iter()
            .zip(&cut.emitted)
            .all(|(o, emitted)| o.acked() >= *emitted)
    }

    /// When to look at [`Task::take_records`] again although nothing happens: a checkpoint is due then.
    pub fn checkpoint_deadline(&self) -> Option<Time> {
        let waiting = self.cuts.back().is_some_and(|c| c.pos > self.checkpoint_pos);
        waiting.then_some(self.checkpoint_at + CHECKPOINT_EVERY)
    }

    pub fn snapshot_deadline(&self) -> Option<Time> {
        (self.config.stateful && self.now.pos > self.snapshot_pos)
            .then_some(self.snapshot_at + SNAPSHOT_EVERY)
    }

    /// Everything below `offset` of the log is durable.
    pub fn logged(&mut self, offset: u64) {
        while self.appends.front().is_some_and(|(end, ..)| *end <= offset) {
            if let Some((_, pos, checkpoint)) = self.appends.pop_front() {
                self.durable = self.durable.max(pos);
                if let Some(cut) = checkpoint {
                    self.checkpoint = *cut;
                }
            }
        }
    }

    /// The order records that outputs may depend on when they leave.
    pub fn durable(&self) -> u64 {
        #[cfg(test)]
        if self.config.mutant == Mutant::EarlySend {
            return u64::MAX;
        }
        self.durable
    }

    /// End of the log, counting what is under way.
    pub fn log_end(&self) -> u64 {
        self.log_end
    }
}
