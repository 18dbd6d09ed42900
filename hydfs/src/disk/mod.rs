//! The store on a real disk. `docs/formats.md` says what its files look like.
//!
//! ```text
//! data/hydfs/lock          held by the running daemon
//!            meta          what this node remembers and which file has which segments: an append-only log
//!            seg/0000a3/00000028f1c2.seg    one segment: entries with their payloads, appended
//! ```
//! Files have numbers, so that no HyDFS name ever is a path.

mod frame;
mod handles;
mod meta;
mod record;
mod recover;
mod segment;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File as OsFile;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use common::cluster::Durability;
use nix::fcntl::{Flock, FlockArg};

use crate::content::{EntryMeta, Fate, File, FileName, Segment, SegmentId};
use crate::ring::RangeIx;
use crate::store::{Error, NodeFacts, Put, RangeFacts, Store};
use crate::view::View;

use handles::Handles;
use meta::MetaLog;
use record::{Meta, SegmentHead};
use segment::{Place, begin_of};

/// Entries longer than this are not read whole again for each part of them that is asked for.
const LARGE: u64 = 1024 * 1024;
/// So many large entries are remembered as verified.
const VERIFIED: usize = 64;
/// Segment files open at a time.
const HANDLES: usize = 512;

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the data folder {folder} is in use by another hydfsd; stop that one first")]
    Locked { folder: PathBuf },
    #[error("cannot use the data folder {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{path} is damaged at byte {at}: what this node remembers cannot be trusted; move the folder away and start again, then its copies come back from the others"
    )]
    Damaged { path: PathBuf, at: u64 },
}

/// A file and where its bytes are.
#[derive(Debug, Clone)]
struct Held {
    file: File,
    /// Of each segment that is not missing. One that is not in `file` was opened and got no entry yet.
    places: BTreeMap<SegmentId, Place>,
}

/// A missing segment on its way back.
struct Partial {
    have: Segment,
    place: Place,
}

pub struct DiskStore {
    durability: Durability,
    meta: MetaLog,
    handles: Mutex<Handles>,
    node: Option<NodeFacts>,
    ranges: BTreeMap<RangeIx, RangeFacts>,
    files: BTreeMap<RangeIx, BTreeMap<FileName, Held>>,
    partial: BTreeMap<(RangeIx, FileName, SegmentId), Partial>,
    next_number: u64,
    /// Segment files written since the last sync.
    unsynced: BTreeSet<u64>,
    scratch: Vec<u8>,
    /// Large entries (segment file, entry) whose checksum was right when they were last read whole.
    verified: Mutex<VecDeque<(u64, usize)>>,
    _lock: Flock<OsFile>,
}

fn failed(what: &str, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full,
        _ => Error::Io {
            what: what.into(),
            source,
        },
    }
}

