//! A store in memory, for simulations and tests: it outlives the replica that used it, can be full, and can break in the middle of things.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Error, NodeFacts, Put, RangeFacts, Store};
use hydfs::content::{ClientId, EntryMeta, File, FileName, Segment, SegmentFate, SegmentId, Stream};
use hydfs::ring::RangeIx;
use hydfs::view::View;

#[derive(Debug, Clone, Default)]
struct StoredFile {
    file: File,
    bytes: BTreeMap<SegmentId, Vec<u8>>,
    durable: Option<DurablePart>,
}

/// What a power failure leaves: what a take-over wrote down, and what was written down since with a segment that was dropped or lost.
#[derive(Debug, Clone, Default)]
struct DurablePart {
    streams: BTreeMap<ClientId, Stream>,
    /// The newest segment of it.
    last: Option<SegmentId>,
    base: u64,
}

impl StoredFile {
    fn new(nonce: u64) -> Self {
        Self {
            file: File::new(nonce),
            bytes: BTreeMap::new(),
            durable: None,
        }
    }

    /// Everything up to this segment is durable, which is still as it was.
    fn harden(&mut self, last: SegmentId) {
        let durable = self.durable.get_or_insert_default();
        let new = self
            .file
            .segments
            .iter()
            .filter(|s| Some(s.id) > durable.last && s.id <= last);
        let mut file = File {
            streams: std::mem::take(&mut durable.streams),
            ..File::default()
        };
        for segment in new {
            segment
                .index
                .iter()
                .for_each(|entry| file.apply(segment.id, *entry));
        }
        (durable.streams, durable.last) = (file.streams, durable.last.max(Some(last)));
    }
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct MemStore {
    node: Option<NodeFacts>,
    ranges: BTreeMap<RangeIx, RangeFacts>,
    files: BTreeMap<RangeIx, BTreeMap<FileName, StoredFile>>,
    putting: BTreeMap<(RangeIx, FileName, SegmentId), (Segment, Vec<u8>)>,
    /// Removed since this range was last installed: a power failure may bring them back.
    removed: Vec<(RangeIx, FileName, StoredFile)>,
    lost_newest: bool,
    /// Refuses what is to be stored. What the protocol remembers has its reserve.
    pub full: bool,
    /// The reserve is used up, too: nothing but trims and removals is taken.
    pub out_of_reserve: bool,
    /// Breaks after this many more writes, as a killed process would; nothing of the one that breaks is done.
    pub break_after: Option<u32>,
}

impl MemStore {
    fn write(&mut self) -> Result<(), Error> {
        if let Some(left) = &mut self.break_after {
            if *left == 0 {
                let source = std::io::Error::other("broken on purpose");
                return Err(Error::Io {
                    what: "write".into(),
                    source,
                });
            }
            *left -= 1;
        }
        Ok(())
    }

    fn room(&mut self) -> Result<(), Error> {
        if self.full { Err(Error::Full) } else { self.write() }
    }

    /// As the disk has it, for what the protocol remembers.
    fn reserve(&mut self) -> Result<(), Error> {
        match self.full && self.out_of_reserve {
            true => Err(Error::Full),
            false => self.write(),
        }
    }

    fn held(&mut self, range: RangeIx, name: &FileName) -> Result<&mut StoredFile, Error> {
        let held = self.files.get_mut(&range).and_then(|files| files.get_mut(name));
        held.ok_or_else(|| Error::NoSuchFile { file: name.clone() })
    }

    /// Flips a bit of a stored byte. False if there is none.
    pub fn flip(&mut self, range: RangeIx, name: &FileName, segment: SegmentId, at: usize) -> bool {
        let bytes = self
            .held(range, name)
            .ok()
            .and_then(|held| held.bytes.get_mut(&segment));
        bytes.and_then(|b| b.get_mut(at)).map(|byte| *byte ^= 1).is_some()
    }
}

impl Store for MemStore {
    fn node(&self) -> Option<&NodeFacts> {
        self.node.as_ref()
    }

    fn set_node(&mut self, facts: NodeFacts) -> Result<(), Error> {
        self.reserve()?;
        self.node = Some(facts);
        self.lost_newest = false;
        Ok(())
    }

    fn lost_newest(&self) -> bool {
        self.lost_newest
    }

    fn range(&self, range: RangeIx) -> RangeFacts {
        self.ranges.get(&range).cloned().unwrap_or_default()
    }

