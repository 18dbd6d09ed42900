//! What becomes of a plan while its job runs. Each change is in the journal before anybody acts on it, and part of every
//! later plan of its task.

use common::ids::TaskId;
use protocol::control::{Slice, Unit};
use serde::{Deserialize, Serialize};

use super::Plan;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// More input for a source task. It comes after what the task has: a slice's index is its name for ever.
    Slices { task: TaskId, slices: Vec<Slice> },
    /// A tuple that is set aside from now on, because the operator fails at it.
    Skip {
        task: TaskId,
        unit: Unit,
        key: Option<String>,
        why: String,
    },
    /// The sources read what is there, and end.
    Drain,
    /// A stage's next routing table: with a task more, or without one.
    Scale {
        stage: u16,
        version: u32,
        tasks: Vec<TaskId>,
    },
    /// Lines per second over all source tasks; 0: no limit.
    Rate(u64),
}

impl Plan {
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Slices { task, slices } if task.stage == 0 => {
                if let Some(has) = self.sources.get_mut(usize::from(task.index)) {
                    has.extend_from_slice(slices);
                }
            }
            Change::Slices { .. } => {}
            Change::Skip { task, unit, .. } => {
                let skips = self.skips.entry(*task).or_default();
                if !skips.contains(unit) {
                    skips.push(*unit);
                }
            }
            Change::Drain => self.drain = true,
            Change::Scale {
                stage,
                version,
                tasks,
            } => self.reroute(*stage, *version, tasks),
            Change::Rate(rate) => self.rate = *rate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::OPEN;
    use crate::plan::sample::sample;
    use common::ids::{Epoch, NodeName};

    #[test]
    fn changes_are_part_of_the_later_plans_of_their_task() {
        let nodes = [NodeName::new("n1").unwrap()];
        let mut plan = sample(1, 2, 2, &nodes);
        plan.follow = true;
        plan.poison = Some("out.poison".into());
        let (source, task) = (TaskId::new(0, 1), TaskId::new(1, 0));
        let slices = vec![Slice {
            file: "new".into(),
            creation: None,
            label: None,
            start: 0,
            end: OPEN,
            newlines_before: 0,
        }];
        let unit = Unit {
            from: source,
            number: 7,
        };
        let skip = Change::Skip {
            task,
            unit,
            key: None,
            why: "boom".into(),
        };
        let before = plan.task_plan(source, Epoch(1)).slices;
        plan.apply(&Change::Slices {
            task: source,
            slices: slices.clone(),
        });
        plan.apply(&skip);
        plan.apply(&skip);
        let later = plan.task_plan(source, Epoch(2));
        assert_eq!(later.slices, [before, slices].concat());
        assert!(later.follow && !later.drain && later.skip.is_empty() && later.poison.is_none());
        plan.apply(&Change::Drain);
        assert!(plan.task_plan(source, Epoch(3)).drain);
        let later = plan.task_plan(task, Epoch(2));
        assert_eq!(
            (later.skip, later.poison.as_deref()),
            (vec![unit], Some("out.poison"))
        );
        assert!(plan.task_plan(TaskId::new(1, 1), Epoch(2)).skip.is_empty());
        // A journal that speaks of tasks that are not in the plan is not followed.
        plan.apply(&Change::Slices {
            task: TaskId::new(0, 9),
            slices: vec![],
        });
        assert_eq!(plan.sources.len(), 2);
    }
}
