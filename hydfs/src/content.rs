//! What a node holds of a file: pure metadata, the same for every store. A file is a list of sealed segments and, last, at most one
//! open segment; a segment is an ordered list of entries whose payloads lie one behind the other.

mod segment_id;
mod spans;
mod trim;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use common::ids::Epoch;
pub use segment_id::SegmentId;
use serde::{Deserialize, Serialize};
pub use spans::Span;
pub use trim::{Dropped, Position, SegmentLimits};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The longest payload of one entry: a 16 MiB line and what goes with it.
pub const MAX_PAYLOAD: usize = 32 * 1024 * 1024;

/// A file's name: a relative path with `/`, without empty, `.` or `..` parts, so it can never leave the data folder. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileName(Arc<str>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("file name `{name}` is not valid: {why}")]
pub struct BadName {
    name: String,
    why: &'static str,
}

impl FileName {
    pub const MAX: usize = 512;

    pub fn new(name: impl AsRef<str>) -> Result<Self, BadName> {
        let name = name.as_ref();
        let bad = |why| {
            Err(BadName {
                name: name.chars().take(80).collect(),
                why,
            })
        };
        if name.is_empty() {
            return bad("it is empty");
        }
        if name.len() > Self::MAX {
            return bad("it is longer than 512 bytes");
        }
        if name.chars().any(char::is_control) {
            return bad("it has control characters");
        }
        if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return bad("its parts between `/` must not be empty, `.` or `..`");
        }
        Ok(Self(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for FileName {
    type Error = BadName;
    fn try_from(name: String) -> Result<Self, BadName> {
        Self::new(name)
    }
}

impl From<FileName> for String {
    fn from(name: FileName) -> String {
        name.0.as_ref().into()
    }
}

/// Whose stream: XXH3-64 of the client's name, or random for a one-shot client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClientId(pub u64);

impl ClientId {
    pub fn of(name: &str) -> Self {
        Self(xxh3_64(name.as_bytes()))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Append,
    /// Opens a stream for a process. Has no payload.
    Fence,
}

/// One entry of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryMeta {
    pub kind: Kind,
    pub client: ClientId,
    pub epoch: Epoch,
    /// Where in the client's own stream it starts, in bytes. A fence: the stream's length then.
    pub offset: u64,
    /// Bytes of payload.
    pub len: u32,
    /// XXH3-64 of the payload. A fence: its nonce.
    pub checksum: u64,
    /// Newlines in the payload.
    pub newlines: u32,
    /// Where its payload ends in the segment.
    pub end: u64,
}

impl EntryMeta {
    /// Does this payload belong to this entry?
    pub fn fits(&self, payload: &[u8]) -> bool {
        payload.len() == self.len as usize
            && match self.kind {
                Kind::Append => xxh3_64(payload) == self.checksum,
                Kind::Fence => true,
            }
    }

    /// The digest of a segment whose digest was `before`, with this entry behind.
    fn digest(&self, before: u64) -> u64 {
        let mut header = [0u8; 48];
        header[0] = self.kind as u8;
        header[1..9].copy_from_slice(&self.client.0.to_le_bytes());
        header[9..17].copy_from_slice(&self.epoch.0.to_le_bytes());
        header[17..25].copy_from_slice(&self.offset.to_le_bytes());
        header[25..29].copy_from_slice(&self.len.to_le_bytes());
        header[29..37].copy_from_slice(&self.checksum.to_le_bytes());
        header[37..45].copy_from_slice(&self.end.to_le_bytes());
        xxh3_64_with_seed(&header, before)
    }
}

/// A run of entries that one coordinator put in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    pub id: SegmentId,
    /// How many entries.
    pub entries: u64,
    /// Bytes of all payloads.
    pub bytes: u64,
    pub newlines: u64,
    /// A hash over all entries in order: equal digests, equal segments.
    pub digest: u64,
    /// Nothing is appended any more.
    pub sealed: bool,
    /// This node does not have the bytes (or damaged ones), nor the index; it is what the others have. Of an open segment: it is damaged; an entry
    /// count found by recovery then says nothing about how long it was.
    pub missing: bool,
    /// All entries, in order, while `!missing`, else empty. Not part of what nodes tell each other at take-over.
    #[serde(skip)]
    pub index: Vec<EntryMeta>,
}

impl Segment {
    pub fn open(id: SegmentId) -> Self {
        Self {
            id,
            entries: 0,
            bytes: 0,
            newlines: 0,
            digest: 0,
            sealed: false,
            missing: false,
            index: Vec::new(),
        }
    }

    /// Takes one more entry.
    pub fn push(&mut self, entry: EntryMeta) {
        debug_assert_eq!(entry.end, self.bytes + u64::from(entry.len));
        self.entries += 1;
        self.bytes = entry.end;
        self.newlines += u64::from(entry.newlines);
        self.digest = entry.digest(self.digest);
        if !self.missing {
            self.index.push(entry);
        }
    }

    /// From now on it is missing.
    pub fn lose(&mut self) {
        self.missing = true;
        self.index = Vec::new();
    }

    /// The segment as it was when it had `entries` entries; `None` when it does not have that many.
    pub fn prefix(&self, entries: u64) -> Option<Segment> {
        let index = self.index.get(..usize::try_from(entries).ok()?)?;
        let mut prefix = Segment::open(self.id);
        index.iter().for_each(|entry| prefix.push(*entry));
        Some(prefix)
    }

    /// Everything but the index.
    pub fn head(&self) -> Segment {
        Segment {
            index: Vec::new(),
            ..*self
        }
    }

    /// Do both say that they are the same bytes?
    pub fn same(&self, other: &Segment) -> bool {
        (self.id, self.entries, self.bytes, self.digest)
            == (other.id, other.entries, other.bytes, other.digest)
    }
}

/// One client's appends to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stream {
    /// The newest fence.
    pub epoch: Epoch,
    /// The process that set it.
    pub nonce: u64,
    /// Bytes appended.
    pub length: u64,
}

/// What a node holds of one file. A name that is removed and created again is another file: another nonce.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct File {
    /// Of the one who created it.
    pub nonce: u64,
    /// Bytes below are gone, for good: it only grows, and never beyond what is committed.
    #[serde(default)]
    pub base: u64,
    /// The segments before those that are here, all below `base`.
    #[serde(default)]
    pub dropped: Dropped,
    pub segments: Vec<Segment>,
    pub streams: BTreeMap<ClientId, Stream>,
}

