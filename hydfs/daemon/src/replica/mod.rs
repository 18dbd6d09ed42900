//! The storage node as a state machine: `docs/hydfs.md`, per range. No I/O but the [`Store`]'s.
//!
//! ```text
//!  PeerUp/Down, Suspect          Client                      Peer
//!        |                         |                          |
//!      view  --- changes --->  take-over: Ask/Answer -> decide -> Install/Installed -> Active
//!        |                         |                                                   |
//!   Know to all             waiting clients refused                lead: ops, seq, Replicate/Ack -> commit -> Reply
//! ```
//!
//! The driver calls [`Replica::handle`] for each input of a burst and then [`Replica::flush`] once; what is gathered (acknowledgements,
//! entries for one peer, commits, replies) leaves there. Effects are to be carried out in order.

mod active;
mod decide;
mod effect;
mod flush_plan;
mod follow;
mod known;
mod lead;
mod learn;
mod mutant;
mod plan;
mod repair;
mod request;
mod status;
mod takeover;
mod view_state;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::clock::Time;

use crate::store::{self, NodeFacts, Store};
use crate::wire::peer::Message;
use hydfs::content::SegmentLimits;
use hydfs::ring::{RangeIx, Ring};
use hydfs::view::{Incarnation, NodeIx, View};

use active::MemberAck;
use flush_plan::FlushPlan;
use follow::ReplicatedEntries;
use known::CommitFloors;
pub(crate) use mutant::Mutant;
use repair::Repairs;
use view_state::ViewState;

pub use effect::{Effect, Input, Known, RangeState, Unreadable};
pub use request::{Answer, FileInfo, Refused, Request, Writer};

/// What was sent and not answered for this long is sent again. Connections keep order and lose nothing while they last, so this is the second line.
const RESEND: Duration = Duration::from_secs(1);

/// A storage node.
pub struct Replica<S> {
    me: NodeIx,
    ring: Ring,
    store: S,
    /// All that was ever heard. More than the view only while the disk has no room to write the view down.
    heard: View,
    /// The view, and what is under way in it.
    current: ViewState,
    up: BTreeSet<NodeIx>,
    /// What is known to be committed, whatever the view.
    floors: BTreeMap<RangeIx, CommitFloors>,
    repairs: Repairs,
    flush: FlushPlan,
    /// Nodes whose disks have little room left, as they say.
    short: BTreeSet<NodeIx>,
    nudged: Time,
    broken: bool,
    limits: SegmentLimits,
}

impl<S: Store> Replica<S> {
    /// `incarnation`: wall-clock milliseconds; raised when the disk remembers that or a later one. A fresh disk is born now.
    pub fn new(
        me: NodeIx,
        ring: Ring,
        mut store: S,
        incarnation: Incarnation,
        now: Time,
    ) -> Result<Self, store::Error> {
        let mut view = View::new(ring.nodes().len());
        let before = store.node().map(|facts| {
            view.merge(&facts.view);
            (facts.memory(), facts.incarnation.0 + 1)
        });
        let least = before.map_or(0, |(_, next)| next).max(view.failed(me).0 + 1);
        let new = incarnation.max(Incarnation(least));
        let whole = before
            .filter(|_| !store.lost_newest())
            .map(|(memory, _)| memory.whole);
        view.join(me, new);
        store.set_node(NodeFacts {
            born: before.map_or(new, |(memory, _)| memory.born),
            whole: whole.unwrap_or(new),
            incarnation: new,
            view: view.clone(),
        })?;
        let floors = |range| (range, CommitFloors::recover(&store, range));
        let mut replica = Self {
            me,
            heard: view.clone(),
            current: ViewState::new(view, &ring),
            up: BTreeSet::new(),
            floors: ring.ranges().map(floors).collect(),
            repairs: Repairs::default(),
            flush: FlushPlan::default(),
            short: BTreeSet::new(),
            nudged: now,
            broken: false,
            limits: SegmentLimits::USUAL,
            ring,
            store,
        };
        replica.flush.begin_view(replica.peers());
        Ok(replica)
    }

    /// Segments that are closed sooner than usual.
    #[cfg(test)]
    pub fn with_limits(self, limits: SegmentLimits) -> Self {
        Self { limits, ..self }
    }

    /// One thing that happened. Call [`Replica::flush`] after the last of a burst.
    pub fn handle(&mut self, now: Time, input: Input, out: &mut Vec<Effect>) {
        if self.broken {
            return;
        }
        let done = match input {
            Input::Peer { from, message } => self.peer(now, from, message, out),
            Input::Client { conn, id, request } => self.client(conn, id, request, out),
            Input::ClientGone { conn } => {
                self.current.forget_client(conn);
                Ok(())
            }
            Input::Suspect { node } => self.suspect(node, out),
            Input::PeerUp { node } => self.peer_up(now, node, out),
            Input::PeerDown { node } => {
                self.up.remove(&node);
                self.short.remove(&node);
                Ok(())
            }
            Input::Repaired { range, file, segment } => {
                self.repaired(range, &file, &segment);
                Ok(())
            }
            Input::RepairFailed { range, file, segment } => {
                self.repairs.failed(now, &(range, file, segment.id));
                Ok(())
            }
            Input::Damaged { range, file, segment } => self.damaged(range, file, segment, out),
            Input::Short(short) => {
                if self.note_short(self.me, short) {
                    out.extend(self.peers().map(|to| self.say_short(to)));
                }
                Ok(())
            }
            Input::Tick => self.tick(now, out),
        };
        self.check(done, out);
    }

