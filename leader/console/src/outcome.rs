//! What a word comes to, or why it was not carried out.

use api::find::Missing;
use api::submit::SubmitError;
use common::ids::{NodeName, TaskId};
use common::output;
use common::signals::Asked;
use job::{forget, journal};
use launcher::host;
use serde::Serialize;

use crate::grep::args;

/// Of `verify`: neither proved nor refuted.
pub const UNCHECKED: u8 = 2;
/// Of `grep`: a machine failed, or the search is no search.
pub const FAILED: u8 = 2;

/// Why a word was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Cluster(#[from] common::cluster::Error),
    #[error(transparent)]
    Missing(#[from] Missing),
    #[error("`{0}` is no word for people")]
    NotHere(&'static str),
    #[error(transparent)]
    Grep(#[from] args::Error),
    #[error("cannot make a folder for SSH's sockets: {source}")]
    Sockets { source: std::io::Error },
    #[error("node {node}: {why}")]
    Kill { node: String, why: String },
    #[error(transparent)]
    Member(#[from] memberd::client::Error),
    #[error("`{text}` is not KEY=VALUE; for example: rainstormctl set suspicion_time=750ms")]
    Pair { text: String },
    #[error("membership has no setting `{key}`; there are {}", memberd::state::settings::KEYS.join(", "))]
    Setting { key: String },
    #[error(transparent)]
    Host(#[from] host::Error),
    #[error("cannot write JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Output(#[from] output::Unwritable),
    #[error("cannot listen to signals: {0}")]
    Signals(std::io::Error),
    #[error("cannot serve the node's console: {0}")]
    Serve(std::io::Error),
    #[error(transparent)]
    Log(#[from] common::telemetry::Error),
    #[error("top shows itself in a terminal; --once prints what it would show")]
    NoTerminal,
    #[error("the terminal: {0}")]
    Terminal(std::io::Error),
    #[error("stopped by {0}")]
    Stopped(Asked),
    #[error("HyDFS: {0}")]
    Store(#[from] hydfs::client::Error),
    #[error("HyDFS has no journal of a job `{job}`{have}")]
    UnknownJob { job: String, have: String },
    #[error(
        "job {job} runs (its leader is on node {node}); only jobs that have ended can be forgotten: end it first, with Ctrl-C at its leader"
    )]
    Runs { job: String, node: NodeName },
    #[error(
        "job {job} is kept: {how} (leader --resume {job}); with --force what it keeps goes all the same: then it can be neither taken up nor \
         verified; its output stays, as far as it came"
    )]
    CanBeTakenUp { job: String, how: &'static str },
    #[error("job {job} is not, or not wholly, forgotten: {error}; say it again")]
    NotForgotten { job: String, error: forget::Error },
    #[error("{name}: {error}")]
    Journal { name: String, error: journal::OpenError },
    #[error("the journal of job {job} holds no plan: the job never started")]
    NoPlan { job: String },
    #[error("cannot find out where the programs are: {0}")]
    Programs(std::io::Error),
    #[error(transparent)]
    Submit(#[from] SubmitError),
    #[error(transparent)]
    JobOutput(#[from] api::output::Error),
    #[error("{task} of job {job} has no log: {why}")]
    NoLog { job: String, task: TaskId, why: String },
    /// Neither proved nor refuted.
    #[error("not verified: {0}")]
    Unverified(#[source] Box<Error>),
}

impl Error {
    pub fn unverified(self) -> Self {
        Self::Unverified(Box::new(self))
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Unverified(_) => UNCHECKED,
            Self::Grep(_) => FAILED,
            Self::Submit(SubmitError::Refused { code, .. }) => *code,
            Self::Store(error) => error.code(),
            Self::Stopped(asked) => asked.code(),
            _ => 1,
        }
    }
}

/// What a word came to.
#[derive(Debug, Default)]
pub struct Done {
    /// For standard output, without the last newline.
    pub text: String,
    /// The exit code.
    pub code: u8,
    /// For standard error.
    pub complaint: Option<String>,
}

impl From<String> for Done {
    fn from(text: String) -> Self {
        Self {
            text,
            ..Self::default()
        }
    }
}

/// JSON for scripts, or else a table for people.
pub fn json_or<T: Serialize>(
    json: bool,
    rows: impl FnOnce() -> T,
    table: impl FnOnce() -> String,
) -> Result<String, Error> {
    Ok(match json {
        true => serde_json::to_string_pretty(&rows())?,
        false => table(),
    })
}
