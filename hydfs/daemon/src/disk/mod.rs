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
mod install;
mod meta;
mod read;
mod record;
mod recover;
#[cfg(test)]
mod room;
mod segment;
#[cfg(test)]
mod tests;
mod trim;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File as OsFile;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use common::cluster::Durability;
use nix::fcntl::{Flock, FlockArg};

use crate::store::{Error, NodeFacts, Put, RangeFacts, Store};
use hydfs::content::{EntryMeta, File, FileName, Segment, SegmentId};
use hydfs::ring::RangeIx;
use hydfs::view::View;

use handles::Handles;
use meta::{MetaLog, Need};
use record::{Meta, Opened, SegmentHead};
use segment::SegmentPlace;

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
struct StoredFile {
    file: File,
    /// Of each segment that is not missing. One that is not in `file` was opened and got no entry yet.
    places: BTreeMap<SegmentId, SegmentPlace>,
}

impl StoredFile {
    /// The file as it is.
    fn record(&self, range: RangeIx, name: &FileName) -> Meta {
        let places = self.places.iter().map(|(id, place)| (*id, place.number));
        Meta::File {
            range,
            file: name.clone(),
            head: self.file.head(),
            places: places.collect(),
        }
    }
}

/// A missing segment on its way back.
struct PartialSegment {
    have: Segment,
    place: SegmentPlace,
}

