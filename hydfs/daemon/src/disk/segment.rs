//! A segment file: magic, [`SegmentHead`], then every entry's record with its payload behind.

use std::fs::File;
use std::io::{self, IoSlice, Write};

use bytes::Bytes;
use hydfs::WRITE;

use super::frame::{self, Found, MAGIC_LEN, Scan};
use super::record::{Entry, SEGMENT_MAGIC, SegmentHead};
use hydfs::content::EntryMeta;

/// Where the bytes of one segment are.
#[derive(Debug, Clone)]
pub struct SegmentPlace {
    /// The segment file's number.
    pub number: u64,
    /// Where each entry's payload begins in the file.
    pub starts: Vec<u64>,
    /// The file's length; whatever lies behind is not ours.
    pub size: u64,
}

/// What reading a segment file from front to back came to.
pub struct ScannedSegment {
    pub place: SegmentPlace,
    pub entries: Vec<EntryMeta>,
    pub end: ScanEnd,
}

#[derive(Debug, PartialEq, Eq)]
pub enum ScanEnd {
    Whole,
    /// An interrupted write lies behind `place.size`.
    Torn,
    Damaged,
}

impl SegmentPlace {
    /// Begins a segment file, just made and empty.
    pub fn begin(number: u64, file: &File, head: &SegmentHead) -> io::Result<Self> {
        let mut bytes = SEGMENT_MAGIC.to_vec();
        frame::put(head, &mut bytes)?;
        let mut place = Self {
            number,
            starts: Vec::new(),
            size: 0,
        };
        place.write(file, &bytes, &[])?;
        Ok(place)
    }

    /// All or nothing.
    fn write(&mut self, file: &File, head: &[u8], payload: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        if let Err(error) = super::room::take(file, head.len() + payload.len()) {
            file.set_len(self.size)?;
            return Err(error);
        }
        let (first, rest) = payload.split_at(payload.len().min(WRITE));
        let first = write_both(file, head, first);
        if let Err(error) =
            first.and_then(|()| rest.chunks(WRITE).try_for_each(|part| (&*file).write_all(part)))
        {
            file.set_len(self.size)?;
            return Err(error);
        }
        self.size += (head.len() + payload.len()) as u64;
        Ok(())
    }

    pub fn push(
        &mut self,
        file: &File,
        entry: EntryMeta,
        payload: &[u8],
        scratch: &mut Vec<u8>,
    ) -> io::Result<()> {
        scratch.clear();
        frame::put(&Entry { entry }, scratch)?;
        let start = self.size + scratch.len() as u64;
        self.write(file, scratch, payload)?;
        self.starts.push(start);
        Ok(())
    }

    /// Keeps the first `entries` entries.
    pub fn cut(&mut self, file: &File, index: &[EntryMeta], entries: usize) -> io::Result<()> {
        self.size = self.end_of(file, index, entries)?;
        self.starts.truncate(entries);
        file.set_len(self.size)
    }

    fn end_of(&self, file: &File, index: &[EntryMeta], entries: usize) -> io::Result<u64> {
        match entries.checked_sub(1) {
            Some(last) => Ok(self.starts[last] + u64::from(index[last].len)),
            None => match Scan::new(file)?.record::<SegmentHead>(MAGIC_LEN)? {
                Found::Record(_, end) => Ok(end),
                _ => Err(io::Error::other("a segment file has lost its head")),
            },
        }
    }

    /// Reads a segment file. Payloads are not verified, but the last.
    pub fn scan(number: u64, file: &File) -> io::Result<ScannedSegment> {
        let mut scan = Scan::new(file)?;
        let mut place = Self {
            number,
            starts: Vec::new(),
            size: 0,
        };
        let mut entries: Vec<EntryMeta> = Vec::new();
        let mut at = MAGIC_LEN;
        let end = 'end: {
            let magic = scan.bytes(0, MAGIC_LEN as usize)?;
            if magic != SEGMENT_MAGIC {
                break 'end if SEGMENT_MAGIC.starts_with(magic) {
                    ScanEnd::Torn
                } else {
                    ScanEnd::Damaged
                };
            }
            match scan.record::<SegmentHead>(at)? {
                Found::Record(_, next) => at = next,
                Found::End | Found::Torn => break 'end ScanEnd::Torn,
                Found::Damaged => break 'end ScanEnd::Damaged,
            }
            place.size = at;
            loop {
                let (Entry { entry }, start) = match scan.record::<Entry>(at)? {
                    Found::Record(entry, start) => (entry, start),
                    Found::End => break 'end ScanEnd::Whole,
                    Found::Torn => break 'end ScanEnd::Torn,
                    Found::Damaged => break 'end ScanEnd::Damaged,
                };
                at = start + u64::from(entry.len);
                if at > scan.size() {
                    break 'end ScanEnd::Torn;
                }
                let before = entries.last().map_or(0, |e: &EntryMeta| e.end);
                if entry.end != before + u64::from(entry.len) {
                    break 'end ScanEnd::Damaged;
                }
                if at == scan.size() && !entry.fits(scan.bytes(start, entry.len as usize)?) {
                    break 'end ScanEnd::Damaged;
                }
                place.starts.push(start);
                place.size = at;
                entries.push(entry);
            }
        };
        Ok(ScannedSegment { place, entries, end })
    }

    /// The payloads of entries `first..=last`, one behind the other. `None`: one of them is not what was written; from which byte of the segment on.
    pub fn read(
        &self,
        file: &File,
        index: &[EntryMeta],
        first: usize,
        last: usize,
    ) -> io::Result<Result<Bytes, u64>> {
        let (from, to) = (self.starts[first], self.starts[last] + u64::from(index[last].len));
        let mut bytes = match read_exact_at(file, from, (to - from) as usize) {
            Ok(bytes) => bytes,
            // Shorter than it was: as good as damaged.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(Err(begin_of(index, first))),
            Err(other) => return Err(other),
        };
        let mut at = 0;
        for i in first..=last {
            let start = (self.starts[i] - from) as usize;
            let len = index[i].len as usize;
            if !index[i].fits(&bytes[start..start + len]) {
                return Ok(Err(begin_of(index, i)));
            }
            if at != start {
                bytes.copy_within(start..start + len, at);
            }
            at += len;
        }
        bytes.truncate(at);
        Ok(Ok(bytes.into()))
    }

    /// A part of one entry's payload, not verified.
    pub fn read_part(&self, file: &File, entry: usize, offset: u64, len: usize) -> io::Result<Bytes> {
        Ok(read_exact_at(file, self.starts[entry] + offset, len)?.into())
    }
}

/// `len` bytes from `from` on. They are not zeroed first, which would cost a tenth of all that the daemon does for large reads.
/// Both at one go, as long as the kernel takes them so.
fn write_both(mut file: &File, head: &[u8], payload: &[u8]) -> io::Result<()> {
    let mut written = loop {
        match file.write_vectored(&[IoSlice::new(head), IoSlice::new(payload)]) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    for part in [head, payload] {
        let done = written.min(part.len());
        written -= done;
        file.write_all(&part[done..])?;
    }
    Ok(())
}

fn read_exact_at(file: &File, from: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let at = from + bytes.len() as u64;
        match rustix::io::pread(file, rustix::buffer::spare_capacity(&mut bytes), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // There may have been room for more than was asked for.
    bytes.truncate(len);
    Ok(bytes)
}

/// Where an entry's payload begins in its segment.
pub fn begin_of(index: &[EntryMeta], entry: usize) -> u64 {
    index[entry].end - u64::from(index[entry].len)
}
