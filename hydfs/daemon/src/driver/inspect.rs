//! What this node's own copies are: for `merge` and `fsck`, which compare them with the others'.

use std::collections::BTreeMap;

use super::core::Core;
use crate::replica::RangeState;
use crate::store::Store;
use hydfs::content::{FileName, Segment, SegmentId};
use hydfs::ring::RangeIx;
use hydfs::wire::client::{CopyInfo, MAX_LIST, Refusal, Reply, SegmentInfo};

/// Bytes read in one step: others wait no longer than that.
const STEP: u64 = 4 * 1024 * 1024;
/// So many segments are remembered as verified; with more, all are forgotten and read again when asked for.
const MARKS: usize = 100_000;

/// How many entries of a segment were read back and found right since this daemon started. A cut or repaired segment keeps
/// its mark: what is left of the one, and all of the other, was verified.
#[derive(Default)]
pub struct Marks(BTreeMap<(FileName, u64, SegmentId), u64>);

impl Marks {
    fn of(&self, file: &FileName, nonce: u64, segment: &Segment) -> u64 {
        let known = self.0.get(&(file.clone(), nonce, segment.id));
        known.map_or(0, |n| (*n).min(segment.entries))
    }

    fn raise(&mut self, file: &FileName, nonce: u64, segment: SegmentId, from: u64, to: u64) {
        if self.0.len() >= MARKS {
            self.0.clear();
        }
        let mark = self.0.entry((file.clone(), nonce, segment)).or_default();
        // What lies between was not read: the mark says "all before".
        if from <= *mark {
            *mark = to.max(*mark);
        }
    }

    fn drop(&mut self, file: &FileName, nonce: u64, segment: SegmentId) {
        self.0.remove(&(file.clone(), nonce, segment));
    }
}

impl Core {
    pub(super) fn range_state(&self, range: RangeIx) -> Reply {
        let coordinator = self.replica.coordinator_of(range);
        let (repairing, unavailable) = match self.replica.state_of(range) {
            Some(RangeState::Active { repairing }) => (repairing, None),
            Some(RangeState::Unavailable { why }) => (vec![], Some(why)),
            Some(RangeState::Installing) => (vec![], Some("a take-over is under way".to_owned())),
            None => (vec![], None),
        };
        Reply::Range {
            coordinator,
            members: self.replica.replicas_of(range).to_vec(),
            repairing,
            unavailable,
        }
    }

    pub(super) fn copies(&self, range: RangeIx, prefix: &str, after: &str, exact: bool) -> Reply {
        let store = self.replica.store();
        let one = FileName::new(prefix).ok().filter(|_| exact);
        let one = one
            .as_ref()
            .and_then(|name| Some((name, store.file(range, name)?)));
        let all = (!exact).then(|| store.files(range)).into_iter().flatten();
        let all = all.filter(|(name, _)| name.as_str() > after && name.as_str().starts_with(prefix));
        let mut wanted = one.into_iter().chain(all).peekable();
        // An answer is bounded by what it lists: files, and segments of them.
        let (mut listed, mut copies) = (0, Vec::new());
        while listed < MAX_LIST
            && let Some((name, file)) = wanted.next()
        {
            listed += 1 + file.segments.len();
            let known = self.replica.committed(name).filter(|k| k.nonce == file.nonce);
            let segments = file.segments.iter().map(|s| SegmentInfo {
                segment: s.head(),
                verified: self.verified.of(name, file.nonce, s),
            });
            copies.push(CopyInfo {
                file: name.as_str().to_owned(),
                nonce: file.nonce,
                committed: known.map_or(0, |k| k.length),
                dropped: file.dropped.last,
                segments: segments.collect(),
            });
        }
        Reply::Copies {
            copies,
            more: wanted.peek().is_some(),
        }
    }

    fn segment_here(&self, file: &FileName, nonce: u64, segment: SegmentId) -> Result<&Segment, Refusal> {
        let range = self.replica.range_of(file);
        let held = self
            .replica
            .store()
            .file(range, file)
            .filter(|f| f.nonce == nonce);
        let held = held.and_then(|f| f.segment(segment)).filter(|s| !s.missing);
        held.ok_or(Refusal::NotHere)
    }

    pub(super) fn prefix(
        &self,
        file: &FileName,
        nonce: u64,
        segment: SegmentId,
        entries: u64,
    ) -> Result<Reply, Refusal> {
        let held = self.segment_here(file, nonce, segment)?;
        let prefix = if held.entries == entries {
            held.head()
        } else {
            held.prefix(entries).ok_or(Refusal::NotHere)?
        };
        Ok(Reply::Prefix {
            bytes: prefix.bytes,
            digest: prefix.digest,
        })
    }

    pub(super) fn verify(
        &mut self,
        file: &FileName,
        nonce: u64,
        segment: SegmentId,
        at: u64,
    ) -> Result<Reply, Refusal> {
        let range = self.replica.range_of(file);
        let held = self.segment_here(file, nonce, segment)?;
        let from = usize::try_from(at).map_or(held.index.len(), |at| at.min(held.index.len()));
        let begin = from.checked_sub(1).map_or(0, |before| held.index[before].end);
        // Whole entries, and at least one, however long: then all of them are read against their checksums.
        let rest = held.index[from..].iter().enumerate();
        let step = rest.take_while(|(i, e)| *i == 0 || e.end - begin <= STEP);
        let (count, end) = step.last().map_or((0, begin), |(i, e)| (i as u64 + 1, e.end));
        match self
            .replica
            .store()
            .read(range, file, segment, begin, end - begin)
        {
            Ok(_) => {
                let next = from as u64 + count;
                self.verified.raise(file, nonce, segment, from as u64, next);
                Ok(Reply::Verified { next })
            }
            Err(error) => {
                self.verified.drop(file, nonce, segment);
                Err(self.unreadable(range, file, segment, error))
            }
        }
    }
}
