//! A batch over the batch protocol: in frames of some thousand tuples, a few of them under way.
//!
//! How the tuples are divided into frames is no business of the program's results. It follows the program's pace: a
//! frame is asked to take a small part of the time limit, so that a slow program is not taken for a hung one, and
//! begins with a single tuple, so that nothing needs to be known of it.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use common::clock::Time;
use protocol::batch::Batch;

use super::wire::{self, Answer, LONGEST_FRAME, Request};
use super::{answer, unexpected};
use crate::foreign::dialogue::Dialogue;
use crate::operator::{Emit, Error};

/// A frame is full with so many bytes of values, or of keys, or with so many tuples.
const FRAME_BYTES: usize = 256 << 10;
const FRAME_TUPLES: usize = 16 << 10;
/// Frames without an answer, at most.
const UNDER_WAY: usize = 4;
/// How much more or less the next frame holds when the last was quick or slow.
const STEP: usize = 4;
/// What a frame's message needs besides keys and values (offsets, lengths).
const ROOM: usize = 1024;

/// What lasts from one batch to the next: memory, and the program's pace.
#[derive(Debug)]
pub struct Frames {
    /// One tuple at a time: the next is written when the last is answered.
    pub careful: bool,
    /// The program wants keys.
    keys: bool,
    op_timeout: Duration,
    /// Tuples in a frame.
    tuples: usize,
    /// A frame, but for the bytes of its values: those are written from where they lie.
    head: Vec<u8>,
    key_column: wire::Builder,
    value_ends: Vec<u8>,
    key: Vec<u8>,
}

impl Frames {
    pub fn new(keys: bool, op_timeout: Duration) -> Self {
        Self {
            careful: false,
            keys,
            op_timeout,
            tuples: 1,
            head: vec![],
            key_column: wire::Builder::default(),
            value_ends: vec![],
            key: vec![],
        }
    }

    /// The batch as a question. An error: one of its tuples fits no frame; nothing has been written.
    pub fn ask<'a>(&'a mut self, batch: &'a Batch, now: Time) -> Result<Feed<'a>, Error> {
        if batch.bytes() > LONGEST_FRAME - ROOM {
            let mut index = 0;
            batch.try_for_each(|key, value| {
                let size = value.len() + if self.keys { key.len() } else { 0 };
                if size > LONGEST_FRAME - ROOM {
                    let what = format!("the tuple has {size} bytes, too many for a foreign operator");
                    return Err(Error::poison(what, index, key));
                }
                index += 1;
                Ok(())
            })?;
        }
        self.head.clear();
        Ok(Feed {
            frames: self,
            batch,
            rest: batch.clone(),
            under_way: VecDeque::new(),
            values: 0..0,
            encoded: 0,
            written: 0,
            answered: 0,
            outputs: 0,
            since: now,
            reported: None,
        })
    }

    /// Makes the next frame's head: as many tuples of `rest` as its size and the program's pace allow, at least one. Says how many, and
    /// of how many bytes their values are.
    fn encode(&mut self, rest: &Batch) -> (usize, usize) {
        let most = if self.careful { 1 } else { self.tuples };
        let mut count = rest.len().min(most);
        while count > 1 && rest.value_end(count - 1) > FRAME_BYTES {
            count /= 2;
        }
        self.key_column.clear();
        if self.keys {
            // Ends early where the keys are long.
            let _enough = rest.try_for_each(|key, _| {
                let n = self.key_column.len();
                if n == count || (n > 0 && self.key_column.bytes() + key.len() > FRAME_BYTES) {
                    return Err(());
                }
                self.key_column.push(key);
                Ok(())
            });
            count = self.key_column.len();
        }
        self.value_ends.clear();
        rest.value_ends_into(count, &mut self.value_ends);
        let bytes = if count == 0 { 0 } else { rest.value_end(count - 1) };
        self.head.clear();
        let keys = self.keys.then(|| self.key_column.column());
        let request = Request::Batch {
            keys,
            values: wire::Column::known(&self.value_ends, &rest.values_joined()[..bytes]),
        };
        request.write_head(&mut self.head);
        (count, bytes)
    }

    /// A frame of so many tuples was answered in this time.
    fn pace(&mut self, tuples: usize, took: Duration) {
        if took > self.op_timeout / 10 {
            self.tuples = (tuples / STEP).max(1);
        } else if tuples == self.tuples && took < self.op_timeout / 100 {
            self.tuples = (tuples * STEP).min(FRAME_TUPLES);
        }
    }
}

struct Frame {
    /// Its first tuple's number in the batch.
    first: usize,
    len: usize,
    /// Where it ends in all that is written for this batch.
    end: usize,
}

pub struct Feed<'a> {
    frames: &'a mut Frames,
    batch: &'a Batch,
    /// Not yet in a frame.
    rest: Batch,
    under_way: VecDeque<Frame>,
    /// Where the last frame's values lie among all those of the batch.
    values: Range<usize>,
    /// Bytes of all frames so far; how many of them are written.
    encoded: usize,
    written: usize,
    answered: usize,
    /// Of the answer whose first frames have come.
    outputs: usize,
    /// When the last answer came.
    since: Time,
    /// The tuple that the program has reported.
    reported: Option<usize>,
}

