//! What the stages of a simulated job do.

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
    pub(super) fn keeps(self, stage: u16, mutant: Mutant) -> Keeps {
        match (self, stage) {
            _ if mutant == Mutant::Weak => Keeps::Order,
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
        let batch_lines = self.rng.random_range(1..6usize);
        let flow = self.flow;
        let process = &mut self.processes[p];
        let Some(work) = process.task.next_work() else {
            return;
        };
        let done = match work {
            Work::Source(replay) => {
                let lines = &self.lines[&process.id];
                let place = process.task.now().source.clone();
                // Two files when they may grow: each half of the lines. One else.
                let half = lines.len() as u64 / 2;
                let (bounds, at): (Vec<_>, Vec<_>) = match self.growing {
                    true => {
                        let at = |slice, start| place.growing.get(&slice).map_or(start, |p| p.at);
                        (vec![half, lines.len() as u64], vec![at(0, 0), at(1, half)])
                    }
                    false if place.slice == 1 => (vec![0], vec![0]),
                    false => (vec![lines.len() as u64], vec![place.at.unwrap_or(0)]),
                };
                let ready: Vec<usize> = (0..at.len()).filter(|i| at[*i] < bounds[*i]).collect();
                if replay.is_none() && ready.is_empty() {
                    process.task.complete(Done {
                        order: Order::Finish,
                        bytes_in: 0,
                    });
                    return;
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
                        last: !self.growing && to == bounds[slice],
                        growing: self.growing,
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
                Done {
                    order: Order::Source(run),
                    bytes_in: run.lines,
                }
            }
            Work::Input {
                from,
                start,
                end,
                batch,
                ..
            } => {
                let age = Duration::from_micros(self.rng.random_range(0..60_000));
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
                    return;
                }
                let rng = &mut self.rng;
                let mut router = process.task.router(0);
                batch.for_each(|key, value| match (process.id.stage, flow) {
                    (1, Flow::Random) => router.emit(&[b'a' + rng.random_range(0..9u8)], value),
                    (1, _) => (0..value[1] % 3).for_each(|c| router.emit(&value[..1], &[value[0], c])),
                    (_, Flow::Random) => router.emit(key, value),
                    (_, Flow::Chance) => {
                        let state = process.counts.entry(key[0]).or_default();
                        let before = *state;
                        *state += rng.random_range(1..4u64);
                        process.dirty.insert(key[0], *state);
                        router.emit(key, format!("{before} {state}").as_bytes());
                    }
                    _ => {
                        let count = process.counts.entry(key[0]).or_default();
                        *count += 1;
                        process.dirty.insert(key[0], *count);
                        router.emit(key, count.to_string().as_bytes());
                    }
                });
                Done {
                    order: Order::Input { from, start, end },
                    bytes_in: batch.bytes() as u64,
                }
            }
            Work::InputEnd { from, at } => Done {
                order: Order::InputEnd { from, at },
                bytes_in: 0,
            },
            Work::Route(Route { version, tasks }) => Done {
                order: Order::Route { version, tasks },
                bytes_in: 0,
            },
            Work::Mark { from, at, route } => Done {
                order: Order::Mark {
                    from,
                    at,
                    version: route.version,
                    tasks: route.tasks,
                },
                bytes_in: 0,
            },
            Work::Adopt {
                from,
                start,
                end,
                state,
            } => {
                state.for_each(|key, count| {
                    let count = u64::from_le_bytes(count.try_into().expect("a count"));
                    process.counts.insert(key[0], count);
                    process.dirty.insert(key[0], count);
                });
                Done {
                    order: Order::Adopt { from, start, end },
                    bytes_in: 0,
                }
            }
            Work::HandOver { version, to } => {
                let leaves = process.task.leaving();
                let gone: Vec<(u8, u64)> = process.counts.extract_if(.., |key, _| leaves(&[*key])).collect();
                let mut handover = process.task.handover();
                for (key, count) in &gone {
                    process.dirty.remove(key);
                    handover.emit(&[*key], &count.to_le_bytes());
                }
                self.moved += gone.len() as u64;
                Done {
                    order: Order::HandOver { version, to },
                    bytes_in: 0,
                }
            }
            Work::Finish => Done {
                order: Order::Finish,
                bytes_in: 0,
            },
        };
        process.task.complete(done);
    }
}
