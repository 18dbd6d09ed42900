//! What is gone of a file: bytes below its base. Segments that lie wholly below it are dropped, so one that has grown is closed, and the next
//! part opened, within a view.

use serde::{Deserialize, Serialize};

use super::{File, Segment, SegmentId};

/// What the segments that were dropped from the front of a file came to, so that offsets and line numbers stay what they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Dropped {
    pub bytes: u64,
    pub newlines: u64,
    /// The newest of them: no later segment may have its number.
    pub last: Option<SegmentId>,
}

/// When a segment has grown enough for the next one to be opened. Only a range's coordinator asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentLimits {
    pub bytes: u64,
    pub entries: u64,
    /// With as many bytes below the base, and no more above it.
    pub dead: u64,
}

impl SegmentLimits {
    /// What is dead and cannot be dropped is less than a segment, so 16 MiB (and one append) bound it for each file; smaller segments would make
    /// each take-over say more, some 100 bytes for a segment. 64 Ki entries cost 4 MiB of memory. A file that is trimmed as it grows has half of a
    /// segment dead long before: closing it then keeps what is on disk within three times what is kept, and 64 KiB are worth a file of their own.
    pub const USUAL: Self = Self {
        bytes: 16 * 1024 * 1024,
        entries: 64 * 1024,
        dead: 64 * 1024,
    };

    fn are_reached(&self, segment: &Segment, dead: u64) -> bool {
        let dead = dead.min(segment.bytes);
        segment.bytes >= self.bytes
            || segment.entries >= self.entries
            || (dead >= self.dead && dead >= segment.bytes - dead)
    }
}

/// How far a copy is in what was put in order under one view: the part, and how many entries of it.
pub type Position = (u32, u64);

impl File {
    /// The segments opened under this view.
    pub fn segments_of(&self, view: SegmentId) -> impl DoubleEndedIterator<Item = &Segment> {
        self.segments.iter().filter(move |s| s.id.is_of_view(view))
    }

    /// The one that entries may still come into.
    fn open_of(&self, view: SegmentId) -> Option<&Segment> {
        self.segments_of(view).next_back().filter(|s| !s.sealed)
    }

    pub fn position(&self, view: SegmentId) -> Position {
        let newest = self.segments.last().map(|s| s.id).max(self.dropped.last);
        match (self.open_of(view), newest.filter(|id| id.is_of_view(view))) {
            (Some(open), _) => (open.id.part(), open.entries),
            (None, Some(closed)) => (closed.part().saturating_add(1), 0),
            (None, None) => (0, 0),
        }
    }

    /// Where the next entry goes under this view, once the file's base is `base` (or higher already).
    pub fn next_segment(&self, view: SegmentId, base: u64, limits: SegmentLimits) -> SegmentId {
        let (part, _) = self.position(view);
        let base = base.max(self.base);
        let grown = self.open_of(view).is_some_and(|open| {
            // Adding up the segments of a long file that was never trimmed would cost each append something.
            let begin = match base > self.dropped.bytes {
                true => self.length() - open.bytes,
                false => base,
            };
            limits.are_reached(open, base.saturating_sub(begin))
        });
        view.with_part(part.saturating_add(u32::from(grown)))
    }

    /// Bytes below `base` are gone, and no entry comes into a segment before `next` any more. Returns the segments that this drops.
    pub fn trim(&mut self, base: u64, next: SegmentId) -> Vec<SegmentId> {
        self.base = self.base.max(base);
        if let Some(last) = self.segments.last_mut().filter(|s| s.id < next) {
            last.sealed = true;
        }
        let (dropped, count) = self.droppable(self.base, next);
        self.dropped = dropped;
        self.segments.drain(..count).map(|s| s.id).collect()
    }

