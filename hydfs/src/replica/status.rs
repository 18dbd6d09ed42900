//! What the driver may ask of a storage node at any time.

use super::{Known, Lead, RangeState, Replica};
use crate::content::FileName;
use crate::ring::{RangeIx, Ring};
use crate::store::Store;
use crate::view::{Incarnation, NodeIx, View};

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
