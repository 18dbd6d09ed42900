//! What the stages of a simulated job do.

use std::ops::Bound::{Excluded, Unbounded};

use ops::Emit;
use protocol::batch::Batch;
use protocol::task_log::SourceRun;

use super::*;

/// What the two stages do, and what must be in the destination at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// Drop or double, then count with snapshots: each `(key, 1..n)` once.
    Count,
    /// The same with an operator whose state nobody can save: its log keeps the inputs.
    Inputs,
    /// The same, some tuples being poison: they are set aside, each once.
    Poison,
    /// A random key for each tuple, then a stage that passes it on: each tuple once, under whatever key.
    Random,
    /// A state that grows by chance: for each key what is put out must be one unbroken chain.
    Chance,
}

impl Flow {
    pub(super) fn keeps(self, stage: u16) -> Keeps {
        match (self, stage) {
            (Flow::Inputs, 2) => Keeps::Inputs,
            (Flow::Random, 1) | (Flow::Chance, 2) => Keeps::Productions,
            _ => Keeps::Order,
        }
    }

    pub(super) fn is_stateful(self, stage: u16) -> bool {
        stage == 2 && matches!(self, Flow::Count | Flow::Poison | Flow::Chance)
    }

    /// The counting stage's state moves between its tasks.
    pub(super) fn moves_state(self) -> bool {
        matches!(self, Flow::Count | Flow::Poison)
    }
}

impl World {
    /// Runs one unit of work, if there is one.
    pub(super) fn work(&mut self, p: usize) {
        let now = self.now;
        let Some(work) = self.processes[p].task.next_work(now) else {
            return;
        };
        let answer = match work {
            Work::Source(replay) => self.read(p, replay),
            Work::Tuples {
                from, start, batch, ..
            } => match self.operate(p, from, start, &batch) {
                true => Input::WorkDone {
                    bytes_in: batch.bytes() as u64,
                },
                false => return,
            },
            Work::Adopt { state } => {
                let process = &mut self.processes[p];
                state.for_each(|key, count| {
                    let count = u64::from_le_bytes(count.try_into().expect("a count"));
                    process.state.set(key[0], count);
                });
                Input::WorkDone { bytes_in: 0 }
            }
            Work::HandOver { .. } => {
                let process = &mut self.processes[p];
                let leaves = process.task.leaving();
                let gone = process.state.remove(|key| leaves(&[key]));
                let mut handover = process.task.handover();
                for (key, count) in &gone {
                    handover.emit(&[*key], &count.to_le_bytes());
                }
                self.moved += gone.len() as u64;
                Input::WorkDone { bytes_in: 0 }
            }
            Work::Snapshot { rewrite } => {
                let (state, round_ended) = self.processes[p].state.snapshot(rewrite);
                Input::SnapshotTaken { state, round_ended }
            }
            Work::Finish | Work::Note => Input::WorkDone { bytes_in: 0 },
        };
        self.give(p, answer);
    }

    fn read(&mut self, p: usize, replay: Option<SourceRun>) -> Input {
        let batch_lines = self.rng.random_range(1..6usize);
        let (flow, growing) = (self.flow, self.growing);
        let process = &mut self.processes[p];
        let lines = &self.lines[&process.id];
        let place = process.task.now().source.clone();
        // Two files when they may grow: each half of the lines. One else.
        let half = lines.len() as u64 / 2;
        let (bounds, at): (Vec<_>, Vec<_>) = match growing {
            true => {
                let at = |slice, start| place.growing.get(&slice).map_or(start, |p| p.at);
                (vec![half, lines.len() as u64], vec![at(0, 0), at(1, half)])
            }
            false if place.slice == 1 => (vec![0], vec![0]),
            false => (vec![lines.len() as u64], vec![place.at.unwrap_or(0)]),
        };
        let ready: Vec<usize> = (0..at.len()).filter(|i| at[*i] < bounds[*i]).collect();
        if replay.is_none() && ready.is_empty() {
            return Input::SourceEnded;
        }
        if replay.is_none() && growing && self.rng.random_bool(0.1) {
            return Input::SourceDry;
        }
        let run = replay.unwrap_or_else(|| {
            let slice = ready[self.rng.random_range(0..ready.len())];
            let from = at[slice];
            let to = bounds[slice].min(from + batch_lines as u64);
            SourceRun {
                creation: None,
                slice: slice as u32,
                from,
                to,
                first_line: from + 1,
                lines: to - from,
                last: !growing && to == bounds[slice],
                growing,
            }
        });
        assert_eq!(run.from, at[run.slice as usize]);
        let file = Bytes::from_static(b"f");
        let mut router = process.task.router(0);
        for n in run.from..run.to {
            let (key, value) = lines[n as usize];
            let value = match flow {
                Flow::Random => [b'0' + process.id.index as u8, b'0' + n as u8],
                _ => [key, value as u8],
            };
            router.emit_line(&file, n + 1, &value, n % 3 == 0);
        }
        let bytes_in = run.lines;
        Input::SourceRead { run, bytes_in }
    }

