//! What the driver may ask of a storage node at any time.

use super::{Known, RangeState, Replica, Unreadable};
use crate::store::Store;
use hydfs::content::FileName;
use hydfs::ring::{RangeIx, Ring};
use hydfs::view::{Incarnation, NodeIx, View};

impl<S: Store> Replica<S> {
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
        &self.current.view
    }

    /// This node's incarnation now.
    pub fn incarnation(&self) -> Incarnation {
        self.store
            .node()
            .map_or(Incarnation(0), |facts| facts.incarnation)
    }

    pub fn range_of(&self, file: &FileName) -> RangeIx {
        self.ring.range_of(file.as_str())
    }

    /// The range's replicas in this node's view, the coordinator first.
    pub fn replicas_of(&self, range: RangeIx) -> &[NodeIx] {
        self.current.members(range)
    }

    pub fn coordinator_of(&self, range: RangeIx) -> Option<NodeIx> {
        self.current.leader(range)
    }

    /// What may be read of this file here. `None`: not known here, as far as this node knows there is no such file.
    pub fn committed(&self, file: &FileName) -> Option<Known> {
        let range = self.range_of(file);
        let floor = self.floors.get(&range)?.get(file)?;
        Some(Known {
            nonce: floor.nonce,
            base: floor.base,
            length: floor.length,
            current: self.current.is_active(range),
        })
    }

    /// May bytes from `offset` on be read of this file here, if it is the one that is meant (`of`: its nonce)? What this node has trimmed, and does not
    /// know that all have, others may still have.
    pub fn readable(&self, file: &FileName, of: Option<u64>, offset: u64) -> Result<Known, Unreadable> {
        let known = self.committed(file).filter(|k| of.is_none_or(|of| of == k.nonce));
        let known = known.ok_or(Unreadable::NotHere)?;
        if offset < known.base {
            return Err(Unreadable::Trimmed { base: known.base });
        }
        let held = self.store.file(self.range_of(file), file);
        let there = held.is_some_and(|f| f.nonce == known.nonce && f.base <= offset);
        there.then_some(known).ok_or(Unreadable::NotHere)
    }

    /// Is this node's knowledge of the range's files current (as its coordinator) or nearly so (as a member)? Otherwise
    /// it is what it knew last.
    pub fn is_current(&self, range: RangeIx) -> bool {
        self.current.is_active(range)
    }

    /// How a range that this node coordinates stands; `None` when it does not.
    pub fn state_of(&self, range: RangeIx) -> Option<RangeState> {
        self.current.state_of(range)
    }

    /// Bytes of entries that not all members have yet. Stop reading clients while this is more than some tens of MiB.
    pub fn backlog_bytes(&self) -> usize {
        self.current.active().map(|(_, active)| active.backlog()).sum()
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
