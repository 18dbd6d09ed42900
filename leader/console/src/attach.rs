//! `attach`: a job's output as it grows, and how far the job is. All of it is read from HyDFS, so a change of leader is only told.

use std::time::Duration;

use common::cluster::Cluster;
use common::ids::JobName;
use common::net::Identity;
use common::output::complain;
use common::{shown, spawn};
use hydfs::client::{Client, Error as StoreError};
use job::journal::{self, Follower, OpenError};
use job::plan::Plan;
use job::record::{Entry, Record};
use job::state::{Ended, JobState};
use tokio::sync::{oneshot, watch};

use crate::outcome::{Done, Error};
use api::find::ask_all;
use api::output::{self, File, First, copy_all};
use api::wire::{JobRow, Reply, Request};

/// How often it is said how far the job is.
const SAY_EVERY: Duration = Duration::from_secs(5);
/// While storage is away, it is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the output of a job that has failed is still read.
const LAST_OUTPUT: Duration = Duration::from_secs(5);

/// How a job has ended, as its journal has it.
type Outcome = Option<Result<(), String>>;

pub async fn run(
    cluster: &Cluster,
    me: &Identity,
    client: &Client,
    job: &JobName,
    from_start: bool,
    quiet: bool,
) -> Result<Done, Error> {
    let client = client.with_patience(PATIENCE);
    let (mut follower, records) = Follower::begin(&client, job)
        .await
        .map_err(|error| unreadable(job, error))?;
    let state = JobState::of(&records).ok_or_else(|| Error::NoPlan { job: job.to_string() })?;
    let (plan, mut ended) = (state.plan, state.ended.map(outcome));
    let say = |text: std::fmt::Arguments| {
        if !quiet {
            complain(format_args!("rainstormctl: {text}"));
        }
    };

    let from = match from_start {
        true => plan.output.from(),
        false => length(&client, &plan).await?,
    };
    let (end, told) = watch::channel(None);
    let (tell, mut printed) = oneshot::channel();
    let file = File {
        client: client.clone(),
        name: plan.dest.clone(),
        creation: plan.output.creation(),
    };
    let _printing = spawn::guarded("output", async move {
        let copied = copy_all(&file, from, shown::Stdout::new(), told, First::default()).await;
        let _ = tell.send(copied);
        Ok::<(), output::Error>(())
    });
    let mut clock = tokio::time::interval(SAY_EVERY);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let outcome = {
        // Kept across turns: a record may come in two pieces.
        let mut next = Box::pin(next(follower));
        loop {
            if let Some(outcome) = ended.take() {
                break outcome;
            }
            tokio::select! {
                (back, came) = &mut next => {
                    follower = back;
                    let records = came.map_err(|error| unreadable(job, error))?;
                    note(&records, &mut ended, |leader| say(format_args!("job {job} was taken up by the leader on node {leader}")));
                    next.set(self::next(follower));
                }
                copied = &mut printed => {
                    // Nobody reads it any more, or it cannot be read.
                    copied.unwrap_or(Ok(()))?;
                    return Ok(Done::default());
                }
                _ = clock.tick(), if !quiet => {
                    let rows = ask_all(cluster, me, Request::Status).await.replies;
                    let row = rows.into_iter().find_map(|reply| match reply {
                        Reply::Status(row) if row.job == *job => Some(row),
                        _ => None,
                    });
                    match row {
                        Some(row) => say(format_args!("{}", progress(&row))),
                        None => say(format_args!(
                            "no leader answers for job {job} at this moment; if none has taken it up in a while: leader --resume {job}"
                        )),
                    }
                }
            }
        }
    };
    let length = length(&client, &plan).await?;
    let _ = end.send(Some(length));
    match outcome {
        Ok(()) => {
            printed.await.unwrap_or(Ok(()))?;
            say(format_args!("job {job} is done"));
            Ok(Done::default())
        }
        Err(why) => {
            let _ = tokio::time::timeout(LAST_OUTPUT, printed).await;
            Ok(Done {
                code: 1,
                complaint: Some(format!("job {job} failed: {why}")),
                ..Done::default()
            })
        }
    }
}

/// Waits as long as nothing comes.
async fn next(mut follower: Follower) -> (Follower, Result<Vec<Record>, OpenError>) {
    const WAIT: Duration = Duration::from_secs(5);
    loop {
        match follower.next(WAIT).await {
            Ok(records) if records.is_empty() => {}
            other => return (follower, other),
        }
    }
}

/// What these records say of the job's end, and to `taken_up` on which node a leader has taken it up.
fn note(records: &[Record], ended: &mut Outcome, mut taken_up: impl FnMut(&str)) {
    for record in records {
        match &record.entry {
            Entry::Resumed { node, .. } => {
                *ended = None;
                taken_up(node.as_str());
            }
            Entry::End { ok, why } => {
                let why = why.clone();
                *ended = Some(outcome(Ended { ok: *ok, why }));
            }
            Entry::State(state) => *ended = state.ended.clone().map(outcome),
            _ => {}
        }
    }
}

fn outcome(ended: Ended) -> Result<(), String> {
    if ended.ok { Ok(()) } else { Err(ended.why) }
}

/// How long the output is; 0 where the destination is not made yet.
async fn length(client: &Client, plan: &Plan) -> Result<u64, Error> {
    match client.stat(&plan.dest).await {
        Ok(stat) => Ok(stat.len),
        Err(StoreError::NoSuchFile { .. }) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

fn unreadable(job: &JobName, error: OpenError) -> Error {
    match error {
        OpenError::Storage(StoreError::NoSuchFile { .. }) => Error::UnknownJob {
            job: job.to_string(),
            have: "; there are: rainstormctl history".into(),
        },
        error => Error::Journal {
            name: journal::name(job),
            error,
        },
    }
}

fn progress(row: &JobRow) -> String {
    let of = |stage: usize| row.stages.get(stage);
    let read = of(0).map_or(0, |s| s.tuples_in);
    let (out, per_s) = row
        .stages
        .last()
        .map_or((0, 0.0), |s| (s.tuples_out, s.out_per_s));
    let up: usize = row.stages.iter().map(|s| s.up).sum();
    let tasks: usize = row.stages.iter().map(|s| usize::from(s.tasks)).sum();
    format!(
        "job {} on {}: {read} lines read, {out} put out, {per_s:.0}/s, {up} of {tasks} tasks up, {} restarts",
        row.job, row.node, row.restarts
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::ids::{Epoch, NodeName};
    use job::record::{Settings, VERSION};

    #[test]
    fn an_end_counts_until_somebody_takes_the_job_up() {
        let record = |entry| Record {
            v: VERSION,
            at_us: 0,
            entry,
        };
        let failed = record(Entry::End {
            ok: false,
            why: "boom".into(),
        });
        let resumed = record(Entry::Resumed {
            base: Epoch(1000),
            node: NodeName::new("n2").unwrap(),
            pid: 7,
            settings: Settings {
                max_restarts: 1,
                op_timeout_ms: 1,
                poison: None,
                standbys: None,
            },
        });
        let (mut ended, mut told) = (None, vec![]);
        note(std::slice::from_ref(&failed), &mut ended, |n| {
            told.push(n.to_owned())
        });
        assert_eq!(ended, Some(Err("boom".into())));
        note(&[resumed], &mut ended, |n| told.push(n.to_owned()));
        assert_eq!((ended, told), (None, vec!["n2".to_owned()]));
    }
}
