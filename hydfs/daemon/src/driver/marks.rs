//! Where a file can be split, with the newlines before each such place.

use super::core::Core;
use crate::store::Store;
use hydfs::content::{File, FileName};
use hydfs::wire::client::{MAX_LIST, Reply};

/// Append boundaries closer than this are not told apart: enough to split a file evenly.
const MARK_STEP: u64 = 32 * 1024;
impl Core {
    pub(super) fn marks(&self, file: &FileName, length: u64, from: u64) -> Reply {
        let held = self.replica.store().file(self.replica.range_of(file), file);
        let bounds = held.map(|f| f.boundaries(MARK_STEP)).unwrap_or_default();
        let inner = bounds
            .into_iter()
            .filter(|b| b.offset < length)
            .map(|b| (b.offset, b.newlines));
        let first = held.and_then(|held| Some((held.base, self.newlines_before_base(file, held)?)));
        let mut marks = first
            .into_iter()
            .filter(|(base, _)| length > *base)
            .chain(inner)
            .skip(from as usize);
        let some: Vec<(u64, u64)> = marks.by_ref().take(MAX_LIST).collect();
        Reply::Marks {
            marks: some,
            more: marks.next().is_some(),
        }
    }

    /// `None`: its base lies within an entry that cannot be read here now.
    fn newlines_before_base(&self, name: &FileName, held: &File) -> Option<u64> {
        let mut newlines = held.dropped.newlines;
        let mut left = held.base.saturating_sub(held.dropped.bytes);
        for segment in &held.segments {
            if left >= segment.bytes {
                (newlines, left) = (newlines + segment.newlines, left - segment.bytes);
                continue;
            }
            if left == 0 {
                break;
            }
            let whole = segment.index.partition_point(|e| e.end <= left);
            newlines += segment.index[..whole]
                .iter()
                .map(|e| u64::from(e.newlines))
                .sum::<u64>();
            let begin = whole.checked_sub(1).map_or(0, |last| segment.index[last].end);
            let store = self.replica.store();
            let range = self.replica.range_of(name);
            let part = store.read(range, name, segment.id, begin, left - begin).ok()?;
            return Some(newlines + part.iter().filter(|b| **b == b'\n').count() as u64);
        }
        Some(newlines)
    }
}
