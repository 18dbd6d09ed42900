//! How a process ended.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use serde::{Deserialize, Serialize};

/// As who started the process saw its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    Code(i32),
    /// By a signal.
    Killed,
    /// The launcher lost sight of it: it may live or not.
    Unknown(String),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exited with code {code}"),
            Exit::Killed => f.write_str("was killed"),
            Exit::Unknown(why) => write!(f, "was lost sight of: {why}"),
        }
    }
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Exit::Code(code),
            (None, Some(_)) => Exit::Killed,
            (None, None) => Exit::Unknown(format!("{status}")),
        }
    }
}
