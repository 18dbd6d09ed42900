//! What a journal comes to: all that its readers need of it. A journal that has outgrown it is rewritten as one such record.

use std::collections::BTreeMap;

use common::ids::{Epoch, NodeName, TaskId};
use protocol::task_log::SourcePos;
use serde::{Deserialize, Serialize};

use crate::plan::{Change, Plan};
use crate::record::{Counts, Entry, Record};

/// A task that has said that it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoneTask {
    pub counts: Counts,
    /// The newest version of the next stage's routing that it knew.
    pub routed: u32,
}

/// How the job has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub ok: bool,
    pub why: String,
}

/// What people want to know of the job's life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// Wall clock, microseconds: of the first record.
    pub began_us: u64,
    /// Of the newest record.
    pub last_us: u64,
    /// Processes that were replaced; the first of each leader is none.
    pub restarts: u64,
    /// How often another leader has taken the job up.
    pub resumed: u64,
}

/// A job as its journal has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobState {
    /// With all changes that were made to it.
    pub plan: Plan,
    /// The newest leader's processes have epochs above it.
    pub base: Epoch,
    /// The newest epoch that any leader is known to have used, or begun above.
    pub newest: u64,
    /// Where the newest leader runs, and its process; `None`: it is the first.
    pub leader: Option<(NodeName, u32)>,
    /// The newest epoch of each task that was started.
    pub launched: BTreeMap<TaskId, Epoch>,
    pub done: BTreeMap<TaskId, DoneTask>,
    /// By stage: the newest version of its routing of which all is over.
    pub settled: BTreeMap<u16, u32>,
    /// Without exactly-once: where each source may begin.
    pub arrived: BTreeMap<TaskId, SourcePos>,
    /// Tuples set aside.
    pub poisoned: u64,
    /// Nobody has taken the job up since.
    pub ended: Option<Ended>,
    /// What it keeps is being removed: nobody takes it up any more.
    #[serde(default)]
    pub forgotten: bool,
    pub life: Life,
}

impl JobState {
    /// `None`: there is no plan.
    pub fn of(records: &[Record]) -> Option<Self> {
        let mut state = None;
        records.iter().for_each(|record| Self::take(&mut state, record));
        state
    }

    /// One more record. What comes before the plan says nothing.
    pub fn take(state: &mut Option<Self>, record: &Record) {
        match (&record.entry, &mut *state) {
            (Entry::State(all), _) => *state = Some(all.as_ref().clone()),
            (Entry::Plan(plan), None) => *state = Some(Self::begin(plan.as_ref().clone(), record.at_us)),
            (_, Some(state)) => state.apply(record),
            (_, None) => {}
        }
    }

    fn begin(plan: Plan, began_us: u64) -> Self {
        Self {
            plan,
            base: Epoch(0),
            newest: 0,
            leader: None,
            launched: BTreeMap::new(),
            done: BTreeMap::new(),
            settled: BTreeMap::new(),
            arrived: BTreeMap::new(),
            poisoned: 0,
            ended: None,
            forgotten: false,
            life: Life {
                began_us,
                last_us: began_us,
                ..Life::default()
            },
        }
    }

