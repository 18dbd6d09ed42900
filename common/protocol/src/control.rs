//! What leader and workers say to each other on a control connection (role [`common::net::Role::Control`]).
//!
//! ```text
//! worker                      leader
//!   Register  ------------------>      (refused when a newer epoch has registered)
//!             <------------------ Plan
//!             <------------------ Peers  (now, and each time that a neighbour's process changes)
//!   Started   ------------------>      log fenced and read, replay known
//!   Beat      ------------------>      every lease / 6, with the counters; the leader's Beat goes the other way
//!   Done      ------------------>      all inputs ended, all outputs acknowledged
//!             <------------------ Finish
//! ```
//! A side that hears nothing for the lease gives the other up: the leader replaces the worker, the worker exits.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::task_log::SourcePos;
use common::ids::{Creation, Epoch, JobName, NodeName, TaskId};

/// What an operator does with tuples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OpKind {
    /// One tuple to any number.
    Transform,
    /// Passes or drops.
    Filter,
    /// Keeps state per key.
    Aggregate,
}

impl std::fmt::Display for OpKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            OpKind::Transform => "transform",
            OpKind::Filter => "filter",
            OpKind::Aggregate => "aggregate",
        })
    }
}

/// How a foreign executable is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Text,
    Batch,
}

/// Where an operator's code is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpCode {
    /// Comes with RainStorm and runs inside the worker.
    Builtin,
    /// An executable, kept in HyDFS under its content's hash.
    Foreign {
        hydfs_name: String,
        hash: String,
        protocol: Protocol,
        /// It wants the tuples' keys.
        keys: bool,
        /// It can save its state and take it in again.
        snapshot: bool,
    },
}

/// One stage's operator, as planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpSpec {
    /// As the user typed it: an operator's name or a path.
    pub exe: String,
    pub args: Vec<String>,
    pub kind: OpKind,
    pub code: OpCode,
    /// Its output depends on nothing but its input. False: what it puts out is logged before it leaves.
    pub deterministic: bool,
}

impl OpSpec {
    /// It keeps a state per key that another task can take over: one of the aggregates that come with RainStorm, and
    /// deterministic.
    pub fn moves_state(&self) -> bool {
        self.kind == OpKind::Aggregate && self.code == OpCode::Builtin && self.deterministic
    }
}

/// A piece of an input file for a source task: the lines that start in `start..end`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// HyDFS name; the tuples' keys are `file:line`.
    pub file: String,
    /// Which file of that name; `None` in a journal of a version that did not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation: Option<Creation>,
    /// What the keys say instead of the name, where the job reads another file of that name as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    pub start: u64,
    pub end: u64,
    /// Newlines in the file before `start`.
    pub newlines_before: u64,
}

impl Slice {
    /// What the tuples' keys call the file.
    pub fn label(&self) -> &str {
        self.label.as_deref().unwrap_or(&self.file)
    }
}

/// How the last stage writes a tuple.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `key<TAB>value`
    Tsv,
    /// the value alone
    Value,
    /// `key<TAB>value` with tab, newline, CR and backslash written `\t`, `\n`, `\r`, `\\`, as PostgreSQL's COPY has them:
    /// whatever the bytes are, they can be read back
    Copy,
    /// one JSON object a line: `{"key": ..., "value": ...}`; bytes that are not UTF-8 become U+FFFD
    Json,
}

/// One tuple on a channel: an upstream task and the tuple's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Unit {
    pub from: TaskId,
    pub number: u64,
}

/// A stage's routing table: from version to version tasks are added to it, or taken out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub version: u32,
    /// The stage's tasks in routing order. An index is never used again: who is taken out does not come back.
    pub tasks: Vec<TaskId>,
}

