//! What a HyDFS call can end with.

use std::time::Duration;

use common::ids::{Epoch, NodeName};
use common::signals::Asked;

use crate::content::FileName;

/// Why a call failed. Each says whose fault it is; what a retry could cure has been retried already.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum Error {
    #[error("HyDFS has no file `{file}`")]
    NoSuchFile { file: String },
    /// The file that was read or written is gone.
    #[error("`{file}` was removed and made anew: what is in HyDFS under that name now is another file")]
    Replaced { file: String },
    #[error("HyDFS has a file `{file}` already; choose another name or remove it: hydfs rm {file}")]
    Exists { file: String },
    /// Another process has taken this client's stream over: stop, its successor is at work.
    #[error("this process was replaced: `{client}` now writes `{file}` under epoch {epoch}")]
    Fenced {
        file: String,
        client: String,
        epoch: Epoch,
    },
    #[error(
        "`{file}` is unavailable for {tried_for:?}: {why}; see which storage nodes are missing: hydfs list_mem_ids"
    )]
    Unavailable {
        file: String,
        why: String,
        tried_for: Duration,
    },
    #[error(
        "`{file}` cannot grow: the disk of storage node {node} is full; see what takes the room: hydfs df; make some: hydfs rm, hydfs trim, or \
         rainstormctl forget for jobs that have ended"
    )]
    Full { file: String, node: NodeName },
    /// It was asked for in vain: those bytes are gone everywhere.
    #[error("`{file}` was trimmed: it begins at byte {base}, and what was before is gone")]
    Trimmed { file: String, base: u64 },
    #[error("`{file}` cannot be trimmed to byte {base}: it ends at {len}")]
    BeyondEnd { file: String, base: u64, len: u64 },
    /// Jobs go on, and files that are there may grow.
    #[error(
        "`{file}` is not made: the disk of storage node {node} is used to {percent} % or more, and what is left is for files that are there and for \
         jobs; see what takes the room: hydfs df; make some: hydfs rm, hydfs trim, or rainstormctl forget for jobs that have ended"
    )]
    Short {
        file: String,
        node: NodeName,
        percent: u8,
    },
    #[error("`{file}` is damaged on every replica that holds bytes {offset}..: {why}")]
    Damaged { file: String, offset: u64, why: String },
    #[error("`{file}` is not a HyDFS name: {why}")]
    InvalidName { file: String, why: &'static str },
    #[error(
        "`{file}` is not for users to change: {what}; choose another name, or say --system if you know what depends on it"
    )]
    Reserved { file: String, what: &'static str },
    /// `what` became of it; empty where nothing was under way.
    #[error("stopped by {by}{}{what}", if .what.is_empty() { "" } else { ": " })]
    Stopped { by: Asked, what: String },
    #[error("cannot speak with storage node {node}: {why}")]
    Net { node: NodeName, why: String },
    /// Every storage node that could be reached closed the door.
    #[error(
        "storage node {node} does not accept the secret in {secret_file}: the cluster was started with another one; use that cluster's own cluster file and secret"
    )]
    Secret { node: NodeName, secret_file: String },
    /// Asked of one node in particular.
    #[error("storage node {node} has no copy of `{file}`{but}")]
    NotAReplica {
        file: String,
        node: NodeName,
        but: String,
    },
    #[error("the cluster file has no node `{node}`; it has {have}")]
    NoSuchNode { node: NodeName, have: String },
    /// `merge` could not make the replicas the same.
    #[error("the replicas of `{file}` are not the same after {tried_for:?}: {why}")]
    Unequal {
        file: String,
        why: String,
        tried_for: Duration,
    },
    /// `fsck` found something.
    #[error("{0}")]
    Unsound(String),
    /// Of a command that did several things.
    #[error("{0}")]
    Some(String),
    /// The caller asked for something that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// Reading or writing the caller's own local data failed.
    #[error("{what}: {why}")]
    Local { what: String, why: String },
}

impl Error {
    /// The exit code of a program that ends with this: 2 for bad usage, that of its signal when it was stopped, else 1.
    pub fn code(&self) -> u8 {
        match self {
            Self::InvalidName { .. } | Self::Reserved { .. } | Self::Usage(_) | Self::NoSuchNode { .. } => 2,
            Self::Stopped { by, .. } => by.code(),
            _ => 1,
        }
    }
}

/// The longest name, in bytes.
pub const MAX_NAME: usize = FileName::MAX;

/// Is this a name that a HyDFS file can have? Names look like paths but are only names: nothing is ever looked up in a
/// file system by them.
pub fn check_name(file: &str) -> Result<(), Error> {
    let invalid = |why| {
        Err(Error::InvalidName {
            file: file.chars().take(80).collect(),
            why,
        })
    };
    if file.is_empty() {
        return invalid("it is empty");
    }
    if file.len() > MAX_NAME {
        return invalid("it is longer than 512 bytes");
    }
    if file.chars().any(char::is_control) {
        return invalid("it holds a control character");
    }
    if file.starts_with('/') {
        return invalid("it starts with `/`; leave that out");
    }
    if file.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return invalid("it has an empty, `.` or `..` component");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in [
            "a",
            "a/b.txt",
            "jobs/j/s1t0.log",
            "ünïcode ok",
            &"x".repeat(MAX_NAME),
        ] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "/a",
            "a//b",
            "a/",
            "../a",
            "a/./b",
            "a\0b",
            "a\nb",
            "..",
            &"x".repeat(MAX_NAME + 1),
        ] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
