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

mod format;
mod handover;
pub mod inbox;
mod log;
#[cfg(test)]
mod mutant;
pub mod output;
mod recover;
mod route;
pub mod router;
#[cfg(test)]
mod sim;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use common::clock::Time;
use common::hold::Hold;
use common::ids::{Epoch, TaskId};
use protocol::batch::{Batch, Builder};
use protocol::control::{Format, Route, Unit};

use handover::Groups;
use inbox::{Content, Inbox, Item, Received};
#[cfg(test)]
pub use mutant::Mutant;
use output::{Chunk, Output};
use protocol::task_log::{self, CUT_VERSION, Cut, Keeps, Order, Record, SourcePos, SourceRun};
pub use route::Neighbours;
use route::Targets;
use router::Router;

use crate::wire::{self, Standing};

/// A checkpoint is written at least this often while there is something new to cover ...
const CHECKPOINT_EVERY: Duration = Duration::from_millis(10);
/// ... and this often where it can ride with an append that is made anyway.
const CHECKPOINT_RIDES: Duration = Duration::from_millis(5);
/// How long records for the log, and small results for the destination, are gathered.
pub const HOLD: Hold = Hold {
    times: 2,
    most: CHECKPOINT_EVERY,
};
/// A task with many receivers keeps as much as these windows hold, not more for each of them.
const FULL_WINDOWS: usize = 3;
/// Between two snapshots lies so many times what the last one took, within these bounds: what a stateful task has consumed is
/// acknowledged when its snapshot is stored, and its senders' windows wait for that.
const SNAPSHOT_TIMES: u32 = 4;
const SNAPSHOT_EVERY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(100));

#[derive(Debug, Clone)]
pub struct Config {
    pub epoch: Epoch,
    pub exactly_once: bool,
    pub keeps: Keeps,
    /// What is put out, and where it goes, follows from the input alone, whatever the log says: a source of files that do
    /// not grow, for a stage that does not either. Its outputs leave at once, and its records take their time.
    pub fixed: bool,
    /// The operator has state: only cuts with a snapshot can become checkpoints.
    pub stateful: bool,
    pub format: Format,
    /// An output chunk closes at this many bytes.
    pub batch_bytes: usize,
    /// Bytes kept per output before the task stops consuming; of all together, [`FULL_WINDOWS`] times as many.
    pub window_bytes: usize,
    /// Tuples that are set aside instead of being given to the operator.
    pub skip: BTreeSet<Unit>,
    /// There is an output for what is set aside.
    pub sets_aside: bool,
    #[cfg(test)]
    pub mutant: Mutant,
}

/// What to do next.
#[derive(Debug, PartialEq)]
pub enum Work {
    /// Give these tuples to the operator, as one batch.
    Input {
        from: TaskId,
        /// Units `start..end` are consumed by it, those that are set aside among them.
        start: u64,
        end: u64,
        born_us: u64,
        batch: Batch,
    },
    /// Note an upstream task's end mark.
    InputEnd { from: TaskId, at: u64 },
    /// Read lines: exactly this run when replaying, else what the driver likes from `Task::source` on.
    Source(Option<SourceRun>),
    /// Route by this version from now on.
    Route(Route),
    /// Note the mark of a version of this stage's own routing.
    Mark { from: TaskId, at: u64, route: Route },
    /// Take in keys with their state.
    Adopt {
        from: TaskId,
        start: u64,
        end: u64,
        state: Batch,
    },
    /// Hand over the keys that are others' by this version of this stage's own routing ([`Task::leaving`],
    /// [`Task::handover`]).
    HandOver { version: u32, to: Vec<TaskId> },
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
    #[error("the log does not hold the tuples that order record {pos} consumed")]
    NoTuples { pos: u64 },
    #[error("the log's tuples of order record {pos} cannot be read: {why}")]
    Tuples { pos: u64, why: String },
}

