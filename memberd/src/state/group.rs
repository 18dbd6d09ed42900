//! What is believed of the group, and how news of it travels: the part that every failure detector shares.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};
use std::time::Duration;

use common::backoff::Backoff;
use common::clock::Time;
use common::ids::NodeName;
use rand::rngs::StdRng;
use rand::seq::{IteratorRandom, SliceRandom};
use rand::{Rng, RngExt};

use super::dissemination::Queue;
use super::suspicion::Suspicions;
use super::table::{Fact, MAX_INCARNATION, State, Table};
use super::{Config, Effect, Refusal};
use crate::wire::{Body, FACTS_BUDGET, Message, fact_len};

/// A table has one fact per node of the cluster file; what is longer by far is not read to its end.
pub const MAX_FACTS_IN_TABLE: usize = 4096;
/// To how many others news goes at once. Each that finds it new does the same; piggybacking covers the rest.
const FANOUT: usize = 3;
/// How many of the absent are called at each search.
const SEARCH: usize = 2;
/// How often goodbye is said to everybody.
const GOODBYES: u32 = 4;

pub struct Group {
    pub(super) config: Config,
    pub(super) table: Table,
    incarnation: u64,
    boot: u64,
    suspicions: Suspicions,
    queue: Queue,
    /// Of whom this input has told what was long over.
    outdated: BTreeSet<NodeName>,
    /// Whose facts have changed during this input.
    news: BTreeSet<NodeName>,
    rng: StdRng,
    effects: Vec<Effect>,
    /// Somebody's whole table has been seen.
    joined: bool,
    search: Backoff,
    next_search: Time,
    next_exchange: Time,
    /// No exchange for a first contact before this: meeting a hundred at once is no reason to dial a hundred.
    next_contact: Time,
    leaving: Option<Leaving>,
}

struct Leaving {
    goodbyes_left: u32,
    next: Time,
}

impl Group {
    pub(super) fn new(now: Time, config: Config, rng: StdRng) -> Self {
        let mut table = Table::default();
        let incarnation = config.incarnation.min(MAX_INCARNATION);
        table.set(
            now,
            Fact {
                name: config.me.clone(),
                incarnation,
                state: State::Alive,
            },
        );
        Self {
            search: Backoff::new(config.timing.period / 5, 4 * config.timing.period),
            next_search: now,
            next_exchange: now + config.timing.exchange,
            next_contact: now,
            config,
            table,
            incarnation,
            boot: incarnation,
            suspicions: Suspicions::default(),
            queue: Queue::default(),
            outdated: BTreeSet::new(),
            news: BTreeSet::new(),
            rng,
            effects: Vec::new(),
            joined: false,
            leaving: None,
        }
    }

    // What is believed.

    /// Takes in one fact, from whomever it came.
    pub(super) fn learn(&mut self, now: Time, fact: Fact) {
        if fact.incarnation > MAX_INCARNATION {
            return;
        }
        if fact.name == self.config.me {
            return self.hear_of_self(now, &fact);
        }
        if !self.config.others.contains(&fact.name) {
            return;
        }
        #[cfg(test)]
        let fact = self.mutate_heard(fact);
        #[cfg(test)]
        if self.is_mutant(crate::sim::Mutant::HearsayKills)
            && fact.state == State::Failed
            && self.table.get(&fact.name).is_some_and(|known| fact.beats(known))
        {
            return self.believe(now, fact);
        }
        if self.table.corrects(&fact) {
            self.outdated.insert(fact.name);
        } else if let Some(fact) = self.table.weigh(fact) {
            self.believe(now, fact);
        }
    }

    /// The sender of what was just learned has told old stories: about nodes whose news it has missed, most likely.
    pub(super) fn correct(&mut self, sender: &NodeName) {
        let mut outdated = std::mem::take(&mut self.outdated);
        // What is thought of the receiver is in every datagram.
        outdated.remove(sender);
        if !outdated.is_empty() {
            self.send_with(sender, Body::Tell, outdated);
        }
    }