/// Everything that a task's process must know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskPlan {
    pub job: JobName,
    pub task: TaskId,
    pub epoch: Epoch,
    pub exactly_once: bool,
    /// `None` for the source.
    pub op: Option<OpSpec>,
    /// The source's input.
    pub slices: Vec<Slice>,
    pub upstream: Vec<TaskId>,
    /// The next stage's tasks in routing order, as they were when this task was planned; empty for the last stage.
    pub downstream: Vec<TaskId>,
    /// Routings may change while the job runs.
    pub scales: bool,
    /// The version of that routing.
    pub route: u32,
    /// What became of it since.
    pub routes: Vec<Route>,
    /// The next stage's state moves with its routing: keys go by their groups' owners, and marks tell of new versions.
    pub marks: bool,
    /// The same of this task's own stage: its routing before the first version that the task takes part in putting in force.
    pub owned: Option<Route>,
    /// How many stages stand behind this one.
    pub stages_behind: u16,
    /// The last stage's destination file, and which file of that name.
    pub dest: Option<String>,
    pub dest_creation: Option<Creation>,
    pub format: Format,
    /// Thousandths of a tuple per second for this source task; 0: as fast as the job can.
    pub rate_milli: u64,
    /// How long an operator may take over one tuple, milliseconds.
    pub op_timeout_ms: u64,
    /// The source's files may grow, and more may come: it ends when it is told to drain.
    pub follow: bool,
    /// Nothing is trimmed from the task's log.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_logs: bool,
    /// The source is to read what is there now, and end.
    pub drain: bool,
    /// Tuples that are set aside in `poison` instead of being given to the operator.
    pub skip: Vec<Unit>,
    /// The HyDFS file for tuples set aside; `None`: a tuple that the operator cannot digest fails the job.
    pub poison: Option<String>,
    /// The operator failed without saying at which tuple: it is to be fed one by one.
    pub careful: bool,
    /// Without exactly-once: where the predecessor's output is known to have arrived.
    pub resume_from: Option<SourcePos>,
}

/// A task's process that a neighbour may connect to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub task: TaskId,
    pub epoch: Epoch,
    pub addr: SocketAddr,
}

/// Counters of one process since it started. Replayed work counts as work, not as output.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Report {
    /// Tuples (lines at the source) consumed, in the whole life of the identity.
    pub tuples_in: u64,
    /// Tuples given to the next stage or the destination, in the whole life of the identity.
    pub tuples_out: u64,
    /// Of these, how many the destination's format cannot say so that they can be read back.
    pub lossy: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// Tuples per second over the last beats.
    pub in_per_s: f64,
    pub out_per_s: f64,
    /// The same over ten seconds.
    pub in_per_10s: f64,
    pub out_per_10s: f64,
    /// Input received and not yet consumed.
    pub backlog_bytes: u64,
    pub backlog_tuples: u64,
    /// The newest routing version of the next stage that a restart of this task cannot fall behind.
    pub routed: u32,
    /// The newest version of its own stage's routing that it has put in force, so that no restart falls behind it, where
    /// state moves.
    pub moved: u32,
    /// How many upstream tasks there are that it does not finish before; 0: it has finished.
    pub awaits: u32,
    /// A source that has read all it has.
    pub exhausted: bool,
    /// A source that follows its files, which hold nothing more just now.
    pub idle: bool,
    /// How late the process's own timers have been in the last seconds, milliseconds: it is to be waited for longer.
    pub late_ms: u64,
    /// Wall clock, microseconds: the source's first read, the last stage's last durable output. 0: not yet.
    pub first_read_us: u64,
    pub last_durable_us: u64,
    /// Source-read to durable output, last stage only: (microseconds, count) of a coarse histogram.
    pub latency_us: Vec<(u64, u64)>,
    /// Without exactly-once: tuples that were sent twice since their receiver was replaced, and may have counted twice.
    pub resent: u64,
    /// Without exactly-once, source only: all before this has arrived at the destination.
    pub arrived: Option<SourcePos>,
}

