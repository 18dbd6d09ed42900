//! The plan of a job, worked out before anything starts. Pure: files, nodes and operators are handed in.

mod change;
mod placement;
mod routing;
#[cfg(any(test, feature = "sample"))]
pub mod sample;
mod slices;

use std::collections::BTreeMap;

use common::ids::{Creation, Epoch, JobName, NodeName, TaskId};
use protocol::control::{Format, OpKind, OpSpec, Slice, TaskPlan, Unit};

use serde::{Deserialize, Serialize};

pub use change::Change;
pub use placement::place;
pub use routing::{Born, Routing, Scaling};
pub use slices::{Input, SPLIT_FROM, SourceFile, fewest, follow, slices, whole};

/// The end of a slice whose file may still grow.
pub const OPEN: u64 = u64::MAX;

/// How the job comes to its destination file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// It was there: the job's output begins at byte `from` of that file and no other.
    Found {
        from: u64,
        #[serde(default)]
        creation: Option<Creation>,
    },
    /// It is made, under a number that tells it from one that others make under its name. `replace`: in place of one that
    /// is there.
    Made { nonce: u64, replace: bool },
}

impl Default for Output {
    fn default() -> Self {
        Output::Found {
            from: 0,
            creation: None,
        }
    }
}

impl Output {
    /// Where the job's output begins.
    pub fn from(self) -> u64 {
        match self {
            Output::Found { from, .. } => from,
            Output::Made { .. } => 0,
        }
    }

    /// Which file of the destination's name has it; `None` in a journal of a version that did not know.
    pub fn creation(self) -> Option<Creation> {
        match self {
            Output::Found { creation, .. } => creation,
            Output::Made { nonce, .. } => Some(Creation(nonce)),
        }
    }
}

/// One stage; the source is stage 0 and has no operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    pub op: Option<OpSpec>,
    /// How many it began with.
    pub tasks: u16,
}

impl Stage {
    /// The operator as the user typed it, for people.
    pub fn label(&self) -> String {
        match &self.op {
            None => "source".into(),
            Some(op) if op.args.is_empty() => op.exe.clone(),
            Some(op) => format!("{} {}", op.exe, shell_words::join(&op.args)),
        }
    }

    /// The operator's name alone, for logs and lists.
    pub fn op_name(&self) -> &str {
        self.op.as_ref().map_or("source", |op| &op.exe)
    }

    pub fn kind_name(&self) -> &'static str {
        match self.op.as_ref().map(|op| op.kind) {
            None => "source",
            Some(OpKind::Transform) => "transform",
            Some(OpKind::Filter) => "filter",
            Some(OpKind::Aggregate) => "aggregate",
        }
    }
}

/// A whole job: what each task does and where it starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub job: JobName,
    pub exactly_once: bool,
    pub format: Format,
    pub dest: String,
    pub op_timeout_ms: u64,
    /// Lines per second over all source tasks; 0: no limit.
    pub rate: u64,
    /// Stage 0 is the source.
    pub stages: Vec<Stage>,
    /// Per source task.
    pub sources: Vec<Vec<Slice>>,
    /// Where each task is started first.
    pub nodes: BTreeMap<TaskId, NodeName>,
    /// The folder or file that the sources read.
    #[serde(default)]
    pub src: String,
    #[serde(default)]
    pub output: Output,
    /// Failures of an operator at the same tuple before the job is failed or the tuple set aside.
    #[serde(default)]
    pub max_restarts: u32,
    /// The HyDFS file for tuples that are set aside; `None`: they fail the job.
    #[serde(default)]
    pub poison: Option<String>,
    /// The source's files may grow, and more may come.
    #[serde(default)]
    pub follow: bool,
    /// The tasks' logs are never trimmed: the whole job can be proved from them.
    #[serde(default)]
    pub keep_logs: bool,
    /// The sources are to read what is there, and end.
    #[serde(default)]
    pub drain: bool,
    /// Tuples that are set aside, by the task whose operator fails at them.
    #[serde(default)]
    pub skips: BTreeMap<TaskId, Vec<Unit>>,
    /// Stages gain and lose tasks by themselves.
    #[serde(default)]
    pub scaling: Option<Scaling>,
    #[serde(default)]
    pub routing: Routing,
    /// How many leaders wait on other nodes for this one's end.
    #[serde(default)]
    pub standbys: u16,
}

