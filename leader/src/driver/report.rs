//! What others are told of the job: log lines, and rows for the operator's console.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use common::cluster::Cluster;
use common::ids::{NodeName, TaskId};

use crate::progress::Look;
use crate::summary::Summary;
use api::wire::{JobRow, Kind, RatesRow, Reply, Request, StageRates, StageRow, TaskRates, TaskRow};
use job::machine::{Job, JobEvent, Task};
use job::plan::Plan;

pub fn run_start(plan: &Plan, node: &NodeName, addr: std::net::SocketAddr) {
    let stages: Vec<String> = plan
        .stages
        .iter()
        .map(|s| format!("{}x{}[{}]", s.tasks, s.label(), s.kind_name()))
        .collect();
    let placed: Vec<String> = plan
        .nodes
        .iter()
        .map(|(task, node)| format!("{task}@{node}"))
        .collect();
    let files: usize = plan.sources.iter().map(Vec::len).sum();
    tracing::info!(
        node = %node, pid = std::process::id(), control = %addr, exactly_once = plan.exactly_once,
        stages = stages.join(" -> "), tasks = plan.nodes.len(), placed = placed.join(","), slices = files,
        bytes = plan.input_bytes(), rate = plan.rate, dest = plan.dest, follow = plan.follow, "RUN_START"
    );
}

pub fn run_end(node: &NodeName, summary: &Summary, outcome: &Result<(), String>) {
    let (ok, why) = (outcome.is_ok(), outcome.as_ref().err().map_or("", String::as_str));
    tracing::info!(
        node = %node, pid = std::process::id(), ok, why, seconds = summary.seconds, lines_in = summary.lines_in, lines_out = summary.lines_out,
        bytes_in = summary.bytes_in, bytes_out = summary.bytes_out, in_per_s = summary.in_per_s,
        restarts = summary.restarts, poisoned = summary.poisoned, possible_duplicates = summary.possible_duplicates,
        "RUN_END"
    );
}

pub fn event(plan: &Plan, event: &JobEvent) {
    let op = |task: &TaskId| {
        plan.stages
            .get(usize::from(task.stage))
            .map_or("", |s| s.op_name())
            .to_owned()
    };
    match event {
        JobEvent::Start {
            task,
            epoch,
            node,
            pid,
            replayed,
        } => {
            tracing::info!(task = %task, epoch = %epoch, node = %node, pid, op = op(task), replayed, "TASK_START");
        }
        JobEvent::Fail {
            task,
            epoch,
            node,
            pid,
            why,
        } => {
            let pid = pid.map_or("-".into(), |p| p.to_string());
            tracing::warn!(task = %task, epoch = %epoch, node = %node, pid, op = op(task), why, "TASK_FAIL");
        }
        JobEvent::Restart {
            task,
            epoch,
            node,
            from,
            restarts,
        } => {
            tracing::info!(task = %task, epoch = %epoch, node = %node, from = %from, restarts, op = op(task), "TASK_RESTART");
        }
        JobEvent::End {
            task,
            epoch,
            node,
            pid,
            tuples_in,
            tuples_out,
        } => {
            let pid = pid.map_or("-".into(), |p| p.to_string());
            tracing::info!(
                task = %task, epoch = %epoch, node = %node, pid, op = op(task), tuples_in, tuples_out, "TASK_END"
            );
        }
        JobEvent::Exit {
            task,
            epoch,
            node,
            how,
            stderr,
        } => {
            let stderr = stderr.join(" | ");
            tracing::info!(task = %task, epoch = %epoch, node = %node, how, stderr, "TASK_EXIT");
        }
        JobEvent::NodeFail { node, tasks } => tracing::warn!(node = %node, tasks, "NODE_FAIL"),
        JobEvent::NodeBack { node } => tracing::info!(node = %node, "NODE_BACK"),
        JobEvent::Files { task, files, first } => {
            tracing::info!(task = %task, files, first, "FILES");
        }
        JobEvent::FileReplaced { task, file, label } => {
            tracing::warn!(
                task = %task, file, keys = format!("{label}:LINE"),
                hint = "the file was removed and made anew: it is read from its beginning, as another file", "FILE_REPLACED"
            );
        }
        JobEvent::WideText { task, file, encoding } => {
            tracing::warn!(
                task = %task, file, encoding,
                hint = format!("lines end at bytes, not at characters of {encoding}: store it again with iconv -f {encoding} -t UTF-8"),
                "WIDE_TEXT"
            );
        }
        JobEvent::Drain => tracing::info!("DRAIN"),
        JobEvent::Rate { rate } => tracing::info!(rate, "SET_RATE"),
        JobEvent::Scale {
            stage,
            task,
            up,
            tasks,
            why,
        } => {
            let op = op(task);
            match up {
                true => tracing::info!(stage, op, task = %task, tasks, why, "SCALE_UP"),
                false => tracing::info!(stage, op, task = %task, tasks, why, "SCALE_DOWN"),
            }
        }
        JobEvent::Scaled { stage, version } => tracing::info!(stage, version, "SCALED"),
        JobEvent::HotTask { task, per_s, others } => {
            tracing::warn!(
                stage = task.stage, op = op(task), task = %task, in_per_s = per_s.round(), others_in_per_s = others.round(),
                hint = "more tasks would not help: most tuples have one key, or few", "HOT_TASK"
            );
        }
        JobEvent::Poison {
            task,
            epoch,
            unit,
            key,
            why,
        } => {
            let key = key.as_deref().unwrap_or("-");
            tracing::warn!(
                task = %task, epoch = %epoch, op = op(task), key, from = %unit.from, number = unit.number,
                reason = why, file = plan.poison.as_deref().unwrap_or(""), "POISON"
            );
        }
    }
}

