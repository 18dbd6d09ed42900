//! Reading a source task's slices: from bytes to lines with exact numbers.
//!
//! - here: slices with a fixed end, read ahead one after the other
//! - `follow.rs`: files that grow, in turn
//!
//! A slice holds the lines that **start** in `start..end` of its file; the last of them may reach behind `end`.

use std::time::Duration;

use bytes::Bytes;
use hydfs::client::{Client, Error as HydfsError, FileRef, ReadStream};
use memchr::{memchr, memrchr};
use protocol::control::{Slice, TaskPlan, ToWorker};

use crate::task::router::Router;

mod encoding;
mod follow;

pub use follow::Follower;
use protocol::task_log::{SourcePos, SourceRun};

/// Lines are taken in blocks of about this many bytes.
const BLOCK: usize = 256 * 1024;
/// Lines longer than this are refused, with the file and the line.
const MAX_LINE: usize = 17 * 1024 * 1024;
/// Slices shorter than this have their keys spelled out, so that tuples of many small files share a batch.
const SMALL: u64 = 8 * 1024;
/// How far behind a slice's end is read at once, for its last line.
const OVERHANG: u64 = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read {file}: {source}")]
    Read { file: String, source: HydfsError },
    #[error("{file}: line {line} is longer than 16 MiB; RainStorm takes lines up to that")]
    LongLine { file: String, line: u64 },
    #[error("{file} is not what it was: bytes {from}..{to} held {had} lines before, now {has}")]
    Changed {
        file: String,
        from: u64,
        to: u64,
        had: u64,
        has: u64,
    },
}

impl Error {
    /// Nobody can read these lines any more: trying again does not help.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Read { source, .. } => {
                matches!(
                    source,
                    HydfsError::NoSuchFile { .. } | HydfsError::Replaced { .. }
                )
            }
            Self::LongLine { .. } | Self::Changed { .. } => true,
        }
    }
}

/// The file of a slice: that one, and no other that has its name.
fn file(slice: &Slice) -> FileRef<'_> {
    (&*slice.file, slice.creation).into()
}

/// A run of whole lines and their bytes.
pub struct Block {
    pub run: SourceRun,
    pub data: Bytes,
}

impl Block {
    /// The encoding that the file says it has at its beginning, where lines in it are not what they look like.
    pub fn wide_encoding(&self) -> Option<&'static str> {
        encoding::wide(&self.data).filter(|_| self.run.from == 0)
    }
}

/// The input of a source task.
pub enum Source {
    Fixed(Box<Reader>),
    Growing(Box<Follower>),
}

impl Source {
    pub fn new(client: Client, plan: &TaskPlan) -> Self {
        let slices = plan.slices.clone();
        match plan.follow {
            true => Self::Growing(Box::new(Follower::new(client, slices, plan.drain))),
            false => Self::Fixed(Box::new(Reader::new(client, slices))),
        }
    }

    /// What the leader says to a source that follows, in order.
    pub fn hear(&mut self, word: ToWorker) {
        match (self, word) {
            (Self::Growing(follower), ToWorker::Slices(slices)) => follower.add(slices),
            (Self::Growing(follower), ToWorker::Drain) => follower.drain(),
            _ => {}
        }
    }

    pub fn is_end(&self, place: &SourcePos) -> bool {
        match self {
            Self::Fixed(reader) => reader.is_end(place),
            Self::Growing(follower) => follower.is_end(),
        }
    }

    /// The next lines from `place` on: at most `most`, or exactly those of `replay`. `None`: nothing is there now.
    pub async fn next(
        &mut self,
        place: &SourcePos,
        most: u64,
        replay: Option<SourceRun>,
    ) -> Result<Option<Block>, Error> {
        match (self, replay) {
            (Self::Fixed(reader), replay) => reader.next(place, most, replay).await.map(Some),
            (Self::Growing(follower), None) => follower.next(place, most).await,
            (Self::Growing(follower), Some(run)) => follower.again(run).await.map(Some),
        }
    }

    fn slice(&self, index: u32) -> Option<&Slice> {
        match self {
            Self::Fixed(reader) => reader.slices.get(index as usize),
            Self::Growing(follower) => follower.slices().get(index as usize),
        }
    }

    pub fn file(&self, slice: u32) -> Bytes {
        self.slice(slice)
            .map_or_else(Bytes::new, |s| Bytes::copy_from_slice(s.label().as_bytes()))
    }

