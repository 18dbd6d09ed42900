//! Why a run ended without success.

use common::output;
use common::signals::Asked;

use crate::cli;

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
    #[error("job {job} was taken up by {by}, this one has stopped: {why}")]
    Replaced {
        job: common::ids::JobName,
        /// Which leader has it.
        by: String,
        why: String,
    },
    #[error(
        "job {job} is done, but its output could not be printed in full: {why}; read it with: hydfs cat {dest}"
    )]
    Console {
        job: common::ids::JobName,
        dest: String,
        why: String,
    },
}
