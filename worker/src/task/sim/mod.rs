//! The exactly-once protocol in a seeded simulation, on the real [`Task`]: two sources, two scaled stages, the destination.
//! What the stages do, and what their logs keep, is the seed's [`Flow`]. Processes crash, are replaced, live on as
//! zombies; appends are under way when they die; connections break.
//!
//! [`common::seeds`] says how to run more seeds, or one again.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use common::mutants::all_are_caught;
use common::seeds::{Seeds, again};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::wire;
use flow::{Flow, State};
use scale::Routing;

mod check;
mod flow;
mod network;
mod scale;

/// A file of one client in HyDFS: a stream with a fence.
#[derive(Default)]
struct Stream {
    bytes: Vec<u8>,
    epoch: u64,
    /// What is below cannot be read any more.
    base: u64,
}

/// What a process wants done to a file.
struct Deed {
    file: &'static str,
    what: What,
}

enum What {
    Append { offset: u64, bytes: Bytes },
    Trim { base: u64 },
}

/// A connection from one process to another: frames one way, acknowledgements the other.
struct Link {
    to_epoch: u64,
    number: ConnectionId,
    frames: VecDeque<Bytes>,
    acks: VecDeque<u64>,
    /// The receiver has closed it. What is under way may still come.
    closed: bool,
}

struct Process {
    id: TaskId,
    epoch: u64,
    task: Task,
    /// What its clients of HyDFS have taken over, by file: an append goes where the last one ended.
    queued: BTreeMap<&'static str, u64>,
    deeds: VecDeque<Deed>,
    links: BTreeMap<usize, Link>,
    state: State,
    fenced: bool,
}

struct World {
    rng: SmallRng,
    mutant: Option<Mutant>,
    flow: Flow,
    /// Sources read two files in turn.
    growing: bool,
    /// Stages gain and lose tasks.
    scales: bool,
    /// How many tasks each stage ever had.
    shape: [u16; 3],
    routing: Vec<Routing>,
    /// Of tasks that came later: the routing versions of their own inputs' stage and of the next.
    born: BTreeMap<TaskId, (u32, u32)>,
    /// Taken out, and ended for good.
    gone: BTreeSet<TaskId>,
    /// Changes of the routing that are yet to come, and tasks that went because of one.
    changes: u32,
    retired: u64,
    /// Keys that were handed over with their state, repeats after a restart among them.
    moved: u64,
    lines: BTreeMap<TaskId, Vec<(u8, u64)>>,
    files: BTreeMap<(TaskId, &'static str), Stream>,
    /// What has reached the destination, in the order of arrival.
    dest: Vec<u8>,
    /// What was set aside, by everybody.
    aside: Vec<u8>,
    skip: BTreeMap<TaskId, BTreeSet<Unit>>,
    processes: Vec<Process>,
    epochs: BTreeMap<TaskId, u64>,
    now: Time,
    connections: ConnectionId,
    trace: u64,
    crashes_with_work: u64,
    /// Logs and snapshot files that a process found trimmed when it began.
    trimmed: [u64; 2],
    /// Changes of the routing that were under way when another leader took over.
    taken_over: u64,
}

/// A value that the operator cannot digest.
const POISON: u8 = 8;

const FILES: [&str; 4] = ["log", "dest", "snap", "aside"];

impl World {
    /// `mutant`: what is left out in this thread; it says which flows show it.
    fn new(seed: u64, mutant: Option<Mutant>) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let shape = [2, rng.random_range(1..4), rng.random_range(1..3)];
        let moves = matches!(
            mutant,
            Some(Mutant::HandOver | Mutant::Unaligned | Mutant::Unheld | Mutant::Stale)
        );
        // Only what leaves before the log has it can be asked for again when its sender knows nothing of it.
        let fixed = mutant == Some(Mutant::FullWindow);
        let flow = match mutant {
            Some(Mutant::Weak) => Flow::Random,
            Some(Mutant::Ungated) => Flow::Chance,
            _ if moves => Flow::Count,
            _ => [
                Flow::Count,
                Flow::Inputs,
                Flow::Poison,
                Flow::Random,
                Flow::Chance,
            ][rng.random_range(0..5)],
        };
        let mut world = Self {
            mutant,
            flow,
            growing: mutant == Some(Mutant::Fixed) || (rng.random_bool(0.3) && !fixed),
            scales: mutant == Some(Mutant::Route) || moves || (rng.random_bool(0.7) && !fixed),
            aside: Vec::new(),
            skip: BTreeMap::new(),
            shape,
            routing: vec![],
            born: BTreeMap::new(),
            gone: BTreeSet::new(),
            changes: 0,
            retired: 0,
            moved: 0,
            lines: BTreeMap::new(),
            files: BTreeMap::new(),
            dest: Vec::new(),
            processes: Vec::new(),
            epochs: BTreeMap::new(),
            now: Time::from_millis(1000),
            connections: 0,
            trace: 0,
            crashes_with_work: 0,
            trimmed: [0, 0],
            taken_over: 0,
            rng,
        };
        for id in world.tasks(0) {
            // Where state moves it takes more keys, and time to move them again and again.
            let (lines, keys) = match world.scales && flow.moves_state() {
                true => (100..400, b'a'..b'q'),
                false => (5..60, 0..5),
            };
            let n = world.rng.random_range(lines);
            let lines = (0..n)
                .map(|_| (world.rng.random_range(keys.clone()), world.rng.random_range(0..9)))
                .collect();
            world.lines.insert(id, lines);
        }
        world.routing = (0..3).map(|stage| Routing::new(world.tasks(stage))).collect();
        world.changes = match mutant {
            Some(Mutant::Route) => 4,
            _ if world.scales && flow.moves_state() => world.rng.random_range(2..12),
            _ if world.scales => world.rng.random_range(1..6),
            _ => 0,
        };
        for stage in 0..3 {
            world.tasks(stage).into_iter().for_each(|id| world.start(id));
        }
        world
    }

