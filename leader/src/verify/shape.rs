//! What a task's log must hold and how many outputs it speaks of, by the plan. (The worker decides the same, in its own
//! words: `docs/exactly-once.md`, "What the log keeps".)

use common::control::{OpCode, OpKind, TaskPlan};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// The order of what was consumed.
    Order,
    /// What was consumed as well.
    Inputs,
    /// What was put out as well.
    Productions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub keeps: Keeps,
    /// The operator's state goes into snapshots.
    pub stateful: bool,
    /// Outputs for what the operator puts out: the next stage's tasks, or the destination.
    pub channels: usize,
    /// Behind them, one for tuples set aside.
    pub aside: bool,
}

impl Shape {
    pub fn of(plan: &TaskPlan) -> Self {
        let (keeps, stateful) = match &plan.op {
            None => (Keeps::Order, false),
            Some(op) => {
                let saves = match &op.code {
                    OpCode::Builtin => op.kind == OpKind::Aggregate,
                    OpCode::Foreign { snapshot, .. } => *snapshot,
                };
                match (op.deterministic, op.kind) {
                    (false, _) => (Keeps::Productions, saves),
                    (true, OpKind::Aggregate) if !saves => (Keeps::Inputs, false),
                    (true, _) => (Keeps::Order, saves),
                }
            }
        };
        Self {
            keeps,
            stateful,
            channels: plan.downstream.len().max(1),
            aside: plan.op.is_some() && plan.poison.is_some(),
        }
    }

    pub fn outputs(self) -> usize {
        self.channels + usize::from(self.aside)
    }

    /// A new process takes nothing over that no checkpoint covers: nothing of it had left.
    pub fn voids(self) -> bool {
        self.keeps == Keeps::Productions && self.stateful
    }
}
