//! A cluster in one thread: state machines, a network that loses, delays, doubles and reorders, and a clock that jumps
//! from event to event. What the oracles can see at any moment is checked here, at every change of every view.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::time::Duration;

use common::clock::Time;
use common::cluster::Membership;
use common::ids::NodeName;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::Setup;
use crate::state::settings::{Configuration, Settings};
use crate::state::{Config, Effect, Fact, Input, Members, State};
use crate::wire::{Body, Message};

/// Wall clock at the simulation's start, milliseconds.
const EPOCH_MS: u64 = 1_700_000_000_000;
/// An accusation of a node that has stood still within this time is deserved.
const DESERVED: Duration = Duration::from_secs(4);

pub struct Network {
    pub loss: f64,
    pub duplicate: f64,
    pub delay_ms: Range<u64>,
}

enum WorldEvent {
    Timer {
        process: u64,
    },
    Datagram {
        from: usize,
        boot: u64,
        message: Message,
    },
    Table {
        from: usize,
        facts: Vec<Fact>,
        configuration: Option<Configuration>,
        answer: bool,
    },
}

pub struct Node {
    pub members: Members,
    process: u64,
    /// When its next timer event is queued for.
    timer: Time,
    frozen_until: Time,
    pub leaving: bool,
    /// The newest boot seen of each sender, as the datagram seal keeps it.
    boots: BTreeMap<usize, u64>,
    /// What the subscribers of this node believe.
    pub view: BTreeMap<NodeName, Fact>,
}

#[derive(Debug, Default, Clone)]
pub struct Counts {
    pub pings: u64,
    pub datagrams: u64,
    /// Of datagrams, seal included; counted for `World::weigh` only.
    pub bytes: u64,
    /// The longest of them.
    pub longest: usize,
    /// How long nodes were up, summed.
    pub node_seconds: f64,
    /// Suspicions of nodes that are up, and not standing still, by a node that began one itself or heard of it.
    pub false_suspicions: u64,
    pub false_failures: u64,
    pub stalls: u64,
}

pub struct World {
    pub now: Time,
    pub rng: StdRng,
    pub names: Vec<NodeName>,
    pub nodes: Vec<Option<Node>>,
    pub network: Network,
    /// Directed: `(from, to)` does not pass.
    pub cuts: BTreeSet<(usize, usize)>,
    pub counts: Counts,
    /// When each observer first believed a state of a subject, since the last [`World::forget`].
    pub seen: BTreeMap<(usize, usize, State), Time>,
    /// What an oracle has found wrong.
    pub violations: Vec<String>,
    /// How many changes of each member were told to the subscribers of each.
    pub told: BTreeMap<(usize, usize), u64>,
    /// Nodes whose datagrams are late by so much, both ways.
    pub slow: BTreeMap<usize, Duration>,
    /// Whether each datagram is encoded to count its bytes.
    pub weigh: bool,
    pub settings: Settings,
    events: BTreeMap<(Time, u64), (usize, WorldEvent)>,
    sequence: u64,
    /// The highest incarnation that each owner has had: nobody may believe in a higher one.
    owned: Vec<u64>,
    healthy_since: Vec<Time>,
    check_encoding: bool,
    trace: DefaultHasher,
    verbose: bool,
}

impl World {
    pub fn new(setup: Setup, seed: u64, n: usize, verbose: bool) -> Self {
        Self {
            now: Time::from_millis(1000),
            rng: StdRng::seed_from_u64(seed),
            names: (0..n)
                .map(|i| {
                    NodeName::new(if n < 100 {
                        format!("n{i:02}")
                    } else {
                        format!("n{i:03}")
                    })
                    .unwrap()
                })
                .collect(),
            told: BTreeMap::new(),
            slow: BTreeMap::new(),
            weigh: false,
            settings: (&Membership {
                protocol: setup.protocol,
                suspicion: setup.suspicion,
                ..Membership::default()
            })
                .into(),
            nodes: (0..n).map(|_| None).collect(),
            network: Network {
                loss: 0.0,
                duplicate: 0.0,
                delay_ms: 0..2,
            },
            cuts: BTreeSet::new(),
            counts: Counts::default(),
            seen: BTreeMap::new(),
            violations: Vec::new(),
            events: BTreeMap::new(),
            // Lower numbers are for timers that must come first: see `put_off`.
            sequence: n as u64,
            owned: vec![0; n],
            healthy_since: vec![Time::ZERO; n],
            check_encoding: seed.is_multiple_of(16),
            trace: DefaultHasher::new(),
            verbose,
        }
    }

