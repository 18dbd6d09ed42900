//! Leaders and standbys on simulated nodes, around one journal: processes die, stop and go on, nodes lose power and come back,
//! two nodes cannot hear each other, storage does not answer some. [`common::seeds`] says how to run more seeds, or one again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use common::clock::Time;
use common::ids::{Epoch, NodeName, TaskId};
use common::seeds::Seeds;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::mutants::Mutant;
use super::wire::{FromStandby, ToStandby};
use super::*;
use crate::machine::ConnId;
use crate::machine::resume;
use crate::plan::sample::sample;
use crate::record::{Entry, Record, Settings, VERSION};

type Pid = u32;

const LEASE: Duration = Duration::from_secs(3);
const CALM_FROM: Time = Time(40_000_000);
/// A stopped leader's lease may be ten times as long, if it was late.
const SETTLED_BY: Time = Time(100_000_000);
const OVER_BY: Time = Time(125_000_000);

enum Role {
    Leads {
        standbys: Standbys,
        fence: u64,
        base: Epoch,
    },
    Waits {
        machine: Standby,
        leader: Pid,
        /// The fence that it has set.
        fenced: Option<u64>,
    },
}

struct Process {
    node: usize,
    stopped: bool,
    role: Role,
    /// A standby's; a leader has as many as there are standbys.
    conn: Option<ConnId>,
}

#[derive(Debug, Clone)]
enum Ev {
    Tick(Pid),
    /// The leader writes something, as it does whenever it starts a task.
    Work(Pid),
    Start {
        node: usize,
        by: Pid,
    },
    ToLeader(Pid, StandbysInput),
    ToStandby(Pid, ConnId, StandbyInput),
    Dialled(Pid),
    Unreachable(Pid),
    Read(Pid),
    Fence(Pid),
    Member {
        node: usize,
        alive: bool,
    },
    Fault,
    Go(Pid),
    NodeUp(usize),
    Heal,
    EndJob,
}

