//! What the next [`flush`](super::Replica::flush) does: gathered while the inputs of a burst are handled.

use std::collections::BTreeSet;

use hydfs::ring::RangeIx;
use hydfs::view::NodeIx;

#[derive(Debug, Default)]
pub(super) struct FlushPlan {
    /// Peers to be told the view.
    tell: BTreeSet<NodeIx>,
    /// The view changed: take over.
    takeover: bool,
    /// Peers to be told which ranges are active.
    announce: BTreeSet<NodeIx>,
    /// Ranges led or followed with something to send.
    stirred: BTreeSet<RangeIx>,
    /// Something was written that is not durable yet.
    unsynced: bool,
}

impl FlushPlan {
    /// The view changed: all `peers` are told, and what was to be sent in the old one is not. What was written stays to be synced.
    pub fn begin_view(&mut self, peers: impl IntoIterator<Item = NodeIx>) {
        *self = Self {
            tell: peers.into_iter().collect(),
            takeover: true,
            unsynced: self.unsynced,
            ..Self::default()
        };
    }

    pub fn tell(&mut self, peers: impl IntoIterator<Item = NodeIx>) {
        self.tell.extend(peers);
    }

    pub fn announce_to(&mut self, peers: impl IntoIterator<Item = NodeIx>) {
        self.announce.extend(peers);
    }

    pub fn stir(&mut self, range: RangeIx) {
        self.stirred.insert(range);
    }

    pub fn note_written(&mut self) {
        self.unsynced = true;
    }

    pub fn take_tell(&mut self) -> BTreeSet<NodeIx> {
        std::mem::take(&mut self.tell)
    }

    pub fn take_takeover(&mut self) -> bool {
        std::mem::take(&mut self.takeover)
    }

    pub fn take_announce(&mut self) -> BTreeSet<NodeIx> {
        std::mem::take(&mut self.announce)
    }

    pub fn take_stirred(&mut self) -> BTreeSet<RangeIx> {
        std::mem::take(&mut self.stirred)
    }

    pub fn take_unsynced(&mut self) -> bool {
        std::mem::take(&mut self.unsynced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_view_drops_what_was_to_be_sent_and_keeps_what_was_written() {
        let mut plan = FlushPlan::default();
        plan.tell([NodeIx(1)]);
        plan.announce_to([NodeIx(1), NodeIx(2)]);
        plan.stir(RangeIx(3));
        plan.note_written();
        plan.begin_view([NodeIx(0), NodeIx(2)]);
        assert_eq!(plan.take_tell(), BTreeSet::from([NodeIx(0), NodeIx(2)]));
        assert!(plan.take_takeover() && plan.take_unsynced());
        assert!(plan.take_announce().is_empty() && plan.take_stirred().is_empty());
    }

    #[test]
    fn everything_is_taken_once() {
        let mut plan = FlushPlan::default();
        plan.stir(RangeIx(3));
        plan.stir(RangeIx(3));
        plan.begin_view([]);
        plan.stir(RangeIx(1));
        assert_eq!(plan.take_stirred(), BTreeSet::from([RangeIx(1)]));
        assert!(plan.take_takeover() && !plan.take_takeover());
        assert!(!plan.take_unsynced() && plan.take_stirred().is_empty());
    }
}
