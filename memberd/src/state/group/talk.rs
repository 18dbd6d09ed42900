//! Sending, and choosing to whom.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};

use common::clock::Time;
use common::ids::NodeName;
use rand::seq::{IteratorRandom, SliceRandom};
use rand::{Rng, RngExt};

use super::{FANOUT, Group};
use crate::state::table::{Fact, State};
use crate::state::{Effect, Mutant, Refusal};
use crate::wire::{Body, CONFIGURATION_LEN, FACTS_BUDGET, Message, fact_len};

impl Group {
    /// Sends `body` with as many facts as fit: ourselves, what we think of the receiver (it may object), then news.
    pub(in crate::state) fn send(&mut self, to: &NodeName, body: Body) {
        self.send_with(to, body, BTreeSet::new());
    }

    /// The same, with facts about `these` before the news.
    pub(super) fn send_with(&mut self, to: &NodeName, body: Body, these: BTreeSet<NodeName>) {
        self.compose(to, body, these, false);
    }

    /// Whatever is known or asked, the datagram stays within its bound: what does not fit now goes with the next.
    pub(super) fn compose(
        &mut self,
        to: &NodeName,
        body: Body,
        these: BTreeSet<NodeName>,
        with_configuration: bool,
    ) {
        let mut room = FACTS_BUDGET.saturating_sub(body.extra_len());
        let mut configuration = None;
        if with_configuration || self.spread_left > 0 {
            self.spread_left = self.spread_left.saturating_sub(1);
            configuration = Some(self.agreed.clone());
            room = room.saturating_sub(CONFIGURATION_LEN);
        }
        let mut names: Vec<NodeName> = Vec::new();
        let mut fits = |name: &NodeName, names: &[NodeName]| {
            let fits = fact_len(name) <= room && !names.contains(name);
            if fits {
                room -= fact_len(name);
            }
            fits
        };
        // What the receiver has just told us, it knows.
        let told: &[Fact] = match &self.heard {
            Some((from, facts)) if from == to => facts,
            _ => &[],
        };
        let known = |name: &NodeName| self.table.get(name).is_some_and(|f| told.contains(f));
        // A receiver that has just spoken of itself or us does not know that we agree.
        let asks = told.iter().any(|f| f.name == *to || f.name == self.config.me);
        let agreed = !asks && self.agrees_with(to);
        for name in [self.config.me.clone(), to.clone()].into_iter().chain(these) {
            let skip = match name == *to || name == self.config.me {
                true => agreed,
                false => known(&name),
            };
            if !skip && fits(&name, &names) {
                names.push(name);
            }
        }
        let news = self.queue.take(self.config.others.len() + 1, |name| {
            !known(name) && fits(name, &names)
        });
        if !Mutant::NoDissemination.is_on() {
            names.extend(news);
        }
        let facts = names
            .iter()
            .filter_map(|name| self.table.get(name))
            .cloned()
            .collect();
        let message = Message {
            to: to.clone(),
            body,
            facts,
            stamp: self.stamp(),
            configuration,
        };
        self.effects.push(Effect::Send {
            to: to.clone(),
            message,
        });
    }

    /// Has this receiver said, whenever it was, what we believe of it and of ourselves? Then there is nothing to say about either: should it
    /// have changed its mind since, its own datagrams say so, by the same rule.
    fn agrees_with(&self, to: &NodeName) -> bool {
        let ours = |name: &NodeName| self.table.get(name);
        let Some(said) = self.said.get(to) else {
            return false;
        };
        said.of_itself.as_ref() == ours(to) && said.of_us.as_ref() == ours(&self.config.me)
    }

    /// Passes on what this input has changed, without waiting for the next probe.
    pub(in crate::state) fn tell_news(&mut self) {
        let fresh = std::mem::take(&mut self.configuration_is_news);
        if std::mem::take(&mut self.news).is_empty() && !fresh {
            return;
        }
        for name in self.some_trusted(FANOUT, None) {
            self.send(&name, Body::Tell);
        }
    }