    fn tasks(&self, stage: u16) -> Vec<TaskId> {
        match self.shape.get(stage as usize) {
            Some(n) => (0..*n).map(|i| TaskId::new(stage, i)).collect(),
            None => vec![],
        }
    }

    /// A new process: fences its files, then reads them.
    fn start(&mut self, id: TaskId) {
        let epoch = self.epochs.entry(id).or_default();
        *epoch += 1;
        let epoch = *epoch;
        for file in FILES {
            self.files.entry((id, file)).or_default().epoch = epoch;
        }
        let config = Config {
            job: "job".parse().expect("a name"),
            task: id,
            epoch: Epoch(epoch),
            exactly_once: true,
            keeps: self.flow.keeps(id.stage),
            follows: self.growing,
            scales: self.scales,
            stateful: self.flow.is_stateful(id.stage),
            skip: self.skip.get(&id).cloned().unwrap_or_default(),
            sets_aside: self.flow == Flow::Poison && id.stage == 1,
            format: Format::Tsv,
            batch_bytes: self.rng.random_range(1..60),
            linger: Duration::from_millis(self.rng.random_range(0..200)),
            // Where stages change a window must take a mark and what stands before it.
            window_bytes: self
                .rng
                .random_range(if self.growing || self.scales { 60 } else { 20 }..2000),
            bounds: Bounds {
                log_every: self.rng.random_range(0..600),
                keep_log: false,
                snapshot_slack: [0, self.rng.random_range(0..300)][self.rng.random_range(0..2)],
                snapshot_dead: self.rng.random_range(1..20),
            },
        };
        let neighbours = self.neighbours(id);
        let streams = streams(id, &config, &neighbours);
        let length = |file| self.files[&(id, file)].bytes.len() as u64;
        let outputs: Vec<(usize, u64)> = streams.iter().map(|(i, file)| (*i, length(*file))).collect();
        let log = &self.files[&(id, "log")];
        let stored = Stored {
            log: &log.bytes[log.base as usize..],
            log_begin: log.base,
            outputs: &outputs,
            snapshots: length("snap"),
        };
        let task = Task::recover(config, &neighbours, stored, self.now).expect("the log is readable");
        let Stream {
            bytes: snap, base, ..
        } = &self.files[&(id, "snap")];
        self.trimmed[0] += u64::from(log.base > 0);
        self.trimmed[1] += u64::from(*base > 0);
        let mut state = State::default();
        for (offset, len) in &task.now().snapshot {
            assert!(
                offset >= base,
                "state at {offset} of a file that begins at {base}"
            );
            state.restore(&snap[*offset as usize..(*offset + *len) as usize]);
        }
        state.remove(|key| task.is_foreign(&[key]));
        self.processes.push(Process {
            id,
            epoch,
            queued: FILES.iter().map(|file| (*file, length(file))).collect(),
            task,
            deeds: VecDeque::new(),
            links: BTreeMap::new(),
            state,
            fenced: false,
        });
    }

