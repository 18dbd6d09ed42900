//! What the operator's console and a running leader say to each other (role `Console`, on the leader's control port):
//! one request, one reply, as often as wanted.

use common::ids::{Epoch, JobName, NodeName, TaskId};
use protocol::control::OpKind;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    List,
    Status,
    Rates,
    /// The sources' rate, tuples per second over all; 0: no limit.
    SetRate(u64),
    /// End the job: when all that is there has been read, where it follows its input, or at once.
    Stop {
        now: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    Tasks(Vec<TaskRow>),
    Status(Box<JobRow>),
    Rates(Box<RatesRow>),
    /// The rate is stored, and the sources are told.
    RateSet {
        was: u64,
    },
    /// It ends: `drains`, once what is there has been read.
    Stopping {
        drains: bool,
    },
}

/// What the resource manager of one job sees. Rates in tuples per second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RatesRow {
    pub job: JobName,
    /// Over all sources; 0: no limit.
    pub input_rate: u64,
    pub autoscale: Option<job::plan::Scaling>,
    pub scale_events: u32,
    pub stages: Vec<StageRates>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageRates {
    pub stage: u16,
    pub op: String,
    pub kind: Kind,
    /// Tasks that something is routed to.
    pub tasks: usize,
    pub in_per_s: f64,
    pub out_per_s: f64,
    /// Over ten seconds.
    pub in_per_10s: f64,
    pub out_per_10s: f64,
    /// `in_per_s` over `tasks`: what is held against LW and HW.
    pub per_task: f64,
    pub backlog_tuples: u64,
    pub backlog_bytes: u64,
    pub rows: Vec<TaskRates>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskRates {
    pub task: TaskId,
    pub node: NodeName,
    pub state: String,
    pub in_per_s: f64,
    pub out_per_s: f64,
    pub in_per_10s: f64,
    pub backlog_tuples: u64,
    pub backlog_bytes: u64,
}

/// One task. As JSON it is the contract of `list_tasks --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskRow {
    pub job: JobName,
    pub task: TaskId,
    pub stage: u16,
    pub node: NodeName,
    /// Of the worker process; `null` while there is none.
    pub pid: Option<u32>,
    pub op: String,
    /// `source`, or what the operator does with tuples.
    pub kind: Kind,
    pub epoch: Epoch,
    pub state: String,
    pub log: String,
    pub in_per_s: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Source,
    Transform,
    Filter,
    Aggregate,
}

impl From<Option<OpKind>> for Kind {
    fn from(kind: Option<OpKind>) -> Self {
        match kind {
            None => Kind::Source,
            Some(OpKind::Transform) => Kind::Transform,
            Some(OpKind::Filter) => Kind::Filter,
            Some(OpKind::Aggregate) => Kind::Aggregate,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Kind::Source => "source",
            Kind::Transform => "transform",
            Kind::Filter => "filter",
            Kind::Aggregate => "aggregate",
        })
    }
}

/// One running job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRow {
    pub job: JobName,
    /// Where its leader runs.
    pub node: NodeName,
    pub pid: u32,
    pub seconds: f64,
    pub exactly_once: bool,
    pub dest: String,
    pub restarts: u32,
    pub input_bytes: u64,
    pub read_bytes: u64,
    /// Where its page is, as `address:port`; `null` when it could not be served.
    #[serde(default)]
    pub http: Option<String>,
    pub stages: Vec<StageRow>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageRow {
    pub stage: u16,
    pub op: String,
    pub kind: Kind,
    pub tasks: u16,
    pub up: usize,
    pub done: usize,
    pub tuples_in: u64,
    pub tuples_out: u64,
    pub in_per_s: f64,
    pub out_per_s: f64,
    pub backlog_bytes: u64,
    pub restarts: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::net::frame::{decode, encode};

    #[test]
    fn replies_round_trip_and_rows_have_the_names_of_the_contract() {
        let row = TaskRow {
            job: JobName::new("j").unwrap(),
            task: TaskId::new(1, 2),
            stage: 1,
            node: NodeName::new("n1").unwrap(),
            pid: Some(7),
            op: "grep".into(),
            kind: Kind::Filter,
            epoch: Epoch(2),
            state: "running".into(),
            log: "/l/worker.log".into(),
            in_per_s: 1.5,
        };
        let json = serde_json::to_string(&row).unwrap();
        assert_eq!(
            json,
            r#"{"job":"j","task":"s1t2","stage":1,"node":"n1","pid":7,"op":"grep","kind":"filter","epoch":2,"state":"running","log":"/l/worker.log","in_per_s":1.5}"#
        );
        let reply = Reply::Tasks(vec![row]);
        assert_eq!(decode::<Reply>(&encode(&reply).unwrap()).unwrap(), reply);
    }
}
