//! Simulated clusters around the real state machine: processes and nodes die, stop, come late, come twice.
//! `RAINSTORM_SIM_SEED=n` replays one seed with its trace.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use common::control::{Failure, Report};

use super::*;
use crate::plan::tests::sample;

struct Rng(u64);

impl Rng {
    /// splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[derive(Debug, Clone)]
enum Ev {
    Tick,
    Fault,
    /// A process comes up and registers, perhaps a second time.
    Up(TaskId, Epoch),
    /// A process does its next thing.
    Step(ConnId),
    Tell(Input),
    NodeUp(NodeName),
    Continue(ConnId),
}

#[derive(Debug, Clone)]
struct Worker {
    task: TaskId,
    epoch: Epoch,
    node: NodeName,
    planned: bool,
    started: bool,
    stopped: bool,
    done: bool,
    work: u64,
    peers: BTreeMap<TaskId, Epoch>,
}

struct World {
    rng: Rng,
    seed: u64,
    now: Time,
    job: Job,
    queue: BTreeMap<(Time, u64), Ev>,
    seq: u64,
    conns: u64,
    /// By connection; a worker that is dead is not in here.
    workers: BTreeMap<ConnId, Worker>,
    down: BTreeSet<NodeName>,
    /// What the state machine believes.
    told_failed: BTreeSet<NodeName>,
    launched: BTreeMap<TaskId, (Epoch, NodeName)>,
    planned: BTreeSet<(TaskId, Epoch)>,
    /// Durable: all inputs of this task have been consumed.
    ended: BTreeSet<TaskId>,
    said_done: BTreeSet<TaskId>,
    outcome: Option<Result<(), String>>,
    trace: String,
    launches: u32,
}

const CALM_FROM: Time = Time(12_000_000);
const END_BY: Time = Time(120_000_000);

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let nodes: Vec<NodeName> = (0..1 + rng.below(4))
            .map(|i| NodeName::new(format!("n{i}")).unwrap())
            .collect();
        let (stages, tasks, sources) = (1 + rng.below(3), 1 + rng.below(3), 1 + rng.below(3));
        let plan = sample(stages as u16, tasks as u16, sources as u16, &nodes);
        let config = Config {
            lease: Duration::from_secs(3),
            max_restarts: 1000,
        };
        let job = Job::new(plan, config, nodes, BTreeSet::new());
        let mut world = Self {
            rng,
            seed,
            now: Time(1_000_000),
            job,
            queue: BTreeMap::new(),
            seq: 0,
            conns: 0,
            workers: BTreeMap::new(),
            down: BTreeSet::new(),
            told_failed: BTreeSet::new(),
            launched: BTreeMap::new(),
            planned: BTreeSet::new(),
            ended: BTreeSet::new(),
            said_done: BTreeSet::new(),
            outcome: None,
            trace: String::new(),
            launches: 0,
        };
        world.at(0, Ev::Tick);
        world.at(0, Ev::Fault);
        world.give(Input::Begin);
        world
    }

    fn at(&mut self, ms: u64, ev: Ev) {
        self.seq += 1;
        self.queue
            .insert((self.now + Duration::from_millis(ms), self.seq), ev);
    }

    fn run(mut self) -> (String, u32) {
        while let Some(((when, _), ev)) = self.queue.pop_first() {
            self.now = when;
            match self.outcome.clone() {
                Some(Ok(())) => return (self.trace, self.launches),
                Some(Err(why)) => panic!("seed {}: the job failed: {why}\n{}", self.seed, self.trace),
                None => {}
            }
            assert!(
                when < END_BY,
                "seed {}: the job does not end\n{}",
                self.seed,
                self.trace
            );
            self.event(ev);
        }
        panic!("seed {}: nothing left to happen\n{}", self.seed, self.trace);
    }

    fn event(&mut self, ev: Ev) {
        match ev {
            Ev::Tick => {
                self.at(50, Ev::Tick);
                self.give(Input::Tick);
            }
            Ev::Fault => {
                if self.now < CALM_FROM {
                    self.fault();
                    let next = 20 + self.rng.below(700);
                    self.at(next, Ev::Fault);
                }
            }
            Ev::Up(task, epoch) => self.up(task, epoch),
            Ev::Step(conn) => self.step(conn),
            Ev::Tell(input) => {
                match &input {
                    Input::NodeFailed(n) => drop(self.told_failed.insert(n.clone())),
                    Input::NodeAlive(n) => drop(self.told_failed.remove(n)),
                    _ => {}
                }
                self.give(input);
            }
            Ev::NodeUp(node) => {
                self.down.remove(&node);
                let delay = self.rng.below(500);
                self.at(delay, Ev::Tell(Input::NodeAlive(node)));
            }
            Ev::Continue(conn) => {
                if let Some(w) = self.workers.get_mut(&conn) {
                    w.stopped = false;
                    self.at(0, Ev::Step(conn));
                }
            }
        }
    }

    fn give(&mut self, input: Input) {
        if !matches!(
            input,
            Input::Tick
                | Input::Message {
                    message: ToLeader::Beat(_),
                    ..
                }
        ) {
            let _ = writeln!(self.trace, "{:>9} <- {input:?}", self.now.0);
        }
        let mut out = vec![];
        self.job.handle(self.now, input, &mut out);
        for effect in out {
            self.effect(effect);
        }
    }

    fn effect(&mut self, effect: Effect) {
        if !matches!(
            effect,
            Effect::Send {
                message: ToWorker::Beat,
                ..
            }
        ) {
            let _ = writeln!(self.trace, "{:>9}    -> {effect:?}", self.now.0);
        }
        let seed = self.seed;
        match effect {
            Effect::Launch { task, epoch, node } => {
                let before = self.launched.get(&task).map_or(0, |l| l.0.0);
                assert_eq!(
                    epoch.0,
                    before + 1,
                    "seed {seed}: epochs of {task} follow each other"
                );
                assert!(
                    !self.told_failed.contains(&node),
                    "seed {seed}: launched on a failed node"
                );
                assert!(self.outcome.is_none(), "seed {seed}: launched after the end");
                let ups = self.job.plan().upstream(task);
                let all_done = ups.iter().all(|up| self.job.task(*up).is_some_and(Task::is_done));
                assert!(
                    !(self.said_done.contains(&task) && all_done),
                    "seed {seed}: {task} was done and nobody needs it\n{}",
                    self.trace
                );
                self.launched.insert(task, (epoch, node.clone()));
                self.launches += 1;
                self.launch(task, epoch, node);
            }
            Effect::Send { conn, message } => self.receive(conn, message),
            Effect::Close { conn } => {
                // A process whose connection is closed by the leader exits, unless it is stopped: then later.
                if self.workers.get(&conn).is_some_and(|w| !w.stopped) {
                    self.die(conn, Exit::Code(1), false);
                }
            }
            Effect::Kill { task, epoch, .. } => {
                let hit = self
                    .workers
                    .iter()
                    .find(|(_, w)| (w.task, w.epoch) == (task, epoch))
                    .map(|(c, _)| *c);
                if let Some(conn) = hit {
                    self.die(conn, Exit::Killed, false);
                }
            }
            Effect::Event(_) => {}
            Effect::Done => {
                assert_eq!(
                    self.said_done.len(),
                    self.launched.len(),
                    "seed {seed}: done too early"
                );
                self.outcome = Some(Ok(()));
            }
            Effect::Failed { why } => self.outcome = Some(Err(why)),
        }
    }

    fn launch(&mut self, task: TaskId, epoch: Epoch, node: NodeName) {
        let calm = self.now >= CALM_FROM;
        let delay = 5 + self.rng.below(300);
        if self.down.contains(&node) {
            if self.rng.chance(70) {
                let why = format!("cannot reach {node}");
                self.at(delay, Ev::Tell(Input::LaunchFailed { task, epoch, why }));
            }
            return;
        }
        if !calm && self.rng.chance(5) {
            self.at(
                delay,
                Ev::Tell(Input::LaunchFailed {
                    task,
                    epoch,
                    why: "too many sessions".into(),
                }),
            );
            return;
        }
        if !calm && self.rng.chance(5) {
            // Killed before it registers.
            self.at(
                delay,
                Ev::Tell(Input::Exited {
                    task,
                    epoch,
                    exit: Exit::Killed,
                    stderr: vec![],
                }),
            );
            return;
        }
        let late = if !calm && self.rng.chance(3) {
            9_000 + self.rng.below(4_000)
        } else {
            0
        };
        self.at(delay + late, Ev::Up(task, epoch));
        if self.rng.chance(5) {
            let again = delay + late + self.rng.below(200);
            self.at(again, Ev::Up(task, epoch));
        }
    }

    fn up(&mut self, task: TaskId, epoch: Epoch) {
        self.conns += 1;
        let conn = ConnId(self.conns);
        // A late one: its place may have been taken. The node of the newest launch is near enough.
        let Some((_, node)) = self.launched.get(&task).cloned() else {
            return;
        };
        if self.down.contains(&node) {
            return;
        }
        let worker = Worker {
            task,
            epoch,
            node,
            planned: false,
            started: false,
            stopped: false,
            done: false,
            work: 2 + self.rng.below(8),
            peers: BTreeMap::new(),
        };
        self.workers.insert(conn, worker);
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        self.give(Input::Registered {
            conn,
            task,
            epoch,
            pid: self.conns as u32,
            addr,
        });
    }

    fn receive(&mut self, conn: ConnId, message: ToWorker) {
        let Some(w) = self.workers.get_mut(&conn) else {
            return;
        };
        match message {
            ToWorker::Plan(plan) => {
                let id = (plan.task, plan.epoch);
                assert_eq!(id, (w.task, w.epoch), "seed {}", self.seed);
                assert_eq!(
                    Some(w.epoch),
                    self.launched.get(&w.task).map(|l| l.0),
                    "seed {}: not the newest",
                    self.seed
                );
                assert!(
                    self.planned.insert(id),
                    "seed {}: {id:?} planned twice",
                    self.seed
                );
                w.planned = true;
                let delay = 5 + self.rng.below(100);
                self.at(delay, Ev::Step(conn));
            }
            ToWorker::Peers(peers) => w.peers.extend(peers.into_iter().map(|p| (p.task, p.epoch))),
            ToWorker::Beat | ToWorker::Rate(_) | ToWorker::Slices(_) | ToWorker::Drain => {}
            ToWorker::Finish | ToWorker::Refused { .. } => {
                if !w.stopped {
                    self.workers.remove(&conn);
                }
            }
        }
    }

    /// A worker starts, beats, works, and is done when its input has ended and its receivers have acknowledged.
    fn step(&mut self, conn: ConnId) {
        let Some(w) = self.workers.get(&conn).cloned() else {
            return;
        };
        if w.stopped || !w.planned {
            return;
        }
        self.at(200, Ev::Step(conn));
        let message = if !w.started {
            ToLeader::Started { replayed: 0 }
        } else if w.done {
            ToLeader::Beat(Report::default())
        } else if w.work > 0 {
            ToLeader::Beat(Report {
                tuples_in: self.now.0,
                ..Report::default()
            })
        } else {
            let fed = self
                .job
                .plan()
                .upstream(w.task)
                .iter()
                .all(|up| self.ended.contains(up));
            if fed {
                self.ended.insert(w.task);
            }
            let acked = self
                .job
                .plan()
                .downstream(w.task)
                .iter()
                .all(|down| self.acknowledges(&w, *down));
            if fed && acked {
                ToLeader::Done(Report::default())
            } else {
                ToLeader::Beat(Report::default())
            }
        };
        let mut seen = false;
        if let Some(w) = self.workers.get_mut(&conn) {
            w.started = true;
            w.work = w.work.saturating_sub(1);
            if let ToLeader::Done(_) = message {
                w.done = true;
                seen = true;
            }
        }
        if seen && self.job.task(w.task).is_some_and(|t| t.conn() == Some(conn)) {
            self.said_done.insert(w.task);
        }
        self.give(Input::Message { conn, message });
    }

    /// The receiver as `w` knows it lives, has started, and has ended (it consumed all there is).
    fn acknowledges(&self, w: &Worker, down: TaskId) -> bool {
        let Some(epoch) = w.peers.get(&down) else {
            return false;
        };
        self.workers
            .values()
            .any(|r| r.task == down && r.epoch == *epoch && r.started && !r.stopped && r.planned)
            && (self.ended.contains(&down) || self.ended.contains(&w.task))
    }

    fn die(&mut self, conn: ConnId, exit: Exit, silent: bool) {
        let Some(w) = self.workers.remove(&conn) else {
            return;
        };
        if silent {
            return;
        }
        let (a, b) = (self.rng.below(30), self.rng.below(200));
        self.at(a, Ev::Tell(Input::ConnClosed { conn }));
        // The exit may be told before, after, or never.
        if self.rng.chance(90) {
            self.at(
                b,
                Ev::Tell(Input::Exited {
                    task: w.task,
                    epoch: w.epoch,
                    exit,
                    stderr: vec![],
                }),
            );
        }
    }

    fn fault(&mut self) {
        let conns: Vec<ConnId> = self.workers.keys().copied().collect();
        let nodes = self.job.nodes.clone();
        let pick = self.rng.below(conns.len() as u64) as usize;
        let node = nodes[self.rng.below(nodes.len() as u64) as usize].clone();
        match (self.rng.below(20), conns.get(pick)) {
            (0..=9, Some(&conn)) => self.die(conn, Exit::Killed, false),
            (10..=12, Some(&conn)) => {
                let failure = Failure {
                    what: "boom".into(),
                    key: None,
                    unit: None,
                    stderr: vec![],
                    fatal: false,
                };
                self.give(Input::Message {
                    conn,
                    message: ToLeader::Failed(failure),
                });
                self.die(conn, Exit::Code(1), false);
            }
            (13..=15, Some(&conn)) => {
                if let Some(w) = self.workers.get_mut(&conn) {
                    w.stopped = true;
                    let until = 1_000 + self.rng.below(8_000);
                    self.at(until, Ev::Continue(conn));
                }
            }
            (16..=17, _) => self.node_down(node),
            (18, _) => {
                // A false accusation: all on it live on.
                self.at(0, Ev::Tell(Input::NodeFailed(node.clone())));
                let back = 100 + self.rng.below(5_000);
                self.at(back, Ev::Tell(Input::NodeAlive(node)));
            }
            _ => {}
        }
    }

    fn node_down(&mut self, node: NodeName) {
        if !self.down.insert(node.clone()) {
            return;
        }
        let on_it: Vec<ConnId> = self
            .workers
            .iter()
            .filter(|(_, w)| w.node == node)
            .map(|(c, _)| *c)
            .collect();
        for conn in on_it {
            // A pulled plug closes no connection.
            let silent = self.rng.chance(50);
            self.die(conn, Exit::Unknown("the connection was lost".into()), silent);
        }
        let (found, back) = (500 + self.rng.below(2_000), 3_000 + self.rng.below(8_000));
        self.at(found, Ev::Tell(Input::NodeFailed(node.clone())));
        self.at(back, Ev::NodeUp(node));
    }
}

fn seeds(from: u64, n: u64) {
    if let Some(seed) = std::env::var("RAINSTORM_SIM_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
    {
        println!("{}", World::new(seed).run().0);
        return;
    }
    let launches: u32 = (from..from + n).map(|seed| World::new(seed).run().1).sum();
    // A simulation in which little is replaced proves little.
    assert!(u64::from(launches) > 20 * n, "only {launches} launches");
}

#[test]
fn jobs_end_whatever_dies() {
    seeds(0, 2000);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..20 {
        assert!(
            World::new(seed).run().0 == World::new(seed).run().0,
            "seed {seed}"
        );
    }
}