/// What becomes of one local segment when a set is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentFate {
    /// It stays as it is (sealed now, if it was not).
    Keep,
    /// Its bytes are cut to this many.
    Cut { bytes: u64 },
    /// Its bytes, if there were any, are dropped: it is not part of the file, or not what the others have, or it is missing.
    Drop,
}

/// A run of bytes of one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentSlice {
    pub segment: SegmentId,
    pub offset: u64,
    pub len: u64,
    pub missing: bool,
}

/// An entry's end, for cutting a file at lines: up to byte `offset` of the file there are `newlines` newlines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boundary {
    pub offset: u64,
    pub newlines: u64,
}

impl File {
    pub fn new(nonce: u64) -> Self {
        Self {
            nonce,
            ..Self::default()
        }
    }

    /// Bytes in all segments, acknowledged or not, and in those that were dropped.
    pub fn length(&self) -> u64 {
        self.dropped.bytes + self.segments.iter().map(|s| s.bytes).sum::<u64>()
    }

    /// Newlines in as many bytes.
    pub fn newlines(&self) -> u64 {
        self.dropped.newlines + self.segments.iter().map(|s| s.newlines).sum::<u64>()
    }

    pub fn segment(&self, id: SegmentId) -> Option<&Segment> {
        self.segments.iter().rev().find(|s| s.id == id)
    }

    pub fn segment_mut(&mut self, id: SegmentId) -> Option<&mut Segment> {
        self.segments.iter_mut().rev().find(|s| s.id == id)
    }

    /// The entry that [`File::apply`] would take for these facts.
    pub fn next_append(
        &self,
        id: SegmentId,
        client: ClientId,
        epoch: Epoch,
        offset: u64,
        payload: &[u8],
        checksum: u64,
    ) -> EntryMeta {
        let newlines = memchr::memchr_iter(b'\n', payload).count() as u32;
        let len = payload.len() as u32;
        EntryMeta {
            kind: Kind::Append,
            client,
            epoch,
            offset,
            len,
            checksum,
            newlines,
            end: self.end_of(id) + u64::from(len),
        }
    }

    /// As [`File::next_append`], of a fence.
    pub fn next_fence(&self, id: SegmentId, client: ClientId, epoch: Epoch, nonce: u64) -> EntryMeta {
        let offset = self.streams.get(&client).map_or(0, |s| s.length);
        EntryMeta {
            kind: Kind::Fence,
            client,
            epoch,
            offset,
            len: 0,
            checksum: nonce,
            newlines: 0,
            end: self.end_of(id),
        }
    }

    fn end_of(&self, id: SegmentId) -> u64 {
        self.segment(id).map_or(0, |s| s.bytes)
    }

