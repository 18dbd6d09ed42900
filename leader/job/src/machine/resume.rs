//! Taking up a job whose leader is gone: what its journal says, and how the job goes on from there.
//!
//! The dead leader may have launched processes that its journal does not know of. So each leader's processes have epochs of
//! their own, a block of a thousand above all that any earlier leader can have used; HyDFS fences the older ones out.

use std::collections::{BTreeMap, BTreeSet};

use common::ids::{Epoch, TaskId};
use protocol::task_log::SourcePos;

use super::mutants::Mutant;
use crate::plan::Plan;
use crate::record::{Counts, Record};
use crate::state::JobState;

/// Epochs per leader: far more than one leader launches of one task before another takes the job up.
const BLOCK: u64 = 1000;
/// How many launches of one task may have been on their way to the journal when its leader died: they start half a second
/// apart at the most, and a leader that cannot write its journal stops.
const UNSEEN: u64 = 200;

/// Why a job cannot be taken up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    #[error("it never began: its leader ended before the plan was stored, and nothing was started")]
    NeverBegan,
    #[error("it has ended well, its output is whole")]
    Ended,
    #[error("it was forgotten: what it needs for that is being removed, or gone")]
    Forgotten,
}

/// A job as its journal has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Resumed {
    /// With all changes that were made to it.
    pub plan: Plan,
    /// This leader's processes have epochs above it.
    pub base: Epoch,
    /// With exactly-once: tasks whose output is complete and acknowledged, and what they did.
    pub done: BTreeMap<TaskId, Counts>,
    /// By stage: the newest version of its routing of which all is over.
    pub settled: BTreeMap<u16, u32>,
    /// Without exactly-once: where each source may begin.
    pub arrived: BTreeMap<TaskId, SourcePos>,
    /// Tuples set aside so far.
    pub poisoned: u64,
    /// Some process was started: the destination must be there.
    pub launched: bool,
    /// Tuples in the destination. Not in the journal: for the caller to fill in.
    pub before: u64,
    /// Why the job failed, when it did.
    pub failed: Option<String>,
}

/// Reads a journal that was fenced under `fence`. The first leader's journal epoch is 1.
pub fn resume(records: &[Record], fence: Epoch) -> Result<Resumed, ResumeError> {
    let state = JobState::of(records).ok_or(ResumeError::NeverBegan)?;
    if state.forgotten {
        return Err(ResumeError::Forgotten);
    }
    if state.ended.as_ref().is_some_and(|ended| ended.ok) {
        return Err(ResumeError::Ended);
    }
    let JobState { newest, done, .. } = state;
    let mut resumed = Resumed {
        plan: state.plan,
        base: Epoch(fence.0.saturating_sub(1) * BLOCK),
        done: done.iter().map(|(task, done)| (*task, done.counts)).collect(),
        settled: state.settled,
        arrived: state.arrived,
        poisoned: state.poisoned,
        launched: !state.launched.is_empty(),
        before: 0,
        failed: state.ended.map(|ended| ended.why),
    };
    if Mutant::KeepBlock.is_on() {
        resumed.base = Epoch(0);
    } else if newest > 0 {
        let next = (newest + UNSEEN) / BLOCK + 1;
        resumed.base = resumed.base.max(Epoch(next * BLOCK));
    }
    resumed.without_logs();
    // One that has not heard of who came later has to tell them its end.
    let (plan, gone) = (&resumed.plan, resumed.gone());
    let routed = |t: &TaskId| done.get(t).map_or(0, |done| done.routed);
    let told = |t: &TaskId| routed(t) >= plan.version(t.stage + 1);
    resumed.done.retain(|t, _| told(t) || gone.contains(t));
    Ok(resumed)
}

impl Resumed {
    /// Tasks that were taken out, and are gone for good.
    pub(super) fn gone(&self) -> BTreeSet<TaskId> {
        let is_gone = |t: &TaskId, version: u32| {
            // Those that came with a later version are not in that table either.
            self.plan.came_with(*t) <= version && !self.plan.route(t.stage, version).contains(t)
        };
        let stages = self
            .settled
            .iter()
            .map(|(stage, version)| (self.plan.stage_tasks(*stage), *version));
        stages
            .flat_map(|(tasks, version)| tasks.into_iter().filter(move |t| is_gone(t, version)))
            .collect()
    }