    /// All events so far, as one number.
    pub fn trace(&self) -> u64 {
        self.trace.finish()
    }

    // What can be done to nodes.

    /// `clock_ms`: how far the node's wall clock is off.
    pub fn start(&mut self, i: usize, clock_ms: i64) {
        let wall = (EPOCH_MS + self.now.0 / 1000).saturating_add_signed(clock_ms);
        let config = Config {
            me: self.names[i].clone(),
            others: self
                .names
                .iter()
                .filter(|n| *n != &self.names[i])
                .cloned()
                .collect(),
            incarnation: wall,
            settings: self.settings.clone(),
        };
        self.note(i, format_args!("start {wall}"));
        let members = Members::new(self.now, config, StdRng::seed_from_u64(self.rng.random()));
        let view = members.table().into_iter().map(|f| (f.name.clone(), f)).collect();
        self.sequence += 1;
        self.nodes[i] = Some(Node {
            members,
            process: self.sequence,
            timer: Time(u64::MAX),
            frozen_until: Time::ZERO,
            leaving: false,
            boots: BTreeMap::new(),
            view,
        });
        self.owned[i] = self.owned[i].max(wall);
        self.healthy_since[i] = self.now;
        self.schedule(i);
    }

    /// A group in which everybody has known everybody for long.
    pub fn start_joined(&mut self) {
        let n = self.nodes.len();
        (0..n).for_each(|i| self.start(i, 0));
        let facts: Vec<Fact> = self
            .nodes
            .iter()
            .flatten()
            .flat_map(|n| n.members.table())
            .collect();
        for i in 0..n {
            // Their timers spread over a period.
            let now = self.now + self.settings.period().mul_f64(self.rng.random());
            let from = self.names[(i + 1) % n].clone();
            let Some(node) = &mut self.nodes[i] else { continue };
            let table = Input::Table {
                from,
                facts: facts.clone(),
                configuration: None,
            };
            node.members.handle(self.now, table);
            node.members.settle(now);
            node.view = facts.iter().map(|f| (f.name.clone(), f.clone())).collect();
            self.schedule(i);
        }
    }

    pub fn change(&mut self, i: usize, changes: &[(&str, &str)]) {
        let changes: Vec<_> = changes
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect();
        self.note(i, format_args!("change {changes:?}"));
        if let Some(node) = &mut self.nodes[i] {
            let effects = node.members.change(self.now, &changes).unwrap();
            self.carry_out(i, effects);
        }
    }

    pub fn crash(&mut self, i: usize) {
        self.note(i, format_args!("crash"));
        self.nodes[i] = None;
    }

    pub fn leave(&mut self, i: usize) {
        self.note(i, format_args!("leave"));
        if let Some(node) = &mut self.nodes[i] {
            node.leaving = true;
            self.handle(i, Input::Leave);
        }
    }

    pub fn freeze(&mut self, i: usize, time: Duration) {
        self.note(i, format_args!("freeze {time:?}"));
        if let Some(node) = &mut self.nodes[i] {
            node.frozen_until = self.now + time;
            self.healthy_since[i] = self.now + time;
        }
    }

    /// When the last of those that stand still goes on.
    pub fn thawed(&self) -> Time {
        self.nodes
            .iter()
            .flatten()
            .map(|n| n.frozen_until)
            .fold(self.now, Time::max)
    }

    pub fn is_up(&self, i: usize) -> bool {
        self.nodes[i].is_some()
    }

