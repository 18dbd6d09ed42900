//! Reading segments: nothing is given out that is not what was written.

use std::io;
use std::sync::PoisonError;

use bytes::{Bytes, BytesMut};

use super::DiskStore;
use super::segment::{SegmentPlace, begin_of};
use crate::store::Error;
use hydfs::content::{FileName, Segment, SegmentId};
use hydfs::ring::RangeIx;

/// Entries longer than this are not read whole again for each part of them that is asked for.
const LARGE: u64 = 1024 * 1024;
/// So many large entries are remembered as verified.
const VERIFIED: usize = 64;

impl DiskStore {
    pub(super) fn read_segment(
        &self,
        range: RangeIx,
        name: &FileName,
        segment: SegmentId,
        offset: u64,
        len: u64,
    ) -> Result<Bytes, Error> {
        let held = self.held(range, name)?;
        let missing = || Error::Missing {
            file: name.clone(),
            segment,
        };
        let meta = held
            .file
            .segment(segment)
            .filter(|s| !s.missing)
            .ok_or_else(missing)?;
        let (from, to) = (offset.min(meta.bytes), offset.saturating_add(len).min(meta.bytes));
        if from == to {
            return Ok(Bytes::new());
        }
        let place = held.places.get(&segment).ok_or_else(missing)?;
        match self.read_entries(meta, place, (from, to)) {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(at)) => Err(Error::Damaged {
                file: name.clone(),
                segment,
                offset: at,
            }),
            // A segment file that cannot be read any more: another replica has the bytes.
            Err(error) => {
                tracing::error!(file = %name, segment = %segment, error = %error, "DAMAGED");
                Err(Error::Damaged {
                    file: name.clone(),
                    segment,
                    offset: from,
                })
            }
        }
    }

    /// The payloads of `first..=last` from byte `from` to `to` of the segment, every entry verified.
    fn read_entries(
        &self,
        meta: &Segment,
        place: &SegmentPlace,
        (from, to): (u64, u64),
    ) -> Result<Result<Bytes, u64>, io::Error> {
        let index = &meta.index;
        let file = self.handles().get(place.number)?;
        let mut first = index.partition_point(|e| e.end <= from);
        let last = index.partition_point(|e| e.end < to);
        let mut parts: Vec<Bytes> = Vec::new();
        while first <= last {
            // A run of entries that are read whole, or one large entry of which a part is wanted.
            let begin = begin_of(index, first);
            let partly = |i: usize| begin_of(index, i) < from || index[i].end > to;
            let large = |i: usize| u64::from(index[i].len) > LARGE && partly(i);
            if large(first) {
                let key = (place.number, first);
                let (start, end) = (from.max(begin), to.min(index[first].end));
                let known = self
                    .verified
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .contains(&key);
                if known {
                    parts.push(place.read_part(&file, first, start - begin, (end - start) as usize)?);
                } else {
                    match place.read(&file, index, first, first)? {
                        Ok(whole) => {
                            parts.push(whole.slice((start - begin) as usize..(end - begin) as usize))
                        }
                        Err(at) => return Ok(Err(at)),
                    }
                    let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
                    verified.push_back(key);
                    if verified.len() > VERIFIED {
                        verified.pop_front();
                    }
                }
                first += 1;
                continue;
            }
            let run_end = (first..=last).take_while(|i| !large(*i)).last().unwrap_or(first);
            match place.read(&file, index, first, run_end)? {
                Ok(whole) => {
                    let (start, end) = (from.max(begin), to.min(index[run_end].end));
                    parts.push(whole.slice((start - begin) as usize..(end - begin) as usize));
                }
                Err(at) => return Ok(Err(at)),
            }
            first = run_end + 1;
        }
        Ok(Ok(match <[Bytes; 1]>::try_from(parts) {
            Ok([one]) => one,
            Err(parts) => {
                let mut all = BytesMut::with_capacity((to - from) as usize);
                parts.iter().for_each(|p| all.extend_from_slice(p));
                all.freeze()
            }
        }))
    }
}
