//! Everything that is asked besides batches: the end of the input, a snapshot, taking one in.

use common::clock::Time;

use super::wire::{Answer, Request};
use super::{answer, unexpected};
use crate::foreign::dialogue::Dialogue;
use crate::operator::Emit;

/// More state than this cannot change between two snapshots.
const LONGEST_SNAPSHOT: usize = 256 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Finish,
    Snapshot,
    Restore,
}

/// One request and its answer.
#[derive(Debug)]
pub struct Call {
    out: Vec<u8>,
    written: usize,
    asked: Asked,
    answered: bool,
    /// A snapshot that was asked for.
    pub snapshot: Vec<u8>,
    pub round_ended: bool,
}

impl Call {
    /// The input has ended: outputs may come.
    pub fn finish() -> Self {
        Self::new(Asked::Finish, &Request::Finish)
    }

    pub fn snapshot(rewrite: usize) -> Self {
        let rewrite = rewrite as u64;
        Self::new(Asked::Snapshot, &Request::Snapshot { rewrite })
    }

    /// A piece of what is to be restored, not larger than a frame; `more` follows.
    pub fn restore(bytes: &[u8], more: bool) -> Self {
        Self::new(Asked::Restore, &Request::Restore { more, bytes })
    }

    fn new(asked: Asked, request: &Request<'_>) -> Self {
        let mut out = vec![];
        request.write(&mut out);
        Self {
            out,
            written: 0,
            asked,
            answered: false,
            snapshot: vec![],
            round_ended: false,
        }
    }

    fn unexpected(&self, answer: &Answer<'_>) -> String {
        let to = match self.asked {
            Asked::Finish => "the end of the input",
            Asked::Snapshot => "a request for a snapshot",
            Asked::Restore => "a snapshot to restore",
        };
        unexpected(answer, to)
    }

    fn take(&mut self, answer: Answer<'_>, out: &mut dyn Emit) -> Result<(), String> {
        match (answer, self.asked) {
            (Answer::Error { what, .. }, _) => Err(format!("the operator says: {what}")),
            (answer, _) if self.written < self.out.len() => Err(self.unexpected(&answer)),
            (
                Answer::Outputs {
                    more, keys, values, ..
                },
                Asked::Finish,
            ) => {
                let keys = keys.unwrap_or_default();
                if keys.len() != values.len() {
                    return Err("the operator does not keep to the batch protocol: \
                         what it puts out at the end needs keys of its own"
                        .to_owned());
                }
                keys.iter().zip(values.iter()).for_each(|(k, v)| out.emit(k, v));
                self.answered = !more;
                Ok(())
            }
            (
                Answer::Snapshot {
                    more,
                    round_ended,
                    bytes,
                },
                Asked::Snapshot,
            ) => {
                if self.snapshot.len() + bytes.len() > LONGEST_SNAPSHOT {
                    return Err(format!(
                        "the operator's snapshot is larger than {} MiB; keep less state per task, or use more tasks",
                        LONGEST_SNAPSHOT >> 20
                    ));
                }
                self.snapshot.extend_from_slice(bytes);
                self.round_ended = round_ended;
                self.answered = !more;
                Ok(())
            }
            (Answer::Restored, Asked::Restore) => {
                self.answered = true;
                Ok(())
            }
            (answer, _) => Err(self.unexpected(&answer)),
        }
    }
}

impl Dialogue for Call {
    fn unwritten(&mut self) -> [&[u8]; 2] {
        [&self.out[self.written..], &[]]
    }

    fn wrote(&mut self, n: usize) {
        self.written += n;
    }

    fn read(&mut self, _: Time, input: &[u8], out: &mut dyn Emit) -> Result<usize, String> {
        let mut at = 0;
        while !self.answered {
            let Some((answer, length)) = answer(&input[at..])? else {
                break;
            };
            at += length;
            self.take(answer, out)?;
        }
        Ok(at)
    }

    fn is_answered(&self) -> bool {
        self.answered
    }

    fn stuck_at(&self, _: &mut Vec<u8>) -> Option<usize> {
        None
    }

    fn advice(&self) -> &'static str {
        ""
    }
}
