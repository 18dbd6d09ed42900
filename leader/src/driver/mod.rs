//! Carries out a job: everything that touches the world around [`job::machine`].
//!
//! ```text
//!   prepare/     checks against HyDFS and memberd, plan or journal, connections ahead of need
//!   control.rs   accepts workers and consoles
//!   run.rs       the loop: inputs to the state machine, its effects to the world
//!   follow.rs    looks out for new files
//!   finish.rs    the end: workers go, the rest is printed, figures are written
//!   report.rs    events to the log, rows for the console
//!   watched.rs   snapshots for the page
//! ```

mod control;
mod finish;
mod follow;
mod prepare;
mod printing;
mod report;
mod run;
mod watched;

use common::output;
use common::signals::{Asked, Signals, Stopper};

use crate::cli::{self, Request};

/// Why a run ended without success.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Exit code 2.
    #[error(transparent)]
    Usage(#[from] cli::Error),
    #[error(transparent)]
    Cluster(#[from] common::cluster::Error),
    #[error(transparent)]
    Log(#[from] common::telemetry::Error),
    #[error("HyDFS: {0}; is the cluster up? (`demo/cluster.sh status`, hydfsd.log on the nodes)")]
    Storage(#[from] hydfs::client::Error),
    #[error("{0}")]
    Unreachable(#[from] launcher::remote::Unreachable),
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("{0}")]
    Cannot(String),
    #[error(transparent)]
    Output(#[from] output::Unwritable),
    #[error("stopped by {0} before any worker was started")]
    Stopped(Asked),
    /// It is done, and a file that was asked for is not there.
    #[error("job {job} is done, but {why}")]
    Unkept { job: common::ids::JobName, why: String },
    /// The job ran and failed.
    #[error("job {job} failed: {why}")]
    Job { job: common::ids::JobName, why: String },
    /// This leader was taken for gone, or was told to go.
    #[error("job {job} was taken up by another leader, this one has stopped: {why}")]
    Replaced { job: common::ids::JobName, why: String },
    #[error(
        "job {job} is done, but its output could not be printed in full: {why}; read it with: hydfs cat {dest}"
    )]
    Console {
        job: common::ids::JobName,
        dest: String,
        why: String,
    },
}

/// Runs the job from start to end. `started_us`: when the program started, wall clock.
pub async fn run(request: Request, started_us: u64) -> Result<(), Error> {
    let mut signals = Signals::new().map_err(|source| Error::Io {
        what: "cannot listen for signals".into(),
        source,
    })?;
    let (stopper, stop) = Stopper::new();
    let prepared = {
        let mut preparing = std::pin::pin!(prepare::prepare(request, started_us, &stop));
        tokio::select! {
            prepared = &mut preparing => prepared?,
            asked = signals.next() => {
                stopper.ask(asked);
                // What was made is removed, unless that takes too long for somebody.
                tokio::select! {
                    prepared = preparing => prepared?,
                    asked = signals.next() => return Err(Error::Stopped(asked)),
                }
            }
        }
    };
    match prepared {
        prepare::Outcome::Ready(ready) => {
            // It came too late to be minded there.
            if let Some(asked) = stop.was_asked() {
                signals.put_back(asked);
            }
            run::run(*ready, signals).await
        }
        prepare::Outcome::DryRun(text) => Ok(output::print(&text)?),
    }
}
