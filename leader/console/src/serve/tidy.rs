//! Removes what has been kept for long enough, with nobody there: see [`job::ended`] for what, and [`job::forget`] for how.
//!
//! Each node's console could. The first node that is alive does; two at once would do no harm.

use std::convert::Infallible;
use std::time::Duration;

use common::clock;
use common::ids::{Creation, JobName};
use common::signals::Stop;
use hydfs::client::Error as StoreError;

use super::Place;
use job::ended::{self, Found, Standing, Step, Tidying};
use job::forget;

/// A look at all journals is cheap, as long as it is seldom.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));
/// A larger operator stays: it could not be put back from memory.
const LARGEST: u64 = 256 << 20;

pub async fn keep(place: Place, keep: Duration) -> Result<(), Infallible> {
    let every = (keep / 24).clamp(LOOK_EVERY.0, LOOK_EVERY.1);
    let mut tidying = Tidying::new(keep);
    loop {
        tokio::time::sleep(every).await;
        let Some(found) = look(&place).await else { continue };
        let now_us = clock::unix_micros();
        // Every console keeps count, so that one can go on where another has ended.
        let steps = tidying.handle(clock::now(), now_us, &found);
        if steps.is_empty() || !is_first(&place).await {
            continue;
        }
        let before_us = now_us.saturating_sub(keep.as_micros() as u64);
        for step in steps {
            match step {
                Step::Forget(job) => forget_job(&place, &job, before_us).await,
                Step::RemoveOperator(file, creation) => {
                    if let Err(error) = remove_operator(&place, &file, creation).await {
                        tracing::info!(file, error = %error, "OPERATOR_NOT_REMOVED");
                    }
                }
            }
        }
    }
}

/// `None`: HyDFS does not say all; the next look will do.
async fn look(place: &Place) -> Option<Found> {
    let mut journals = place.journals.lock().await;
    journals.refresh(&place.client).await.ok()?;
    let operators = place.client.find("ops/").await.ok()?;
    Some(Found {
        jobs: journals.found(),
        operators: operators
            .into_iter()
            .map(|entry| (entry.file, entry.creation))
            .collect(),
    })
}

/// Whether no node before this one, in the cluster file's order, is alive.
async fn is_first(place: &Place) -> bool {
    let Ok(members) = memberd::client::list(&place.cluster, &place.me, &place.node.name).await else {
        return false;
    };
    let is_alive = |name| {
        members
            .iter()
            .any(|m| m.name == name && m.state == memberd::State::Alive)
    };
    let first = place
        .cluster
        .nodes
        .iter()
        .find(|node| is_alive(node.name.clone()));
    first.is_some_and(|first| first.name == place.node.name)
}

async fn forget_job(place: &Place, job: &JobName, before_us: u64) {
    // It may have been taken up since it was looked at: its journal is asked again.
    let may = |standing: Standing| standing.ended_before(before_us) || standing == Standing::NeverBegan;
    match forget::forget(&place.client, job, may).await {
        Ok(gone) => {
            tracing::info!(%job, files = gone.files, bytes = gone.bytes, why = "keep_ended", "JOB_FORGOTTEN")
        }
        Err(forget::Error::Kept(_) | forget::Error::TakenUp | forget::Error::Unknown(_)) => {}
        Err(error) => tracing::warn!(%job, error = %error, "JOB_NOT_FORGOTTEN"),
    }
}

/// A job that begins just now may have found it there and not yet said so. A job makes its journal first: so whoever looks for
/// journals after the removal sees that job, and puts the operator back.
async fn remove_operator(place: &Place, file: &str, creation: Creation) -> Result<(), StoreError> {
    let client = &place.client;
    if client.stat(file).await?.len > LARGEST {
        return Ok(());
    }
    let (mut content, mut pieces) = (vec![], client.stream((file, Some(creation)), 0..u64::MAX));
    while let Some(piece) = pieces.next().await {
        content.extend_from_slice(&piece?);
    }
    client.remove_made(file, creation.0).await?;
    let needed = match look(place).await {
        Some(mut found) => {
            let starts = found
                .jobs
                .iter()
                .any(|job| job.standing == Some(Standing::NeverBegan));
            found.operators = [(file.to_owned(), creation)].into();
            starts || ended::unnamed(&found).is_none_or(|unnamed| unnamed.is_empty())
        }
        None => true,
    };
    if needed {
        match client.put(&content[..], file, &Stop::never(), |_| {}).await {
            // The job put it there itself.
            Ok(_) | Err(StoreError::Exists { .. }) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    tracing::info!(file, bytes = content.len(), "OPERATOR_REMOVED");
    Ok(())
}
