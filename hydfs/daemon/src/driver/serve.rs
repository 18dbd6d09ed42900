//! What clients ask: what the replica orders goes to it; what only reads is answered here.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use common::clock;
use common::ids::Creation;

use super::core::Core;
use super::pending_reads::{BulkRead, PendingRead, TailReader};
use crate::replica::{self, Answer, FileInfo, Input, RangeState, Refused, Unreadable};
use crate::store::{self, Store};
use hydfs::content::{ClientId, EntryMeta, FileName, Segment, SegmentId};
use hydfs::ring::RangeIx;
use hydfs::view::{Incarnation, NodeIx};
use hydfs::wire::client::{
    FileStat, Frame, MAX_LIST, MAX_READ, NodeInfo, NodeState, Refusal, Reply, Request, StreamInfo, ToClient,
};

/// The longest that a tailing reader is kept waiting.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// The most entries in one piece of a repair.
const MAX_ENTRIES: usize = 4096;

/// What becomes of a request.
enum CallTurn {
    /// The replica decides.
    Order(replica::Request),
    /// It moves many bytes: between other work.
    Later(BulkRead),
    Answer(Reply),
}

impl Core {
    pub(super) fn call(&mut self, conn: u64, call: u64, request: Request) {
        if let Err(refusal) = self.try_call(conn, call, request) {
            self.refuse(conn, call, refusal);
        }
    }

    fn try_call(&mut self, conn: u64, call: u64, request: Request) -> Result<(), Refusal> {
        let name = |file: &str| FileName::new(file).map_err(|e| Refusal::InvalidName { why: e.to_string() });
        // Who is no coordinator any more, and does not know it yet, must not say that a file is gone.
        let make_sure = |file: FileName, of: Option<Creation>| {
            CallTurn::Order(replica::Request::Stat {
                file,
                of: of.map(|c| c.0),
            })
        };
        let turn = match request {
            Request::Create { file, nonce } => CallTurn::Order(replica::Request::Create {
                file: name(&file)?,
                nonce,
            }),
            Request::Remove { file, nonce } => CallTurn::Order(replica::Request::Remove {
                file: name(&file)?,
                nonce,
            }),
            Request::Trim { file, of, base, by } => CallTurn::Order(replica::Request::Trim {
                file: name(&file)?,
                of: of.map(|c| c.0),
                base,
                by: by.map(|by| replica::Writer {
                    client: ClientId::of(&by.client),
                    epoch: by.epoch,
                    nonce: by.nonce,
                }),
            }),
            Request::Stat { file, any: false } => make_sure(name(&file)?, None),
            Request::Fence {
                file,
                of,
                client,
                epoch,
                nonce,
            } => CallTurn::Order(replica::Request::Fence {
                file: name(&file)?,
                of: of.map(|c| c.0),
                client: hydfs::content::ClientId::of(&client),
                epoch,
                nonce,
                create: false,
            }),
            // One more than is told, to know whether there are more.
            Request::Find { range, prefix, after } => CallTurn::Order(replica::Request::Find {
                range,
                prefix,
                after,
                limit: MAX_LIST + 1,
            }),
            Request::Stat { file, any: true } => CallTurn::Answer(Reply::Stat(
                self.stat_here(&name(&file)?).ok_or(Refusal::NotHere)?,
            )),
            Request::Read {
                file,
                of,
                offset,
                len,
                any,
            } => {
                let (file, len) = (name(&file)?, len.into());
                match any || self.coordinated(&file, of)?.is_some() {
                    true => CallTurn::Later(BulkRead::Read {
                        file,
                        of,
                        offset,
                        len,
                    }),
                    false => make_sure(file, of),
                }
            }
            Request::Fetch {
                file,
                nonce,
                segment,
                at,
            } => CallTurn::Later(BulkRead::Fetch {
                file: name(&file)?,
                nonce,
                segment,
                at,
            }),
            Request::Verify {
                file,
                nonce,
                segment,
                at,
            } => CallTurn::Later(BulkRead::Verify {
                file: name(&file)?,
                nonce,
                segment,
                at,
            }),
            Request::Tail {
                file,
                of,
                offset,
                max,
                wait_ms,
            } => {
                let (file, max) = (name(&file)?, max.into());
                let wait = Duration::from_millis(wait_ms.into()).min(LONGEST_WAIT);
                match self.coordinated(&file, of)? {
                    Some(length) if length <= offset && !wait.is_zero() => {
                        let waiter = TailReader {
                            conn,
                            call,
                            of,
                            offset,
                            max,
                            until: clock::now() + wait,
                        };
                        self.reads.wait(file, waiter);
                        return Ok(());
                    }
                    Some(_) => CallTurn::Later(BulkRead::Read {
                        file,
                        of,
                        offset,
                        len: max,
                    }),
                    None => make_sure(file, of),
                }
            }
            Request::Index { file, of, from } => {
                let file = name(&file)?;
                match self.coordinated(&file, of)? {
                    Some(length) => CallTurn::Answer(self.marks(&file, length, from)),
                    None => make_sure(file, of),
                }
            }
            Request::Streams { file, of, after } => {
                let file = name(&file)?;
                match self.coordinated(&file, of)? {
                    Some(length) => CallTurn::Answer(self.streams(&file, length, after)),
                    None => make_sure(file, of),
                }
            }
            Request::Locate { range } => CallTurn::Answer(Reply::Coordinator {
                node: self.replica.coordinator_of(range),
            }),
            Request::Ring => CallTurn::Answer(Reply::Ring { nodes: self.ring() }),
            Request::NodeStatus => CallTurn::Answer(Reply::NodeStatus(Box::new(self.status()))),
            Request::RangeState { range } => CallTurn::Answer(self.range_state(range)),
            Request::Copies {
                range,
                prefix,
                after,
                exact,
            } => CallTurn::Answer(self.copies(range, &prefix, &after, exact)),
            Request::Prefix {
                file,
                nonce,
                segment,
                entries,
            } => CallTurn::Answer(self.prefix(&name(&file)?, nonce, segment, entries)?),
            Request::ListStore { after } => CallTurn::Answer(self.list_store(&after)),
        };
        match turn {
            CallTurn::Order(request) => self.input(Input::Client {
                conn,
                id: call,
                request,
            }),
            CallTurn::Later(what) => self.reads.push(PendingRead { conn, call, what }),
            CallTurn::Answer(reply) => self.reply(conn, call, reply),
        }
        Ok(())
    }

