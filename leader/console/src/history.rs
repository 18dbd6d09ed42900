//! `history`: the jobs that were, out of their journals in HyDFS.

use std::sync::Arc;

use common::clock;
use common::cluster::Cluster;
use common::ids::JobName;
use common::net::Identity;
use common::spawn;
use hydfs::client::Client;
use tokio::sync::{Semaphore, mpsc};

use crate::outcome::{Done, Error, json_or};
use crate::show::{self, HistoryRow};
use api::find::ask_all;
use api::wire::Request;
use job::journal;
use job::record::Record;
use job::state::{DoneTask, Ended, JobState};

/// Journals read at a time.
const AT_ONCE: usize = 8;

/// `most`: only so many of the newest.
pub async fn run(
    cluster: &Cluster,
    me: &Identity,
    client: &Client,
    most: Option<usize>,
    json: bool,
) -> Result<Done, Error> {
    let (found, asked) = tokio::join!(client.find("jobs/"), ask_all(cluster, me, Request::Status));
    let names = found?;
    let names: Vec<JobName> = names.iter().filter_map(|e| journal::job_of(&e.file)).collect();
    let running: Vec<JobName> = asked.jobs().into_iter().map(|row| row.job).collect();

    let (tell, mut heard) = mpsc::channel(AT_ONCE);
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let guards: Vec<_> = names
        .into_iter()
        .map(|job| {
            let (client, tell, room) = (client.clone(), tell.clone(), room.clone());
            spawn::guarded("history", async move {
                let _turn = room.acquire().await;
                let records = journal::read(&client, &job).await;
                // Its figures are for scripts: a table has no room for them.
                let summary = match json {
                    true => journal::read_summary(&client, &job).await.ok().flatten(),
                    false => None,
                };
                let _ = tell.send((job, records, summary)).await;
                Ok::<(), std::convert::Infallible>(())
            })
        })
        .collect();
    drop(tell);
    let (mut rows, mut unreadable) = (vec![], vec![]);
    while let Some((job, records, summary)) = heard.recv().await {
        match records {
            Ok(records) => {
                let now_us = running.contains(&job).then(clock::unix_micros);
                let mut row = row(&job, &records, now_us);
                // One of an earlier end says nothing of a job that was taken up since.
                let ended = matches!(row.outcome, "done" | "failed");
                let summary = summary.filter(|_| ended);
                row.summary = summary.and_then(|text| serde_json::from_slice(&text).ok());
                rows.push(row);
            }
            Err(error) => unreadable.push(format!("{}: {error}", journal::name(&job))),
        }
    }
    drop(guards);
    rows.sort_by(|a, b| (a.at_us, &a.job).cmp(&(b.at_us, &b.job)));
    let skip = most.map_or(0, |most| rows.len().saturating_sub(most));
    rows.drain(..skip);
    Ok(Done {
        text: json_or(json, || &rows, || show::history(&rows))?,
        code: u8::from(!unreadable.is_empty()),
        complaint: (!unreadable.is_empty()).then(|| unreadable.join("\nrainstormctl: ")),
    })
}

