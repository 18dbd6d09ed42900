//! A member's side of replication: it takes the coordinator's order as it is.

use std::collections::BTreeMap;

use super::known::{CommitFloors, LengthChange, PendingCommits};
use super::{Effect, Replica};
use crate::store::{self, Store};
use crate::wire::peer::{Message, RangeOp, Standing};
use hydfs::content::{FileName, SegmentId};
use hydfs::ring::RangeIx;
use hydfs::view::{NodeIx, ViewId};

/// A range that this node has installed in this view, coordinated by another.
pub(super) struct FollowState {
    /// Everything up to here is stored.
    seq: u64,
    probe: u64,
    standing: Standing,
    /// An acknowledgement is due.
    due: bool,
    commit: u64,
    pending: PendingCommits,
    /// The coordinator said that all members have installed.
    pub active: bool,
    /// The coordinator knows that nobody misses anything.
    pub settled: bool,
}

impl FollowState {
    pub fn new() -> Self {
        Self {
            seq: 0,
            probe: 0,
            standing: Standing::Well,
            due: false,
            commit: 0,
            pending: PendingCommits::default(),
            active: false,
            settled: false,
        }
    }
}

/// Carries one step out on a store; `view`: the first segment that may be opened in this view. What it does to the length once it is committed.
pub(super) fn carry_out<S: Store>(
    store: &mut S,
    range: RangeIx,
    view: SegmentId,
    op: &RangeOp,
) -> Result<LengthChange, store::Error> {
    let name = op.file();
    if let RangeOp::Create { nonce, .. } = op {
        store.create(range, name, *nonce)?;
        return Ok(LengthChange::Created { nonce: *nonce });
    }
    if let RangeOp::Remove { nonce, .. } = op {
        // Always so: the coordinator looked.
        if store.file(range, name).is_some_and(|file| file.nonce != *nonce) {
            return Ok(LengthChange::None);
        }
        store.remove(range, name)?;
        return Ok(LengthChange::Removed);
    }
    if let RangeOp::Trim {
        nonce, base, part, ..
    } = op
    {
        // As with removals.
        if store.file(range, name).is_none_or(|file| file.nonce != *nonce) {
            return Ok(LengthChange::None);
        }
        store.trim(range, name, *base, view.with_part(*part))?;
        return Ok(LengthChange::Trimmed { base: *base });
    }
    let file = store
        .file(range, name)
        .ok_or_else(|| store::Error::NoSuchFile { file: name.clone() })?;
    let none = bytes::Bytes::new();
    let (segment, entry, payload) = match op {
        RangeOp::Append {
            part,
            client,
            epoch,
            offset,
            checksum,
            payload,
            ..
        } => {
            let segment = view.with_part(*part);
            let entry = file.next_append(segment, *client, *epoch, *offset, payload, *checksum);
            (segment, entry, payload)
        }
        RangeOp::Fence {
            part,
            client,
            epoch,
            nonce,
            ..
        } => {
            let segment = view.with_part(*part);
            let entry = file.next_fence(segment, *client, *epoch, *nonce);
            (segment, entry, &none)
        }
        RangeOp::Create { .. } | RangeOp::Remove { .. } | RangeOp::Trim { .. } => {
            return Ok(LengthChange::None);
        }
    };
    let length = file.length() + u64::from(entry.len);
    let entries = file.segment(segment).map_or(0, |s| s.entries) + 1;
    store.append(range, name, segment, entry, payload)?;
    Ok(LengthChange::Grown {
        length,
        to: (segment, entries),
    })
}

/// Entries in the coordinator's order, as it sent them.
pub(super) struct ReplicatedEntries {
    /// The number of the first of `ops`.
    pub first: u64,
    pub ops: Vec<RangeOp>,
    /// How far all members are.
    pub commit: u64,
    pub probe: u64,
}

