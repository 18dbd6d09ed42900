//! A foreign operator as a child process that runs as long as its task, fed with whole batches.

use std::path::Path;
use std::time::Duration;

use common::clock;
use common::work_folder::WorkFolder;
use protocol::batch::Batch;
use protocol::control::{OpKind, Protocol};

use super::batch::{Call, Frames};
use super::pipes::Pipes;
use super::text::Text;
use crate::operator::{Emit, Error, Nowhere};

/// Environment variable that tells the program which protocol it is spoken to in: `text` or `batch`.
pub const PROTOCOL: &str = "RAINSTORM_PROTOCOL";
/// A snapshot is given back in pieces of this size.
const RESTORE_BYTES: usize = 1 << 20;

/// How a program is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    pub kind: OpKind,
    pub protocol: Protocol,
    /// It wants the tuples' keys.
    pub keys: bool,
}

/// A foreign operator at work. Dropped, it is killed with all that it started.
#[derive(Debug)]
pub struct Process {
    pipes: Pipes,
    codec: Codec,
    kind: OpKind,
    /// Goes when the program has ended.
    _folder: Option<WorkFolder>,
}

#[derive(Debug)]
enum Codec {
    Text(Box<Text>),
    Batch(Box<Frames>),
}

impl Process {
    /// Starts the program, in `folder` if it is to have one of its own. `op_timeout`: how long it may answer nothing while tuples
    /// wait for answers. `stderr` gets what it says there, line by line, at most 1000 a second. To be called on a thread that
    /// outlives the task.
    pub async fn start(
        exe: &Path,
        args: &[String],
        env: &[(String, String)],
        spec: &Spec,
        folder: Option<WorkFolder>,
        op_timeout: Duration,
        stderr: impl FnMut(&str) + Send + 'static,
    ) -> Result<Self, Error> {
        let (protocol, codec) = match spec.protocol {
            Protocol::Text => ("text", Codec::Text(Box::new(Text::new(spec.keys)))),
            Protocol::Batch => (
                "batch",
                Codec::Batch(Box::new(Frames::new(spec.keys, op_timeout))),
            ),
        };
        // Else a Python script that does not flush never answers the last tuples, one that reads text stops at bytes
        // that are not UTF-8, and one that goes through a set does so in another order after each restart.
        let common = [
            (PROTOCOL, protocol),
            ("PYTHONUNBUFFERED", "1"),
            ("PYTHONIOENCODING", "utf-8:surrogateescape"),
            ("PYTHONHASHSEED", "0"),
        ];
        let mut full_env: Vec<_> = common.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        full_env.extend_from_slice(env);
        let place = folder.as_ref().map(WorkFolder::path);
        Ok(Self {
            pipes: Pipes::start(exe, args, &full_env, place, op_timeout, stderr).await?,
            codec,
            kind: spec.kind,
            _folder: folder,
        })
    }

    pub fn kind(&self) -> OpKind {
        self.kind
    }

    /// The program's process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.pipes.pid()
    }

    /// Careful: one tuple at a time, so that the tuple is known at which the program crashes or hangs. Slow.
    pub fn set_careful(&mut self, careful: bool) {
        match &mut self.codec {
            Codec::Text(text) => text.careful = careful,
            Codec::Batch(frames) => frames.careful = careful,
        }
    }

    /// Feeds the whole batch and emits all answers, in order. After an error, or when this future is dropped half
    /// way, the program is of no use any more: later calls fail. (Not so where a tuple cannot be said at all: then
    /// nothing has been.)
    pub async fn process(&mut self, batch: &Batch, out: &mut dyn Emit) -> Result<(), Error> {
        self.pipes.check().await?;
        if batch.is_empty() {
            return Ok(());
        }
        match &mut self.codec {
            Codec::Text(text) => self.pipes.exchange(&mut text.ask(batch)?, out).await,
            Codec::Batch(frames) => {
                let mut feed = frames.ask(batch, clock::now())?;
                self.pipes.exchange(&mut feed, out).await
            }
        }
    }

    /// The input has ended: emits what the program held back. One in the text protocol is not asked.
    pub async fn finish_input(&mut self, out: &mut dyn Emit) -> Result<(), Error> {
        match self.codec {
            Codec::Text(_) => Ok(()),
            Codec::Batch(_) => self.pipes.exchange(&mut Call::finish(), out).await,
        }
    }

    /// What [`crate::Operator::snapshot`] appends, and whether a round ends with it.
    pub async fn snapshot(&mut self, rewrite: usize) -> Result<(Vec<u8>, bool), Error> {
        self.no_snapshots_in_text()?;
        let mut call = Call::snapshot(rewrite);
        self.pipes.exchange(&mut call, &mut Nowhere).await?;
        Ok((call.snapshot, call.round_ended))
    }

    /// Has the program take in one snapshot or several, end to end.
    pub async fn restore(&mut self, snapshot: &[u8]) -> Result<(), Error> {
        if !snapshot.is_empty() {
            self.no_snapshots_in_text()?;
        }
        let mut left = snapshot.len();
        for piece in snapshot.chunks(RESTORE_BYTES) {
            left -= piece.len();
            let mut call = Call::restore(piece, left > 0);
            self.pipes.exchange(&mut call, &mut Nowhere).await?;
        }
        Ok(())
    }

    fn no_snapshots_in_text(&self) -> Result<(), Error> {
        match self.codec {
            Codec::Batch(_) => Ok(()),
            Codec::Text(_) => Err(Error::fatal(
                "an operator in the text protocol cannot save its state, and was asked to",
            )),
        }
    }

    /// Tells the program that there is no more, and waits for its end; one that does not end in time is killed. What
    /// it still prints is an error: it would be lost. How it ends is not, since all tuples are answered.
    pub async fn finish(self) -> Result<(), Error> {
        self.pipes.finish().await
    }
}

#[cfg(test)]
mod tests;
