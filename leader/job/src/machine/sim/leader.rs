//! The simulated leader: its journal, its death at any moment, and its successor.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use common::ids::{Creation, Epoch};
use protocol::control::Slice;

use super::{SimEvent, World};
use crate::machine::{ConnId, Input, Job, resume};
use crate::plan::SourceFile;
use crate::record::{Entry, Record, Settings, Ticket, VERSION};
use crate::state::JobState;

impl World {
    pub(super) fn record(entry: Entry) -> Record {
        Record {
            v: VERSION,
            at_us: 0,
            entry,
        }
    }

    /// Durable a little later, in order.
    pub(super) fn write(&mut self, entry: Entry, ticket: Option<Ticket>) {
        self.under_way.push_back((entry, ticket));
        let delay = self.rng.below(20);
        self.at(delay, SimEvent::Durable(self.leaders));
        if self.rng.chance(5) && self.now >= self.stalled_until {
            // A take-over in the storage.
            self.stalled_until = self.now + Duration::from_millis(self.rng.below(4_000));
        }
    }

    /// Some of what is under way; all that was written before it is durable as well.
    pub(super) fn durable(&mut self) {
        if self.now < self.stalled_until {
            return self.at(100, SimEvent::Durable(self.leaders));
        }
        let some = 1 + self.rng.below(3);
        for _ in 0..some {
            let Some((entry, ticket)) = self.under_way.pop_front() else {
                return;
            };
            self.durable.push(Self::record(entry));
            if self.rng.chance(3) {
                self.rewrite();
            }
            if let Some(ticket) = ticket {
                self.give(Input::Stored { ticket });
            }
        }
        if !self.under_way.is_empty() {
            self.at(1, SimEvent::Durable(self.leaders));
        }
    }

    /// One record of what the journal comes to, and nothing before it.
    fn rewrite(&mut self) {
        let state = JobState::of(&self.durable).expect("a plan");
        self.durable = vec![Self::record(Entry::State(Box::new(state)))];
        self.rewritten += 1;
    }

    /// `kill -9` of the leader. Its workers notice, within their lease. Of what was on its way to the journal any part
    /// arrives.
    pub(super) fn crash(&mut self) {
        if self.job.take().is_none() {
            return;
        }
        let _ = writeln!(self.trace, "{:>9} the leader dies", self.now.0);
        self.crashes += 1;
        for _ in 0..self.rng.below(self.under_way.len() as u64 + 1) {
            if let Some((entry, _)) = self.under_way.pop_front() {
                self.durable.push(Self::record(entry));
            }
        }
        self.under_way.clear();
        let conns: Vec<ConnId> = self.workers.keys().copied().collect();
        for conn in conns {
            let delay = self.rng.below(3_000);
            self.at(delay, SimEvent::Orphan(conn));
        }
        // What its launcher would have told nobody hears.
        self.queue.retain(|_, ev| {
            !matches!(
                ev,
                SimEvent::Tell(Input::Exited { .. } | Input::LaunchFailed { .. } | Input::ConnClosed { .. })
            )
        });
        let delay = 100 + self.rng.below(5_000);
        self.at(delay, SimEvent::TakeUp);
    }

    pub(super) fn take_up(&mut self) {
        self.leaders += 1;
        let fence = Epoch(self.leaders);
        let resumed = resume(&self.durable, fence).expect("a job that has not ended");
        let _ = writeln!(
            self.trace,
            "{:>9} taken up after epoch {}",
            self.now.0, resumed.base
        );
        self.base = resumed.base;
        self.durable.push(Self::record(Entry::Resumed {
            base: resumed.base,
            node: self.nodes[0].clone(),
            pid: 1,
            settings: Settings {
                max_restarts: 1,
                op_timeout_ms: 1,
                poison: resumed.plan.poison.clone(),
                standbys: None,
            },
        }));
        self.said_done = resumed.done.keys().copied().collect();
        if !resumed.plan.exactly_once {
            // Nothing of them outlives the leader.
            self.ended.clear();
            self.logged.clear();
            self.routed.clear();
            self.fed.clear();
            self.ever_done.clear();
        }
        if self.plan.follow && !resumed.plan.drain {
            let delay = self.rng.below(8_000);
            self.at(delay, SimEvent::Interrupt);
        }
        self.told_failed = self.down.clone();
        let (nodes, failed) = (self.nodes.clone(), self.down.clone());
        self.job = Some(Job::resumed(resumed, self.config.clone(), nodes, failed));
        self.give(Input::Begin);
    }

    /// The user's first Ctrl-C.
    pub(super) fn interrupt(&mut self) {
        if self.job.as_ref().is_none_or(Job::is_draining) {
            return;
        }
        let files = self.files_now();
        self.must_read.clone_from(&files);
        self.give(Input::Files(files));
        self.give(Input::Drain);
    }

    /// What a look at the source folder finds: of each name the newest file.
    pub(super) fn files_now(&self) -> Vec<SourceFile> {
        let newest: BTreeMap<&String, Creation> = self.files.iter().map(|f| (&f.name, f.creation)).collect();
        let file = |(name, creation): (&String, Creation)| SourceFile {
            name: name.clone(),
            creation,
        };
        newest.into_iter().map(file).collect()
    }

    /// What must hold when the job is over.
    pub(super) fn check_end(&self) {
        let (seed, trace) = (self.seed, &self.trace);
        let tasks = self.job.as_ref().map_or(0, |job| job.plan().tasks().count());
        assert_eq!(
            self.ever_done.len(),
            tasks,
            "seed {seed}: done too early\n{trace}"
        );
        let Some(job) = &self.job else { return };
        if self.plan.follow {
            assert!(job.plan().drain, "seed {seed}: ended by itself");
            let all: Vec<&Slice> = self.seen.values().flatten().collect();
            let read: BTreeSet<_> = all.iter().map(|s| (s.file.as_str(), s.creation)).collect();
            assert_eq!(
                all.len(),
                read.len(),
                "seed {seed}: a file was read twice\n{trace}"
            );
            let labels: BTreeSet<&str> = all.iter().map(|s| s.label()).collect();
            assert_eq!(
                all.len(),
                labels.len(),
                "seed {seed}: two files, one label\n{trace}"
            );
            for SourceFile { name, creation } in &self.must_read {
                assert!(
                    read.contains(&(name.as_str(), Some(*creation))),
                    "seed {seed}: {name}, creation {creation}, was not read\n{trace}"
                );
            }
        }
        let poison: usize = self.poison.values().map(Vec::len).sum();
        assert_eq!(job.poisoned(), poison as u64, "seed {seed}: poison\n{trace}");
        for (task, units) in &job.plan().skips {
            let all = self.poison.get(task);
            assert!(
                units.iter().all(|u| all.is_some_and(|p| p.contains(u))),
                "seed {seed}: a tuple without fault was set aside"
            );
        }
    }
}
