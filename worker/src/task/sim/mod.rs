//! The exactly-once protocol in a seeded simulation, on the real [`Task`]: two sources, two scaled stages, the destination.
//! What the stages do, and what their logs keep, is the seed's [`Flow`]. Processes crash, are replaced, live on as
//! zombies; appends are under way when they die; connections break.
//!
//! [`common::seeds`] says how to run more seeds, or one again.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use common::seeds::{Seeds, again};
use ops::Emit;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::wire;
use flow::Flow;
use scale::Routing;

mod check;
mod flow;
mod scale;

/// A file of one client in HyDFS: a stream with a fence.
#[derive(Default)]
struct Stream {
    bytes: Vec<u8>,
    epoch: u64,
}

struct Append {
    file: &'static str,
    offset: u64,
    bytes: Bytes,
}

/// A connection from one process to another: frames one way, acknowledgements the other.
struct Link {
    to: TaskId,
    to_epoch: u64,
    frames: VecDeque<Bytes>,
    acks: VecDeque<u64>,
}

struct Process {
    id: TaskId,
    epoch: u64,
    task: Task,
    appends: VecDeque<Append>,
    links: BTreeMap<usize, Link>,
    /// Stage 2's state, and the part of it that no snapshot holds.
    counts: BTreeMap<u8, u64>,
    dirty: BTreeMap<u8, u64>,
    snapshots: Vec<(u64, u64)>,
    snapshot_end: u64,
    snapshot_under_way: Option<(Cut, u64)>,
    /// Newest epoch seen of each upstream task.
    seen: BTreeMap<TaskId, u64>,
    fenced: bool,
}

struct World {
    rng: SmallRng,
    mutant: Mutant,
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
    trace: u64,
    crashes_with_work: u64,
}

/// A value that the operator cannot digest.
const POISON: u8 = 8;

const FILES: [&str; 4] = ["log", "dest", "snap", "aside"];

impl World {
    fn new(seed: u64, mutant: Mutant) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let shape = [2, rng.random_range(1..4), rng.random_range(1..3)];
        let moves = matches!(
            mutant,
            Mutant::HandOver | Mutant::Unaligned | Mutant::Unheld | Mutant::Stale
        );
        let flow = match mutant {
            Mutant::Weak => Flow::Random,
            Mutant::Ungated => Flow::Chance,
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
            growing: mutant == Mutant::Fixed || rng.random_bool(0.3),
            scales: mutant == Mutant::Route || moves || rng.random_bool(0.7),
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
            trace: 0,
            crashes_with_work: 0,
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
            Mutant::Route => 4,
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
        let sets_aside = self.flow == Flow::Poison && id.stage == 1;
        let config = Config {
            epoch: Epoch(epoch),
            exactly_once: true,
            keeps: self.flow.keeps(id.stage, self.mutant),
            fixed: id.stage == 0 && (!(self.growing || self.scales) || self.mutant == Mutant::Fixed),
            stateful: self.flow.is_stateful(id.stage),
            skip: self.skip.get(&id).cloned().unwrap_or_default(),
            sets_aside,
            format: Format::Tsv,
            batch_bytes: self.rng.random_range(1..60),
            window_bytes: self.rng.random_range(60..2000),
            mutant: self.mutant,
        };
        let neighbours = self.neighbours(id);
        let log = &self.files[&(id, "log")].bytes;
        let mut task = Task::recover(config, &neighbours, log).expect("the log is readable");
        let snap = &self.files[&(id, "snap")].bytes;
        let mut counts = BTreeMap::new();
        for (offset, len) in &task.now().snapshot {
            for entry in snap[*offset as usize..(*offset + *len) as usize].chunks(9) {
                counts.insert(entry[0], u64::from_le_bytes(entry[1..].try_into().unwrap()));
            }
        }
        counts.retain(|key, _| !task.is_foreign(&[*key]));
        let snapshots = task.now().snapshot.clone();
        let snapshot_end = snap.len() as u64;
        for (output, file) in streams(id, &task) {
            let have = self.files[&(id, file)].bytes.len() as u64;
            task.output(output).resume(wire::Standing::at(have));
            task.output(output).acknowledge(have, |_| {});
        }
        self.processes.push(Process {
            id,
            epoch,
            task,
            appends: VecDeque::new(),
            links: BTreeMap::new(),
            counts,
            dirty: BTreeMap::new(),
            snapshots,
            snapshot_end,
            snapshot_under_way: None,
            seen: BTreeMap::new(),
            fenced: false,
        });
    }