    pub fn up(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|i| self.is_up(*i)).collect()
    }

    pub fn index(&self, name: &NodeName) -> usize {
        self.names.binary_search(name).unwrap()
    }

    /// What `i` believes of `j`.
    pub fn belief(&self, i: usize, j: usize) -> Option<&Fact> {
        self.nodes[i].as_ref().and_then(|n| n.view.get(&self.names[j]))
    }

    pub fn forget(&mut self) {
        self.seen.clear();
    }

    pub fn run_for(&mut self, time: Duration) {
        self.counts.node_seconds += self.up().len() as f64 * time.as_secs_f64();
        let end = self.now + time;
        while let Some(((at, _), _)) = self.events.first_key_value()
            && *at <= end
        {
            self.step();
        }
        self.now = end;
    }

    // The machinery.

    fn step(&mut self) {
        let Some(((at, _), (i, event))) = self.events.pop_first() else {
            return;
        };
        self.now = at;
        let Some(node) = &mut self.nodes[i] else { return };
        if node.frozen_until > at {
            return self.put_off(i, event);
        }
        match event {
            // One that was overtaken by an earlier one is over.
            WorldEvent::Timer { process } if process == node.process && at == node.timer => {
                node.timer = Time(u64::MAX);
                if node.members.next_deadline() <= at {
                    self.handle(i, Input::Tick);
                } else {
                    self.schedule(i);
                }
            }
            WorldEvent::Timer { .. } => {}
            WorldEvent::Datagram { from, boot, message } => {
                let newest = node.boots.entry(from).or_insert(boot);
                if boot >= *newest {
                    *newest = boot;
                    self.handle(
                        i,
                        Input::Datagram {
                            from: self.names[from].clone(),
                            message,
                        },
                    );
                }
            }
            WorldEvent::Table {
                from,
                facts,
                configuration,
                answer,
            } => {
                self.handle(
                    i,
                    Input::Table {
                        from: self.names[from].clone(),
                        facts,
                        configuration,
                    },
                );
                if answer && let Some(node) = &self.nodes[i] {
                    let facts = node.members.table();
                    let configuration = node.members.shared_configuration();
                    let at = self.now + self.delay();
                    self.push(
                        at,
                        from,
                        WorldEvent::Table {
                            from: i,
                            facts,
                            configuration,
                            answer: false,
                        },
                    );
                }
            }
        }
    }

    /// A process that stands still finds its timer over when it wakes up, before anything else, and of what was sent to
    /// it what its socket's buffer could hold.
    fn put_off(&mut self, i: usize, event: WorldEvent) {
        let Some(node) = &mut self.nodes[i] else { return };
        let later = node.frozen_until;
        match event {
            WorldEvent::Timer { process } => {
                if process == node.process {
                    node.timer = later;
                }
                self.events.insert((later, i as u64), (i, event));
            }
            _ if self.rng.random_bool(0.5) => {}
            _ => self.push(later, i, event),
        }
    }

    fn handle(&mut self, i: usize, input: Input) {
        let Some(node) = &mut self.nodes[i] else { return };
        let effects = node.members.handle(self.now, input);
        self.carry_out(i, effects);
    }

    fn carry_out(&mut self, i: usize, effects: Vec<Effect>) {
        let Some(node) = &mut self.nodes[i] else { return };
        let boot = node.members.boot();
        self.owned[i] = self.owned[i].max(node.members.incarnation());
        for effect in effects {
            match effect {
                Effect::Send { to, message } => self.send(i, to, boot, message),
                Effect::Exchange { with } => {
                    let j = self.index(&with);
                    let passes =
                        self.is_up(j) && !self.cuts.contains(&(i, j)) && !self.cuts.contains(&(j, i));
                    if let Some(node) = self.nodes[i].as_ref().filter(|_| passes) {
                        let facts = node.members.table();
                        let configuration = node.members.shared_configuration();
                        let at = self.now + self.delay();
                        self.push(
                            at,
                            j,
                            WorldEvent::Table {
                                from: i,
                                facts,
                                configuration,
                                answer: true,
                            },
                        );
                    }
                }
                Effect::Changed { fact, before } => self.changed(i, fact, before),
                Effect::Configured {
                    configuration,
                    before,
                } => {
                    self.note(
                        i,
                        format_args!("takes over {configuration} by {}", configuration.by),
                    );
                    if configuration <= before {
                        let name = &self.names[i];
                        self.violations
                            .push(format!("{name} went back from {before:?} to {configuration:?}"));
                    }
                }
                Effect::Stalled { .. } => self.counts.stalls += 1,
                Effect::Refused { from, why } => self
                    .violations
                    .push(format!("{} refused {from}: {why}", self.names[i])),
            }
        }
        if self.nodes[i].as_ref().is_some_and(|n| n.members.is_gone()) {
            self.note(i, format_args!("gone"));
            self.nodes[i] = None;
        }
        self.schedule(i);
    }

    fn schedule(&mut self, i: usize) {
        let Some(node) = &mut self.nodes[i] else { return };
        let at = node.members.next_deadline().max(self.now);
        if at < node.timer {
            node.timer = at;
            let process = node.process;
            self.push(at, i, WorldEvent::Timer { process });
        }
    }

    fn push(&mut self, at: Time, i: usize, event: WorldEvent) {
        self.sequence += 1;
        self.events.insert((at, self.sequence), (i, event));
    }

    fn delay(&mut self) -> Duration {
        let Range { start, end } = self.network.delay_ms;
        Duration::from_micros(self.rng.random_range(start * 1000 + 50..end * 1000 + 100))
    }

    fn send(&mut self, i: usize, to: NodeName, boot: u64, message: Message) {
        let j = self.index(&to);
        (self.now, i, j, message.facts.len()).hash(&mut self.trace);
        self.counts.datagrams += 1;
        self.counts.pings += matches!(message.body, Body::Ping { .. }) as u64;
        if self.weigh
            && let Ok(bytes) = message.encode()
        {
            // The seal: magic, name, boot, counter, MAC.
            let len = bytes.len() + 36 + self.names[i].as_str().len();
            self.counts.bytes += len as u64;
            self.counts.longest = self.counts.longest.max(len);
        }
        if self.check_encoding {
            let decoded = message.encode().and_then(|bytes| Message::decode(&bytes));
            if decoded.ok().as_ref() != Some(&message) {
                self.violations
                    .push(format!("does not survive the wire: {message:?}"));
            }
        }
        if self.cuts.contains(&(i, j)) {
            return;
        }
        let copies = 1 + self.rng.random_bool(self.network.duplicate) as usize;
        for _ in 0..copies {
            if !self.rng.random_bool(self.network.loss) {
                let slow = |who| self.slow.get(&who).copied().unwrap_or_default();
                let late = slow(i) + slow(j);
                let at = self.now + self.delay() + late;
                self.push(
                    at,
                    j,
                    WorldEvent::Datagram {
                        from: i,
                        boot,
                        message: message.clone(),
                    },
                );
            }
        }
    }

    fn changed(&mut self, i: usize, fact: Fact, before: Option<Fact>) {
        self.note(
            i,
            format_args!("believes {} {} {}", fact.name, fact.incarnation, fact.state),
        );
        let j = self.index(&fact.name);
        if before.as_ref().is_some_and(|b| !fact.beats(b)) {
            self.violations
                .push(format!("{} went back from {before:?} to {fact:?}", self.names[i]));
        }
        if fact.incarnation > self.owned[j] {
            self.violations.push(format!(
                "{} believes in {fact:?}, which its owner never was",
                self.names[i]
            ));
        }
        let healthy = self.is_up(j) && self.now >= self.healthy_since[j] + DESERVED;
        let leaving = self.nodes[j].as_ref().is_some_and(|n| n.leaving);
        if healthy && !leaving && fact.incarnation == self.owned[j] {
            self.counts.false_suspicions += (fact.state == State::Suspect) as u64;
            self.counts.false_failures += (fact.state == State::Failed) as u64;
        }
        *self.told.entry((i, j)).or_default() += 1;
        self.seen.entry((i, j, fact.state)).or_insert(self.now);
        if let Some(node) = &mut self.nodes[i] {
            let told = node.view.insert(fact.name.clone(), fact);
            if told != before {
                self.violations.push(format!(
                    "{}: subscribers were told {told:?}, not {before:?}",
                    self.names[i]
                ));
            }
        }
    }

    fn note(&mut self, i: usize, what: std::fmt::Arguments<'_>) {
        let line = format!("{:>10.3} {} {what}", self.now.0 as f64 / 1000.0, self.names[i]);
        line.hash(&mut self.trace);
        if self.verbose {
            println!("{line}");
        }
    }
}
