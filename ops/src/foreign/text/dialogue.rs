//! A batch over the text protocol: all its tuples are written as they can be, answers come line by line.

use common::clock::Time;
use memchr::memchr;
use protocol::batch::Batch;

use super::grammar::{Answers, LONGEST_LINE, write_tuple};
use crate::foreign::dialogue::Dialogue;
use crate::operator::{Emit, Error, quoted};

/// More answers than a quick script gives in a millisecond.
const MANY: usize = 256;

/// Memory that is used again for each batch.
#[derive(Debug, Default)]
pub struct Text {
    /// One tuple at a time: the next is written when the last is answered.
    pub careful: bool,
    keys: bool,
    text: Vec<u8>,
    /// Where each tuple ends in `text`.
    ends: Vec<usize>,
    key: Vec<u8>,
    answers: Answers,
}

impl Text {
    /// `keys` false: the program does not look at them, and gets empty ones.
    pub fn new(keys: bool) -> Self {
        Self {
            keys,
            ..Self::default()
        }
    }

    /// The batch as a question. An error: one of its tuples cannot be said; nothing has been written.
    pub fn ask<'a>(&'a mut self, batch: &'a Batch) -> Result<Asked<'a>, Error> {
        self.text.clear();
        self.ends.clear();
        let (text, ends) = (&mut self.text, &mut self.ends);
        batch.try_for_each(|key, value| {
            if !write_tuple(if self.keys { key } else { b"" }, value, text) {
                let what = "the tuple's key or value holds a newline, which the text protocol cannot express; the SDKs and the batch protocol can";
                return Err(Error::poison(what, ends.len(), key));
            }
            ends.push(text.len());
            Ok(())
        })?;
        Ok(Asked {
            text: self,
            batch,
            written: 0,
            answered: 0,
        })
    }
}

pub struct Asked<'a> {
    text: &'a mut Text,
    batch: &'a Batch,
    written: usize,
    answered: usize,
}

impl Asked<'_> {
    /// Where the first tuple without an answer begins.
    fn begin(&self) -> usize {
        self.answered
            .checked_sub(1)
            .map_or(0, |last| self.text.ends[last])
    }
}

impl Dialogue for Asked<'_> {
    fn unwritten(&mut self) -> [&[u8]; 2] {
        let end = match self.text.careful {
            true => self.text.ends.get(self.answered).copied(),
            false => None,
        };
        let end = end.unwrap_or(self.text.text.len());
        [&self.text.text[self.written..end], &[]]
    }

    fn wrote(&mut self, n: usize) {
        self.written += n;
    }

    fn read(&mut self, _: Time, input: &[u8], out: &mut dyn Emit) -> Result<usize, String> {
        let mut at = 0;
        while !self.is_answered() {
            let Some(length) = memchr(b'\n', &input[at..]) else {
                break;
            };
            let line = &input[at..at + length];
            // It may answer when it has seen the key, the value still on its way.
            if self.written <= self.begin() {
                return Err(format!(
                    "the operator printed `{}` for a tuple that it cannot have read yet: each tuple is answered once",
                    quoted(line)
                ));
            }
            let Text { answers, key, .. } = &mut *self.text;
            let complete = answers.line(line, |own, value| match own {
                Some(key) => out.emit(key, value),
                None => {
                    key.clear();
                    self.batch.key_into(self.answered, key);
                    out.emit(key, value);
                }
            });
            let complete =
                complete.map_err(|g| format!("the operator does not keep to the text protocol: {g}"))?;
            self.answered += usize::from(complete);
            at += length + 1;
        }
        if input.len() - at > LONGEST_LINE {
            return Err(format!(
                "the operator's answer has a line longer than {} MiB",
                LONGEST_LINE >> 20
            ));
        }
        Ok(at)
    }

    fn is_answered(&self) -> bool {
        self.answered == self.batch.len()
    }

    fn many_are_due(&self) -> bool {
        !self.text.careful && self.batch.len() - self.answered > MANY
    }

    /// Answering more than was asked is noticed when there is no tuple without an answer: then it is the last.
    fn stuck_at(&self, key: &mut Vec<u8>) -> Option<usize> {
        let at = self.answered.min(self.batch.len().checked_sub(1)?);
        self.batch.key_into(at, key);
        Some(at)
    }

    fn advice(&self) -> &'static str {
        "; if it keeps its answers in a buffer, let it flush after each (Python: flush=True, awk: fflush(), C: \
         fflush(stdout)); mawk reads tuple by tuple only under -W interactive"
    }
}
