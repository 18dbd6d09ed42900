//! A member's side of replication: it takes the coordinator's order as it is.

use std::collections::BTreeMap;

use super::known::{Change, Pending};
use super::{Effect, Replica};
use crate::content::{FileName, SegmentId};
use crate::ring::RangeIx;
use crate::store::{self, Store};
use crate::view::NodeIx;
use crate::wire::peer::{Message, Op, Standing};

/// A range that this node has installed in this view, coordinated by another.
pub(super) struct Follow {
    /// Everything up to here is stored.
    seq: u64,
    probe: u64,
    standing: Standing,
    /// An acknowledgement is due.
    due: bool,
    commit: u64,
    pending: Pending,
    /// The coordinator said that all members have installed.
    pub active: bool,
    /// The coordinator knows that nobody misses anything.
    pub settled: bool,
}

impl Follow {
    pub fn new() -> Self {
        Self {
            seq: 0,
            probe: 0,
            standing: Standing::Well,
            due: false,
            commit: 0,
            pending: Pending::default(),
            active: false,
            settled: false,
        }
    }
}

/// Carries one step out on a store. What it does to the length once it is committed.
pub(super) fn carry_out<S: Store>(
    store: &mut S,
    range: RangeIx,
    segment: SegmentId,
    op: &Op,
) -> Result<Change, store::Error> {
    let name = op.file();
    if let Op::Create { nonce, .. } = op {
        store.create(range, name, *nonce)?;
        return Ok(Change::Created { nonce: *nonce });
    }
    if let Op::Remove { nonce, .. } = op {
        // Always so: the coordinator looked.
        if store.file(range, name).is_some_and(|file| file.nonce != *nonce) {
            return Ok(Change::None);
        }
        store.remove(range, name)?;
        return Ok(Change::Removed);
    }
    let file = store
        .file(range, name)
        .ok_or_else(|| store::Error::NoSuchFile { file: name.clone() })?;
    let none = bytes::Bytes::new();
    let (entry, payload) = match op {
        Op::Append {
            client,
            epoch,
            offset,
            checksum,
            payload,
            ..
        } => (
            file.next_append(segment, *client, *epoch, *offset, payload, *checksum),
            payload,
        ),
        Op::Fence {
            client, epoch, nonce, ..
        } => (file.next_fence(segment, *client, *epoch, *nonce), &none),
        Op::Create { .. } | Op::Remove { .. } => return Ok(Change::None),
    };
    let length = file.length() + u64::from(entry.len);
    store.append(range, name, segment, entry, payload)?;
    Ok(Change::Grown { length })
}

impl<S: Store> Replica<S> {
    pub(super) fn replicate(
        &mut self,
        from: NodeIx,
        range: RangeIx,
        first: u64,
        ops: Vec<Op>,
        commit: u64,
        probe: u64,
    ) -> Result<(), store::Error> {
        if self.leader(range) != Some(from) || !self.follows.contains_key(&range) {
            return Ok(());
        }
        let segment = SegmentId::of(&self.view);
        if let Some(f) = self.follows.get_mut(&range)
            && !std::mem::replace(&mut f.active, true)
        {
            self.fill_floors(range);
            self.remember_active(&[range])?;
        }
        let Some(f) = self.follows.get_mut(&range) else {
            return Ok(());
        };
        self.stirred.insert(range);
        f.commit = f.commit.max(commit);
        f.due |= !ops.is_empty() || probe > f.probe;
        f.probe = f.probe.max(probe);
        if first > f.seq + 1 {
            (f.standing, f.due) = (Standing::Gap, true);
            return Ok(());
        }
        f.standing = Standing::Well;
        let have = (f.seq + 1 - first) as usize;
        for op in ops.into_iter().skip(have) {
            if let Op::Append {
                payload, checksum, ..
            } = &op
                && xxhash_rust::xxh3::xxh3_64(payload) != *checksum
            {
                // Damaged on the way: as if it had not come.
                (f.standing, f.due) = (Standing::Gap, true);
                return Ok(());
            }
            match carry_out(&mut self.store, range, segment, &op) {
                Ok(change) => {
                    f.seq += 1;
                    f.pending.push(f.seq, op.file().clone(), change);
                    self.unsynced = true;
                }
                Err(store::Error::Full) => {
                    f.standing = Standing::Full;
                    return Ok(());
                }
                // Its copy of the segment is damaged, and the view that says so could not be written down yet.
                Err(store::Error::Missing { .. }) => {
                    f.standing = Standing::Gap;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) fn flush_follow(&mut self, range: RangeIx, out: &mut Vec<Effect>) {
        let (view, to) = (self.view_id, self.leader(range));
        let Some(f) = self.follows.get_mut(&range) else {
            return;
        };
        if std::mem::take(&mut f.due)
            && let Some(to) = to
        {
            let message = Message::Ack {
                view,
                range,
                seq: f.seq,
                probe: f.probe,
                standing: f.standing,
            };
            out.push(Effect::Send { to, message });
        }
        if f.active {
            let mut grown: BTreeMap<FileName, u64> = BTreeMap::new();
            self.floors
                .entry(range)
                .or_default()
                .commit(&mut f.pending, f.commit.min(f.seq), &mut grown);
            out.extend(
                grown
                    .into_iter()
                    .map(|(file, length)| Effect::Committed { range, file, length }),
            );
        }
    }

    /// What a member says by itself: again to `node` (or to all), who may not have heard it.
    pub(super) fn report_again(&mut self, node: Option<NodeIx>, out: &mut Vec<Effect>) {
        let mut installed: BTreeMap<NodeIx, Vec<(RangeIx, bool)>> = BTreeMap::new();
        for (range, f) in &mut self.follows {
            let Some(leader) = self.sets.get(range).and_then(|set| set.first()) else {
                continue;
            };
            if node.is_none_or(|n| n == *leader) {
                // Once the coordinator knows, only a new connection is a reason to say it again.
                if node.is_some() || !f.settled {
                    installed
                        .entry(*leader)
                        .or_default()
                        .push((*range, self.repairs.is_whole(*range)));
                }
                if node.is_some() {
                    f.due = true;
                    self.stirred.insert(*range);
                }
            }
        }
        for (to, ranges) in installed {
            out.push(Effect::Send {
                to,
                message: Message::Installed {
                    view: self.view_id,
                    ranges,
                },
            });
        }
    }
}
