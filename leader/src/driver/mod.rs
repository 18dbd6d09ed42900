//! Carries out a job: everything that touches the world around [`job::machine`].
//!
//! ```text
//!   prepare/     checks against HyDFS and memberd, plan or journal, connections ahead of need
//!   control.rs   accepts workers and consoles
//!   run.rs       the loop: inputs to the state machine, its effects to the world
//!   follow.rs    looks out for new files
//!   finish.rs    the end: workers go, the rest is printed, figures are written
//!   report.rs    events to the log, rows for the console
//!   standbys.rs  the leaders that wait for this one's end
//!   watched.rs   snapshots for the page
//! ```

mod control;
mod error;
mod finish;
mod follow;
mod prepare;
mod printing;
mod report;
mod run;
mod standbys;
mod watched;

use common::output;
use common::signals::{Signals, Stopper};

use crate::cli::Request;
use crate::detach;
pub use error::Error;

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
            if ready.base.request.detach.is_some() {
                detach::under_way(&ready.job.plan().job).map_err(|source| Error::Io {
                    what: "cannot let go of the terminal".into(),
                    source,
                })?;
            }
            run::run(*ready, signals).await
        }
        prepare::Outcome::DryRun(text) => Ok(output::print(&text)?),
        prepare::Outcome::NotNeeded => Ok(()),
        prepare::Outcome::HandedOver(job) => Ok(output::print(&format!("{job}\n"))?),
    }
}
