//! What is believed of the group, and how news of it travels: the part that every failure detector shares.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::backoff::Backoff;
use common::clock::Time;
use common::ids::NodeName;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;

use super::damping::Damping;
use super::dissemination::Queue;
use super::health::Health;
use super::settings::{Configuration, Settings};
use super::suspicion::Suspicions;
use super::table::{Fact, MAX_INCARNATION, State, Table};
use super::{Config, Counts, Effect, Mutant};
use crate::wire::Body;

mod agreement;
mod leaving;
mod talk;

use leaving::Leaving;

/// A table has one fact per node of the cluster file; what is longer by far is not read to its end.
pub const MAX_FACTS_IN_TABLE: usize = 4096;
/// To how many others news goes at once. Each that finds it new does the same; piggybacking covers the rest.
const FANOUT: usize = 3;
/// How many of the absent are called at each search.
const SEARCH: usize = 2;
/// How often whole tables are exchanged with somebody.
const EXCHANGE: Duration = Duration::from_secs(30);

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
    agreed: Configuration,
    /// In how many more datagrams the configuration goes along unasked.
    spread_left: u32,
    /// It has changed during this input.
    configuration_is_news: bool,
    /// The sender of this input's datagram, and its facts: no need to tell it the same.
    heard: Option<(NodeName, Vec<Fact>)>,
    /// What each other one said last of itself and of us, in its datagrams.
    said: BTreeMap<NodeName, LastWords>,
    damping: Damping,
    pub(super) health: Health,
    pub(super) counts: Counts,
}

#[derive(Debug, Default)]
struct LastWords {
    of_itself: Option<Fact>,
    of_us: Option<Fact>,
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
        let agreed = Configuration {
            version: 0,
            by: config.me.clone(),
            settings: config.settings.clone(),
        };
        Self {
            search: Backoff::new(config.settings.period() / 10, 2 * config.settings.period()),
            next_search: now,
            next_exchange: now + EXCHANGE,
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
            agreed,
            spread_left: 0,
            configuration_is_news: false,
            heard: None,
            said: BTreeMap::new(),
            damping: Damping::default(),
            health: Health::default(),
            counts: Counts::default(),
        }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.agreed.settings
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
        let fact = match fact.state {
            State::Suspect if Mutant::RaiseOthers.is_on() => Fact {
                incarnation: fact.incarnation + 1,
                state: State::Alive,
                ..fact
            },
            _ => fact,
        };
        // Without suspicion, others' word is as good as one's own accusation.
        let believes = !self.settings().suspicion || Mutant::HearsayKills.is_on();
        let word = fact.state == State::Failed && believes;
        if word && self.table.get(&fact.name).is_some_and(|known| fact.beats(known)) {
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
        let suspicion = self.settings().suspicion && !Mutant::NoSuspicion.is_on();
        let state = if suspicion { State::Suspect } else { State::Failed };
        self.counts.accusations += 1;
        let name = name.clone();
        self.believe(
            now,
            Fact {
                name,
                incarnation,
                state,
            },
        );
    }

    /// `name` has shown a sign of life since it became suspect: it will refute as soon as it hears of the suspicion.
    pub(super) fn vouch(&mut self, now: Time, name: &NodeName) {
        let until = now + self.settings().suspicion_time();
        self.suspicions.extend(name, until);
    }

    /// Only a node itself may raise its incarnation: to contradict what is said of it, or to overtake a former process
    /// of its own whose clock was ahead.
    fn hear_of_self(&mut self, now: Time, fact: &Fact) {
        let stands = fact.incarnation < self.incarnation
            || (fact.incarnation == self.incarnation && fact.state == State::Alive);
        if stands || self.leaving.is_some() || Mutant::NoRefute.is_on() {
            return;
        }
        let former_was_ahead = fact.incarnation > self.incarnation;
        self.incarnation = (fact.incarnation + 1).min(MAX_INCARNATION);
        if former_was_ahead {
            self.boot = self.incarnation;
        } else {
            // Others wait in vain for our answers: it may be our own fault.
            self.counts.refutations += 1;
            self.health.worse(1);
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
        if fact.state >= State::Suspect && fact.name != self.config.me {
            if fact.state == State::Suspect {
                let until = now + self.settings().suspicion_time();
                self.suspicions.start(&fact.name, until);
            }
            // Whoever accuses tells the accused, whose time to object runs here from now on.
            if fact.state == State::Suspect || (fact.state == State::Failed && !self.settings().suspicion) {
                self.send(&fact.name, Body::Tell);
            }
        }
        self.counts.failures += (fact.state == State::Failed) as u64;
        self.publish(now, fact, before);
    }

    /// To the subscribers, unless it is a member that comes and goes all the time.
    fn publish(&mut self, now: Time, fact: Fact, before: Option<Fact>) {
        let damped = fact.name != self.config.me && !Mutant::Undamped.is_on();
        let published = match damped {
            true => self.damping.publish(now, fact, before),
            false => Some((fact, before)),
        };
        if let Some((fact, before)) = published {
            self.effects.push(Effect::Changed { fact, before });
        }
    }

    pub(super) fn damped(&self) -> usize {
        self.damping.count()
    }

    pub(super) fn table_from(
        &mut self,
        now: Time,
        from: &NodeName,
        facts: Vec<Fact>,
        configuration: Option<Configuration>,
    ) {
        if let Some(why) = self.refusal(from) {
            return self.refuse(from.clone(), why);
        }
        self.joined = true;
        if let Some(configuration) = configuration {
            self.hear_configuration(from, configuration);
        }
        for fact in facts.into_iter().take(MAX_FACTS_IN_TABLE) {
            self.learn(now, fact);
        }
        // It gets, or had, our whole table in exchange.
        self.outdated.clear();
    }

    pub(super) fn listed(&self, now: Time) -> Vec<Fact> {
        self.table
            .listed(now - self.settings().cleanup())
            .map(|f| self.damping.held(&f.name).unwrap_or(f).clone())
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
        for (name, held) in self.damping.take_released(now) {
            if let Some(fact) = self.table.get(&name).filter(|f| **f != held).cloned() {
                let before = Some(held);
                self.effects.push(Effect::Changed { fact, before });
            }
        }
        if now >= self.next_search {
            self.next_search = now + self.search.delay();
            self.search_absent();
        }
        if now >= self.next_exchange {
            // Spread, so that nodes started together do not all exchange at once.
            self.next_exchange = now + EXCHANGE.mul_f64(self.rng.random_range(0.75..1.25));
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
        let others = [self.suspicions.deadline(), self.damping.deadline()];
        others.into_iter().flatten().fold(timers, Time::min)
    }

    pub(super) fn forgive(&mut self, now: Time, late: Duration) {
        self.health.worse(1);
        self.counts.stalls += 1;
        let soon = now + self.settings().ping_timeout();
        self.suspicions.postpone(late, soon);
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
        if Mutant::NoSearch.is_on() && self.joined {
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
}
