//! The journals of all jobs, read again only when they have grown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use common::ids::{Creation, JobName};
use common::spawn;
use hydfs::client::{Client, Entry, Error};
use tokio::sync::{Semaphore, mpsc};

use crate::history;
use crate::show::HistoryRow;
use job::ended::{self, FoundJob, Standing};
use job::journal;

/// Journals read at a time.
const AT_ONCE: usize = 4;

/// What is kept of one journal: some hundred bytes. The jobs that HyDFS keeps bound their number.
struct Read {
    creation: Creation,
    len: u64,
    /// `None`: it could not be read.
    known: Option<Known>,
}

struct Known {
    row: HistoryRow,
    standing: Standing,
    operators: BTreeSet<String>,
}

#[derive(Default)]
pub struct Journals(BTreeMap<JobName, Read>);

impl Journals {
    /// Returns all files of jobs.
    pub async fn refresh(&mut self, client: &Client) -> Result<Vec<Entry>, Error> {
        let files = client.find("jobs/").await?;
        let journals: BTreeMap<JobName, &Entry> = files
            .iter()
            .filter_map(|entry| Some((journal::job_of(&entry.file)?, entry)))
            .collect();
        self.0.retain(|job, _| journals.contains_key(job));
        let is_new = |job: &JobName, entry: &Entry| match self.0.get(job) {
            Some(read) => (read.creation, read.len) != (entry.creation, entry.len) || read.known.is_none(),
            None => true,
        };
        let new: Vec<(JobName, Entry)> = journals
            .into_iter()
            .filter(|(job, entry)| is_new(job, entry))
            .map(|(job, entry)| (job, entry.clone()))
            .collect();
        let (tell, mut heard) = mpsc::channel(AT_ONCE);
        let room = Arc::new(Semaphore::new(AT_ONCE));
        let guards: Vec<_> = new
            .into_iter()
            .map(|(job, entry)| {
                let (client, tell, room) = (client.clone(), tell.clone(), room.clone());
                spawn::guarded("journal", async move {
                    let _turn = room.acquire().await;
                    let records = journal::read(&client, &job).await;
                    let _ = tell.send((job, entry, records.ok())).await;
                    Ok::<(), std::convert::Infallible>(())
                })
            })
            .collect();
        drop(tell);
        while let Some((job, entry, records)) = heard.recv().await {
            let known = records.map(|records| Known {
                row: history::row(&job, &records, None),
                standing: Standing::of(&records),
                operators: ended::operators(&records),
            });
            // It may have grown since it was listed: then it is read once more the next time.
            let read = Read {
                creation: entry.creation,
                len: entry.len,
                known,
            };
            self.0.insert(job, read);
        }
        drop(guards);
        Ok(files)
    }

    pub fn rows(&self) -> impl Iterator<Item = HistoryRow> {
        self.0
            .values()
            .filter_map(|read| Some(read.known.as_ref()?.row.clone()))
    }

    pub fn found(&self) -> Vec<FoundJob> {
        let one = |(job, read): (&JobName, &Read)| FoundJob {
            job: job.clone(),
            creation: read.creation,
            standing: read.known.as_ref().map(|known| known.standing),
            operators: read
                .known
                .as_ref()
                .map(|known| known.operators.clone())
                .unwrap_or_default(),
        };
        self.0.iter().map(one).collect()
    }
}
