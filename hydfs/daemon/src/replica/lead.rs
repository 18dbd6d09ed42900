//! The coordinator's side of replication: clients' requests become entries, entries become committed, clients are answered.

use common::clock::Time;

use super::active::{ActiveRange, MemberAck, PendingReply, ReplyContent};
use super::flush_plan::FlushPlan;
use super::follow::carry_out;
use super::plan::{Plan, Standing, makes_users_file, plan};
use super::request::{Answer, FileInfo, Refused, Request};
use super::view_state::{LeadState, ViewState};
use super::{Effect, Replica};
use crate::store::{self, Store};
use crate::wire::peer::RangeOp;
use hydfs::content::FileName;
use hydfs::ring::RangeIx;
use hydfs::view::NodeIx;

/// What clients are told while a view changes.
const CHANGING: &str = "its set of replicas is changing";

impl ViewState {
    /// The range, if this node leads it; otherwise what to tell whoever asks for it.
    fn led(&mut self, me: NodeIx, range: RangeIx) -> Result<&mut ActiveRange, Refused> {
        let leader = self.leader(range);
        let changing = || Refused::Unavailable {
            why: CHANGING.to_owned(),
        };
        match self.leads.get_mut(&range) {
            Some(LeadState::Active(active)) => Ok(active),
            Some(LeadState::Waiting { why }) => Err(Refused::Unavailable { why: why.clone() }),
            Some(LeadState::Installing(_)) => Err(changing()),
            None if leader == Some(me) => Err(changing()),
            None => Err(Refused::NotCoordinator { coordinator: leader }),
        }
    }

    pub fn forget_client(&mut self, conn: u64) {
        self.all_active_mut()
            .for_each(|(_, active)| active.forget_client(conn));
    }

    /// The view changes: whoever waits is to ask again.
    pub fn refuse_waiters(&mut self, out: &mut Vec<Effect>) {
        self.all_active_mut()
            .for_each(|(_, active)| active.refuse_waiters(CHANGING, out));
    }

    /// The connection to `node` is new: it gets everything again that it has not acknowledged.
    pub fn resend_to(&mut self, node: NodeIx, flush: &mut FlushPlan) {
        let rewound = self
            .all_active_mut()
            .filter_map(|(range, active)| active.resend_to(node).then_some(range));
        rewound.for_each(|range| flush.stir(range));
    }

    /// Members that have not got on for too long are asked how they stand.
    pub fn nudge(&mut self, now: Time, flush: &mut FlushPlan) {
        let nudged = self
            .all_active_mut()
            .filter_map(|(range, active)| active.nudge(now).then_some(range));
        nudged.for_each(|range| flush.stir(range));
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
        let view = self.current.first_segment();
        let range = match &request {
            Request::Find { range, .. } => *range,
            other => other.file().map_or(RangeIx(0), |file| self.range_of(file)),
        };
        let refuse = |refused| Effect::Reply {
            conn,
            id,
            result: Err(refused),
        };
        let short = self.short_of_room(range, &request);
        let active = match self.current.led(self.me, range) {
            Ok(active) => active,
            Err(refused) => {
                out.push(refuse(refused));
                return Ok(());
            }
        };
        self.flush.stir(range);
        if let Some(reply) = ReplyContent::of_lookup(&request) {
            active.wait_for_probe(conn, id, 0, reply);
            return Ok(());
        }
        if let Some(node) = short {
            out.push(refuse(Refused::Short { node }));
            return Ok(());
        }
        if let Some(node) = active.full().filter(|_| !request.makes_room()) {
            out.push(refuse(Refused::Full { node }));
            return Ok(());
        }
        let file = request.file().and_then(|name| self.store.file(range, name));
        let floors = self.floors.get(&range);
        // Another file of that name may be the one that is committed.
        let floor = request.file().and_then(|name| floors?.get(name));
        let floor = floor.filter(|floor| file.is_some_and(|file| file.nonce == floor.nonce));
        let standing = Standing {
            view,
            limits: self.limits,
            committed: floor.map_or(0, |floor| floor.length),
        };
        let result = match plan(file, request, standing) {
            Plan::Refuse(refused) => {
                // Said of a state that is perhaps not committed, by a coordinator that is perhaps not one any more: both are made sure of.
                active.wait_for_probe(conn, id, active.last(), ReplyContent::Ready(Err(refused)));
                return Ok(());
            }
            Plan::Done(answer @ Answer::Trimmed { .. }) => {
                // As refusals: a coordinator that was replaced does not know who may trim.
                active.wait_for_probe(conn, id, active.last(), ReplyContent::Ready(Ok(answer)));
                return Ok(());
            }
            Plan::Done(answer) => answer,
            Plan::Do(ops, answer) => {
                for op in ops {
                    match carry_out(&mut self.store, range, view, &op) {
                        Ok(change) => {
                            self.repairs.look |= matches!(op, RangeOp::Remove { .. } | RangeOp::Trim { .. });
                            active.take(op, change);
                            self.flush.note_written();
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
        active.wait_for_commit(conn, id, result);
        Ok(())
    }

    /// A replica that has too little room for what is asked, if it is a new file of a user's.
    fn short_of_room(&self, range: RangeIx, request: &Request) -> Option<NodeIx> {
        if self.short.is_empty() {
            return None;
        }
        let file = request.file().and_then(|name| self.store.file(range, name));
        let members = self.current.members(range).iter().copied();
        let mut short = members.filter(|node| self.short.contains(node));
        short.next().filter(|_| makes_users_file(file, request))
    }

    pub(super) fn acked(
        &mut self,
        now: Time,
        from: NodeIx,
        range: RangeIx,
        ack: MemberAck,
        out: &mut Vec<Effect>,
    ) {
        if let Some(active) = self.current.active_mut(range)
            && active.acked(now, from, ack, out)
        {
            self.flush.stir(range);
        }
    }

    pub(super) fn flush_lead(&mut self, now: Time, range: RangeIx, out: &mut Vec<Effect>) {
        let view = self.current.id;
        let Some(active) = self.current.active_mut(range) else {
            return;
        };
        let (ready, grown) = active.commit(self.floors.entry(range).or_default(), out);
        active.send(now, view, range, out);
        for PendingReply { conn, id, reply, .. } in ready {
            let result = self.look_up(range, reply);
            out.push(Effect::Reply { conn, id, result });
        }
        out.extend(
            grown
                .into_iter()
                .map(|(file, length)| Effect::Committed { range, file, length }),
        );
    }

    fn look_up(&self, range: RangeIx, reply: ReplyContent) -> Result<Answer, Refused> {
        match reply {
            ReplyContent::Ready(result) => result,
            ReplyContent::Stat(file, of) => match self.info(range, &file, true) {
                None => Err(Refused::NoSuchFile),
                Some(info) if of.is_some_and(|of| of != info.nonce) => Err(Refused::Replaced),
                Some(info) => Ok(Answer::Stat(info)),
            },
            ReplyContent::Find { prefix, after, limit } => {
                Ok(Answer::Found(self.find(range, &prefix, &after, limit)))
            }
        }
    }

    /// A file as this node knows it.
    pub fn info(&self, range: RangeIx, name: &FileName, details: bool) -> Option<FileInfo> {
        let floor = self.floors.get(&range)?.get(name)?;
        let file = self.store.file(range, name);
        let shown = file.filter(|_| details);
        Some(FileInfo {
            name: name.clone(),
            nonce: floor.nonce,
            base: floor.base,
            length: floor.length,
            newlines: file.map_or(0, hydfs::content::File::newlines),
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
