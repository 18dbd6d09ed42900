//! Where a task begins: from nothing, or from what its log says.
//!
//! | kept in the log | a restart starts from | and then |
//! |---|---|---|
//! | [`Keeps::Order`] | the last checkpoint (with its snapshot) | consumes what upstream sends again, in the logged order |
//! | [`Keeps::Inputs`] | the very beginning | consumes what the log holds, in its order |
//! | [`Keeps::Productions`] | the log's end (with state: the last checkpoint) | sends what the log holds; runs nothing again |

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use common::clock::Time;
use common::ids::TaskId;
use protocol::task_log::{
    Base, CUT_VERSION, Cut, Digest, Keeps, Order, Owned, Places, Record, SourcePos, records,
};

use super::base::LogBase;
use super::channels::Channels;
use super::checkpoints::Checkpoints;
use super::handover::Groups;
use super::inbox::Inbox;
use super::log::LogWriter;
use super::mutants::Mutant;
use super::output::Chunk;
use super::outputs::{Neighbours, Outputs};
use super::progress::Progress;
use super::snapshots::Snapshots;
use super::work::Replay;
use super::{Config, Error, Task};
use crate::wire::{self, Standing};

/// What storage holds of a task.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stored<'a> {
    /// The log's content, and where it begins: below that it was trimmed.
    pub log: &'a [u8],
    pub log_begin: u64,
    /// By output that is a stream into a file: how many bytes of this task the file has.
    pub outputs: &'a [(usize, u64)],
    /// The snapshot file's length.
    pub snapshots: u64,
}

/// What a log says, once what later processes declared void is taken out.
#[derive(Default)]
struct History {
    /// What the log begins with, if it was trimmed.
    base: Option<Base>,
    /// The newest checkpoint.
    cut: Option<Cut>,
    orders: Vec<(u64, Order)>,
    /// By position: what it consumed.
    frames: BTreeMap<u64, Bytes>,
    /// By output: what was put out.
    productions: Vec<(usize, Chunk)>,
    digest: Digest,
}

impl History {
    /// `bases` learns what a later base is to say, and where the log may be trimmed.
    fn read(log: &[u8], begin: u64, bases: &mut LogBase) -> Result<Self, Error> {
        let mut history = Self::default();
        let mut growing = Places::default();
        let mut records = records(log);
        while let Some(next) = records.next() {
            let (at, record) = next?;
            let at = begin + at as u64;
            match record {
                Record::Base(base) if base.at != at => {
                    let why = "a base that was written elsewhere stands in it";
                    return Err(Error::LogBegin { at: begin, why });
                }
                Record::Base(base) if at == begin => {
                    let size = begin + records.at() as u64 - at;
                    growing.clone_from(&base.cut.source.growing);
                    history.digest = Digest(base.digest);
                    bases.begin_with(&base, size);
                    history.base = Some(*base);
                }
                Record::Base(base) => bases.note(&base, begin + records.at() as u64 - at),
                _ if at == begin && begin > 0 => {
                    let why = "what was trimmed is told by no base there";
                    return Err(Error::LogBegin { at, why });
                }
                Record::Checkpoint(mut cut) => {
                    bases.checkpoint_written();
                    let news = std::mem::replace(&mut cut.source.growing, growing);
                    cut.source.catch_up(&news);
                    growing = cut.source.growing.clone();
                    history.cut = Some(*cut);
                }
                Record::Order { pos, order } => {
                    let have = history.end();
                    if pos != have + 1 {
                        return Err(Error::LogGap { have, next: pos });
                    }
                    history.orders.push((pos, order));
                }
                Record::Began { pos, .. } => {
                    bases.process_began();
                    bases.void(pos);
                    history.orders.retain(|(p, _)| *p <= pos);
                    history.frames.retain(|p, _| *p <= pos);
                    history.productions.retain(|(_, c)| c.pos <= pos);
                }
                Record::Tuples { pos, frame } => drop(history.frames.insert(pos, frame)),
                Record::Production {
                    pos,
                    output,
                    start,
                    end,
                    tuples,
                    born_us,
                    payload,
                } => {
                    let chunk = Chunk {
                        start,
                        end,
                        pos,
                        payload,
                        born_us,
                        tuples,
                    };
                    history.productions.push((usize::from(output), chunk));
                }
            }
        }
        if begin > 0 && history.base.is_none() {
            let why = "nothing stands there";
            return Err(Error::LogBegin { at: begin, why });
        }
        history.digest.take(log);
        let covered = history.cut.as_ref().map_or(0, |cut| cut.pos);
        if covered < history.begin() {
            let why = "no checkpoint stands behind what was trimmed";
            return Err(Error::LogBegin { at: begin, why });
        }
        Ok(history)
    }