    /// Few lines: spell the keys out.
    pub fn is_small(&self, slice: u32) -> bool {
        self.slice(slice).is_some_and(|s| s.end - s.start < SMALL)
    }

    /// How long to wait when nothing was there.
    pub fn pause(&self) -> Option<Duration> {
        match self {
            Self::Fixed(_) => None,
            Self::Growing(follower) => Some(follower.pause()),
        }
    }
}

pub struct Reader {
    client: Client,
    slices: Vec<Slice>,
    /// Bytes read and not yet given out, and where in which slice's file they start.
    buffer: Bytes,
    slice: usize,
    at: u64,
    stream: Option<ReadStream>,
    /// How far `stream` reaches.
    stream_end: u64,
    at_eof: bool,
}

impl Reader {
    pub fn new(client: Client, slices: Vec<Slice>) -> Self {
        Self {
            client,
            slices,
            buffer: Bytes::new(),
            slice: 0,
            at: 0,
            stream: None,
            stream_end: 0,
            at_eof: false,
        }
    }

    pub fn is_end(&self, place: &SourcePos) -> bool {
        place.slice as usize >= self.slices.len()
    }

    /// The next lines from `place` on: at most `most`, or exactly those of `replay`.
    pub async fn next(
        &mut self,
        place: &SourcePos,
        most: u64,
        replay: Option<SourceRun>,
    ) -> Result<Block, Error> {
        let slice = self.slices[place.slice as usize].clone();
        let (from, first_line) = match (place.at, &replay) {
            (Some(at), _) => (at, place.line),
            (None, Some(run)) => (run.from, run.first_line),
            (None, None) => self.first_line(place.slice as usize, &slice).await?,
        };
        self.seek(place.slice as usize, from);
        let run = |to: u64, lines: u64, last: bool| SourceRun {
            slice: place.slice,
            creation: slice.creation,
            from,
            to,
            first_line,
            lines,
            last,
            growing: false,
        };
        if let Some(wanted) = replay {
            while self.at + (self.buffer.len() as u64) < wanted.to && self.fill(&slice).await? {}
            let data = self.take((wanted.to - from) as usize);
            let has = count_lines(&data);
            if has != wanted.lines {
                let file = slice.file;
                return Err(Error::Changed {
                    file,
                    from,
                    to: wanted.to,
                    had: wanted.lines,
                    has,
                });
            }
            return Ok(Block { run: wanted, data });
        }
        if from >= slice.end {
            return Ok(Block {
                run: run(from, 0, true),
                data: Bytes::new(),
            });
        }
        loop {
            if let Some(len) = self.whole_lines(&slice) {
                let mut data = self.buffer.slice(..len);
                let lines = match prefix_of_lines(&data, most) {
                    (len, lines) if len < data.len() => {
                        data = data.slice(..len);
                        lines
                    }
                    (_, lines) => lines,
                };
                let _ = self.take(data.len());
                let to = from + data.len() as u64;
                let last = to >= slice.end || (self.at_eof && self.buffer.is_empty());
                return Ok(Block {
                    run: run(to, lines, last),
                    data,
                });
            }
            if self.buffer.len() > MAX_LINE {
                return Err(Error::LongLine {
                    file: slice.file,
                    line: first_line,
                });
            }
            if !self.fill(&slice).await? && self.buffer.is_empty() {
                return Ok(Block {
                    run: run(from, 0, true),
                    data: Bytes::new(),
                });
            }
        }
    }

    /// How much of the buffer can be given out: whole lines that start before the slice's end, about a block of them.
    fn whole_lines(&self, slice: &Slice) -> Option<usize> {
        let left = (slice.end - self.at) as usize;
        if self.buffer.len() >= left {
            // The line that holds the slice's last byte ends at the first newline from there on.
            if let Some(n) = memchr(b'\n', &self.buffer[left - 1..])
                && left + n <= BLOCK
            {
                return Some(left + n);
            }
        }
        let window = &self.buffer[..self.buffer.len().min(BLOCK.min(left))];
        if let Some(n) = memrchr(b'\n', window) {
            return Some(n + 1);
        }
        // A line longer than a block, or the file's last one without a newline.
        match memchr(b'\n', &self.buffer[window.len()..]) {
            Some(n) => Some(window.len() + n + 1),
            None if self.at_eof && !self.buffer.is_empty() => Some(self.buffer.len()),
            None => None,
        }
    }

