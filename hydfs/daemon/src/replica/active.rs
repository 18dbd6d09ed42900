//! An active range, as its coordinator has it: entries that not all members have, how each member stands, and who waits for an answer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use common::clock::Time;

use super::known::{CommitFloors, LengthChange, PendingCommits};
use super::request::{Answer, Refused, Request};
use super::{Effect, Mutant, RESEND};
use crate::wire::peer::{Message, RangeOp, Standing};
use hydfs::content::FileName;
use hydfs::ring::RangeIx;
use hydfs::view::{NodeIx, ViewId};

/// A message carries entries up to about this many bytes.
const MESSAGE: usize = 1024 * 1024;
/// Members are told of commits with the next entries, or after this long: a message each of its own would wake them twice as often.
const TELL_WITHIN: Duration = Duration::from_millis(10);

/// An active range.
pub(super) struct ActiveRange {
    me: NodeIx,
    others: BTreeMap<NodeIx, MemberProgress>,
    members: Vec<NodeIx>,
    whole: BTreeSet<NodeIx>,
    /// Entries that not all members have, the first of them with number `base + 1`.
    ops: VecDeque<RangeOp>,
    base: u64,
    bytes: usize,
    /// Everything up to here is on all members.
    commit: u64,
    /// Since when there is a commit that not all members were told of.
    untold: Option<Time>,
    /// Lookups wait until all members have seen a probe that was sent after they came: then none of them has learned a newer view before.
    probe: u64,
    probe_wanted: bool,
    pending: PendingCommits,
    writes: VecDeque<PendingReply>,
    reads: Vec<PendingReply>,
}

/// Another member, as the coordinator sees it.
struct MemberProgress {
    acked: u64,
    sent: u64,
    probed: u64,
    /// The highest commit and probe that it was sent.
    told: (u64, u64),
    full: bool,
    /// Where it was last sent everything anew because it missed something.
    rewound: Option<u64>,
    /// When it last got on, or had everything.
    heard: Time,
}

pub(super) struct PendingReply {
    pub conn: u64,
    pub id: u64,
    /// Answered when this is committed and that probe was seen by all.
    seq: u64,
    probe: u64,
    pub reply: ReplyContent,
}

/// What a waiter gets.
pub(super) enum ReplyContent {
    Ready(Result<Answer, Refused>),
    Stat(FileName, Option<u64>),
    Find {
        prefix: String,
        after: String,
        limit: usize,
    },
}

impl ReplyContent {
    /// What a request waits for that only looks something up.
    pub fn of_lookup(request: &Request) -> Option<Self> {
        match request {
            Request::Stat { file, of } => Some(Self::Stat(file.clone(), *of)),
            Request::Find {
                prefix, after, limit, ..
            } => Some(Self::Find {
                prefix: prefix.clone(),
                after: after.clone(),
                limit: *limit,
            }),
            _ => None,
        }
    }
}

impl PendingReply {
    fn refuse(self, refused: Refused) -> Effect {
        Effect::Reply {
            conn: self.conn,
            id: self.id,
            result: Err(refused),
        }
    }
}

impl ActiveRange {
    pub fn new(me: NodeIx, members: &[NodeIx], whole: BTreeSet<NodeIx>, now: Time) -> Self {
        let member = |n: &NodeIx| {
            (
                *n,
                MemberProgress {
                    acked: 0,
                    sent: 0,
                    probed: 0,
                    told: (0, 0),
                    full: false,
                    rewound: None,
                    heard: now,
                },
            )
        };
        Self {
            me,
            others: members.iter().filter(|n| **n != me).map(member).collect(),
            members: members.to_vec(),
            whole,
            ops: VecDeque::new(),
            base: 0,
            bytes: 0,
            commit: 0,
            untold: None,
            probe: 0,
            probe_wanted: false,
            pending: PendingCommits::default(),
            writes: VecDeque::new(),
            reads: Vec::new(),
        }
    }

    /// The number of the newest entry.
    pub fn last(&self) -> u64 {
        self.base + self.ops.len() as u64
    }

    /// When members are to be told of commits, if no entry for them comes before.
    pub fn tell_at(&self) -> Option<Time> {
        Some(self.untold? + TELL_WITHIN)
    }

    pub fn backlog(&self) -> usize {
        self.bytes
    }

    /// Members that miss something.
    pub fn repairing(&self) -> Vec<NodeIx> {
        self.members
            .iter()
            .filter(|n| !self.whole.contains(n))
            .copied()
            .collect()
    }

