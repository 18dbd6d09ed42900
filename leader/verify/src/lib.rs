//! The log checker: replays a job's logs and HyDFS's own record of who wrote what, and finds what exactly-once bookkeeping
//! forbids. Pure: the console fetches the files. `docs/exactly-once.md` says what is proved by it and what is not.
//!
//! ```text
//!   journal --> JobFacts --+
//!   logs, streams ---------+--> Checker --> Verdict
//!   destination -----------+    log.rs    one task: its log against itself, its streams, its snapshot file
//!                                 state.rs  what replaying order records comes to; moves.rs: where a stage's state moves between its tasks
//!                                 cut.rs    checkpoints; base.rs: what a log begins with whose beginning was trimmed
//!                                 kept.rs   inputs and productions in the log; shape.rs: whether they must be there
//!                               across.rs  across tasks: channels, slices, the destination, the end
//! ```
//! While a job runs its files grow. What is read must be read downstream: a task's log before the logs of the tasks that
//! it sends to, the destination last. Then what a sender knows to be acknowledged is in what its receiver says later.

mod across;
mod base;
mod cut;
mod kept;
mod log;
mod moves;
mod shape;
mod state;

#[cfg(test)]
mod history;
#[cfg(test)]
mod tamper;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use common::ids::{Epoch, TaskId};
use hydfs::client::{StreamInfo, Streams};
use protocol::control::TaskPlan;

use job::plan::Plan;
use job::record::Record;
use job::state::{Ended, JobState};

pub use log::TaskLog;

/// Findings listed per task; the rest are counted.
const LISTED: usize = 20;

/// How the job stands, by its journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The journal has no end: it runs, or its leader is gone.
    Open,
    Ended,
    Failed(String),
}

/// What the journal says.
#[derive(Debug, Clone)]
pub struct JobFacts {
    pub plan: Plan,
    pub outcome: Outcome,
    /// The newest epoch given out per task.
    pub launched: BTreeMap<TaskId, Epoch>,
    /// Tasks that reported that they were done.
    pub done: BTreeSet<TaskId>,
}

impl JobFacts {
    /// `None`: the journal holds no plan, or the job was forgotten.
    pub fn of(journal: &[Record]) -> Option<Self> {
        let state = JobState::of(journal).filter(|state| !state.forgotten)?;
        Some(Self {
            plan: state.plan,
            outcome: match state.ended {
                None => Outcome::Open,
                Some(Ended { ok: true, .. }) => Outcome::Ended,
                Some(Ended { why, .. }) => Outcome::Failed(why),
            },
            launched: state.launched,
            done: state.done.into_keys().collect(),
        })
    }
}