    /// A probe of that incarnation of `name` went unanswered.
    pub(super) fn accuse(&mut self, now: Time, name: &NodeName, incarnation: u64) {
        let Some(known) = self.table.get(name) else { return };
        if known.state != State::Alive || known.incarnation != incarnation {
            return;
        }
        #[cfg(test)]
        if self.is_mutant(crate::sim::Mutant::NoSuspicion) {
            return self.believe(
                now,
                Fact {
                    name: name.clone(),
                    incarnation,
                    state: State::Failed,
                },
            );
        }
        self.believe(
            now,
            Fact {
                name: name.clone(),
                incarnation,
                state: State::Suspect,
            },
        );
    }

    /// Only a node itself may raise its incarnation: to contradict what is said of it, or to overtake a former process
    /// of its own whose clock was ahead.
    fn hear_of_self(&mut self, now: Time, fact: &Fact) {
        let stands = fact.incarnation < self.incarnation
            || (fact.incarnation == self.incarnation && fact.state == State::Alive);
        if stands || self.leaving.is_some() {
            return;
        }
        #[cfg(test)]
        if self.is_mutant(crate::sim::Mutant::NoRefute) {
            return;
        }
        let former_was_ahead = fact.incarnation > self.incarnation;
        self.incarnation = (fact.incarnation + 1).min(MAX_INCARNATION);
        if former_was_ahead {
            self.boot = self.incarnation;
        }
        if fact.state == State::Failed {
            self.exchange_soon(now);
        }
        let fact = Fact {
            name: fact.name.clone(),
            incarnation: self.incarnation,
            state: State::Alive,
        };
        self.believe(now, fact);
    }

    fn believe(&mut self, now: Time, fact: Fact) {
        let before = self.table.set(now, fact.clone());
        self.suspicions.end(&fact.name);
        self.queue.push(&fact.name);
        self.news.insert(fact.name.clone());
        if fact.state == State::Suspect {
            self.suspicions
                .start(&fact.name, now + self.config.timing.suspicion);
            // Whoever suspects tells the suspect, whose time to object runs here from now on.
            self.send(&fact.name, Body::Tell);
        }
        self.effects.push(Effect::Changed { fact, before });
    }

    pub(super) fn table_from(&mut self, now: Time, from: &NodeName, facts: Vec<Fact>) {
        if let Some(why) = self.refusal(from) {
            return self.refuse(from.clone(), why);
        }
        self.joined = true;
        for fact in facts.into_iter().take(MAX_FACTS_IN_TABLE) {
            self.learn(now, fact);
        }
        // It gets, or had, our whole table in exchange.
        self.outdated.clear();
    }

    pub(super) fn listed(&self, now: Time) -> Vec<Fact> {
        self.table
            .listed(now - self.config.timing.cleanup)
            .cloned()
            .collect()
    }

    pub(super) fn incarnation(&self) -> u64 {
        self.incarnation
    }

    pub(super) fn boot(&self) -> u64 {
        self.boot
    }

    // Timers.