    /// True if that is news.
    pub fn set_whole(&mut self, member: NodeIx, whole: bool) -> bool {
        if whole {
            self.whole.insert(member)
        } else {
            self.whole.remove(&member)
        }
    }

    pub fn take(&mut self, op: RangeOp, change: LengthChange) {
        self.bytes += op.bytes();
        let file = op.file().clone();
        self.ops.push_back(op);
        self.pending.push(self.last(), file, change);
    }

    pub fn full(&self) -> Option<NodeIx> {
        self.others.iter().find(|(_, m)| m.full).map(|(n, _)| *n)
    }

    /// What all members have, and the newest probe that all have seen.
    fn agreed(&self) -> (u64, u64) {
        let mut acked: Vec<u64> = self
            .others
            .values()
            .map(|m| m.acked)
            .chain([self.last()])
            .collect();
        acked.sort_unstable();
        let all = acked.first().copied().unwrap_or(0);
        let enough = if Mutant::TwoAcks.is_on() {
            acked.iter().rev().nth(1).copied().unwrap_or(all)
        } else {
            all
        };
        (
            enough,
            self.others.values().map(|m| m.probed).min().unwrap_or(self.probe),
        )
    }

    /// Drops what all have.
    fn trim(&mut self) {
        let all = self.others.values().map(|m| m.acked).min().unwrap_or(self.last());
        while self.base < all
            && let Some(op) = self.ops.pop_front()
        {
            self.base += 1;
            self.bytes -= op.bytes();
        }
    }

    /// What `to` has not been sent, in messages of a bearable size. A full one gets one entry at a time, to see.
    fn messages(&mut self, now: Time, view: ViewId, range: RangeIx, to: NodeIx, out: &mut Vec<Effect>) {
        let tell = self.tell_at().is_some_and(|at| at <= now);
        let (last, commit, probe) = (self.last(), self.commit, self.probe);
        let Some(member) = self.others.get_mut(&to) else {
            return;
        };
        let news = probe > member.told.1 || (commit > member.told.0 && tell);
        let mut sent = false;
        while member.sent < last {
            let from = member.sent.saturating_sub(self.base) as usize;
            let mut ops: Vec<RangeOp> = Vec::new();
            let mut bytes = 0;
            for op in self.ops.range(from..) {
                if !ops.is_empty() && (bytes + op.bytes() > MESSAGE || member.full) {
                    break;
                }
                bytes += op.bytes();
                ops.push(op.clone());
            }
            let first = member.sent + 1;
            member.sent = if member.full {
                last
            } else {
                member.sent + ops.len() as u64
            };
            out.push(Effect::Send {
                to,
                message: Message::Replicate {
                    view,
                    range,
                    first,
                    ops,
                    commit,
                    probe,
                },
            });
            sent = true;
        }
        if sent && member.full {
            // What makes room does not wait behind what needs it.
            let trims = (self.base + 1..).zip(&self.ops).filter(|(_, op)| op.makes_room());
            let trim = |(first, op): (u64, &RangeOp)| Effect::Send {
                to,
                message: Message::Replicate {
                    view,
                    range,
                    first,
                    ops: vec![op.clone()],
                    commit,
                    probe,
                },
            };
            out.extend(trims.filter(|(first, _)| *first > member.acked).map(trim));
        }
        if !sent && news {
            let first = member.sent + 1;
            let ops = Vec::new();
            out.push(Effect::Send {
                to,
                message: Message::Replicate {
                    view,
                    range,
                    first,
                    ops,
                    commit,
                    probe,
                },
            });
            sent = true;
        }
        if sent {
            member.told = (commit, probe);
        }
    }
}

/// What a member says of itself.
pub(super) struct MemberAck {
    /// Everything up to here is stored.
    pub seq: u64,
    pub probe: u64,
    pub standing: Standing,
}

