//! A foreign operator as a child process that runs as long as its task, fed with whole batches.
//!
//! A batch is written and its answers are read at the same time, so that pipes that fill up cannot block both sides
//! for good. The program's order of reading and answering is its own business; it must only answer in the end, for
//! which it must not keep answers in a buffer.

use std::io;
use std::path::Path;
use std::pin::pin;
use std::process::ExitStatus;
use std::time::Duration;

use common::batch::Batch;
use common::clock;
use common::control::OpKind;
use memchr::memchr;
use nix::fcntl::{FcntlArg, fcntl};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, ChildStdout};

use super::child::Group;
use super::stderr::Drain;
use super::text::{Answers, LONGEST_LINE, write_tuple};
use crate::operator::{Emit, Error, quoted};

/// Pipes grown to this, if the system lets us: fewer, larger system calls.
const PIPE_BYTES: i32 = 1 << 20;
/// Read at once, at most.
const READ_BYTES: usize = 256 << 10;
/// How long the rest of a dead program's answers may take to arrive.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A foreign operator at work. Dropped, it is killed with all that it started.
#[derive(Debug)]
pub struct Process {
    group: Group,
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    stderr: Drain,
    kind: OpKind,
    op_timeout: Duration,
    /// Set once the program has ended.
    status: Option<ExitStatus>,
    /// Why nothing can be asked any more.
    broken: Option<&'static str>,
    asked: Asked,
    answers: Answers,
    /// Read, not yet parsed.
    buffer: Vec<u8>,
}

/// The batch under way.
#[derive(Debug, Default)]
struct Asked {
    text: Vec<u8>,
    /// Where each tuple ends in `text`.
    ends: Vec<usize>,
    written: usize,
    answered: usize,
    key: Vec<u8>,
}

enum Event {
    Wrote(io::Result<usize>),
    Read(io::Result<usize>),
    Ended(io::Result<ExitStatus>),
    Timer,
}

