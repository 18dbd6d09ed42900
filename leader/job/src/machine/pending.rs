//! Changes of the plan that are being stored. Until that is done nobody hears of them.

use std::collections::BTreeMap;

use super::effects::Effect;
use crate::plan::Change;
use crate::record::Ticket;

/// In the order in which they are stored. The driver settles each, or stops the job: so many are under way as were asked for
/// while storage was away, for 120 s at most.
#[derive(Default)]
pub(super) struct PendingChanges {
    changes: BTreeMap<Ticket, Change>,
    last: Ticket,
}

impl PendingChanges {
    pub fn store(&mut self, change: Change, out: &mut Vec<Effect>) -> Ticket {
        self.last = Ticket(self.last.0 + 1);
        let ticket = self.last;
        self.changes.insert(ticket, change.clone());
        out.push(Effect::Store { ticket, change });
        ticket
    }

    /// It is durable: what was asked for under that ticket.
    pub fn settle(&mut self, ticket: Ticket) -> Option<Change> {
        self.changes.remove(&ticket)
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_has_a_ticket_of_its_own_and_is_settled_once() {
        let (mut pending, mut out) = (PendingChanges::default(), vec![]);
        let (one, two) = (
            pending.store(Change::Drain, &mut out),
            pending.store(Change::Rate(7), &mut out),
        );
        assert!(one < two && out.len() == 2);
        assert_eq!(pending.settle(two), Some(Change::Rate(7)));
        assert!(pending.settle(two).is_none() && !pending.is_empty());
        assert_eq!(pending.settle(one), Some(Change::Drain));
        assert!(pending.is_empty());
    }
}
