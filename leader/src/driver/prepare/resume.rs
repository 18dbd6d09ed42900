//! A job that is taken up: what its journal says is read first, refused if it must be, then fenced and read again. From the
//! fence on no earlier leader can write, so what is decided then stays true.

use std::collections::BTreeSet;

use common::ids::{Epoch, JobName, NodeName};
use hydfs::client::Error as StoreError;
use hydfs::client::names::poison_file;

use super::files::make_dest;
use super::{Base, LeaderEndpoint, Outcome, Ready, bind, members, opened, place_of, start_launcher};
use crate::cli::{self, Poison, Request, Resume};
use crate::driver::error::Error;
use api::find::status_of;
use job::journal::{self, Journal, OpenError};
use job::machine::{Config, Job, ResumeError, Resumed, resume};
use job::plan::Plan;
use job::record::{Entry, Record, Settings};

pub(super) async fn prepare(request: Request, how: Resume, started_us: u64) -> Result<Outcome, Error> {
    let job = how.job.clone();
    let base = Base::new(request, &job, None)?;
    let client = &base.client;
    let refuse_it = |error| refuse(&job, error);

    let records = async { journal::read(client, &job).await.map_err(|e| unreadable(&job, e)) };
    let alone = async { nobody_leads(&base, &job).await };
    let alive = members(&base.follower, &base.node.name);
    let (records, (), alive) = tokio::try_join!(records, alone, alive)?;
    resume(&records, Epoch(2)).map_err(refuse_it)?;

    // Not before: hosts of a job that is refused would disturb nobody, but take their time.
    let (launcher, hosts) = start_launcher(&base, &job, true)?;
    let nodes = place_of(&base.cluster, &alive);
    let taken = async {
        let taken = Journal::take_over(client, &job).await;
        carry_on(&base, &how, taken.map_err(|e| unreadable(&job, e))?).await
    };
    let bound = async { bind(&base.cluster, &base.node).await };
    let ((journal, resumed), gone, listener) = tokio::try_join!(taken, opened(hosts, &nodes), bound)?;
    tracing::info!(
        node = %base.node.name, pid = std::process::id(), base = %resumed.base, done = resumed.done.len(),
        failed = resumed.failed.as_deref().unwrap_or(""), "RUN_RESUME"
    );
    let failed = base.failed(&(&alive - &gone));
    let place = LeaderEndpoint { listener, launcher };
    ready(base, started_us, (journal, resumed), place, failed)
}

/// What a fenced journal says is carried on from here, and the journal says so.
pub(super) async fn carry_on(
    base: &Base,
    how: &Resume,
    (mut journal, records, fence): (Journal, Vec<Record>, Epoch),
) -> Result<(Journal, Resumed), Error> {
    let mut resumed = resume(&records, fence).map_err(|error| refuse(&how.job, error))?;
    let settings = settings(how, &resumed.plan);
    settings.apply(&mut resumed.plan);
    let resuming = Entry::Resumed {
        base: resumed.base,
        node: base.node.name.clone(),
        pid: std::process::id(),
        settings,
    };
    journal.write(resuming);
    let flushed = async { Ok(journal.flush().await?) };
    ((), resumed.before) = tokio::try_join!(flushed, destination(base, &resumed))?;
    Ok((journal, resumed))
}

/// `failed`: nodes that are not usable as it goes on.
pub(super) fn ready(
    base: Base,
    started_us: u64,
    (journal, resumed): (Journal, Resumed),
    place: LeaderEndpoint,
    failed: BTreeSet<NodeName>,
) -> Result<Outcome, Error> {
    let config = Config {
        lease: base.cluster.job_lease(),
        max_restarts: resumed.plan.max_restarts,
    };
    let job = Job::resumed(resumed, config, base.all_nodes(), failed.clone());
    let ready = Ready::new(base, started_us, job, journal, place, failed)?;
    Ok(Outcome::Ready(Box::new(ready)))
}

/// A leader that answers for this job is not gone.
async fn nobody_leads(base: &Base, job: &JobName) -> Result<(), Error> {
    match status_of(&base.cluster, &base.me, job).await {
        None => Ok(()),
        Some(row) => Err(Error::Cannot(format!(
            "job {job} is running: its leader is process {} on node {}; end that one first, or leave it to its work",
            row.pid, row.node
        ))),
    }
}

fn unreadable(job: &JobName, error: OpenError) -> Error {
    match error {
        OpenError::Storage(StoreError::NoSuchFile { .. }) => Error::Usage(cli::Error::Option {
            option: "--resume",
            what: format!(
                "there is no job {job} (HyDFS has no {}); there are: hydfs find jobs/",
                journal::name(job)
            ),
        }),
        OpenError::Storage(other) => other.into(),
        other => Error::Cannot(format!("job {job} cannot be taken up: {other}")),
    }
}

fn refuse(job: &JobName, error: ResumeError) -> Error {
    let more = match error {
        ResumeError::NeverBegan => {
            format!(
                "; start it anew under another name, or under this one after: hydfs rm --system {}",
                journal::name(job)
            )
        }
        ResumeError::Ended | ResumeError::Forgotten => String::new(),
    };
    Error::Cannot(format!("job {job} cannot be taken up: {error}{more}"))
}

/// What was planned, where nothing else is said now.
fn settings(how: &Resume, plan: &Plan) -> Settings {
    Settings {
        max_restarts: how.max_restarts.unwrap_or(plan.max_restarts),
        op_timeout_ms: how
            .op_timeout
            .map_or(plan.op_timeout_ms, |timeout| timeout.as_millis() as u64),
        poison: match how.poison {
            None => plan.poison.clone(),
            Some(Poison::Fail) => None,
            Some(Poison::Skip) => Some(poison_file(&plan.dest)),
        },
        standbys: how.standbys,
    }
}

/// The destination is there, or is made if no process can have written to it yet. Returns how many lines are in it.
async fn destination(base: &Base, resumed: &Resumed) -> Result<u64, Error> {
    let plan = &resumed.plan;
    let made = match resumed.launched {
        true => base.client.stat(&plan.dest).await.map(|stat| stat.newlines),
        false => make_dest(&base.client, plan).await.map(|()| 0),
    };
    made.map_err(|e| match e {
        StoreError::NoSuchFile { .. } => Error::Cannot(format!(
            "job {} cannot be taken up: its destination {} was removed, with all that it had written",
            plan.job, plan.dest
        )),
        StoreError::Exists { .. } => Error::Cannot(format!(
            "job {} cannot be taken up: before it could make its destination {}, another file was made under that name; \
             start it anew with another destination",
            plan.job, plan.dest
        )),
        other => other.into(),
    })
}