/// An order record to be lived through again.
#[derive(Debug)]
struct Replay {
    order: Order,
    /// What it consumed, where the log holds that.
    item: Option<Item>,
}

#[derive(Debug)]
pub struct Task {
    config: Config,
    now: Cut,
    inboxes: BTreeMap<TaskId, Inbox>,
    /// Who was served last, for fairness.
    turn: Option<TaskId>,
    outputs: Vec<Output>,
    targets: Targets,
    replay: VecDeque<Replay>,
    /// The frame of the unit of work at hand, for a log that keeps inputs.
    taken: Option<Bytes>,
    /// Encoded records that wait for the next append to the log, and what they hold.
    pending: Vec<u8>,
    pending_pos: u64,
    pending_checkpoint: Option<Box<Cut>>,
    appends: VecDeque<log::Append>,
    /// No append begins before, unless there is much to append.
    append_at: Time,
    age: Duration,
    log_end: u64,
    /// Order records up to here are in the log.
    durable: u64,
    cuts: VecDeque<Cut>,
    /// Position of the newest checkpoint written or pending, and when.
    checkpoint_pos: u64,
    checkpoint_at: Time,
    /// What outputs were acknowledged by the newest checkpoint written, where that says so.
    noted: Vec<u64>,
    /// The newest durable checkpoint: what upstream may forget.
    checkpoint: Cut,
    bytes_since_checkpoint: usize,
    snapshot_pos: u64,
    snapshot_began: Time,
    snapshot_due: Time,
    bytes_since_snapshot: usize,
    /// All upstream tasks: whose end marks are awaited.
    ends: BTreeSet<TaskId>,
    /// Whose the stage's key groups are, where its state moves with its routing.
    groups: Option<Box<Groups>>,
}

impl Task {
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

    /// Tuples that had to be sent again over a later connection.
    pub fn resent(&self) -> u64 {
        self.outputs.iter().map(Output::resent).sum()
    }

    /// The source's position before which all has arrived at the destination.
    pub fn arrived(&self) -> &SourcePos {
        &self.checkpoint.source
    }

    pub fn backlog_bytes(&self) -> usize {
        self.inboxes.values().map(Inbox::bytes).sum()
    }

    pub fn backlog_tuples(&self) -> u64 {
        self.inboxes.values().map(Inbox::units).sum()
    }

    /// All consumed, emitted, acknowledged and noted: the process may end.
    pub fn is_finished(&self) -> bool {
        self.now.done
            && self.replay.is_empty()
            && self.targets.is_empty()
            && (self.durable >= self.now.pos || !self.config.exactly_once)
            && self.outputs.iter().all(|o| o.acked() >= o.emitted())
            && self.appends.is_empty()
            && self.checkpoint.pos >= self.now.pos
    }

    // --- input ----------------------------------------------------------------------------------------------------

