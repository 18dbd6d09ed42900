//! Snapshots of the job for its page, and the page's end.

use std::collections::BTreeMap;
use std::path::PathBuf;

use common::clock::{Time, unix_micros};

use super::report::{self, Stands};
use super::run::Run;
use api::latency::Latency;
use page::{JobView, Outcome, Snapshot, TaskView};

impl Run {
    pub(super) fn snapshot(&self, now: Time, state: Outcome, why: &str) -> Snapshot {
        let (job, base) = (&self.job, &self.base);
        let plan = job.plan();
        let stands = Stands {
            node: &base.node.name,
            http: self.dashboard.addr(),
            lasts: now.since(self.began),
        };
        let row = report::status(job, stands);
        let mut latency_us = BTreeMap::new();
        job.tasks().for_each(|t| t.totals.add_latency(&mut latency_us));
        let now_ms = unix_micros() / 1000;
        let view = JobView {
            state,
            why: why.into(),
            src: plan.src.clone(),
            follow: plan.follow,
            rate: plan.rate,
            poisoned: job.poisoned(),
            started_ms: now_ms.saturating_sub((row.seconds * 1000.0) as u64),
            now_ms,
            latency_ms: Latency::of(&latency_us),
            row,
        };
        let task = |t: &job::machine::Task| TaskView {
            row: report::task(job, &base.cluster, t),
            restarts: t.restarts,
            tuples_in: t.totals.tuples_in,
            tuples_out: t.totals.tuples_out,
            bytes_in: t.totals.bytes_in,
            bytes_out: t.totals.bytes_out,
            out_per_s: if t.is_done() { 0.0 } else { t.report.out_per_s },
            backlog_bytes: if t.is_done() { 0 } else { t.report.backlog_bytes },
        };
        Snapshot::new(view, job.tasks().map(task).collect(), latency_us)
    }

    /// Tells those who watch how it ended, and keeps the page where that was asked for; else where that could not be done.
    pub(super) async fn last_look(
        &mut self,
        now: Time,
        outcome: &Result<(), String>,
    ) -> Result<(), (PathBuf, std::io::Error)> {
        let last = match outcome {
            Ok(()) => self.snapshot(now, Outcome::Done, ""),
            Err(why) => self.snapshot(now, Outcome::Failed, why),
        };
        self.dashboard.end(now, last).await;
        match &self.base.request.report {
            Some(file) => self.dashboard.keep(file).map_err(|error| (file.clone(), error)),
            None => Ok(()),
        }
    }
}