    /// The operator takes the tuples in. False: it could not digest one, and the process is gone.
    fn operate(&mut self, p: usize, from: TaskId, start: u64, batch: &Batch) -> bool {
        let age = Duration::from_micros(self.rng.random_range(0..60_000));
        let flow = self.flow;
        let process = &mut self.processes[p];
        process.task.note_age(age);
        let poison = (0..batch.len()).find(|i| batch.value(*i)[1] == POISON);
        if let (Flow::Poison, 1, Some(index)) = (flow, process.id.stage, poison) {
            let (id, unit) = (process.id, process.task.unit(from, start, index as u64));
            let newest = self.newest(id) == Some(p);
            self.processes.remove(p);
            if newest {
                assert!(self.skip.entry(id).or_default().insert(unit), "skipped twice");
                self.start(id);
            }
            return false;
        }
        let rng = &mut self.rng;
        let mut router = process.task.router(0);
        batch.for_each(|key, value| match (process.id.stage, flow) {
            (1, Flow::Random) => router.emit(&[b'a' + rng.random_range(0..9u8)], value),
            (1, _) => (0..value[1] % 3).for_each(|c| router.emit(&value[..1], &[value[0], c])),
            (_, Flow::Random) => router.emit(key, value),
            (_, Flow::Chance) => {
                let before = process.state.get(key[0]);
                let state = before + rng.random_range(1..4u64);
                process.state.set(key[0], state);
                router.emit(key, format!("{before} {state}").as_bytes());
            }
            _ => {
                let count = process.state.get(key[0]) + 1;
                process.state.set(key[0], count);
                router.emit(key, count.to_string().as_bytes());
            }
        });
        true
    }
}

/// Stage 2's state: a number by key, written down as the operators of the system do it.
#[derive(Default)]
pub(super) struct State {
    numbers: BTreeMap<u8, u64>,
    /// What no snapshot holds.
    changed: BTreeSet<u8>,
    /// Where the round of rewriting stands.
    rewritten: Option<u8>,
}

impl State {
    fn get(&self, key: u8) -> u64 {
        self.numbers.get(&key).copied().unwrap_or(0)
    }

    fn set(&mut self, key: u8, number: u64) {
        self.numbers.insert(key, number);
        self.changed.insert(key);
    }

    pub fn restore(&mut self, part: &[u8]) {
        for entry in part.chunks(9) {
            let number = u64::from_le_bytes(entry[1..].try_into().expect("eight bytes"));
            self.numbers.insert(entry[0], number);
        }
    }

    pub fn remove(&mut self, which: impl Fn(u8) -> bool) -> BTreeMap<u8, u64> {
        let gone: BTreeMap<u8, u64> = self.numbers.extract_if(.., |key, _| which(*key)).collect();
        self.changed.retain(|key| !gone.contains_key(key));
        gone
    }

    /// What has changed, and `rewrite` bytes of the rest. True: all has been rewritten since the last time that this was said.
    fn snapshot(&mut self, rewrite: usize) -> (Vec<u8>, bool) {
        let mut keys = std::mem::take(&mut self.changed);
        let mut ended = false;
        if rewrite > 0 {
            let rest = self
                .numbers
                .range((self.rewritten.map_or(Unbounded, Excluded), Unbounded));
            let part: Vec<u8> = rest
                .map(|(key, _)| *key)
                .take(rewrite.div_ceil(9).min(4))
                .collect();
            self.rewritten = part.last().copied();
            ended = self.rewritten.is_none() || self.rewritten == self.numbers.keys().last().copied();
            if ended {
                self.rewritten = None;
            }
            keys.extend(part);
        }
        let mut bytes = vec![];
        for key in keys {
            bytes.push(key);
            bytes.extend_from_slice(&self.get(key).to_le_bytes());
        }
        (bytes, ended)
    }
}