    fn snapshot(&mut self, p: usize) {
        let now = self.now;
        let process = &mut self.processes[p];
        if process.snapshot_under_way.is_some() || !process.task.wants_snapshot(now) {
            return;
        }
        let mut bytes = vec![];
        for (key, count) in std::mem::take(&mut process.dirty) {
            bytes.push(key);
            bytes.extend_from_slice(&count.to_le_bytes());
        }
        let offset = process.snapshot_end;
        process.snapshot_end += bytes.len() as u64;
        process.snapshots.push((offset, bytes.len() as u64));
        process.snapshot_under_way = Some((process.task.now().clone(), process.snapshot_end));
        process.appends.push_back(Append {
            file: "snap",
            offset,
            bytes: bytes.into(),
        });
    }

    fn flush(&mut self, p: usize) {
        let now = self.now;
        let process = &mut self.processes[p];
        let offset = process.task.log_end();
        let bytes = process.task.take_records(now);
        if !bytes.is_empty() {
            process.appends.push_back(Append {
                file: "log",
                offset,
                bytes: bytes.into(),
            });
        }
        for (output, file) in streams(process.id, &process.task) {
            let durable = process.task.durable();
            if let Some(chunk) = process.task.output(output).next_chunk(durable) {
                process.appends.push_back(Append {
                    file,
                    offset: chunk.start,
                    bytes: chunk.payload,
                });
            }
        }
    }

    /// One append under way reaches HyDFS; its answer reaches the process if that still lives.
    fn land(&mut self, p: usize) {
        let process = &mut self.processes[p];
        // Appends to one file keep their order; appends to different files overtake each other.
        let file = FILES[self.rng.random_range(0..4)];
        let Some(at) = process.appends.iter().position(|a| a.file == file) else {
            return;
        };
        let Some(append) = process.appends.remove(at) else {
            return;
        };
        let stream = self.files.get_mut(&(process.id, file)).expect("made at start");
        if stream.epoch > process.epoch && self.mutant != Mutant::Fence {
            process.fenced = true;
            return;
        }
        let have = stream.bytes.len() as u64;
        if append.offset > have {
            assert_ne!(
                self.mutant,
                Mutant::None,
                "a gap in {file}: {} after {have}",
                append.offset
            );
            return;
        }
        let skip = (have - append.offset).min(append.bytes.len() as u64) as usize;
        let news = if self.mutant == Mutant::Dedup {
            &append.bytes[..]
        } else {
            &append.bytes[skip..]
        };
        stream.bytes.extend_from_slice(news);
        match file {
            "dest" => self.dest.extend_from_slice(news),
            "aside" => self.aside.extend_from_slice(news),
            _ => {}
        }
        let acked = append.offset + append.bytes.len() as u64;
        match file {
            "log" => drop(process.task.logged(self.now, acked)),
            "dest" => process.task.output(0).acknowledge(acked, |_| {}),
            "aside" => {
                if let Some(aside) = process.task.aside() {
                    process.task.output(aside).acknowledge(acked, |_| {});
                }
            }
            _ => {
                if let Some((mut cut, _)) = process.snapshot_under_way.take_if(|(_, end)| *end <= acked) {
                    if self.mutant == Mutant::Snapshot {
                        cut = Cut {
                            pos: cut.pos.saturating_sub(1),
                            ..cut
                        };
                    }
                    let extents = process.snapshots.clone();
                    process.task.snapshotted(self.now, cut, extents);
                }
            }
        }
    }

    /// The newest process of a task: where connections go.
    fn newest(&self, id: TaskId) -> Option<usize> {
        self.processes
            .iter()
            .position(|p| p.id == id && Some(&p.epoch) == self.epochs.get(&id))
    }

