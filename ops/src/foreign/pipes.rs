//! A running program and its streams: the one loop that asks and reads answers, whatever the protocol.
//!
//! A question is written and its answers are read at the same time, so that pipes that fill up cannot block both sides
//! for good. The program's order of reading and answering is its own business; it must only answer in the end, for
//! which it must not keep answers in a buffer.

use std::io::{self, IoSlice};
use std::path::Path;
use std::pin::pin;
use std::process::ExitStatus;
use std::time::Duration;

use common::clock;
use nix::fcntl::{FcntlArg, fcntl};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, ChildStdout};

use super::child::Group;
use super::dialogue::Dialogue;
use super::stderr::Drain;
use crate::operator::{Emit, Error, quoted};

/// Pipes grown to this, if the system lets us: fewer, larger system calls.
const PIPE_BYTES: i32 = 1 << 20;
/// Read at once, at most.
const READ_BYTES: usize = 256 << 10;
/// What one large answer needed is given back.
const KEEP_BYTES: usize = 4 << 20;
/// A program that flushes each answer would have us wake for each, and stop for it: where many are due still, and few have
/// come, the next ones are left to gather for a while.
const GATHER: Duration = Duration::from_millis(1);
const FEW_BYTES: usize = 4 << 10;
/// How long the rest of a dead program's answers may take to arrive.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A program at work. Dropped, it is killed with all that it started.
#[derive(Debug)]
pub struct Pipes {
    group: Group,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    stderr: Drain,
    op_timeout: Duration,
    /// Set once the program has ended.
    status: Option<ExitStatus>,
    /// Why nothing can be asked any more.
    broken: Option<&'static str>,
    /// Read, not yet taken.
    buffer: Vec<u8>,
}

enum PipeEvent {
    Wrote(io::Result<usize>),
    Read(io::Result<usize>),
    Ended(io::Result<ExitStatus>),
    Gathered,
    Timer,
}

