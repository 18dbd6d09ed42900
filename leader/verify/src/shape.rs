//! What a task's log must hold and how many outputs it speaks of, by the plan. (The worker decides the same, in its own
//! words: `docs/exactly-once.md`, "What the log keeps".)

use common::ids::TaskId;
use protocol::control::TaskPlan;
use protocol::task_log::Keeps;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub keeps: Keeps,
    /// The operator's state goes into snapshots.
    pub stateful: bool,
    /// Outputs for what the operator puts out: the next stage's tasks, or the destination.
    pub channels: usize,
    /// Behind them, one for tuples set aside.
    pub aside: bool,
    /// The first is the destination, which no task is behind.
    dest: bool,
}

impl Shape {
    pub fn of(plan: &TaskPlan) -> Self {
        let (keeps, stateful) = Keeps::of(plan);
        Self {
            keeps,
            stateful,
            channels: plan.downstream.len().max(1),
            aside: plan.op.is_some() && plan.poison.is_some(),
            dest: plan.downstream.is_empty(),
        }
    }

    /// How many outputs there are when so many channels were opened.
    pub fn outputs(self, targets: usize) -> usize {
        self.channels.max(targets + usize::from(self.dest)) + usize::from(self.aside)
    }

    /// Which output the channel to the so-manyth task is: those that were opened later come behind the place for tuples set
    /// aside.
    pub fn output(self, target: usize) -> usize {
        let channel = target + usize::from(self.dest);
        channel + usize::from(self.aside && channel >= self.channels)
    }

    /// A new process takes nothing over that no checkpoint covers: nothing of it had left.
    pub fn voids(self) -> bool {
        self.keeps == Keeps::Productions && self.stateful
    }
}

/// Another task of the same stage, where they hand state over to each other.
pub fn is_peer(task: TaskId, plan: &TaskPlan) -> bool {
    plan.owned.is_some() && task.stage == plan.task.stage && task != plan.task
}
