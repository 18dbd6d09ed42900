//! `/metrics`: what of a job Prometheus is told.

use common::prometheus::{Metric, Text};

use super::snapshot::{Outcome, Snapshot, TaskView};

/// Upper bounds of the latency histogram, milliseconds.
const LATENCY_MS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 5_000, 30_000];

pub fn render(snapshot: &Snapshot) -> String {
    let mut text = Text::with_capacity(4096 + snapshot.tasks.len() * 2048);
    job(&mut text, snapshot);
    stages(&mut text, snapshot);
    tasks(&mut text, snapshot);
    latency(&mut text, snapshot);
    text.finish()
}

fn job(text: &mut Text, snapshot: &Snapshot) {
    let view = &snapshot.job;
    let job = view.row.job.as_str();
    let only = [("job", job)];
    let exactly_once = view.row.exactly_once.to_string();
    let name = "rainstorm_job_info";
    text.family(name, Metric::Gauge, "What the job is; always 1.");
    let labels = [
        ("job", job),
        ("exactly_once", &exactly_once),
        ("source", &view.src),
        ("destination", &view.row.dest),
        ("leader", view.row.node.as_str()),
    ];
    text.sample(name, &labels, 1.0);

    let name = "rainstorm_job_state";
    text.family(
        name,
        Metric::Gauge,
        "1 for the state that the job is in, 0 for the others.",
    );
    let states = [
        ("running", Outcome::Running),
        ("draining", Outcome::Draining),
        ("done", Outcome::Done),
        ("failed", Outcome::Failed),
    ];
    for (word, state) in states {
        let is = u8::from(view.state == state);
        text.sample(name, &[("job", job), ("state", word)], f64::from(is));
    }

    let gauges = [
        (
            "rainstorm_job_start_time_seconds",
            "When its leader began, seconds since 1970.",
            view.started_ms as f64 / 1000.0,
        ),
        (
            "rainstorm_job_run_seconds",
            "How long its leader has been running it.",
            view.row.seconds,
        ),
        (
            "rainstorm_job_input_bytes",
            "Bytes that its sources are to read; 0: nobody knows.",
            view.row.input_bytes as f64,
        ),
        (
            "rainstorm_job_input_rate_limit",
            "Lines per second that its sources may read together; 0: no limit.",
            view.rate as f64,
        ),
    ];
    for (name, help, value) in gauges {
        text.family(name, Metric::Gauge, help);
        text.sample(name, &only, value);
    }
    let counters = [
        (
            "rainstorm_job_read_bytes_total",
            "Bytes that its sources have read.",
            view.row.read_bytes,
        ),
        (
            "rainstorm_job_restarts_total",
            "Processes that were replaced.",
            u64::from(view.row.restarts),
        ),
        (
            "rainstorm_job_poisoned_tuples_total",
            "Tuples that were set aside.",
            view.poisoned,
        ),
    ];
    for (name, help, value) in counters {
        text.family(name, Metric::Counter, help);
        text.sample(name, &only, value as f64);
    }
}

fn stages(text: &mut Text, snapshot: &Snapshot) {
    let job = snapshot.job.row.job.as_str();
    let name = "rainstorm_stage_info";
    text.family(name, Metric::Gauge, "What a stage does; always 1.");
    for stage in &snapshot.job.row.stages {
        let (number, kind) = (stage.stage.to_string(), stage.kind.to_string());
        let labels = [
            ("job", job),
            ("stage", &number),
            ("operator", &stage.op),
            ("kind", &kind),
        ];
        text.sample(name, &labels, 1.0);
    }
    let name = "rainstorm_stage_tasks";
    text.family(name, Metric::Gauge, "Tasks that a stage has.");
    for stage in &snapshot.job.row.stages {
        let number = stage.stage.to_string();
        text.sample(name, &[("job", job), ("stage", &number)], f64::from(stage.tasks));
    }
}

type Figure = (&'static str, Metric, &'static str, fn(&TaskView) -> f64);