impl Plan {
    /// All that there ever were.
    pub fn tasks(&self) -> impl Iterator<Item = TaskId> + '_ {
        (0..self.stages.len()).flat_map(|k| self.stage_tasks(k as u16))
    }

    /// Bytes that the sources will read; 0 when nobody knows.
    pub fn input_bytes(&self) -> u64 {
        if self.follow {
            return 0;
        }
        let slices = self.sources.iter().flatten();
        slices.map(|s| s.end.saturating_sub(s.start)).sum()
    }

    /// Keeps a state that does not survive its process unless the task's log has it.
    pub fn has_state(&self) -> bool {
        let ops = self.stages.iter().filter_map(|s| s.op.as_ref());
        ops.map(|op| op.kind).any(|kind| kind == OpKind::Aggregate)
    }

    /// All that process `epoch` of `task` must know.
    pub fn task_plan(&self, task: TaskId, epoch: Epoch) -> TaskPlan {
        self.task_plan_until(task, epoch, u32::MAX)
    }

    /// The same, with no later version of the next stage's routing than `until`.
    pub fn task_plan_until(&self, task: TaskId, epoch: Epoch, until: u32) -> TaskPlan {
        let stages_behind = (self.stages.len() as u16).saturating_sub(task.stage + 1);
        let until = until.min(self.version(task.stage + 1));
        let (route, downstream, routes) = self.routes(task, until);
        let source = task.stage == 0;
        TaskPlan {
            job: self.job.clone(),
            task,
            epoch,
            exactly_once: self.exactly_once,
            op: self
                .stages
                .get(usize::from(task.stage))
                .and_then(|s| s.op.clone()),
            slices: match self.sources.get(usize::from(task.index)) {
                Some(slices) if source => slices.clone(),
                _ => vec![],
            },
            upstream: self.upstream(task),
            downstream,
            scales: self.scaling.is_some(),
            route,
            routes,
            marks: self.moves_state(task.stage + 1),
            owned: self.owned(task),
            stages_behind,
            dest: (stages_behind == 0).then(|| self.dest.clone()),
            dest_creation: self.output.creation().filter(|_| stages_behind == 0),
            format: self.format,
            rate_milli: if source { self.rate_of(task.index) } else { 0 },
            op_timeout_ms: self.op_timeout_ms,
            follow: source && self.follow,
            keep_logs: self.keep_logs,
            drain: source && self.drain,
            skip: self.skips.get(&task).cloned().unwrap_or_default(),
            poison: self.poison.clone().filter(|_| !source),
            careful: false,
            resume_from: None,
        }
    }

    /// A source task's even share of the rate, in thousandths. Never 0 when there is a limit: that would mean no limit.
    fn rate_of(&self, index: u16) -> u64 {
        let (n, milli) = (self.sources.len().max(1) as u64, self.rate.saturating_mul(1000));
        match milli {
            0 => 0,
            _ => (milli / n + u64::from(u64::from(index) < milli % n)).max(1),
        }
    }

    /// For people: `--dry-run`.
    pub fn describe(&self) -> String {
        use std::fmt::Write as _;
        let mut out = format!(
            "job {}: exactly_once={}{} rate={} -> {}\n",
            self.job,
            self.exactly_once,
            if self.follow { " follow" } else { "" },
            if self.rate == 0 {
                "no limit".into()
            } else {
                format!("{}/s", self.rate)
            },
            self.dest
        );
        for (k, stage) in self.stages.iter().enumerate() {
            let _ = writeln!(
                out,
                "stage {k}: {} ({}), {} tasks",
                stage.label(),
                stage.kind_name(),
                stage.tasks
            );
            for task in self.stage_tasks(k as u16) {
                let node = self.nodes.get(&task).map_or("?", |n| n.as_str());
                let _ = write!(out, "  {task} on {node}");
                if let (0, Some(slices)) = (k, self.sources.get(usize::from(task.index))) {
                    let closed = slices.iter().filter(|s| s.end != OPEN);
                    let bytes: u64 = closed.map(|s| s.end.saturating_sub(s.start)).sum();
                    let more = if self.follow { " and what comes" } else { "" };
                    let _ = write!(out, ": {bytes} bytes{more}");
                    for s in slices.iter().take(5) {
                        let end = if s.end == OPEN {
                            String::new()
                        } else {
                            s.end.to_string()
                        };
                        let _ = write!(out, " {}[{}..{end}]", s.file, s.start);
                    }
                    if slices.len() > 5 {
                        let _ = write!(out, " and {} more", slices.len() - 5);
                    }
                }
                out.push('\n');
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::sample::sample;
    use super::*;

    #[test]
    fn task_plans_know_their_neighbours() {
        let nodes = [NodeName::new("n1").unwrap()];
        let plan = sample(2, 3, 2, &nodes);
        let source = plan.task_plan(TaskId::new(0, 1), Epoch(1));
        assert!(source.upstream.is_empty() && source.op.is_none() && source.dest.is_none());
        assert_eq!(
            (source.downstream.len(), source.slices[0].file.as_str()),
            (3, "f1")
        );
        let last = plan.task_plan(TaskId::new(2, 0), Epoch(4));
        assert_eq!(
            (last.upstream.len(), last.downstream.len(), last.dest.as_deref()),
            (3, 0, Some("out"))
        );
        assert!(last.slices.is_empty() && last.epoch == Epoch(4));
        assert_eq!(plan.tasks().count(), 8);
    }

    #[test]
    fn a_rate_is_shared_out_whole_and_never_becomes_no_limit() {
        let nodes = [NodeName::new("n1").unwrap()];
        for (rate, n) in [(10, 3), (7, 7), (100_001, 4), (2, 2)] {
            let plan = Plan {
                rate,
                ..sample(1, 1, n, &nodes)
            };
            let shares: Vec<u64> = (0..n)
                .map(|i| plan.task_plan(TaskId::new(0, i), Epoch(1)).rate_milli)
                .collect();
            assert_eq!(shares.iter().sum::<u64>(), 1000 * rate, "{shares:?}");
            assert!(shares.iter().all(|r| *r > 0), "{shares:?}");
        }
    }
}
