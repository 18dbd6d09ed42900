//! What is on the disk, read back at start: the meta log says which segments there should be; the segment files say what is in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File as OsFile;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::handles::Handles;
use super::meta::{self, MetaLog, Need};
use super::record::{Meta, Opened};
use super::segment::{ScanEnd, ScannedSegment, SegmentPlace};
use super::{OpenError, StoredFile};
use crate::store::{NodeFacts, RangeFacts};
use hydfs::content::{ClientId, Dropped, File, FileName, Segment, SegmentId, Stream};
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
    /// Segments that were closed since the head was written, and how far they bring the streams.
    closed: BTreeMap<SegmentId, (Segment, BTreeMap<ClientId, Stream>)>,
}

impl LoggedFile {
    fn lose(&mut self, id: SegmentId) {
        self.places.remove(&id);
        if let Some((segment, _)) = self.closed.get_mut(&id) {
            return segment.lose();
        }
        if self.head.segment(id).is_none() {
            self.head.segments.push(Segment::open(id));
        }
        if let Some(segment) = self.head.segment_mut(id) {
            segment.lose();
        }
    }

    fn find(&mut self, id: SegmentId, place: u64) {
        self.places.insert(id, place);
        let closed = self.closed.get_mut(&id).map(|(segment, _)| segment);
        if let Some(segment) = closed.or(self.head.segment_mut(id)) {
            segment.missing = false;
        }
    }

