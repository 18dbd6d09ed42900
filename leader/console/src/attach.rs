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
use job::state::JobState;
use tokio::sync::{oneshot, watch};

use crate::outcome::{Done, Error};
use api::find::status_of;
use api::output::{self, File, First, copy_all};
use api::wire::JobRow;

/// How often it is said how far the job is.
const SAY_EVERY: Duration = Duration::from_secs(5);
/// While storage is away, it is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the output of a job that has failed is still read.
const LAST_OUTPUT: Duration = Duration::from_secs(5);

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
    let mut state = JobState::of(&records).ok_or_else(|| Error::NoPlan { job: job.to_string() })?;
    let plan = state.plan.clone();
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
    let ended = {
        // Kept across turns: a record may come in two pieces.
        let mut next = Box::pin(next(follower));
        loop {
            if let Some(ended) = state.ended.take() {
                break ended;
            }
            tokio::select! {
                (back, came) = &mut next => {
                    follower = back;
                    let records = came.map_err(|error| unreadable(job, error))?;
                    state = note(state, &records, |leader| say(format_args!("job {job} was taken up by the leader on node {leader}")));
                    next.set(self::next(follower));
                }
                copied = &mut printed => {
                    // Nobody reads it any more, or it cannot be read.
                    copied.unwrap_or(Ok(()))?;
                    return Ok(Done::default());
                }
                _ = clock.tick(), if !quiet => {
                    match status_of(cluster, me, job).await {
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
    if ended.ok {
        printed.await.unwrap_or(Ok(()))?;
        say(format_args!("job {job} is done"));
        return Ok(Done::default());
    }
    let _ = tokio::time::timeout(LAST_OUTPUT, printed).await;
    Ok(Done {
        code: 1,
        complaint: Some(format!("job {job} failed: {}", ended.why)),
        ..Done::default()
    })
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

/// The job with these records, too; to `taken_up` goes on which node a leader has taken it up.
fn note(state: JobState, records: &[Record], mut taken_up: impl FnMut(&str)) -> JobState {
    let mut now = Some(state.clone());
    for record in records {
        if let Entry::Resumed { node, .. } = &record.entry {
            taken_up(node.as_str());
        }
        JobState::take(&mut now, record);
    }
    now.unwrap_or(state)
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
    use job::plan::sample::sample;
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
        let plan = sample(1, 1, 1, &[NodeName::new("n1").unwrap()]);
        let state = JobState::of(&[record(Entry::Plan(Box::new(plan)))]).unwrap();
        let mut told = vec![];
        let state = note(state, std::slice::from_ref(&failed), |n| told.push(n.to_owned()));
        assert_eq!(state.ended.as_ref().map(|ended| ended.why.as_str()), Some("boom"));
        let state = note(state, &[resumed], |n| told.push(n.to_owned()));
        assert_eq!((state.ended, told), (None, vec!["n2".to_owned()]));
    }
}