    /// Takes one more entry into segment `id`, opening it if it is not there yet. What the coordinator ordered is taken as it is. (Replaying a
    /// store's log goes through here too.)
    pub fn apply(&mut self, id: SegmentId, entry: EntryMeta) {
        if self.segments.last().is_none_or(|s| s.id != id) {
            if let Some(last) = self.segments.last_mut() {
                last.sealed = true;
            }
            self.segments.push(Segment::open(id));
        }
        if let Some(open) = self.segments.last_mut() {
            open.push(entry);
        }
        let stream = self.streams.entry(entry.client).or_default();
        match entry.kind {
            Kind::Append => stream.length = entry.offset + u64::from(entry.len),
            Kind::Fence => (stream.epoch, stream.nonce) = (entry.epoch, entry.checksum),
        }
    }

    /// Everything but the indexes: what nodes tell each other.
    pub fn head(&self) -> File {
        File {
            segments: self.segments.iter().map(Segment::head).collect(),
            streams: self.streams.clone(),
            ..*self
        }
    }

    /// The same as the file was under this view when segment `to.0` had `to.1` entries; `None`: when it had no entry under it. Epochs stay: what
    /// was fenced off stays so. So does the base: what is below is gone here.
    pub fn head_up_to(&self, view: SegmentId, to: Option<(SegmentId, u64)>) -> File {
        let (id, entries) = to.unwrap_or((view, 0));
        let mut head = self.head();
        let mut cut: Vec<&EntryMeta> = Vec::new();
        for segment in self.segments_of(view).rev().take_while(|s| s.id >= id) {
            let keep = if segment.id == id { entries } else { 0 };
            if keep == segment.entries {
                break;
            }
            let Some(prefix) = segment.prefix(keep).filter(|_| !segment.missing) else {
                // Damaged here: nothing is known of it.
                return self.head();
            };
            cut.extend(segment.index[prefix.index.len()..].iter().rev());
            head.segments.pop();
            head.segments.extend((keep > 0).then(|| prefix.head()));
        }
        for entry in cut {
            if let (Kind::Append, Some(stream)) = (entry.kind, head.streams.get_mut(&entry.client)) {
                stream.length = entry.offset;
            }
        }
        head
    }

    /// Makes this the file that a take-over decided on: `target`'s base, segments (all sealed) and streams. Says what becomes of the bytes of each
    /// segment that was here. What `target` calls missing is no matter: that was somebody else's.
    pub fn install(&mut self, target: &File) -> Vec<(SegmentId, SegmentFate)> {
        let mut old = std::mem::take(&mut self.segments);
        let other_file = self.nonce != target.nonce;
        (self.nonce, self.base, self.dropped) = (target.nonce, target.base, target.dropped);
        self.streams = target.streams.clone();
        let mut fates = Vec::new();
        for want in &target.segments {
            let mine = old.iter().position(|s| s.id == want.id).map(|i| old.remove(i));
            let kept = mine.filter(|_| !other_file).and_then(|mine| {
                let (fate, kept) = if mine.missing {
                    return None;
                } else if mine.same(want) {
                    (SegmentFate::Keep, mine)
                } else {
                    // Only an exact beginning of what this node has is what the others have.
                    let cut = mine.prefix(want.entries).filter(|cut| cut.same(want))?;
                    (SegmentFate::Cut { bytes: cut.bytes }, cut)
                };
                Some((fate, Segment { sealed: true, ..kept }))
            });
            let (fate, segment) = kept.unwrap_or_else(|| {
                (
                    SegmentFate::Drop,
                    Segment {
                        sealed: true,
                        missing: true,
                        ..want.head()
                    },
                )
            });
            fates.push((want.id, fate));
            self.segments.push(segment);
        }
        // Those of another file under this name, those that never counted, and those that were trimmed meanwhile.
        fates.extend(old.iter().map(|s| (s.id, SegmentFate::Drop)));
        fates
    }

    /// Is some of the file's bytes not here?
    pub fn misses(&self) -> bool {
        self.segments.iter().any(|s| s.missing)
    }

    /// Where `len` bytes from `offset` lie, in order; less at the file's end, and nothing where segments were dropped.
    pub fn slices(&self, offset: u64, len: u64) -> Vec<SegmentSlice> {
        let mut slices = Vec::new();
        let Some(mut from) = offset.checked_sub(self.dropped.bytes) else {
            return slices;
        };
        let mut left = len;
        for segment in &self.segments {
            if from >= segment.bytes {
                from -= segment.bytes;
                continue;
            }
            let take = left.min(segment.bytes - from);
            if take == 0 {
                break;
            }
            slices.push(SegmentSlice {
                segment: segment.id,
                offset: from,
                len: take,
                missing: segment.missing,
            });
            (from, left) = (0, left - take);
        }
        slices
    }