impl DiskStore {
    /// Opens (or makes) the store under `folder` and recovers what is there.
    pub fn open(folder: &Path, durability: Durability) -> Result<Self, OpenError> {
        let io = |path: &Path| {
            let path = path.to_path_buf();
            move |source| OpenError::Io { path, source }
        };
        let segments = folder.join("seg");
        std::fs::create_dir_all(&segments).map_err(io(&segments))?;
        let lock = folder.join("lock");
        let file = OsFile::create(&lock).map_err(io(&lock))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| OpenError::Locked {
            folder: folder.into(),
        })?;
        let recovered = recover::recover(folder, Handles::new(&segments, HANDLES))?;
        let mut store = Self {
            durability,
            meta: recovered.meta,
            handles: Mutex::new(recovered.handles),
            node: recovered.node,
            ranges: recovered.ranges,
            files: recovered.files,
            partial: BTreeMap::new(),
            next_number: recovered.next_number,
            unsynced: BTreeSet::new(),
            scratch: Vec::new(),
            verified: Mutex::default(),
            _lock: lock,
        };
        if store.meta.outgrown() {
            store.rewrite().map_err(io(folder))?;
        }
        Ok(store)
    }

    fn handles(&self) -> MutexGuard<'_, Handles> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, number: u64) -> Result<Arc<OsFile>, Error> {
        self.handles()
            .get(number)
            .map_err(|e| failed("open a segment file", e))
    }

    fn rewrite(&mut self) -> io::Result<()> {
        let node = self.node.iter().cloned().map(Meta::Node);
        let ranges = self.ranges.iter().map(|(range, facts)| Meta::Range {
            range: *range,
            facts: facts.clone(),
        });
        let files = self.files.iter().flat_map(|(range, files)| {
            files.iter().map(|(name, held)| {
                let places = held
                    .places
                    .iter()
                    .map(|(id, place)| (*id, place.number))
                    .collect();
                Meta::File {
                    range: *range,
                    file: name.clone(),
                    head: held.file.head(),
                    places,
                }
            })
        });
        self.meta.rewrite(node.chain(ranges).chain(files))
    }

    /// `now`: durable when this returns, if the setting asks for it.
    fn log(&mut self, records: &[Meta], now: bool) -> Result<(), Error> {
        self.meta
            .write(records)
            .map_err(|e| failed("write the meta log", e))?;
        if now && self.durability == Durability::Fsync {
            self.meta.sync().map_err(|e| failed("sync the meta log", e))?;
        }
        Ok(())
    }

    /// After a change: only then is memory what the log says.
    fn tidy(&mut self) {
        if self.meta.outgrown()
            && let Err(error) = self.rewrite()
        {
            tracing::warn!(error = %error, "META_REWRITE_FAILED");
        }
    }

    fn held(&self, range: RangeIx, name: &FileName) -> Result<&Held, Error> {
        let held = self.files.get(&range).and_then(|files| files.get(name));
        held.ok_or_else(|| Error::NoSuchFile { file: name.clone() })
    }

    fn held_mut(&mut self, range: RangeIx, name: &FileName) -> Result<&mut Held, Error> {
        let held = self.files.get_mut(&range).and_then(|files| files.get_mut(name));
        held.ok_or_else(|| Error::NoSuchFile { file: name.clone() })
    }

    /// A new segment file with its head.
    fn begin(&mut self, name: &FileName, nonce: u64, segment: SegmentId) -> Result<Place, Error> {
        let number = self.next_number;
        self.next_number += 1;
        let head = SegmentHead {
            file: name.clone(),
            nonce,
            segment,
        };
        let mut handles = self.handles();
        let begun = handles
            .create(number)
            .and_then(|file| Place::begin(number, &file, &head));
        begun.map_err(|error| {
            handles.remove(number);
            failed("make a segment file", error)
        })
    }

    fn unlink(&mut self, places: impl IntoIterator<Item = Place>) {
        for place in places {
            self.unsynced.remove(&place.number);
            self.handles().remove(place.number);
        }
    }

    fn written(&mut self, number: u64) {
        if self.durability == Durability::Fsync {
            self.unsynced.insert(number);
        }
    }

    /// Forgets a file in memory and its bytes on disk; the log knows already.
    fn forget(&mut self, range: RangeIx, name: &FileName) {
        if let Some(held) = self.files.get_mut(&range).and_then(|files| files.remove(name)) {
            self.unlink(held.places.into_values());
        }
    }

    /// The payloads of `first..=last` from byte `from` to `to` of the segment, every entry verified.
    fn read_entries(
        &self,
        meta: &Segment,
        place: &Place,
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

    /// Would installing `target` change nothing?
    fn unchanged(file: &File, target: &File) -> bool {
        file.nonce == target.nonce
            && file.streams == target.streams
            && file.segments.len() == target.segments.len()
            && file
                .segments
                .iter()
                .zip(&target.segments)
                .all(|(mine, want)| mine.sealed && mine.same(want))
    }
}

impl Store for DiskStore {
    fn node(&self) -> Option<&NodeFacts> {
        self.node.as_ref()
    }

    fn set_node(&mut self, facts: NodeFacts) -> Result<(), Error> {
        self.log(&[Meta::Node(facts.clone())], true)?;
        self.node = Some(facts);
        self.tidy();
        Ok(())
    }

    fn range(&self, range: RangeIx) -> RangeFacts {
        self.ranges.get(&range).cloned().unwrap_or_default()
    }

    fn set_ranges(&mut self, facts: Vec<(RangeIx, RangeFacts)>) -> Result<(), Error> {
        let record = |(range, facts): &(RangeIx, RangeFacts)| Meta::Range {
            range: *range,
            facts: facts.clone(),
        };
        self.log(&facts.iter().map(record).collect::<Vec<_>>(), true)?;
        self.ranges.extend(facts);
        self.tidy();
        Ok(())
    }

    fn file(&self, range: RangeIx, name: &FileName) -> Option<&File> {
        self.files.get(&range)?.get(name).map(|held| &held.file)
    }

