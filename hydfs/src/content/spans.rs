//! Which process appended what to a file.

use std::collections::BTreeMap;

use common::ids::Epoch;
use serde::{Deserialize, Serialize};

use super::{ClientId, File, Kind};

/// Bytes `start..end` of one client's stream, all appended under one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    pub epoch: Epoch,
    pub start: u64,
    pub end: u64,
}

impl File {
    /// Which process appended what, by client, in the file's order, of what reaches above the base. What follows on from the span before, under
    /// the same epoch, is one with it. Entries of missing segments are not known.
    pub fn spans(&self) -> BTreeMap<ClientId, Vec<Span>> {
        let mut spans: BTreeMap<ClientId, Vec<Span>> = BTreeMap::new();
        let mut begin = self.dropped.bytes;
        let entries = self.segments.iter().flat_map(|s| {
            let at = begin;
            begin += s.bytes;
            s.index.iter().map(move |e| (at + e.end, e))
        });
        let kept = entries.filter(|(end, e)| e.kind == Kind::Append && *end > self.base);
        for (_, entry) in kept {
            let (start, end) = (entry.offset, entry.offset + u64::from(entry.len));
            let of = spans.entry(entry.client).or_default();
            match of.last_mut().filter(|s| s.epoch == entry.epoch && s.end == start) {
                Some(last) => last.end = end,
                None => of.push(Span {
                    epoch: entry.epoch,
                    start,
                    end,
                }),
            }
        }
        spans
    }
}

#[cfg(test)]
mod tests {
    use super::super::SegmentId;
    use super::*;

    #[test]
    fn spans_follow_epochs_and_show_what_does_not_follow_on() {
        let mut file = File::new(1);
        let (a, b, id) = (ClientId::of("a"), ClientId::of("b"), SegmentId(0));
        for (client, epoch, offset, len) in [
            (a, 1, 0, 3),
            (b, 1, 0, 5),
            (a, 1, 3, 2),
            (a, 2, 5, 1),
            (a, 2, 9, 1),
        ] {
            let entry = file.next_append(id, client, Epoch(epoch), offset, &vec![0; len], 0);
            file.apply(id, entry);
        }
        let of = |client| {
            let spans = file.spans();
            let list = spans.get(&client).into_iter().flatten();
            list.map(|s| (s.epoch.0, s.start, s.end)).collect::<Vec<_>>()
        };
        assert_eq!(of(a), [(1, 0, 5), (2, 5, 6), (2, 9, 10)]);
        assert_eq!(of(b), [(1, 0, 5)]);
    }
}