pub struct DiskStore {
    durability: Durability,
    opened: Opened,
    meta: MetaLog,
    handles: Mutex<Handles>,
    node: Option<NodeFacts>,
    lost_newest: bool,
    ranges: BTreeMap<RangeIx, RangeFacts>,
    files: BTreeMap<RangeIx, BTreeMap<FileName, StoredFile>>,
    partial: BTreeMap<(RangeIx, FileName, SegmentId), PartialSegment>,
    next_number: u64,
    /// Segment files written since the last sync.
    unsynced: BTreeSet<u64>,
    /// With durability `os`, closed segment files that a trim has synced: the others may be nowhere but in the kernel.
    kept_synced: BTreeSet<u64>,
    /// Folders in which segment files were made since.
    unsynced_folders: BTreeSet<PathBuf>,
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
        let now = Opened {
            // Changes with every boot of the machine (random(4)).
            boot: std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
            fsync: durability == Durability::Fsync,
        };
        let recovered = recover::recover(folder, Handles::new(&segments, HANDLES), &now)?;
        let mut store = Self {
            durability,
            meta: recovered.meta,
            handles: Mutex::new(recovered.handles),
            node: recovered.node,
            lost_newest: recovered.lost_newest,
            opened: now,
            ranges: recovered.ranges,
            files: recovered.files,
            partial: BTreeMap::new(),
            next_number: recovered.next_number,
            unsynced: BTreeSet::new(),
            kept_synced: BTreeSet::new(),
            unsynced_folders: BTreeSet::new(),
            scratch: Vec::new(),
            verified: Mutex::default(),
            _lock: lock,
        };
        if durability == Durability::Fsync {
            let path = folder;
            OsFile::open(path).and_then(|f| f.sync_all()).map_err(io(path))?;
        }
        store.tidy();
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
        let lost = self.lost_newest.then_some(Meta::LostNewest);
        let opened = Meta::Opened(self.opened.clone());
        let ranges = self.ranges.iter().map(|(range, facts)| Meta::Range {
            range: *range,
            facts: facts.clone(),
        });
        let files = self.files.iter().flat_map(|(range, files)| {
            let record = |(name, held): (&FileName, &StoredFile)| held.record(*range, name);
            files.iter().map(record)
        });
        let facts = node.chain(lost).chain([opened]);
        self.meta.rewrite(facts.chain(ranges).chain(files))
    }

    /// `now`: durable when this returns, whatever the setting. What the protocol remembers changes seldom, and a machine that came back from a power
    /// failure without it could contradict itself.
    fn log(&mut self, records: &[Meta], now: bool) -> Result<(), Error> {
        self.log_that(records, Need::Room, now)
    }

    fn log_that(&mut self, records: &[Meta], need: Need, now: bool) -> Result<(), Error> {
        self.meta
            .write(records, need)
            .map_err(|e| failed("write the meta log", e))?;
        if now {
            let lost = |source| Error::Io {
                what: "sync the meta log".into(),
                source,
            };
            self.meta.sync().map_err(lost)?;
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

    fn held(&self, range: RangeIx, name: &FileName) -> Result<&StoredFile, Error> {
        let held = self.files.get(&range).and_then(|files| files.get(name));
        held.ok_or_else(|| Error::NoSuchFile { file: name.clone() })
    }

    fn held_mut(&mut self, range: RangeIx, name: &FileName) -> Result<&mut StoredFile, Error> {
        let held = self.files.get_mut(&range).and_then(|files| files.get_mut(name));
        held.ok_or_else(|| Error::NoSuchFile { file: name.clone() })
    }

    /// A new segment file with its head.
    fn begin(&mut self, name: &FileName, nonce: u64, segment: SegmentId) -> Result<SegmentPlace, Error> {
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
            .and_then(|file| SegmentPlace::begin(number, &file, &head));
        let begun = begun.map_err(|error| {
            handles.remove(number);
            failed("make a segment file", error)
        });
        if self.durability == Durability::Fsync {
            let path = handles.path(number);
            drop(handles);
            // The folder itself may be new, too.
            let folders = path.ancestors().skip(1).take(2).map(Path::to_path_buf);
            self.unsynced_folders.extend(folders);
        }
        begun
    }

    fn unlink(&mut self, places: impl IntoIterator<Item = SegmentPlace>) {
        for place in places {
            self.unsynced.remove(&place.number);
            self.kept_synced.remove(&place.number);
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
}

impl Store for DiskStore {
    fn node(&self) -> Option<&NodeFacts> {
        self.node.as_ref()
    }

    fn set_node(&mut self, facts: NodeFacts) -> Result<(), Error> {
        self.log_that(&[Meta::Node(facts.clone())], Need::Memory, true)?;
        self.node = Some(facts);
        self.lost_newest = false;
        self.tidy();
        Ok(())
    }

    fn lost_newest(&self) -> bool {
        self.lost_newest
    }

    fn range(&self, range: RangeIx) -> RangeFacts {
        self.ranges.get(&range).cloned().unwrap_or_default()
    }

    fn set_ranges(&mut self, facts: Vec<(RangeIx, RangeFacts)>) -> Result<(), Error> {
        let record = |(range, facts): &(RangeIx, RangeFacts)| Meta::Range {
            range: *range,
            facts: facts.clone(),
        };
        let records: Vec<Meta> = facts.iter().map(record).collect();
        self.log_that(&records, Need::Memory, true)?;
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
            StoredFile {
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
        let last = held.file.segments.last();
        if last.is_some_and(|s| s.missing && (!s.sealed || s.id == segment)) {
            // What can't be stored must not be acknowledged.
            return Err(Error::Missing {
                file: name.clone(),
                segment,
            });
        }
        if !held.places.contains_key(&segment) {
            self.open_segment(range, name, segment)?;
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

    fn trim(&mut self, range: RangeIx, name: &FileName, base: u64, next: SegmentId) -> Result<(), Error> {
        self.trim_file(range, name, base, next)
    }

    fn sync(&mut self) -> Result<(), Error> {
        if self.durability == Durability::Os {
            return Ok(());
        }
        // After a failure nobody knows what the disk has; also one for want of room is no refusal of anything that could be repeated.
        let lost = |what: &'static str| {
            move |source| Error::Io {
                what: what.into(),
                source,
            }
        };
        for number in std::mem::take(&mut self.unsynced) {
            let file = self.handle(number)?;
            file.sync_data().map_err(lost("sync a segment file"))?;
        }
        // The names of new segment files.
        for folder in std::mem::take(&mut self.unsynced_folders) {
            let synced = OsFile::open(&folder).and_then(|f| f.sync_all());
            synced.map_err(lost("sync a folder"))?;
        }
        self.meta.sync().map_err(lost("sync the meta log"))
    }

    fn install(&mut self, range: RangeIx, set: &View, files: &[(FileName, File)]) -> Result<usize, Error> {
        self.install_range(range, set, files)
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
        self.put_piece(range, name, segment, at, entries, payload)
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
        self.read_segment(range, name, segment, offset, len)
    }
}