    fn apply(&mut self, record: &Record) {
        self.life.last_us = record.at_us;
        match &record.entry {
            Entry::Plan(_) | Entry::State(_) => {}
            Entry::Launch { task, epoch, .. } => {
                self.newest = self.newest.max(epoch.0);
                self.life.restarts += u64::from(epoch.0 > self.base.0 + 1);
                let newest = self.launched.entry(*task).or_default();
                *newest = (*newest).max(*epoch);
            }
            Entry::Done {
                task, counts, routed, ..
            } => {
                let (counts, routed) = (*counts, *routed);
                self.done.insert(*task, DoneTask { counts, routed });
            }
            Entry::Scaled { stage, version } => drop(self.settled.insert(*stage, *version)),
            Entry::Change(change) => {
                if let Change::Scale { .. } = change {
                    // One at a time: those before it were over.
                    self.settled = self.plan.versions();
                }
                let skips = |plan: &Plan| plan.skips.values().map(Vec::len).sum::<usize>();
                let before = skips(&self.plan);
                self.plan.apply(change);
                self.poisoned += (skips(&self.plan) - before) as u64;
            }
            Entry::Arrived { task, place } => drop(self.arrived.insert(*task, place.clone())),
            Entry::Resumed {
                base,
                node,
                pid,
                settings,
            } => {
                // A leader that has launched nothing has used none, but who knows that it has not?
                self.newest = self.newest.max(base.0 + 1);
                self.base = *base;
                self.leader = Some((node.clone(), *pid));
                self.life.resumed += 1;
                self.ended = None;
                if !self.plan.exactly_once {
                    self.plan.unroute();
                }
                settings.apply(&mut self.plan);
            }
            Entry::End { ok, why } => {
                let why = why.clone();
                self.ended = Some(Ended { ok: *ok, why });
            }
            Entry::Forgotten => self.forgotten = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::sample::sample;
    use crate::record::{Settings, VERSION};
    use proptest::prelude::*;

    fn node() -> NodeName {
        NodeName::new("n1").unwrap()
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let task = (0u16..2, 0u16..2).prop_map(|(stage, index)| TaskId::new(stage, index));
        prop_oneof![
            (task.clone(), 1u64..3000).prop_map(|(task, epoch)| Entry::Launch {
                task,
                epoch: Epoch(epoch),
                node: node(),
            }),
            (task.clone(), 0u64..9).prop_map(|(task, tuples_in)| Entry::Done {
                task,
                epoch: Epoch(1),
                counts: Counts {
                    tuples_in,
                    ..Counts::default()
                },
                routed: 0,
            }),
            task.prop_map(|task| Entry::Arrived {
                task,
                place: SourcePos::default(),
            }),
            Just(Entry::Change(Change::Drain)),
            (0u64..9).prop_map(|rate| Entry::Change(Change::Rate(rate))),
            (0u64..5).prop_map(|n| Entry::Resumed {
                base: Epoch(n * 1000),
                node: node(),
                pid: 7,
                settings: Settings {
                    max_restarts: n as u32,
                    op_timeout_ms: 1,
                    poison: None,
                    standbys: None,
                },
            }),
            any::<bool>().prop_map(|ok| Entry::End {
                ok,
                why: "boom".into()
            }),
            Just(Entry::Forgotten),
        ]
    }

    proptest! {
        /// Wherever a journal is rewritten, all that comes after it is understood as before.
        #[test]
        fn a_rewritten_journal_says_the_same(entries in prop::collection::vec(entry(), 0..40), cuts: Vec<prop::sample::Index>) {
            let plan = sample(1, 2, 2, &[node()]);
            let entries = std::iter::once(Entry::Plan(Box::new(plan))).chain(entries);
            let records: Vec<Record> = entries
                .enumerate()
                .map(|(i, entry)| Record { v: VERSION, at_us: i as u64 + 1, entry })
                .collect();
            let whole = JobState::of(&records);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| 1 + cut.index(records.len())).collect();
            cuts.sort();
            let mut rewritten = records.clone();
            for cut in cuts {
                let end = rewritten.len() - (records.len() - cut);
                let state = JobState::of(&rewritten[..end]).unwrap();
                let entry = Entry::State(Box::new(state));
                let at_us = records[cut - 1].at_us;
                // As it is stored.
                let stored = Record { v: VERSION, at_us, entry }.encode().unwrap();
                let read = crate::record::decode(&stored).unwrap();
                rewritten.splice(..end, read);
                prop_assert_eq!(JobState::of(&rewritten), whole.clone());
            }
        }
    }

    #[test]
    fn what_has_no_plan_has_no_state() {
        let end = Record {
            v: VERSION,
            at_us: 1,
            entry: Entry::End {
                ok: true,
                why: String::new(),
            },
        };
        assert_eq!(JobState::of(&[end]), None);
    }
}
