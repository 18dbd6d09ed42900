//! Nodes, disks, links between nodes, and the order in which things happen. All from one seed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::clock::Time;
use common::seeds::Seeds;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use xxhash_rust::xxh3::Xxh3;

use super::clients::Clients;
use super::naive;
use super::oracle::Oracle;
use crate::replica::{Effect, Input, RangeState, Replica};
use crate::store::Store;
use crate::store::mem::MemStore;
use crate::wire::peer::Message;
use hydfs::content::{FileName, Segment, SegmentId, SegmentLimits};
use hydfs::ring::{RangeIx, Ring};
use hydfs::view::{Incarnation, NodeIx};

pub struct Node {
    pub replica: Option<Replica<MemStore>>,
    pub disk: Option<MemStore>,
    /// Which process: what was meant for an earlier one does not reach it.
    pub life: u64,
    flush_due: bool,
}

pub enum WorldEvent {
    Start {
        node: usize,
    },
    Tick {
        node: usize,
        life: u64,
    },
    Flush {
        node: usize,
        life: u64,
    },
    Deliver {
        from: usize,
        to: usize,
        life: u64,
        link: u64,
        message: Message,
    },
    /// Try to connect.
    Connect {
        a: usize,
        b: usize,
    },
    /// Somebody noticed that nothing comes any more.
    Silent {
        a: usize,
        b: usize,
        link: u64,
    },
    Copy {
        node: usize,
        life: u64,
        range: RangeIx,
        file: FileName,
        nonce: u64,
        segment: Segment,
        from: Vec<NodeIx>,
    },
    Fault,
    Read,
    Client(super::clients::ClientEvent),
}

#[derive(Clone, Copy, Default)]
struct Link {
    up: bool,
    /// Which connection.
    number: u64,
}

