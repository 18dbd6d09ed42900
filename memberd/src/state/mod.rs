//! The membership protocol as a state machine: time and inputs in, effects out. No sockets, clock or global chance.
//!
//! ```text
//!                    Input                                 Effect
//!   driver  --  Datagram, Table, Leave, Tick  -->  Members  --  Send, Exchange, Changed, ...  -->  driver
//!                                                  |      |
//!                          Group (what is believed)      Running (how failures are looked for)
//!    table, suspicions, news, agreement, damping      protocol/pingack, protocol/gossip
//! ```
//!
//! The group's part is the same whatever looks for failures: the merge rule, refutation, suspicion timers, news,
//! finding the others, leaving. `docs/membership.md` tells the protocol in prose.

mod damping;
mod dissemination;
mod group;
mod health;
mod mutant;
mod protocol;
pub mod settings;
mod suspicion;
mod table;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use common::clock::Time;
use common::ids::NodeName;
use rand::rngs::StdRng;

use crate::wire::Message;
use group::Group;
pub use group::MAX_FACTS_IN_TABLE;
pub(crate) use mutant::Mutant;
use protocol::Running;
use settings::{Configuration, Settings};
pub use table::{Fact, MAX_INCARNATION, State};

/// What a node is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    pub me: NodeName,
    /// The other nodes of the cluster file. Nobody else is believed or talked to.
    pub others: BTreeSet<NodeName>,
    /// Higher than at any start before: the wall clock in milliseconds. Raised further if the group knows better.
    pub incarnation: u64,
    /// The cluster file's, in force until the group has agreed on others.
    pub settings: Settings,
}

/// What happened here since the start, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Accusations that this node began itself.
    pub accusations: u64,
    /// Members that it came to call failed.
    pub failures: u64,
    /// Accusations of this node that it refuted.
    pub refutations: u64,
    pub stalls: u64,
    /// Datagrams thrown away for a test.
    pub dropped: u64,
    /// How much this node distrusts itself just now, 0 to 8.
    pub health: u32,
    /// Members whose returns are held back just now, since they come and go all the time.
    pub damped: usize,
}

#[derive(Debug, Clone)]
pub enum Input {
    /// Opened and decoded; `from` has proven to know the secret.
    Datagram { from: NodeName, message: Message },
    /// Another node's whole table: it dialled us, or answered our [`Effect::Exchange`].
    Table {
        from: NodeName,
        facts: Vec<Fact>,
        configuration: Option<Configuration>,
    },
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
    /// The group's configuration is now so.
    Configured {
        configuration: Configuration,
        before: Configuration,
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
    #[error("its configuration is not a possible one")]
    Configuration,
}

/// One node's membership.
pub struct Members {
    group: Group,
    running: Running,
}

impl Members {
    /// A group of one, which starts to look for the others at its first tick.
    pub fn new(now: Time, config: Config, rng: StdRng) -> Self {
        let running = Running::new(now, config.settings.protocol);
        Self {
            group: Group::new(now, config, rng),
            running,
        }
    }

    pub fn handle(&mut self, now: Time, input: Input) -> Vec<Effect> {
        self.notice_stall(now);
        match input {
            Input::Datagram { from, message } => self.datagram(now, from, message),
            Input::Table {
                from,
                facts,
                configuration,
            } => self.group.table_from(now, &from, facts, configuration),
            Input::Leave => self.group.leave(now),
            Input::Tick => {
                self.group.tick(now);
                if !self.group.is_leaving() {
                    self.running.tick(now, &mut self.group);
                }
            }
        }
        self.finish(now)
    }

    /// Changes settings of the whole group, by key and text; all of them or none. What is so already is no change.
    pub fn change(
        &mut self,
        now: Time,
        changes: &[(String, String)],
    ) -> Result<Vec<Effect>, settings::Error> {
        self.group.change(changes)?;
        Ok(self.finish(now))
    }

    fn finish(&mut self, now: Time) -> Vec<Effect> {
        self.running.follow(now, &mut self.group);
        self.group.tell_news();
        self.group.take_effects()
    }

    /// The configuration in force here.
    pub fn configuration(&self) -> &Configuration {
        self.group.agreed()
    }

    /// The same, if it is to be shared in an exchange.
    pub fn shared_configuration(&self) -> Option<Configuration> {
        self.group.stamp().map(|_| self.group.agreed().clone())
    }

    pub fn counts(&self) -> Counts {
        Counts {
            health: self.group.health.score(),
            damped: self.group.damped(),
            ..self.group.counts
        }
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

    /// Forgets what is news: for simulations that begin with a group in which everybody knows everybody.
    #[cfg(test)]
    pub(crate) fn settle(&mut self, now: Time) {
        self.group.settle(now);
        self.running = Running::new(now, self.group.settings().protocol);
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
        if self.group.drops() {
            return;
        }
        let was_present = self.group.table.is_present(&from);
        self.group.heard_from(&from, &message.facts);
        for fact in message.facts {
            self.group.learn(now, fact);
        }
        if let Some(configuration) = message.configuration {
            self.group.hear_configuration(&from, configuration);
        }
        self.group.compare_stamps(&from, message.stamp);
        self.group.correct(&from);
        if !was_present && self.group.table.is_present(&from) {
            self.group.met(now, &from);
        }
        self.running.on(now, &from, message.body, &mut self.group);
        self.group.heard_out();
    }

    /// Timers that fired late mean that this process stood still (stopped, swapped, starved), and answers that came in
    /// time lie unread. Whoever seems silent in such a moment is not: open probes are dropped, suspicions prolonged.
    fn notice_stall(&mut self, now: Time) {
        let late = now.since(self.next_deadline());
        if late <= self.group.settings().ping_timeout() / 2 {
            return;
        }
        if Mutant::StallBlind.is_on() {
            return;
        }
        self.group.forgive(now, late);
        self.running.forgive(now, late);
    }
}