/// Why a task cannot go on. The leader restarts it, or fails the job with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub what: String,
    /// The tuple's key, where an operator stumbled over one.
    pub key: Option<String>,
    /// Which tuple it was.
    pub unit: Option<Unit>,
    /// The operator's last lines on standard error.
    pub stderr: Vec<String>,
    /// A restart cannot help (a wrong argument, a missing file).
    pub fatal: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToLeader {
    Register {
        job: JobName,
        task: TaskId,
        epoch: Epoch,
        node: NodeName,
        pid: u32,
        data_addr: SocketAddr,
    },
    /// The process is fenced in and consumes. `replayed`: order records read back from the log.
    Started {
        replayed: u64,
    },
    Beat(Report),
    Done(Report),
    Failed(Failure),
    /// A source's file begins with the byte order mark of another encoding than UTF-8. Said again after a restart.
    WideText {
        file: String,
        encoding: String,
    },
    /// Answers [`ToWorker::Upstream`]: this process will not end before these tasks have.
    Knows(Vec<TaskId>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToWorker {
    Plan(Box<TaskPlan>),
    Peers(Vec<Peer>),
    Beat {
        /// As in [`Report`]: of the leader.
        late_ms: u64,
    },
    /// The source's new rate, thousandths of a tuple per second; 0: as fast as the job can.
    Rate(u64),
    /// More upstream tasks, which are about to begin.
    Upstream(Vec<TaskId>),
    /// The next stage's tasks have changed: from now on by this table.
    Route(Route),
    /// A task of the next stage has ended for good, and nobody has to be told anything by it any more.
    Gone(TaskId),
    /// More slices for a source that follows; they come after those of the plan.
    Slices(Vec<Slice>),
    /// To a source that follows: read what is there now, and end.
    Drain,
    /// The job is over, or was given up: exit.
    Finish,
    /// This process is not wanted: another has its identity.
    Refused {
        why: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::net::frame::{decode, encode};

    #[test]
    fn messages_round_trip() {
        let plan = TaskPlan {
            dest_creation: None,
            job: JobName::new("j").unwrap(),
            task: TaskId::new(1, 2),
            epoch: Epoch(3),
            exactly_once: true,
            op: Some(OpSpec {
                exe: "grep".into(),
                args: vec!["x y".into()],
                kind: OpKind::Filter,
                code: OpCode::Foreign {
                    hydfs_name: "ops/1".into(),
                    hash: "1".into(),
                    protocol: Protocol::Batch,
                    keys: true,
                    snapshot: false,
                },
                deterministic: true,
            }),
            slices: vec![Slice {
                creation: Some(Creation(u64::MAX)),
                label: None,
                file: "f".into(),
                start: 1,
                end: 2,
                newlines_before: 3,
            }],
            upstream: vec![TaskId::new(0, 0)],
            downstream: vec![],
            scales: true,
            route: 1,
            routes: vec![Route {
                version: 2,
                tasks: vec![TaskId::new(2, 0)],
            }],
            marks: true,
            owned: Some(Route::default()),
            stages_behind: 1,
            dest: Some("d".into()),
            format: Format::Tsv,
            rate_milli: 0,
            op_timeout_ms: 1,
            follow: true,
            keep_logs: false,
            drain: false,
            skip: vec![Unit {
                from: TaskId::new(0, 1),
                number: 7,
            }],
            poison: Some("d.poison".into()),
            careful: false,
            resume_from: Some(SourcePos::default()),
        };
        let message = ToWorker::Plan(Box::new(plan));
        assert_eq!(decode::<ToWorker>(&encode(&message).unwrap()).unwrap(), message);
        let message = ToLeader::Done(Report {
            latency_us: vec![(1, 2)],
            arrived: Some(SourcePos::default()),
            in_per_s: 1.5,
            ..Report::default()
        });
        assert_eq!(decode::<ToLeader>(&encode(&message).unwrap()).unwrap(), message);
    }
}