pub struct World {
    pub rng: SmallRng,
    pub now: Time,
    queue: BTreeMap<(Time, u64), WorldEvent>,
    queued: u64,
    pub n: usize,
    pub ring: Ring,
    pub nodes: Vec<Node>,
    /// Nothing gets from the one to the other.
    pub cut: BTreeSet<(usize, usize)>,
    links: BTreeMap<(usize, usize), Link>,
    last: BTreeMap<(usize, usize), Time>,
    /// Single messages are lost, doubled and overtaken, which connections never do.
    wild: bool,
    pub calm: bool,
    pub pause_until: Time,
    /// The coordinator of members that are cut off: it loses its disk when the pause is over.
    pub stranded: Option<usize>,
    /// A coordinator that has the only copy left: it is cut off when the pause is over.
    pub alone: Option<usize>,
    /// Repairs take long until then.
    pub slow_until: Time,
    /// Copies lost with disks or by flipped bits.
    pub lost: u64,
    /// Copies that were found damaged and are not repaired yet: one may be found when others are just being dropped.
    pub damaged: BTreeSet<(usize, FileName, SegmentId)>,
    pub oracle: Oracle,
    pub clients: Clients,
    pub problem: Option<String>,
    /// Of all that happened; when asked for.
    trace: Option<Xxh3>,
    pub handled: u64,
    print: bool,
}

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let n = [3, 3, 4, 5, 5, 7, 7][rng.random_range(0..7)];
        let names: Vec<String> = (0..n).map(|i| format!("node{i}-{seed}")).collect();
        let wild = rng.random_bool(0.3);
        let node = |_| Node {
            replica: None,
            disk: Some(MemStore::default()),
            life: 0,
            flush_due: false,
        };
        let mut world = Self {
            now: Time::from_millis(1000),
            queue: BTreeMap::new(),
            queued: 0,
            n,
            ring: Ring::new(names.iter().map(String::as_str), 3),
            nodes: (0..n).map(node).collect(),
            cut: BTreeSet::new(),
            links: BTreeMap::new(),
            last: BTreeMap::new(),
            wild,
            calm: false,
            pause_until: Time::ZERO,
            stranded: None,
            alone: None,
            slow_until: Time::ZERO,
            lost: 0,
            damaged: BTreeSet::new(),
            oracle: Oracle::default(),
            clients: Clients::default(),
            problem: None,
            trace: None,
            handled: 0,
            print: Seeds::from_env(0..0).told,
            rng,
        };
        for node in 0..n {
            let late = if world.rng.random_bool(0.05) { 2000 } else { 100 };
            world.after(1, late, WorldEvent::Start { node });
            for b in node + 1..n {
                world.after(1, 150, WorldEvent::Connect { a: node, b });
            }
        }
        world.after(800, 1500, WorldEvent::Fault);
        world.after(50, 100, WorldEvent::Read);
        Clients::start(&mut world);
        world
    }

    /// Schedules something between `from` and `to` milliseconds from now.
    pub fn after(&mut self, from: u64, to: u64, event: WorldEvent) {
        let delay = Duration::from_micros(self.rng.random_range(from * 1000..=to * 1000));
        self.at(self.now + delay, event);
    }

    pub fn at(&mut self, time: Time, event: WorldEvent) {
        self.queued += 1;
        self.queue.insert((time, self.queued), event);
    }

    pub fn wrong(&mut self, what: String) {
        self.log(|| format!("PROBLEM {what}"));
        self.problem.get_or_insert(what);
    }

    pub fn log(&mut self, what: impl FnOnce() -> String) {
        if self.print {
            println!("{:>9} {}", self.now.0, what());
        }
    }

    pub fn trace(&mut self) {
        self.trace = Some(Xxh3::new());
    }

    pub fn traced(&self) -> u64 {
        self.trace.as_ref().map_or(0, Xxh3::digest)
    }

    /// Runs until `time` or until something is wrong.
    pub fn run_until(&mut self, time: Time) {
        while self.problem.is_none()
            && let Some(entry) = self.queue.first_entry()
            && entry.key().0 <= time
        {
            let ((now, _), event) = entry.remove_entry();
            self.now = now;
            self.happen(event);
        }
        self.now = self.now.max(time);
    }

    fn happen(&mut self, event: WorldEvent) {
        match event {
            WorldEvent::Start { node } => self.start(node),
            WorldEvent::Tick { node, life } if self.nodes[node].life == life => {
                self.input(node, Input::Tick);
                self.after(95, 105, WorldEvent::Tick { node, life });
            }
            WorldEvent::Flush { node, life } if self.nodes[node].life == life => {
                self.nodes[node].flush_due = false;
                let mut out = Vec::new();
                if let Some(replica) = &mut self.nodes[node].replica {
                    replica.flush(self.now, &mut out);
                }
                self.carry_out(node, out);
            }
            WorldEvent::Deliver {
                from,
                to,
                life,
                link,
                message,
            } => {
                let current = self
                    .links
                    .get(&pair(from, to))
                    .is_some_and(|l| l.up && l.number == link);
                if self.nodes[to].life == life && (current || self.wild) && !self.cut.contains(&(from, to)) {
                    self.input(
                        to,
                        Input::Peer {
                            from: NodeIx(from as u16),
                            message,
                        },
                    );
                }
            }
            WorldEvent::Connect { a, b } => self.connect(a, b),
            WorldEvent::Silent { a, b, link } => {
                let cut = self.cut.contains(&(a, b)) || self.cut.contains(&(b, a));
                if cut
                    && self
                        .links
                        .get(&pair(a, b))
                        .is_some_and(|l| l.up && l.number == link)
                {
                    self.disconnect(a, b);
                }
            }
            WorldEvent::Copy {
                node,
                life,
                range,
                file,
                nonce,
                segment,
                from,
            } if self.nodes[node].life == life => {
                self.copy(node, range, file, nonce, segment, &from);
            }
            WorldEvent::Tick { .. } | WorldEvent::Flush { .. } | WorldEvent::Copy { .. } => {}
            WorldEvent::Fault => super::faults::happen(self),
            WorldEvent::Read => super::oracle::read(self),
            WorldEvent::Client(event) => Clients::happen(self, event),
        }
    }

    /// Hands something to a node's replica.
    pub fn input(&mut self, node: usize, input: Input) {
        let Some(replica) = &mut self.nodes[node].replica else {
            return;
        };
        self.handled += 1;
        if let Input::Damaged { file, segment, .. } = &input {
            self.damaged.insert((node, file.clone(), *segment));
        }
        if let Some(trace) = &mut self.trace {
            trace.update(format!("{} {node} {input:?}", self.now.0).as_bytes());
        }
        if self.print && !matches!(input, Input::Tick) {
            println!("{:>9} node {node}: {}", self.now.0, brief(&input));
        }
        let mut out = Vec::new();
        replica.handle(self.now, input, &mut out);
        let life = self.nodes[node].life;
        if !std::mem::replace(&mut self.nodes[node].flush_due, true) {
            let delay = Duration::from_micros(self.rng.random_range(0..400));
            self.at(self.now + delay, WorldEvent::Flush { node, life });
        }
        self.carry_out(node, out);
    }

    fn carry_out(&mut self, node: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { to, message } => self.send(node, to.0 as usize, message),
                Effect::Reply { conn, id: _, result } => Clients::replied(self, node, conn, result),
                Effect::Repair {
                    range,
                    file,
                    nonce,
                    segment,
                    from,
                } => {
                    if let Some(wrong) = naive::fetches(self, node, range, &file, &segment, &from) {
                        self.wrong(wrong);
                    }
                    let life = self.nodes[node].life;
                    let slowest = if self.now < self.slow_until { 2000 } else { 40 };
                    self.after(
                        1,
                        slowest,
                        WorldEvent::Copy {
                            node,
                            life,
                            range,
                            file,
                            nonce,
                            segment,
                            from,
                        },
                    );
                }
                Effect::Broken { error } => {
                    self.log(|| format!("node {node} breaks: {error}"));
                    self.crash(node);
                }
                Effect::RangeChanged { range, state } => {
                    self.log(|| format!("node {node}: range {} is {state:?}", range.0));
                }
                Effect::Dropped {
                    range, surplus: true, ..
                } => {
                    if let Some(wrong) = naive::drops(self, node, range) {
                        self.wrong(wrong);
                    }
                }
                Effect::ViewChanged | Effect::Committed { .. } | Effect::Dropped { .. } => {}
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        let Some(link) = self.links.get(&pair(from, to)).filter(|l| l.up).map(|l| l.number) else {
            return;
        };
        // As it goes over the wire, now and then: it takes long.
        let message = if self.handled.is_multiple_of(16) {
            let frame = message.encode().expect("messages encode").join();
            Message::decode(&frame).expect("messages decode")
        } else {
            message
        };
        let slow = if self.wild && self.rng.random_bool(0.05) {
            60_000
        } else {
            2_000
        };
        let mut at = self.now + Duration::from_micros(self.rng.random_range(80..slow));
        let copies = match self.rng.random_range(0..200) {
            0 if self.wild => 0,
            1 if self.wild => 2,
            _ => 1,
        };
        if !self.wild {
            let last = self.last.entry((from, to)).or_default();
            at = at.max(*last);
            *last = at;
        }
        for _ in 0..copies {
            let life = self.nodes[to].life;
            self.at(
                at,
                WorldEvent::Deliver {
                    from,
                    to,
                    life,
                    link,
                    message: message.clone(),
                },
            );
            at = at + ms(3);
        }
    }

    // --- nodes and links ------------------------------------------------------------------------------------------

    pub fn start(&mut self, node: usize) {
        if self.nodes[node].replica.is_some() {
            return;
        }
        let disk = self.nodes[node]
            .disk
            .take()
            .expect("a node that is down has its disk");
        let incarnation = Incarnation(self.now.0 / 1000);
        let ring = self.ring.clone();
        let replica = Replica::new(NodeIx(node as u16), ring, disk, incarnation, self.now);
        let replica = replica.unwrap_or_else(|e| panic!("a disk in order: {e}"));
        let replica = replica.with_limits(limits(node));
        self.nodes[node].replica = Some(replica);
        self.nodes[node].life += 1;
        self.nodes[node].flush_due = false;
        let life = self.nodes[node].life;
        self.log(|| format!("node {node} starts"));
        self.after(1, 100, WorldEvent::Tick { node, life });
        self.input(node, Input::Tick);
    }

    pub fn crash(&mut self, node: usize) {
        let Some(replica) = self.nodes[node].replica.take() else {
            return;
        };
        let mut disk = replica.into_store();
        disk.restart();
        self.nodes[node].disk = Some(disk);
        self.nodes[node].life += 1;
        self.oracle.forget_node(node);
        self.log(|| format!("node {node} crashes"));
        for other in 0..self.n {
            if other != node && self.links.get(&pair(node, other)).is_some_and(|l| l.up) {
                self.disconnect(node, other);
            }
        }
    }

    fn connect(&mut self, a: usize, b: usize) {
        let cut = self.cut.contains(&(a, b)) || self.cut.contains(&(b, a));
        let up = self.nodes[a].replica.is_some() && self.nodes[b].replica.is_some();
        let link = self.links.entry(pair(a, b)).or_default();
        if link.up {
            return;
        }
        if up && !cut {
            link.up = true;
            link.number += 1;
            self.input(
                a,
                Input::PeerUp {
                    node: NodeIx(b as u16),
                },
            );
            self.input(
                b,
                Input::PeerUp {
                    node: NodeIx(a as u16),
                },
            );
            return;
        }
        for (by, of) in [(a, b), (b, a)] {
            if self.rng.random_bool(0.3) {
                self.input(
                    by,
                    Input::Suspect {
                        node: NodeIx(of as u16),
                    },
                );
            }
        }
        self.after(20, 300, WorldEvent::Connect { a, b });
    }

    pub fn disconnect(&mut self, a: usize, b: usize) {
        let link = self.links.entry(pair(a, b)).or_default();
        link.up = false;
        link.number += 1;
        self.input(
            a,
            Input::PeerDown {
                node: NodeIx(b as u16),
            },
        );
        self.input(
            b,
            Input::PeerDown {
                node: NodeIx(a as u16),
            },
        );
        self.after(5, 200, WorldEvent::Connect { a, b });
    }

    /// Somebody will notice cuts.
    pub fn notice_cuts(&mut self) {
        for (a, b) in self.cut.clone() {
            if let Some(link) = self.links.get(&pair(a, b)).filter(|l| l.up).map(|l| l.number) {
                self.after(50, 600, WorldEvent::Silent { a, b, link });
            }
        }
    }

    pub fn up(&self) -> impl Iterator<Item = (usize, &Replica<MemStore>)> {
        self.nodes
            .iter()
            .enumerate()
            .filter_map(|(i, n)| Some((i, n.replica.as_ref()?)))
    }

    /// Why not all is as it should be once nothing fails: all nodes in one view, all ranges active, nothing missing, no surplus copies.
    pub fn unsettled(&self) -> Option<String> {
        if self.up().count() < self.n {
            return Some("a node is down".into());
        }
        let replicas: Vec<&Replica<MemStore>> = self.up().map(|(_, r)| r).collect();
        if replicas
            .iter()
            .any(|r| r.view() != replicas[0].view() || r.view().alive().count() < self.n)
        {
            return Some("views differ or lack nodes".into());
        }
        for range in self.ring.ranges() {
            let set = replicas[0].replicas_of(range);
            let state = replicas[set[0].0 as usize].state_of(range);
            if state
                != Some(RangeState::Active {
                    repairing: Vec::new(),
                })
            {
                return Some(format!("range {} is {state:?}", range.0));
            }
            for (i, replica) in replicas.iter().enumerate() {
                let member = set.contains(&NodeIx(i as u16));
                if member && !replica.is_current(range) {
                    return Some(format!("node {i} does not know that range {} is active", range.0));
                }
                // A node whose disk is full may not have got to tell the others.
                let misses = |(_, file): (_, &hydfs::content::File)| file.segments.iter().any(|s| s.missing);
                if member && replica.store().files(range).any(misses) {
                    return Some(format!("node {i} misses something of range {}", range.0));
                }
                if !member && replica.store().files(range).next().is_some() {
                    return Some(format!("node {i} keeps a surplus copy of range {}", range.0));
                }
                if !replica
                    .store()
                    .range(range)
                    .asked
                    .iter()
                    .all(|set| set.size() >= replica.view().size())
                {
                    return Some(format!(
                        "node {i} remembers sets of range {} that it may forget",
                        range.0
                    ));
                }
            }
        }
        None
    }
}

/// When a node closes a segment as a coordinator: others need not agree.
pub fn limits(node: usize) -> SegmentLimits {
    SegmentLimits {
        bytes: 300 + 100 * node as u64,
        entries: 6 + 3 * node as u64,
        dead: 30,
    }
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

fn brief(input: &Input) -> String {
    let text = format!("{input:?}");
    text.chars().take(400).collect()
}
