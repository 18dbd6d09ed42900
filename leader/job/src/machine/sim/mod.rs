//! Simulated clusters around the real state machine: processes and nodes die, stop, come late, come twice; operators fail
//! at tuples; files appear; the leader dies, and another takes the job up from what of the journal was durable.
//! [`common::seeds`] says how to run more seeds, or one again.

mod leader;
mod runs;
mod worker;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::time::Duration;

use common::clock::Time;
use common::exit::Exit;
use common::ids::{Creation, Epoch, NodeName, TaskId};
use protocol::control::{Failure, OpKind, Slice, ToLeader, ToWorker, Unit};

use super::{Config, ConnId, Effect, Input, Job, JobEvent, Task};
use crate::plan::sample::sample;
use crate::plan::{Plan, Scaling, SourceFile};
use crate::record::{Counts, Entry, Record, Ticket};
use worker::Worker;

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
#[allow(clippy::large_enum_variant)] // a simulation holds few of them
enum SimEvent {
    Tick,
    Fault,
    /// A process comes up and registers, perhaps a second time.
    Up(TaskId, Epoch),
    /// A process does its next thing.
    Step(ConnId),
    Tell(Input),
    NodeUp(NodeName),
    Continue(ConnId),
    /// Something of this leader's journal has become durable.
    Durable(u64),
    /// A process notices that its leader is gone.
    Orphan(ConnId),
    /// Another leader takes the job up.
    TakeUp,
    /// A file appears in the source folder.
    NewFile,
    /// The leader looks into the source folder.
    Look,
    /// The user's first Ctrl-C.
    Interrupt,
    /// A stage is to gain a task, or to lose one.
    Scale,
}

struct World {
    rng: Rng,
    seed: u64,
    now: Time,
    /// As it was planned first.
    plan: Plan,
    config: Config,
    nodes: Vec<NodeName>,
    /// `None`: the leader is gone.
    job: Option<Job>,
    queue: BTreeMap<(Time, u64), SimEvent>,
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
    /// Durable: the routing version that each task has logged, and the one that it cannot fall behind.
    logged: BTreeMap<TaskId, u32>,
    routed: BTreeMap<TaskId, u32>,
    /// Durable, where state moves: the version of its own stage's routing that each task has put in force.
    moved: BTreeMap<TaskId, u32>,
    /// The same before what it hands over has arrived.
    given: BTreeMap<TaskId, u32>,
    /// By stage: the newest version that an upstream task has marked.
    marked: BTreeMap<u16, u32>,
    /// How often a task took part in moving state.
    moves: u32,
    /// Tasks that came later and that something was routed to.
    fed: BTreeSet<TaskId>,
    /// With exactly-once: the newest epoch that has opened the task's log. Older ones can note nothing any more.
    fence: BTreeMap<TaskId, Epoch>,
    scaled: u32,
    /// Tasks of which some process was ready once.
    ready: BTreeSet<TaskId>,
    /// The present leader knows that it is done.
    said_done: BTreeSet<TaskId>,
    ever_done: BTreeSet<TaskId>,
    outcome: Option<Result<(), String>>,
    trace: String,
    launches: u32,
    /// The journal, and what is on its way to it.
    durable: Vec<Record>,
    under_way: VecDeque<(Entry, Option<Ticket>)>,
    stalled_until: Time,
    leaders: u64,
    crashes: u32,
    /// How often the journal was rewritten.
    rewritten: u32,
    base: Epoch,
    /// Tuples that no operator digests.
    poison: BTreeMap<TaskId, Vec<Unit>>,
    files: Vec<SourceFile>,
    must_read: Vec<SourceFile>,
    /// The most slices that any process of a source task has heard of.
    seen: BTreeMap<TaskId, Vec<Slice>>,
}