    /// After each burst of [`Replica::handle`]: makes durable, acknowledges, replicates, commits, replies.
    pub fn flush(&mut self, now: Time, out: &mut Vec<Effect>) {
        if self.broken {
            return;
        }
        for to in self.flush.take_tell() {
            out.push(Effect::Send {
                to,
                message: Message::Know {
                    view: self.current.view.clone(),
                },
            });
        }
        if self.flush.take_takeover() {
            let done = self.begin_takeover(now, out);
            self.check(done, out);
        }
        let announce = self.flush.take_announce();
        self.current.announce_active(announce, out);
        self.start_repairs(now, out);
        let due = |(range, at): (RangeIx, Time)| (at <= now).then_some(range);
        let mut stirred = self.flush.take_stirred();
        stirred.extend(self.current.telling_times().filter_map(due));
        if self.flush.take_unsynced() {
            let done = self.store.sync();
            self.check(done, out);
        }
        if self.broken {
            return;
        }
        for range in stirred {
            self.flush_lead(now, range, out);
            self.flush_follow(range, out);
        }
    }

    /// When to [`Replica::flush`] although nothing happens.
    pub fn deadline(&self) -> Option<Time> {
        self.current.telling_times().map(|(_, at)| at).min()
    }

    /// A full disk is no reason to stop: whoever asked asks again.
    fn check(&mut self, done: Result<(), store::Error>, out: &mut Vec<Effect>) {
        match done {
            Ok(()) | Err(store::Error::Full) => {}
            Err(error) => {
                self.broken = true;
                out.push(Effect::Broken { error });
            }
        }
    }

    fn peer(
        &mut self,
        now: Time,
        from: NodeIx,
        message: Message,
        out: &mut Vec<Effect>,
    ) -> Result<(), store::Error> {
        if from == self.me || from.0 as usize >= self.current.view.nodes() {
            return Ok(());
        }
        let same = match &message {
            Message::Short { short } => {
                self.note_short(from, *short);
                return Ok(());
            }
            Message::Know { view }
            | Message::Ask { view, .. }
            | Message::Answer { view, .. }
            | Message::Install { view, .. } => {
                self.learn(view, out)?;
                self.current.view == *view
            }
            Message::Installed { view, .. }
            | Message::Active { view, .. }
            | Message::Replicate { view, .. }
            | Message::Ack { view, .. } => self.current.id == *view,
        };
        if !same {
            // Not carried out. If the other one knows more, its answer to this says so.
            self.flush.tell([from]);
            return Ok(());
        }
        match message {
            Message::Know { .. } | Message::Short { .. } => Ok(()),
            Message::Ask { view: _, ranges } => {
                let message = self.answer(from, &ranges)?;
                self.current.answered_to.insert(from, ranges);
                out.push(Effect::Send { to: from, message });
                Ok(())
            }
            Message::Answer {
                view: _,
                memory,
                ranges,
            } => self.answered(now, from, memory, ranges, out),
            Message::Install { view: _, ranges } => self.install(from, ranges, out),
            Message::Installed { view: _, ranges } => ranges
                .into_iter()
                .try_for_each(|(range, whole)| self.installed(now, from, range, whole, out)),
            Message::Active { view: _, ranges } => self.heard_active(from, &ranges, out),
            Message::Replicate {
                view: _,
                range,
                first,
                ops,
                commit,
                probe,
            } => {
                let news = ReplicatedEntries {
                    first,
                    ops,
                    commit,
                    probe,
                };
                self.replicate(from, range, news)
            }
            Message::Ack {
                view: _,
                range,
                seq,
                probe,
                standing,
            } => {
                let ack = MemberAck { seq, probe, standing };
                self.acked(now, from, range, ack, out);
                Ok(())
            }
        }
    }

    /// True: it was not so before.
    fn note_short(&mut self, node: NodeIx, short: bool) -> bool {
        match short {
            true => self.short.insert(node),
            false => self.short.remove(&node),
        }
    }

    fn say_short(&self, to: NodeIx) -> Effect {
        let short = self.short.contains(&self.me);
        Effect::Send {
            to,
            message: Message::Short { short },
        }
    }

    fn peers(&self) -> impl Iterator<Item = NodeIx> + use<S> {
        let me = self.me;
        (0..self.current.view.nodes() as u16)
            .map(NodeIx)
            .filter(move |n| *n != me)
    }

    /// The connection is new: everything that was not answered goes again.
    fn peer_up(&mut self, now: Time, node: NodeIx, out: &mut Vec<Effect>) -> Result<(), store::Error> {
        self.up.insert(node);
        out.push(self.say_short(node));
        self.flush.tell([node]);
        self.flush.announce_to([node]);
        self.current.ask_again(now, self.me, Some(node), out);
        self.current.resend_to(node, &mut self.flush);
        self.report_again(Some(node), out);
        self.answer_again(node, out)
    }

    fn tick(&mut self, now: Time, out: &mut Vec<Effect>) -> Result<(), store::Error> {
        self.repairs.look = true;
        let heard = self.heard.clone();
        self.learn(&heard, out)?;
        self.current.ask_again(now, self.me, None, out);
        if now.since(self.nudged) < RESEND {
            return Ok(());
        }
        self.nudged = now;
        self.flush.tell(self.peers());
        self.flush.announce_to(self.peers());
        self.current.nudge(now, &mut self.flush);
        self.report_again(None, out);
        self.own_part_again(now, out)
    }
}

#[cfg(test)]
mod tests;
