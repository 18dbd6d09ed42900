//! What the task consumes next, and the order record of it.

use std::time::Duration;

use common::clock::Time;
use common::ids::TaskId;
use protocol::batch::{Batch, Builder};
use protocol::control::{Route, Unit};
use protocol::task_log::{Keeps, Order, Record};

use super::Task;
use super::effect::{Effect, Input, Work};
use super::handover::is_held;
use super::inbox::{Content, Item};
use super::mutants::Mutant;
use super::router::Router;
use crate::wire;

/// An order record to be lived through again.
#[derive(Debug)]
pub(super) struct Replay {
    pub order: Order,
    /// What it consumed, where the log holds that.
    pub item: Option<Item>,
}

impl Replay {
    /// Up to where it needs what `from` has to send again.
    pub fn needs(&self, from: TaskId) -> Option<u64> {
        self.order.reaches(from).filter(|_| self.item.is_none())
    }
}

/// What was handed out and is not answered yet.
#[derive(Debug)]
pub(super) enum AtHand {
    /// What was consumed is known.
    Order(Order),
    /// What was read will be known.
    Source,
    Snapshot,
}

impl Task {
    /// Takes the next unit of work, if there is one.
    pub fn next_work(&mut self, now: Time) -> Option<Work> {
        debug_assert!(self.at_hand.is_none(), "one unit of work after the other");
        let most = self.config.window_bytes / 4;
        if let Some(snapshots) = &mut self.snapshots
            && let Some(rewrite) = snapshots.begin(now, &self.now, most)
        {
            self.at_hand = Some(AtHand::Snapshot);
            return Some(Work::Snapshot { rewrite });
        }
        // Replay is not held back: a receiver that replays too may wait for just these outputs, in its logged order, while
        // it leaves others waiting that fill the window. What is made again fitted the window when it was first made.
        if !self.replay.is_empty() {
            return self.replay_next();
        }
        if let Some(Route { version, tasks }) = self.outputs.next_route(self.now.route).cloned() {
            return Some(self.take(Order::Route { version, tasks }, Work::Note));
        }
        if self.outputs.are_full(self.config.window_bytes) {
            return None;
        }
        if let Some((version, to)) = self.due_handover() {
            return Some(self.hand_over(version, to));
        }
        if self.now.done {
            // Tasks that were added upstream when all had ended have only their end to tell.
            let (from, item) = self.channels.pop_end()?;
            return Some(self.consume(from, item));
        }
        if self.channels.is_empty() {
            self.at_hand = Some(AtHand::Source);
            return Some(Work::Source(None));
        }
        if self.channels.awaited().is_subset(&self.now.ended) && !self.is_moving() {
            return Some(self.take(Order::Finish, Work::Finish));
        }
        let (groups, owned) = (self.groups.as_deref(), self.now.owned.as_ref());
        let (from, item) = self.channels.pop(|from| is_held(groups, owned, from))?;
        Some(self.consume(from, item))
    }

    /// The next order of the log, once what it consumes is here.
    fn replay_next(&mut self) -> Option<Work> {
        let next = self.replay.front_mut()?;
        let order = next.order.clone();
        match &order {
            Order::Input { from, start, end } => {
                let item = match next.item.take() {
                    Some(item) => item,
                    None => self.channels.inbox(*from)?.pop_exact(*start, *end)?,
                };
                Some(self.operate(*from, item))
            }
            Order::InputEnd { .. } if self.config.keeps == Keeps::Inputs => {
                Some(self.take(order, Work::Note))
            }
            Order::InputEnd { from, at } | Order::Mark { from, at, .. } => {
                self.channels.inbox(*from)?.pop_exact(*at, *at + 1)?;
                Some(self.take(order, Work::Note))
            }
            Order::Adopt { from, start, end } => {
                let (from, item) = (*from, self.channels.inbox(*from)?.pop_exact(*start, *end)?);
                Some(self.consume(from, item))
            }
            Order::Source(run) => {
                self.at_hand = Some(AtHand::Source);
                Some(Work::Source(Some(*run)))
            }
            Order::Finish => Some(self.take(order, Work::Finish)),
            Order::Route { .. } => Some(self.take(order, Work::Note)),
            Order::HandOver { version, to } => Some(self.hand_over(*version, to.clone())),
        }
    }

    pub(super) fn take(&mut self, order: Order, work: Work) -> Work {
        self.at_hand = Some(AtHand::Order(order));
        work
    }

    /// What a piece of a channel is to the task.
    fn consume(&mut self, from: TaskId, item: Item) -> Work {
        let (start, end) = (item.start, item.end());
        match item.content {
            Content::End => self.take(Order::InputEnd { from, at: start }, Work::Note),
            Content::Mark(Route { version, tasks }) => {
                let order = Order::Mark {
                    from,
                    at: start,
                    version,
                    tasks,
                };
                self.take(order, Work::Note)
            }
            Content::Tuples(state) if self.is_peer(from) => {
                self.take(Order::Adopt { from, start, end }, Work::Adopt { state })
            }
            Content::Tuples(ref batch) => {
                if self.config.keeps == Keeps::Inputs {
                    self.taken = Some(wire::encode_data(start, item.born_us, false, batch));
                }
                self.operate(from, item)
            }
        }
    }