    /// Where the slice's first line starts, and its number.
    async fn first_line(&mut self, index: usize, slice: &Slice) -> Result<(u64, u64), Error> {
        if slice.start == 0 {
            return Ok((0, slice.newlines_before + 1));
        }
        // A newline right before the slice: its line starts with it. Else a line of the slice before reaches in.
        self.seek(index, slice.start - 1);
        loop {
            if let Some(n) = memchr(b'\n', &self.buffer) {
                let at = self.at + n as u64 + 1;
                let line = slice.newlines_before + 1 + (n > 0) as u64;
                return Ok((at, line));
            }
            if !self.fill(slice).await? {
                return Ok((self.at + self.buffer.len() as u64, slice.newlines_before + 2));
            }
        }
    }

    fn seek(&mut self, slice: usize, at: u64) {
        let reached = self.at + self.buffer.len() as u64;
        if slice == self.slice && self.stream.is_some() && (self.at..=reached).contains(&at) {
            let _ = self.take((at - self.at) as usize);
            return;
        }
        (self.slice, self.at, self.buffer, self.stream, self.at_eof) = (slice, at, Bytes::new(), None, false);
    }

    fn take(&mut self, len: usize) -> Bytes {
        let len = len.min(self.buffer.len());
        self.at += len as u64;
        self.buffer.split_to(len)
    }

    /// Reads on. False at the file's end.
    async fn fill(&mut self, slice: &Slice) -> Result<bool, Error> {
        let failed = |source| Error::Read {
            file: slice.file.clone(),
            source,
        };
        let reached = self.at + self.buffer.len() as u64;
        for fresh in [false, true] {
            if self.stream.is_none() || fresh {
                self.stream_end = slice.end.max(reached) + OVERHANG;
                self.stream = Some(self.client.stream(file(slice), reached..self.stream_end));
            }
            let Some(stream) = &mut self.stream else { break };
            if let Some(piece) = stream.next().await {
                let piece = piece.map_err(failed)?;
                self.buffer = match self.buffer.is_empty() {
                    true => piece,
                    false => [&self.buffer[..], &piece].concat().into(),
                };
                return Ok(true);
            }
            if reached < self.stream_end {
                break;
            }
        }
        self.at_eof = true;
        Ok(false)
    }
}

/// Emits the block's lines: the newline, and a CR before it, removed.
pub fn emit(block: &Block, file: &Bytes, spelled: bool, router: &mut Router<'_>) {
    let mut number = block.run.first_line;
    for_each_line(&block.data, |line| {
        router.emit_line(file, number, line, spelled);
        number += 1;
    });
}

fn for_each_line(data: &[u8], mut f: impl FnMut(&[u8])) {
    let mut from = 0;
    for newline in memchr::memchr_iter(b'\n', data) {
        let line = &data[from..newline];
        f(line.strip_suffix(b"\r").unwrap_or(line));
        from = newline + 1;
    }
    if from < data.len() {
        f(&data[from..]);
    }
}

fn count_lines(data: &[u8]) -> u64 {
    let newlines = memchr::memchr_iter(b'\n', data).count() as u64;
    newlines + data.last().is_some_and(|b| *b != b'\n') as u64
}

/// The bytes and the number of the first `most` lines.
fn prefix_of_lines(data: &[u8], most: u64) -> (usize, u64) {
    let mut lines = 0;
    for newline in memchr::memchr_iter(b'\n', data) {
        lines += 1;
        if lines == most {
            return (newline + 1, lines);
        }
    }
    (
        data.len(),
        lines + data.last().is_some_and(|b| *b != b'\n') as u64,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(data: &[u8]) -> Vec<Vec<u8>> {
        let mut out = vec![];
        for_each_line(data, |l| out.push(l.to_vec()));
        out
    }

    #[test]
    fn newlines_and_a_cr_before_them_are_removed_and_nothing_else() {
        assert_eq!(
            lines(b"a\r\n\n\r\n\xff\0\nb\r"),
            [&b"a"[..], b"", b"", b"\xff\0", b"b\r"]
        );
        assert_eq!(lines(b""), Vec::<Vec<u8>>::new());
        assert_eq!(
            (count_lines(b"a\nb"), count_lines(b"a\n"), count_lines(b"")),
            (2, 1, 0)
        );
        assert_eq!(
            (prefix_of_lines(b"a\nb\nc", 2), prefix_of_lines(b"a\nb\nc", 9)),
            ((4, 2), (5, 3))
        );
    }
}
