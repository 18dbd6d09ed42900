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

mod decide;
mod effect;
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

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::clock::Time;

use crate::content::SegmentId;
use crate::ring::{RangeIx, Ring};
use crate::store::{self, NodeFacts, Store};
use crate::view::{Incarnation, NodeIx, View, ViewId};
use crate::wire::peer::Message;

use follow::Follow;
use known::Floors;
use lead::Active;
pub(crate) use mutant::Mutant;
use repair::Repairs;
use takeover::{Installing, TakeOver};

pub use effect::{Effect, Input, Known, RangeState};
pub use request::{Answer, FileInfo, Refused, Request};

/// What was sent and not answered for this long is sent again. Connections keep order and lose nothing while they last, so this is the second line.
const RESEND: Duration = Duration::from_secs(1);

/// What this node does as the coordinator of a range.
enum Lead {
    /// Asking, or nothing to be done before the view changes.
    Waiting {
        why: String,
    },
    Installing(Installing),
    Active(Box<Active>),
}

/// A storage node.
pub struct Replica<S> {
    me: NodeIx,
    ring: Ring,
    store: S,
    incarnation: Incarnation,
    view: View,
    view_id: ViewId,
    /// The replicas of each range in `view`.
    sets: BTreeMap<RangeIx, Vec<NodeIx>>,
    /// All that was ever heard. More than `view` only while the disk has no room to write the view down.
    heard: View,

    // Dropped with each change of the view.
    takeover: Option<TakeOver>,
    leads: BTreeMap<RangeIx, Lead>,
    follows: BTreeMap<RangeIx, Follow>,
    /// Who was answered, and about what: an answer is lost with the connection it went over.
    answered_to: BTreeMap<NodeIx, Vec<RangeIx>>,

    up: BTreeSet<NodeIx>,
    floors: BTreeMap<RangeIx, Floors>,
    repairs: Repairs,
    /// Ranges that this node led to being active, by the segment that was open then: as long as it lives it knows what of that is committed.
    led: BTreeMap<RangeIx, SegmentId>,

    // What the next flush does.
    /// Peers to be told the view.
    tell: BTreeSet<NodeIx>,
    /// The view changed: take over.
    restart: bool,
    /// Ranges led or followed with something to send.
    stirred: BTreeSet<RangeIx>,
    /// Peers to be told which ranges are active.
    announce: BTreeSet<NodeIx>,
    unsynced: bool,
    nudged: Time,
    broken: bool,
}

