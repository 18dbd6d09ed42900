//! What is on the disk, read back at start: the meta log says which segments there should be; the segment files say what is in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File as OsFile;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::handles::Handles;
use super::meta::{self, MetaLog};
use super::record::{Meta, Opened};
use super::segment::{ScanEnd, ScannedSegment, SegmentPlace};
use super::{OpenError, StoredFile};
use crate::store::{NodeFacts, RangeFacts};
use hydfs::content::{File, FileName, Segment, SegmentId};
use hydfs::ring::RangeIx;

pub struct Recovered {
    pub meta: MetaLog,
    pub handles: Handles,
    pub node: Option<NodeFacts>,
    pub ranges: BTreeMap<RangeIx, RangeFacts>,
    pub files: BTreeMap<RangeIx, BTreeMap<FileName, StoredFile>>,
    pub next_number: u64,
    /// See [`Meta::LostNewest`].
    pub lost_newest: bool,
}

/// A file as the meta log says.
#[derive(Default)]
struct LoggedFile {
    head: File,
    places: BTreeMap<SegmentId, u64>,
}

#[derive(Default)]
struct Log {
    node: Option<NodeFacts>,
    ranges: BTreeMap<RangeIx, RangeFacts>,
    files: BTreeMap<RangeIx, BTreeMap<FileName, LoggedFile>>,
    opened: Option<Opened>,
    lost_newest: bool,
}

impl Log {
    fn said(&mut self, range: RangeIx, file: &FileName) -> Option<&mut LoggedFile> {
        self.files.get_mut(&range)?.get_mut(file)
    }

    fn replay(&mut self, meta: Meta) {
        match meta {
            Meta::Node(facts) => (self.node, self.lost_newest) = (Some(facts), false),
            Meta::Range { range, facts } => {
                self.ranges.insert(range, facts);
            }
            Meta::File {
                range,
                file,
                head,
                places,
            } => {
                let said = LoggedFile {
                    head,
                    places: places.into_iter().collect(),
                };
                self.files.entry(range).or_default().insert(file, said);
            }
            Meta::Remove { range, file } => {
                self.files.entry(range).or_default().remove(&file);
            }
            Meta::Open {
                range,
                file,
                segment,
                place,
            } => {
                if let Some(said) = self.said(range, &file) {
                    said.places.insert(segment, place);
                }
            }
            Meta::Present {
                range,
                file,
                segment,
                place,
            } => {
                if let Some(said) = self.said(range, &file) {
                    said.places.insert(segment, place);
                    if let Some(segment) = said.head.segment_mut(segment) {
                        segment.missing = false;
                    }
                }
            }
            Meta::Missing { range, file, segment } => {
                if let Some(said) = self.said(range, &file) {
                    said.places.remove(&segment);
                    if said.head.segment(segment).is_none() {
                        said.head.segments.push(Segment::open(segment));
                    }
                    if let Some(segment) = said.head.segment_mut(segment) {
                        segment.lose();
                    }
                }
            }
            Meta::DropRange { range } => {
                self.files.remove(&range);
            }
            Meta::Opened(opened) => self.opened = Some(opened),
            Meta::LostNewest => self.lost_newest = true,
        }
    }
}

/// `now`: how the store is opened.
pub fn recover(folder: &Path, mut handles: Handles, now: &Opened) -> Result<Recovered, OpenError> {
    let mut log = Log::default();
    let path = folder.join("meta");
    let mut meta = MetaLog::open(&path, |record| log.replay(record)).map_err(|error| match error {
        meta::OpenError::Io(source) => OpenError::Io {
            path: path.clone(),
            source,
        },
        meta::OpenError::Damaged { path, at } => OpenError::Damaged { path, at },
    })?;
    // A machine that went down took with it what the kernel had not written yet.
    let rebooted = |before: &Opened| !before.fsync && before.boot != now.boot;
    let mut lost_newest = log.lost_newest || meta.torn || log.opened.as_ref().is_some_and(rebooted);
    let (mut lost, mut cuts) = (Vec::new(), Vec::new());
    let mut files: BTreeMap<RangeIx, BTreeMap<FileName, StoredFile>> = BTreeMap::new();
    for (range, saids) in log.files {
        for (name, said) in saids {
            let mut losses = Vec::new();
            let held = read_file(said, &mut handles, &mut losses, &mut cuts);
            let held = held.map_err(|source| OpenError::Io {
                path: folder.join("seg"),
                source,
            })?;
            for segment in losses {
                tracing::error!(file = %name, segment = %segment, "DAMAGED");
                lost.push(Meta::Missing {
                    range,
                    file: name.clone(),
                    segment,
                });
            }
            files.entry(range).or_default().insert(name, held);
        }
    }
    // An end that is torn off may be that of an entry that was never whole (of a killed process), or all that is left of many.
    lost_newest |= cuts.iter().any(|cut| cut.torn);
    if lost_newest {
        tracing::warn!(folder = %folder.display(), "LOST_NEWEST");
        lost.push(Meta::LostNewest);
    }
    lost.push(Meta::Opened(now.clone()));
    // Known before the evidence is gone.
    let written = meta.write(&lost).and_then(|()| meta.sync());
    written.map_err(|source| OpenError::Io { path, source })?;
    for SegmentCut { file, size, .. } in cuts {
        file.set_len(size).map_err(|source| OpenError::Io {
            path: folder.join("seg"),
            source,
        })?;
    }
    let places = files
        .values()
        .flat_map(BTreeMap::values)
        .flat_map(|held| held.places.values());
    let used: BTreeSet<u64> = places.map(|p| p.number).collect();
    let segments = folder.join("seg");
    let last = sweep(&segments, &used).map_err(|source| OpenError::Io {
        path: segments,
        source,
    })?;
    Ok(Recovered {
        meta,
        handles,
        node: log.node,
        ranges: log.ranges,
        files,
        next_number: last + 1,
        lost_newest,
    })
}

