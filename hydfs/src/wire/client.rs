//! What clients and storage nodes say to each other (role [`common::net::Role::HydfsClient`]).
//!
//! ```text
//! client                                   storage node
//!   Call(id, request)     ------------------>
//!                         <------------------ Reply(id, reply) or Data(id, offset, end, bytes)
//!   Attach(session, ..)   ------------------>      no answer
//!   Append(session, offset, bytes) --------->      many under way
//!                         <------------------ Acked(session, length)     cumulative
//!                         <------------------ Dropped(session, refusal)  nothing of this session is heard any more
//!   Detach(session)       ------------------>
//! ```
//! Calls are answered in any order. Frames with a payload are arrays that end with it, so that it need not be copied
//! behind its head; all else has named fields.

use bytes::Bytes;
use common::ids::{Creation, Epoch, NodeName};
use common::net::Error;
use serde::{Deserialize, Serialize};

use crate::content::{ClientId, EntryMeta, Segment, SegmentId, Span};
use crate::ring::RangeIx;
use crate::view::NodeIx;

/// The most bytes of a file in one answer.
pub const MAX_READ: usize = 1024 * 1024;
/// The most entries in one answer that lists something.
pub const MAX_LIST: usize = 10_000;

#[derive(Debug, Serialize, Deserialize)]
pub enum ToNode<'a> {
    #[serde(rename = "c")]
    Call(u64, Request),
    #[serde(rename = "o")]
    Attach(u32, Attach),
    #[serde(rename = "d")]
    Detach(u32),
    /// Session, offset in the client's own stream, bytes.
    #[serde(rename = "a")]
    Append(u32, u64, #[serde(borrow)] &'a serde_bytes::Bytes),
}

#[derive(Debug, Serialize, Deserialize)]
pub enum ToClient<'a> {
    #[serde(rename = "r")]
    Reply(u64, Reply),
    /// Answers [`Request::Read`] and [`Request::Tail`]: the call, where the bytes begin, the file's committed length, bytes.
    #[serde(rename = "b")]
    Data(u64, u64, u64, #[serde(borrow)] &'a serde_bytes::Bytes),
    /// Answers [`Request::Fetch`]: the call, the next entries, their payloads one behind the other.
    #[serde(rename = "e")]
    Entries(u64, Vec<EntryMeta>, #[serde(borrow)] &'a serde_bytes::Bytes),
    /// Everything of the session's stream below this length is on all replicas.
    #[serde(rename = "k")]
    Acked(u32, u64),
    #[serde(rename = "x")]
    Dropped(u32, Refusal),
}

/// Whose stream a session appends to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    pub file: String,
    pub client: String,
    pub epoch: Epoch,
    pub nonce: u64,
}

/// The process that has a client's stream open: see [`Request::Fence`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    pub client: String,
    pub epoch: Epoch,
    pub nonce: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    // `of`: only the file that this number created. Without it, whichever has the name now.
    /// A repeat with the same nonce is answered like the first.
    Create { file: String, nonce: u64 },
    /// The file that `nonce` created, as [`FileStat::nonce`] says; another one of that name is not touched.
    Remove { file: String, nonce: u64 },
    /// Bytes below `base` go. `by`: only while that process has the stream open.
    Trim {
        file: String,
        of: Option<Creation>,
        base: u64,
        by: Option<Writer>,
    },
    /// `any`: asked of a replica, whoever coordinates; it says what it knows.
    Stat { file: String, any: bool },
    /// Files of a range whose names begin with `prefix` and lie behind `after`, by name.
    Find {
        range: RangeIx,
        prefix: String,
        after: String,
    },
    /// Append boundaries, from the `from`th.
    Index {
        file: String,
        #[serde(default)]
        of: Option<Creation>,
        from: u64,
    },
    /// Who appended what: the clients' streams behind `after`, by id.
    Streams {
        file: String,
        #[serde(default)]
        of: Option<Creation>,
        after: Option<ClientId>,
    },
    Read {
        file: String,
        #[serde(default)]
        of: Option<Creation>,
        offset: u64,
        len: u32,
        any: bool,
    },
    /// Answered when committed bytes lie behind `offset`, or after `wait_ms`.
    Tail {
        file: String,
        #[serde(default)]
        of: Option<Creation>,
        offset: u64,
        max: u32,
        wait_ms: u32,
    },
    Fence {
        file: String,
        #[serde(default)]
        of: Option<Creation>,
        client: String,
        epoch: Epoch,
        nonce: u64,
    },
    /// Who coordinates the range, as far as this node knows.
    Locate { range: RangeIx },
    /// The ring as this node knows it.
    Ring,
    /// The files that this node holds, behind `after`, by name.
    ListStore { after: String },
    /// How this node stands: its disk, what is on it, what it does.
    NodeStatus,
    /// Who holds a range, and how it stands as this node sees it.
    RangeState { range: RangeIx },
    /// What this node's own copies are of a range's files whose names begin with `prefix` and lie behind `after`, by name;
    /// `exact`: only of the file named `prefix`.
    Copies {
        range: RangeIx,
        prefix: String,
        after: String,
        exact: bool,
    },
    /// What the first `entries` entries of this node's copy of a segment come to.
    Prefix {
        file: String,
        nonce: u64,
        segment: SegmentId,
        entries: u64,
    },
    /// Reads entries of this node's copy of a segment from the `at`th on against their checksums, some MiB at a time.
    Verify {
        file: String,
        nonce: u64,
        segment: SegmentId,
        at: u64,
    },
    /// For repair, by another storage node: entries of a sealed segment from the `at`th on, answered by [`ToClient::Entries`].
    Fetch {
        file: String,
        nonce: u64,
        segment: Segment,
        at: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    Done,
    Stat(FileStat),
    /// Name, bytes, and which file of that name it is.
    Files {
        files: Vec<(String, u64, Creation)>,
        more: bool,
    },
    /// Offset and newlines before it.
    Marks {
        marks: Vec<(u64, u64)>,
        more: bool,
    },
    Streams {
        /// Bytes before this are gone, and what spans there were of them.
        base: u64,
        /// Committed bytes of the file.
        len: u64,
        /// The coordinator has no copy of some segments: spans of what is in them are left out.
        missing: bool,
        streams: Vec<StreamInfo>,
        more: bool,
    },
    Fenced {
        length: u64,
        /// Of the file.
        base: u64,
    },
    Trimmed {
        base: u64,
    },
    Coordinator {
        node: Option<NodeIx>,
    },
    Ring {
        nodes: Vec<NodeInfo>,
    },
    Range {
        coordinator: Option<NodeIx>,
        members: Vec<NodeIx>,
        /// Members that miss bytes; only the coordinator knows.
        repairing: Vec<NodeIx>,
        /// Why it cannot be written now; only the coordinator knows.
        unavailable: Option<String>,
    },
    NodeStatus(Box<NodeStatus>),
    Copies {
        copies: Vec<CopyInfo>,
        more: bool,
    },
    Prefix {
        bytes: u64,
        digest: u64,
    },
    /// Everything before the `next`th entry is as it was written.
    Verified {
        next: u64,
    },
    Refused(Refusal),
}

