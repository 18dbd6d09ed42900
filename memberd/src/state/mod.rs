//! The membership protocol as a state machine: time and inputs in, effects out. No sockets, clock or global chance.
//!
//! ```text
//!                    Input                                 Effect
//!   driver  --  Datagram, Table, Leave, Tick  -->  Members  --  Send, Exchange, Changed, ...  -->  driver
//!                                                  |      |
//!                          Group (what is believed)      Running (how failures are looked for)
//!            table, suspicions, dissemination queue      protocol/pingack
//! ```
//!
//! The group's part is the same whatever looks for failures: the merge rule, refutation, suspicion timers, news,
//! finding the others, leaving. `docs/membership.md` tells the protocol in prose.

mod dissemination;
mod group;
pub mod protocol;
mod suspicion;
mod table;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use common::clock::Time;
use common::cluster::Membership;
use common::ids::NodeName;
use rand::rngs::StdRng;

use crate::wire::Message;
use group::Group;
pub use group::MAX_FACTS_IN_TABLE;
use protocol::{Protocol, Running};
pub use table::{Fact, MAX_INCARNATION, State};

/// What a node is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    pub me: NodeName,
    /// The other nodes of the cluster file. Nobody else is believed or talked to.
    pub others: BTreeSet<NodeName>,
    /// Higher than at any start before: the wall clock in milliseconds. Raised further if the group knows better.
    pub incarnation: u64,
    pub protocol: Protocol,
    pub timing: Timing,
    /// Breaks one rule on purpose, to see that the simulation's oracles notice.
    #[cfg(test)]
    pub mutant: Option<crate::sim::Mutant>,
}

#[derive(Debug, Clone)]
pub struct Timing {
    /// One probe per period.
    pub period: Duration,
    /// How long a direct probe may take before others are asked to probe.
    pub ping_timeout: Duration,
    /// How many others are asked.
    pub indirect: usize,
    /// How long a suspect may refute.
    pub suspicion: Duration,
    /// How long the failed and the left stay listed.
    pub cleanup: Duration,
    /// How often whole tables are exchanged with somebody.
    pub exchange: Duration,
}

impl From<&Membership> for Timing {
    fn from(m: &Membership) -> Self {
        // A configured zero would make timers spin.
        let ms = |ms: u64| Duration::from_millis(ms.max(1));
        Self {
            period: ms(m.period_ms),
            ping_timeout: ms(m.ping_timeout_ms),
            indirect: m.indirect,
            suspicion: ms(m.suspicion_ms),
            cleanup: ms(m.cleanup_ms),
            exchange: Duration::from_secs(10),
        }
    }
}

#[derive(Debug, Clone)]
pub enum Input {
    /// Opened and decoded; `from` has proven to know the secret.
    Datagram { from: NodeName, message: Message },
    /// Another node's whole table: it dialled us, or answered our [`Effect::Exchange`].
    Table { from: NodeName, facts: Vec<Fact> },
    /// Say goodbye. [`Members::is_gone`] tells when that is done.
    Leave,
    /// [`Members::next_deadline`] has come.
    Tick,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    Send {
        to: NodeName,
        message: Message,
    },
    /// Exchange whole tables with that node over TCP; its answer comes back as [`Input::Table`]. May fail silently.
    Exchange {
        with: NodeName,
    },
    /// A member is now so. `before`: what was known, if anything.
    Changed {
        fact: Fact,
        before: Option<Fact>,
    },
    /// This node was out for so long that it does not trust its own timers just now.
    Stalled {
        late: Duration,
    },
    /// A datagram or table was dropped unread.
    Refused {
        from: NodeName,
        why: Refusal,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the cluster file has no such node")]
    Stranger,
    #[error("it bears this node's own name")]
    OwnName,
    #[error("it was meant for another node")]
    Misdirected,
}

/// One node's membership.
pub struct Members {
    group: Group,
    running: Running,
}

impl Members {
    /// A group of one, which starts to look for the others at its first tick.
    pub fn new(now: Time, config: Config, rng: StdRng) -> Self {
        let running = Running::new(now, config.protocol);
        Self {
            group: Group::new(now, config, rng),
            running,
        }
    }

    pub fn handle(&mut self, now: Time, input: Input) -> Vec<Effect> {
        self.notice_stall(now);
        match input {
            Input::Datagram { from, message } => self.datagram(now, from, message),
            Input::Table { from, facts } => self.group.table_from(now, &from, facts),
            Input::Leave => self.group.leave(now),
            Input::Tick => {
                self.group.tick(now);
                if !self.group.is_leaving() {
                    self.running.tick(now, &mut self.group);
                }
            }
        }
        self.group.tell_news();
        self.group.take_effects()
    }

    /// When the next [`Input::Tick`] is due. Changes with every input.
    pub fn next_deadline(&self) -> Time {
        if self.group.is_leaving() {
            return self.group.next_deadline();
        }
        self.group.next_deadline().min(self.running.next_deadline())
    }

    /// Goodbye has been said often enough.
    pub fn is_gone(&self) -> bool {
        self.group.is_gone()
    }

    pub fn incarnation(&self) -> u64 {
        self.group.incarnation()
    }

    /// What datagrams are to be sealed with: higher than any former process of this node had. It does not follow each
    /// refutation, since a new boot makes the receivers refuse what is still under way under the old one.
    pub fn boot(&self) -> u64 {
        self.group.boot()
    }

    /// This node and all that are known; the failed and the left only for the cleanup time.
    pub fn listed(&self, now: Time) -> Vec<Fact> {
        self.group.listed(now)
    }

    /// The whole table, for an exchange.
    pub fn table(&self) -> Vec<Fact> {
        self.group.table.facts().cloned().collect()
    }

    fn datagram(&mut self, now: Time, from: NodeName, message: Message) {
        if let Some(why) = self.group.refusal(&from) {
            return self.group.refuse(from, why);
        }
        if message.to != self.group.config.me {
            return self.group.refuse(from, Refusal::Misdirected);
        }
        let was_present = self.group.table.is_present(&from);
        for fact in message.facts {
            self.group.learn(now, fact);
        }
        self.group.correct(&from);
        if !was_present && self.group.table.is_present(&from) {
            self.group.met(now, &from);
        }
        self.running.on(now, &from, message.body, &mut self.group);
    }

    /// Timers that fired late mean that this process stood still (stopped, swapped, starved), and answers that came in
    /// time lie unread. Whoever seems silent in such a moment is not: open probes are dropped, suspicions prolonged.
    fn notice_stall(&mut self, now: Time) {
        let late = now.since(self.next_deadline());
        if late <= self.group.config.timing.ping_timeout / 2 {
            return;
        }
        #[cfg(test)]
        if self.group.is_mutant(crate::sim::Mutant::StallBlind) {
            return;
        }
        self.group.forgive(now, late);
        self.running.forgive(now);
    }
}
