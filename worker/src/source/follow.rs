//! Reading files that grow: in turn, what is there of each, whole lines only.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hydfs::client::{Client, Error as HydfsError};
use memchr::{memchr, memrchr};
use protocol::control::Slice;
use protocol::task_log::{LinePosition, SourcePos, SourceRun};

use super::{Block, Error, MAX_LINE, count_lines, file, prefix_of_lines};

/// Read at once, of one file.
const PIECE: usize = 1024 * 1024;
/// Files looked at before others get a word in.
const AT_ONCE: usize = 64;

/// Goes round the slices of one source task; all that must be remembered is in the task's [`SourcePos`].
pub struct Follower {
    client: Client,
    slices: Vec<Slice>,
    turn: usize,
    drain: bool,
    /// Slices of which nothing is left: read to a fixed end, or, when draining, to the file's; or the file is gone.
    ended: BTreeSet<usize>,
}

impl Follower {
    pub fn new(client: Client, slices: Vec<Slice>, drain: bool) -> Self {
        Self {
            client,
            slices,
            turn: 0,
            drain,
            ended: BTreeSet::new(),
        }
    }

    pub fn slices(&self) -> &[Slice] {
        &self.slices
    }

    pub fn add(&mut self, slices: Vec<Slice>) {
        self.slices.extend(slices);
    }

    /// What is there now is read to its end; then there is nothing more.
    pub fn drain(&mut self) {
        self.drain = true;
    }

    pub fn is_end(&self) -> bool {
        self.drain && self.ended.len() == self.slices.len()
    }

    /// How long to wait when there was nothing: little work while nothing happens, however many the files.
    pub fn pause(&self) -> Duration {
        Duration::from_millis(20 + self.slices.len().min(180) as u64)
    }

    /// The next lines of some file: at most `most`. `None`: of the files looked at none has grown.
    pub async fn next(&mut self, place: &SourcePos, most: u64) -> Result<Option<Block>, Error> {
        for _ in 0..self.slices.len().min(AT_ONCE) {
            let index = self.turn % self.slices.len();
            if !self.ended.contains(&index)
                && let Some(block) = self.read(index, place, most).await?
            {
                // A file with much to read does not keep the others waiting.
                self.turn = index + 1;
                return Ok(Some(block));
            }
            self.turn = index + 1;
        }
        Ok(None)
    }

    async fn read(&mut self, index: usize, place: &SourcePos, most: u64) -> Result<Option<Block>, Error> {
        let slice = self.slices[index].clone();
        let at = match place.growing.get(&(index as u32)) {
            Some(place) => Some(*place),
            None => self.first_line(index, &slice).await?,
        };
        let Some(LinePosition { at, line }) = at else {
            return Ok(None);
        };
        if at >= slice.end {
            self.ended.insert(index);
            return Ok(None);
        }
        let mut buffer = BytesMut::new();
        let whole = loop {
            let Some(piece) = self.piece(index, &slice, at + buffer.len() as u64).await? else {
                // What there was of its last line has no end, and never will.
                return Ok(None);
            };
            let ended = piece.is_empty();
            let seen = buffer.len();
            buffer.extend_from_slice(&piece);
            if let Some(n) = memrchr(b'\n', &buffer[seen..]) {
                break seen + n + 1;
            }
            if ended {
                // Somebody may still be writing this line; when draining, it is the last one.
                break if self.drain { buffer.len() } else { 0 };
            }
            if buffer.len() > MAX_LINE {
                return Err(Error::LongLine {
                    file: slice.file,
                    line,
                });
            }
        };
        if whole == 0 {
            if self.drain {
                self.ended.insert(index);
            }
            return Ok(None);
        }
        let mut data = buffer.freeze().split_to(whole);
        // The line that holds the slice's last byte is its last.
        let left = slice.end.saturating_sub(at);
        if left < data.len() as u64 {
            let last = left as usize - 1;
            let end = memchr(b'\n', &data[last..]).map_or(data.len(), |n| last + n + 1);
            data.truncate(end);
        }
        let (len, lines) = prefix_of_lines(&data, most);
        data.truncate(len);
        let run = SourceRun {
            slice: index as u32,
            creation: slice.creation,
            from: at,
            to: at + len as u64,
            first_line: line,
            lines,
            last: false,
            growing: true,
        };
        Ok(Some(Block { run, data }))
    }

    /// What is there from `at` on; empty at the file's end. `None`: the file is gone, or another has its name, which the
    /// leader finds.
    async fn piece(&mut self, index: usize, slice: &Slice, at: u64) -> Result<Option<Bytes>, Error> {
        match self.client.tail(file(slice), at, PIECE, Duration::ZERO).await {
            Ok(piece) => Ok(Some(piece)),
            Err(HydfsError::NoSuchFile { .. } | HydfsError::Replaced { .. }) => {
                if self.ended.insert(index) {
                    tracing::warn!(
                        file = slice.file,
                        read_to = at,
                        hint = "what was appended behind that byte before it was removed, if anything, is not read",
                        "SOURCE_GONE"
                    );
                }
                Ok(None)
            }
            Err(source) => Err(Error::Read {
                file: slice.file.clone(),
                source,
            }),
        }
    }

    /// Where the slice's first line starts; `None`: it is not there yet.
    async fn first_line(&mut self, index: usize, slice: &Slice) -> Result<Option<LinePosition>, Error> {
        if slice.start == 0 {
            return Ok(Some(LinePosition { at: 0, line: 1 }));
        }
        // A newline right before the slice: its line starts with it. Else a line of the slice before reaches in.
        let mut at = slice.start - 1;
        loop {
            let Some(piece) = self.piece(index, slice, at).await? else {
                return Ok(None);
            };
            if let Some(n) = memchr(b'\n', &piece) {
                let first = at + n as u64 + 1;
                let line = slice.newlines_before + 1 + u64::from(first > slice.start);
                return Ok(Some(LinePosition { at: first, line }));
            }
            if piece.is_empty() {
                if self.drain {
                    self.ended.insert(index);
                }
                return Ok(None);
            }
            at += piece.len() as u64;
        }
    }

    /// Exactly the lines of `run` again.
    pub async fn again(&mut self, run: SourceRun) -> Result<Block, Error> {
        let slice = self.slices.get(run.slice as usize);
        let (name, creation) = slice.map_or((String::new(), None), |s| (s.file.clone(), s.creation));
        let mut data = BytesMut::new();
        let want = (run.to - run.from) as usize;
        while data.len() < want {
            let (at, left) = (run.from + data.len() as u64, want - data.len());
            let file = (&*name, creation);
            let piece = self.client.tail(file, at, left, Duration::from_secs(5)).await;
            let piece = piece.map_err(|source| Error::Read {
                file: name.clone(),
                source,
            })?;
            if piece.is_empty() {
                break;
            }
            data.extend_from_slice(&piece);
        }
        let has = count_lines(&data);
        if data.len() != want || has != run.lines {
            return Err(Error::Changed {
                file: name,
                from: run.from,
                to: run.to,
                had: run.lines,
                has,
            });
        }
        Ok(Block {
            run,
            data: data.freeze(),
        })
    }
}