const CALM_FROM: Time = Time(12_000_000);
const END_BY: Time = Time(180_000_000);
const MOST_CRASHES: u32 = 4;

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let nodes: Vec<NodeName> = (0..1 + rng.below(4))
            .map(|i| NodeName::new(format!("n{i}")).unwrap())
            .collect();
        let (stages, tasks, sources) = (1 + rng.below(3), 1 + rng.below(3), 1 + rng.below(3));
        let mut plan = sample(stages as u16, tasks as u16, sources as u16, &nodes);
        plan.follow = rng.chance(30);
        plan.exactly_once = rng.chance(80);
        if plan.exactly_once && rng.chance(70) {
            // Rates are none here, so that only the simulation scales.
            plan.scaling = Some(Scaling {
                low: 0,
                high: u64::MAX,
                most: 8,
                stateful: true,
            });
            for stage in &mut plan.stages {
                if let Some(op) = stage.op.as_mut().filter(|_| rng.chance(50)) {
                    op.kind = OpKind::Aggregate;
                }
            }
        }
        let mut poison: BTreeMap<TaskId, Vec<Unit>> = BTreeMap::new();
        if plan.exactly_once && rng.chance(30) {
            plan.poison = Some("out.poison".into());
            let stage = 1 + rng.below(stages) as u16;
            let task = TaskId::new(stage, rng.below(tasks) as u16);
            let from = TaskId::new(stage - 1, 0);
            let units = (1..=1 + rng.below(2)).map(|number| Unit { from, number });
            poison.insert(task, units.collect());
        }
        let config = Config {
            lease: Duration::from_secs(3),
            max_restarts: if poison.is_empty() { 1000 } else { 2 },
        };
        let job = Job::new(plan.clone(), config.clone(), nodes.clone(), BTreeSet::new());
        let file = |s: &Slice| SourceFile {
            name: s.file.clone(),
            creation: s.creation.unwrap_or(Creation(0)),
        };
        let files: Vec<SourceFile> = plan.sources.iter().flatten().map(file).collect();
        let mut world = Self {
            rng,
            seed,
            now: Time(1_000_000),
            durable: vec![Self::record(Entry::Plan(Box::new(plan.clone())))],
            plan,
            config,
            nodes,
            job: Some(job),
            queue: BTreeMap::new(),
            seq: 0,
            conns: 0,
            workers: BTreeMap::new(),
            down: BTreeSet::new(),
            told_failed: BTreeSet::new(),
            launched: BTreeMap::new(),
            planned: BTreeSet::new(),
            ended: BTreeSet::new(),
            logged: BTreeMap::new(),
            routed: BTreeMap::new(),
            moved: BTreeMap::new(),
            given: BTreeMap::new(),
            marked: BTreeMap::new(),
            moves: 0,
            fed: BTreeSet::new(),
            fence: BTreeMap::new(),
            scaled: 0,
            ready: BTreeSet::new(),
            said_done: BTreeSet::new(),
            ever_done: BTreeSet::new(),
            outcome: None,
            trace: String::new(),
            launches: 0,
            under_way: VecDeque::new(),
            stalled_until: Time::ZERO,
            leaders: 1,
            crashes: 0,
            rewritten: 0,
            base: Epoch(0),
            poison,
            must_read: files.clone(),
            files,
            seen: BTreeMap::new(),
        };
        world.at(0, SimEvent::Tick);
        world.at(0, SimEvent::Fault);
        if world.plan.follow {
            world.at(300, SimEvent::NewFile);
            world.at(500, SimEvent::Look);
            let end = 2_000 + world.rng.below(12_000);
            world.at(end, SimEvent::Interrupt);
        }
        if world.rng.chance(60) {
            world.at(400, SimEvent::Scale);
        }
        world.give(Input::Begin);
        world
    }

    fn at(&mut self, ms: u64, ev: SimEvent) {
        self.seq += 1;
        self.queue
            .insert((self.now + Duration::from_millis(ms), self.seq), ev);
    }

    fn run(mut self) -> Ran {
        while let Some(((when, _), ev)) = self.queue.pop_first() {
            self.now = when;
            match self.outcome.clone() {
                Some(Ok(())) => {
                    return Ran {
                        trace: self.trace,
                        launches: self.launches,
                        crashes: self.crashes,
                        rewritten: self.rewritten,
                        poisoned: self.poison.len(),
                        scaled: self.scaled,
                        moves: self.moves,
                    };
                }
                Some(Err(why)) => panic!("seed {}: the job failed: {why}\n{}", self.seed, self.trace),
                None => {}
            }
            assert!(
                when < END_BY,
                "seed {}: the job does not end\n{}\nwaiting: {:#?}\nended {:?}, logged {:?}, routed {:?}",
                self.seed,
                self.trace,
                self.workers.values().filter(|w| !w.done).collect::<Vec<_>>(),
                self.ended,
                self.logged,
                self.routed
            );
            self.event(ev);
        }
        panic!("seed {}: nothing left to happen\n{}", self.seed, self.trace);
    }

    fn event(&mut self, ev: SimEvent) {
        match ev {
            SimEvent::Tick => {
                self.at(50, SimEvent::Tick);
                self.give(Input::Tick);
            }
            SimEvent::Fault => {
                if self.now < CALM_FROM {
                    self.fault();
                    let next = 20 + self.rng.below(700);
                    self.at(next, SimEvent::Fault);
                }
            }
            SimEvent::Up(task, epoch) => self.up(task, epoch),
            SimEvent::Step(conn) => self.step(conn),
            SimEvent::Tell(input) => {
                match &input {
                    _ if self.job.is_none() => {}
                    Input::NodeFailed(n) => drop(self.told_failed.insert(n.clone())),
                    Input::NodeAlive(n) => drop(self.told_failed.remove(n)),
                    _ => {}
                }
                self.give(input);
            }
            SimEvent::NodeUp(node) => {
                self.down.remove(&node);
                let delay = self.rng.below(500);
                self.at(delay, SimEvent::Tell(Input::NodeAlive(node)));
            }
            SimEvent::Continue(conn) => {
                if let Some(w) = self.workers.get_mut(&conn) {
                    w.stopped = false;
                    self.at(0, SimEvent::Step(conn));
                }
            }
            SimEvent::Durable(leader) if leader == self.leaders && self.job.is_some() => self.durable(),
            SimEvent::Durable(_) => {}
            SimEvent::Orphan(conn) => match self.workers.get(&conn) {
                Some(w) if w.stopped => self.at(500, SimEvent::Orphan(conn)),
                _ => drop(self.workers.remove(&conn)),
            },
            SimEvent::TakeUp => self.take_up(),
            SimEvent::NewFile => {
                let count = self.files.len();
                // Now and then one is removed, and made anew under its name.
                let name = match self.rng.below(4) {
                    0 => self.files[self.rng.below(count as u64) as usize].name.clone(),
                    _ => format!("new{count}"),
                };
                let creation = Creation(1000 + count as u64);
                self.files.push(SourceFile { name, creation });
                let next = self.rng.below(3_000);
                self.at(next, SimEvent::NewFile);
            }
            SimEvent::Look => {
                self.give(Input::Files(self.files_now()));
                self.at(500, SimEvent::Look);
            }
            SimEvent::Scale => {
                let stage = 1 + self.rng.below(self.plan.stages.len() as u64 - 1) as u16;
                let up = self.rng.chance(55);
                let mut out = vec![];
                if let Some(job) = &mut self.job
                    && job.plan().active(stage).len() < 6
                {
                    self.scaled += u32::from(job.scale(self.now, stage, up, &mut out));
                }
                for effect in out {
                    self.effect(effect);
                }
                let next = 200 + self.rng.below(2_000);
                if self.scaled < 8 {
                    self.at(next, SimEvent::Scale);
                }
            }
            // Who has taken the job up is interrupted in his turn.
            SimEvent::Interrupt => self.interrupt(),
        }
    }

    fn give(&mut self, input: Input) {
        let Some(job) = &mut self.job else { return };
        if !matches!(
            input,
            Input::Tick
                | Input::Files(_)
                | Input::Message {
                    message: ToLeader::Beat(_),
                    ..
                }
        ) {
            let _ = writeln!(self.trace, "{:>9} <- {input:?}", self.now.0);
        }
        let mut out = vec![];
        job.handle(self.now, input, &mut out);
        for effect in out {
            self.effect(effect);
        }
    }

    fn effect(&mut self, effect: Effect) {
        if !matches!(
            effect,
            Effect::Send {
                message: ToWorker::Beat { .. },
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
                    before.max(self.base.0) + 1,
                    "seed {seed}: epochs of {task} follow each other, and other leaders'"
                );
                assert!(
                    !self.told_failed.contains(&node),
                    "seed {seed}: launched on a failed node"
                );
                assert!(self.outcome.is_none(), "seed {seed}: launched after the end");
                let job = self.job.as_ref();
                let done = |up: &TaskId| job.and_then(|j| j.task(*up)).is_some_and(Task::is_done);
                // Without a log its receivers may need to be told again that it has ended.
                let receivers_done = self.plan.exactly_once || self.plan.downstream(task).iter().all(done);
                let all_done = self.plan.upstream(task).iter().all(done) && receivers_done;
                assert!(
                    !(self.said_done.contains(&task) && all_done) || self.scaled > 0,
                    "seed {seed}: {task} was done and nobody needs it\n{}",
                    self.trace
                );
                self.launched.insert(task, (epoch, node.clone()));
                self.launches += 1;
                let entry = Entry::Launch {
                    task,
                    epoch,
                    node: node.clone(),
                };
                self.write(entry, None);
                self.launch(task, epoch, node);
            }
            Effect::Send { conn, message } => self.receive(conn, message),
            Effect::Close { conn } => {
                // A process whose connection is closed by the leader exits, unless it is stopped: then later.
                if self.workers.get(&conn).is_some_and(|w| !w.stopped) {
                    self.die(conn, Exit::Code(4), false);
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
            Effect::Store { ticket, change } => self.write(Entry::Change(change), Some(ticket)),
            Effect::Event(JobEvent::End { task, epoch, .. }) => {
                let counts = Counts::default();
                let routed = self
                    .job
                    .as_ref()
                    .and_then(|j| j.task(task))
                    .map_or(0, |t| t.report.routed);
                let done = Entry::Done {
                    task,
                    epoch,
                    counts,
                    routed,
                };
                self.write(done, None);
            }
            Effect::Event(JobEvent::Scaled { stage, version }) => {
                self.write(Entry::Scaled { stage, version }, None);
            }
            Effect::Event(_) => {}
            Effect::Done => {
                self.check_end();
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
                self.at(delay, SimEvent::Tell(Input::LaunchFailed { task, epoch, why }));
            }
            return;
        }
        if !calm && self.rng.chance(5) {
            self.at(
                delay,
                SimEvent::Tell(Input::LaunchFailed {
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
                SimEvent::Tell(Input::Exited {
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
        self.at(delay + late, SimEvent::Up(task, epoch));
        if self.rng.chance(5) {
            let again = delay + late + self.rng.below(200);
            self.at(again, SimEvent::Up(task, epoch));
        }
    }

    fn fault(&mut self) {
        let conns: Vec<ConnId> = self.workers.keys().copied().collect();
        let nodes = self.nodes.clone();
        let pick = self.rng.below(conns.len() as u64) as usize;
        let node = nodes[self.rng.below(nodes.len() as u64) as usize].clone();
        match (self.rng.below(20), conns.get(pick)) {
            (0..=9, Some(&conn)) => self.die(conn, Exit::Killed, false),
            (10..=12, Some(&conn)) if self.poison.is_empty() => {
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
                    self.at(until, SimEvent::Continue(conn));
                }
            }
            (16..=17, _) => self.node_down(node),
            (18, _) => {
                // A false accusation: all on it live on.
                self.at(0, SimEvent::Tell(Input::NodeFailed(node.clone())));
                let back = 100 + self.rng.below(5_000);
                self.at(back, SimEvent::Tell(Input::NodeAlive(node)));
            }
            (19, _) if self.crashes < MOST_CRASHES => self.crash(),
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
        self.at(found, SimEvent::Tell(Input::NodeFailed(node.clone())));
        self.at(back, SimEvent::NodeUp(node));
    }
}

struct Ran {
    trace: String,
    launches: u32,
    crashes: u32,
    rewritten: u32,
    poisoned: usize,
    scaled: u32,
    moves: u32,
}