/// What is stored of one task.
#[derive(Debug, Clone, Copy)]
pub struct TaskFiles<'a> {
    /// The committed bytes of its log from `log_begin` on (what stands before was trimmed), and (asked later) who wrote them.
    pub log: &'a [u8],
    pub log_begin: u64,
    pub log_streams: &'a Streams,
    /// Of its snapshot file, asked after the log was read; `None`: there is none.
    pub snapshots: Option<&'a Streams>,
}

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub task: Option<TaskId>,
    /// Where in the task's log: the record's first byte, and the position in the order that it speaks of.
    pub byte: Option<u64>,
    pub pos: Option<u64>,
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.task {
            Some(task) => write!(f, "{task}")?,
            None => write!(f, "job")?,
        }
        if let Some(byte) = self.byte {
            write!(f, " byte={byte}")?;
        }
        if let Some(pos) = self.pos {
            write!(f, " pos={pos}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// Findings of one subject, the first few in full.
#[derive(Debug, Default)]
struct Findings {
    list: Vec<Finding>,
    more: usize,
}

impl Findings {
    fn add(&mut self, finding: Finding) {
        if self.list.len() < LISTED {
            self.list.push(finding);
        } else {
            self.more += 1;
        }
    }

    fn into_list(mut self, task: Option<TaskId>) -> Vec<Finding> {
        if self.more > 0 {
            self.list.push(Finding {
                task,
                byte: None,
                pos: None,
                what: format!("{} more findings like these", self.more),
            });
        }
        self.list
    }
}

/// What was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    pub tasks: usize,
    pub orders: u64,
    pub checkpoints: u64,
    /// Processes that began, over all tasks.
    pub epochs: u64,
    pub restarts: u64,
    pub lines: u64,
    /// Logs whose beginnings are gone, and the order records that these held.
    pub trimmed: usize,
    pub trimmed_orders: u64,
    pub log_bytes: u64,
    pub dest_bytes: u64,
    /// The job's streams in the destination, and those of others.
    pub streams: usize,
    pub others: usize,
}

#[derive(Debug)]
pub struct Verdict {
    pub outcome: Outcome,
    pub findings: Vec<Finding>,
    /// What could not be looked at, and why.
    pub unchecked: Vec<String>,
    pub totals: Totals,
}

/// Collects what the logs say and judges it. See the module on the order in which to hand things in.
#[derive(Debug)]
pub struct Checker {
    facts: JobFacts,
    plans: BTreeMap<TaskId, TaskPlan>,
    findings: Vec<Finding>,
    unchecked: Vec<String>,
    logs: BTreeMap<TaskId, TaskLog>,
    log_bytes: u64,
}

impl Checker {
    /// `facts`: from before any log was read.
    pub fn new(facts: JobFacts) -> Self {
        let plan = &facts.plan;
        Self {
            plans: plan.tasks().map(|t| (t, plan.task_plan(t, Epoch(0)))).collect(),
            facts,
            findings: vec![],
            unchecked: vec![],
            logs: BTreeMap::new(),
            log_bytes: 0,
        }
    }

    /// The HyDFS file of tuples set aside, if the job has one.
    pub fn poison(&self) -> Option<&str> {
        self.plans.values().find_map(|p| p.poison.as_deref())
    }

    /// One task's log. A task without one is not handed in: it never ran, or its log is gone.
    pub fn task(&mut self, task: TaskId, files: TaskFiles<'_>) {
        let Some(plan) = self.plans.get(&task) else {
            return;
        };
        let ended = self.facts.outcome == Outcome::Ended;
        let (log, findings) = log::check(plan, ended, files);
        if files.log_streams.missing {
            self.unchecked
                .push(format!("{task}: a part of who wrote its log is being repaired"));
        }
        self.log_bytes += files.log.len() as u64;
        self.findings.extend(findings);
        self.logs.insert(task, log);
    }

    /// `after`: the journal once more, from after everything else was read; it knows every process that can have written.
    /// `None`: there is no such file (any more).
    pub fn finish(self, after: &JobFacts, dest: Option<&Streams>, poison: Option<&Streams>) -> Verdict {
        across::finish(self, after, dest, poison)
    }
}

/// Is this stream what its epochs appended one after the other, each byte once? `trimmed`: its beginning may be gone.
fn spans_wrong(stream: &StreamInfo, missing: bool, trimmed: bool) -> Option<String> {
    let first = match trimmed {
        true => stream.spans.first().map_or(stream.length, |first| first.start),
        false => 0,
    };
    let (mut end, mut epoch) = (first, Epoch(0));
    for span in &stream.spans {
        if span.start < end || (span.start > end && !missing) {
            return Some(format!(
                "epoch {} appended bytes {}..{} where byte {end} was next",
                span.epoch, span.start, span.end
            ));
        }
        if span.epoch < epoch {
            return Some(format!(
                "epoch {} appended bytes {}..{} after epoch {epoch} had",
                span.epoch, span.start, span.end
            ));
        }
        (end, epoch) = (span.end, span.epoch);
    }
    if epoch > stream.epoch {
        return Some(format!(
            "epoch {epoch} appended, but the newest fence is epoch {}",
            stream.epoch
        ));
    }
    (end != stream.length && !missing).then(|| {
        format!(
            "the stream is {} bytes long, its appends come to {end}",
            stream.length
        )
    })
}

/// `1234567` as `1,234,567`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}
