//! The program's side of the batch protocol, without the pipes.

use std::any::Any;
use std::cell::Cell;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;

use super::output::{Columns, Output};
use super::{Body, Program, Result, Tuples};
use crate::foreign::batch::wire::{Answer, Request};

/// A snapshot is sent in frames of this size.
const SNAPSHOT_BYTES: usize = 16 << 20;

/// Why a program cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// It has been reported; the state is not to be used any more.
    #[error("the operator failed: {0}")]
    Failed(String),
    #[error("standard input does not keep to the batch protocol: {0}")]
    Garbage(#[from] crate::foreign::batch::wire::Error),
    #[error("standard output cannot be written: {0}")]
    Unwritable(#[from] io::Error),
}

pub struct Session<B> {
    program: Program<B>,
    columns: Columns,
    /// The tuple last looked at.
    current: Cell<usize>,
    /// Pieces of a snapshot to be restored.
    restoring: Vec<u8>,
    snapshot: Vec<u8>,
}

impl<B: Body> Session<B> {
    pub fn new(program: Program<B>) -> Self {
        Self {
            program,
            columns: Columns::default(),
            current: Cell::new(0),
            restoring: vec![],
            snapshot: vec![],
        }
    }

    /// Answers one message.
    pub fn answer(&mut self, message: &Bytes, to: &mut dyn Write) -> std::result::Result<(), Ended> {
        let request = Request::read(message)?;
        let Self {
            program: Program { body, .. },
            columns,
            current,
            restoring,
            snapshot,
        } = self;
        let mut frame = vec![];
        match request {
            Request::Batch { keys, values } => {
                let tuples = Tuples::new(message, keys, values, current);
                let mut out = Output::new(columns, to, current);
                match guarded(|| body.batch(&tuples, &mut out)) {
                    Ok(()) => out.done()?,
                    Err(what) => {
                        let index = (!tuples.is_empty()).then(|| current.get() as u64);
                        return failed(index, what, to);
                    }
                }
            }
            Request::Finish => {
                let mut out = Output::new(columns, to, current);
                match guarded(|| body.finish(&mut out)) {
                    Ok(()) => out.done()?,
                    Err(what) => return failed(None, what, to),
                }
            }
            Request::Snapshot { rewrite } => {
                snapshot.clear();
                let rewrite = usize::try_from(rewrite).unwrap_or(usize::MAX);
                match guarded(|| body.snapshot(rewrite, snapshot)) {
                    Ok(round_ended) => {
                        let mut rest = &snapshot[..];
                        loop {
                            let (bytes, tail) = rest.split_at(rest.len().min(SNAPSHOT_BYTES));
                            let more = !tail.is_empty();
                            frame.clear();
                            let answer = Answer::Snapshot {
                                more,
                                round_ended,
                                bytes,
                            };
                            answer.write(&mut frame);
                            to.write_all(&frame)?;
                            if !more {
                                break;
                            }
                            rest = tail;
                        }
                    }
                    Err(what) => return failed(None, what, to),
                }
            }
            Request::Restore { more, bytes } => {
                restoring.extend_from_slice(bytes);
                if !more {
                    let whole = std::mem::take(restoring);
                    if let Err(what) = guarded(|| body.restore(&whole)) {
                        return failed(None, what, to);
                    }
                }
                Answer::Restored.write(&mut frame);
                to.write_all(&frame)?;
            }
        }
        Ok(())
    }
}

/// Runs the user's code; a panic is an error like others.
fn guarded<T>(f: impl FnOnce() -> Result<T>) -> std::result::Result<T, String> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(e.to_string()),
        Err(panic) => Err(format!("it panicked: {}", words(&*panic))),
    }
}

fn words(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "?",
    }
}

fn failed(index: Option<u64>, what: String, to: &mut dyn Write) -> std::result::Result<(), Ended> {
    let mut frame = vec![];
    let answer = Answer::Error {
        index,
        what: (&*what).into(),
    };
    answer.write(&mut frame);
    to.write_all(&frame)?;
    Err(Ended::Failed(what))
}