    /// Without exactly-once nothing of a task outlives its processes, and all of them are gone. All tasks start anew, as
    /// many as there were at first; a source goes on from where all had arrived, unless some of that is only in the state that was lost.
    fn without_logs(&mut self) {
        if self.plan.exactly_once {
            return self.arrived.clear();
        }
        self.done.clear();
        self.plan.unroute();
        self.settled.clear();
        self.plan.skips.clear();
        if self.plan.has_state() {
            self.arrived.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::sample::sample;
    use crate::plan::{Change, OPEN};
    use crate::record::{Entry, Settings, VERSION};
    use common::ids::NodeName;
    use protocol::control::{Slice, Unit};

    fn node() -> NodeName {
        NodeName::new("n1").unwrap()
    }

    fn records(entries: Vec<Entry>) -> Vec<Record> {
        let record = |entry| Record {
            v: VERSION,
            at_us: 0,
            entry,
        };
        entries.into_iter().map(record).collect()
    }

    fn plan() -> Entry {
        Entry::Plan(Box::new(sample(1, 2, 2, &[node()])))
    }

    fn launch(task: TaskId, epoch: u64) -> Entry {
        Entry::Launch {
            task,
            epoch: Epoch(epoch),
            node: node(),
        }
    }

    fn done(task: TaskId) -> Entry {
        Entry::Done {
            task,
            epoch: Epoch(1),
            counts: Counts {
                tuples_in: 7,
                ..Counts::default()
            },
            routed: 0,
        }
    }

    fn end(ok: bool) -> Entry {
        Entry::End {
            ok,
            why: "boom".into(),
        }
    }

    fn settings() -> Settings {
        Settings {
            max_restarts: 9,
            op_timeout_ms: 1,
            poison: None,
            standbys: None,
        }
    }

    fn taken_up(base: u64) -> Entry {
        Entry::Resumed {
            base: Epoch(base),
            node: node(),
            pid: 1,
            settings: settings(),
        }
    }

    fn base(entries: Vec<Entry>, fence: u64) -> u64 {
        resume(&records(entries), Epoch(fence)).unwrap().base.0
    }

    const SOURCE: TaskId = TaskId { stage: 0, index: 1 };
    const TASK: TaskId = TaskId { stage: 1, index: 0 };

    #[test]
    fn what_never_began_or_has_ended_well_is_refused() {
        assert_eq!(resume(&[], Epoch(2)), Err(ResumeError::NeverBegan));
        let all = records(vec![plan(), launch(TASK, 1), end(true)]);
        assert_eq!(resume(&all, Epoch(2)), Err(ResumeError::Ended));
        // However far the dead leader came before it, the job goes on.
        for n in 1..all.len() {
            let resumed = resume(&all[..n], Epoch(2)).unwrap();
            assert_eq!((resumed.launched, resumed.base), (n > 1, Epoch(1000)), "{n}");
        }
        let failed = resume(&records(vec![plan(), end(false)]), Epoch(2)).unwrap();
        assert_eq!(failed.failed.as_deref(), Some("boom"));
    }

    #[test]
    fn epochs_lie_above_all_that_any_leader_before_can_have_used() {
        assert_eq!(base(vec![plan()], 2), 1000);
        assert_eq!(base(vec![plan(), launch(TASK, 3)], 2), 1000);
        // More launches than a block holds, journalled or nearly.
        assert_eq!(base(vec![plan(), launch(TASK, 999)], 2), 2000);
        assert_eq!(base(vec![plan(), launch(TASK, 801)], 2), 2000);
        assert_eq!(base(vec![plan(), launch(TASK, 1400)], 2), 2000);
        // A leader between: its first launch was not journalled, or nothing of it at all but its fence.
        assert_eq!(base(vec![plan(), launch(TASK, 3), taken_up(1000)], 3), 2000);
        assert_eq!(base(vec![plan(), launch(TASK, 3)], 3), 2000);
        assert_eq!(
            base(
                vec![plan(), launch(TASK, 999), taken_up(2000), launch(TASK, 2001)],
                3
            ),
            3000
        );
    }

    #[test]
    fn changes_are_part_of_the_plan_and_settings_hold_from_where_they_were_made() {
        let slice = Slice {
            file: "new".into(),
            creation: None,
            label: None,
            start: 0,
            end: OPEN,
            newlines_before: 0,
        };
        let unit = Unit {
            from: SOURCE,
            number: 5,
        };
        let more = Change::Slices {
            task: SOURCE,
            slices: vec![slice.clone()],
        };
        let skip = Change::Skip {
            task: TASK,
            unit,
            key: None,
            why: "boom".into(),
        };
        let all = records(vec![
            plan(),
            Entry::Change(more),
            end(false),
            taken_up(1000),
            Entry::Change(skip),
            Entry::Change(Change::Drain),
            done(SOURCE),
        ]);
        let resumed = resume(&all, Epoch(3)).unwrap();
        assert_eq!(resumed.plan.sources[1].last(), Some(&slice));
        assert_eq!(
            (resumed.plan.skips[&TASK].clone(), resumed.poisoned),
            (vec![unit], 1)
        );
        assert!(resumed.plan.drain && resumed.failed.is_none() && resumed.plan.max_restarts == 9);
        assert_eq!(resumed.done[&SOURCE].tuples_in, 7);
    }

    #[test]
    fn without_exactly_once_all_tasks_start_anew_from_what_has_arrived() {
        let mut loose = sample(1, 2, 2, &[node()]);
        loose.exactly_once = false;
        let arrived = Entry::Arrived {
            task: SOURCE,
            place: SourcePos::default(),
        };
        let entries = |plan: &Plan| {
            records(vec![
                Entry::Plan(Box::new(plan.clone())),
                done(SOURCE),
                arrived.clone(),
            ])
        };
        let resumed = resume(&entries(&loose), Epoch(2)).unwrap();
        assert!(resumed.done.is_empty() && resumed.arrived.contains_key(&SOURCE));
        // What a lost state had counted must come again.
        if let Some(op) = &mut loose.stages[1].op {
            op.kind = protocol::control::OpKind::Aggregate;
        }
        assert!(resume(&entries(&loose), Epoch(2)).unwrap().arrived.is_empty());
    }
}
