//! SWIM's failure detector (Das, Gupta, Motivala: SWIM, DSN 2002, sections 3.1 and 4.3).
//!
//! ```text
//!   prober          target         k relays
//!     | --- Ping ----> |               |
//!     |   (silence for ping_timeout)   |
//!     | --- PingReq -----------------> |
//!     |                | <--- Ping --- |
//!     |                | ---- Ack ---> |
//!     | <-------------------- Ack ---- |      or a Nack: no answer, but I am there
//!     |                                       after three times ping_timeout in all: accuse the target
//! ```
//!
//! Targets come from a shuffled round over all members, as in the paper. Every other period goes to the next trusted
//! name in order instead: so each member has one fixed prober, and the time to a first suspicion has a bound that does
//! not grow with the group.
//!
//! Of the helpers that were asked, at least a `Nack` must come back; if not, the prober itself may be the one that is cut
//! off or slow, and it becomes more patient (Lifeguard's local health, `state/health.rs`).

use std::collections::BTreeMap;

use common::clock::Time;
use common::ids::NodeName;

use crate::state::Mutant;
use crate::state::group::Group;
use crate::wire::Body;

/// More relayed pings under way than this are not for a healthy group; further requests are dropped.
const MAX_RELAYS: usize = 1024;

pub(in crate::state) struct PingAck {
    next_period: Time,
    to_successor: bool,
    /// What is left of the current round.
    round: Vec<NodeName>,
    probes: BTreeMap<u64, Probe>,
    relays: BTreeMap<u64, Relay>,
}

/// A ping that waits for its answer.
struct Probe {
    target: NodeName,
    /// Which incarnation will be accused: one that refuted meanwhile is not.
    incarnation: u64,
    /// When others are asked; `None`: they have been.
    ask_at: Option<Time>,
    verdict_at: Time,
    /// How many helpers were asked, and have said nothing yet.
    waiting_for: u32,
}

/// A ping on another's behalf.
struct Relay {
    origin: NodeName,
    seq: u64,
    target: NodeName,
    /// When the origin is told that there is no answer; `None`: it has been.
    nack_at: Option<Time>,
    until: Time,
}

impl PingAck {
    pub(super) fn new(now: Time) -> Self {
        Self {
            next_period: now,
            to_successor: false,
            round: Vec::new(),
            probes: BTreeMap::new(),
            relays: BTreeMap::new(),
        }
    }

    pub(super) fn next_deadline(&self) -> Time {
        self.probes
            .values()
            .map(|p| p.ask_at.unwrap_or(p.verdict_at))
            .fold(self.next_period, Time::min)
    }

    pub(super) fn relays_deadline(&self) -> Time {
        let due = self.relays.values().map(|r| r.nack_at.unwrap_or(r.until));
        due.fold(Time(u64::MAX), Time::min)
    }

    pub(super) fn tick_relays(&mut self, now: Time, group: &mut Group) {
        let late = |r: &mut Relay| {
            let due = r.nack_at.is_some_and(|at| at <= now);
            due.then(|| {
                r.nack_at = None;
                (r.origin.clone(), r.seq)
            })
        };
        let nacks: Vec<_> = self.relays.values_mut().filter_map(late).collect();
        for (origin, seq) in nacks {
            group.send(&origin, Body::Nack { seq });
        }
        self.relays.retain(|_, relay| relay.until > now);
    }

    pub(super) fn tick(&mut self, now: Time, group: &mut Group) {
        self.judge(now, group);
        self.ask_others(now, group);
        if now >= self.next_period {
            self.next_period = now + group.settings().period();
            self.probe(now, group);
        }
    }

