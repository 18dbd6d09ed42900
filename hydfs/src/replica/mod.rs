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
mod follow;
mod known;
mod lead;
mod mutant;
mod plan;
mod repair;
mod request;
mod takeover;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::clock::Time;

use crate::content::{FileName, Segment, SegmentId};
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

pub use request::{Answer, FileInfo, Refused, Request};

/// What happens to a node.
#[derive(Debug, Clone)]
pub enum Input {
    Peer {
        from: NodeIx,
        message: Message,
    },
    /// `id` comes back in the [`Effect::Reply`]; each request gets one reply. Requests of one connection are carried out in order.
    Client {
        conn: u64,
        id: u64,
        request: Request,
    },
    /// No replies to this connection any more.
    ClientGone {
        conn: u64,
    },
    /// memberd, a refused or silent connection: the incarnation known of this node is called failed.
    Suspect {
        node: NodeIx,
    },
    /// Messages can be sent to the node (again): whatever it has not answered is sent again.
    PeerUp {
        node: NodeIx,
    },
    PeerDown {
        node: NodeIx,
    },
    /// The store's `put_segment` said `Done` (or `Refused`: then the segment may not be wanted any more).
    Repaired {
        range: RangeIx,
        file: FileName,
        segment: Segment,
    },
    /// None of those named had it. It is tried again later.
    RepairFailed {
        range: RangeIx,
        file: FileName,
        segment: Segment,
    },
    /// A read found this segment damaged, here.
    Damaged {
        range: RangeIx,
        file: FileName,
        segment: SegmentId,
    },
    /// Every 50-200 ms.
    Tick,
}

/// What to do, in this order.
#[derive(Debug)]
pub enum Effect {
    /// Drop it if there is no connection; [`Input::PeerUp`] brings it again.
    Send { to: NodeIx, message: Message },
    Reply {
        conn: u64,
        id: u64,
        result: Result<Answer, Refused>,
    },
    /// Copy the segment's entries and bytes from one of these, in this order of promise, into `store_mut().put_segment`. A node that does not
    /// hold a segment of that `nonce`, `id`, length and digest whole says so, and the next is asked.
    Repair {
        range: RangeIx,
        file: FileName,
        nonce: u64,
        segment: Segment,
        from: Vec<NodeIx>,
    },
    /// For logs; the view is `replica.view()`.
    ViewChanged,
    /// A range that this node coordinates changed its state.
    RangeChanged { range: RangeIx, state: RangeState },
    /// The file may be read up to here; it may be read by tailing readers of this node.
    Committed {
        range: RangeIx,
        file: FileName,
        length: u64,
    },
    /// This node dropped its copies of a range's files: `files` of them. `surplus`: others have them. Otherwise a take-over decided that they are not
    /// (or no longer) part of the range: removed, or never acknowledged.
    Dropped {
        range: RangeIx,
        files: usize,
        surplus: bool,
    },
    /// The store failed: this node takes no part any more. Log and exit; a restart reads the disk again.
    Broken { error: store::Error },
}

/// How a range stands, as far as its coordinator knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RangeState {
    /// Asking, or waiting for a majority, or no source answers: why.
    Unavailable {
        why: String,
    },
    Installing,
    /// `repairing`: members that still miss bytes.
    Active {
        repairing: Vec<NodeIx>,
    },
}