    pub(super) fn reply_from_replica(&mut self, conn: u64, call: u64, result: Result<Answer, Refused>) {
        let reply = match result {
            Ok(Answer::Created | Answer::Removed | Answer::Appended { .. }) => Reply::Done,
            Ok(Answer::Fenced { length, base }) => Reply::Fenced { length, base },
            Ok(Answer::Trimmed { base }) => Reply::Trimmed { base },
            Ok(Answer::Stat(info)) => Reply::Stat(self.stat(&info)),
            Ok(Answer::Found(found)) => {
                let more = found.len() > MAX_LIST;
                let files = found
                    .into_iter()
                    .take(MAX_LIST)
                    .map(|f| (f.name.into(), f.length, Creation(f.nonce)))
                    .collect();
                Reply::Files { files, more }
            }
            Err(refused) => Reply::Refused(self.refusal(refused)),
        };
        self.reply(conn, call, reply);
    }

    fn stat(&self, info: &FileInfo) -> FileStat {
        let range = self.replica.range_of(&info.name);
        let wanted = self.cluster.replication.min(self.cluster.nodes.len());
        let whole = matches!(self.replica.state_of(range), Some(RangeState::Active { repairing }) if repairing.is_empty());
        FileStat {
            nonce: info.nonce,
            base: info.base,
            len: info.length,
            newlines: info.newlines,
            coordinator: Some(self.at),
            under_replicated: !whole || info.replicas.len() < wanted,
            replicas: info.replicas.clone(),
        }
    }

    /// What this node's own copy says, whoever coordinates.
    fn stat_here(&self, file: &FileName) -> Option<FileStat> {
        let known = self.replica.committed(file)?;
        let range = self.replica.range_of(file);
        let held = self.replica.store().file(range, file)?;
        Some(FileStat {
            nonce: known.nonce,
            // From there on it can be read here, whether or not all have heard of it.
            // What is known to be committed may be older than the base, after a restart.
            base: known.base.max(held.base).min(known.length),
            len: known.length,
            newlines: held.newlines(),
            coordinator: self.replica.coordinator_of(range),
            replicas: vec![self.at],
            under_replicated: held.misses(),
        })
    }

    /// The file's committed length, if this node is the one to ask; `None` if it knows no such file.
    fn coordinated(&self, file: &FileName, of: Option<Creation>) -> Result<Option<u64>, Refusal> {
        let range = self.replica.range_of(file);
        let coordinator = self.replica.coordinator_of(range);
        if coordinator != Some(self.at) {
            return Err(Refusal::NotCoordinator { coordinator });
        }
        match self.replica.state_of(range) {
            Some(RangeState::Active { .. }) => {
                let known = self.replica.committed(file);
                Ok(known.filter(|k| is_meant(of, k.nonce)).map(|k| k.length))
            }
            Some(RangeState::Unavailable { why }) => Err(Refusal::Unavailable { why }),
            Some(RangeState::Installing) | None => Err(Refusal::Again),
        }
    }