    pub(super) fn tick(&mut self, now: Time) {
        if self.leaving.is_some() {
            return self.say_goodbye(now);
        }
        for name in self.suspicions.take_due(now) {
            if let Some(suspect) = self
                .table
                .get(&name)
                .filter(|f| f.state == State::Suspect)
                .cloned()
            {
                self.believe(
                    now,
                    Fact {
                        state: State::Failed,
                        ..suspect
                    },
                );
            }
        }
        if now >= self.next_search {
            self.next_search = now + self.search.delay();
            self.search_absent();
        }
        if now >= self.next_exchange {
            // Spread, so that nodes started together do not all exchange at once.
            self.next_exchange = now
                + self
                    .config
                    .timing
                    .exchange
                    .mul_f64(self.rng.random_range(0.75..1.25));
            if let Some(with) = self.some_trusted(1, None).pop() {
                self.exchange(&with);
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Time {
        if let Some(leaving) = &self.leaving {
            return leaving.next;
        }
        let timers = self.next_search.min(self.next_exchange);
        self.suspicions.deadline().map_or(timers, |s| s.min(timers))
    }

    pub(super) fn forgive(&mut self, now: Time, late: Duration) {
        self.suspicions
            .postpone(late, now + self.config.timing.ping_timeout);
        self.next_search = self.next_search.max(now);
        self.next_exchange = self.next_exchange.max(now);
        if let Some(leaving) = &mut self.leaving {
            leaving.next = leaving.next.max(now);
        }
        self.effects.push(Effect::Stalled { late });
    }

    /// Calls some of those that are unknown or failed: at the start to find the group, later to find a node again whose
    /// partition has healed. Until one table has been seen, over TCP too: it alone tells a node whose clock was set back
    /// about its former incarnation, since the others refuse its datagrams as replayed.
    fn search_absent(&mut self) {
        #[cfg(test)]
        if self.is_mutant(crate::sim::Mutant::NoSearch) && self.joined {
            return;
        }
        let absent =
            |group: &Self, name: &NodeName| matches!(group.table.state(name), None | Some(State::Failed));
        let names = self
            .config
            .others
            .iter()
            .filter(|n| absent(self, n))
            .cloned()
            .collect::<Vec<_>>();
        for name in names.into_iter().sample(&mut self.rng, SEARCH) {
            let seq = self.fresh_seq();
            self.send(&name, Body::Ping { seq });
        }
        if !self.joined {
            for name in self
                .config
                .others
                .clone()
                .into_iter()
                .sample(&mut self.rng, FANOUT)
            {
                self.exchange(&name);
            }
        }
    }

    // Leaving.

    pub(super) fn leave(&mut self, now: Time) {
        if self.leaving.is_some() {
            return;
        }
        let fact = Fact {
            name: self.config.me.clone(),
            incarnation: self.incarnation,
            state: State::Left,
        };
        self.believe(now, fact);
        self.leaving = Some(Leaving {
            goodbyes_left: GOODBYES,
            next: now,
        });
        self.say_goodbye(now);
    }

    /// To everybody, several times: there is no later.
    fn say_goodbye(&mut self, now: Time) {
        let Some(leaving) = &mut self.leaving else { return };
        if now < leaving.next {
            return;
        }
        if leaving.goodbyes_left == 0 {
            leaving.next = Time(u64::MAX);
            return;
        }
        leaving.goodbyes_left -= 1;
        leaving.next = now + self.config.timing.period / 4;
        #[cfg(test)]
        if self.is_mutant(crate::sim::Mutant::SilentLeave) {
            self.queue = Queue::default();
            self.news.clear();
            return;
        }
        for name in self.config.others.clone() {
            self.send(&name, Body::Tell);
        }
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    pub(super) fn is_gone(&self) -> bool {
        self.leaving
            .as_ref()
            .is_some_and(|l| l.goodbyes_left == 0 && l.next == Time(u64::MAX))
    }

    // Talking.

    /// Sends `body` with as many facts as fit: ourselves, what we think of the receiver (it may object), then news.
    pub(super) fn send(&mut self, to: &NodeName, body: Body) {
        self.send_with(to, body, BTreeSet::new());
    }

    /// The same, with facts about `these` before the news.
    fn send_with(&mut self, to: &NodeName, body: Body, these: BTreeSet<NodeName>) {
        let mut names: Vec<NodeName> = Vec::new();
        let mut room = FACTS_BUDGET;
        let mut fits = |name: &NodeName, names: &[NodeName]| {
            let fits = fact_len(name) <= room && !names.contains(name);
            if fits {
                room -= fact_len(name);
            }
            fits
        };
        for name in [self.config.me.clone(), to.clone()].into_iter().chain(these) {
            if fits(&name, &names) {
                names.push(name);
            }
        }
        let news = self
            .queue
            .take(self.config.others.len() + 1, |name| fits(name, &names));
        #[cfg(test)]
        let news = if self.is_mutant(crate::sim::Mutant::NoDissemination) {
            vec![]
        } else {
            news
        };
        names.extend(news);
        let facts = names
            .iter()
            .filter_map(|name| self.table.get(name))
            .cloned()
            .collect();
        let message = Message {
            to: to.clone(),
            body,
            facts,
        };
        self.effects.push(Effect::Send {
            to: to.clone(),
            message,
        });
    }

    /// Passes on what this input has changed, without waiting for the next probe.
    pub(super) fn tell_news(&mut self) {
        if std::mem::take(&mut self.news).is_empty() {
            return;
        }
        for name in self.some_trusted(FANOUT, None) {
            self.send(&name, Body::Tell);
        }
    }

    /// First contact, or contact again after a partition: it knows things that we do not.
    pub(super) fn met(&mut self, now: Time, name: &NodeName) {
        if now >= self.next_contact {
            self.next_contact = now + self.config.timing.ping_timeout;
            self.exchange(name);
        }
        self.exchange_soon(now);
    }

    /// Once more with somebody, when those that came back have been heard of: news that went round while they were
    /// thought failed has not reached them, nor theirs us.
    fn exchange_soon(&mut self, now: Time) {
        self.next_exchange = self
            .next_exchange
            .min(now + self.config.timing.period.mul_f64(self.rng.random_range(1.0..3.0)));
    }

    fn exchange(&mut self, with: &NodeName) {
        self.effects.push(Effect::Exchange { with: with.clone() });
    }

    pub(super) fn refusal(&self, from: &NodeName) -> Option<Refusal> {
        if from == &self.config.me {
            return Some(Refusal::OwnName);
        }
        (!self.config.others.contains(from)).then_some(Refusal::Stranger)
    }

    pub(super) fn refuse(&mut self, from: NodeName, why: Refusal) {
        self.effects.push(Effect::Refused { from, why });
    }

    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    // Choosing.

    /// Random, so that an answer to a former process's ping is not taken for one to ours.
    pub(super) fn fresh_seq(&mut self) -> u64 {
        self.rng.next_u64()
    }

    /// The next trusted member after this one in the order of names, around the end.
    pub(super) fn successor(&self) -> Option<NodeName> {
        let me = &self.config.me;
        let after = self.config.others.range((Excluded(me), Unbounded));
        let around = self.config.others.range((Unbounded, Excluded(me)));
        after
            .chain(around)
            .find(|n| self.table.state(n) == Some(State::Alive))
            .cloned()
    }

    /// Up to `n` of those alive, by chance.
    pub(super) fn some_trusted(&mut self, n: usize, but: Option<&NodeName>) -> Vec<NodeName> {
        let trusted = |f: &&Fact| f.state == State::Alive && f.name != self.config.me && Some(&f.name) != but;
        self.table
            .facts()
            .filter(trusted)
            .map(|f| f.name.clone())
            .sample(&mut self.rng, n)
    }

    pub(super) fn shuffled_present(&mut self) -> Vec<NodeName> {
        let mut all: Vec<_> = self
            .config
            .others
            .iter()
            .filter(|n| self.table.is_present(n))
            .cloned()
            .collect();
        all.shuffle(&mut self.rng);
        all
    }

    // Broken on purpose, in tests only.

    #[cfg(test)]
    pub(super) fn is_mutant(&self, mutant: crate::sim::Mutant) -> bool {
        self.config.mutant == Some(mutant)
    }

    /// A node that overrules accusations of others by raising their incarnation.
    #[cfg(test)]
    fn mutate_heard(&self, mut fact: Fact) -> Fact {
        if self.is_mutant(crate::sim::Mutant::RaiseOthers) && fact.state == State::Suspect {
            fact.incarnation += 1;
            fact.state = State::Alive;
        }
        fact
    }
}