    /// What [`File::trim`] comes to: what is dropped from then on, and how many of the segments that are there now.
    pub fn droppable(&self, base: u64, next: SegmentId) -> (Dropped, usize) {
        let (mut dropped, mut count) = (self.dropped, 0);
        for segment in self.segments.iter().take_while(|s| s.sealed || s.id < next) {
            if dropped.bytes + segment.bytes > base {
                break;
            }
            dropped.bytes += segment.bytes;
            dropped.newlines += segment.newlines;
            dropped.last = Some(segment.id);
            count += 1;
        }
        (dropped, count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{ClientId, Epoch};
    use super::*;

    const VIEW: SegmentId = SegmentId(7);
    const LIMITS: SegmentLimits = SegmentLimits {
        bytes: 100,
        entries: 8,
        dead: 20,
    };

    /// One more entry, as a coordinator orders it.
    fn append(file: &mut File, bytes: &[u8]) {
        let client = ClientId(1);
        let offset = file.streams.get(&client).map_or(0, |s| s.length);
        let id = file.next_segment(VIEW, 0, LIMITS);
        let entry = file.next_append(id, client, Epoch(1), offset, bytes, 0);
        file.apply(id, entry);
    }

    fn trim(file: &mut File, base: u64) -> Vec<SegmentId> {
        let next = file.next_segment(VIEW, base, LIMITS);
        file.trim(base, next)
    }

    #[test]
    fn a_file_trimmed_to_its_end_holds_nothing_and_never_numbers_a_segment_twice() {
        let (mut file, mut seen) = (File::new(1), Vec::new());
        for round in 1..20 {
            (0..3).for_each(|_| append(&mut file, b"ten bytes\n"));
            let gone = trim(&mut file, round * 30);
            assert_eq!(
                (gone.len(), file.segments.len(), file.length()),
                (1, 0, round * 30)
            );
            assert_eq!(file.dropped.newlines, round * 3);
            seen.extend(gone);
        }
        assert!(seen.is_sorted() && seen.windows(2).all(|w| w[0] != w[1]));
        assert_eq!(file.streams[&ClientId(1)].length, 19 * 30);
        // Under the next view parts begin anew, behind all others.
        let next = file.next_segment(SegmentId(8), 0, LIMITS);
        assert_eq!((next, next > seen[18]), (SegmentId(8), true));
    }

    #[test]
    fn a_segment_is_closed_when_it_has_grown_or_half_of_it_is_dead() {
        let mut file = File::new(1);
        append(&mut file, &[b'x'; 60]);
        assert!(
            trim(&mut file, 19).is_empty() && file.position(VIEW) == (0, 1),
            "too little is dead"
        );
        assert!(
            trim(&mut file, 29).is_empty() && file.position(VIEW) == (0, 1),
            "too much is not"
        );
        assert!(trim(&mut file, 30).is_empty() && file.position(VIEW) == (1, 0));
        append(&mut file, &[b'x'; 100]);
        assert_eq!(file.position(VIEW), (1, 1));
        append(&mut file, b"x");
        assert_eq!(file.position(VIEW), (2, 1), "the one before has its bytes");
        (0..8).for_each(|_| append(&mut file, b""));
        assert_eq!(file.position(VIEW), (3, 1), "the one before has its entries");
    }

    proptest! {
        #[test]
        fn what_is_kept_is_bounded_and_offsets_stay(ops in prop::collection::vec((0u8..60, 0u64..100), 1..200)) {
            let (mut file, mut all) = (File::new(1), Vec::new());
            for (len, share) in ops {
                let bytes: Vec<u8> = (0..len).map(|b| if b % 5 == 4 { b'\n' } else { b }).collect();
                append(&mut file, &bytes);
                all.extend_from_slice(&bytes);
                trim(&mut file, all.len() as u64 * share / 100);
                let length = all.len() as u64;
                prop_assert_eq!((file.length(), file.newlines()), (length, all.iter().filter(|b| **b == b'\n').count() as u64));
                prop_assert!(file.dropped.bytes <= file.base && file.base <= length);
                prop_assert!(file.segments.iter().all(|s| s.bytes < LIMITS.bytes + 60 && s.entries <= LIMITS.entries));
                let first = file.segments.first();
                prop_assert!(first.is_none_or(|s| !s.sealed || file.dropped.bytes + s.bytes > file.base));
                let (kept, on_disk) = (length - file.base, length - file.dropped.bytes);
                prop_assert!(on_disk <= kept + LIMITS.bytes + 60, "{on_disk} for {kept}");
                let covered: u64 = file.slices(file.base, u64::MAX).iter().map(|s| s.len).sum();
                prop_assert_eq!(covered, kept);
                prop_assert!(file.slices(0, 10).is_empty() || file.dropped.bytes == 0);
            }
        }
    }
}