    /// Tuples for the operator, but for those that are to be set aside.
    fn operate(&mut self, from: TaskId, item: Item) -> Work {
        let (start, end, born_us) = (item.start, item.end(), item.born_us);
        let batch = match item.content {
            Content::Tuples(batch) => batch,
            Content::Mark(_) | Content::End => Batch::empty(),
        };
        let batch = self.set_aside(from, start..end, born_us, batch);
        let work = Work::Tuples {
            from,
            start,
            born_us,
            batch,
        };
        self.take(Order::Input { from, start, end }, work)
    }

    /// Puts those aside that the operator cannot digest. Returns the others.
    fn set_aside(&mut self, from: TaskId, units: std::ops::Range<u64>, born_us: u64, batch: Batch) -> Batch {
        let unit = |number| Unit { from, number };
        let skip = self.config.skip.range(unit(units.start)..unit(units.end));
        let skip: Vec<u64> = skip.map(|u| u.number).collect();
        let Some(aside) = self.outputs.aside().filter(|_| !skip.is_empty()) else {
            return batch;
        };
        let mut left = Builder::new();
        let mut number = units.start;
        batch.for_each(|key, value| {
            if skip.contains(&number) {
                aside.emit(key, value, self.config.format, born_us);
            } else {
                left.push(key, value);
            }
            number += 1;
        });
        aside.close(self.now.pos + 1);
        left.take()
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

    /// So long ago the tuples at hand were read by their source.
    pub fn note_age(&mut self, age: Duration) {
        self.log.note_age(age);
    }

    /// Where the operator's outputs for the unit of work at hand go.
    pub fn router(&mut self, born_us: u64) -> Router<'_> {
        let pos = self.now.pos + 1;
        let (tuples_out, lossy) = (&mut self.now.tuples_out, &mut self.now.lossy);
        self.outputs.router(tuples_out, lossy, pos, born_us, &self.config)
    }

    // --- what came of it ------------------------------------------------------------------------------------------

    /// The unit of work at hand is answered.
    pub(super) fn answer(&mut self, now: Time, answer: Input, effects: &mut Vec<Effect>) {
        match (self.at_hand.take(), answer) {
            (Some(AtHand::Order(order)), Input::WorkDone { bytes_in }) => {
                self.complete(order, bytes_in, effects)
            }
            (Some(AtHand::Source), Input::SourceRead { run, bytes_in }) => {
                self.progress.has_read();
                self.complete(Order::Source(run), bytes_in, effects);
            }
            (Some(AtHand::Source), Input::SourceEnded) => self.complete(Order::Finish, 0, effects),
            (Some(AtHand::Source), Input::SourceDry) => self.progress.found_nothing(now),
            (Some(AtHand::Source), Input::SourcePaced) => {}
            (Some(AtHand::Snapshot), Input::SnapshotTaken { state, round_ended }) => {
                if let Some(snapshots) = &mut self.snapshots {
                    snapshots.taken(self.now.clone(), &state, round_ended);
                }
                if !state.is_empty() {
                    effects.push(Effect::AppendSnapshot { state });
                }
                self.snapshot_stored(now, 0);
            }
            (at_hand, answer) => {
                debug_assert!(false, "{answer:?} answers nothing that was asked");
                self.at_hand = at_hand;
            }
        }
    }

    /// The unit of work is done and its outputs are emitted: notes the order record and the cut.
    fn complete(&mut self, order: Order, bytes_in: u64, effects: &mut Vec<Effect>) {
        let replayed = self.replay.pop_front().is_some();
        self.now.pos += 1;
        let pos = self.now.pos;
        self.now.bytes_in += bytes_in;
        self.checkpoints.consumed(bytes_in);
        if let Some(snapshots) = &mut self.snapshots {
            snapshots.consumed(bytes_in);
        }
        self.now.consume(&order);
        match &order {
            Order::Source(run) if run.growing => self.checkpoints.moved(pos, run.slice),
            Order::Finish => self.outputs.end(pos),
            Order::Route { version, tasks } => {
                let (version, tasks) = (*version, tasks.clone());
                let route = Route { version, tasks };
                self.outputs.reroute(&route, pos, self.now.done);
                effects.push(Effect::Routed(route));
            }
            Order::Mark { .. } => self.regroup(),
            Order::HandOver { to, .. } => self.handed_over(to, pos),
            _ => {}
        }
        let forgets = match &order {
            Order::Route { .. } => Mutant::Route.is_on(),
            Order::HandOver { .. } => Mutant::HandOver.is_on(),
            _ => false,
        };
        if forgets {
            self.now.pos -= 1;
            self.outputs.note_emitted(&mut self.now.emitted);
            return;
        }
        if self.config.keeps == Keeps::Productions {
            self.outputs.close(pos);
            self.now.emitted.resize(self.outputs.len(), 0);
            for record in self.outputs.productions(&self.now.emitted) {
                self.log.note(&record);
            }
        }
        self.outputs.note_emitted(&mut self.now.emitted);
        if !self.config.exactly_once {
            self.log.pretend(pos);
        } else if !replayed {
            if let Some(frame) = self.taken.take() {
                self.log.note(&Record::Tuples { pos, frame });
            }
            self.log.note(&Record::Order { pos, order });
            self.note_base();
        }
        if !self.config.stateful {
            self.checkpoints.push(self.now.clone());
        }
    }
}
