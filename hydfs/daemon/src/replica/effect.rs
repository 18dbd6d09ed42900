//! What goes into the state machine and what comes out.

use super::request::{Answer, Refused, Request};
use crate::store;
use crate::wire::peer::Message;
use hydfs::content::{FileName, Segment, SegmentId};
use hydfs::ring::RangeIx;
use hydfs::view::NodeIx;

/// What happens to a node.
#[derive(Debug, Clone)]
pub enum Input {
    Peer {
        from: NodeIx,
        message: Message,
    },
    /// `id` comes back in the [`Effect::Reply`]; each request gets one reply. Requests of one connection are carried out in order.
    Client {
        conn: u64,
        id: u64,
        request: Request,
    },
    /// No replies to this connection any more.
    ClientGone {
        conn: u64,
    },
    /// memberd, a refused or silent connection: the incarnation known of this node is called failed.
    Suspect {
        node: NodeIx,
    },
    /// Messages can be sent to the node (again): whatever it has not answered is sent again.
    PeerUp {
        node: NodeIx,
    },
    PeerDown {
        node: NodeIx,
    },
    /// The store's `put_segment` said `Done` (or `Refused`: then the segment may not be wanted any more).
    Repaired {
        range: RangeIx,
        file: FileName,
        segment: Segment,
    },
    /// None of those named had it. It is tried again later.
    RepairFailed {
        range: RangeIx,
        file: FileName,
        segment: Segment,
    },
    /// Has this node's disk so little room that users are to make no new files?
    Short(bool),
    /// A read found this segment damaged, here.
    Damaged {
        range: RangeIx,
        file: FileName,
        segment: SegmentId,
    },
    /// Every 50-200 ms.
    Tick,
}

/// What to do, in this order.
#[derive(Debug)]
pub enum Effect {
    /// Drop it if there is no connection; [`Input::PeerUp`] brings it again.
    Send { to: NodeIx, message: Message },
    Reply {
        conn: u64,
        id: u64,
        result: Result<Answer, Refused>,
    },
    /// Copy the segment's entries and bytes from one of these, in this order of promise, into `store_mut().put_segment`. A node that does not
    /// hold a segment of that `nonce`, `id`, length and digest whole says so, and the next is asked.
    Repair {
        range: RangeIx,
        file: FileName,
        nonce: u64,
        segment: Segment,
        from: Vec<NodeIx>,
    },
    /// For logs; the view is `replica.view()`.
    ViewChanged,
    /// A range that this node coordinates changed its state.
    RangeChanged { range: RangeIx, state: RangeState },
    /// The file may be read up to here; it may be read by tailing readers of this node.
    Committed {
        range: RangeIx,
        file: FileName,
        length: u64,
    },
    /// This node dropped its copies of a range's files: `files` of them. `surplus`: others have them. Otherwise a take-over decided that they are not
    /// (or no longer) part of the range: removed, or never acknowledged.
    Dropped {
        range: RangeIx,
        files: usize,
        surplus: bool,
    },
    /// The store failed: this node takes no part any more. Log and exit; a restart reads the disk again.
    Broken { error: store::Error },
}

/// How a range stands, as far as its coordinator knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RangeState {
    /// Asking, or waiting for a majority, or no source answers: why.
    Unavailable {
        why: String,
    },
    Installing,
    /// `repairing`: members that still miss bytes.
    Active {
        repairing: Vec<NodeIx>,
    },
}

/// Why bytes may not be read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// They are gone everywhere.
    Trimmed { base: u64 },
    /// Ask another node.
    NotHere,
}

/// What may be read of a file here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Of the file: another nonce, another file.
    pub nonce: u64,
    /// Everything before this is gone, as far as this node knows to be agreed.
    pub base: u64,
    /// Everything up to here is on all members, and stays until it is trimmed.
    pub length: u64,
    /// This node coordinates the active range or is a member of it; otherwise it is what it knew last, and there may be more elsewhere.
    pub current: bool,
}
