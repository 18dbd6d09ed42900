//! What clients ask of a range's coordinator, and what it answers.

use std::collections::BTreeMap;

use bytes::Bytes;
use common::ids::Epoch;
use serde::{Deserialize, Serialize};

use hydfs::content::{ClientId, FileName, Segment, Stream};
use hydfs::ring::RangeIx;
use hydfs::view::NodeIx;

/// Every request may be repeated, through any node, when its answer did not come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Fails with `Exists` unless the same nonce created it.
    Create { file: FileName, nonce: u64 },
    /// Opens `client`'s stream for a process; `nonce` names the process. With `create` a file that is not there is created, with that nonce.
    Fence {
        file: FileName,
        /// The nonce of the file that is meant; `None`: whichever has the name.
        of: Option<u64>,
        client: ClientId,
        epoch: Epoch,
        nonce: u64,
        create: bool,
    },
    /// `offset` counts the client's own bytes in this file; `epoch` and `nonce` are those of its fence.
    Append {
        file: FileName,
        client: ClientId,
        epoch: Epoch,
        nonce: u64,
        offset: u64,
        #[serde(skip)]
        payload: Bytes,
    },
    /// Only the file that `nonce` created: a retry must not remove another one of that name.
    Remove { file: FileName, nonce: u64 },
    /// Bytes below `base` go, for good. Those must be committed.
    Trim {
        file: FileName,
        /// As in `Fence`.
        of: Option<u64>,
        base: u64,
        /// Only while this process has the client's stream open.
        by: Option<Writer>,
    },
    /// Answered from what all replicas have; sees everything acknowledged before it was asked.
    Stat {
        file: FileName,
        /// As in `Fence`.
        of: Option<u64>,
    },
    /// As `Stat`, of the range's files whose names start with `prefix` and lie behind `after`: the first `limit` by name. Each range's coordinator is
    /// to be asked.
    Find {
        range: RangeIx,
        prefix: String,
        after: String,
        limit: usize,
    },
}

/// The process that has a client's stream open: see `Fence`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    pub client: ClientId,
    pub epoch: Epoch,
    pub nonce: u64,
}

impl Request {
    /// Is it to be taken while a disk is full?
    pub fn makes_room(&self) -> bool {
        matches!(self, Request::Trim { .. })
    }

    pub fn file(&self) -> Option<&FileName> {
        match self {
            Request::Create { file, .. }
            | Request::Fence { file, .. }
            | Request::Append { file, .. }
            | Request::Remove { file, .. }
            | Request::Trim { file, .. }
            | Request::Stat { file, .. } => Some(file),
            Request::Find { .. } => None,
        }
    }
}

/// Done, on all replicas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    Created,
    /// The length of the client's stream: where its next append starts. And the file's base.
    Fenced {
        length: u64,
        base: u64,
    },
    /// The length of the client's stream that is now acknowledged, at least.
    Appended {
        length: u64,
    },
    Removed,
    /// The file's base now, which may be higher than was asked for.
    Trimmed {
        base: u64,
    },
    Stat(FileInfo),
    Found(Vec<FileInfo>),
}

/// A file as all replicas have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    pub name: FileName,
    pub nonce: u64,
    /// Bytes before this are gone.
    pub base: u64,
    /// Bytes that may be read end here.
    pub length: u64,
    /// Newlines in all of the file, those not yet acknowledged included.
    pub newlines: u64,
    /// The replicas, the coordinator first.
    pub replicas: Vec<NodeIx>,
    /// Without indexes; may hold more than `length`. Empty in answers to `Find`.
    pub segments: Vec<Segment>,
    /// Empty in answers to `Find`.
    pub streams: BTreeMap<ClientId, Stream>,
}

/// Why not; and so, what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refused {
    /// Ask that one (or anybody, when this node does not know).
    #[error("this node does not coordinate the file's range")]
    NotCoordinator { coordinator: Option<NodeIx> },
    /// Try again in a moment.
    #[error("the file's range is not available: {why}")]
    Unavailable { why: String },
    #[error("no such file")]
    NoSuchFile,
    /// The file that is meant is gone; another one has its name.
    #[error("another file has that name")]
    Replaced,
    #[error("the file exists")]
    Exists,
    /// Another process of this client has taken over, with this epoch: stop.
    #[error("fenced off: epoch {epoch} of this client is open")]
    FencedOff { epoch: Epoch },
    /// Fence first.
    #[error("this epoch of the client was not opened by a fence")]
    NotFenced,
    /// The stream has only this length: send from there.
    #[error("bytes before this append are missing: the stream has {have}")]
    Gap { have: u64 },
    /// Only what is committed may be trimmed, which ends there.
    #[error("the file ends at {length}: there is nothing to trim behind that")]
    BeyondEnd { length: u64 },
    /// Other bytes were acknowledged (or are on their way) at this place: a bug of the client. Found out only by chance.
    #[error("other bytes are at this place of the stream")]
    Conflict,
    /// Nothing is acknowledged while this node's disk is full. Try again later.
    #[error("the disk of a replica is full")]
    Full { node: NodeIx },
    /// Only of new files, and only of users'.
    #[error("the disk of a replica has little room left")]
    Short { node: NodeIx },
    #[error("an append of {len} bytes is over the limit of {most}")]
    TooLong { len: u64, most: u64 },
}