impl ActiveRange {
    /// A member has got on, or says why it has not. False: that is no word of a member.
    pub fn acked(&mut self, now: Time, from: NodeIx, ack: MemberAck, out: &mut Vec<Effect>) -> bool {
        let MemberAck { seq, probe, standing } = ack;
        let last = self.last();
        let Some(member) = self.others.get_mut(&from).filter(|_| seq <= last) else {
            return false;
        };
        // Probes are answered by one that gets nowhere, too.
        if seq > member.acked || seq == last {
            member.heard = now;
        }
        if seq > member.acked {
            member.acked = seq;
            member.sent = if std::mem::take(&mut member.full) {
                seq
            } else {
                member.sent.max(seq)
            };
        }
        member.probed = member.probed.max(probe);
        match standing {
            // An old one says less than what it has acknowledged since.
            Standing::Gap if seq == member.acked && !member.full && member.rewound != Some(seq) => {
                member.sent = seq;
                member.rewound = Some(seq);
            }
            // With nothing outstanding it is a late one: there would be nothing to find out with that there is room again.
            Standing::Full if seq == member.acked && seq < last => {
                member.full = true;
                member.sent = last;
                self.refuse_uncommitted(from, out);
            }
            Standing::Well | Standing::Gap | Standing::Full => {}
        }
        true
    }

    /// The view changes: whoever waits is to ask again.
    pub fn refuse_waiters(&mut self, why: &str, out: &mut Vec<Effect>) {
        let waiters = self.writes.drain(..).chain(self.reads.drain(..));
        out.extend(waiters.map(|w| w.refuse(Refused::Unavailable { why: why.to_owned() })));
    }

    /// Whoever waits for the newest entry gets this answer when it is committed.
    pub fn wait_for_commit(&mut self, conn: u64, id: u64, answer: Answer) {
        let seq = self.last();
        self.writes.push_back(PendingReply {
            conn,
            id,
            seq,
            probe: 0,
            reply: ReplyContent::Ready(Ok(answer)),
        });
    }

    /// `full` has no room: whoever waits for what is not committed is told.
    fn refuse_uncommitted(&mut self, full: NodeIx, out: &mut Vec<Effect>) {
        let commit = self.commit;
        let stuck = self.reads.extract_if(.., |w| w.seq > commit);
        let refused = self.writes.drain(..).chain(stuck);
        out.extend(refused.map(|w| w.refuse(Refused::Full { node: full })));
    }

    /// The connection to `node` is new: it gets everything again that it has not acknowledged. False: it is no member.
    pub fn resend_to(&mut self, node: NodeIx) -> bool {
        let Some(member) = self.others.get_mut(&node) else {
            return false;
        };
        member.sent = member.acked;
        member.rewound = None;
        member.told = (0, 0);
        true
    }

    /// Members that have not got on for too long are asked how they stand; full ones get one entry to try. True if there are such.
    pub fn nudge(&mut self, now: Time) -> bool {
        let last = self.last();
        let mut nudged = false;
        for member in self.others.values_mut() {
            let behind = member.acked < last || member.probed < self.probe;
            if behind && now.since(member.heard) >= RESEND {
                if member.full {
                    member.sent = member.acked;
                }
                member.rewound = None;
                nudged = true;
            }
        }
        self.probe_wanted |= nudged;
        nudged
    }

    pub fn forget_client(&mut self, conn: u64) {
        self.writes.retain(|w| w.conn != conn);
        self.reads.retain(|w| w.conn != conn);
    }

    /// The answer comes when all members have seen a probe that is sent from now on, and have everything up to `seq`.
    pub fn wait_for_probe(&mut self, conn: u64, id: u64, seq: u64, reply: ReplyContent) {
        self.probe_wanted = true;
        self.reads.push(PendingReply {
            conn,
            id,
            seq,
            probe: if Mutant::Unprobed.is_on() {
                0
            } else {
                self.probe + 1
            },
            reply,
        });
    }

    /// What all members have is committed; whoever waited for a write is answered. Returns the lookups that can be answered now, and the files that
    /// have grown.
    pub fn commit(
        &mut self,
        floors: &mut CommitFloors,
        out: &mut Vec<Effect>,
    ) -> (Vec<PendingReply>, BTreeMap<FileName, u64>) {
        if std::mem::take(&mut self.probe_wanted) {
            self.probe += 1;
        }
        let (seq, probed) = self.agreed();
        let mut grown = BTreeMap::new();
        if seq > self.commit {
            self.commit = seq;
            floors.commit(&mut self.pending, seq, &mut grown);
            self.trim();
        }
        let done = self.writes.partition_point(|w| w.seq <= seq);
        for PendingReply { conn, id, reply, .. } in self.writes.drain(..done) {
            if let ReplyContent::Ready(result) = reply {
                out.push(Effect::Reply { conn, id, result });
            }
        }
        let is_ready = |w: &mut PendingReply| w.seq <= seq && w.probe <= probed;
        (self.reads.extract_if(.., is_ready).collect(), grown)
    }

