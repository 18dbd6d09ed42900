//! Heartbeats by gossip (van Renesse, Minsky, Hayden: A Gossip-Style Failure Detection Service, Middleware 1998).
//!
//! ```text
//!   once per period, each node:    own number + 1, then to `fanout` others:  Beats { n1: 17, n2: 9, n3: 40, ... }
//!   hearing a higher number:       that node lived; note the time, and pass the number on
//!   no higher number for fail_ms:  accuse
//! ```
//!
//! A datagram is bounded, so in a large group it holds a choice: the numbers that have been passed on least since they
//! were heard. Each number then arrives less often, and the time until somebody is accused grows with the number of
//! datagrams that a whole list would take.
//!
//! Numbers start at the process's boot, the wall clock in milliseconds, and grow by less than one per millisecond: so they
//! grow over restarts too. A node that hears a higher number of its own than it ever sent (its clock was set back) goes
//! on above it.

use std::collections::BTreeMap;
use std::time::Duration;

use common::clock::Time;
use common::ids::NodeName;

use crate::state::group::Group;
use crate::state::table::{MAX_INCARNATION, State};
use crate::wire::{BEATS_BUDGET, Body, beat_len};

pub(in crate::state) struct Gossip {
    next_period: Time,
    own: u64,
    heard: BTreeMap<NodeName, HeardBeat>,
    /// How many datagrams a whole list would fill, at least 1.
    datagrams: f64,
}

struct HeardBeat {
    beat: u64,
    /// When it last grew.
    at: Time,
    /// In how many periods it has been passed on since.
    passed_on: u32,
    /// Which incarnation will be accused: a new one has all its time before it.
    incarnation: u64,
}

impl Gossip {
    pub(super) fn new(now: Time) -> Self {
        Self {
            next_period: now,
            own: 0,
            heard: BTreeMap::new(),
            datagrams: 1.0,
        }
    }

    /// Comes into force: nobody has been silent so far.
    pub(super) fn begin(&mut self, now: Time) {
        self.next_period = now;
        for heard in self.heard.values_mut() {
            heard.at = now;
        }
    }

    pub(super) fn next_deadline(&self) -> Time {
        self.next_period
    }

    pub(super) fn tick(&mut self, now: Time, group: &mut Group) {
        if now < self.next_period {
            return;
        }
        self.next_period = now + group.settings().gossip_period();
        self.accuse_silent(now, group);
        group.health.better();
        self.own = (self.own + 1).max(group.boot());
        let fanout = group.settings().fanout as usize;
        let targets = group.some_present(fanout);
        if targets.is_empty() {
            return;
        }
        let body = self.compose(group);
        for to in targets {
            group.send(&to, body.clone());
        }
    }

    pub(super) fn hear(&mut self, now: Time, base: u64, beats: Vec<(NodeName, u64)>, group: &mut Group) {
        for (name, above) in beats {
            let beat = base.saturating_add(above);
            if beat > MAX_INCARNATION {
                continue;
            }
            if name == group.config.me {
                self.own = self.own.max(beat);
                continue;
            }
            if !group.config.others.contains(&name) {
                continue;
            }
            let heard = self.heard.entry(name.clone()).or_insert(HeardBeat {
                beat: 0,
                at: now,
                passed_on: 0,
                incarnation: 0,
            });
            if beat > heard.beat {
                (heard.beat, heard.at, heard.passed_on) = (beat, now, 0);
                group.vouch(now, &name);
            }
        }
    }

    /// This node stood still for `late`: what it should have heard meanwhile may lie unread.
    pub(super) fn forgive(&mut self, now: Time, late: Duration) {
        self.next_period = self.next_period.max(now);
        for heard in self.heard.values_mut() {
            heard.at = (heard.at + late).min(now);
        }
    }

    fn accuse_silent(&mut self, now: Time, group: &mut Group) {
        let patience = group
            .health
            .stretch(group.settings().fail())
            .mul_f64(self.datagrams);
        let alive: Vec<(NodeName, u64)> = group
            .table
            .facts()
            .filter(|f| f.state == State::Alive && f.name != group.config.me)
            .map(|f| (f.name.clone(), f.incarnation))
            .collect();
        for (name, incarnation) in alive {
            let heard = self.heard.entry(name.clone()).or_insert(HeardBeat {
                beat: 0,
                at: now,
                passed_on: 0,
                incarnation,
            });
            if heard.incarnation != incarnation {
                (heard.incarnation, heard.at) = (incarnation, now);
            }
            if now.since(heard.at) >= patience {
                group.accuse(now, &name, incarnation);
            }
        }
    }

    /// Own number first, then the least passed on, as far as they fit.
    fn compose(&mut self, group: &Group) -> Body {
        let me = &group.config.me;
        let known = |name: &NodeName| group.table.is_present(name);
        let mut order: Vec<(u32, &NodeName, u64)> = self
            .heard
            .iter()
            .filter(|(name, heard)| heard.beat > 0 && known(name))
            .map(|(name, heard)| (heard.passed_on, name, heard.beat))
            .collect();
        let base = order.iter().map(|o| o.2).fold(self.own, u64::min);
        let needed: usize = order.iter().map(|(_, n, beat)| beat_len(n, beat - base)).sum();
        self.datagrams = (needed as f64 / BEATS_BUDGET as f64).max(1.0);
        if self.datagrams > 1.0 {
            order.sort();
        }
        let mut room = BEATS_BUDGET.saturating_sub(beat_len(me, self.own - base));
        let mut beats = vec![(me.clone(), self.own - base)];
        for (_, name, beat) in order {
            let len = beat_len(name, beat - base);
            if len > room {
                break;
            }
            room -= len;
            beats.push((name.clone(), beat - base));
        }
        for (name, _) in &beats[1..] {
            if let Some(heard) = self.heard.get_mut(name) {
                heard.passed_on += 1;
            }
        }
        Body::Beats { base, beats }
    }
}
