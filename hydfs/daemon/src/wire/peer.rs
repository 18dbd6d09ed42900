//! What storage nodes say to each other. Every message names its sender's view, in full or by its id.
//!
//! A frame is `header length (u32, big-endian) | header (MessagePack) | payloads`: payloads are not copied when a frame is read.

use bytes::Bytes;
use common::ids::Epoch;
use serde::{Deserialize, Serialize};

use crate::store::Memory;
use hydfs::content::{ClientId, File, FileName};
use hydfs::ring::RangeIx;
use hydfs::view::{View, ViewId};

/// One step of a range's order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RangeOp {
    Create {
        file: FileName,
        nonce: u64,
    },
    Remove {
        file: FileName,
        nonce: u64,
    },
    /// `part`: of the view's segments of the file, the one that this goes into. The coordinator says when the next one is opened.
    Fence {
        file: FileName,
        part: u32,
        client: ClientId,
        epoch: Epoch,
        nonce: u64,
    },
    /// `checksum`: XXH3-64 of the payload.
    Append {
        file: FileName,
        part: u32,
        client: ClientId,
        epoch: Epoch,
        offset: u64,
        checksum: u64,
        #[serde(skip)]
        payload: Bytes,
    },
    /// Bytes below `base` are gone, and nothing comes into parts before `part` any more. No entry of a segment.
    Trim {
        file: FileName,
        nonce: u64,
        base: u64,
        part: u32,
    },
}

impl RangeOp {
    pub fn file(&self) -> &FileName {
        match self {
            RangeOp::Create { file, .. }
            | RangeOp::Remove { file, .. }
            | RangeOp::Fence { file, .. }
            | RangeOp::Append { file, .. }
            | RangeOp::Trim { file, .. } => file,
        }
    }

    /// May it be carried out ahead of its turn, by who has no room for what comes before? All have the bytes that a trim names, or it would not be.
    pub fn makes_room(&self) -> bool {
        matches!(self, RangeOp::Trim { .. })
    }

    /// Bytes that it keeps in memory while it is not acknowledged.
    pub fn bytes(&self) -> usize {
        128 + match self {
            RangeOp::Append { payload, .. } => payload.len(),
            _ => 0,
        }
    }
}

/// What a node says about one range when it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeAnswer {
    pub range: RangeIx,
    pub installed: Option<View>,
    pub asked: Vec<View>,
    /// What it holds, without indexes.
    pub files: Vec<(FileName, File)>,
}

/// What a member of a new set shall hold of one range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeInstall {
    pub range: RangeIx,
    pub files: Vec<(FileName, File)>,
    /// Who may have bytes that a member misses; the most promising first.
    pub holders: Vec<hydfs::view::NodeIx>,
}

