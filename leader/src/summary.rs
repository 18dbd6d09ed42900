//! The figures of a run: `--summary FILE`, and what RUN_END says.

use std::collections::BTreeMap;

use api::latency::Latency;
use serde::Serialize;

use job::machine::Job;

/// Field names are the contract of `--summary`. Times in seconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    pub job: String,
    pub exactly_once: bool,
    pub autoscale: bool,
    /// First tuple read to last tuple durable.
    pub seconds: f64,
    /// Start of `leader` to first tuple read; `null` when nothing was read.
    pub startup_seconds: Option<f64>,
    /// Start of `leader` to first output printed (with `--console none`: reported); `null` without output.
    pub first_output_seconds: Option<f64>,
    pub lines_in: u64,
    pub lines_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub in_per_s: f64,
    pub out_per_s: f64,
    pub restarts: u32,
    pub scale_events: u32,
    /// Tuples set aside in `<dest>.poison`.
    pub poisoned: u64,
    /// Lines of the output that cannot be read back as the tuples that they were.
    pub lossy_lines: u64,
    /// Files of the source that say they are UTF-16 or UTF-32: their bytes were taken for lines of UTF-8.
    pub wide_files: u64,
    /// Without exactly-once: tuples that were sent again after a restart, and may have counted twice; in a job that was
    /// taken up, all that was in the destination by then.
    pub possible_duplicates: u64,
    pub stages: Vec<Stage>,
    pub latency_ms: Option<Latency>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stage {
    pub stage: usize,
    pub op: String,
    pub kind: String,
    pub tasks_start: u16,
    pub tasks_end: u16,
    #[serde(rename = "in")]
    pub tuples_in: u64,
    #[serde(rename = "out")]
    pub tuples_out: u64,
    pub in_per_s: f64,
}

/// When things happened on the leader: wall clock, microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    pub started_us: u64,
    pub first_output_us: Option<u64>,
}

impl Summary {
    pub fn of(job: &Job, times: Times) -> Self {
        let plan = job.plan();
        let first = job.tasks().filter_map(|t| t.totals.first_read_us).min();
        let last = job.tasks().filter_map(|t| t.totals.last_durable_us).max();
        let span = |from: Option<u64>, to: Option<u64>| Some(to?.saturating_sub(from?) as f64 / 1e6);
        let seconds = span(first, last).unwrap_or(0.0);
        let per_s = |n: u64| if seconds > 0.0 { n as f64 / seconds } else { 0.0 };
        let mut stages = vec![];
        let (mut bytes_in, mut bytes_out) = (0, 0);
        for (k, stage) in plan.stages.iter().enumerate() {
            let of_stage = || job.tasks().filter(move |t| usize::from(t.id.stage) == k);
            let tuples_in: u64 = of_stage().map(|t| t.totals.tuples_in).sum();
            if k == 0 {
                bytes_in = of_stage().map(|t| t.totals.bytes_in).sum();
            }
            bytes_out = of_stage().map(|t| t.totals.bytes_out).sum();
            stages.push(Stage {
                stage: k,
                op: stage.label(),
                kind: stage.kind_name().into(),
                tasks_start: stage.tasks,
                tasks_end: plan.active(k as u16).len() as u16,
                tuples_in,
                tuples_out: of_stage().map(|t| t.totals.tuples_out).sum(),
                in_per_s: per_s(tuples_in),
            });
        }
        let mut histogram = BTreeMap::new();
        job.tasks().for_each(|t| t.totals.add_latency(&mut histogram));
        let lines_in = stages.first().map_or(0, |s| s.tuples_in);
        let lines_out = stages.last().map_or(0, |s| s.tuples_out);
        Self {
            job: plan.job.to_string(),
            exactly_once: plan.exactly_once,
            autoscale: plan.scaling.is_some(),
            seconds,
            startup_seconds: span(Some(times.started_us), first),
            first_output_seconds: span(Some(times.started_us), times.first_output_us),
            lines_in,
            lines_out,
            bytes_in,
            bytes_out,
            in_per_s: per_s(lines_in),
            out_per_s: per_s(lines_out),
            restarts: job.restarts(),
            scale_events: job.scale_events(),
            poisoned: job.poisoned(),
            lossy_lines: job.lossy(),
            wide_files: job.wide_files().len() as u64,
            possible_duplicates: job.possible_duplicates(),
            stages,
            latency_ms: Latency::of(&histogram),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::clock::Time;
    use common::ids::{Epoch, NodeName, TaskId};
    use job::machine::{Config, ConnId, Input};
    use job::plan::sample::sample;
    use protocol::control::{Report, ToLeader};
    use std::time::Duration;

    #[test]
    fn a_summary_adds_up_and_has_the_names_of_the_contract() {
        let nodes = vec![NodeName::new("n1").unwrap()];
        let config = Config {
            lease: Duration::from_secs(3),
            max_restarts: 5,
        };
        let mut job = Job::new(sample(1, 2, 2, &nodes), config, nodes, Default::default());
        let (now, mut out) = (Time::from_millis(1), vec![]);
        job.handle(now, Input::Begin, &mut out);
        let tasks = [
            TaskId::new(0, 0),
            TaskId::new(0, 1),
            TaskId::new(1, 0),
            TaskId::new(1, 1),
        ];
        for (i, task) in tasks.into_iter().enumerate() {
            let (conn, addr) = (ConnId(i as u64), "127.0.0.1:1".parse().unwrap());
            job.handle(
                now,
                Input::Registered {
                    conn,
                    task,
                    epoch: Epoch(1),
                    pid: 1,
                    addr,
                },
                &mut out,
            );
            let source = task.stage == 0;
            let report = Report {
                tuples_in: 100 * (i as u64 + 1),
                tuples_out: 10,
                bytes_in: 1000,
                bytes_out: 50,
                first_read_us: if source { 2_000_000 + i as u64 } else { 0 },
                last_durable_us: if source { 0 } else { 4_000_000 + i as u64 },
                latency_us: if source { vec![] } else { vec![(2000, 10)] },
                ..Report::default()
            };
            job.handle(
                now,
                Input::Message {
                    conn,
                    message: ToLeader::Done(report),
                },
                &mut out,
            );
        }
        let summary = Summary::of(
            &job,
            Times {
                started_us: 1_500_000,
                first_output_us: Some(1_750_000),
            },
        );
        assert_eq!(
            (
                summary.lines_in,
                summary.lines_out,
                summary.bytes_in,
                summary.bytes_out
            ),
            (300, 20, 2000, 100)
        );
        assert_eq!((summary.seconds, summary.startup_seconds), (2.000003, Some(0.5)));
        let json = serde_json::to_value(&summary).unwrap();
        let names = [
            "job",
            "exactly_once",
            "autoscale",
            "seconds",
            "startup_seconds",
            "first_output_seconds",
            "lines_in",
            "lines_out",
            "bytes_in",
            "bytes_out",
            "in_per_s",
            "out_per_s",
            "restarts",
            "scale_events",
            "poisoned",
            "lossy_lines",
            "wide_files",
            "possible_duplicates",
            "stages",
            "latency_ms",
        ];
        names
            .iter()
            .for_each(|name| assert!(json.get(name).is_some(), "{name}"));
        for name in [
            "stage",
            "op",
            "kind",
            "tasks_start",
            "tasks_end",
            "in",
            "out",
            "in_per_s",
        ] {
            assert!(json["stages"][1].get(name).is_some(), "{name}");
        }
        assert_eq!(
            (
                json["stages"][1]["in"].as_u64(),
                json["latency_ms"]["p99"].as_f64()
            ),
            (Some(700), Some(2.0))
        );
    }
}