impl Pipes {
    /// Starts the program. To be called on a thread that outlives it.
    pub async fn start(
        exe: &Path,
        args: &[String],
        env: &[(String, String)],
        folder: Option<&Path>,
        op_timeout: Duration,
        stderr: impl FnMut(&str) + Send + 'static,
    ) -> Result<Self, Error> {
        let mut group = Group::start(exe, args, env, folder, true).await?;
        let broken = || Error::fatal("the operator's standard streams are not piped");
        let stdin = group.child.stdin.take().ok_or_else(broken)?;
        let stdout = group.child.stdout.take().ok_or_else(broken)?;
        let stderr = Drain::start(group.child.stderr.take().ok_or_else(broken)?, stderr);
        // Refused above the user's share of pipe memory: it works as it is, too.
        let _ = fcntl(&stdin, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        let _ = fcntl(&stdout, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        Ok(Self {
            group,
            stdin: Some(stdin),
            stdout,
            stderr,
            op_timeout,
            status: None,
            broken: None,
            buffer: Vec::new(),
        })
    }

    /// The program's process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.group.child.id()
    }

    /// An error, if nothing can be asked any more.
    pub async fn check(&mut self) -> Result<(), Error> {
        match self.broken {
            None => Ok(()),
            Some(why) => Err(Error {
                stderr: self.stderr.last_lines().await,
                ..Error::failed(why)
            }),
        }
    }

    /// Asks, and emits all answers, in order. After an error, or when this future is dropped half way, the program is
    /// of no use any more: later calls fail.
    pub async fn exchange(&mut self, dialogue: &mut dyn Dialogue, out: &mut dyn Emit) -> Result<(), Error> {
        self.check().await?;
        self.broken = Some("the operator was given up in the middle of a batch");
        let done = self.carry_out(dialogue, out).await;
        if self.buffer.is_empty() {
            self.buffer.shrink_to(KEEP_BYTES);
        }
        match done {
            Ok(()) => {
                self.broken = None;
                Ok(())
            }
            Err(what) => Err(self.failed(what, dialogue).await),
        }
    }

    async fn carry_out(&mut self, dialogue: &mut dyn Dialogue, out: &mut dyn Emit) -> Result<(), String> {
        // Lets the runtime learn what has arrived: what is read before anything is written, nobody asked for.
        tokio::task::yield_now().await;
        let op_timeout = self.op_timeout;
        let mut deadline = clock::now() + op_timeout;
        let mut timer = pin!(clock::sleep_until(deadline));
        let mut gather = pin!(clock::sleep_until(deadline));
        let (mut gathering, mut ended) = (false, false);
        while !dialogue.is_answered() {
            let Self {
                group,
                stdin,
                stdout,
                buffer,
                status,
                ..
            } = self;
            let unwritten = dialogue.unwritten();
            let written = unwritten.iter().all(|piece| piece.is_empty());
            buffer.reserve(READ_BYTES);
            // Reading comes first: it makes room for the program to go on.
            let event = tokio::select! {
                biased;
                read = stdout.read_buf(buffer), if !gathering => PipeEvent::Read(read),
                wrote = write(stdin, unwritten), if stdin.is_some() && !written => PipeEvent::Wrote(wrote),
                end = group.wait(), if !ended => PipeEvent::Ended(end),
                () = &mut gather, if gathering => PipeEvent::Gathered,
                () = &mut timer => PipeEvent::Timer,
            };
            match event {
                PipeEvent::Read(Ok(0)) => return Err(self.how_it_ended("closed its standard output").await),
                PipeEvent::Read(Err(e)) => return Err(format!("the operator cannot be read from: {e}")),
                PipeEvent::Read(Ok(_)) => {
                    let now = clock::now();
                    let taken = dialogue.read(now, buffer, out)?;
                    buffer.drain(..taken);
                    if taken > 0 && !ended {
                        deadline = now + op_timeout;
                    }
                    gathering = taken < FEW_BYTES && dialogue.many_are_due();
                    if gathering {
                        gather.set(clock::sleep_until(now + GATHER));
                    }
                }
                PipeEvent::Gathered => gathering = false,
                PipeEvent::Wrote(Ok(n)) => dialogue.wrote(n),
                PipeEvent::Wrote(Err(_)) => {
                    // It ends, or has closed its input. What it has answered before counts: read on for a moment.
                    *stdin = None;
                    deadline = clock::now() + op_timeout.min(LAST_WORDS);
                    timer.set(clock::sleep_until(deadline));
                }
                PipeEvent::Ended(end) => {
                    ended = true;
                    *status = end.ok();
                    *stdin = None;
                    deadline = clock::now() + LAST_WORDS;
                    timer.set(clock::sleep_until(deadline));
                }
                PipeEvent::Timer if clock::now() < deadline => timer.set(clock::sleep_until(deadline)),
                PipeEvent::Timer if ended || stdin.is_none() => {
                    return Err(self.how_it_ended("closed its standard input").await);
                }
                PipeEvent::Timer => {
                    return Err(format!(
                        "the operator has answered nothing for {} s{}",
                        op_timeout.as_secs_f32(),
                        dialogue.advice()
                    ));
                }
            }
        }
        match self.buffer.is_empty() {
            true => Ok(()),
            false => Err(format!(
                "the operator printed `{}`, though it has answered all it was given",
                self.first_line()
            )),
        }
    }

    /// Of what nobody asked for.
    fn first_line(&self) -> String {
        quoted(self.buffer.split(|b| *b == b'\n').next().unwrap_or_default())
    }

    /// For a program whose streams have closed.
    async fn how_it_ended(&mut self, closed: &str) -> String {
        if self.status.is_none() {
            let status = tokio::time::timeout(LAST_WORDS, self.group.wait()).await;
            self.status = status.ok().and_then(Result::ok);
        }
        match self.status {
            Some(status) => format!("the operator ended while tuples waited for answers: {status}"),
            None => format!("the operator {closed}, though tuples wait for answers"),
        }
    }

    /// The error, with the tuple that it is about. Ends the program.
    async fn failed(&mut self, what: String, dialogue: &dyn Dialogue) -> Error {
        self.broken = Some("the operator has failed before");
        self.stdin = None;
        self.group.kill();
        let mut key = vec![];
        let error = match dialogue.stuck_at(&mut key) {
            Some(index) => Error::poison(what, index, &key),
            None => Error::failed(what),
        };
        Error {
            stderr: self.stderr.last_lines().await,
            ..error
        }
    }

    /// Tells the program that there is no more, and waits for its end; one that does not end in time is killed. What
    /// it still prints is an error: it would be lost. How it ends is not, since all tuples are answered.
    pub async fn finish(mut self) -> Result<(), Error> {
        drop(self.stdin.take());
        let deadline = clock::now() + self.op_timeout;
        if self.buffer.is_empty() {
            let Self {
                group,
                stdout,
                buffer,
                ..
            } = &mut self;
            let mut read = pin!(stdout.read_buf(buffer));
            let read = async {
                tokio::select! {
                    biased;
                    read = &mut read => read,
                    // What it left behind may have held the stream open, and is gone now.
                    _ = group.wait() => read.await,
                }
            };
            match tokio::time::timeout(deadline.since(clock::now()), read).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "OPERATOR_END"),
                Err(_) => tracing::warn!(why = "it goes on at the end of its input", "OPERATOR_KILLED"),
            }
        }
        if !self.buffer.is_empty() {
            let what = format!(
                "at the end of its input the operator printed `{}`, which answers no tuple",
                self.first_line()
            );
            self.group.kill();
            return Err(Error {
                stderr: self.stderr.last_lines().await,
                ..Error::fatal(what)
            });
        }
        let left = deadline.since(clock::now()).min(LAST_WORDS);
        match tokio::time::timeout(left, self.group.wait()).await {
            Ok(Ok(status)) if !status.success() => {
                let stderr = self.stderr.last_lines().await;
                tracing::warn!(%status, ?stderr, "OPERATOR_END");
            }
            Ok(Err(error)) => tracing::warn!(%error, "OPERATOR_END"),
            Ok(Ok(_)) | Err(_) => {}
        }
        Ok(())
    }

    #[cfg(test)]
    pub fn buffer_capacity(&self) -> usize {
        self.buffer.capacity()
    }
}

async fn write(stdin: &mut Option<ChildStdin>, pieces: [&[u8]; 2]) -> io::Result<usize> {
    match stdin {
        Some(stdin) => stdin.write_vectored(&pieces.map(IoSlice::new)).await,
        None => std::future::pending().await,
    }
}