/// How a storage node stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NodeStatus {
    pub disk: Disk,
    pub stored: Stored,
    pub work: Work,
}

/// The disk of a node's data folder. Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Disk {
    pub capacity: u64,
    pub used: u64,
    /// For whom hydfsd runs as.
    pub free: u64,
    pub level: Level,
}

impl Disk {
    /// Of what can be used, in percent, rounded up: as df(1) says it.
    pub fn percent(&self) -> u8 {
        let all = u128::from(self.used) + u128::from(self.free);
        match all {
            0 => 0,
            all => (u128::from(self.used) * 100).div_ceil(all) as u8,
        }
    }
}

/// What is made of how much a disk is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    #[default]
    Roomy,
    /// From `warn_percent` on.
    Fills,
    /// From `refuse_percent` on: there are no new files for users.
    Short,
}

/// What a node holds, in bytes of its own copies; the last two are beside HyDFS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stored {
    /// Their number.
    pub files: u64,
    pub users: u64,
    /// Of jobs' tasks.
    pub logs: u64,
    pub snapshots: u64,
    pub journals: u64,
    /// Those that were shipped.
    pub operators: u64,
    /// The node's own copies, to run.
    pub operator_copies: u64,
    pub program_logs: u64,
}

/// What a node does. The counters begin with its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Work {
    pub appends: u64,
    pub append_bytes: u64,
    /// Segments of its own copies that are being fetched from others, or wait for one who has them.
    pub missing_segments: u64,
    pub repaired_segments: u64,
    pub repaired_bytes: u64,
    /// Of the ranges that it coordinates.
    pub ranges: u64,
    pub under_replicated_ranges: u64,
    pub unavailable_ranges: u64,
    /// Entries that not all replicas have yet.
    pub backlog_bytes: u64,
    pub clients: u64,
    pub resident_bytes: u64,
    pub uptime_s: u64,
}

/// One node's copy of a file, whatever the others have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyInfo {
    pub file: String,
    pub nonce: u64,
    /// What this node knows to be on all replicas.
    pub committed: u64,
    /// Segments up to this one were dropped here.
    pub dropped: Option<SegmentId>,
    pub segments: Vec<SegmentInfo>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentInfo {
    /// Without its index.
    pub segment: Segment,
    /// So many entries were read back and found right since the node started.
    pub verified: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStat {
    /// Of the one who created it: a name that is removed and made again is another file.
    pub nonce: u64,
    /// Bytes before this are gone.
    pub base: u64,
    pub len: u64,
    /// In all that there ever was.
    pub newlines: u64,
    pub coordinator: Option<NodeIx>,
    pub replicas: Vec<NodeIx>,
    pub under_replicated: bool,
}

/// One client's stream in a file, as the coordinator has it: appends under way included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamInfo {
    pub client: ClientId,
    /// The newest fence.
    pub epoch: Epoch,
    pub length: u64,
    /// Which epochs appended it, in the file's order; one process's appends that follow on are one span.
    pub spans: Vec<Span>,
}

