//! Making a range what a take-over decided, and putting missing segments back.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bytes::Bytes;

use super::meta::Need;
use super::record::Meta;
use super::{DiskStore, PartialSegment, StoredFile, failed};
use crate::store::{Error, Put, RangeFacts, Store};
use hydfs::content::{EntryMeta, File, FileName, Segment, SegmentFate, SegmentId};
use hydfs::ring::RangeIx;
use hydfs::view::View;

impl DiskStore {
    /// Would installing `target` change nothing?
    fn unchanged(file: &File, target: &File) -> bool {
        (file.nonce, file.base, file.dropped) == (target.nonce, target.base, target.dropped)
            && file.streams == target.streams
            && file.segments.len() == target.segments.len()
            && file
                .segments
                .iter()
                .zip(&target.segments)
                .all(|(mine, want)| mine.sealed && mine.same(want))
    }

    pub(super) fn install_range(
        &mut self,
        range: RangeIx,
        set: &View,
        files: &[(FileName, File)],
    ) -> Result<usize, Error> {
        // What is kept must be there before the log says so.
        self.sync()?;
        let wanted: BTreeSet<&FileName> = files.iter().map(|(name, _)| name).collect();
        let held = self.files.get(&range);
        let names = held.into_iter().flat_map(|files| files.keys());
        let gone: Vec<FileName> = names.filter(|name| !wanted.contains(name)).cloned().collect();
        let remove = |name: &FileName| Meta::Remove {
            range,
            file: name.clone(),
        };
        let mut records: Vec<Meta> = gone.iter().map(remove).collect();
        let mut changed = Vec::new();
        for (name, target) in files {
            let held = held.and_then(|files| files.get(name));
            if held.is_some_and(|held| Self::unchanged(&held.file, target)) {
                continue;
            }
            let mut file = held.map_or_else(|| File::new(target.nonce), |held| held.file.clone());
            let fates = file.install(target);
            let kept = fates.iter().filter(|(_, fate)| *fate != SegmentFate::Drop);
            let places = kept
                .filter_map(|(id, _)| Some((*id, held?.places.get(id)?.number)))
                .collect();
            records.push(Meta::File {
                range,
                file: name.clone(),
                head: file.head(),
                places,
            });
            changed.push((name, file, fates));
        }
        let facts = RangeFacts {
            installed: Some(set.clone()),
            ..self.range(range)
        };
        records.push(Meta::Range {
            range,
            facts: facts.clone(),
        });
        // A trim, which makes room, needs an active range: so this must not wait for room.
        self.log_that(&records, Need::Memory, true)?;

        self.ranges.insert(range, facts);
        gone.iter().for_each(|name| self.forget(range, name));
        for (name, file, fates) in changed {
            let old = self.files.get_mut(&range).and_then(|files| files.remove(name));
            let mut old = old.map(|held| held.places).unwrap_or_default();
            let mut places = BTreeMap::new();
            for (id, fate) in fates {
                if fate == SegmentFate::Drop {
                    continue;
                }
                let Some(mut place) = old.remove(&id) else {
                    continue;
                };
                if let (SegmentFate::Cut { .. }, Some(segment)) = (fate, file.segment(id)) {
                    let cut = place.cut(&*self.handle(place.number)?, &segment.index, segment.index.len());
                    cut.map_err(|e| failed("cut a segment file", e))?;
                }
                places.insert(id, place);
            }
            // What no fate keeps.
            self.unlink(old.into_values());
            self.files
                .entry(range)
                .or_default()
                .insert(name.clone(), StoredFile { file, places });
        }
        self.tidy();
        Ok(gone.len())
    }

    pub(super) fn put_piece(
        &mut self,
        range: RangeIx,
        name: &FileName,
        segment: SegmentId,
        at: u64,
        entries: &[EntryMeta],
        payload: &Bytes,
    ) -> Result<Put, Error> {
        let key = (range, name.clone(), segment);
        // Taken out, and put back only when more is to come.
        let mut partial = self.partial.remove(&key);
        let file = self.file(range, name);
        let nonce = file.map_or(0, |f| f.nonce);
        let wanted = file
            .and_then(|f| f.segment(segment))
            .filter(|s| s.missing && s.sealed)
            .map(Segment::head);
        if at == 0 || wanted.is_none() {
            let old = partial.take().map(|p| p.place);
            self.unlink(old);
        }
        let Some(wanted) = wanted else {
            return Ok(Put::Refused);
        };
        let mut partial = match partial {
            Some(partial) => partial,
            None if at == 0 => PartialSegment {
                have: Segment::open(segment),
                place: self.begin(name, nonce, segment)?,
            },
            None => return Ok(Put::Refused),
        };
        let put = self.put_entries(&mut partial, at, entries, payload);
        match put {
            Ok(true) if partial.have.entries < wanted.entries => {
                self.partial.insert(key, partial);
                return Ok(Put::More);
            }
            Ok(true) if partial.have.same(&wanted) => {}
            Ok(_) => {
                self.unlink([partial.place]);
                return Ok(Put::Refused);
            }
            Err(error) => {
                self.unlink([partial.place]);
                return Err(failed("write a repaired segment", error));
            }
        }
        let number = partial.place.number;
        self.written(number);
        self.sync()?;
        let record = Meta::Present {
            range,
            file: name.clone(),
            segment,
            place: number,
        };
        if let Err(error) = self.log(&[record], true) {
            self.unlink([partial.place]);
            return Err(error);
        }
        let held = self.held_mut(range, name)?;
        if let Some(slot) = held.file.segment_mut(segment) {
            *slot = Segment {
                sealed: true,
                ..partial.have
            };
            held.places.insert(segment, partial.place);
        }
        self.tidy();
        Ok(Put::Done)
    }

    /// False: these are not the entries that come next.
    fn put_entries(
        &self,
        partial: &mut PartialSegment,
        at: u64,
        entries: &[EntryMeta],
        payload: &Bytes,
    ) -> io::Result<bool> {
        if partial.have.entries != at {
            return Ok(false);
        }
        let file = self.handles().get(partial.place.number)?;
        let (mut from, mut scratch) = (0, Vec::new());
        for entry in entries {
            let to = from + entry.len as usize;
            let Some(piece) = payload.get(from..to).filter(|piece| entry.fits(piece)) else {
                return Ok(false);
            };
            if entry.end != partial.have.bytes + u64::from(entry.len) {
                return Ok(false);
            }
            partial.place.push(&file, *entry, piece, &mut scratch)?;
            partial.have.push(*entry);
            from = to;
        }
        Ok(true)
    }
}
