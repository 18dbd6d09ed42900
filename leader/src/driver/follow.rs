//! Looks out for new files of a job that follows.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use common::spawn;
use hydfs::client::{Client, Error};
use tokio::sync::{Notify, mpsc};

use super::prepare::files;
use job::plan::SourceFile;

const EVERY: Duration = Duration::from_millis(500);
/// The look that ends the job is not waited for any longer.
const LAST_WITHIN: Duration = Duration::from_secs(3);

pub enum FoundFiles {
    /// Files that were not there before.
    More(Vec<SourceFile>),
    /// The last: there will be no more.
    Last(Vec<SourceFile>),
}

pub struct Lookout {
    found: mpsc::Receiver<FoundFiles>,
    last: Arc<Notify>,
    _task: spawn::Guard,
}

impl Lookout {
    pub fn start(client: Client, src: String) -> Self {
        let last = Arc::new(Notify::new());
        let (tell, found) = mpsc::channel(4);
        let task = spawn::guarded("lookout", look_out(client, src, last.clone(), tell));
        Self {
            found,
            last,
            _task: task,
        }
    }

    /// What was found; cancel-safe.
    pub async fn found(&mut self) -> Option<FoundFiles> {
        self.found.recv().await
    }

    /// One more look, and no more.
    pub fn end(&self) {
        self.last.notify_one();
    }
}

async fn look_out(
    client: Client,
    src: String,
    last: Arc<Notify>,
    tell: mpsc::Sender<FoundFiles>,
) -> Result<(), Error> {
    let mut seen: BTreeSet<SourceFile> = BTreeSet::new();
    let mut failed = false;
    loop {
        let files = tokio::select! {
            files = files::list(&client, &src) => files,
            () = last.notified() => break,
        };
        match files {
            Ok(files) => {
                failed = false;
                let all = files.iter().map(files::source_file);
                let new: Vec<SourceFile> = all.clone().filter(|f| !seen.contains(f)).collect();
                // Of those that are gone nothing is remembered.
                seen = all.collect();
                if !new.is_empty() && tell.send(FoundFiles::More(new)).await.is_err() {
                    return Ok(());
                }
            }
            // Storage comes back, or the workers fail of it.
            Err(error) => {
                if !std::mem::replace(&mut failed, true) {
                    tracing::warn!(src, error = %error, "LOOKOUT_FAILED");
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = last.notified() => break,
        }
    }
    let files = match tokio::time::timeout(LAST_WITHIN, files::list(&client, &src)).await {
        Ok(Ok(files)) => files.iter().map(files::source_file).collect(),
        other => {
            let why = other.map_or("no answer in time".into(), |r| {
                r.err().map_or(String::new(), |e| e.to_string())
            });
            tracing::warn!(src, why, "LOOKOUT_FAILED");
            vec![]
        }
    };
    let _ = tell.send(FoundFiles::Last(files)).await;
    Ok(())
}