struct World {
    rng: SmallRng,
    seed: u64,
    now: Time,
    queue: BTreeMap<(Time, u64), Ev>,
    seq: u64,
    names: Vec<NodeName>,
    wanted: u16,
    /// Only leaders die, one at a time: then each death must cost one take-over.
    orderly: bool,
    processes: BTreeMap<Pid, Process>,
    pids: Pid,
    /// Where each process runs, or ran.
    homes: BTreeMap<Pid, usize>,
    conns: u64,
    /// Connections: the leader's and the standby's process.
    links: BTreeMap<ConnId, (Pid, Pid)>,
    down: BTreeSet<usize>,
    /// Nodes that cannot hear those that they are listed with.
    cuts: BTreeSet<(usize, usize)>,
    /// Nodes that storage does not answer.
    starved: BTreeSet<usize>,
    journal: Vec<Record>,
    fence: u64,
    deaths: u32,
    takeovers: u32,
    by_hand: u32,
    ended: bool,
    trace: String,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let nodes = rng.random_range(2..6usize);
        let names: Vec<NodeName> = (0..nodes)
            .map(|i| NodeName::new(format!("n{i}")).unwrap())
            .collect();
        let plan = sample(1, 1, 1, &names);
        let mut world = Self {
            wanted: rng.random_range(1..4),
            orderly: rng.random_range(0..4) == 0,
            rng,
            seed,
            now: Time(1_000_000),
            queue: BTreeMap::new(),
            seq: 0,
            names,
            processes: BTreeMap::new(),
            pids: 0,
            homes: BTreeMap::new(),
            conns: 0,
            links: BTreeMap::new(),
            down: BTreeSet::new(),
            cuts: BTreeSet::new(),
            starved: BTreeSet::new(),
            journal: vec![],
            fence: 1,
            deaths: 0,
            takeovers: 0,
            by_hand: 0,
            ended: false,
            trace: String::new(),
        };
        world.write(Entry::Plan(Box::new(plan)));
        world.lead(0, 1, Epoch(0));
        world.at(5_000, Ev::Fault);
        world
    }

    fn at(&mut self, ms: u64, ev: Ev) {
        self.seq += 1;
        self.queue
            .insert((self.now + Duration::from_millis(ms), self.seq), ev);
    }

    fn say(&mut self, what: std::fmt::Arguments) {
        let _ = writeln!(self.trace, "{:>10} {what}", self.now.0);
    }

    fn write(&mut self, entry: Entry) {
        self.journal.push(Record {
            v: VERSION,
            at_us: 0,
            entry,
        });
    }

    fn below(&mut self, n: u64) -> u64 {
        self.rng.random_range(0..n.max(1))
    }

    /// A leader process begins on that node.
    fn lead(&mut self, node: usize, fence: u64, base: Epoch) {
        self.pids += 1;
        let pid = self.pids;
        let down = self.down.iter().map(|n| self.names[*n].clone()).collect();
        let here = self.names[node].clone();
        let standbys = Standbys::new(self.wanted, LEASE, here, self.names.clone(), down);
        self.homes.insert(pid, node);
        let role = Role::Leads {
            standbys,
            fence,
            base,
        };
        self.processes.insert(
            pid,
            Process {
                node,
                stopped: false,
                role,
                conn: None,
            },
        );
        self.at(0, Ev::Tick(pid));
        self.at(200, Ev::Work(pid));
    }

    fn node(&self, pid: Pid) -> Option<usize> {
        self.processes.get(&pid).map(|p| p.node)
    }

    fn hears(&self, to: usize, from: usize) -> bool {
        !self.cuts.contains(&(to, from)) && !self.down.contains(&to) && !self.down.contains(&from)
    }

    fn run(mut self) -> Ran {
        let (mut settled, mut calm) = (false, false);
        while let Some(((when, _), ev)) = self.queue.pop_first() {
            self.now = when;
            if when >= CALM_FROM && !std::mem::replace(&mut calm, true) {
                self.cuts.clear();
                self.starved.clear();
            }
            if when >= SETTLED_BY && !std::mem::replace(&mut settled, true) {
                self.check_settled();
                self.at(0, Ev::EndJob);
            }
            if when >= OVER_BY {
                break;
            }
            self.event(ev);
            self.check_alive();
        }
        let left: Vec<Pid> = self.processes.keys().copied().collect();
        assert!(
            left.is_empty(),
            "seed {}: processes {left:?} stay behind\n{}",
            self.seed,
            self.trace
        );
        if self.orderly {
            assert_eq!(
                self.takeovers, self.deaths,
                "seed {}: take-overs, and deaths\n{}",
                self.seed, self.trace
            );
        }
        Ran {
            trace: self.trace,
            deaths: self.deaths,
            takeovers: self.takeovers,
        }
    }

    /// When nothing goes wrong any more: one leader, and all the standbys that there should be.
    fn check_settled(&mut self) {
        let (seed, trace) = (self.seed, &self.trace);
        let mut leaders = vec![];
        for (pid, process) in &self.processes {
            if let Role::Leads { standbys, fence, .. } = &process.role {
                assert_eq!(
                    *fence, self.fence,
                    "seed {seed}: {pid} leads without the journal\n{trace}"
                );
                leaders.push(standbys.ready().count());
            }
        }
        let wanted = usize::from(self.wanted).min(self.names.len() - 1);
        assert_eq!(leaders, [wanted], "seed {seed}: standbys of each leader\n{trace}");
        assert_eq!(
            self.processes.len(),
            wanted + 1,
            "seed {seed}: processes\n{trace}"
        );
    }

    /// All died at once, before one could be replaced: somebody types `--resume`.
    fn check_alive(&mut self) {
        if self.processes.is_empty() && !self.ended && self.now < SETTLED_BY {
            let starting = self.queue.values().any(|ev| matches!(ev, Ev::Start { .. }));
            let Some(node) = (0..self.names.len()).find(|n| !self.down.contains(n)) else {
                return;
            };
            if !starting {
                self.say(format_args!("resumed by hand"));
                self.by_hand += 1;
                self.fence += 1;
                self.take_up(node, self.fence);
            }
        }
    }

    fn take_up(&mut self, node: usize, fence: u64) {
        let resumed = resume(&self.journal, Epoch(fence)).expect("a job to take up");
        self.write(Entry::Resumed {
            base: resumed.base,
            node: self.names[node].clone(),
            pid: self.pids + 1,
            settings: Settings {
                max_restarts: 1,
                op_timeout_ms: 1,
                poison: None,
                standbys: None,
            },
        });
        self.lead(node, fence, resumed.base);
    }

    fn event(&mut self, ev: Ev) {
        // Who is stopped does nothing until it goes on.
        let whose = match &ev {
            Ev::Tick(pid) | Ev::Work(pid) | Ev::ToLeader(pid, _) | Ev::ToStandby(pid, ..) => Some(*pid),
            Ev::Dialled(pid) | Ev::Unreachable(pid) | Ev::Read(pid) | Ev::Fence(pid) => Some(*pid),
            _ => None,
        };
        if let Some(pid) = whose {
            match self.processes.get(&pid) {
                None => return,
                Some(process) if process.stopped => return self.at(300, ev),
                Some(_) => {}
            }
        }
        match ev {
            Ev::Tick(pid) => {
                self.at(50, Ev::Tick(pid));
                match self.processes[&pid].role {
                    Role::Leads { .. } => self.give_leader(pid, StandbysInput::Tick),
                    Role::Waits { .. } => self.give_standby(pid, StandbyInput::Tick),
                }
            }
            Ev::Work(pid) => self.work(pid),
            Ev::Start { node, by } => self.start(node, by),
            Ev::ToLeader(pid, input) => self.give_leader(pid, input),
            Ev::ToStandby(pid, conn, input) => {
                if self.processes[&pid].conn == Some(conn) {
                    if let StandbyInput::Closed = input
                        && let Some(process) = self.processes.get_mut(&pid)
                    {
                        process.conn = None;
                    }
                    self.give_standby(pid, input);
                }
            }
            Ev::Dialled(pid) => self.dialled(pid),
            Ev::Unreachable(pid) => self.give_standby(pid, StandbyInput::Unreachable),
            Ev::Read(pid) => {
                let answers = !self.starved.contains(&self.processes[&pid].node);
                let input = match answers {
                    true => StandbyInput::Read(JournalFacts::of(&self.journal)),
                    false => StandbyInput::Failed,
                };
                self.give_standby(pid, input);
            }
            Ev::Fence(pid) => {
                let Some(process) = self.processes.get_mut(&pid) else {
                    return;
                };
                let input = match (self.starved.contains(&process.node), &mut process.role) {
                    (false, Role::Waits { fenced, .. }) => {
                        self.fence += 1;
                        *fenced = Some(self.fence);
                        StandbyInput::Fenced(JournalFacts::of(&self.journal))
                    }
                    _ => StandbyInput::Failed,
                };
                self.give_standby(pid, input);
            }
            Ev::Member { node, alive } => {
                let name = self.names[node].clone();
                for pid in self.processes.keys().copied().collect::<Vec<_>>() {
                    let Some(process) = self.processes.get(&pid) else {
                        continue;
                    };
                    match &process.role {
                        Role::Leads { .. } if alive => {
                            self.give_leader(pid, StandbysInput::NodeAlive(name.clone()))
                        }
                        Role::Leads { .. } => self.give_leader(pid, StandbysInput::NodeFailed(name.clone())),
                        Role::Waits { leader, .. } if self.homes[leader] == node => {
                            let told = if alive {
                                StandbyInput::NodeAlive
                            } else {
                                StandbyInput::NodeFailed
                            };
                            self.give_standby(pid, told);
                        }
                        Role::Waits { .. } => {}
                    }
                }
            }
            Ev::Fault => {
                if self.now < CALM_FROM {
                    self.fault();
                    let next = if self.orderly {
                        10_000
                    } else {
                        200 + self.below(5_000)
                    };
                    self.at(next, Ev::Fault);
                }
            }
            Ev::Go(pid) => {
                if let Some(process) = self.processes.get_mut(&pid) {
                    process.stopped = false;
                }
            }
            Ev::NodeUp(node) => {
                self.down.remove(&node);
                self.at(300, Ev::Member { node, alive: true });
            }
            Ev::Heal => {
                self.cuts.clear();
                self.starved.clear();
            }
            Ev::EndJob => {
                let leads = |p: &Process| matches!(p.role, Role::Leads { .. });
                let pid = self.processes.iter().find(|(_, p)| leads(p)).map(|(pid, _)| *pid);
                if let Some(pid) = pid {
                    self.end_job(pid);
                }
            }
        }
    }

    fn end_job(&mut self, pid: Pid) {
        self.say(format_args!("{pid} ends the job"));
        self.write(Entry::End {
            ok: true,
            why: String::new(),
        });
        self.ended = true;
        self.give_leader(
            pid,
            StandbysInput::Over {
                why: "the job has ended".into(),
            },
        );
        // At any moment from then on it may be gone.
        self.exit(pid);
    }

    fn work(&mut self, pid: Pid) {
        let next = 100 + self.below(900);
        self.at(next, Ev::Work(pid));
        let process = &self.processes[&pid];
        let Role::Leads { fence, base, .. } = process.role else {
            return;
        };
        if self.starved.contains(&process.node) {
            return;
        }
        if fence < self.fence {
            self.say(format_args!("{pid} is refused by the journal"));
            return self.exit(pid);
        }
        let node = self.names[process.node].clone();
        let launch = Entry::Launch {
            task: TaskId::new(0, 0),
            epoch: Epoch(base.0 + 1),
            node,
        };
        self.write(launch);
        if !self.orderly && self.now < CALM_FROM && self.below(400) == 0 {
            self.end_job(pid);
        }
    }

    fn start(&mut self, node: usize, by: Pid) {
        let Some(starter) = self.processes.get(&by) else {
            return;
        };
        let Role::Leads { base, .. } = starter.role else {
            return;
        };
        if !self.hears(node, starter.node) {
            let why = "no SSH".into();
            let node = self.names[node].clone();
            return self.at(1_000, Ev::ToLeader(by, StandbysInput::StartFailed { node, why }));
        }
        self.pids += 1;
        let pid = self.pids;
        self.homes.insert(pid, node);
        let role = Role::Waits {
            machine: Standby::new(self.now, LEASE, base),
            leader: by,
            fenced: None,
        };
        self.processes.insert(
            pid,
            Process {
                node,
                stopped: false,
                role,
                conn: None,
            },
        );
        self.say(format_args!("{pid} stands by {by} on {node}"));
        self.at(0, Ev::Tick(pid));
    }

    fn dialled(&mut self, pid: Pid) {
        let process = &self.processes[&pid];
        let Role::Waits { leader, .. } = process.role else {
            return;
        };
        let there = self.homes[&leader];
        if !self.hears(there, process.node) || !self.hears(process.node, there) {
            return self.at(3_000, Ev::Unreachable(pid));
        }
        match self.processes.get(&leader) {
            None => return self.give_standby(pid, StandbyInput::Refused),
            Some(leader) if leader.stopped => return self.at(3_000, Ev::Unreachable(pid)),
            Some(_) => {}
        }
        self.conns += 1;
        let conn = ConnId(self.conns);
        self.links.insert(conn, (leader, pid));
        let name = self.names[process.node].clone();
        if let Some(process) = self.processes.get_mut(&pid) {
            process.conn = Some(conn);
        }
        self.give_standby(pid, StandbyInput::Connected);
        self.at(
            1,
            Ev::ToLeader(
                leader,
                StandbysInput::Registered {
                    conn,
                    node: name,
                    pid,
                },
            ),
        );
    }

    fn give_leader(&mut self, pid: Pid, input: StandbysInput) {
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        let (here, mut out) = (process.node, vec![]);
        let Role::Leads { standbys, .. } = &mut process.role else {
            return;
        };
        standbys.handle(self.now, input, &mut out);
        for effect in out {
            if !matches!(
                effect,
                StandbysEffect::Tell {
                    message: ToStandby::Beat { .. },
                    ..
                }
            ) {
                self.say(format_args!("{pid} -> {effect:?}"));
            }
            match effect {
                StandbysEffect::Start { node } => {
                    let node = self.names.iter().position(|n| *n == node).unwrap();
                    assert!(!self.orderly || node != here, "beside its leader");
                    let delay = 50 + self.below(700);
                    self.at(delay, Ev::Start { node, by: pid });
                }
                StandbysEffect::Tell { conn, message } => self.tell(conn, here, StandbyInput::Heard(message)),
                StandbysEffect::Close { conn } => {
                    self.tell(conn, here, StandbyInput::Closed);
                    self.links.remove(&conn);
                }
                StandbysEffect::Event(_) => {}
            }
        }
    }

    fn tell(&mut self, conn: ConnId, from: usize, input: StandbyInput) {
        let Some((_, to)) = self.links.get(&conn).copied() else {
            return;
        };
        if let Some(there) = self.node(to)
            && self.hears(there, from)
        {
            // In order: a connection.
            self.at(2, Ev::ToStandby(to, conn, input));
        }
    }

    fn give_standby(&mut self, pid: Pid, input: StandbyInput) {
        let Some(process) = self.processes.get_mut(&pid) else {
            return;
        };
        let (here, conn, mut out) = (process.node, process.conn, vec![]);
        let Role::Waits { machine, .. } = &mut process.role else {
            return;
        };
        machine.handle(self.now, input, &mut out);
        for effect in out {
            if !matches!(effect, StandbyEffect::Beat { .. } | StandbyEffect::Dial) {
                self.say(format_args!("{pid} -> {effect:?}"));
            }
            match effect {
                StandbyEffect::Dial => self.at(1, Ev::Dialled(pid)),
                StandbyEffect::Hang => {
                    if let Some(process) = self.processes.get_mut(&pid) {
                        process.conn = None;
                    }
                    self.close(conn, here);
                }
                StandbyEffect::Beat { late_ms } => {
                    let beat = FromStandby::Beat { late_ms };
                    let leader = conn.and_then(|c| self.links.get(&c)).map(|link| link.0);
                    if let (Some(conn), Some(leader), FromStandby::Beat { late_ms }) = (conn, leader, beat)
                        && let Some(there) = self.node(leader)
                        && self.hears(there, here)
                    {
                        self.at(2, Ev::ToLeader(leader, StandbysInput::Beat { conn, late_ms }));
                    }
                }
                StandbyEffect::Read => {
                    let delay = 5 + self.below(100);
                    self.at(delay, Ev::Read(pid));
                }
                StandbyEffect::Fence => {
                    let delay = 5 + self.below(if self.orderly { 100 } else { 2_000 });
                    self.at(delay, Ev::Fence(pid));
                }
                StandbyEffect::Lead { .. } => self.takes_over(pid),
                StandbyEffect::End { .. } => self.exit(pid),
            }
        }
    }

    fn takes_over(&mut self, pid: Pid) {
        let (seed, trace) = (self.seed, &self.trace);
        let Role::Waits { fenced, .. } = self.processes[&pid].role else {
            unreachable!()
        };
        let Some(fence) = fenced else {
            panic!("seed {seed}: {pid} leads without the fence\n{trace}")
        };
        let facts = JournalFacts::of(&self.journal);
        assert!(
            !facts.ended,
            "seed {seed}: {pid} takes up a job that has ended\n{trace}"
        );
        self.takeovers += 1;
        let node = self.processes[&pid].node;
        self.exit(pid);
        if fence == self.fence {
            self.take_up(node, fence);
        }
        // Else another was quicker: its first write is refused.
    }

    /// A connection's other end hears of its end, if it can hear.
    fn close(&mut self, conn: Option<ConnId>, here: usize) {
        let Some(conn) = conn else { return };
        let Some((leader, _)) = self.links.remove(&conn) else {
            return;
        };
        if let Some(there) = self.node(leader)
            && self.hears(there, here)
        {
            self.at(3, Ev::ToLeader(leader, StandbysInput::Closed { conn }));
        }
    }

    /// The process is gone; its connections close.
    fn exit(&mut self, pid: Pid) {
        let Some(process) = self.processes.remove(&pid) else {
            return;
        };
        self.close(process.conn, process.node);
        let own = self.links.iter().filter(|(_, (leader, _))| *leader == pid);
        for conn in own.map(|(conn, _)| *conn).collect::<Vec<_>>() {
            self.tell(conn, process.node, StandbyInput::Closed);
            self.links.remove(&conn);
        }
    }

    fn fault(&mut self) {
        let pids: Vec<Pid> = self.processes.keys().copied().collect();
        let leads = |p: &Process| matches!(p.role, Role::Leads { .. });
        let leader = self.processes.iter().find(|(_, p)| leads(p)).map(|(pid, _)| *pid);
        if self.orderly {
            let ready = leader.is_some_and(|pid| match &self.processes[&pid].role {
                Role::Leads { standbys, .. } => standbys.ready().count() > 0,
                Role::Waits { .. } => false,
            });
            if let (Some(pid), true) = (leader, ready) {
                self.deaths += 1;
                self.say(format_args!("kill {pid}"));
                self.exit(pid);
            }
            return;
        }
        let any = pids.get(self.below(pids.len() as u64) as usize).copied();
        let node = self.below(self.names.len() as u64) as usize;
        let other = self.below(self.names.len() as u64) as usize;
        match (self.below(10), leader, any) {
            (0..=1, Some(pid), _) | (2..=3, _, Some(pid)) => {
                self.deaths += 1;
                self.say(format_args!("kill {pid}"));
                self.exit(pid);
            }
            (4, _, Some(pid)) => {
                self.say(format_args!("stop {pid}"));
                if let Some(process) = self.processes.get_mut(&pid) {
                    process.stopped = true;
                }
                let until = 500 + self.below(9_000);
                self.at(until, Ev::Go(pid));
            }
            (5..=6, ..) => self.node_down(node),
            (7, ..) => {
                self.say(format_args!("cut {node} {other}"));
                self.cuts.insert((node, other));
                if self.below(2) == 0 {
                    self.cuts.insert((other, node));
                }
                let until = 1_000 + self.below(8_000);
                self.at(until, Ev::Heal);
            }
            (8, ..) => {
                self.say(format_args!("starve {node}"));
                self.starved.insert(node);
                let until = 1_000 + self.below(8_000);
                self.at(until, Ev::Heal);
            }
            (9, ..) => {
                // A false accusation.
                self.at(0, Ev::Member { node, alive: false });
                self.at(2_000, Ev::Member { node, alive: true });
            }
            _ => {}
        }
    }

    /// A pulled plug closes no connection.
    fn node_down(&mut self, node: usize) {
        if self.down.len() + 1 >= self.names.len() || !self.down.insert(node) {
            return;
        }
        self.say(format_args!("node {node} is down"));
        let found = 1_000 + self.below(2_000);
        self.at(found, Ev::Member { node, alive: false });
        let back = 4_000 + self.below(9_000);
        self.at(back, Ev::NodeUp(node));
        let on_it = self.processes.iter().filter(|(_, p)| p.node == node);
        for pid in on_it.map(|(pid, _)| *pid).collect::<Vec<_>>() {
            self.processes.remove(&pid);
        }
    }
}