impl FollowState {
    /// Stores what comes next of `news`. True if something was written.
    fn take<S: Store>(
        &mut self,
        store: &mut S,
        range: RangeIx,
        view: SegmentId,
        news: ReplicatedEntries,
    ) -> Result<bool, store::Error> {
        self.commit = self.commit.max(news.commit);
        self.due |= !news.ops.is_empty() || news.probe > self.probe;
        self.probe = self.probe.max(news.probe);
        if news.first > self.seq + 1 {
            (self.standing, self.due) = (Standing::Gap, true);
            return make_room(store, range, view, &news.ops);
        }
        self.standing = Standing::Well;
        let have = (self.seq + 1 - news.first) as usize;
        let before = self.seq;
        let mut ops = news.ops.into_iter();
        ops.by_ref().take(have).for_each(drop);
        while let Some(op) = ops.next() {
            if is_damaged(&op) {
                // As if it had not come.
                (self.standing, self.due) = (Standing::Gap, true);
                break;
            }
            match carry_out(store, range, view, &op) {
                Ok(change) => {
                    self.seq += 1;
                    self.pending.push(self.seq, op.file().clone(), change);
                }
                Err(store::Error::Full) => {
                    self.standing = Standing::Full;
                    make_room(store, range, view, ops.as_slice())?;
                    break;
                }
                // Its copy of the segment is damaged, and the view that says so could not be written down yet.
                Err(store::Error::Missing { .. }) => {
                    self.standing = Standing::Gap;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(self.seq > before)
    }

    /// The acknowledgement that is due, if one is.
    fn take_ack(&mut self, view: ViewId, range: RangeIx) -> Option<Message> {
        std::mem::take(&mut self.due).then_some(Message::Ack {
            view,
            range,
            seq: self.seq,
            probe: self.probe,
            standing: self.standing,
        })
    }

    /// What is known to be committed may be read.
    fn commit(&mut self, range: RangeIx, floors: &mut CommitFloors, out: &mut Vec<Effect>) {
        let mut grown: BTreeMap<FileName, u64> = BTreeMap::new();
        floors.commit(&mut self.pending, self.commit.min(self.seq), &mut grown);
        out.extend(
            grown
                .into_iter()
                .map(|(file, length)| Effect::Committed { range, file, length }),
        );
    }
}

/// Trims ahead of their turn: what comes before may be waiting for the room. Nothing is closed before all that goes into it has come. True if
/// something was written.
fn make_room<S: Store>(
    store: &mut S,
    range: RangeIx,
    view: SegmentId,
    ops: &[RangeOp],
) -> Result<bool, store::Error> {
    let mut written = false;
    for op in ops {
        let RangeOp::Trim {
            file, nonce, base, ..
        } = op
        else {
            continue;
        };
        let held = store.file(range, file).filter(|held| held.nonce == *nonce);
        if held.is_none_or(|held| held.base >= *base || held.length() < *base) {
            continue;
        }
        match store.trim(range, file, *base, view) {
            Ok(()) => written = true,
            Err(store::Error::Full) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

/// Damaged on the way?
fn is_damaged(op: &RangeOp) -> bool {
    match op {
        RangeOp::Append {
            payload, checksum, ..
        } => xxhash_rust::xxh3::xxh3_64(payload) != *checksum,
        _ => false,
    }
}

impl<S: Store> Replica<S> {
    pub(super) fn replicate(
        &mut self,
        from: NodeIx,
        range: RangeIx,
        news: ReplicatedEntries,
    ) -> Result<(), store::Error> {
        if self.current.leader(range) != Some(from) {
            return Ok(());
        }
        let Some(follow) = self.current.follows.get_mut(&range) else {
            return Ok(());
        };
        if !std::mem::replace(&mut follow.active, true) {
            self.fill_floors(range);
            self.remember_active(&[range])?;
        }
        let view = self.current.first_segment();
        let Some(follow) = self.current.follows.get_mut(&range) else {
            return Ok(());
        };
        self.flush.stir(range);
        if follow.take(&mut self.store, range, view, news)? {
            self.flush.note_written();
        }
        Ok(())
    }

    pub(super) fn flush_follow(&mut self, range: RangeIx, out: &mut Vec<Effect>) {
        let (view, leader) = (self.current.id, self.current.leader(range));
        let Some(follow) = self.current.follows.get_mut(&range) else {
            return;
        };
        if let Some(to) = leader {
            let ack = follow.take_ack(view, range);
            out.extend(ack.map(|message| Effect::Send { to, message }));
        }
        if follow.active {
            follow.commit(range, self.floors.entry(range).or_default(), out);
        }
    }

    /// What a member says by itself: again to `node` (or to all), who may not have heard it.
    pub(super) fn report_again(&mut self, node: Option<NodeIx>, out: &mut Vec<Effect>) {
        let mut installed: BTreeMap<NodeIx, Vec<(RangeIx, bool)>> = BTreeMap::new();
        let followed: Vec<RangeIx> = self.current.follows.keys().copied().collect();
        for range in followed {
            let Some(leader) = self
                .current
                .leader(range)
                .filter(|l| node.is_none_or(|n| n == *l))
            else {
                continue;
            };
            let Some(follow) = self.current.follows.get_mut(&range) else {
                continue;
            };
            // Once the coordinator knows, only a new connection is a reason to say it again.
            if node.is_some() || !follow.settled {
                let whole = self.repairs.is_whole(range);
                installed.entry(leader).or_default().push((range, whole));
            }
            if node.is_some() {
                follow.due = true;
                self.flush.stir(range);
            }
        }
        for (to, ranges) in installed {
            let view = self.current.id;
            let message = Message::Installed { view, ranges };
            out.push(Effect::Send { to, message });
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use common::ids::Epoch;
    use xxhash_rust::xxh3::xxh3_64;

    use super::*;
    use crate::store::mem::MemStore;
    use hydfs::content::ClientId;

    const RANGE: RangeIx = RangeIx(0);
    const OPEN: SegmentId = SegmentId(1);

    fn name() -> FileName {
        FileName::new("f").unwrap()
    }

    fn append(offset: u64, payload: &'static str) -> RangeOp {
        RangeOp::Append {
            file: name(),
            part: 0,
            client: ClientId(1),
            epoch: Epoch(1),
            offset,
            checksum: xxh3_64(payload.as_bytes()),
            payload: Bytes::from_static(payload.as_bytes()),
        }
    }

    fn news(first: u64, ops: Vec<RangeOp>) -> ReplicatedEntries {
        let (commit, probe) = (0, 0);
        ReplicatedEntries {
            first,
            ops,
            commit,
            probe,
        }
    }

    /// How far it is, and its standing, as its acknowledgement says.
    fn ack(follow: &mut FollowState) -> (u64, Standing) {
        match follow.take_ack(hydfs::view::View::new(3).id(), RANGE) {
            Some(Message::Ack { seq, standing, .. }) => (seq, standing),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn entries_are_stored_once_and_in_order() {
        let (mut store, mut follow) = (MemStore::default(), FollowState::new());
        let create = RangeOp::Create {
            file: name(),
            nonce: 1,
        };
        let ops = vec![create, append(0, "ab")];
        let mut take = |first, ops| follow.take(&mut store, RANGE, OPEN, news(first, ops)).unwrap();
        assert!(take(1, ops.clone()));
        assert!(!take(1, ops), "a repeat");
        assert!(!take(4, vec![append(4, "ef")]), "one is missing before");
        assert_eq!(ack(&mut follow), (2, Standing::Gap));
        let next = news(3, vec![append(2, "cd")]);
        assert!(follow.take(&mut store, RANGE, OPEN, next).unwrap());
        assert_eq!(ack(&mut follow), (3, Standing::Well));
        assert_eq!(store.file(RANGE, &name()).unwrap().length(), 4);
    }

    #[test]
    fn what_was_damaged_on_the_way_is_as_if_it_had_not_come() {
        let (mut store, mut follow) = (MemStore::default(), FollowState::new());
        let mut damaged = append(0, "ab");
        if let RangeOp::Append { checksum, .. } = &mut damaged {
            *checksum ^= 1;
        }
        let create = RangeOp::Create {
            file: name(),
            nonce: 1,
        };
        let ops = vec![create, damaged, append(2, "cd")];
        assert!(follow.take(&mut store, RANGE, OPEN, news(1, ops)).unwrap());
        assert_eq!(ack(&mut follow), (1, Standing::Gap));
        assert_eq!(store.file(RANGE, &name()).unwrap().length(), 0);
    }

    #[test]
    fn a_full_disk_is_told_and_the_rest_waits() {
        let (mut store, mut follow) = (MemStore::default(), FollowState::new());
        store.full = true;
        let create = RangeOp::Create {
            file: name(),
            nonce: 1,
        };
        assert!(
            !follow
                .take(&mut store, RANGE, OPEN, news(1, vec![create]))
                .unwrap()
        );
        assert_eq!(ack(&mut follow), (0, Standing::Full));
    }
}