    /// The position behind which its orders begin.
    fn begin(&self) -> u64 {
        self.base.as_ref().map_or(0, |base| base.cut.pos)
    }

    fn end(&self) -> u64 {
        self.orders.last().map_or(self.begin(), |(pos, _)| *pos)
    }
}

impl Task {
    /// A task that goes on from what storage holds of it, which may be nothing.
    pub fn recover(
        mut config: Config,
        neighbours: &Neighbours,
        stored: Stored<'_>,
        now: Time,
    ) -> Result<Self, Error> {
        if Mutant::Weak.is_on() {
            config.keeps = Keeps::Order;
        }
        let mut bases = LogBase::new(config.bounds.log_every, config.bounds.keep_log);
        let history = History::read(stored.log, stored.log_begin, &mut bases)?;
        let upstream = &neighbours.upstream;
        for (_, order) in &history.orders {
            let of_stage = |t: &TaskId| neighbours.owned.is_some() && config.task.stage == t.stage;
            if let Order::Input { from, .. }
            | Order::InputEnd { from, .. }
            | Order::Mark { from, .. }
            | Order::Adopt { from, .. } = order
                && !(upstream.contains(from) || of_stage(from))
            {
                let what = format!("upstream task {from}");
                return Err(Error::Foreign { what });
            }
        }
        let mut task = Self::empty(config, neighbours, now);
        if task.config.keeps != Keeps::Inputs {
            if let Some(base) = &history.base {
                task.outputs.restore(base);
            }
            task.routed_until(
                &history,
                history.begin(),
                history.cut.as_ref().map_or(0, |cut| cut.pos),
            );
            if let Some(cut) = history.cut.as_ref()
                && cut.emitted.len() != task.outputs.len()
            {
                let what = format!("{} outputs", cut.emitted.len());
                return Err(Error::Foreign { what });
            }
        }
        let (mut durable, digest) = (history.end(), history.digest);
        match task.config.keeps {
            Keeps::Order => task.go_on(history),
            Keeps::Inputs => task.start_over(history)?,
            Keeps::Productions => {
                task.take_up(history, stored.log_begin)?;
                durable = task.now.pos;
            }
        }
        let end = stored.log_begin + stored.log.len() as u64;
        task.log = LogWriter::behind(end, digest, durable);
        task.base = bases;
        task.go_on_with(stored);
        if task.config.exactly_once {
            task.base.process_began();
            task.base.void(durable);
            task.log.note(&Record::Began {
                epoch: task.config.epoch,
                pos: durable,
            });
        }
        Ok(task)
    }

    /// Makes the outputs that the routing changes after order record `from` up to `until` brought.
    fn routed_until(&mut self, history: &History, from: u64, until: u64) {
        let orders = history.orders.iter();
        for (_, order) in orders.filter(|(pos, _)| *pos > from && *pos <= until) {
            match order {
                Order::Route { tasks, .. } => self.outputs.restore_route(tasks),
                Order::HandOver { to, .. } => self.open(to),
                _ => {}
            }
        }
    }

    fn empty(config: Config, neighbours: &Neighbours, now: Time) -> Self {
        let outputs = Outputs::new(neighbours, config.sets_aside);
        let owned = neighbours.owned.as_ref();
        let is_source = neighbours.upstream.is_empty();
        let by_chance = config.follows || config.scales;
        let cut = Cut {
            version: CUT_VERSION,
            route: neighbours.version,
            emitted: outputs.emitted(),
            owned: owned.map(|table| Owned {
                table: table.clone(),
                ..Owned::default()
            }),
            ..Cut::default()
        };
        Self {
            fixed: config.exactly_once && is_source && (!by_chance || Mutant::Fixed.is_on()),
            groups: owned.map(|table| Box::new(Groups::new(config.task, table))),
            channels: Channels::new(&neighbours.upstream),
            outputs,
            replay: VecDeque::new(),
            at_hand: None,
            taken: None,
            log: LogWriter::default(),
            base: LogBase::default(),
            checkpoints: Checkpoints::new(cut.clone()),
            snapshots: None,
            progress: Progress::new(now),
            now: cut,
            config,
        }
    }

