//! A job at one moment, as the page and the JSON show it. Made by the driver out of its rows for the console.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use bytes::Bytes;
use serde::Serialize;

use api::latency::Latency;
use api::wire::{JobRow, TaskRow};

/// How a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Running,
    /// The sources were told to end.
    Draining,
    Done,
    Failed,
}

/// `/api/job`: what `rainstormctl status --json` has, and more.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JobView {
    #[serde(flatten)]
    pub row: JobRow,
    pub state: Outcome,
    /// Why it failed; else empty.
    pub why: String,
    pub src: String,
    pub follow: bool,
    /// Lines per second over all sources; 0: no limit.
    pub rate: u64,
    pub poisoned: u64,
    /// When the leader began, wall clock, milliseconds.
    pub started_ms: u64,
    /// Of this moment, the same way.
    pub now_ms: u64,
    /// Source-read to durable output, as far as it is known.
    pub latency_ms: Option<Latency>,
}

/// `/api/tasks`: what `rainstormctl list_tasks --json` has, and more.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskView {
    #[serde(flatten)]
    pub row: TaskRow,
    pub restarts: u32,
    pub tuples_in: u64,
    pub tuples_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub out_per_s: f64,
    /// Input received and not yet consumed.
    pub backlog_bytes: u64,
}

#[derive(Debug, Serialize)]
pub struct Snapshot {
    pub job: JobView,
    pub tasks: Vec<TaskView>,
    /// Microseconds to how many tuples; of the output.
    #[serde(skip)]
    pub latency_us: BTreeMap<u64, u64>,
    #[serde(skip)]
    text: OnceLock<Bytes>,
}

impl Snapshot {
    pub fn new(job: JobView, tasks: Vec<TaskView>, latency_us: BTreeMap<u64, u64>) -> Self {
        Self {
            job,
            tasks,
            latency_us,
            text: OnceLock::new(),
        }
    }

    /// As JSON; made once, however many want it.
    pub fn text(&self) -> Bytes {
        let make = || serde_json::to_vec(self).unwrap_or_default().into();
        self.text.get_or_init(make).clone()
    }
}

/// `/api/rates`: one stage's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageRate {
    pub stage: u16,
    pub op: String,
    pub tasks: u16,
    pub in_per_s: f64,
    pub out_per_s: f64,
    /// On average, over the tasks that are not done.
    pub in_per_s_per_task: f64,
    pub backlog_bytes: u64,
    /// The task that consumes most.
    pub busiest: Option<String>,
    pub busiest_in_per_s: f64,
}

impl Snapshot {
    pub fn rates(&self) -> Vec<StageRate> {
        let rate = |stage: &api::wire::StageRow| {
            let of_stage = || self.tasks.iter().filter(|t| t.row.stage == stage.stage);
            let at_work = of_stage().filter(|t| t.row.state != "done").count();
            let busiest = of_stage()
                .filter(|t| t.row.in_per_s > 0.0)
                .max_by(|a, b| a.row.in_per_s.total_cmp(&b.row.in_per_s));
            StageRate {
                stage: stage.stage,
                op: stage.op.clone(),
                tasks: stage.tasks,
                in_per_s: stage.in_per_s,
                out_per_s: stage.out_per_s,
                in_per_s_per_task: if at_work == 0 {
                    0.0
                } else {
                    stage.in_per_s / at_work as f64
                },
                backlog_bytes: stage.backlog_bytes,
                busiest: busiest.map(|t| t.row.task.to_string()),
                busiest_in_per_s: busiest.map_or(0.0, |t| t.row.in_per_s),
            }
        };
        self.job.row.stages.iter().map(rate).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use api::wire::{Kind, StageRow};
    use common::ids::{Epoch, JobName, NodeName, TaskId};

    /// A source of one task and a filter of two, one of which is done.
    pub fn sample() -> Snapshot {
        let (job, node) = (JobName::new("j").unwrap(), NodeName::new("n1").unwrap());
        let stage = |stage: u16, op: &str, kind, tasks| StageRow {
            stage,
            op: op.into(),
            kind,
            tasks,
            up: 1,
            done: 0,
            tuples_in: 100,
            tuples_out: 50,
            in_per_s: 30.4,
            out_per_s: 10.0,
            backlog_bytes: 7,
            restarts: 2,
        };
        let row = JobRow {
            job: job.clone(),
            node: node.clone(),
            pid: 9,
            seconds: 1.26,
            exactly_once: true,
            dest: "out".into(),
            restarts: 3,
            input_bytes: 1000,
            read_bytes: 500,
            http: Some("127.0.0.1:15080".into()),
            stages: vec![
                stage(0, "source", Kind::Source, 1),
                stage(1, "grep 'a\"b\\'", Kind::Filter, 2),
            ],
        };
        let task = |stage: u16, index: u16, state: &str, rate: f64| TaskView {
            row: TaskRow {
                job: job.clone(),
                task: TaskId::new(stage, index),
                stage,
                node: node.clone(),
                pid: Some(100 + u32::from(index)),
                op: "grep".into(),
                kind: Kind::Filter,
                epoch: Epoch(2),
                state: state.into(),
                log: "/l/worker.log".into(),
                in_per_s: rate,
            },
            restarts: 1,
            tuples_in: 60,
            tuples_out: 30,
            bytes_in: 600,
            bytes_out: 300,
            out_per_s: 5.0,
            backlog_bytes: 3,
        };
        let job = JobView {
            row,
            state: Outcome::Running,
            why: String::new(),
            src: "in".into(),
            follow: false,
            rate: 0,
            poisoned: 0,
            started_ms: 1_000,
            now_ms: 2_260,
            latency_ms: None,
        };
        let tasks = vec![
            task(0, 0, "running", 20.0),
            task(1, 0, "running", 30.4),
            task(1, 1, "done", 0.0),
        ];
        Snapshot::new(job, tasks, BTreeMap::from([(900, 3), (40_000, 2)]))
    }

    #[test]
    fn views_are_rows_with_more_beside() {
        let value: serde_json::Value = serde_json::from_slice(&sample().text()).unwrap();
        assert_eq!(value["job"]["job"], "j");
        assert_eq!(value["job"]["state"], "running");
        assert_eq!(value["job"]["stages"][1]["kind"], "filter");
        assert_eq!(value["tasks"][1]["task"], "s1t0");
        assert_eq!(value["tasks"][1]["restarts"], 1);
        assert_eq!(value["tasks"][1]["in_per_s"], 30.4);
    }

    #[test]
    fn a_stages_average_leaves_out_tasks_that_are_done() {
        let rates = sample().rates();
        assert_eq!((rates[1].in_per_s, rates[1].in_per_s_per_task), (30.4, 30.4));
        assert_eq!(rates[1].busiest.as_deref(), Some("s1t0"));
    }
}