impl Feed<'_> {
    fn take(&mut self, now: Time, answer: Answer<'_>, out: &mut dyn Emit) -> Result<(), String> {
        if let Answer::Error { index, what } = answer {
            self.reported = self.number_of(index);
            return Err(format!("the operator says: {what}"));
        }
        let frame = match self.under_way.front() {
            Some(frame) if frame.end <= self.written => frame,
            _ => return Err("the operator answers a batch that it cannot have read yet".to_owned()),
        };
        let key = &mut self.frames.key;
        let mut emit_as = |out: &mut dyn Emit, i: usize, value: &[u8]| {
            key.clear();
            self.batch.key_into(frame.first + i, key);
            out.emit(key, value);
        };
        let wrong = |what: &str| format!("the operator does not keep to the batch protocol: {what}");
        let more = match answer {
            Answer::Passed(passes) => {
                if passes.len() != frame.len {
                    let n = passes.len();
                    return Err(wrong(&format!(
                        "it says of {n} tuples whether they pass, of {}",
                        frame.len
                    )));
                }
                if self.outputs > 0 {
                    return Err(wrong("it says which tuples pass after it has begun with outputs"));
                }
                for (i, pass) in passes.iter().enumerate() {
                    match pass {
                        0 => {}
                        1 => emit_as(out, i, self.batch.value(frame.first + i)),
                        _ => return Err(wrong("whether a tuple passes is 0 or 1")),
                    }
                }
                false
            }
            Answer::Outputs {
                more,
                origins,
                keys,
                values,
            } => {
                match (origins, keys) {
                    (None, Some(keys)) => keys.iter().zip(values.iter()).for_each(|(k, v)| out.emit(k, v)),
                    (None, None) => {
                        if !values.is_empty() && self.outputs + values.len() > frame.len {
                            return Err(wrong("it has more outputs without keys than there are tuples"));
                        }
                        for (i, value) in values.iter().enumerate() {
                            emit_as(out, self.outputs + i, value);
                        }
                    }
                    (Some(origins), keys) => {
                        let mut own = keys.unwrap_or_default().iter();
                        for (origin, value) in origins.chunks_exact(4).zip(values.iter()) {
                            let origin = u32::from_le_bytes([origin[0], origin[1], origin[2], origin[3]]);
                            match origin as usize {
                                i if i < frame.len => emit_as(out, i, value),
                                // As many as there are of these: it has been checked.
                                _ if origin == wire::OWN_KEY => {
                                    out.emit(own.next().unwrap_or_default(), value)
                                }
                                _ => return Err(wrong("an origin is no tuple of the batch")),
                            }
                        }
                    }
                }
                self.outputs += values.len();
                more
            }
            other => return Err(unexpected(&other, "a batch")),
        };
        if !more {
            let (len, took) = (frame.len, now.since(self.since));
            self.under_way.pop_front();
            self.answered += len;
            self.outputs = 0;
            self.since = now;
            self.frames.pace(len, took);
        }
        Ok(())
    }

    fn number_of(&self, index: Option<u64>) -> Option<usize> {
        let frame = self.under_way.front()?;
        let index = match index {
            Some(index) => usize::try_from(index).ok()?,
            None if frame.len == 1 => 0,
            None => return None,
        };
        (index < frame.len).then_some(frame.first + index)
    }
}

impl Dialogue for Feed<'_> {
    fn unwritten(&mut self) -> [&[u8]; 2] {
        let most = if self.frames.careful { 1 } else { UNDER_WAY };
        if self.written == self.encoded && !self.rest.is_empty() && self.under_way.len() < most {
            let first = self.batch.len() - self.rest.len();
            let (len, bytes) = self.frames.encode(&self.rest);
            self.rest.skip(len);
            self.values = self.values.end..self.values.end + bytes;
            self.encoded += self.frames.head.len() + bytes;
            let end = self.encoded;
            self.under_way.push_back(Frame { first, len, end });
        }
        let (head, values) = (
            &self.frames.head[..],
            &self.batch.values_joined()[self.values.clone()],
        );
        let left = self.encoded - self.written;
        match left.checked_sub(values.len()) {
            Some(of_head) => [&head[head.len() - of_head..], values],
            None => [&[], &values[values.len() - left..]],
        }
    }

    fn wrote(&mut self, n: usize) {
        self.written += n;
    }

    fn read(&mut self, now: Time, input: &[u8], out: &mut dyn Emit) -> Result<usize, String> {
        let mut at = 0;
        while !self.is_answered() {
            let Some((answer, length)) = answer(&input[at..])? else {
                break;
            };
            at += length;
            self.take(now, answer, out)?;
        }
        Ok(at)
    }

    fn is_answered(&self) -> bool {
        self.answered == self.batch.len()
    }

    fn stuck_at(&self, key: &mut Vec<u8>) -> Option<usize> {
        let at = self.reported.or_else(|| self.number_of(None))?;
        self.batch.key_into(at, key);
        Some(at)
    }

    fn advice(&self) -> &'static str {
        ""
    }
}