    fn trim(&mut self, base: u64, dropped: Dropped) {
        (self.head.base, self.head.dropped) = (base, dropped);
        let Some(last) = dropped.last else { return };
        self.head.segments.retain(|s| s.id > last);
        self.places.retain(|id, _| *id > last);
        for (_, (_, streams)) in self.closed.extract_if(..=last, |_, _| true) {
            self.head.streams.extend(streams);
        }
    }
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
                    closed: BTreeMap::new(),
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
                    said.find(segment, place);
                }
            }
            Meta::Missing { range, file, segment } => {
                if let Some(said) = self.said(range, &file) {
                    said.lose(segment);
                }
            }
            Meta::Closed {
                range,
                file,
                segment,
                streams,
            } => {
                if let Some(said) = self.said(range, &file) {
                    said.closed.insert(segment.id, (segment, streams));
                }
            }
            Meta::Trim {
                range,
                file,
                base,
                dropped,
            } => {
                if let Some(said) = self.said(range, &file) {
                    said.trim(base, dropped);
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
            let mut read = FileReader::new(&mut handles, &mut cuts);
            let held = read.file(said);
            let FileReader {
                losses,
                cut_short,
                unlike,
                ..
            } = read;
            let held = held.map_err(|source| OpenError::Io {
                path: folder.join("seg"),
                source,
            })?;
            lost_newest |= cut_short;
            if unlike {
                lost.push(held.record(range, &name));
            }
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
    let written = meta.write(&lost, Need::MakesRoom).and_then(|()| meta.sync());
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

/// Reads the segments of one file.
struct FileReader<'a> {
    handles: &'a mut Handles,
    cuts: &'a mut Vec<SegmentCut>,
    file: File,
    places: BTreeMap<SegmentId, SegmentPlace>,
    /// Their bytes are not all there.
    losses: Vec<SegmentId>,
    /// The newest is gone: a segment that was closed ends before it was.
    cut_short: bool,
    /// The log names segments that are not there and never count.
    unlike: bool,
    /// The newest that was closed within the view.
    closed: Option<SegmentId>,
}

impl<'a> FileReader<'a> {
    fn new(handles: &'a mut Handles, cuts: &'a mut Vec<SegmentCut>) -> Self {
        Self {
            handles,
            cuts,
            file: File::default(),
            places: BTreeMap::new(),
            losses: Vec::new(),
            cut_short: false,
            unlike: false,
            closed: None,
        }
    }

    fn file(&mut self, mut said: LoggedFile) -> io::Result<StoredFile> {
        let segments = std::mem::take(&mut said.head.segments);
        let mut heads: BTreeMap<SegmentId, Segment> = segments.into_iter().map(|s| (s.id, s)).collect();
        let ids = heads.keys().chain(said.closed.keys()).chain(said.places.keys());
        let ids: BTreeSet<SegmentId> = ids.copied().collect();
        self.file = said.head;
        for id in ids {
            let place = said.places.remove(&id);
            // What lies behind the end of what was put in order is no part of it.
            if self.cut_short {
                self.unlike = true;
                continue;
            }
            match (heads.remove(&id), said.closed.remove(&id)) {
                (head, Some((segment, streams))) => {
                    let known = head.map_or(0, |s| s.entries);
                    self.closed(segment, known, streams, place)?;
                }
                (Some(head), None) => self.known(head, place)?,
                (None, None) => self.opened(id, place)?,
            }
        }
        if let Some((_, before)) = self.file.segments.split_last_mut() {
            before.iter_mut().for_each(|s| s.sealed = true);
        }
        Ok(StoredFile {
            file: std::mem::take(&mut self.file),
            places: std::mem::take(&mut self.places),
        })
    }

    fn lose(&mut self, mut segment: Segment) {
        segment.lose();
        self.losses.push(segment.id);
        self.file.segments.push(segment);
    }

    /// A segment of which a take-over, or a snapshot of the log, has written down what it was.
    fn known(&mut self, segment: Segment, place: Option<u64>) -> io::Result<()> {
        if segment.missing {
            self.file.segments.push(segment);
            return Ok(());
        }
        let scanned = match place {
            Some(number) => scan(number, self.handles)?,
            None => None,
        };
        let kept = scanned
            .and_then(|(os, scanned)| keep(&mut self.file, &segment, os, scanned, self.cuts).transpose());
        match kept.transpose()? {
            Some(place) => drop(self.places.insert(segment.id, place)),
            // It never had a byte, and so no file.
            None if place.is_none() && segment.entries == 0 => self.file.segments.push(segment),
            None => self.lose(segment),
        }
        Ok(())
    }

    /// A segment that was closed within the view. Its bytes were not synced then: if they end too early, so does all that this node has of the
    /// view's order. `known`: so many entries are in the head's streams.
    fn closed(
        &mut self,
        segment: Segment,
        known: u64,
        streams: BTreeMap<ClientId, Stream>,
        place: Option<u64>,
    ) -> io::Result<()> {
        self.closed = Some(segment.id);
        let scanned = match place {
            Some(number) if !segment.missing => scan(number, self.handles)?,
            _ => None,
        };
        let Some((os, scanned)) = scanned else {
            match segment.missing {
                true => {
                    self.file.streams.extend(streams);
                    self.file.segments.push(segment);
                }
                false => self.cut_short = true,
            }
            self.unlike |= self.cut_short;
            return Ok(());
        };
        let mut all = Segment::open(segment.id);
        scanned.entries.iter().for_each(|entry| all.push(*entry));
        if all.same(&segment) {
            self.file.streams.extend(streams);
            self.file.segments.push(Segment { sealed: true, ..all });
            self.places.insert(segment.id, scanned.place);
        } else if scanned.end != ScanEnd::Damaged && (known..segment.entries).contains(&all.entries) {
            (self.cut_short, self.unlike) = (true, true);
            self.newest(segment.id, os, scanned);
        } else {
            self.file.streams.extend(streams);
            self.lose(segment);
        }
        Ok(())
    }

    /// A segment that was opened since, and may have been written to when the process ended.
    fn opened(&mut self, id: SegmentId, place: Option<u64>) -> io::Result<()> {
        let scanned = match place {
            Some(number) => scan(number, self.handles)?,
            None => None,
        };
        match scanned {
            None => self.lose(Segment::open(id)),
            Some((_, scanned)) if scanned.end == ScanEnd::Damaged => {
                let mut segment = Segment::open(id);
                for entry in scanned.entries {
                    segment.push(entry);
                }
                self.lose(segment);
            }
            Some((os, scanned)) => self.newest(id, os, scanned),
        }
        Ok(())
    }

    /// Takes what is there of the newest segment.
    fn newest(&mut self, id: SegmentId, os: Arc<OsFile>, scanned: ScannedSegment) {
        // One that was closed for an entry that did not come is still the one that entries come into.
        if scanned.entries.is_empty()
            && let Some(last) = self
                .file
                .segments
                .last_mut()
                .filter(|s| Some(s.id) == self.closed)
        {
            last.sealed = false;
        }
        scanned
            .entries
            .iter()
            .for_each(|entry| self.file.apply(id, *entry));
        self.cuts.push(SegmentCut {
            file: os,
            size: scanned.place.size,
            torn: scanned.end == ScanEnd::Torn,
        });
        // Otherwise not even its head came to be.
        match scanned.place.size > 0 {
            true => drop(self.places.insert(id, scanned.place)),
            false => self.unlike = true,
        }
    }
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