struct Ran {
    trace: String,
    deaths: u32,
    takeovers: u32,
}

#[test]
fn one_leads_whatever_dies_and_standbys_are_replaced() {
    let seeds = Seeds::from_env(0..2000);
    if seeds.told {
        println!("{}", World::new(seeds.range.start).run().trace);
        return;
    }
    let n = seeds.count();
    let (mut deaths, mut takeovers) = (0, 0);
    for seed in seeds.range {
        let ran = World::new(seed).run();
        deaths += u64::from(ran.deaths);
        takeovers += u64::from(ran.takeovers);
    }
    // A simulation in which little is taken up proves little.
    assert!(
        deaths > n && takeovers > n,
        "only {deaths} deaths and {takeovers} take-overs"
    );
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..20 {
        assert!(
            World::new(seed).run().trace == World::new(seed).run().trace,
            "seed {seed}"
        );
    }
}

#[test]
fn mutants_are_caught() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let caught_at = |mutant: Mutant| {
        let _left_out = mutant.turn_on();
        (0..2000).find(|seed| std::panic::catch_unwind(|| World::new(*seed).run()).is_err())
    };
    let caught: Vec<_> = Mutant::ALL
        .iter()
        .map(|mutant| (*mutant, caught_at(*mutant)))
        .collect();
    std::panic::set_hook(hook);
    for (mutant, seed) in &caught {
        println!("{mutant:?}: caught at seed {seed:?}");
    }
    assert!(
        caught.iter().all(|(_, seed)| seed.is_some()),
        "not all are caught: {caught:?}"
    );
}