/// One line per stage.
pub fn rates(job: &Job) {
    for (k, stage) in job.plan().stages.iter().enumerate() {
        let look = Look::at(job, k);
        tracing::info!(
            stage = k,
            op = stage.op_name(),
            tasks = look.active,
            in_per_s = look.in_per_s.round(),
            out_per_s = look.out_per_s.round(),
            tuples_in = look.tuples_in,
            tuples_out = look.tuples_out,
            up = look.up,
            done = look.done,
            backlog = look.backlog,
            restarts = look.restarts,
            "RATE"
        );
    }
}

/// What of a leader its job does not know.
pub struct Stands<'a> {
    pub node: &'a NodeName,
    pub http: Option<SocketAddr>,
    pub lasts: Duration,
}

pub fn answer(request: Request, job: &Job, cluster: &Cluster, stands: Stands<'_>) -> Reply {
    match request {
        Request::List => Reply::Tasks(job.tasks().map(|t| task(job, cluster, t)).collect()),
        Request::Status => Reply::Status(Box::new(status(job, stands))),
        Request::Rates => Reply::Rates(Box::new(rates_row(job))),
        // Answered where it is done.
        Request::Stop { .. } => Reply::Stopping { drains: false },
        // Answered when it is stored.
        Request::SetRate(_) => Reply::RateSet { was: job.plan().rate },
    }
}

fn rates_row(job: &Job) -> RatesRow {
    let plan = job.plan();
    let stage = |(k, s): (usize, &job::plan::Stage)| {
        let tasks: Vec<&job::machine::Task> = job
            .tasks()
            .filter(|t| usize::from(t.id.stage) == k && !t.retired)
            .collect();
        let sum = |of: &dyn Fn(&job::machine::Task) -> f64| {
            let running = tasks.iter().filter(|t| !t.is_done());
            running.map(|t| of(t)).sum::<f64>()
        };
        let active = plan.active(k as u16).len();
        let in_per_s = sum(&|t| t.report.in_per_s);
        StageRates {
            stage: k as u16,
            op: s.label(),
            kind: Kind::from(s.op.as_ref().map(|op| op.kind)),
            tasks: active,
            in_per_s,
            out_per_s: sum(&|t| t.report.out_per_s),
            in_per_10s: sum(&|t| t.report.in_per_10s),
            out_per_10s: sum(&|t| t.report.out_per_10s),
            per_task: in_per_s / active.max(1) as f64,
            backlog_tuples: tasks.iter().map(|t| t.report.backlog_tuples).sum(),
            backlog_bytes: tasks.iter().map(|t| t.report.backlog_bytes).sum(),
            rows: tasks
                .iter()
                .map(|t| TaskRates {
                    task: t.id,
                    node: t.node.clone(),
                    state: t.state_name().into(),
                    in_per_s: t.report.in_per_s,
                    out_per_s: t.report.out_per_s,
                    in_per_10s: t.report.in_per_10s,
                    backlog_tuples: t.report.backlog_tuples,
                    backlog_bytes: t.report.backlog_bytes,
                })
                .collect(),
        }
    };
    RatesRow {
        job: plan.job.clone(),
        input_rate: plan.rate,
        autoscale: plan.scaling,
        scale_events: job.scale_events(),
        stages: plan.stages.iter().enumerate().map(stage).collect(),
    }
}

pub fn task(job: &Job, cluster: &Cluster, t: &Task) -> TaskRow {
    let log = |node: &NodeName| {
        cluster
            .node(node.as_str())
            .map_or(PathBuf::new(), |n| n.log.join("worker.log"))
    };
    {
        let stage = job.plan().stages.get(usize::from(t.id.stage));
        TaskRow {
            job: job.plan().job.clone(),
            task: t.id,
            stage: t.id.stage,
            node: t.node.clone(),
            pid: t.pid,
            op: stage.map_or(String::new(), |s| s.op_name().to_owned()),
            kind: stage.and_then(|s| s.op.as_ref()).map(|op| op.kind).into(),
            epoch: t.epoch,
            state: t.state_name().into(),
            log: log(&t.node).display().to_string(),
            in_per_s: if t.is_done() { 0.0 } else { t.report.in_per_s },
        }
    }
}

pub fn status(job: &Job, stands: Stands<'_>) -> JobRow {
    let plan = job.plan();
    let stage = |(k, s): (usize, &job::plan::Stage)| {
        let look = Look::at(job, k);
        StageRow {
            stage: k as u16,
            op: s.label(),
            kind: Kind::from(s.op.as_ref().map(|op| op.kind)),
            tasks: plan.active(k as u16).len() as u16,
            up: look.up,
            done: look.done,
            tuples_in: look.tuples_in,
            tuples_out: look.tuples_out,
            in_per_s: look.in_per_s,
            out_per_s: look.out_per_s,
            backlog_bytes: look.backlog,
            restarts: look.restarts,
        }
    };
    JobRow {
        job: plan.job.clone(),
        node: stands.node.clone(),
        pid: std::process::id(),
        seconds: stands.lasts.as_secs_f64(),
        exactly_once: plan.exactly_once,
        dest: plan.dest.clone(),
        restarts: job.restarts(),
        input_bytes: plan.input_bytes(),
        read_bytes: Look::at(job, 0).bytes_in,
        http: stands.http.map(|addr| addr.to_string()),
        stages: plan.stages.iter().enumerate().map(stage).collect(),
    }
}