    // --- storage --------------------------------------------------------------------------------------------------

    fn append(&mut self, p: usize, file: &'static str, bytes: Bytes) {
        assert!(!bytes.is_empty(), "nobody would say that nothing was stored");
        let process = &mut self.processes[p];
        let queued = process.queued.get_mut(file).expect("one of the files");
        let offset = *queued;
        *queued += bytes.len() as u64;
        let what = What::Append { offset, bytes };
        process.deeds.push_back(Deed { file, what });
    }

    fn trim(&mut self, p: usize, file: &'static str, base: u64) {
        let what = What::Trim { base };
        self.processes[p].deeds.push_back(Deed { file, what });
    }

    /// One append or trim under way reaches HyDFS; its answer reaches the process if that still lives.
    fn land(&mut self, p: usize) {
        let process = &mut self.processes[p];
        // What is done to one file keeps its order; what is done to different files overtakes each other.
        let file = FILES[self.rng.random_range(0..4)];
        let Some(at) = process.deeds.iter().position(|d| d.file == file) else {
            return;
        };
        let Some(deed) = process.deeds.remove(at) else {
            return;
        };
        let stream = self.files.get_mut(&(process.id, file)).expect("made at start");
        if stream.epoch > process.epoch && !Mutant::Fence.is_on() {
            process.fenced = true;
            return;
        }
        let have = stream.bytes.len() as u64;
        let (offset, bytes) = match deed.what {
            What::Append { offset, bytes } => (offset, bytes),
            What::Trim { base } => {
                assert!(base <= have, "{file} is trimmed behind its end");
                stream.base = stream.base.max(base);
                return;
            }
        };
        if offset > have {
            assert!(self.mutant.is_some(), "a gap in {file}: {offset} after {have}");
            return;
        }
        let skip = (have - offset).min(bytes.len() as u64) as usize;
        let news = &bytes[skip..];
        stream.bytes.extend_from_slice(news);
        match file {
            "dest" => self.dest.extend_from_slice(news),
            "aside" => self.aside.extend_from_slice(news),
            _ => {}
        }
        let upto = offset + bytes.len() as u64;
        let output = process.task.aside().filter(|_| file == "aside").unwrap_or(0);
        self.give(
            p,
            match file {
                "log" => Input::LogStored { upto },
                "snap" => Input::SnapshotStored { upto },
                _ => Input::OutputStored { output, upto },
            },
        );
    }

    /// The newest process of a task: where connections go.
    fn newest(&self, id: TaskId) -> Option<usize> {
        self.processes
            .iter()
            .position(|p| p.id == id && Some(&p.epoch) == self.epochs.get(&id))
    }

    fn crash(&mut self, p: usize) {
        let id = self.processes[p].id;
        let newest = self.newest(id) == Some(p);
        if newest && self.processes[p].task.is_finished() {
            return;
        }
        if self.processes[p].task.now().pos > 0 {
            self.crashes_with_work += 1;
        }
        let zombie = newest && self.rng.random_bool(0.3);
        if !zombie {
            // What was under way may still arrive, or not.
            for _ in 0..self.rng.random_range(0..6) {
                self.land(p);
            }
            self.processes.remove(p);
        }
        if newest {
            self.start(id);
        }
    }