impl<S: Store> Replica<S> {
    /// `incarnation`: wall-clock milliseconds; raised when the disk remembers that or a later one. A fresh disk is born now.
    pub fn new(
        me: NodeIx,
        ring: Ring,
        store: S,
        incarnation: Incarnation,
        now: Time,
    ) -> Result<Self, store::Error> {
        let nodes = ring.nodes().len();
        let mut view = View::new(nodes);
        let mut replica = Self {
            me,
            incarnation,
            view_id: view.id(),
            heard: view.clone(),
            sets: BTreeMap::new(),
            takeover: None,
            leads: BTreeMap::new(),
            follows: BTreeMap::new(),
            answered_to: BTreeMap::new(),
            up: BTreeSet::new(),
            floors: BTreeMap::new(),
            repairs: Repairs::default(),
            led: BTreeMap::new(),
            tell: BTreeSet::new(),
            restart: true,
            stirred: BTreeSet::new(),
            announce: BTreeSet::new(),
            unsynced: false,
            nudged: now,
            broken: false,
            ring,
            view: view.clone(),
            store,
        };
        let before = replica.store.node().map(|facts| {
            view.merge(&facts.view);
            replica.incarnation = incarnation.max(Incarnation(facts.incarnation.0 + 1));
            facts.memory()
        });
        replica.incarnation = replica.incarnation.max(Incarnation(view.failed(me).0 + 1));
        let new = replica.incarnation;
        let whole = before.map(|m| m.whole).filter(|_| !replica.store.lost_newest());
        view.join(me, replica.incarnation);
        replica.store.set_node(NodeFacts {
            born: before.map_or(new, |m| m.born),
            whole: whole.unwrap_or(new),
            incarnation: new,
            view: view.clone(),
        })?;
        replica.heard = view.clone();
        replica.take(view);
        for range in replica.ring.ranges() {
            replica
                .floors
                .insert(range, Floors::recover(&replica.store, range));
        }
        Ok(replica)
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
                self.client_gone(conn);
                Ok(())
            }
            Input::Suspect { node } => self.suspect(node, out),
            Input::PeerUp { node } => self.peer_up(now, node, out),
            Input::PeerDown { node } => {
                self.up.remove(&node);
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
            Input::Tick => self.tick(now, out),
        };
        self.check(done, out);
    }

    /// After each burst of [`Replica::handle`]: makes durable, acknowledges, replicates, commits, replies.
    pub fn flush(&mut self, now: Time, out: &mut Vec<Effect>) {
        if self.broken {
            return;
        }
        for to in std::mem::take(&mut self.tell) {
            out.push(Effect::Send {
                to,
                message: Message::Know {
                    view: self.view.clone(),
                },
            });
        }
        if std::mem::take(&mut self.restart) {
            let done = self.begin_takeover(now, out);
            self.check(done, out);
        }
        self.announce_active(out);
        self.start_repairs(now, out);
        let due = |(range, at): (RangeIx, Time)| (at <= now).then_some(range);
        let due: Vec<RangeIx> = self.tellings().filter_map(due).collect();
        self.stirred.extend(due);
        let stirred = std::mem::take(&mut self.stirred);
        if std::mem::take(&mut self.unsynced) {
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

    fn tellings(&self) -> impl Iterator<Item = (RangeIx, Time)> {
        self.leads.iter().filter_map(|(range, lead)| match lead {
            Lead::Active(active) => Some((*range, active.tell_at()?)),
            Lead::Waiting { .. } | Lead::Installing(_) => None,
        })
    }

    /// When to [`Replica::flush`] although nothing happens.
    pub fn deadline(&self) -> Option<Time> {
        self.tellings().map(|(_, at)| at).min()
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
        if from == self.me || from.0 as usize >= self.view.nodes() {
            return Ok(());
        }
        let same = match &message {
            Message::Know { view }
            | Message::Ask { view, .. }
            | Message::Answer { view, .. }
            | Message::Install { view, .. } => {
                self.learn(view, out)?;
                self.view == *view
            }
            Message::Installed { view, .. }
            | Message::Active { view, .. }
            | Message::Replicate { view, .. }
            | Message::Ack { view, .. } => self.view_id == *view,
        };
        if !same {
            // Not carried out. If the other one knows more, its answer to this says so.
            self.tell.insert(from);
            return Ok(());
        }
        match message {
            Message::Know { .. } => Ok(()),
            Message::Ask { view: _, ranges } => {
                let message = self.answer(from, &ranges)?;
                self.answered_to.insert(from, ranges);
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
            } => self.replicate(from, range, first, ops, commit, probe),
            Message::Ack {
                view: _,
                range,
                seq,
                probe,
                standing,
            } => {
                self.acked(now, from, range, seq, probe, standing, out);
                Ok(())
            }
        }
    }

    fn peers(&self) -> impl Iterator<Item = NodeIx> + use<S> {
        let me = self.me;
        (0..self.view.nodes() as u16)
            .map(NodeIx)
            .filter(move |n| *n != me)
    }

    /// The connection is new: everything that was not answered goes again.
    fn peer_up(&mut self, now: Time, node: NodeIx, out: &mut Vec<Effect>) -> Result<(), store::Error> {
        self.up.insert(node);
        self.tell.insert(node);
        self.announce.insert(node);
        self.ask_again(now, Some(node), out);
        self.resend_all(node);
        self.report_again(Some(node), out);
        self.answer_again(node, out)
    }

    fn tick(&mut self, now: Time, out: &mut Vec<Effect>) -> Result<(), store::Error> {
        self.repairs.look = true;
        let heard = self.heard.clone();
        self.learn(&heard, out)?;
        self.ask_again(now, None, out);
        if now.since(self.nudged) < RESEND {
            return Ok(());
        }
        self.nudged = now;
        self.tell.extend(self.peers());
        self.announce.extend(self.peers());
        self.nudge(now);
        self.report_again(None, out);
        self.own_part_again(now, out)
    }

    /// The coordinator of a range in this view.
    fn leader(&self, range: RangeIx) -> Option<NodeIx> {
        self.sets.get(&range)?.first().copied()
    }
}

#[cfg(test)]
mod tests;