    fn transfer(&mut self, p: usize) {
        let (from, epoch) = (self.processes[p].id, self.processes[p].epoch);
        let targets: Vec<(usize, TaskId)> = self.processes[p].task.targets().collect();
        if targets.is_empty() {
            return;
        }
        let (output, to) = targets[self.rng.random_range(0..targets.len())];
        let Some(q) = self.newest(to) else { return };
        let connected = self.processes[p]
            .links
            .get(&output)
            .is_some_and(|l| l.to == to && l.to_epoch == self.processes[q].epoch);
        if !connected {
            let seen = self.processes[q].seen.get(&from).copied().unwrap_or(0);
            if seen > epoch && self.mutant != Mutant::Fence {
                self.processes[p].fenced = true;
                return;
            }
            self.processes[q].seen.insert(from, epoch.max(seen));
            let oldest = self.processes[p].task.output(output).oldest();
            let standing = self.processes[q].task.connect(from, oldest, epoch > seen);
            let standing = standing.unwrap_or_else(|e| panic!("{from} to {to}: {e}"));
            self.processes[p].task.output(output).resume(standing);
            let link = Link {
                to,
                to_epoch: self.processes[q].epoch,
                frames: VecDeque::new(),
                acks: VecDeque::new(),
            };
            self.processes[p].links.insert(output, link);
        }
        let durable = self.processes[p].task.durable();
        let chunk = self.processes[p].task.output(output).next_chunk(durable);
        let deliver = self.rng.random_bool(0.7);
        let Some(link) = self.processes[p].links.get_mut(&output) else {
            return;
        };
        link.frames.extend(chunk.map(|c| c.payload));
        let frame = if deliver { link.frames.pop_front() } else { None };
        if let Some(frame) = frame {
            // A newer process of the sender has connected: this connection was closed.
            if self.processes[q].seen.get(&from).is_some_and(|s| *s > epoch) && self.mutant != Mutant::Fence {
                self.processes[p].fenced = true;
                return;
            }
            let item = wire::decode_data(&frame).expect("a frame of this program");
            if self.processes[q].task.receive(from, item) == Received::Gap {
                assert_ne!(self.mutant, Mutant::None, "a gap on {from} to {to}");
            }
        }
        let ack = self.processes[q].task.ack(from);
        let Some(link) = self.processes[p].links.get_mut(&output) else {
            return;
        };
        if link.acks.back() != Some(&ack) {
            link.acks.push_back(ack);
        }
        if self.rng.random_bool(0.7)
            && let Some(ack) = link.acks.pop_front()
        {
            self.processes[p].task.output(output).acknowledge(ack, |_| {});
        }
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
                600..900 => self.transfer(p),
                900..950 => self.snapshot(p),
                950..970 => self.processes[p].task.close_outputs(),
                970..980 => drop(self.processes[p].links.pop_first()),
                980..990 if faults > 0 => {
                    faults -= 1;
                    self.crash(p);
                }
                990..996 => self.scale(),
                _ => {}
            }
            self.processes.retain(|p| !p.fenced);
            if tick % 64 == 0 {
                for p in &mut self.processes {
                    p.task.close_outputs();
                }
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
fn streams(id: TaskId, task: &Task) -> Vec<(usize, &'static str)> {
    match task.aside() {
        Some(aside) => vec![(aside, "aside")],
        None if id.stage == 2 => vec![(0, "dest")],
        None => vec![],
    }
}

#[test]
fn output_is_exact_whatever_crashes() {
    let asked = Seeds::from_env(0..2000);
    let seeds = asked.count();
    let (mut crashes, mut retired, mut moved) = (0, 0, 0);
    for seed in asked.range {
        let result = std::panic::catch_unwind(|| {
            let mut world = World::new(seed, Mutant::None);
            let result = world.run();
            (result, (world.crashes_with_work, world.retired, world.moved))
        });
        match result {
            Ok((Ok(()), (n, gone, keys))) => {
                (crashes, retired, moved) = (crashes + n, retired + gone, moved + keys);
            }
            Ok((Err(wrong), _)) => panic!("seed {seed}: {wrong}\n  {}", again(seed, "worker", "output_is")),
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
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..20 {
        let run = || {
            let mut world = World::new(seed, Mutant::None);
            world.run().unwrap();
            (world.trace, world.dest)
        };
        assert_eq!(run(), run());
    }
}

/// With a protocol step left out the same simulation must find something wrong: so the oracle sees.
#[test]
fn mutants_are_caught() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = vec![];
    for mutant in [
        Mutant::Dedup,
        Mutant::EarlySend,
        Mutant::EarlyAck,
        Mutant::Fence,
        Mutant::Snapshot,
        Mutant::Weak,
        Mutant::Ungated,
        Mutant::Fixed,
        Mutant::Route,
        Mutant::HandOver,
        Mutant::Unaligned,
        Mutant::Unheld,
        Mutant::Stale,
    ] {
        let caught = (0..3000).find(|seed| {
            let run = std::panic::catch_unwind(|| World::new(*seed, mutant).run());
            !matches!(run, Ok(Ok(())))
        });
        match caught {
            Some(seed) => println!("{mutant:?}: caught at seed {seed}"),
            None => missed.push(mutant),
        }
    }
    std::panic::set_hook(hook);
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