/// How a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    Well,
    /// Its disk is full; nothing after `seq` was taken.
    Full,
    /// Something in between did not arrive; send again after `seq`.
    Gap,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// What I know. Also the refusal of everything that came under an older view.
    Know { view: View },
    /// Take-over: what do you hold of these ranges?
    Ask { view: View, ranges: Vec<RangeIx> },
    Answer {
        view: View,
        memory: Memory,
        ranges: Vec<RangeAnswer>,
    },
    /// Take-over: hold this.
    Install { view: View, ranges: Vec<RangeInstall> },
    /// Done; and do I miss nothing of it?
    Installed {
        view: ViewId,
        ranges: Vec<(RangeIx, bool)>,
    },
    /// These ranges are active; and does no member miss anything (so that others may drop their copies)?
    Active {
        view: ViewId,
        ranges: Vec<(RangeIx, bool)>,
    },
    /// Entries `first`, `first + 1`, ... of the range's order; everything up to `commit` is on all members. `probe`: say that you have seen this.
    Replicate {
        view: ViewId,
        range: RangeIx,
        first: u64,
        ops: Vec<RangeOp>,
        commit: u64,
        probe: u64,
    },
    /// My disk has little room left, or has room again. Whatever the view.
    Short { short: bool },
    /// I have everything up to `seq`, and have seen `probe`.
    Ack {
        view: ViewId,
        range: RangeIx,
        seq: u64,
        probe: u64,
        standing: Standing,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a frame between storage nodes is malformed: {0}")]
    Malformed(&'static str),
    #[error("a message between storage nodes of {len} bytes is over the limit of {most}")]
    TooLong { len: usize, most: usize },
    #[error("a frame between storage nodes could not be decoded: {0}")]
    Decode(#[from] rmp_serde::decode::Error),
    #[error("a message between storage nodes could not be encoded: {0}")]
    Encode(#[from] rmp_serde::encode::Error),
}

/// A frame: its beginning, and the payloads that end it.
#[derive(Debug, Clone)]
pub struct Parts {
    pub head: Bytes,
    pub payloads: Vec<Bytes>,
}

#[cfg(test)]
impl Parts {
    /// All in one place.
    pub fn join(&self) -> Bytes {
        let parts = std::iter::once(&self.head).chain(&self.payloads);
        parts.flat_map(|p| p.iter().copied()).collect::<Vec<u8>>().into()
    }
}

impl Message {
    /// As one frame, in parts: payloads stay where they are.
    pub fn encode(&self) -> Result<Parts, Error> {
        let ops: &[RangeOp] = if let Message::Replicate { ops, .. } = self {
            ops
        } else {
            &[]
        };
        let payloads: Vec<Bytes> = ops.iter().filter_map(payload).cloned().collect();
        let lens: Vec<u32> = payloads.iter().map(|p| p.len() as u32).collect();
        let mut head = vec![0; 4];
        rmp_serde::encode::write(&mut head, &(self, lens))?;
        let len = (head.len() - 4) as u32;
        head[..4].copy_from_slice(&len.to_be_bytes());
        Ok(Parts {
            head: head.into(),
            payloads,
        })
    }

    /// From one frame; payloads are slices of it.
    pub fn decode(frame: &Bytes) -> Result<Self, Error> {
        let len = frame
            .first_chunk::<4>()
            .ok_or(Error::Malformed("it is too short"))?;
        let start = 4 + u32::from_be_bytes(*len) as usize;
        let header = frame
            .get(4..start)
            .ok_or(Error::Malformed("its header is longer than itself"))?;
        let (mut message, lens): (Message, Vec<u32>) = rmp_serde::from_slice(header)?;
        let ops: &mut [RangeOp] = if let Message::Replicate { ops, .. } = &mut message {
            ops
        } else {
            &mut []
        };
        let (mut at, mut lens) = (start, lens.into_iter());
        for op in ops {
            if let RangeOp::Append { payload, .. } = op {
                let len = lens.next().ok_or(Error::Malformed("a payload has no length"))? as usize;
                if frame.len() - at < len {
                    return Err(Error::Malformed("a payload is cut off"));
                }
                *payload = frame.slice(at..at + len);
                at += len;
            }
        }
        if at != frame.len() || lens.next().is_some() {
            return Err(Error::Malformed("it has more bytes than it says"));
        }
        Ok(message)
    }
}

fn payload(op: &RangeOp) -> Option<&Bytes> {
    if let RangeOp::Append { payload, .. } = op {
        Some(payload)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn replicate(payloads: Vec<Vec<u8>>) -> Message {
        let file = FileName::new("jobs/f").unwrap();
        let client = ClientId(9);
        let mut ops: Vec<RangeOp> = payloads
            .into_iter()
            .map(|p| RangeOp::Append {
                file: file.clone(),
                part: 1,
                client,
                epoch: Epoch(1),
                offset: 5,
                checksum: 6,
                payload: p.into(),
            })
            .collect();
        ops.insert(
            ops.len() / 2,
            RangeOp::Fence {
                file: file.clone(),
                part: 0,
                client,
                epoch: Epoch(3),
                nonce: u64::MAX,
            },
        );
        ops.push(RangeOp::Trim {
            file,
            nonce: 1,
            base: 1 << 50,
            part: 2,
        });
        let view = View::new(3).id();
        Message::Replicate {
            view,
            range: RangeIx(2),
            first: 7,
            ops,
            commit: 3,
            probe: 1,
        }
    }

    proptest! {
        #[test]
        fn messages_round_trip_and_payloads_are_not_copied(payloads: Vec<Vec<u8>>) {
            let message = replicate(payloads);
            let frame = message.encode().unwrap().join();
            let back = Message::decode(&frame).unwrap();
            if let Message::Replicate { ops, .. } = &back {
                for bytes in ops.iter().filter_map(payload).filter(|p| !p.is_empty()) {
                    prop_assert!(frame.as_ptr_range().contains(&bytes.as_ptr()));
                }
            }
            prop_assert_eq!(back, message);
        }

        #[test]
        fn garbage_and_cut_frames_are_refused(bytes: Vec<u8>, cut: prop::sample::Index) {
            let _ = Message::decode(&bytes.into());
            let frame = replicate(vec![vec![1; 50], vec![2; 9]]).encode().unwrap().join();
            prop_assert!(Message::decode(&frame.slice(..cut.index(frame.len()))).is_err());
        }
    }

    #[test]
    fn heads_of_files_pass_without_their_indexes() {
        let file = FileName::new("f").unwrap();
        let mut held = File::new(3);
        let entry = held.next_fence(hydfs::content::SegmentId(u128::MAX), ClientId(1), Epoch(2), 5);
        held.apply(hydfs::content::SegmentId(u128::MAX), entry);
        let ranges = vec![RangeInstall {
            range: RangeIx(0),
            files: vec![(file, held.head())],
            holders: vec![],
        }];
        let message = Message::Install {
            view: View::new(2),
            ranges,
        };
        assert_eq!(
            Message::decode(&message.encode().unwrap().join()).unwrap(),
            message
        );
    }
}