    fn streams(&self, file: &FileName, length: u64, after: Option<ClientId>) -> Reply {
        let Some(held) = self.replica.store().file(self.replica.range_of(file), file) else {
            return Reply::Refused(Refusal::NoSuchFile);
        };
        let mut spans = held.spans();
        let mut behind = held
            .streams
            .iter()
            .filter(|(id, _)| after.is_none_or(|a| **id > a));
        // An answer is bounded by what it lists: streams, and spans of them.
        let mut listed = 0;
        let mut streams = Vec::new();
        while listed < MAX_LIST
            && let Some((client, stream)) = behind.next()
        {
            let spans = spans.remove(client).unwrap_or_default();
            listed += 1 + spans.len();
            streams.push(StreamInfo {
                client: *client,
                epoch: stream.epoch,
                length: stream.length,
                spans,
            });
        }
        Reply::Streams {
            base: held.base,
            len: length,
            missing: held.misses(),
            streams,
            more: behind.next().is_some(),
        }
    }

    fn ring(&self) -> Vec<NodeInfo> {
        let view = self.replica.view();
        let ring = hydfs::ring::Ring::new(self.cluster.nodes.iter().map(|n| n.name.as_str()), 1);
        let info = |(token, node): &(u64, NodeIx)| {
            let incarnation = view.incarnation(*node);
            let state = match () {
                () if view.is_alive(*node) => NodeState::Alive,
                () if incarnation == Incarnation(0) => NodeState::Unknown,
                () => NodeState::Failed,
            };
            let name = self.cluster.nodes[node.0 as usize].name.clone();
            NodeInfo {
                name,
                token: *token,
                state,
                incarnation: incarnation.0,
            }
        };
        ring.nodes().iter().map(info).collect()
    }

    fn list_store(&self, after: &str) -> Reply {
        let store = self.replica.store();
        let ranges = (0..self.cluster.nodes.len() as u16).map(RangeIx);
        let all = ranges
            .flat_map(|range| store.files(range))
            .filter(|(name, _)| name.as_str() > after);
        let held = |f: &hydfs::content::File| f.segments.iter().filter(|s| !s.missing).map(|s| s.bytes).sum();
        let mut files: Vec<(String, u64, Creation)> = all
            .map(|(name, f)| (name.as_str().to_owned(), held(f), Creation(f.nonce)))
            .collect();
        files.sort_unstable();
        let more = files.len() > MAX_LIST;
        files.truncate(MAX_LIST);
        Reply::Files { files, more }
    }

    pub(super) fn serve_read(&mut self, read: PendingRead) {
        let client = self.clients.get_mut(read.conn);
        let Some(PendingRead { conn, call, what }) = client.and_then(|c| c.admit(read)) else {
            return;
        };
        let served = match what {
            BulkRead::Read {
                file,
                of,
                offset,
                len,
            } => self
                .read(&file, of, offset, len)
                .map(|(end, bytes)| Frame::data(call, offset, end, bytes)),
            BulkRead::Fetch {
                file,
                nonce,
                segment,
                at,
            } => self
                .entries(&file, nonce, &segment, at)
                .map(|(entries, bytes)| Frame::entries(call, entries, bytes)),
            BulkRead::Verify {
                file,
                nonce,
                segment,
                at,
            } => self
                .verify(&file, nonce, segment, at)
                .map(|reply| Frame::to_client(&ToClient::Reply(call, reply))),
        };
        match served {
            Ok(frame) => self.clients.answer(conn, call, frame),
            Err(refusal) => self.refuse(conn, call, refusal),
        }
    }

    /// Committed bytes of this node's copy, and the committed length.
    fn read(
        &mut self,
        file: &FileName,
        of: Option<Creation>,
        offset: u64,
        len: u64,
    ) -> Result<(u64, Bytes), Refusal> {
        let known = self.replica.readable(file, of.map(|c| c.0), offset);
        let known = known.map_err(|why| match why {
            Unreadable::Trimmed { base } => Refusal::Trimmed { base },
            Unreadable::NotHere => Refusal::NotHere,
        })?;
        let range = self.replica.range_of(file);
        let len = len.min(MAX_READ as u64).min(known.length.saturating_sub(offset));
        let held = self.replica.store().file(range, file).ok_or(Refusal::NotHere)?;
        let mut parts: Vec<Bytes> = Vec::new();
        for slice in held.slices(offset, len) {
            // What was read so far is good; the rest is elsewhere.
            if slice.missing {
                break;
            }
            match self
                .replica
                .store()
                .read(range, file, slice.segment, slice.offset, slice.len)
            {
                Ok(bytes) => parts.push(bytes),
                Err(error) => {
                    let refusal = self.unreadable(range, file, slice.segment, error);
                    if parts.is_empty() {
                        return Err(refusal);
                    }
                    break;
                }
            }
        }
        if parts.is_empty() && len > 0 {
            return Err(Refusal::NotHere);
        }
        Ok((known.length, join(parts)))
    }