    fn files(&self, range: RangeIx) -> Box<dyn Iterator<Item = (&FileName, &File)> + '_> {
        Box::new(
            self.files
                .get(&range)
                .into_iter()
                .flatten()
                .map(|(name, held)| (name, &held.file)),
        )
    }

    fn create(&mut self, range: RangeIx, name: &FileName, nonce: u64) -> Result<(), Error> {
        let file = File::new(nonce);
        let record = Meta::File {
            range,
            file: name.clone(),
            head: file.clone(),
            places: Vec::new(),
        };
        self.log(&[record], false)?;
        self.forget(range, name);
        self.files.entry(range).or_default().insert(
            name.clone(),
            Held {
                file,
                places: BTreeMap::new(),
            },
        );
        self.tidy();
        Ok(())
    }

    fn remove(&mut self, range: RangeIx, name: &FileName) -> Result<(), Error> {
        if self.file(range, name).is_some() {
            self.log(
                &[Meta::Remove {
                    range,
                    file: name.clone(),
                }],
                false,
            )?;
            self.forget(range, name);
            self.tidy();
        }
        Ok(())
    }

    fn append(
        &mut self,
        range: RangeIx,
        name: &FileName,
        segment: SegmentId,
        entry: EntryMeta,
        payload: &Bytes,
    ) -> Result<(), Error> {
        let held = self.held(range, name)?;
        if held
            .file
            .segments
            .last()
            .is_some_and(|s| s.id == segment && s.missing)
        {
            // What can't be stored must not be acknowledged.
            return Err(Error::Missing {
                file: name.clone(),
                segment,
            });
        }
        if !held.places.contains_key(&segment) {
            let nonce = held.file.nonce;
            let place = self.begin(name, nonce, segment)?;
            let open = Meta::Open {
                range,
                file: name.clone(),
                segment,
                place: place.number,
            };
            if let Err(error) = self.log(&[open], false) {
                self.unlink([place]);
                return Err(error);
            }
            self.held_mut(range, name)?.places.insert(segment, place);
            self.tidy();
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let handles = &self.handles;
        let held = self.files.get_mut(&range).and_then(|files| files.get_mut(name));
        let held = held.ok_or_else(|| Error::NoSuchFile { file: name.clone() })?;
        let place = held.places.get_mut(&segment).ok_or_else(|| Error::Missing {
            file: name.clone(),
            segment,
        })?;
        let number = place.number;
        let file = handles.lock().unwrap_or_else(PoisonError::into_inner).get(number);
        let pushed = file.and_then(|file| place.push(&file, entry, payload, &mut scratch));
        self.scratch = scratch;
        pushed.map_err(|e| failed("append to a segment file", e))?;
        held.file.apply(segment, entry);
        self.written(number);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Error> {
        if self.durability == Durability::Os {
            return Ok(());
        }
        for number in std::mem::take(&mut self.unsynced) {
            self.handle(number)?
                .sync_data()
                .map_err(|e| failed("sync a segment file", e))?;
        }
        self.meta.sync().map_err(|e| failed("sync the meta log", e))
    }

    fn install(&mut self, range: RangeIx, set: &View, files: &[(FileName, File)]) -> Result<usize, Error> {
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
            let kept = fates.iter().filter(|(_, fate)| *fate != Fate::Drop);
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
        self.log(&records, true)?;

        self.ranges.insert(range, facts);
        gone.iter().for_each(|name| self.forget(range, name));
        for (name, file, fates) in changed {
            let old = self.files.get_mut(&range).and_then(|files| files.remove(name));
            let mut old = old.map(|held| held.places).unwrap_or_default();
            let mut places = BTreeMap::new();
            for (id, fate) in fates {
                if fate == Fate::Drop {
                    continue;
                }
                let Some(mut place) = old.remove(&id) else {
                    continue;
                };
                if let (Fate::Cut { .. }, Some(segment)) = (fate, file.segment(id)) {
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
                .insert(name.clone(), Held { file, places });
        }
        self.tidy();
        Ok(gone.len())
    }

    fn drop_range(&mut self, range: RangeIx) -> Result<(), Error> {
        let facts = RangeFacts {
            installed: None,
            ..self.range(range)
        };
        self.log(
            &[
                Meta::DropRange { range },
                Meta::Range {
                    range,
                    facts: facts.clone(),
                },
            ],
            true,
        )?;
        self.ranges.insert(range, facts);
        for held in self.files.remove(&range).unwrap_or_default().into_values() {
            self.unlink(held.places.into_values());
        }
        self.tidy();
        Ok(())
    }

    fn put_segment(
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
            None if at == 0 => Partial {
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

    fn set_missing(&mut self, range: RangeIx, name: &FileName, segment: SegmentId) -> Result<(), Error> {
        if self
            .held(range, name)?
            .file
            .segment(segment)
            .is_none_or(|s| s.missing)
        {
            return Ok(());
        }
        self.log(
            &[Meta::Missing {
                range,
                file: name.clone(),
                segment,
            }],
            true,
        )?;
        let held = self.held_mut(range, name)?;
        if let Some(segment) = held.file.segment_mut(segment) {
            segment.lose();
        }
        let place = held.places.remove(&segment);
        self.unlink(place);
        self.tidy();
        Ok(())
    }

    fn read(
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
}

impl DiskStore {
    /// False: these are not the entries that come next.
    fn put_entries(
        &self,
        partial: &mut Partial,
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
