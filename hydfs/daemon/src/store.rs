//! What the replica needs from its disk. The state machine calls it synchronously.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use hydfs::content::{EntryMeta, File, FileName, SegmentId};
use hydfs::ring::RangeIx;
use hydfs::view::{Incarnation, NodeIx, View};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing was changed. Goes away when there is room.
    #[error("the disk is full")]
    Full,
    /// The bytes are there and are not what was written. The caller marks the segment and it is repaired.
    #[error("{file}: segment {segment} is damaged at byte {offset}")]
    Damaged {
        file: FileName,
        segment: SegmentId,
        offset: u64,
    },
    /// This node does not hold these bytes (yet).
    #[error("{file}: segment {segment} is not here")]
    Missing { file: FileName, segment: SegmentId },
    #[error("{file}: no such file")]
    NoSuchFile { file: FileName },
    /// Anything else: the node can't go on; it stops, and comes back by a restart.
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
}

/// What a node remembers about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// The incarnation that this disk was first used under. Older memories are gone.
    pub born: Incarnation,
    /// The incarnation from which on nothing that was written is gone. What this disk has of sets from before is good, but may lack the newest
    /// entries, creations and removals.
    #[serde(default)]
    pub whole: Incarnation,
    /// The newest incarnation that was ever used: never use it, or a lower one, again.
    pub incarnation: Incarnation,
    /// Everything it knew: views must not shrink by a restart, or two majorities could act on views neither of which contains the other.
    pub view: View,
}

impl NodeFacts {
    pub fn memory(&self) -> Memory {
        Memory {
            born: self.born,
            whole: self.whole,
        }
    }
}

/// How far back a disk goes: see [`NodeFacts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    pub born: Incarnation,
    pub whole: Incarnation,
}

impl Memory {
    /// Is nothing gone of what this disk, `node`'s, was given as a member of `set`?
    pub fn is_whole(self, node: NodeIx, set: &View) -> bool {
        self.whole <= set.incarnation(node)
    }
}

/// What a node remembers about a range. A *set* is named by the view that it belongs to; its members are what the ring says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RangeFacts {
    /// The newest set that this node installed as a member.
    pub installed: Option<View>,
    /// Sets that it was asked for, oldest first.
    pub asked: Vec<View>,
    /// The newest set that it knows to have become active.
    pub active: Option<View>,
}

/// What came of a piece given to [`Store::put_segment`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// Give the next piece.
    More,
    /// The segment was verified, is on disk and is no longer missing.
    Done,
    /// The segment is not (or no longer) missing here, or the pieces don't add up to it; the pieces are thrown away.
    Refused,
}

/// A disk. Metadata of all files is in memory; reads of it are cheap. Every call that changes something has written it when it returns (survives
/// a killed process); what a node remembers about itself and its ranges is durable when it returns; for durability `fsync`, `append`, `create` and
/// `remove` are durable after the next [`Store::sync`], too. A call that fails has changed nothing, except with [`Error::Io`].
pub trait Store {
    /// `None`: a fresh disk.
    fn node(&self) -> Option<&NodeFacts>;
    fn set_node(&mut self, facts: NodeFacts) -> Result<(), Error>;
    /// May what was written last, before this start, be gone, as after a power failure? Until the next [`Store::set_node`].
    fn lost_newest(&self) -> bool;

    /// Defaults for a range never heard of.
    fn range(&self, range: RangeIx) -> RangeFacts;
    /// Replaces what is remembered about these ranges.
    fn set_ranges(&mut self, facts: Vec<(RangeIx, RangeFacts)>) -> Result<(), Error>;

    fn file(&self, range: RangeIx, name: &FileName) -> Option<&File>;
    /// All files of a range, in order of names.
    fn files(&self, range: RangeIx) -> Box<dyn Iterator<Item = (&FileName, &File)> + '_>;

    /// A new file, empty. Replaces one of that name.
    fn create(&mut self, range: RangeIx, name: &FileName, nonce: u64) -> Result<(), Error>;
    /// No such file: nothing to do.
    fn remove(&mut self, range: RangeIx, name: &FileName) -> Result<(), Error>;
    /// Adds an entry to a file's segment, opening that (and sealing the one before) if it is new; see [`File::apply`]. `payload` is
    /// `entry.len` bytes. [`Error::Full`] must come from here, not from `sync`; [`Error::Missing`]: the segment is damaged here.
    fn append(
        &mut self,
        range: RangeIx,
        name: &FileName,
        segment: SegmentId,
        entry: EntryMeta,
        payload: &Bytes,
    ) -> Result<(), Error>;
    /// Bytes below `base` are gone: see [`File::trim`]. The segments that this drops cost no room any more. Takes none itself worth speaking of.
    fn trim(&mut self, range: RangeIx, name: &FileName, base: u64, next: SegmentId) -> Result<(), Error>;
    /// Makes everything written so far as durable as the setting says. Nothing is acknowledged before.
    fn sync(&mut self) -> Result<(), Error>;

    /// Makes the range what a take-over decided: exactly these files, each as [`File::install`] says, then `installed = set` (the other facts stay).
    /// A crash in between leaves some files as they were and the set not installed. One metadata pass; thousands of files that don't change must cost
    /// next to nothing. Returns how many files were dropped.
    fn install(&mut self, range: RangeIx, set: &View, files: &[(FileName, File)]) -> Result<usize, Error>;
    /// Forgets the range's files and `installed` (the other facts stay).
    fn drop_range(&mut self, range: RangeIx) -> Result<(), Error>;

    /// Repair: the next run of entries of a missing sealed segment, with their payloads one behind the other. `at` is how many entries were given
    /// before; 0 starts over. With the last entry, everything is verified against the segment's digest and each entry's checksum.
    fn put_segment(
        &mut self,
        range: RangeIx,
        name: &FileName,
        segment: SegmentId,
        at: u64,
        entries: &[EntryMeta],
        payload: &Bytes,
    ) -> Result<Put, Error>;
    /// What is here of this segment is not what was written: from now on it is missing.
    fn set_missing(&mut self, range: RangeIx, name: &FileName, segment: SegmentId) -> Result<(), Error>;

    /// Bytes of a segment, verified against the entries' checksums as far as whole entries are read (a store may read
    /// more to verify). Fewer only at the segment's end.
    fn read(
        &self,
        range: RangeIx,
        name: &FileName,
        segment: SegmentId,
        offset: u64,
        len: u64,
    ) -> Result<Bytes, Error>;
}

pub mod mem;