    pub(super) fn unreadable(
        &mut self,
        range: RangeIx,
        file: &FileName,
        segment: SegmentId,
        error: store::Error,
    ) -> Refusal {
        match error {
            store::Error::Damaged { offset, .. } => {
                tracing::error!(file = %file, segment = %segment, offset, "DAMAGED");
                self.input(Input::Damaged {
                    range,
                    file: file.clone(),
                    segment,
                });
                Refusal::Damaged {
                    offset,
                    why: format!("a checksum is wrong on {}", self.name(self.at)),
                }
            }
            store::Error::Missing { .. } | store::Error::NoSuchFile { .. } => Refusal::NotHere,
            other => {
                tracing::error!(file = %file, segment = %segment, error = %other, "READ_FAILED");
                Refusal::NotHere
            }
        }
    }

    /// For another node's repair: the next entries of a segment that is whole here.
    fn entries(
        &mut self,
        file: &FileName,
        nonce: u64,
        segment: &Segment,
        at: u64,
    ) -> Result<(Vec<EntryMeta>, Bytes), Refusal> {
        let range = self.replica.range_of(file);
        let store = self.replica.store();
        let held = store
            .file(range, file)
            .filter(|f| f.nonce == nonce)
            .and_then(|f| f.segment(segment.id));
        let held = held
            .filter(|s| !s.missing && s.same(segment))
            .ok_or(Refusal::NotHere)?;
        let from = usize::try_from(at)
            .ok()
            .filter(|at| *at <= held.index.len())
            .ok_or(Refusal::NotHere)?;
        let begin = from.checked_sub(1).map_or(0, |before| held.index[before].end);
        let rest = held.index[from..].iter().enumerate();
        // At least one, however long.
        let some =
            rest.take_while(|(i, e)| *i == 0 || (e.end - begin <= MAX_READ as u64 && *i < MAX_ENTRIES));
        let entries: Vec<EntryMeta> = some.map(|(_, e)| *e).collect();
        let end = entries.last().map_or(begin, |e| e.end);
        match store.read(range, file, segment.id, begin, end - begin) {
            Ok(bytes) => Ok((entries, bytes)),
            Err(error) => Err(self.unreadable(range, file, segment.id, error)),
        }
    }

    /// A file may be read up to `length`: whoever waited for that is served.
    pub(super) fn committed(&mut self, file: &FileName, length: u64) {
        self.reads.wake(file, length);
    }

    /// Waiters whose time is over get nothing; those that wait at the wrong node are sent on.
    pub(super) fn serve_overdue(&mut self) {
        let now = clock::now();
        let files = self.reads.tailed_files();
        // `Ok`: the file that has the name here now. Who waits for another gets nothing, asks again, and is told for sure.
        let stands: BTreeMap<FileName, Result<Option<Creation>, Refusal>> = files
            .into_iter()
            .map(|file| {
                let now = self.coordinated(&file, None).map(|_| {
                    let known = self.replica.committed(&file);
                    known.map(|k| Creation(k.nonce))
                });
                (file, now)
            })
            .collect();
        let is_over = |file: &FileName, w: &TailReader| match stands.get(file) {
            Some(Ok(Some(now))) => w.of.is_some_and(|of| of != *now),
            _ => true,
        };
        for (file, waiter) in self.reads.take_if(|file, w| w.until <= now || is_over(file, w)) {
            match stands.get(&file) {
                Some(Err(refusal)) => self.refuse(waiter.conn, waiter.call, refusal.clone()),
                _ => self.clients.answer(
                    waiter.conn,
                    waiter.call,
                    Frame::data(waiter.call, waiter.offset, waiter.offset, Bytes::new()),
                ),
            }
        }
    }
}

fn is_meant(of: Option<Creation>, nonce: u64) -> bool {
    of.is_none_or(|of| of.0 == nonce)
}

fn join(mut parts: Vec<Bytes>) -> Bytes {
    if parts.len() == 1 {
        return parts.pop().unwrap_or_default();
    }
    let mut all = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
    parts.iter().for_each(|p| all.extend_from_slice(p));
    all.freeze()
}