    /// Sends each member what it has not been sent, and notes since when one was not told of a commit.
    pub fn send(&mut self, now: Time, view: ViewId, range: RangeIx, out: &mut Vec<Effect>) {
        for to in self.members.clone() {
            if to != self.me {
                self.messages(now, view, range, to, out);
            }
        }
        let told = self.others.values().map(|m| m.told.0).min();
        self.untold = match told.is_some_and(|told| told < self.commit) {
            true => self.untold.or(Some(now)),
            false => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(1_000_000);

    fn node(n: u16) -> NodeIx {
        NodeIx(n)
    }

    fn active() -> ActiveRange {
        let members = [node(0), node(1), node(2)];
        ActiveRange::new(node(0), &members, members.into(), NOW)
    }

    /// One more entry, for which connection `conn` waits.
    fn write(active: &mut ActiveRange, conn: u64) {
        let file = FileName::new("f").unwrap();
        active.take(
            RangeOp::Create { file, nonce: conn },
            LengthChange::Created { nonce: conn },
        );
        active.wait_for_commit(conn, 0, Answer::Created);
    }

    fn ack(active: &mut ActiveRange, from: u16, seq: u64, probe: u64, standing: Standing) -> Vec<Effect> {
        let mut out = Vec::new();
        let ack = MemberAck { seq, probe, standing };
        assert!(active.acked(NOW, node(from), ack, &mut out));
        out
    }

    /// The connections that are answered by what is committed now.
    fn answered(active: &mut ActiveRange) -> Vec<u64> {
        let mut out = Vec::new();
        let (ready, _) = active.commit(&mut CommitFloors::default(), &mut out);
        let written = out.iter().filter_map(|e| match e {
            Effect::Reply { conn, .. } => Some(*conn),
            _ => None,
        });
        written.chain(ready.iter().map(|w| w.conn)).collect()
    }

    #[test]
    fn a_write_is_answered_when_all_members_have_it_and_is_forgotten_then() {
        let mut active = active();
        write(&mut active, 7);
        ack(&mut active, 1, 1, 0, Standing::Well);
        assert!(answered(&mut active).is_empty(), "the third has not got it");
        assert!(active.backlog() > 0);
        ack(&mut active, 2, 1, 0, Standing::Well);
        assert_eq!((answered(&mut active), active.backlog()), (vec![7], 0));
    }

    #[test]
    fn a_lookup_is_answered_when_all_members_have_seen_a_later_probe() {
        let mut active = active();
        active.wait_for_probe(7, 0, 0, ReplyContent::Ready(Err(Refused::NoSuchFile)));
        assert!(answered(&mut active).is_empty());
        ack(&mut active, 1, 0, 1, Standing::Well);
        assert!(answered(&mut active).is_empty());
        ack(&mut active, 2, 0, 1, Standing::Well);
        assert_eq!(answered(&mut active), [7]);
    }

    #[test]
    fn a_full_member_ends_all_waiting_and_is_tried_again_after_a_while() {
        let mut active = active();
        write(&mut active, 7);
        let refused = ack(&mut active, 1, 0, 0, Standing::Full);
        assert!(
            matches!(&refused[..], [Effect::Reply { conn: 7, result: Err(Refused::Full { node }), .. }] if *node == NodeIx(1))
        );
        assert_eq!(active.full(), Some(node(1)));
        assert!(!active.nudge(NOW) && active.nudge(NOW + RESEND));
        ack(&mut active, 1, 1, 0, Standing::Well);
        assert_eq!(active.full(), None);
    }

    #[test]
    fn who_lost_its_connection_gets_all_again_that_it_has_not_acknowledged() {
        let mut active = active();
        write(&mut active, 7);
        write(&mut active, 8);
        let sent = |active: &mut ActiveRange| {
            let mut out = Vec::new();
            active.send(NOW, hydfs::view::View::new(3).id(), RangeIx(0), &mut out);
            let entries = out.iter().map(|e| match e {
                Effect::Send {
                    to,
                    message: Message::Replicate { first, ops, .. },
                } => (to.0, *first, ops.len()),
                other => panic!("{other:?}"),
            });
            entries.collect::<Vec<_>>()
        };
        assert_eq!(sent(&mut active), [(1, 1, 2), (2, 1, 2)]);
        ack(&mut active, 1, 1, 0, Standing::Well);
        assert!(active.resend_to(node(1)) && !active.resend_to(node(5)));
        assert_eq!(sent(&mut active), [(1, 2, 1)]);
    }
}
