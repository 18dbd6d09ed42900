//! `list_tasks`, `jobs`, `status`: what the leaders that run say.

use std::path::Path;

use common::cluster::Cluster;
use common::ids::JobName;
use common::net::Identity;

use crate::outcome::{Error, json_or};
use crate::show;
use api::find::{LeaderAnswers, Missing, ask_all, ask_leader};
use api::submit;
use api::wire::{JobRow, Reply, Request};

pub async fn list_tasks(
    cluster: &Cluster,
    me: &Identity,
    job: Option<String>,
    json: bool,
) -> Result<String, Error> {
    let asked = ask_all(cluster, me, Request::List).await;
    let trouble = trouble(&asked);
    let mut rows = asked.tasks();
    rows.sort_by(|a, b| (&a.job, a.task).cmp(&(&b.job, b.task)));
    only(&mut rows, job.as_deref(), |r| &r.job, trouble)?;
    json_or(json, || &rows, || show::tasks(&rows))
}

pub async fn jobs(cluster: &Cluster, me: &Identity, json: bool) -> Result<String, Error> {
    let (rows, _) = ask(cluster, me).await;
    json_or(json, || &rows, || show::jobs(&rows))
}

pub async fn status(
    cluster: &Cluster,
    me: &Identity,
    job: Option<String>,
    json: bool,
) -> Result<String, Error> {
    let (mut rows, trouble) = ask(cluster, me).await;
    only(&mut rows, job.as_deref(), |r| &r.job, trouble)?;
    json_or(json, || &rows, || show::status(&rows))
}

/// The name of the job that it has started.
pub async fn submit(cluster: &Cluster, words: &[String]) -> Result<String, Error> {
    let exe = std::env::current_exe().map_err(Error::Programs)?;
    let own = exe.parent().unwrap_or(Path::new("/"));
    Ok(submit::submit(own, &cluster.path, words, None).await?.to_string())
}

pub async fn stop(cluster: &Cluster, me: &Identity, job: &JobName, now: bool) -> Result<String, Error> {
    let reply = ask_leader(cluster, me, job.as_str(), Request::Stop { now }).await?;
    Ok(match reply {
        Reply::Stopping { drains: true } => {
            format!("job {job} reads what is there, then ends; to wait for that: rainstormctl attach {job}")
        }
        _ => format!("job {job} ends now, unfinished; to go on with it: leader --resume {job}"),
    })
}

async fn ask(cluster: &Cluster, me: &Identity) -> (Vec<JobRow>, String) {
    let asked = ask_all(cluster, me, Request::Status).await;
    let trouble = trouble(&asked);
    let mut rows = asked.jobs();
    rows.sort_by(|a, b| a.job.cmp(&b.job));
    (rows, trouble)
}

fn trouble(asked: &LeaderAnswers) -> String {
    asked
        .troubles
        .iter()
        .map(|(addr, why)| format!("; {addr}: {why}"))
        .collect()
}

/// Keeps the rows of one job, of which there must be some.
fn only<T>(
    rows: &mut Vec<T>,
    job: Option<&str>,
    of: impl Fn(&T) -> &JobName,
    trouble: String,
) -> Result<(), Error> {
    let Some(job) = job else { return Ok(()) };
    let mut names: Vec<String> = rows.iter().map(|r| of(r).to_string()).collect();
    names.dedup();
    rows.retain(|r| of(r).as_str() == job);
    match (rows.is_empty(), names.is_empty()) {
        (false, _) => Ok(()),
        (true, true) => Err(Missing::NoJob(trouble).into()),
        (true, false) => Err(Missing::NoSuchJob {
            job: job.into(),
            have: format!("runs: {}", names.join(", ")),
        }
        .into()),
    }
}