/// `now_us`: of a job that a leader answers for.
pub(crate) fn row(job: &JobName, records: &[Record], now_us: Option<u64>) -> HistoryRow {
    let first = records.first().map_or(0, |r| r.at_us);
    let last = now_us.unwrap_or(records.last().map_or(0, |r| r.at_us));
    let open = if now_us.is_some() {
        "running"
    } else {
        "interrupted"
    };
    let mut row = HistoryRow {
        job: job.clone(),
        started: (first > 0).then(|| when(first)),
        seconds: last.saturating_sub(first) as f64 / 1e6,
        outcome: open,
        why: None,
        stages: vec![],
        tasks: 0,
        restarts: 0,
        resumed: 0,
        lines_in: 0,
        lines_out: 0,
        src: String::new(),
        dest: String::new(),
        at_us: first,
        summary: None,
    };
    let Some(state) = JobState::of(records) else {
        return row;
    };
    let JobState { plan, life, .. } = state;
    row.at_us = life.began_us;
    row.started = Some(when(life.began_us));
    row.seconds = now_us.unwrap_or(life.last_us).saturating_sub(life.began_us) as f64 / 1e6;
    row.stages = plan.stages.iter().map(|s| s.label()).collect();
    row.tasks = plan.nodes.len();
    (row.src, row.dest) = (plan.src, plan.dest);
    (row.restarts, row.resumed) = (life.restarts, life.resumed);
    match state.ended {
        _ if state.forgotten => row.outcome = "forgotten",
        Some(Ended { ok: true, .. }) => row.outcome = "done",
        Some(Ended { why, .. }) => (row.outcome, row.why) = ("failed", Some(why)),
        None => {}
    }
    let last = row.stages.len().saturating_sub(1);
    for (task, DoneTask { counts, .. }) in state.done {
        if task.stage == 0 {
            row.lines_in += counts.tuples_in;
        }
        if usize::from(task.stage) == last {
            row.lines_out += counts.tuples_out;
        }
    }
    row
}

/// RFC 3339 in UTC, to the second.
fn when(us: u64) -> String {
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_micros(us);
    humantime::format_rfc3339_seconds(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::ids::{Epoch, NodeName, TaskId};
    use job::plan::sample::sample;
    use job::record::{Counts, Entry, VERSION};

    fn records(entries: Vec<Entry>) -> Vec<Record> {
        let at = |i: usize| 1_795_262_400_000_000 + i as u64 * 1_000_000;
        let record = |(i, entry)| Record {
            v: VERSION,
            at_us: at(i),
            entry,
        };
        entries.into_iter().enumerate().map(record).collect()
    }

    #[test]
    fn a_journal_tells_how_a_job_went() {
        let node = NodeName::new("n1").unwrap();
        let job = JobName::new("j").unwrap();
        let launch = |epoch| Entry::Launch {
            task: TaskId::new(1, 0),
            epoch: Epoch(epoch),
            node: node.clone(),
        };
        let done = |stage, tuples_in, tuples_out| Entry::Done {
            task: TaskId::new(stage, 0),
            epoch: Epoch(1),
            counts: Counts {
                tuples_in,
                tuples_out,
                ..Counts::default()
            },
            routed: 0,
        };
        let mut entries = vec![
            Entry::Plan(Box::new(sample(1, 1, 1, std::slice::from_ref(&node)))),
            launch(1),
            launch(2),
            done(0, 10, 10),
            done(1, 10, 4),
        ];
        let open = row(&job, &records(entries.clone()), None);
        assert_eq!((open.outcome, open.restarts, open.tasks), ("interrupted", 1, 2));
        assert_eq!((open.lines_in, open.lines_out), (10, 4));
        assert_eq!(open.started.as_deref(), Some("2026-11-21T12:00:00Z"));
        let running = row(&job, &records(entries.clone()), Some(1_795_262_460_000_000));
        assert_eq!((running.outcome, running.seconds), ("running", 60.0));
        entries.push(Entry::End {
            ok: false,
            why: "boom".into(),
        });
        let failed = row(&job, &records(entries.clone()), None);
        assert_eq!((failed.outcome, failed.why.as_deref()), ("failed", Some("boom")));
        assert_eq!(failed.seconds, 5.0);
        entries.push(Entry::Resumed {
            base: Epoch(1000),
            node: node.clone(),
            pid: 1,
            settings: job::record::Settings {
                max_restarts: 1,
                op_timeout_ms: 1,
                poison: None,
                standbys: None,
            },
        });
        entries.extend([launch(1001), launch(1002)]);
        let again = row(&job, &records(entries), None);
        assert_eq!(
            (again.outcome, again.why, again.restarts, again.resumed),
            ("interrupted", None, 2, 1)
        );
        assert_eq!(row(&job, &[], None).started, None);
    }
}