    /// The files' ends are known: what a stream has is not appended again.
    fn go_on_with(&mut self, stored: Stored<'_>) {
        for (output, length) in stored.outputs {
            if let Some(output) = self.outputs.get_mut(*output) {
                output.connect(Standing::at(*length));
                output.acknowledge(*length, |_| {});
            }
        }
        if self.config.stateful {
            let snapshots = Snapshots::new(&self.now, stored.snapshots, self.config.bounds.snapshot_slack);
            self.snapshots = Some(snapshots);
        }
    }

    /// The checkpoint is the place where the task stands.
    fn stand_at(&mut self, cut: &Cut) {
        for (from, consumed) in &cut.consumed {
            if self.is_peer(*from) {
                self.channels.open(*from, *consumed);
            }
        }
        let consumed = |from| cut.consumed.get(&from).copied().unwrap_or(0);
        self.channels.restart(consumed);
        self.checkpoints.stand_at(cut);
        self.now = cut.clone();
        self.now.version = CUT_VERSION;
        self.regroup();
    }

    /// From the checkpoint on, what upstream sends again is consumed in the logged order.
    fn go_on(&mut self, history: History) {
        if let Some(cut) = &history.cut {
            for (output, emitted) in self.outputs.iter_mut().zip(&cut.emitted) {
                output.begin_at(*emitted);
            }
            self.stand_at(cut);
        }
        let from = self.now.pos;
        let behind = history.orders.into_iter().filter(|(pos, _)| *pos > from);
        self.replay = behind.map(|(_, order)| Replay { order, item: None }).collect();
    }

    /// Everything is consumed again, from the log; what receivers are known to have is not even kept.
    fn start_over(&mut self, history: History) -> Result<(), Error> {
        let mut frames = history.frames;
        for (pos, order) in history.orders {
            let mut item = None;
            if let Order::Input { from, end, .. } = &order {
                let frame = frames.remove(&pos).ok_or(Error::NoTuples { pos })?;
                item = Some(wire::decode_data(&frame).map_err(|e| Error::Tuples {
                    pos,
                    why: e.to_string(),
                })?);
                self.begin_channel_at(*from, *end);
            } else if let Order::InputEnd { from, at } = &order {
                self.begin_channel_at(*from, at + 1);
            }
            self.replay.push_back(Replay { order, item });
        }
        if let Some(cut) = history.cut {
            for (output, acked) in self.outputs.iter_mut().zip(&cut.acked) {
                output.acknowledge(*acked, |_| {});
            }
            self.outputs.remember(&cut.acked);
            self.checkpoints.found(cut);
        }
        Ok(())
    }

    fn begin_channel_at(&mut self, from: TaskId, unit: u64) {
        if let Some(inbox) = self.channels.inbox(from) {
            *inbox = Inbox::new(unit);
        }
    }

    /// What was put out is there. Without state the orders behind the checkpoint are as good as done; with state they
    /// are void, since nothing of them has left.
    fn take_up(&mut self, history: History, log_begin: u64) -> Result<(), Error> {
        let end = history.end();
        let at = history.cut.as_ref().map_or(0, |cut| cut.pos);
        if !self.config.stateful {
            self.routed_until(&history, at, end);
        }
        let cut = history.cut.unwrap_or_else(|| Cut {
            acked: vec![0; self.outputs.len()],
            ..self.now.clone()
        });
        let last = if self.config.stateful { cut.pos } else { end };
        self.stand_at(&cut);
        for (output, acked) in self.outputs.iter_mut().zip(&cut.acked) {
            output.begin_at(*acked);
        }
        for (index, chunk) in history.productions {
            if chunk.pos > last {
                continue;
            }
            // What is set aside does not count as output.
            if chunk.pos > cut.pos && Some(index) != self.outputs.aside_index() {
                self.now.tuples_out += chunk.tuples;
            }
            if let Some(output) = self.outputs.get_mut(index)
                && !output.restore(chunk)
            {
                let why = "what was put out before is gone, though it had not all arrived";
                return Err(Error::LogBegin { at: log_begin, why });
            }
        }
        let behind = history.orders.iter();
        for (_, order) in behind.filter(|(pos, _)| (cut.pos + 1..=last).contains(pos)) {
            self.now.consume(order);
        }
        self.now.pos = last;
        let consumed = &self.now.consumed;
        self.channels
            .restart(|from| consumed.get(&from).copied().unwrap_or(0));
        self.outputs.note_emitted(&mut self.now.emitted);
        if last > cut.pos {
            self.checkpoints.push(self.now.clone());
        }
        Ok(())
    }

    /// Without a log: the source begins where its predecessor's output is known to have arrived.
    pub fn begin_at(&mut self, source: SourcePos) {
        self.checkpoints.begin_at(&source);
        self.now.source = source;
    }
}