/// An open segment's file ends at `size`; what is behind goes.
struct SegmentCut {
    file: Arc<OsFile>,
    size: u64,
    torn: bool,
}

/// Reads the segments of one file. Those whose bytes are not all there go to `losses`.
fn read_file(
    said: LoggedFile,
    handles: &mut Handles,
    losses: &mut Vec<SegmentId>,
    cuts: &mut Vec<SegmentCut>,
) -> io::Result<StoredFile> {
    let LoggedFile {
        head,
        places: mut said_places,
    } = said;
    let mut places = BTreeMap::new();
    let sealed: BTreeMap<SegmentId, bool> = head.segments.iter().map(|s| (s.id, s.sealed)).collect();
    let mut file = File {
        nonce: head.nonce,
        segments: Vec::new(),
        streams: head.streams,
    };
    for segment in head.segments {
        let id = segment.id;
        let number = said_places.remove(&id);
        if segment.missing {
            file.segments.push(segment);
            continue;
        }
        let scanned = match number {
            Some(number) => scan(number, handles)?,
            None => None,
        };
        match scanned
            .and_then(|(os, scanned)| keep(&mut file, &segment, os, scanned, cuts).transpose())
            .transpose()?
        {
            Some(place) => {
                places.insert(id, place);
            }
            // It never had a byte, and so no file.
            None if number.is_none() && segment.entries == 0 => file.segments.push(segment),
            None => {
                let mut segment = segment;
                segment.lose();
                file.segments.push(segment);
                losses.push(id);
            }
        }
    }
    // Opened since.
    for (id, number) in said_places {
        let Some((os, scanned)) = scan(number, handles)? else {
            file.segments.push(Segment {
                missing: true,
                ..Segment::open(id)
            });
            losses.push(id);
            continue;
        };
        scanned.entries.iter().for_each(|entry| file.apply(id, *entry));
        match scanned.end {
            ScanEnd::Damaged => {
                if scanned.entries.is_empty() {
                    file.segments.push(Segment::open(id));
                }
                if let Some(segment) = file.segment_mut(id) {
                    segment.lose();
                }
                losses.push(id);
            }
            end @ (ScanEnd::Whole | ScanEnd::Torn) => {
                cuts.push(SegmentCut {
                    file: os,
                    size: scanned.place.size,
                    torn: end == ScanEnd::Torn,
                });
                // Otherwise not even its head came to be.
                if scanned.place.size > 0 {
                    places.insert(id, scanned.place);
                }
            }
        }
    }
    // One that was opened and lost stands before others that were opened earlier: identities rise.
    file.segments.sort_by_key(|s| s.id);
    if let Some((last, before)) = file.segments.split_last_mut() {
        before.iter_mut().for_each(|s| s.sealed = true);
        last.sealed = sealed.get(&last.id).copied().unwrap_or(false);
    }
    Ok(StoredFile { file, places })
}

/// `None`: there is no such file.
fn scan(number: u64, handles: &mut Handles) -> io::Result<Option<(Arc<OsFile>, ScannedSegment)>> {
    match handles.get(number) {
        Ok(os) => {
            let scanned = SegmentPlace::scan(number, &os)?;
            Ok(Some((os, scanned)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Adds the segment that the log speaks of to `file`, if what was read is that segment: exactly when it is sealed, at least when it is open.
fn keep(
    file: &mut File,
    said: &Segment,
    os: Arc<OsFile>,
    scanned: ScannedSegment,
    cuts: &mut Vec<SegmentCut>,
) -> io::Result<Option<SegmentPlace>> {
    let mut all = Segment::open(said.id);
    scanned.entries.iter().for_each(|entry| all.push(*entry));
    let Some(prefix) = all.prefix(said.entries).filter(|prefix| prefix.same(said)) else {
        return Ok(None);
    };
    let mut place = scanned.place;
    let begin = prefix.index.len();
    file.segments.push(Segment {
        sealed: said.sealed,
        ..prefix
    });
    if said.sealed {
        // More than that, whole or not, is what a cut that was interrupted should have cut.
        let index = &all.index[..begin];
        place.cut(&os, index, begin)?;
    } else if scanned.end == ScanEnd::Damaged {
        file.segments.pop();
        return Ok(None);
    } else {
        cuts.push(SegmentCut {
            file: os,
            size: place.size,
            torn: scanned.end == ScanEnd::Torn,
        });
        all.index[begin..]
            .iter()
            .for_each(|entry| file.apply(said.id, *entry));
    }
    Ok(Some(place))
}

/// Removes segment files that nothing speaks of; returns the highest number ever seen.
fn sweep(folder: &Path, used: &BTreeSet<u64>) -> io::Result<u64> {
    let mut last = used.last().copied().unwrap_or(0);
    for sub in std::fs::read_dir(folder)? {
        let sub = sub?.path();
        if !sub.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(&sub)? {
            let path = entry?.path();
            let Some(number) = Handles::number(&path) else {
                continue;
            };
            last = last.max(number);
            if !used.contains(&number) {
                std::fs::remove_file(&path)?;
            }
        }
    }
    Ok(last)
}
