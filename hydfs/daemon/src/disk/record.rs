//! The records of the meta log and of segment files. Each carries its version; fields are named.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::store::{NodeFacts, RangeFacts};
use hydfs::content::{ClientId, Dropped, EntryMeta, File, FileName, Segment, SegmentId, Stream};
use hydfs::ring::RangeIx;

pub const META_MAGIC: [u8; 8] = *b"HYDFSM\x00\x01";
pub const SEGMENT_MAGIC: [u8; 8] = *b"HYDFSS\x00\x01";

/// One change of what a node holds. Replayed in order; the last word counts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Meta {
    Node(NodeFacts),
    Range {
        range: RangeIx,
        facts: RangeFacts,
    },
    /// The file as it is, without indexes, and which segment files have the bytes of those of its segments that are not missing. A segment that is
    /// still open may have grown since.
    File {
        range: RangeIx,
        file: FileName,
        head: File,
        places: Vec<(SegmentId, u64)>,
    },
    Remove {
        range: RangeIx,
        file: FileName,
    },
    /// A segment was opened, behind all others.
    Open {
        range: RangeIx,
        file: FileName,
        segment: SegmentId,
        place: u64,
    },
    /// No entry comes into a segment any more, though the view that it was opened under lasts. Of the streams, those that have entries in it, as
    /// it left them.
    Closed {
        range: RangeIx,
        file: FileName,
        segment: Segment,
        streams: BTreeMap<ClientId, Stream>,
    },
    /// Bytes below `base` are gone, and with them the segments that `dropped` counts.
    Trim {
        range: RangeIx,
        file: FileName,
        base: u64,
        dropped: Dropped,
    },
    /// A missing segment has its bytes again.
    Present {
        range: RangeIx,
        file: FileName,
        segment: SegmentId,
        place: u64,
    },
    Missing {
        range: RangeIx,
        file: FileName,
        segment: SegmentId,
    },
    DropRange {
        range: RangeIx,
    },
    Opened(Opened),
    /// What was written last, before this, may be gone. The node takes that into its [`NodeFacts`], which end it.
    LostNewest,
}

/// How the store was opened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Opened {
    /// In which boot of the machine; empty: unknown.
    pub boot: String,
    /// What is acknowledged from then on is durable.
    pub fsync: bool,
}

/// The first record of a segment file: whose bytes these are. The meta log says the same; this is for people and for repair by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentHead {
    pub file: FileName,
    pub nonce: u64,
    pub segment: SegmentId,
}

/// Each further record; `entry.len` bytes of payload follow it, unframed: the entry has their checksum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    #[serde(rename = "e")]
    pub entry: EntryMeta,
}

#[cfg(test)]
mod tests {
    use super::*;
    use hydfs::content::{Epoch, Kind};
    use hydfs::view::{Incarnation, NodeIx, View};

    #[test]
    fn records_round_trip() {
        let file = FileName::new("a/b").unwrap();
        let (range, segment) = (RangeIx(2), SegmentId(u128::MAX - 7));
        let mut view = View::new(3);
        view.join(NodeIx(1), Incarnation(9));
        let mut head = File::new(5);
        let entry = EntryMeta {
            kind: Kind::Append,
            client: ClientId(u64::MAX),
            epoch: Epoch(3),
            offset: 1 << 40,
            len: 3,
            checksum: 77,
            newlines: 1,
            end: 3,
        };
        head.apply(segment, entry);
        head.segments.push(Segment {
            missing: true,
            ..Segment::open(SegmentId(u128::MAX))
        });
        let facts = RangeFacts {
            installed: Some(view.clone()),
            asked: vec![view.clone()],
            active: None,
        };
        let node = NodeFacts {
            born: Incarnation(1),
            whole: Incarnation(2),
            incarnation: Incarnation(2),
            view,
        };
        let all = [
            Meta::Node(node),
            Meta::Range { range, facts },
            Meta::File {
                range,
                file: file.clone(),
                head: head.head(),
                places: vec![(segment, 9)],
            },
            Meta::Remove {
                range,
                file: file.clone(),
            },
            Meta::Open {
                range,
                file: file.clone(),
                segment,
                place: 1,
            },
            Meta::Closed {
                range,
                file: file.clone(),
                segment: head.segments[0].head(),
                streams: head.streams.clone(),
            },
            Meta::Trim {
                range,
                file: file.clone(),
                base: 1 << 40,
                dropped: Dropped {
                    bytes: 5,
                    newlines: 2,
                    last: Some(segment),
                },
            },
            Meta::Present {
                range,
                file: file.clone(),
                segment,
                place: 1,
            },
            Meta::Missing {
                range,
                file: file.clone(),
                segment,
            },
            Meta::DropRange { range },
            Meta::Opened(Opened {
                boot: "a".into(),
                fsync: true,
            }),
            Meta::LostNewest,
        ];
        for meta in all {
            let bytes = rmp_serde::to_vec_named(&meta).unwrap();
            let back: Meta = rmp_serde::from_slice(&bytes).unwrap();
            assert_eq!(format!("{back:?}"), format!("{meta:?}"));
        }
        let bytes = rmp_serde::to_vec_named(&Entry { entry }).unwrap();
        assert_eq!(rmp_serde::from_slice::<Entry>(&bytes).unwrap(), Entry { entry });
    }
}