impl Process {
    /// Starts the program. `op_timeout`: how long it may answer nothing while tuples wait for answers. `stderr` gets
    /// what it says there, line by line, at most 1000 a second. To be called on a thread that outlives the task.
    pub async fn start(
        exe: &Path,
        args: &[String],
        env: &[(String, String)],
        kind: OpKind,
        op_timeout: Duration,
        stderr: impl FnMut(&str) + Send + 'static,
    ) -> Result<Self, Error> {
        // Else a Python script that does not flush never answers the last tuples, and one that reads text stops at
        // bytes that are not UTF-8.
        let python = [
            ("PYTHONUNBUFFERED", "1"),
            ("PYTHONIOENCODING", "utf-8:surrogateescape"),
        ];
        let mut full_env: Vec<_> = python.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        full_env.extend_from_slice(env);
        let mut group = Group::start(exe, args, &full_env, true).await?;
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
            kind,
            op_timeout,
            status: None,
            broken: None,
            asked: Asked::default(),
            answers: Answers::default(),
            buffer: Vec::new(),
        })
    }

    pub fn kind(&self) -> OpKind {
        self.kind
    }

    /// The program's process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.group.child.id()
    }

    /// Feeds the whole batch and emits all answers, in order. After an error, or when this future is dropped half
    /// way, the program is of no use any more: later calls fail.
    pub async fn process(&mut self, batch: &Batch, out: &mut dyn Emit) -> Result<(), Error> {
        if let Some(why) = self.broken {
            return Err(Error {
                stderr: self.stderr.last_lines().await,
                ..Error::failed(why)
            });
        }
        self.asked.ask(batch)?;
        if batch.is_empty() {
            return Ok(());
        }
        self.broken = Some("the operator was given up in the middle of a batch");
        match self.exchange(batch, out).await {
            Ok(()) => {
                self.broken = None;
                Ok(())
            }
            Err(what) => Err(self.failed(what, batch).await),
        }
    }

    /// Tells the program that there is no more, and waits for its end; one that does not end in time is killed. What
    /// it still prints is an error: it would be lost. How it ends is not, since all tuples are answered.
    pub async fn finish(mut self) -> Result<(), Error> {
        drop(self.stdin.take());
        let deadline = clock::now() + self.op_timeout;
        let mut unasked = std::mem::take(&mut self.buffer);
        if unasked.is_empty() {
            let read = self.stdout.read_buf(&mut unasked);
            match tokio::time::timeout(deadline.since(clock::now()), read).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "OPERATOR_END"),
                Err(_) => tracing::warn!(why = "it goes on at the end of its input", "OPERATOR_KILLED"),
            }
        }
        if !unasked.is_empty() {
            let line = quoted(unasked.split(|b| *b == b'\n').next().unwrap_or_default());
            let what =
                format!("at the end of its input the operator printed `{line}`, which answers no tuple");
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

    async fn exchange(&mut self, batch: &Batch, out: &mut dyn Emit) -> Result<(), String> {
        // Lets the runtime learn what has arrived: what is read before anything is written, nobody asked for.
        tokio::task::yield_now().await;
        let op_timeout = self.op_timeout;
        let mut deadline = clock::now() + op_timeout;
        let mut timer = pin!(clock::sleep_until(deadline));
        let mut ended = false;
        while self.asked.answered < batch.len() {
            let Self {
                group,
                stdin,
                stdout,
                asked,
                buffer,
                status,
                ..
            } = self;
            let unwritten = &asked.text[asked.written..];
            buffer.reserve(READ_BYTES);
            // Reading comes first: it makes room for the program to go on.
            let event = tokio::select! {
                biased;
                read = stdout.read_buf(buffer) => Event::Read(read),
                wrote = write(stdin, unwritten), if stdin.is_some() && !unwritten.is_empty() => Event::Wrote(wrote),
                end = group.wait(), if !ended => Event::Ended(end),
                () = &mut timer => Event::Timer,
            };
            match event {
                Event::Read(Ok(0)) => return Err(self.how_it_ended("closed its standard output").await),
                Event::Read(Err(e)) => return Err(format!("the operator cannot be read from: {e}")),
                Event::Read(Ok(_)) => {
                    if self.parse(batch, out)? && !ended {
                        deadline = clock::now() + op_timeout;
                    }
                }
                Event::Wrote(Ok(n)) => asked.written += n,
                Event::Wrote(Err(_)) => {
                    // It ends, or has closed its input. What it has answered before counts: read on for a moment.
                    *stdin = None;
                    deadline = clock::now() + op_timeout.min(LAST_WORDS);
                    timer.set(clock::sleep_until(deadline));
                }
                Event::Ended(end) => {
                    ended = true;
                    *status = end.ok();
                    *stdin = None;
                    deadline = clock::now() + LAST_WORDS;
                    timer.set(clock::sleep_until(deadline));
                }
                Event::Timer if clock::now() < deadline => timer.set(clock::sleep_until(deadline)),
                Event::Timer if ended || stdin.is_none() => {
                    return Err(self.how_it_ended("closed its standard input").await);
                }
                Event::Timer => {
                    return Err(format!(
                        "the operator has answered nothing for {} s; if it keeps its answers in a buffer, let it \
                         flush after each (Python: flush=True, awk: fflush(), C: fflush(stdout)); mawk reads tuple by tuple \
                         only under -W interactive",
                        op_timeout.as_secs_f32()
                    ));
                }
            }
        }
        match self.buffer.is_empty() {
            true => Ok(()),
            false => Err(self.unasked()),
        }
    }

    fn unasked(&self) -> String {
        let line = self.buffer.split(|b| *b == b'\n').next().unwrap_or_default();
        format!(
            "the operator printed `{}`, though it has answered all it was given",
            quoted(line)
        )
    }

    /// Takes the whole lines out of the buffer. True: there was one.
    fn parse(&mut self, batch: &Batch, out: &mut dyn Emit) -> Result<bool, String> {
        let Self {
            asked,
            answers,
            buffer,
            ..
        } = self;
        let mut at = 0;
        while asked.answered < batch.len() {
            let Some(length) = memchr(b'\n', &buffer[at..]) else {
                break;
            };
            let line = &buffer[at..at + length];
            // It may answer when it has seen the key, the value still on its way.
            let start = asked
                .answered
                .checked_sub(1)
                .map_or(0, |previous| asked.ends[previous]);
            if asked.written <= start {
                return Err(format!(
                    "the operator printed `{}` for a tuple that it cannot have read yet: each tuple is answered once",
                    quoted(line)
                ));
            }
            let complete = answers.line(line, |key, value| match key {
                Some(key) => out.emit(key, value),
                None => {
                    asked.key.clear();
                    batch.key_into(asked.answered, &mut asked.key);
                    out.emit(&asked.key, value);
                }
            });
            let complete =
                complete.map_err(|g| format!("the operator does not keep to the text protocol: {g}"))?;
            asked.answered += usize::from(complete);
            at += length + 1;
        }
        buffer.drain(..at);
        if buffer.len() > LONGEST_LINE {
            return Err(format!(
                "the operator's answer has a line longer than {} MiB",
                LONGEST_LINE >> 20
            ));
        }
        Ok(at > 0)
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

    /// The error for the first tuple without an answer. Ends the program.
    async fn failed(&mut self, what: String, batch: &Batch) -> Error {
        self.broken = Some("the operator has failed before");
        self.stdin = None;
        self.group.kill();
        let mut key = vec![];
        // Answering more than was asked is noticed when there is none without.
        batch.key_into(self.asked.answered.min(batch.len() - 1), &mut key);
        Error {
            stderr: self.stderr.last_lines().await,
            ..Error::poison(what, &key)
        }
    }
}

async fn write(stdin: &mut Option<ChildStdin>, bytes: &[u8]) -> io::Result<usize> {
    match stdin {
        Some(stdin) => stdin.write(bytes).await,
        None => std::future::pending().await,
    }
}

impl Asked {
    fn ask(&mut self, batch: &Batch) -> Result<(), Error> {
        self.text.clear();
        self.ends.clear();
        (self.written, self.answered) = (0, 0);
        batch.try_for_each(|key, value| {
            if !write_tuple(key, value, &mut self.text) {
                let what = "the tuple's key or value holds a newline, which the text protocol cannot say";
                return Err(Error::poison(what, key));
            }
            self.ends.push(self.text.len());
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
