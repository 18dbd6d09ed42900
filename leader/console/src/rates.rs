//! `rates JOB`: what the resource manager sees. `set_rate JOB RATE`.

use common::cluster::Cluster;
use common::net::Identity;

use crate::outcome::{Error, json_or};
use api::find::{Missing, ask_all, ask_leader};
use api::wire::{RatesRow, Reply, Request};

pub async fn rates(
    cluster: &Cluster,
    me: &Identity,
    job: Option<String>,
    json: bool,
) -> Result<String, Error> {
    let mut rows: Vec<RatesRow> = match &job {
        Some(job) => match ask_leader(cluster, me, job, Request::Rates).await? {
            Reply::Rates(row) => vec![*row],
            _ => vec![],
        },
        None => {
            let asked = ask_all(cluster, me, Request::Rates).await;
            let rows = asked.replies.into_iter().filter_map(|r| match r {
                Reply::Rates(row) => Some(*row),
                _ => None,
            });
            rows.collect()
        }
    };
    rows.sort_by(|a, b| a.job.cmp(&b.job));
    match (json, rows.as_slice()) {
        (true, [row]) if job.is_some() => json_or(true, || row, String::new),
        _ => json_or(json, || &rows, || table(&rows)),
    }
}

pub async fn set_rate(cluster: &Cluster, me: &Identity, job: &str, rate: u64) -> Result<String, Error> {
    let said = |rate: u64| match rate {
        0 => "no limit".to_owned(),
        rate => format!("{rate} tuples/s"),
    };
    match ask_leader(cluster, me, job, Request::SetRate(rate)).await? {
        Reply::RateSet { was } => Ok(format!(
            "job {job}: the sources' rate was {}, now {}",
            said(was),
            said(rate)
        )),
        _ => Err(Missing::NoJob(format!(" that takes a rate: {job} has ended")).into()),
    }
}

fn table(rows: &[RatesRow]) -> String {
    if rows.is_empty() {
        return "no job is running".into();
    }
    let mut out = String::new();
    for row in rows {
        let limit = match row.input_rate {
            0 => "no limit".to_owned(),
            rate => format!("{rate}/s"),
        };
        let scaling = row.autoscale.map_or("off".to_owned(), |s| {
            format!(
                "below {}/s one task fewer, above {}/s one more, at most {}",
                s.low, s.high, s.most
            )
        });
        out.push_str(&format!(
            "job {}: input rate {limit}; autoscale {scaling}; {} changes\n",
            row.job, row.scale_events
        ));
        out.push_str("STAGE/TASK        IN/S       OUT/S  IN/S (10 s)  PER TASK   BACKLOG  STATE\n");
        for s in &row.stages {
            out.push_str(&format!(
                "{:<10} {:>11.0} {:>11.0} {:>12.0} {:>9.0} {:>9}  {} tasks, {}\n",
                s.stage, s.in_per_s, s.out_per_s, s.in_per_10s, s.per_task, s.backlog_tuples, s.tasks, s.op
            ));
            for t in &s.rows {
                out.push_str(&format!(
                    "  {:<8} {:>11.0} {:>11.0} {:>12.0} {:>9} {:>9}  {} on {}\n",
                    t.task.to_string(),
                    t.in_per_s,
                    t.out_per_s,
                    t.in_per_10s,
                    "",
                    t.backlog_tuples,
                    t.state,
                    t.node
                ));
            }
        }
    }
    out.truncate(out.trim_end().len());
    out
}
