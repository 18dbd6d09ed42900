//! What a node believes of the others: one fact per name, and the rule by which facts win over each other.

use std::collections::BTreeMap;
use std::fmt;

use common::clock::Time;
use common::ids::NodeName;
use serde::{Deserialize, Serialize};

/// No owner reaches it (milliseconds since 1970 last until the year 287396); JSON readers keep it exact. A fact above
/// it is damage, and believing it would leave its owner no room to refute.
pub const MAX_INCARNATION: u64 = (1 << 53) - 1;

/// What is believed of one incarnation of a node. The order is the merge rule's: later wins over earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Alive,
    /// A probe went unanswered; it may still refute.
    Suspect,
    /// It did not refute in time.
    Failed,
    /// It said goodbye itself.
    Left,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            State::Alive => "alive",
            State::Suspect => "suspect",
            State::Failed => "failed",
            State::Left => "left",
        })
    }
}

/// One statement about one node, as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    pub name: NodeName,
    /// Raised by nobody but its owner.
    pub incarnation: u64,
    pub state: State,
}

impl Fact {
    /// A higher incarnation wins; within one incarnation the later state. Total, so the order of arrival is no matter.
    pub fn beats(&self, other: &Fact) -> bool {
        (self.incarnation, self.state) > (other.incarnation, other.state)
    }
}

#[derive(Debug, Clone)]
struct Entry {
    fact: Fact,
    since: Time,
}

/// All facts by name. Nothing is ever forgotten: there are no more names than the cluster file has, and the highest
/// incarnation of a node that is long gone is what keeps its older facts from coming back.
#[derive(Debug, Clone, Default)]
pub struct Table {
    entries: BTreeMap<NodeName, Entry>,
}

impl Table {
    pub fn get(&self, name: &NodeName) -> Option<&Fact> {
        self.entries.get(name).map(|e| &e.fact)
    }

    pub fn state(&self, name: &NodeName) -> Option<State> {
        self.get(name).map(|f| f.state)
    }

    /// Alive or suspect: worth talking to.
    pub fn is_present(&self, name: &NodeName) -> bool {
        matches!(self.state(name), Some(State::Alive | State::Suspect))
    }

    /// What hearing `fact` means here, or `None` if it is nothing new.
    ///
    /// `failed` by hearsay about a node that is present here is a suspicion here, with its whole time to object: after
    /// a partition heals, each side calls the other's nodes failed, and both are wrong. So nobody is called failed
    /// before having been suspect at that very observer; only who knows nothing of a node takes others' word for it.
    pub fn weigh(&self, mut fact: Fact) -> Option<Fact> {
        if let Some(known) = self.get(&fact.name) {
            if fact.state == State::Failed && known.state < State::Failed {
                fact.state = State::Suspect;
            }
            if !fact.beats(known) {
                return None;
            }
        }
        Some(fact)
    }

    /// Whether somebody who still says `fact` should be told what is known here. (Not when one has it as suspect and the
    /// other as failed: each waits for its own time to be over.)
    pub fn corrects(&self, fact: &Fact) -> bool {
        self.get(&fact.name).is_some_and(|known| {
            known.incarnation > fact.incarnation
                || (known.incarnation == fact.incarnation
                    && known.state == State::Left
                    && fact.state < State::Left)
        })
    }

    /// Puts a weighed fact in its place and returns what was there.
    pub fn set(&mut self, now: Time, fact: Fact) -> Option<Fact> {
        self.entries
            .insert(fact.name.clone(), Entry { fact, since: now })
            .map(|e| e.fact)
    }

    pub fn facts(&self) -> impl Iterator<Item = &Fact> {
        self.entries.values().map(|e| &e.fact)
    }

    /// Without those that have been gone since before `cleanup`.
    pub fn listed(&self, cleanup: Time) -> impl Iterator<Item = &Fact> {
        self.entries
            .values()
            .filter(move |e| e.fact.state < State::Failed || e.since >= cleanup)
            .map(|e| &e.fact)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fact(incarnation: u64, state: State) -> Fact {
        Fact {
            name: NodeName::new("n1").unwrap(),
            incarnation,
            state,
        }
    }

    fn facts() -> impl Strategy<Value = Vec<Fact>> {
        let state = prop::sample::select(vec![State::Alive, State::Suspect, State::Failed, State::Left]);
        prop::collection::vec((0u64..4, state).prop_map(|(i, s)| fact(i, s)), 1..12)
    }

    fn hear(table: &mut Table, fact: &Fact) {
        if let Some(fact) = table.weigh(fact.clone()) {
            table.set(Time::ZERO, fact);
        }
    }

    proptest! {
        #[test]
        fn a_view_only_grows_and_settles_whatever_the_order(facts in facts(), rotate in 0usize..12) {
            let mut table = Table::default();
            for f in &facts {
                let before = table.get(&f.name).cloned();
                hear(&mut table, f);
                let after = table.get(&f.name).unwrap();
                prop_assert!(before.is_none_or(|b| &b == after || after.beats(&b)));
            }
            let mut turned = facts.clone();
            turned.rotate_left(rotate % facts.len());
            let mut other = Table::default();
            for f in &turned {
                hear(&mut other, f);
            }
            // Nobody objects, and the suspicion's time is over.
            let end = |t: &Table| {
                let f = t.get(&facts[0].name).unwrap();
                (f.incarnation, if f.state == State::Suspect { State::Failed } else { f.state })
            };
            prop_assert_eq!(end(&table), end(&other));
        }
    }

    #[test]
    fn failed_by_hearsay_is_a_suspicion_for_one_present_here() {
        let mut table = Table::default();
        table.set(Time::ZERO, fact(5, State::Alive));
        assert_eq!(table.weigh(fact(5, State::Failed)), Some(fact(5, State::Suspect)));
        assert_eq!(table.weigh(fact(4, State::Failed)), None, "an older incarnation");
        table.set(Time::ZERO, fact(5, State::Suspect));
        assert_eq!(table.weigh(fact(5, State::Failed)), None, "its time runs already");
        assert_eq!(table.weigh(fact(6, State::Failed)), Some(fact(6, State::Suspect)));
        table.set(Time::ZERO, fact(5, State::Left));
        assert_eq!(table.weigh(fact(5, State::Failed)), None, "left is not failed");
        assert_eq!(
            table.weigh(fact(6, State::Alive)),
            Some(fact(6, State::Alive)),
            "it came back"
        );
        assert_eq!(
            Table::default().weigh(fact(5, State::Failed)),
            Some(fact(5, State::Failed)),
            "news to a newcomer"
        );
    }

    #[test]
    fn the_gone_are_listed_for_a_while() {
        let mut table = Table::default();
        table.set(Time(100), fact(5, State::Failed));
        assert_eq!(table.listed(Time(100)).count(), 1);
        assert_eq!(table.listed(Time(101)).count(), 0);
        assert_eq!(table.facts().count(), 1, "and remembered for ever");
    }
}