    /// A sender has connected. Returns what it is to send.
    pub fn connect(&mut self, from: TaskId, oldest: u64, new_epoch: bool) -> Result<Standing, Error> {
        let done = self.now.done;
        let consumed = self.now.consumed.get(&from).copied().unwrap_or(0);
        if self.is_peer(from) {
            self.inboxes.entry(from).or_insert_with(|| Inbox::new(consumed));
        }
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
            return Ok(Standing::at(oldest));
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
        let have = inbox.have();
        let wanted = self.replay.iter().filter(|r| r.item.is_none());
        let needs = wanted.filter_map(|r| r.order.reaches(from)).max();
        Ok(Standing {
            have,
            needs: needs.unwrap_or(have),
        })
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

    /// The outputs hold as much as they may, and nobody waits for more before they can go on.
    pub fn is_blocked(&self) -> bool {
        let window = self.config.window_bytes;
        let kept = || self.outputs.iter().map(Output::kept_bytes);
        let full = kept().any(|bytes| bytes >= window) || kept().sum::<usize>() >= FULL_WINDOWS * window;
        full && !self.outputs.iter().any(Output::is_behind)
    }

    /// Takes the next unit of work, if there is one. Every `Some` must be followed by [`Task::complete`], except a
    /// `Source(None)` for which nothing was read.
    pub fn next_work(&mut self) -> Option<Work> {
        // Replay is not held back: a receiver that replays too may wait for just these outputs, in its logged order, while
        // it leaves others waiting that fill the window. What is made again fitted the window when it was first made.
        if self.replay.is_empty() {
            if let Some(route) = self.next_route() {
                return Some(Work::Route(route));
            }
            if self.is_blocked() {
                return None;
            }
        }
        if let Some(next) = self.replay.front_mut() {
            return match &next.order {
                Order::Input { from, start, end } => {
                    let (from, start, end) = (*from, *start, *end);
                    let item = match next.item.take() {
                        Some(item) => item,
                        None => self.inboxes.get_mut(&from)?.pop_exact(start, end)?,
                    };
                    Some(self.input(from, item))
                }
                Order::InputEnd { from, at } if self.config.keeps == Keeps::Inputs => {
                    Some(Work::InputEnd { from: *from, at: *at })
                }
                Order::InputEnd { from, at } => {
                    self.inboxes.get_mut(from)?.pop_exact(*at, *at + 1)?;
                    Some(Work::InputEnd { from: *from, at: *at })
                }
                Order::Source(run) => Some(Work::Source(Some(*run))),
                Order::Finish => Some(Work::Finish),
                Order::Route { version, tasks } => Some(Work::Route(Route {
                    version: *version,
                    tasks: tasks.clone(),
                })),
                Order::Mark { from, at, .. } => {
                    let (from, at) = (*from, *at);
                    let item = self.inboxes.get_mut(&from)?.pop_exact(at, at + 1)?;
                    Some(self.consumed(from, item))
                }
                Order::Adopt { from, start, end } => {
                    let (from, start, end) = (*from, *start, *end);
                    let item = self.inboxes.get_mut(&from)?.pop_exact(start, end)?;
                    Some(self.consumed(from, item))
                }
                Order::HandOver { version, to } => {
                    let (version, to) = (*version, to.clone());
                    Some(self.hand_over(version, to))
                }
            };
        }
        if let Some((version, to)) = self.due_handover() {
            return Some(self.hand_over(version, to));
        }
        if self.now.done {
            // Tasks that were added upstream when all had ended have only their end to tell.
            let (from, inbox) = self.inboxes.iter_mut().find(|(_, i)| i.is_at_end())?;
            let (from, at) = (*from, inbox.pop()?.start);
            return Some(Work::InputEnd { from, at });
        }
        if self.inboxes.is_empty() {
            return Some(Work::Source(None));
        }
        if self.ends.is_subset(&self.now.ended) && !self.is_moving() {
            return Some(Work::Finish);
        }
        let after = |t: &&TaskId| Some(**t) > self.turn;
        let ready: Vec<TaskId> = self
            .inboxes
            .iter()
            .filter(|(from, i)| i.is_ready() && !self.is_held(**from))
            .map(|(t, _)| *t)
            .collect();
        let from = *ready.iter().find(after).or(ready.first())?;
        self.turn = Some(from);
        let item = self.inboxes.get_mut(&from)?.pop()?;
        Some(self.consumed(from, item))
    }

    /// What a piece of a channel is to the task.
    fn consumed(&mut self, from: TaskId, item: Item) -> Work {
        let (start, end) = (item.start, item.end());
        match item.content {
            Content::End => Work::InputEnd { from, at: start },
            Content::Mark(route) => Work::Mark {
                from,
                at: start,
                route,
            },
            Content::Tuples(state) if self.is_peer(from) => Work::Adopt {
                from,
                start,
                end,
                state,
            },
            Content::Tuples(ref batch) => {
                if self.config.keeps == Keeps::Inputs {
                    self.taken = Some(wire::encode_data(start, item.born_us, false, batch));
                }
                self.input(from, item)
            }
        }
    }

    /// Tuples for the operator, but for those that are to be set aside.
    fn input(&mut self, from: TaskId, item: Item) -> Work {
        let (start, end, born_us) = (item.start, item.end(), item.born_us);
        let unit = |number| Unit { from, number };
        let mut batch = match item.content {
            Content::Tuples(batch) => batch,
            Content::Mark(_) | Content::End => Batch::empty(),
        };
        let skip: Vec<u64> = self
            .config
            .skip
            .range(unit(start)..unit(end))
            .map(|u| u.number)
            .collect();
        if !skip.is_empty()
            && let Some(aside) = self.targets.aside().and_then(|i| self.outputs.get_mut(i))
        {
            let mut left = Builder::new();
            let mut number = start;
            batch.for_each(|key, value| {
                if skip.contains(&number) {
                    aside.emit(key, value, self.config.format, born_us);
                } else {
                    left.push(key, value);
                }
                number += 1;
            });
            aside.close(self.now.pos + 1);
            batch = left.take();
        }
        Work::Input {
            from,
            start,
            end,
            born_us,
            batch,
        }
    }

    /// Which tuple the operator stumbled over: the `index`th of the batch that it got of units `start` on.
    pub fn unit(&self, from: TaskId, start: u64, index: u64) -> Unit {
        let mut number = start;
        let mut left = index;
        loop {
            let unit = Unit { from, number };
            match (self.config.skip.contains(&unit), left) {
                (false, 0) => return unit,
                (false, _) => left -= 1,
                (true, _) => {}
            }
            number += 1;
        }
    }

    /// Where the operator's outputs for the unit of work at hand go.
    pub fn router(&mut self, born_us: u64) -> Router<'_> {
        Router::new(
            &mut self.outputs,
            self.targets.active(),
            self.targets.owners(),
            &mut self.now.tuples_out,
            &mut self.now.lossy,
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
        self.now.consume(&done.order);
        match &done.order {
            Order::Finish => {
                for index in self.targets.active() {
                    self.outputs[*index].end(pos);
                }
            }
            Order::Route { version, tasks } => {
                let (version, tasks) = (*version, tasks.clone());
                self.reroute(&Route { version, tasks }, pos);
            }
            Order::Mark { .. } => self.regroup(),
            Order::HandOver { to, .. } => self.handed_over(to, pos),
            _ => {}
        }
        #[cfg(test)]
        if matches!(
            (self.config.mutant, &done.order),
            (Mutant::Route, Order::Route { .. }) | (Mutant::HandOver, Order::HandOver { .. })
        ) {
            self.now.pos -= 1;
            return self.note_emitted();
        }
        if self.config.keeps == Keeps::Productions {
            self.outputs.iter_mut().for_each(|o| o.close(pos));
            self.keep_productions();
        }
        self.note_emitted();
        if !self.config.exactly_once {
            self.durable = pos;
        } else if !replayed {
            if let Some(frame) = self.taken.take() {
                task_log::encode(&Record::Tuples { pos, frame }, &mut self.pending);
            }
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

    fn note_emitted(&mut self) {
        for (now, output) in self.now.emitted.iter_mut().zip(&self.outputs) {
            *now = output.emitted();
        }
    }

    /// What the unit of work at hand has put out goes into the log with its order record.
    fn keep_productions(&mut self) {
        for (index, (output, before)) in self.outputs.iter().zip(&self.now.emitted).enumerate() {
            for chunk in output.closed_since(*before) {
                let record = Record::Production {
                    pos: chunk.pos,
                    output: index as u16,
                    start: chunk.start,
                    end: chunk.end,
                    tuples: chunk.tuples,
                    born_us: chunk.born_us,
                    payload: chunk.payload.clone(),
                };
                task_log::encode(&record, &mut self.pending);
            }
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
}
