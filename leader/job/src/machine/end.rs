//! How a job ends.

use common::ids::{Epoch, NodeName, TaskId};
use protocol::control::ToWorker;

use super::{Effect, Job};

impl Job {
    pub(super) fn end_if_done(&mut self, out: &mut Vec<Effect>) {
        let settled = self.stages().all_settled();
        if !self.over && settled && self.tasks.iter().all(|t| t.is_done()) {
            self.finish(out);
            out.push(Effect::Done);
        }
    }

    pub(super) fn give_up(&mut self, why: String, out: &mut Vec<Effect>) {
        if !self.over {
            self.finish(out);
            out.push(Effect::Failed { why });
        }
    }

    fn finish(&mut self, out: &mut Vec<Effect>) {
        self.over = true;
        out.extend(self.tasks.conns().map(|conn| Effect::Send {
            conn,
            message: ToWorker::Finish,
        }));
    }

    /// Processes that were launched and whose end will yet be seen, on nodes that are not known to be down: what is
    /// left to wait for, or to kill, when the job is over.
    pub fn left(&self) -> Vec<(TaskId, Epoch, NodeName, Option<u32>)> {
        self.processes.left(&self.nodes)
    }
}
