//! `forget JOB...`: removes what jobs that were keep in HyDFS. See [`job::forget`].

use common::cluster::Cluster;
use common::ids::JobName;
use common::net::Identity;
use hydfs::client::Client;
use job::ended::Standing;
use job::forget::{self, Gone};

use crate::files;
use crate::outcome::{Done, Error};
use api::find::status_of;

/// Each job by itself: one that is refused holds up no other. `force`: also those that could be taken up.
pub async fn run(
    cluster: &Cluster,
    me: &Identity,
    client: &Client,
    jobs: &[JobName],
    force: bool,
) -> Result<Done, Error> {
    let mut done = Done::default();
    let mut complaints = vec![];
    for job in jobs {
        match one(cluster, me, client, job, force).await {
            Ok(gone) => {
                done.text += if done.text.is_empty() { "" } else { "\n" };
                done.text += &format!(
                    "forgot job {job}: {} files, {} bytes and their copies",
                    gone.files, gone.bytes
                );
            }
            Err(error) => complaints.push(error.to_string()),
        }
    }
    done.code = u8::from(!complaints.is_empty());
    done.complaint = (!complaints.is_empty()).then(|| complaints.join("\nrainstormctl: "));
    Ok(done)
}

async fn one(
    cluster: &Cluster,
    me: &Identity,
    client: &Client,
    job: &JobName,
    force: bool,
) -> Result<Gone, Error> {
    if let Some(row) = status_of(cluster, me, job).await {
        let (job, node) = (job.to_string(), row.node);
        return Err(Error::Runs { job, node });
    }
    let gone = forget::forget(client, job, |standing| force || standing.is_over()).await;
    match gone {
        Ok(gone) => {
            tracing::info!(%job, files = gone.files, bytes = gone.bytes, why = "asked for", "JOB_FORGOTTEN");
            Ok(gone)
        }
        Err(forget::Error::Unknown(_)) => Err(Error::UnknownJob {
            job: job.to_string(),
            have: files::known(client).await,
        }),
        Err(forget::Error::Kept(standing)) => Err(Error::CanBeTakenUp {
            job: job.to_string(),
            how: match standing {
                Standing::Failed { .. } => "it failed, and can be taken up",
                Standing::NeverBegan => {
                    "it has no plan: it starts just now, or its leader died before it began"
                }
                _ => "it was interrupted, and can be taken up",
            },
        }),
        Err(error) => Err(Error::NotForgotten {
            job: job.to_string(),
            error,
        }),
    }
}