    pub(super) fn on(&mut self, now: Time, from: &NodeName, body: Body, group: &mut Group) {
        match body {
            Body::Ping { seq } => {
                let about = group.config.me.clone();
                group.send(from, Body::Ack { seq, about });
            }
            Body::PingReq { seq, target } => self.relay(now, from, seq, target, group),
            Body::Ack { seq, about } => {
                if self.probes.get(&seq).is_some_and(|p| p.target == about) {
                    self.probes.remove(&seq);
                    group.health.better();
                }
                // The target's own answer to a relayed ping, and nobody else's.
                if from == &about
                    && self.relays.get(&seq).is_some_and(|r| r.target == about)
                    && let Some(relay) = self.relays.remove(&seq)
                {
                    group.send(
                        &relay.origin,
                        Body::Ack {
                            seq: relay.seq,
                            about,
                        },
                    );
                }
            }
            Body::Nack { seq } => {
                if let Some(probe) = self.probes.get_mut(&seq) {
                    probe.waiting_for = probe.waiting_for.saturating_sub(1);
                }
            }
            Body::Tell | Body::Beats { .. } => {}
        }
    }

    /// After a stall: nothing that is open can be held against anybody.
    pub(super) fn forgive(&mut self, now: Time) {
        self.probes.clear();
        self.relays.clear();
        self.next_period = self.next_period.max(now);
    }

    fn probe(&mut self, now: Time, group: &mut Group) {
        self.to_successor = !self.to_successor;
        let successor = if self.to_successor {
            group.successor()
        } else {
            None
        };
        let Some(target) = successor.or_else(|| self.next_in_round(group)) else {
            return;
        };
        let Some(incarnation) = group.table.get(&target).map(|f| f.incarnation) else {
            return;
        };
        let stretch = |time| group.health.stretch(time);
        let ping_timeout = group.settings().ping_timeout();
        let probe = Probe {
            target: target.clone(),
            incarnation,
            ask_at: Some(now + stretch(ping_timeout)),
            // Twice as long for the others as for the direct ping: it is twice as far.
            verdict_at: now + stretch(3 * ping_timeout),
            waiting_for: 0,
        };
        let seq = group.fresh_seq();
        self.probes.insert(seq, probe);
        group.send(&target, Body::Ping { seq });
    }

    fn next_in_round(&mut self, group: &mut Group) -> Option<NodeName> {
        for _ in 0..2 {
            while let Some(name) = self.round.pop() {
                if group.table.is_present(&name) {
                    return Some(name);
                }
            }
            self.round = group.shuffled_present();
        }
        None
    }

    fn ask_others(&mut self, now: Time, group: &mut Group) {
        let late: Vec<(u64, NodeName)> = self
            .probes
            .iter_mut()
            .filter(|(_, p)| p.ask_at.is_some_and(|at| at <= now))
            .map(|(seq, p)| {
                p.ask_at = None;
                (*seq, p.target.clone())
            })
            .collect();
        if Mutant::NoIndirect.is_on() {
            return;
        }
        for (seq, target) in late {
            let indirect = group.settings().indirect as usize;
            let relays = group.some_trusted(indirect, Some(&target));
            if let Some(probe) = self.probes.get_mut(&seq) {
                probe.waiting_for = relays.len() as u32;
            }
            for relay in relays {
                group.send(
                    &relay,
                    Body::PingReq {
                        seq,
                        target: target.clone(),
                    },
                );
            }
        }
    }

    fn judge(&mut self, now: Time, group: &mut Group) {
        let silent: Vec<u64> = self
            .probes
            .iter()
            .filter(|(_, p)| p.verdict_at <= now)
            .map(|(seq, _)| *seq)
            .collect();
        for seq in silent {
            if let Some(probe) = self.probes.remove(&seq) {
                if !Mutant::NoLocalHealth.is_on() {
                    group.health.worse(probe.waiting_for);
                }
                group.accuse(now, &probe.target, probe.incarnation);
            }
        }
    }

    fn relay(&mut self, now: Time, origin: &NodeName, seq: u64, target: NodeName, group: &mut Group) {
        if self.relays.len() >= MAX_RELAYS || !group.config.others.contains(&target) {
            return;
        }
        let until = now + 2 * group.settings().period();
        // In time before the origin's verdict.
        let nack_at = Some(now + group.settings().ping_timeout().mul_f64(0.8));
        let own = group.fresh_seq();
        self.relays.insert(
            own,
            Relay {
                origin: origin.clone(),
                seq,
                target: target.clone(),
                nack_at,
                until,
            },
        );
        group.send(&target, Body::Ping { seq: own });
    }
}
