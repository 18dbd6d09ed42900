//! Where a task begins: from nothing, or from what its log says.
//!
//! | kept in the log | a restart starts from | and then |
//! |---|---|---|
//! | [`Keeps::Order`] | the last checkpoint (with its snapshot) | consumes what upstream sends again, in the logged order |
//! | [`Keeps::Inputs`] | the very beginning | consumes what the log holds, in its order |
//! | [`Keeps::Productions`] | the log's end (with state: the last checkpoint) | sends what the log holds; runs nothing again |

use std::collections::BTreeMap;

use bytes::Bytes;
use protocol::task_log::{Owned, decode_all};

use super::*;

/// What a log says, once what later processes declared void is taken out.
#[derive(Default)]
struct History {
    /// The newest checkpoint.
    cut: Option<Cut>,
    orders: Vec<(u64, Order)>,
    /// By position: what it consumed.
    frames: BTreeMap<u64, Bytes>,
    /// By output: what was put out.
    productions: Vec<(usize, Chunk)>,
}

impl History {
    fn read(log: &[u8]) -> Result<Self, Error> {
        let mut history = Self::default();
        for record in decode_all(log)? {
            match record {
                Record::Checkpoint(cut) => history.cut = Some(*cut),
                Record::Order { pos, order } => {
                    let have = history.orders.last().map_or(0, |(pos, _)| *pos);
                    if pos != have + 1 {
                        return Err(Error::LogGap { have, next: pos });
                    }
                    history.orders.push((pos, order));
                }
                Record::Began { pos, .. } => {
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
        Ok(history)
    }

    fn end(&self) -> u64 {
        self.orders.last().map_or(0, |(pos, _)| *pos)
    }
}

impl Task {
    /// A task that goes on from its log, which may be empty.
    pub fn recover(config: Config, neighbours: &Neighbours, log: &[u8]) -> Result<Self, Error> {
        let upstream = &neighbours.upstream;
        let history = History::read(log)?;
        for (_, order) in &history.orders {
            let of_stage = |t: &TaskId| {
                neighbours
                    .owned
                    .as_ref()
                    .is_some_and(|(me, _)| me.stage == t.stage)
            };
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
        let mut task = Self::empty(config, neighbours);
        if task.config.keeps != Keeps::Inputs {
            task.routed_until(&history, 0, history.cut.as_ref().map_or(0, |cut| cut.pos));
            if let Some(cut) = history.cut.as_ref()
                && cut.emitted.len() != task.outputs.len()
            {
                let what = format!("{} outputs", cut.emitted.len());
                return Err(Error::Foreign { what });
            }
        }
        task.log_end = log.len() as u64;
        task.durable = history.end();
        match task.config.keeps {
            Keeps::Order => task.go_on(history),
            Keeps::Inputs => task.start_over(history)?,
            Keeps::Productions => task.take_up(history),
        }
        task.pending_pos = task.durable;
        task.noted.clone_from(&task.checkpoint.acked);
        if task.config.exactly_once {
            let began = Record::Began {
                epoch: task.config.epoch,
                pos: task.durable,
            };
            task_log::encode(&began, &mut task.pending);
        }
        Ok(task)
    }

    /// Makes the outputs that the routing changes after order record `from` up to `until` brought.
    fn routed_until(&mut self, history: &History, from: u64, until: u64) {
        let orders = history.orders.iter();
        for (_, order) in orders.filter(|(pos, _)| *pos > from && *pos <= until) {
            match order {
                Order::Route { tasks, .. } => self.rerouted(tasks),
                Order::HandOver { to, .. } => self.open(to),
                _ => {}
            }
        }
    }

    fn empty(config: Config, neighbours: &Neighbours) -> Self {
        let (targets, outputs) = Targets::new(neighbours, config.sets_aside);
        let upstream = &neighbours.upstream;
        let cut = Cut {
            version: CUT_VERSION,
            route: neighbours.version,
            emitted: outputs.iter().map(Output::emitted).collect(),
            owned: neighbours.owned.as_ref().map(|(_, table)| Owned {
                table: table.clone(),
                ..Owned::default()
            }),
            ..Cut::default()
        };
        let groups = neighbours.owned.as_ref();
        Self {
            groups: groups.map(|(me, table)| Box::new(Groups::new(*me, table))),
            inboxes: upstream.iter().map(|u| (*u, Inbox::new(0))).collect(),
            turn: None,
            outputs,
            targets,
            replay: VecDeque::new(),
            taken: None,
            pending: Vec::new(),
            pending_pos: 0,
            pending_checkpoint: None,
            appends: VecDeque::new(),
            append_at: Time::ZERO,
            age: Duration::ZERO,
            log_end: 0,
            durable: 0,
            cuts: VecDeque::from([cut.clone()]),
            checkpoint_pos: 0,
            checkpoint_at: Time::ZERO,
            noted: Vec::new(),
            checkpoint: cut.clone(),
            bytes_since_checkpoint: 0,
            snapshot_pos: 0,
            snapshot_began: Time::ZERO,
            snapshot_due: Time::ZERO,
            bytes_since_snapshot: 0,
            ends: upstream.iter().copied().collect(),
            now: cut,
            config,
        }
    }

    /// The checkpoint is the place where the task stands.
    fn stand_at(&mut self, cut: &Cut) {
        for (from, inbox) in &mut self.inboxes {
            *inbox = Inbox::new(cut.consumed.get(from).copied().unwrap_or(0));
        }
        for (from, consumed) in &cut.consumed {
            if self.is_peer(*from) {
                self.inboxes.insert(*from, Inbox::new(*consumed));
            }
        }
        self.cuts = VecDeque::from([cut.clone()]);
        self.checkpoint_pos = cut.pos;
        self.snapshot_pos = cut.pos;
        self.checkpoint = cut.clone();
        self.now = cut.clone();
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
                self.inboxes.insert(*from, Inbox::new(*end));
            } else if let Order::InputEnd { from, at } = &order {
                self.inboxes.insert(*from, Inbox::new(at + 1));
            }
            self.replay.push_back(Replay { order, item });
        }
        if let Some(cut) = history.cut {
            for (output, acked) in self.outputs.iter_mut().zip(&cut.acked) {
                output.acknowledge(*acked, |_| {});
            }
            self.targets.remember(&cut.acked);
            self.checkpoint_pos = cut.pos;
            self.checkpoint = cut;
        }
        Ok(())
    }

    /// What was put out is there. Without state the orders behind the checkpoint are as good as done; with state they
    /// are void, since nothing of them has left.
    fn take_up(&mut self, history: History) {
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
        self.now.emitted.resize(self.outputs.len(), 0);
        for (output, acked) in self.outputs.iter_mut().zip(&cut.acked) {
            output.begin_at(*acked);
        }
        for (index, chunk) in history.productions {
            if chunk.pos > last {
                continue;
            }
            // What is set aside does not count as output.
            if chunk.pos > cut.pos && Some(index) != self.targets.aside() {
                self.now.tuples_out += chunk.tuples;
            }
            if let Some(output) = self.outputs.get_mut(index) {
                output.restore(chunk);
            }
        }
        for (_, order) in history
            .orders
            .iter()
            .filter(|(pos, _)| (cut.pos + 1..=last).contains(pos))
        {
            self.now.consume(order);
        }
        self.now.pos = last;
        for (from, inbox) in &mut self.inboxes {
            *inbox = Inbox::new(self.now.consumed.get(from).copied().unwrap_or(0));
        }
        self.note_emitted();
        if last > cut.pos {
            self.cuts.push_back(self.now.clone());
        }
        self.durable = last;
    }

    /// Without a log: the source begins where its predecessor's output is known to have arrived.
    pub fn begin_at(&mut self, source: SourcePos) {
        self.now.source = source.clone();
        self.checkpoint.source = source.clone();
        for cut in &mut self.cuts {
            cut.source = source.clone();
        }
    }
}
