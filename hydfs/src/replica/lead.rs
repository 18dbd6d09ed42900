//! The coordinator's side of replication: clients' requests become entries, entries become committed, clients are answered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use common::clock::Time;

use super::follow::carry_out;
use super::known::{Change, Pending};
use super::plan::{Plan, plan};
use super::request::{Answer, FileInfo, Refused, Request};
use super::{Effect, Lead, Mutant, RESEND, Replica};
use crate::content::{FileName, SegmentId};
use crate::ring::RangeIx;
use crate::store::{self, Store};
use crate::view::{NodeIx, ViewId};
use crate::wire::peer::{Message, Op, Standing};

/// A message carries entries up to about this many bytes.
const MESSAGE: usize = 1024 * 1024;
/// Members are told of commits with the next entries, or after this long: a message each of its own would wake them twice as often.
const TELL_WITHIN: Duration = Duration::from_millis(10);

/// An active range.
pub(super) struct Active {
    me: NodeIx,
    others: BTreeMap<NodeIx, Member>,
    members: Vec<NodeIx>,
    whole: BTreeSet<NodeIx>,
    /// Entries that not all members have, the first of them with number `base + 1`.
    ops: VecDeque<Op>,
    base: u64,
    bytes: usize,
    /// Everything up to here is on all members.
    commit: u64,
    /// Since when there is a commit that not all members were told of.
    untold: Option<Time>,
    /// Lookups wait until all members have seen a probe that was sent after they came: then none of them has learned a newer view before.
    probe: u64,
    probe_wanted: bool,
    pending: Pending,
    writes: VecDeque<Waiter>,
    reads: Vec<Waiter>,
}

