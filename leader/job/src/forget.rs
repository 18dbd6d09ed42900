//! Removes what a job keeps in HyDFS: `jobs/JOB/`. Its output stays.
//!
//! The journal decides, as it does between two leaders. What its reader has seen is acted on only if nobody has fenced it since; then
//! its last record says that the job is forgotten, and no leader takes it up after that. The journal goes last, so whoever finds
//! it there goes on with the removal.

use common::clock;
use common::ids::{Creation, Epoch, JobName};
use hydfs::client::{Client, Entry as File, Error as StoreError};

use crate::ended::Standing;
use crate::journal::{self, OpenError};
use crate::record::{Entry, Record, VERSION};

/// A process of the job that has not noticed yet may make files anew.
const ROUNDS: u32 = 3;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("HyDFS has nothing of a job `{0}`")]
    Unknown(JobName),
    /// The caller has said that it is not to go.
    #[error("it is kept")]
    Kept(Standing),
    #[error("a leader has taken it up meanwhile")]
    TakenUp,
    #[error(transparent)]
    Storage(#[from] StoreError),
    #[error(transparent)]
    Journal(#[from] OpenError),
    #[error("the journal's last record cannot be written: {0}")]
    Record(#[from] common::net::Error),
    #[error("processes of the job still make files; end them first")]
    Busy,
}

/// What is gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gone {
    pub files: usize,
    /// Before copies.
    pub bytes: u64,
}

/// Removes all that the job keeps, if `may` says so of how it stands. What others leave over (a journal that is gone, files that
/// are not) is removed unasked.
pub async fn forget(client: &Client, job: &JobName, may: impl Fn(Standing) -> bool) -> Result<Gone, Error> {
    let (folder, journal_name) = (format!("jobs/{job}/"), journal::name(job));
    let mut gone = Gone::default();
    let mut journal = None;
    for _ in 0..ROUNDS {
        let files = client.find(&folder).await?;
        if journal.is_none() {
            // Looked for after the files: a job makes its journal before anything else, so without one they are nobody's.
            journal = match client.stat(&journal_name).await {
                Ok(stat) => Some((stat.creation, stat.len)),
                Err(StoreError::NoSuchFile { .. }) => None,
                Err(other) => return Err(other.into()),
            };
            if let Some((creation, _)) = journal {
                close(client, job, creation, &may).await?;
            } else if files.is_empty() && gone.files == 0 {
                return Err(Error::Unknown(job.clone()));
            }
        }
        let others: Vec<&File> = files.iter().filter(|file| file.file != journal_name).collect();
        if others.is_empty() {
            if let Some((creation, len)) = journal {
                gone.count(len, remove(client, &journal_name, creation).await?);
            }
            return Ok(gone);
        }
        for file in others {
            gone.count(file.len, remove(client, &file.file, file.creation).await?);
        }
    }
    Err(Error::Busy)
}

/// Makes the journal one that nobody takes up.
async fn close(
    client: &Client,
    job: &JobName,
    creation: Creation,
    may: impl Fn(Standing) -> bool,
) -> Result<(), Error> {
    let name = journal::name(job);
    // Asked before it is read: who fences it after this has a higher epoch, and ours is refused.
    let streams = client.streams((&*name, Some(creation))).await?;
    let newest = streams
        .of(journal::WRITER)
        .map_or(Epoch(0), |stream| stream.epoch);
    let standing = Standing::of(&journal::read(client, job).await?);
    if standing == Standing::Forgotten {
        return Ok(());
    }
    if !may(standing) {
        return Err(Error::Kept(standing));
    }
    let taken_up = |error| match error {
        StoreError::Fenced { .. } => Error::TakenUp,
        other => Error::Storage(other),
    };
    let next = Epoch(newest.0 + 1);
    let opened = client.open_append((&*name, Some(creation)), journal::WRITER, next, false);
    let mut appender = opened.await.map_err(taken_up)?;
    let record = Record {
        v: VERSION,
        at_us: clock::unix_micros(),
        entry: Entry::Forgotten,
    };
    appender.append(record.encode()?);
    let end = appender.queued();
    appender.wait_acked(end).await.map_err(taken_up)?;
    Ok(())
}

async fn remove(client: &Client, file: &str, creation: Creation) -> Result<bool, StoreError> {
    match client.remove_made(file, creation.0).await {
        Ok(()) => Ok(true),
        // Somebody else does the same.
        Err(StoreError::NoSuchFile { .. } | StoreError::Replaced { .. }) => Ok(false),
        Err(other) => Err(other),
    }
}

impl Gone {
    fn count(&mut self, bytes: u64, removed: bool) {
        if removed {
            self.files += 1;
            self.bytes += bytes;
        }
    }
}
