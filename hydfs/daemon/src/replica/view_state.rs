//! What this node does in one view. A new view replaces all of it.

use std::collections::BTreeMap;

use common::clock::Time;

use super::active::ActiveRange;
use super::follow::FollowState;
use super::takeover::{Installing, TakeOver};
use super::{Effect, RangeState};
use hydfs::content::SegmentId;
use hydfs::ring::{RangeIx, Ring};
use hydfs::view::{NodeIx, View, ViewId};

/// What this node does as the coordinator of a range.
pub(super) enum LeadState {
    /// Asking, or nothing to be done before the view changes.
    Waiting {
        why: String,
    },
    Installing(Installing),
    Active(Box<ActiveRange>),
}

/// A view, and everything under way in it.
pub(super) struct ViewState {
    pub view: View,
    pub id: ViewId,
    /// The replicas of each range, the coordinator first.
    pub sets: BTreeMap<RangeIx, Vec<NodeIx>>,
    pub takeover: Option<TakeOver>,
    pub leads: BTreeMap<RangeIx, LeadState>,
    pub follows: BTreeMap<RangeIx, FollowState>,
    /// Who was answered, and about what: an answer is lost with the connection it went over.
    pub answered_to: BTreeMap<NodeIx, Vec<RangeIx>>,
}

impl ViewState {
    pub fn new(view: View, ring: &Ring) -> Self {
        let set = |range| (range, ring.replicas(range, &view));
        Self {
            id: view.id(),
            sets: ring.ranges().map(set).collect(),
            takeover: None,
            leads: BTreeMap::new(),
            follows: BTreeMap::new(),
            answered_to: BTreeMap::new(),
            view,
        }
    }

    /// The first segment of each file that may be opened in this view.
    pub fn first_segment(&self) -> SegmentId {
        SegmentId::of(&self.view)
    }

    pub fn members(&self, range: RangeIx) -> &[NodeIx] {
        self.sets.get(&range).map_or(&[], Vec::as_slice)
    }

    /// The coordinator of a range.
    pub fn leader(&self, range: RangeIx) -> Option<NodeIx> {
        self.members(range).first().copied()
    }

    pub fn coordinated_by(&self, node: NodeIx) -> Vec<RangeIx> {
        let led = self.sets.iter().filter(|(_, set)| set.first() == Some(&node));
        led.map(|(range, _)| *range).collect()
    }

    pub fn active(&self) -> impl Iterator<Item = (RangeIx, &ActiveRange)> {
        self.leads.iter().filter_map(|(range, lead)| match lead {
            LeadState::Active(active) => Some((*range, active.as_ref())),
            LeadState::Waiting { .. } | LeadState::Installing(_) => None,
        })
    }

    pub fn all_active_mut(&mut self) -> impl Iterator<Item = (RangeIx, &mut ActiveRange)> {
        self.leads.iter_mut().filter_map(|(range, lead)| match lead {
            LeadState::Active(active) => Some((*range, active.as_mut())),
            LeadState::Waiting { .. } | LeadState::Installing(_) => None,
        })
    }

    pub fn active_mut(&mut self, range: RangeIx) -> Option<&mut ActiveRange> {
        match self.leads.get_mut(&range) {
            Some(LeadState::Active(active)) => Some(active),
            _ => None,
        }
    }

    pub fn set_lead(&mut self, range: RangeIx, lead: LeadState, out: &mut Vec<Effect>) {
        self.leads.insert(range, lead);
        let state = self.state_of(range);
        out.extend(state.map(|state| Effect::RangeChanged { range, state }));
    }

    /// How a range that this node coordinates stands; `None` when it does not.
    pub fn state_of(&self, range: RangeIx) -> Option<RangeState> {
        Some(match self.leads.get(&range)? {
            LeadState::Waiting { why } => RangeState::Unavailable { why: why.clone() },
            LeadState::Installing(_) => RangeState::Installing,
            LeadState::Active(active) => RangeState::Active {
                repairing: active.repairing(),
            },
        })
    }

    /// Is the range active, as far as this node, its coordinator or a member, knows?
    pub fn is_active(&self, range: RangeIx) -> bool {
        matches!(self.leads.get(&range), Some(LeadState::Active(_)))
            || self.follows.get(&range).is_some_and(|f| f.active)
    }

    /// When members of which active range are to be told of commits.
    pub fn telling_times(&self) -> impl Iterator<Item = (RangeIx, Time)> {
        self.active()
            .filter_map(|(range, active)| Some((range, active.tell_at()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hydfs::view::Incarnation;

    fn state() -> ViewState {
        let ring = Ring::new(["a", "b", "c", "d"], 3);
        let mut view = View::new(4);
        (0..4).for_each(|n| assert!(view.join(NodeIx(n), Incarnation(1))));
        ViewState::new(view, &ring)
    }

    #[test]
    fn each_range_is_coordinated_by_the_first_of_its_members() {
        let state = state();
        let mut all: Vec<RangeIx> = (0..4).flat_map(|n| state.coordinated_by(NodeIx(n))).collect();
        all.sort_unstable();
        assert_eq!(all, (0..4).map(RangeIx).collect::<Vec<_>>());
        for range in all {
            assert_eq!(state.members(range).len(), 3);
            assert_eq!(state.leader(range), state.members(range).first().copied());
        }
        assert_eq!(
            (state.members(RangeIx(9)), state.leader(RangeIx(9))),
            (&[][..], None)
        );
    }

    #[test]
    fn a_range_is_active_for_its_coordinator_or_for_a_member_that_has_heard_so() {
        let (mut state, range, mut out) = (state(), RangeIx(0), Vec::new());
        assert!(!state.is_active(range) && state.state_of(range).is_none());
        state.set_lead(range, LeadState::Waiting { why: "x".into() }, &mut out);
        assert!(!state.is_active(range) && state.active_mut(range).is_none());
        let members = state.members(range).to_vec();
        let active = ActiveRange::new(
            members[0],
            &members,
            members.iter().copied().collect(),
            Time::ZERO,
        );
        state.set_lead(range, LeadState::Active(Box::new(active)), &mut out);
        assert!(state.is_active(range) && state.active().count() == 1 && out.len() == 2);
        state.follows.insert(RangeIx(1), FollowState::new());
        assert!(!state.is_active(RangeIx(1)));
    }
}