    fn run(&mut self) -> Result<(), String> {
        let mut faults = self.rng.random_range(0..25);
        for tick in 0..1_000_000u64 {
            let p = self.rng.random_range(0..self.processes.len());
            let act = self.rng.random_range(0..1000);
            self.trace = self.trace.wrapping_mul(31).wrapping_add(p as u64 * 1000 + act);
            self.now = self.now + Duration::from_micros(self.rng.random_range(0..3000));
            match act {
                0..300 => self.work(p),
                300..450 => self.flush(p),
                450..600 => self.land(p),
                600..970 => self.transfer(p),
                970..980 => self.disconnect(p),
                980..990 if faults > 0 => {
                    faults -= 1;
                    self.crash(p);
                }
                990..996 => self.scale(),
                996 if faults > 0 && self.rng.random_bool(0.2) => {
                    faults -= 1;
                    self.take_over();
                }
                _ => {}
            }
            self.processes.retain(|p| !p.fenced);
            if tick % 64 == 0 {
                let done = |id: &TaskId| {
                    self.newest(*id)
                        .is_some_and(|p| self.processes[p].task.is_finished())
                };
                if self.is_settled() && self.epochs.keys().all(|id| self.gone.contains(id) || done(id)) {
                    return self.check();
                }
            }
        }
        let stuck: Vec<String> = self
            .processes
            .iter()
            .filter(|p| !p.task.is_finished())
            .map(|p| format!("{} epoch {}: {:?}", p.id, p.epoch, p.task))
            .collect();
        Err(format!("did not end: {}", stuck.join(", ")))
    }
}

/// The task's outputs that are streams into files.
fn streams(id: TaskId, config: &Config, neighbours: &Neighbours) -> Vec<(usize, &'static str)> {
    match config.sets_aside {
        true => vec![(neighbours.downstream.len(), "aside")],
        false if id.stage == 2 => vec![(0, "dest")],
        false => vec![],
    }
}

#[test]
fn output_is_exact_whatever_crashes() {
    let asked = Seeds::from_env(0..2000);
    let seeds = asked.count();
    let (mut crashes, mut retired, mut moved) = (0, 0, 0);
    let (mut trimmed, mut taken_over) = ([0, 0], 0);
    for seed in asked.range {
        let result = std::panic::catch_unwind(|| {
            let mut world = World::new(seed, None);
            let result = world.run();
            let counts = (world.crashes_with_work, world.retired, world.moved);
            (result, counts, (world.trimmed, world.taken_over))
        });
        match result {
            Ok((Ok(()), (n, gone, keys), ([logs, snaps], changes))) => {
                (crashes, retired, moved) = (crashes + n, retired + gone, moved + keys);
                trimmed = [trimmed[0] + logs, trimmed[1] + snaps];
                taken_over += changes;
            }
            Ok((Err(wrong), ..)) => panic!("seed {seed}: {wrong}\n  {}", again(seed, "worker", "output_is")),
            Err(_) => panic!("seed {seed} panicked; {}", again(seed, "worker", "output_is")),
        }
    }
    if asked.told {
        return;
    }
    assert!(
        crashes >= seeds / 2,
        "only {crashes} crashes in {seeds} seeds hit a task that had work"
    );
    assert!(
        retired >= seeds / 2,
        "only {retired} tasks were taken out in {seeds} seeds"
    );
    assert!(
        moved >= 2 * seeds,
        "only {moved} keys were handed over in {seeds} seeds"
    );
    assert!(
        taken_over >= seeds / 20,
        "only {taken_over} changes were under way when another leader took over in {seeds} seeds"
    );
    assert!(
        trimmed[0] >= seeds && trimmed[1] >= seeds / 50,
        "only {trimmed:?} logs and snapshot files were found trimmed in {seeds} seeds"
    );
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..20 {
        let run = || {
            let mut world = World::new(seed, None);
            world.run().unwrap();
            (world.trace, world.dest)
        };
        assert_eq!(run(), run());
    }
}

/// With a protocol step left out the same simulation must find something wrong: so the oracle sees.
#[test]
fn mutants_are_caught() {
    all_are_caught(Mutant::ALL, Mutant::turn_on, 0..20_000, |mutant, seed| {
        World::new(seed, Some(mutant)).run().is_ok()
    });
}