    /// The file's byte offsets and newline counts at the ends of entries, at least `step` bytes apart, and at its end; above its base. A
    /// missing segment has only its end.
    pub fn boundaries(&self, step: u64) -> Vec<Boundary> {
        let mut bounds: Vec<Boundary> = Vec::new();
        let (mut base, mut lines) = (self.dropped.bytes, self.dropped.newlines);
        let mut last = self.base;
        for segment in &self.segments {
            let mut newlines = lines;
            for entry in &segment.index {
                newlines += u64::from(entry.newlines);
                let offset = base + entry.end;
                if offset >= last + step.max(1) {
                    bounds.push(Boundary { offset, newlines });
                    last = offset;
                }
            }
            base += segment.bytes;
            lines += segment.newlines;
            if segment.missing && base > last {
                bounds.push(Boundary {
                    offset: base,
                    newlines: lines,
                });
                last = base;
            }
        }
        if base > last {
            bounds.push(Boundary {
                offset: base,
                newlines: lines,
            });
        }
        bounds
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A file with segments of so many entries each, of so many bytes each.
    fn file(segments: &[Vec<u8>]) -> (File, Vec<u8>) {
        let (mut file, mut bytes) = (File::new(1), Vec::new());
        for (i, lens) in segments.iter().enumerate() {
            for len in lens {
                let payload: Vec<u8> = (0..*len).map(|b| if b % 5 == 4 { b'\n' } else { b }).collect();
                let client = ClientId(u64::from(*len) % 3);
                let offset = file.streams.get(&client).map_or(0, |s| s.length);
                let id = SegmentId(i as u128 * 10);
                let entry = file.next_append(id, client, Epoch(1), offset, &payload, xxh3_64(&payload));
                assert!(entry.fits(&payload));
                file.apply(id, entry);
                bytes.extend_from_slice(&payload);
            }
        }
        (file, bytes)
    }

    proptest! {
        #[test]
        fn slices_cover_a_range_and_boundaries_count_newlines(
            lens in prop::collection::vec(prop::collection::vec(0u8..40, 1..6), 0..5),
            from in 0u64..300, len in 0u64..300, step in 0u64..50,
        ) {
            let (file, bytes) = file(&lens);
            prop_assert_eq!(file.length(), bytes.len() as u64);
            let slices = file.slices(from, len);
            let covered: u64 = slices.iter().map(|s| s.len).sum();
            prop_assert_eq!(covered, len.min(file.length().saturating_sub(from)));
            prop_assert!(slices.iter().all(|s| s.len > 0 && s.offset + s.len <= file.segment(s.segment).unwrap().bytes));
            let bounds = file.boundaries(step);
            for bound in &bounds {
                let newlines = bytes[..bound.offset as usize].iter().filter(|b| **b == b'\n').count();
                prop_assert_eq!(bound.newlines, newlines as u64);
            }
            prop_assert_eq!(bounds.last().map_or(0, |b| b.offset), file.length());
            prop_assert!(bounds.windows(2).all(|w| w[0].offset < w[1].offset));
        }

        #[test]
        fn a_prefix_is_what_it_was_and_digests_tell(lens in prop::collection::vec(1u8..40, 1..20), at: prop::sample::Index) {
            let (whole, _) = file(std::slice::from_ref(&lens));
            let at = at.index(lens.len());
            let (short, _) = file(&[lens[..at].to_vec()]);
            let prefix = whole.segments[0].prefix(at as u64).unwrap();
            prop_assert_eq!(short.segments.first().map_or(0, |s| s.digest), prefix.digest);
            prop_assert!(whole.segments[0].prefix(lens.len() as u64 + 1).is_none());
            prop_assert!(!prefix.same(&whole.segments[0]));
        }
    }

    #[test]
    fn names_that_could_leave_the_folder_are_refused() {
        for bad in [
            "",
            "/etc/passwd",
            "a/../b",
            "a//b",
            "a/",
            ".",
            "a\0b",
            "a\nb",
            &"x".repeat(513),
        ] {
            assert!(FileName::new(bad).is_err(), "{bad:?}");
        }
        assert!(FileName::new("jobs/wc/s1t0.log").is_ok());
    }

    #[test]
    fn a_file_of_that_name_and_another_nonce_is_another_file() {
        let (mut mine, _) = file(&[vec![10, 20]]);
        let target = File {
            nonce: 2,
            ..mine.head()
        };
        let fates = mine.install(&target);
        assert!(fates.contains(&(SegmentId(0), SegmentFate::Drop)) && mine.misses() && mine.nonce == 2);
    }
}