/// What may be read of a file here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Of the file: another nonce, another file.
    pub nonce: u64,
    /// Everything up to here is on all members and stays.
    pub length: u64,
    /// This node coordinates the active range or is a member of it; otherwise it is what it knew last, and there may be more elsewhere.
    pub current: bool,
}

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
    mutant: Mutant,
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
            mutant: Mutant::None,
            ring,
            view: view.clone(),
            store,
        };
        let mut born = incarnation;
        if let Some(facts) = replica.store.node() {
            view.merge(&facts.view);
            replica.incarnation = incarnation.max(Incarnation(facts.incarnation.0 + 1));
            born = facts.born;
        }
        replica.incarnation = replica.incarnation.max(Incarnation(view.failed(me).0 + 1));
        view.join(me, replica.incarnation);
        replica.store.set_node(NodeFacts {
            born,
            incarnation: replica.incarnation,
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

    #[cfg(test)]
    pub(crate) fn with_mutant(mut self, mutant: Mutant) -> Self {
        self.mutant = mutant;
        self
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
        let stirred = std::mem::take(&mut self.stirred);
        if std::mem::take(&mut self.unsynced) {
            let done = self.store.sync();
            self.check(done, out);
        }
        if self.broken {
            return;
        }
        for range in stirred {
            self.flush_lead(range, out);
            self.flush_follow(range, out);
        }
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
                born,
                ranges,
            } => self.answered(now, from, born, ranges, out),
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

    fn suspect(&mut self, node: NodeIx, out: &mut Vec<Effect>) -> Result<(), store::Error> {
        if node == self.me || !self.view.is_alive(node) {
            return Ok(());
        }
        let mut view = self.view.clone();
        view.fail(node, view.incarnation(node));
        self.learn(&view, out)
    }

    /// This node can't be a member of its sets as they are: it leaves them and comes back, with a take-over in between.
    fn rejoin(&mut self, out: &mut Vec<Effect>) -> Result<(), store::Error> {
        let mut view = self.heard.clone();
        view.fail(self.me, self.incarnation);
        self.learn(&view, out)
    }

    /// Takes all facts of `other`. A fact against this node itself makes it come back under a higher incarnation.
    fn learn(&mut self, other: &View, out: &mut Vec<Effect>) -> Result<(), store::Error> {
        if !self.heard.merge(other) && self.heard == self.view {
            return Ok(());
        }
        let mut view = self.heard.clone();
        let mut born = self.store.node().map_or(self.incarnation, |facts| facts.born);
        let (joined, failed) = (view.incarnation(self.me), view.failed(self.me));
        let mut incarnation = self.incarnation;
        if joined > incarnation {
            // A later life of this node, which this disk knows nothing of: it is older than that, or new.
            incarnation = Incarnation(joined.max(failed).0 + 1);
            born = incarnation;
        } else if failed >= incarnation {
            incarnation = Incarnation(failed.0 + 1);
        }
        view.join(self.me, incarnation);
        // Not acted on before it is written down.
        self.store.set_node(NodeFacts {
            born,
            incarnation,
            view: view.clone(),
        })?;
        self.incarnation = incarnation;
        self.heard = view.clone();
        self.refuse_all("its set of replicas is changing", out);
        self.take(view);
        out.push(Effect::ViewChanged);
        Ok(())
    }

    /// This is the view now; everything under way is forgotten.
    fn take(&mut self, view: View) {
        self.view_id = view.id();
        self.sets = self
            .ring
            .ranges()
            .map(|range| (range, self.ring.replicas(range, &view)))
            .collect();
        self.view = view;
        self.takeover = None;
        self.leads.clear();
        self.follows.clear();
        self.answered_to.clear();
        self.stirred.clear();
        self.announce.clear();
        self.repairs.pause();
        self.tell = self.peers().collect();
        self.restart = true;
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

    // --- for the driver -------------------------------------------------------------------------------------------

    pub fn store(&self) -> &S {
        &self.store
    }

    /// For `put_segment` only.
    pub fn store_mut(&mut self) -> &mut S {
        &mut self.store
    }

    /// The disk, for a restart.
    pub fn into_store(self) -> S {
        self.store
    }

    pub fn me(&self) -> NodeIx {
        self.me
    }

    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    pub fn view(&self) -> &View {
        &self.view
    }

    /// This node's incarnation now.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    pub fn range_of(&self, file: &FileName) -> RangeIx {
        self.ring.range_of(file.as_str())
    }

    /// The range's replicas in this node's view, the coordinator first.
    pub fn replicas_of(&self, range: RangeIx) -> &[NodeIx] {
        self.sets.get(&range).map_or(&[], Vec::as_slice)
    }

    pub fn coordinator_of(&self, range: RangeIx) -> Option<NodeIx> {
        self.leader(range)
    }

    /// What may be read of this file here. `None`: not known here, as far as this node knows there is no such file.
    pub fn committed(&self, file: &FileName) -> Option<Known> {
        let range = self.range_of(file);
        let floor = self.floors.get(&range)?.get(file)?;
        Some(Known {
            nonce: floor.nonce,
            length: floor.length,
            current: self.is_current(range),
        })
    }

    /// Is this node's knowledge of the range's files current (as its coordinator) or nearly so (as a member)? Otherwise
    /// it is what it knew last.
    pub fn is_current(&self, range: RangeIx) -> bool {
        matches!(self.leads.get(&range), Some(Lead::Active(_)))
            || self.follows.get(&range).is_some_and(|f| f.active)
    }

    /// How a range that this node coordinates stands; `None` when it does not.
    pub fn state_of(&self, range: RangeIx) -> Option<RangeState> {
        Some(match self.leads.get(&range)? {
            Lead::Waiting { why } => RangeState::Unavailable { why: why.clone() },
            Lead::Installing(_) => RangeState::Installing,
            Lead::Active(active) => RangeState::Active {
                repairing: active.repairing(),
            },
        })
    }

    /// Bytes of entries that not all members have yet. Stop reading clients while this is more than some tens of MiB.
    pub fn backlog_bytes(&self) -> usize {
        let leads = self.leads.values();
        leads
            .map(|lead| {
                if let Lead::Active(active) = lead {
                    active.backlog()
                } else {
                    0
                }
            })
            .sum()
    }

    /// Segments of this node's own replicas that are missing: being repaired, or waiting for a node that has them.
    pub fn missing(&self) -> usize {
        self.repairs.len()
    }

    /// The store broke: this node does nothing any more.
    pub fn is_broken(&self) -> bool {
        self.broken
    }
}

#[cfg(test)]
mod tests;
