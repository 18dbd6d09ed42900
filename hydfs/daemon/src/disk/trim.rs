//! Closing a segment for the next one within a view, and dropping what was trimmed.

use std::collections::BTreeMap;
use std::fs::File as OsFile;

use super::meta::Need;
use super::record::Meta;
use super::{DiskStore, StoredFile};
use crate::store::Error;
use common::cluster::Durability;
use hydfs::content::{FileName, Segment, SegmentId};
use hydfs::ring::RangeIx;

impl DiskStore {
    /// What is to be written down when no entry comes into segments before `next` any more. The last one says then what it is, and how far it brings
    /// the streams: when it is dropped, its entries are not there to tell.
    fn closing(held: &StoredFile, range: RangeIx, name: &FileName, next: SegmentId) -> Option<Meta> {
        let last = held.file.segments.last()?;
        if last.sealed || last.id >= next {
            return None;
        }
        let mut streams = BTreeMap::new();
        for entry in &last.index {
            let stream = held.file.streams.get(&entry.client);
            streams.insert(entry.client, stream.copied().unwrap_or_default());
        }
        let mut segment = last.head();
        segment.sealed = true;
        Some(Meta::Closed {
            range,
            file: name.clone(),
            segment,
            streams,
        })
    }

    /// The next segment of a file, empty.
    pub(super) fn open_segment(
        &mut self,
        range: RangeIx,
        name: &FileName,
        segment: SegmentId,
    ) -> Result<(), Error> {
        let held = self.held(range, name)?;
        let nonce = held.file.nonce;
        let closed = Self::closing(held, range, name, segment);
        let place = self.begin(name, nonce, segment)?;
        let open = Meta::Open {
            range,
            file: name.clone(),
            segment,
            place: place.number,
        };
        let records: Vec<Meta> = closed.into_iter().chain([open]).collect();
        if let Err(error) = self.log(&records, false) {
            self.unlink([place]);
            return Err(error);
        }
        self.held_mut(range, name)?.places.insert(segment, place);
        self.tidy();
        Ok(())
    }

    /// With durability `os`: makes durable what a file keeps when its first `count` segments are dropped. Those may be durable, and a power failure of
    /// all replicas must not take both them and what was written to do without them.
    fn sync_kept(&mut self, range: RangeIx, name: &FileName, count: usize) -> Result<(), Error> {
        if self.durability == Durability::Fsync {
            // What is acknowledged is synced already.
            return Ok(());
        }
        let held = self.held(range, name)?;
        let kept = held.file.segments.iter().skip(count);
        let place = |s: &Segment| Some((held.places.get(&s.id)?.number, s.sealed));
        let kept: Vec<(u64, bool)> = kept.filter_map(place).collect();
        let lost = |source| Error::Io {
            what: "sync a segment file".into(),
            source,
        };
        for (number, sealed) in kept {
            if self.kept_synced.contains(&number) {
                continue;
            }
            self.handle(number)?.sync_data().map_err(lost)?;
            let path = self.handles().path(number);
            if let Some(folder) = path.parent() {
                OsFile::open(folder).and_then(|f| f.sync_all()).map_err(lost)?;
            }
            if sealed {
                self.kept_synced.insert(number);
            }
        }
        Ok(())
    }

    pub(super) fn trim_file(
        &mut self,
        range: RangeIx,
        name: &FileName,
        base: u64,
        next: SegmentId,
    ) -> Result<(), Error> {
        let held = self.held(range, name)?;
        let base = base.max(held.file.base);
        let closed = Self::closing(held, range, name, next);
        let (dropped, count) = held.file.droppable(base, next);
        let trim = Meta::Trim {
            range,
            file: name.clone(),
            base,
            dropped,
        };
        let records: Vec<Meta> = closed.into_iter().chain([trim]).collect();
        if count > 0 {
            self.sync_kept(range, name, count)?;
        }
        // Durable before the segment files go: a machine that lost power without it would look for them.
        self.log_that(&records, Need::MakesRoom, count > 0)?;
        let held = self.held_mut(range, name)?;
        let gone = held.file.trim(base, next);
        let places: Vec<_> = gone.iter().filter_map(|id| held.places.remove(id)).collect();
        self.unlink(places);
        for segment in gone {
            let partial = self.partial.remove(&(range, name.clone(), segment));
            self.unlink(partial.map(|p| p.place));
        }
        self.tidy();
        Ok(())
    }
}