/// Another member, as the coordinator sees it.
struct Member {
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

struct Waiter {
    conn: u64,
    id: u64,
    /// Answered when this is committed and that probe was seen by all.
    seq: u64,
    probe: u64,
    reply: Due,
}

/// What a waiter gets.
enum Due {
    Ready(Result<Answer, Refused>),
    Stat(FileName, Option<u64>),
    Find {
        prefix: String,
        after: String,
        limit: usize,
    },
}

impl Active {
    pub fn new(me: NodeIx, members: &[NodeIx], whole: BTreeSet<NodeIx>, now: Time) -> Self {
        let member = |n: &NodeIx| {
            (
                *n,
                Member {
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
            pending: Pending::default(),
            writes: VecDeque::new(),
            reads: Vec::new(),
        }
    }

    /// The number of the newest entry.
    fn last(&self) -> u64 {
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

    fn take(&mut self, op: Op, change: Change) {
        self.bytes += op.bytes();
        let file = op.file().clone();
        self.ops.push_back(op);
        self.pending.push(self.last(), file, change);
    }

    fn full(&self) -> Option<NodeIx> {
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
            let mut ops: Vec<Op> = Vec::new();
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

impl<S: Store> Replica<S> {
    pub(super) fn client(
        &mut self,
        conn: u64,
        id: u64,
        request: Request,
        out: &mut Vec<Effect>,
    ) -> Result<(), store::Error> {
        let range = match &request {
            Request::Find { range, .. } => *range,
            other => other.file().map_or(RangeIx(0), |file| self.range_of(file)),
        };
        let refuse = |refused| Effect::Reply {
            conn,
            id,
            result: Err(refused),
        };
        let active = match self.leads.get_mut(&range) {
            Some(Lead::Active(active)) => active,
            Some(Lead::Waiting { why }) => {
                out.push(refuse(Refused::Unavailable { why: why.clone() }));
                return Ok(());
            }
            Some(Lead::Installing(_)) => {
                let why = "its set of replicas is changing".to_owned();
                out.push(refuse(Refused::Unavailable { why }));
                return Ok(());
            }
            None => {
                let leader = self.leader(range);
                out.push(refuse(if leader == Some(self.me) {
                    Refused::Unavailable {
                        why: "its set of replicas is changing".to_owned(),
                    }
                } else {
                    Refused::NotCoordinator { coordinator: leader }
                }));
                return Ok(());
            }
        };
        self.stirred.insert(range);
        let lookup = match &request {
            Request::Stat { file, of } => Some(Due::Stat(file.clone(), *of)),
            Request::Find {
                prefix, after, limit, ..
            } => Some(Due::Find {
                prefix: prefix.clone(),
                after: after.clone(),
                limit: *limit,
            }),
            _ => None,
        };
        if let Some(reply) = lookup {
            active.probe_wanted = true;
            let probe = if Mutant::Unprobed.is_on() {
                0
            } else {
                active.probe + 1
            };
            active.reads.push(Waiter {
                conn,
                id,
                seq: 0,
                probe,
                reply,
            });
            return Ok(());
        }
        if let Some(node) = active.full() {
            out.push(refuse(Refused::Full { node }));
            return Ok(());
        }
        let file = request.file().and_then(|name| self.store.file(range, name));
        let segment = SegmentId::of(&self.view);
        let result = match plan(file, request) {
            Plan::Refuse(refused) => {
                // Said of a state that is perhaps not committed, by a coordinator that is perhaps not one any more: both are made sure of.
                active.probe_wanted = true;
                let (seq, probe) = (active.last(), active.probe + 1);
                active.reads.push(Waiter {
                    conn,
                    id,
                    seq,
                    probe,
                    reply: Due::Ready(Err(refused)),
                });
                return Ok(());
            }
            Plan::Done(answer) => answer,
            Plan::Do(ops, answer) => {
                for op in ops {
                    match carry_out(&mut self.store, range, segment, &op) {
                        Ok(change) => {
                            self.repairs.look |= matches!(op, Op::Remove { .. });
                            active.take(op, change);
                            self.unsynced = true;
                        }
                        Err(store::Error::Full) => {
                            out.push(refuse(Refused::Full { node: self.me }));
                            return Ok(());
                        }
                        Err(error @ store::Error::Missing { .. }) => {
                            let why = format!("its coordinator's copy is damaged: {error}");
                            out.push(refuse(Refused::Unavailable { why }));
                            return Ok(());
                        }
                        Err(error) => return Err(error),
                    }
                }
                answer
            }
        };
        let seq = active.last();
        active.writes.push_back(Waiter {
            conn,
            id,
            seq,
            probe: 0,
            reply: Due::Ready(Ok(result)),
        });
        Ok(())
    }

    pub(super) fn client_gone(&mut self, conn: u64) {
        for lead in self.leads.values_mut() {
            if let Lead::Active(active) = lead {
                active.writes.retain(|w| w.conn != conn);
                active.reads.retain(|w| w.conn != conn);
            }
        }
    }

    /// The view changes: whoever waits is to ask again.
    pub(super) fn refuse_all(&mut self, why: &str, out: &mut Vec<Effect>) {
        for lead in self.leads.values_mut() {
            let Lead::Active(active) = lead else { continue };
            for Waiter { conn, id, .. } in active.writes.drain(..).chain(active.reads.drain(..)) {
                let why = why.to_owned();
                out.push(Effect::Reply {
                    conn,
                    id,
                    result: Err(Refused::Unavailable { why }),
                });
            }
        }
    }

    pub(super) fn acked(
        &mut self,
        now: Time,
        from: NodeIx,
        range: RangeIx,
        seq: u64,
        probe: u64,
        standing: Standing,
        out: &mut Vec<Effect>,
    ) {
        let Some(Lead::Active(active)) = self.leads.get_mut(&range) else {
            return;
        };
        let last = active.last();
        let Some(member) = active.others.get_mut(&from).filter(|_| seq <= last) else {
            return;
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
                let commit = active.commit;
                let stuck = active.reads.extract_if(.., |w| w.seq > commit);
                for Waiter { conn, id, .. } in active.writes.drain(..).chain(stuck) {
                    out.push(Effect::Reply {
                        conn,
                        id,
                        result: Err(Refused::Full { node: from }),
                    });
                }
            }
            Standing::Well | Standing::Gap | Standing::Full => {}
        }
        self.stirred.insert(range);
    }

    /// The connection to `node` is new: it gets everything again that it has not acknowledged.
    pub(super) fn resend_all(&mut self, node: NodeIx) {
        for (range, lead) in &mut self.leads {
            if let Lead::Active(active) = lead
                && let Some(member) = active.others.get_mut(&node)
            {
                member.sent = member.acked;
                member.rewound = None;
                member.told = (0, 0);
                self.stirred.insert(*range);
            }
        }
    }

    /// Members that have not got on for too long are asked how they stand; full ones get one entry to try.
    pub(super) fn nudge(&mut self, now: Time) {
        for (range, lead) in &mut self.leads {
            let Lead::Active(active) = lead else { continue };
            let last = active.last();
            for member in active.others.values_mut() {
                let behind = member.acked < last || member.probed < active.probe;
                if behind && now.since(member.heard) >= RESEND {
                    if member.full {
                        member.sent = member.acked;
                    }
                    member.rewound = None;
                    active.probe_wanted = true;
                    self.stirred.insert(*range);
                }
            }
        }
    }

    pub(super) fn flush_lead(&mut self, now: Time, range: RangeIx, out: &mut Vec<Effect>) {
        let Some(Lead::Active(active)) = self.leads.get_mut(&range) else {
            return;
        };
        if std::mem::take(&mut active.probe_wanted) {
            active.probe += 1;
        }
        let (seq, probed) = active.agreed();
        let mut grown = BTreeMap::new();
        if seq > active.commit {
            active.commit = seq;
            self.floors
                .entry(range)
                .or_default()
                .commit(&mut active.pending, seq, &mut grown);
            active.trim();
        }
        let done = active.writes.partition_point(|w| w.seq <= seq);
        for Waiter { conn, id, reply, .. } in active.writes.drain(..done) {
            if let Due::Ready(result) = reply {
                out.push(Effect::Reply { conn, id, result });
            }
        }
        let ready: Vec<Waiter> = active
            .reads
            .extract_if(.., |w| w.seq <= seq && w.probe <= probed)
            .collect();
        for to in active.members.clone() {
            if to != active.me {
                active.messages(now, self.view_id, range, to, out);
            }
        }
        let told = active.others.values().map(|m| m.told.0).min();
        active.untold = match told.is_some_and(|told| told < active.commit) {
            true => active.untold.or(Some(now)),
            false => None,
        };
        for waiter in ready {
            let result = match waiter.reply {
                Due::Ready(result) => result,
                Due::Stat(file, of) => match self.info(range, &file, true) {
                    None => Err(Refused::NoSuchFile),
                    Some(info) if of.is_some_and(|of| of != info.nonce) => Err(Refused::Replaced),
                    Some(info) => Ok(Answer::Stat(info)),
                },
                Due::Find { prefix, after, limit } => {
                    Ok(Answer::Found(self.find(range, &prefix, &after, limit)))
                }
            };
            out.push(Effect::Reply {
                conn: waiter.conn,
                id: waiter.id,
                result,
            });
        }
        out.extend(
            grown
                .into_iter()
                .map(|(file, length)| Effect::Committed { range, file, length }),
        );
    }

    /// A file as this node knows it.
    pub fn info(&self, range: RangeIx, name: &FileName, details: bool) -> Option<FileInfo> {
        let floor = self.floors.get(&range)?.get(name)?;
        let file = self.store.file(range, name);
        let shown = file.filter(|_| details);
        Some(FileInfo {
            name: name.clone(),
            nonce: floor.nonce,
            length: floor.length,
            newlines: file.map_or(0, |f| f.segments.iter().map(|s| s.newlines).sum()),
            replicas: self.replicas_of(range).to_vec(),
            segments: shown.map(|f| f.head().segments).unwrap_or_default(),
            streams: shown.map(|f| f.streams.clone()).unwrap_or_default(),
        })
    }

    /// Files of a range as this node knows them.
    pub fn find(&self, range: RangeIx, prefix: &str, after: &str, limit: usize) -> Vec<FileInfo> {
        let Some(floors) = self.floors.get(&range) else {
            return Vec::new();
        };
        let found = floors
            .files()
            .keys()
            .filter(|n| n.as_str().starts_with(prefix) && n.as_str() > after);
        found
            .take(limit)
            .filter_map(|name| self.info(range, name, false))
            .collect()
    }
}