    /// For the length of one input: what its sender believes.
    pub(in crate::state) fn heard_from(&mut self, from: &NodeName, facts: &[Fact]) {
        self.heard = Some((from.clone(), facts.to_vec()));
        let said = self.said.entry(from.clone()).or_default();
        for fact in facts {
            if fact.name == *from {
                said.of_itself = Some(fact.clone());
            } else if fact.name == self.config.me {
                said.of_us = Some(fact.clone());
            }
        }
    }

    pub(in crate::state) fn heard_out(&mut self) {
        self.heard = None;
    }

    /// Whether this datagram is thrown away, for a test.
    pub(in crate::state) fn drops(&mut self) -> bool {
        let rate = self.settings().drop_permille;
        let drops = rate > 0 && self.rng.random_range(0..1000) < rate;
        self.counts.dropped += drops as u64;
        drops
    }

    #[cfg(test)]
    pub(in crate::state) fn settle(&mut self, now: Time) {
        self.queue = super::Queue::default();
        self.news.clear();
        self.effects.clear();
        self.joined = true;
        self.next_exchange = now + super::EXCHANGE.mul_f64(self.rng.random_range(0.1..1.0));
    }

    /// First contact, or contact again after a partition: it knows things that we do not.
    pub(in crate::state) fn met(&mut self, now: Time, name: &NodeName) {
        if now >= self.next_contact {
            self.next_contact = now + self.settings().ping_timeout();
            self.exchange(name);
        }
        self.exchange_soon(now);
    }

    /// Once more with somebody, when those that came back have been heard of: news that went round while they were
    /// thought failed has not reached them, nor theirs us.
    pub(super) fn exchange_soon(&mut self, now: Time) {
        self.next_exchange = self
            .next_exchange
            .min(now + self.settings().period().mul_f64(self.rng.random_range(1.0..3.0)));
    }

    pub(super) fn exchange(&mut self, with: &NodeName) {
        if !Mutant::NoExchange.is_on() {
            self.effects.push(Effect::Exchange { with: with.clone() });
        }
    }

    pub(in crate::state) fn refusal(&self, from: &NodeName) -> Option<Refusal> {
        if from == &self.config.me {
            return Some(Refusal::OwnName);
        }
        (!self.config.others.contains(from)).then_some(Refusal::Stranger)
    }

    pub(in crate::state) fn refuse(&mut self, from: NodeName, why: Refusal) {
        self.effects.push(Effect::Refused { from, why });
    }

    pub(in crate::state) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    // Choosing.

    /// Random, so that an answer to a former process's ping is not taken for one to ours.
    pub(in crate::state) fn fresh_seq(&mut self) -> u64 {
        u64::from(self.rng.next_u32())
    }

    /// The next trusted member after this one in the order of names, around the end.
    pub(in crate::state) fn successor(&self) -> Option<NodeName> {
        let me = &self.config.me;
        let after = self.config.others.range((Excluded(me), Unbounded));
        let around = self.config.others.range((Unbounded, Excluded(me)));
        after
            .chain(around)
            .find(|n| self.table.state(n) == Some(State::Alive))
            .cloned()
    }

    /// Up to `n` of those alive, by chance.
    pub(in crate::state) fn some_trusted(&mut self, n: usize, but: Option<&NodeName>) -> Vec<NodeName> {
        let trusted = |f: &&Fact| f.state == State::Alive && f.name != self.config.me && Some(&f.name) != but;
        let chosen = self.table.facts().filter(trusted).sample(&mut self.rng, n);
        chosen.into_iter().map(|f| f.name.clone()).collect()
    }

    /// Up to `n` of those alive or suspect, by chance: a suspect must hear that it is one.
    pub(in crate::state) fn some_present(&mut self, n: usize) -> Vec<NodeName> {
        let present = |f: &&Fact| f.state < State::Failed && f.name != self.config.me;
        let chosen = self.table.facts().filter(present).sample(&mut self.rng, n);
        chosen.into_iter().map(|f| f.name.clone()).collect()
    }

    pub(in crate::state) fn shuffled_present(&mut self) -> Vec<NodeName> {
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
}