const FIGURES: [Figure; 10] = [
    (
        "rainstorm_task_up",
        Metric::Gauge,
        "1 while the task has a process that works.",
        |t| f64::from(u8::from(t.row.state == "running")),
    ),
    (
        "rainstorm_task_epoch",
        Metric::Gauge,
        "Counts the task's processes.",
        |t| t.row.epoch.0 as f64,
    ),
    (
        "rainstorm_task_restarts_total",
        Metric::Counter,
        "Processes of the task that were replaced.",
        |t| f64::from(t.restarts),
    ),
    (
        "rainstorm_task_tuples_in_total",
        Metric::Counter,
        "Tuples (lines at the source) consumed.",
        |t| t.tuples_in as f64,
    ),
    (
        "rainstorm_task_tuples_out_total",
        Metric::Counter,
        "Tuples put out.",
        |t| t.tuples_out as f64,
    ),
    (
        "rainstorm_task_bytes_in_total",
        Metric::Counter,
        "Bytes consumed.",
        |t| t.bytes_in as f64,
    ),
    (
        "rainstorm_task_bytes_out_total",
        Metric::Counter,
        "Bytes put out.",
        |t| t.bytes_out as f64,
    ),
    (
        "rainstorm_task_in_tuples_per_second",
        Metric::Gauge,
        "Tuples consumed per second, as the task measures it.",
        |t| t.row.in_per_s,
    ),
    (
        "rainstorm_task_out_tuples_per_second",
        Metric::Gauge,
        "Tuples put out per second, as the task measures it.",
        |t| t.out_per_s,
    ),
    (
        "rainstorm_task_backlog_bytes",
        Metric::Gauge,
        "Input received and not yet consumed.",
        |t| t.backlog_bytes as f64,
    ),
];

fn tasks(text: &mut Text, snapshot: &Snapshot) {
    let job = snapshot.job.row.job.as_str();
    let names: Vec<(String, String)> = snapshot
        .tasks
        .iter()
        .map(|t| (t.row.stage.to_string(), t.row.task.to_string()))
        .collect();
    let name = "rainstorm_task_info";
    text.family(
        name,
        Metric::Gauge,
        "Where a task runs and what it does; always 1.",
    );
    for (task, (stage, id)) in snapshot.tasks.iter().zip(&names) {
        let kind = task.row.kind.to_string();
        let labels = [
            ("job", job),
            ("stage", stage),
            ("task", id),
            ("node", task.row.node.as_str()),
            ("operator", &task.row.op),
            ("kind", &kind),
            ("state", &task.row.state),
        ];
        text.sample(name, &labels, 1.0);
    }
    for (name, kind, help, value) in FIGURES {
        text.family(name, kind, help);
        for (task, (stage, id)) in snapshot.tasks.iter().zip(&names) {
            text.sample(name, &[("job", job), ("stage", stage), ("task", id)], value(task));
        }
    }
}

fn latency(text: &mut Text, snapshot: &Snapshot) {
    let name = "rainstorm_output_latency_seconds";
    text.family(
        name,
        Metric::Histogram,
        "From a line's reading to its durable output.",
    );
    let job = snapshot.job.row.job.as_str();
    let seen = &snapshot.latency_us;
    let bucket = format!("{name}_bucket");
    for most in LATENCY_MS {
        let n: u64 = seen.range(..=most * 1000).map(|(_, n)| n).sum();
        let bound = (most as f64 / 1000.0).to_string();
        text.sample(&bucket, &[("job", job), ("le", &bound)], n as f64);
    }
    let count: u64 = seen.values().sum();
    let sum: f64 = seen.iter().map(|(us, n)| *us as f64 / 1e6 * *n as f64).sum();
    text.sample(&bucket, &[("job", job), ("le", "+Inf")], count as f64);
    text.sample(&format!("{name}_sum"), &[("job", job)], sum);
    text.sample(&format!("{name}_count"), &[("job", job)], count as f64);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::tests::sample;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let text = render(&sample());
        for line in [
            "# TYPE rainstorm_task_tuples_in_total counter",
            "rainstorm_task_tuples_in_total{job=\"j\",stage=\"1\",task=\"s1t0\"} 60",
            "rainstorm_job_state{job=\"j\",state=\"running\"} 1",
            "rainstorm_job_state{job=\"j\",state=\"failed\"} 0",
            // Quotes and backslashes of an operator's arguments.
            "rainstorm_stage_info{job=\"j\",stage=\"1\",operator=\"grep 'a\\\"b\\\\'\",kind=\"filter\"} 1",
            "rainstorm_task_in_tuples_per_second{job=\"j\",stage=\"1\",task=\"s1t0\"} 30.4",
            "rainstorm_task_up{job=\"j\",stage=\"1\",task=\"s1t1\"} 0",
            "rainstorm_output_latency_seconds_bucket{job=\"j\",le=\"0.001\"} 3",
            "rainstorm_output_latency_seconds_bucket{job=\"j\",le=\"0.05\"} 5",
            "rainstorm_output_latency_seconds_bucket{job=\"j\",le=\"+Inf\"} 5",
            "rainstorm_output_latency_seconds_count{job=\"j\"} 5",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        assert!(text.ends_with('\n'));
    }
}