/// Why not, and so what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// Ask that node.
    NotCoordinator {
        coordinator: Option<NodeIx>,
    },
    /// Ask again soon: a take-over, or this one was dropped by a change of view.
    Again,
    NoSuchFile,
    /// That file is gone, and another one has its name.
    Replaced,
    Exists,
    Fenced {
        epoch: Epoch,
    },
    /// Bytes before `base` are gone.
    Trimmed {
        base: u64,
    },
    /// Only committed bytes may be trimmed, and they end there.
    BeyondEnd {
        len: u64,
    },
    /// The stream is shorter than the append's offset.
    Gap {
        length: u64,
    },
    Unavailable {
        why: String,
    },
    Full {
        node: NodeIx,
    },
    /// That node's disk has so little room that users make no new files.
    Short {
        node: NodeIx,
    },
    /// This copy is damaged from that byte on.
    Damaged {
        offset: u64,
        why: String,
    },
    /// This node has no copy of those bytes.
    NotHere,
    InvalidName {
        why: String,
    },
    /// The request makes no sense: a bug of the client.
    Invalid {
        why: String,
    },
}

/// A storage node as another sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    pub name: NodeName,
    /// Its place on the ring.
    pub token: u64,
    pub state: NodeState,
    /// Wall-clock milliseconds at its start, about.
    pub incarnation: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    Alive,
    Failed,
    /// Has never been seen.
    Unknown,
}

impl std::fmt::Display for NodeState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            NodeState::Alive => "alive",
            NodeState::Failed => "failed",
            NodeState::Unknown => "unknown",
        })
    }
}

/// A frame as its head and, for long ones, the payload that ends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub head: Vec<u8>,
    pub payload: Bytes,
}

impl Frame {
    pub fn len(&self) -> usize {
        self.head.len() + self.payload.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn to_node(message: &ToNode<'_>) -> Result<Self, Error> {
        Ok(Self {
            head: common::net::frame::encode(message)?,
            payload: Bytes::new(),
        })
    }

    pub fn to_client(message: &ToClient<'_>) -> Result<Self, Error> {
        Ok(Self {
            head: common::net::frame::encode(message)?,
            payload: Bytes::new(),
        })
    }

    pub fn append(session: u32, offset: u64, payload: Bytes) -> Result<Self, Error> {
        ending_with(
            &ToNode::Append(session, offset, serde_bytes::Bytes::new(&[])),
            payload,
        )
    }

    pub fn data(call: u64, offset: u64, end: u64, payload: Bytes) -> Result<Self, Error> {
        ending_with(
            &ToClient::Data(call, offset, end, serde_bytes::Bytes::new(&[])),
            payload,
        )
    }

    pub fn entries(call: u64, entries: Vec<EntryMeta>, payload: Bytes) -> Result<Self, Error> {
        ending_with(
            &ToClient::Entries(call, entries, serde_bytes::Bytes::new(&[])),
            payload,
        )
    }
}

/// A message that ends with an empty `bin` gets `payload` in its place.
pub fn ending_with(message: &impl Serialize, payload: Bytes) -> Result<Frame, Error> {
    const BIN32: u8 = 0xc6;
    let mut head = common::net::frame::encode(message)?;
    debug_assert!(head.ends_with(&[0xc4, 0]), "the last field is an empty bin");
    head.truncate(head.len() - 2);
    head.push(BIN32);
    head.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    Ok(Frame { head, payload })
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::net::frame::decode;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn payloads_round_trip_without_a_copy(session: u32, offset: u64, payload: Vec<u8>) {
            let frame = Frame::append(session, offset, payload.clone().into()).unwrap();
            let whole: Bytes = [frame.head, frame.payload.to_vec()].concat().into();
            let ToNode::Append(s, o, p) = decode(&whole).unwrap() else { panic!("not an append") };
            prop_assert_eq!((s, o, &p[..]), (session, offset, &payload[..]));
            prop_assert_eq!(whole.slice_ref(p), payload);
        }

        #[test]
        fn garbage_is_refused(bytes: Vec<u8>) {
            let _ = decode::<ToNode>(&bytes);
            let _ = decode::<ToClient>(&bytes);
        }
    }

    #[test]
    fn calls_and_refusals_round_trip() {
        let call = Request::Tail {
            file: "f".into(),
            of: Some(Creation(4)),
            offset: 1,
            max: 2,
            wait_ms: 3,
        };
        let bytes = Frame::to_node(&ToNode::Call(7, call.clone())).unwrap().head;
        assert!(matches!(decode(&bytes).unwrap(), ToNode::Call(7, c) if c == call));
        for refusal in [
            Refusal::NotCoordinator {
                coordinator: Some(NodeIx(3)),
            },
            Refusal::Again,
            Refusal::Damaged {
                offset: 5,
                why: "checksum".into(),
            },
        ] {
            let bytes = Frame::to_client(&ToClient::Dropped(9, refusal.clone()))
                .unwrap()
                .head;
            assert!(matches!(decode(&bytes).unwrap(), ToClient::Dropped(9, r) if r == refusal));
        }
    }
}
