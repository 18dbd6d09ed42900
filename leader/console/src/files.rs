//! What a job left in HyDFS.

use std::time::Duration;

use common::clock;
use common::ids::{JobName, TaskId};
use hydfs::client::{Client, Error as StoreError, Streams};

use crate::outcome::Error;
use job::journal::{self, OpenError};
use job::record::Record;

/// How long a piece of a file that is known to be there may take to come.
const PIECE_WITHIN: Duration = Duration::from_secs(5);
const PIECE: usize = 1024 * 1024;
/// How long a repair of the coordinator's copy is waited for.
const REPAIR_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Jobs named in a message.
const NAMED: usize = 10;

pub fn log(job: &JobName, task: TaskId) -> String {
    format!("jobs/{job}/{task}.log")
}

pub fn snapshots(job: &JobName, task: TaskId) -> String {
    format!("jobs/{job}/{task}.snap")
}

/// What there is of a file that may be trimmed while it is read.
#[derive(Debug, Default)]
pub struct Content {
    /// Where it begins: below that it was trimmed.
    pub begin: u64,
    pub bytes: Vec<u8>,
}

/// All that is committed when this is called, by the word of the file's coordinator: a copy that lags behind will not do.
/// `None`: there is no such file.
pub async fn read(client: &Client, file: &str) -> Result<Option<Content>, StoreError> {
    loop {
        let stat = match client.stat(file).await {
            Ok(stat) => stat,
            Err(StoreError::NoSuchFile { .. }) => return Ok(None),
            Err(other) => return Err(other),
        };
        match read_range(client, file, stat.base, stat.len).await {
            Ok(bytes) => {
                let begin = stat.base;
                return Ok(Some(Content { begin, bytes }));
            }
            // Its owner has trimmed it meanwhile. That happens once per megabyte or so.
            Err(StoreError::Trimmed { .. }) => {}
            Err(other) => return Err(other),
        }
    }
}

async fn read_range(client: &Client, file: &str, begin: u64, len: u64) -> Result<Vec<u8>, StoreError> {
    let mut out = Vec::new();
    let mut stream = client.stream(file, begin..len);
    while let Some(piece) = stream.next().await {
        out.extend_from_slice(&piece?);
    }
    loop {
        let at = begin + out.len() as u64;
        if at >= len {
            return Ok(out);
        }
        let want = PIECE.min((len - at) as usize);
        let piece = client.tail(file, at, want, PIECE_WITHIN).await?;
        if piece.is_empty() {
            return Err(StoreError::Unavailable {
                file: file.into(),
                why: format!("bytes {at}..{len} do not come"),
                tried_for: PIECE_WITHIN,
            });
        }
        out.extend_from_slice(&piece);
    }
}

/// Who appended what, whole if that can be had; `None`: there is no such file.
pub async fn streams(client: &Client, file: &str) -> Result<Option<Streams>, StoreError> {
    let start = clock::now();
    loop {
        match client.streams(file).await {
            Ok(streams) if !streams.missing || clock::now().since(start) > REPAIR_WITHIN => {
                return Ok(Some(streams));
            }
            Ok(_) => tokio::time::sleep(LOOK_EVERY).await,
            Err(StoreError::NoSuchFile { .. }) => return Ok(None),
            Err(other) => return Err(other),
        }
    }
}

/// The job's journal; without one, which jobs there are.
pub async fn journal(client: &Client, job: &JobName) -> Result<Vec<Record>, Error> {
    match journal::read(client, job).await {
        Ok(records) => Ok(records),
        Err(OpenError::Storage(StoreError::NoSuchFile { .. })) => Err(Error::UnknownJob {
            job: job.to_string(),
            have: known(client).await,
        }),
        Err(error) => Err(Error::Journal {
            name: journal::name(job),
            error,
        }),
    }
}

pub async fn known(client: &Client) -> String {
    let Ok(files) = client.find("jobs/").await else {
        return String::new();
    };
    let names = files.iter().filter_map(|e| journal::job_of(&e.file));
    let mut names: Vec<String> = names.map(|job| job.to_string()).collect();
    names.reverse();
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    match (names.is_empty(), more) {
        (true, _) => "; it knows no job".into(),
        (false, 0) => format!("; there is {}", names.join(", ")),
        (false, more) => format!("; there is {}, and {more} more", names.join(", ")),
    }
}