    fn set_ranges(&mut self, facts: Vec<(RangeIx, RangeFacts)>) -> Result<(), Error> {
        self.reserve()?;
        self.ranges.extend(facts);
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
        self.room()?;
        let held = StoredFile::new(nonce);
        self.files.entry(range).or_default().insert(name.clone(), held);
        Ok(())
    }

    fn remove(&mut self, range: RangeIx, name: &FileName) -> Result<(), Error> {
        self.write()?;
        let held = self.files.get_mut(&range).and_then(|files| files.remove(name));
        self.removed.extend(held.map(|held| (range, name.clone(), held)));
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
        self.room()?;
        let held = self.held(range, name)?;
        if held.file.segments.last().is_some_and(|s| s.missing && !s.sealed) {
            return Err(Error::Missing {
                file: name.clone(),
                segment,
            });
        }
        held.file.apply(segment, entry);
        held.bytes.entry(segment).or_default().extend_from_slice(payload);
        Ok(())
    }

    fn trim(&mut self, range: RangeIx, name: &FileName, base: u64, next: SegmentId) -> Result<(), Error> {
        self.write()?;
        let held = self.held(range, name)?;
        let (dropped, count) = held.file.droppable(base, next);
        if let Some(last) = dropped.last.filter(|_| count > 0) {
            held.harden(last);
        }
        for segment in held.file.trim(base, next) {
            held.bytes.remove(&segment);
        }
        if let Some(durable) = held.durable.as_mut().filter(|_| count > 0) {
            durable.base = held.file.base;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn install(&mut self, range: RangeIx, set: &View, files: &[(FileName, File)]) -> Result<usize, Error> {
        self.reserve()?;
        let mut dropped = 0;
        let gone: Vec<FileName> = {
            let keep: BTreeMap<_, _> = files.iter().map(|(name, file)| (name, file)).collect();
            self.files(range)
                .filter(|(name, _)| !keep.contains_key(name))
                .map(|(n, _)| n.clone())
                .collect()
        };
        for name in gone {
            self.remove(range, &name)?;
            dropped += 1;
        }
        for (name, target) in files {
            self.write()?;
            let held = self
                .files
                .entry(range)
                .or_default()
                .entry(name.clone())
                .or_insert_with(|| StoredFile::new(target.nonce));
            held.durable = Some(DurablePart {
                streams: target.streams.clone(),
                last: target.segments.last().map(|s| s.id).max(target.dropped.last),
                base: target.base,
            });
            for (segment, fate) in held.file.install(target) {
                match fate {
                    SegmentFate::Keep => {}
                    SegmentFate::Cut { bytes } => {
                        held.bytes.entry(segment).or_default().truncate(bytes as usize);
                    }
                    SegmentFate::Drop => {
                        held.bytes.remove(&segment);
                    }
                }
            }
        }
        self.write()?;
        self.removed.retain(|(r, _, _)| *r != range);
        self.ranges.entry(range).or_default().installed = Some(set.clone());
        Ok(dropped)
    }

    fn drop_range(&mut self, range: RangeIx) -> Result<(), Error> {
        self.write()?;
        self.removed.retain(|(r, _, _)| *r != range);
        self.ranges.entry(range).or_default().installed = None;
        self.files.remove(&range);
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
        self.room()?;
        let key = (range, name.clone(), segment);
        let wanted = self.file(range, name).and_then(|file| file.segment(segment));
        let Some(wanted) = wanted.filter(|s| s.missing && s.sealed).map(Segment::head) else {
            self.putting.remove(&key);
            return Ok(Put::Refused);
        };
        if at == 0 {
            self.putting
                .insert(key.clone(), (Segment::open(segment), Vec::new()));
        }
        let Some((have, bytes)) = self.putting.get_mut(&key).filter(|(have, _)| have.entries == at) else {
            self.putting.remove(&key);
            return Ok(Put::Refused);
        };
        let mut from = 0;
        for entry in entries {
            let to = from + entry.len as usize;
            let fits = payload.get(from..to).is_some_and(|piece| entry.fits(piece));
            if !fits || entry.end != have.bytes + u64::from(entry.len) {
                self.putting.remove(&key);
                return Ok(Put::Refused);
            }
            have.push(*entry);
            from = to;
        }
        bytes.extend_from_slice(&payload[..from]);
        if have.entries < wanted.entries {
            return Ok(Put::More);
        }
        let Some((have, bytes)) = self.putting.remove(&key) else {
            return Ok(Put::Refused);
        };
        if !have.same(&wanted) {
            return Ok(Put::Refused);
        }
        let held = self.held(range, name)?;
        if let Some(slot) = held.file.segment_mut(segment) {
            *slot = Segment { sealed: true, ..have };
            held.bytes.insert(segment, bytes);
        }
        Ok(Put::Done)
    }

    fn set_missing(&mut self, range: RangeIx, name: &FileName, segment: SegmentId) -> Result<(), Error> {
        self.write()?;
        let held = self.held(range, name)?;
        if held.file.segment(segment).is_some_and(|s| s.sealed) {
            held.harden(segment);
        }
        if let Some(segment) = held.file.segment_mut(segment) {
            segment.lose();
        }
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
        let held = self.files.get(&range).and_then(|files| files.get(name));
        let held = held.ok_or_else(|| Error::NoSuchFile { file: name.clone() })?;
        let missing = || Error::Missing {
            file: name.clone(),
            segment,
        };
        let meta = held
            .file
            .segment(segment)
            .filter(|s| !s.missing)
            .ok_or_else(missing)?;
        let empty = Vec::new();
        let bytes = held.bytes.get(&segment).unwrap_or(&empty);
        let (from, to) = (offset.min(meta.bytes), offset.saturating_add(len).min(meta.bytes));
        // Whole entries that the run touches are verified.
        let first = meta.index.partition_point(|e| e.end <= from);
        for entry in meta.index[first..]
            .iter()
            .take_while(|e| e.end - u64::from(e.len) < to)
        {
            let start = entry.end - u64::from(entry.len);
            if !bytes
                .get(start as usize..entry.end as usize)
                .is_some_and(|piece| entry.fits(piece))
            {
                return Err(Error::Damaged {
                    file: name.clone(),
                    segment,
                    offset: start,
                });
            }
        }
        Ok(Bytes::copy_from_slice(
            bytes.get(from as usize..to as usize).unwrap_or(&[]),
        ))
    }
}

#[cfg(test)]
impl MemStore {
    /// What a killed process leaves (and room, or it would not start again).
    pub fn restart(&mut self) {
        self.putting.clear();
        self.break_after = None;
        self.full = false;
        self.out_of_reserve = false;
    }

    /// What a machine leaves whose power failed before the kernel wrote everything: of what is not durable when it is acknowledged, `lose(n)` of the
    /// newest n entries, creations and removals of each file are gone.
    pub fn lose_newest(&mut self, mut lose: impl FnMut(usize) -> usize) {
        for files in self.files.values_mut() {
            files.retain(|_, held| held.lose_newest(&mut lose));
        }
        for (range, name, mut held) in std::mem::take(&mut self.removed) {
            let files = self.files.entry(range).or_default();
            if lose(1) == 1 && !files.contains_key(&name) && held.lose_newest(&mut lose) {
                files.insert(name, held);
            }
        }
        self.lost_newest = true;
    }
}

#[cfg(test)]
impl StoredFile {
    /// False: the whole file is gone.
    fn lose_newest(&mut self, lose: &mut impl FnMut(usize) -> usize) -> bool {
        let durable = self.durable.clone().unwrap_or_default();
        let is_new = |s: &Segment| Some(s.id) > durable.last;
        // One that is open and damaged is known to have been there.
        let first = self.file.segments.iter().position(is_new);
        let new = match first {
            Some(first) if self.file.segments.iter().all(|s| s.sealed || !s.missing) => {
                self.file.segments.split_off(first)
            }
            _ => Vec::new(),
        };
        if !new.is_empty() {
            self.file.streams = durable.streams;
            let entries: usize = new.iter().map(|s| s.index.len()).sum();
            let keep = entries - lose(entries);
            let all = new.iter().flat_map(|s| s.index.iter().map(move |e| (s.id, e)));
            all.take(keep).for_each(|(id, entry)| self.file.apply(id, *entry));
            for segment in new {
                match self.file.segment(segment.id).map(|s| s.bytes) {
                    Some(bytes) => self.bytes.entry(segment.id).or_default().truncate(bytes as usize),
                    None => drop(self.bytes.remove(&segment.id)),
                }
            }
        }
        if lose(1) == 1 {
            self.file.base = durable.base;
        }
        self.durable.is_some() || !self.file.segments.is_empty() || lose(1) == 0
    }
}
