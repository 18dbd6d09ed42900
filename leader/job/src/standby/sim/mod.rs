//! Leaders and standbys on simulated nodes, around one journal: processes die, stop and go on, nodes lose power and come back,
//! two nodes cannot hear each other, storage does not answer some. [`common::seeds`] says how to run more seeds, or one again.

mod events;
mod faults;
mod runs;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use common::clock::Time;
use common::ids::{Epoch, NodeName, TaskId};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

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
}

struct Ran {
    trace: String,
    deaths: u32,
    takeovers: u32,
}
