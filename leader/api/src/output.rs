//! A job's output: follows the destination file and copies what is committed, each byte once.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::clock::{self, unix_micros};
use common::ids::Creation;
use common::output::reader_has_gone;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;

const PIECE: usize = 1024 * 1024;
const WAIT: Duration = Duration::from_millis(500);
/// `sample`: so many lines a second.
const SAMPLE_LINES: usize = 10;
/// `sample`: read so much of what came in a second.
const SAMPLE_BYTES: usize = 64 * 1024;

/// A file that grows.
pub trait Tail: Send + Sync {
    /// Up to `max` bytes from `offset`, as soon as there are any; empty when none came within `wait`.
    fn tail(
        &self,
        offset: u64,
        max: usize,
        wait: Duration,
    ) -> impl Future<Output = Result<Bytes, Error>> + Send;
    /// How long it is now.
    fn length(&self) -> impl Future<Output = Result<u64, Error>> + Send;
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the output cannot be read: {0}")]
    Read(#[from] hydfs::client::Error),
    #[error("standard output: {0}")]
    Write(#[from] io::Error),
}

/// A file in HyDFS.
pub struct File {
    pub client: hydfs::client::Client,
    pub name: String,
    /// Which file of that name.
    pub creation: Option<Creation>,
}

impl Tail for File {
    async fn tail(&self, offset: u64, max: usize, wait: Duration) -> Result<Bytes, Error> {
        Ok(self
            .client
            .tail((&*self.name, self.creation), offset, max, wait)
            .await?)
    }
    async fn length(&self) -> Result<u64, Error> {
        Ok(self.client.stat(&self.name).await?.len)
    }
}

/// When the first byte was printed: wall clock, microseconds; 0: not yet.
#[derive(Debug, Clone, Default)]
pub struct First(Arc<AtomicU64>);

impl First {
    fn note(&self) {
        let _ = self
            .0
            .compare_exchange(0, unix_micros(), Ordering::Relaxed, Ordering::Relaxed);
    }
    pub fn at_us(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|us| *us > 0)
    }
}

/// Whether whoever reads standard output has gone: nothing more to print then, and no failure.
fn gone(error: &Error) -> bool {
    matches!(error, Error::Write(e) if reader_has_gone(e))
}

/// Copies everything from `offset` on, until `end` is set and reached.
pub async fn copy_all(
    file: &impl Tail,
    mut offset: u64,
    mut out: impl AsyncWrite + Unpin,
    mut end: watch::Receiver<Option<u64>>,
    first: First,
) -> Result<(), Error> {
    let copy = async {
        loop {
            if end.borrow_and_update().is_some_and(|end| offset >= end) {
                return Ok(());
            }
            let bytes = tokio::select! {
                bytes = file.tail(offset, PIECE, WAIT) => bytes?,
                // Perhaps all is printed: no need to wait for more.
                Ok(()) = end.changed() => continue,
            };
            if !bytes.is_empty() {
                offset += bytes.len() as u64;
                out.write_all(&bytes).await?;
                out.flush().await?;
                first.note();
            }
        }
    };
    copy.await
        .or_else(|error| if gone(&error) { Ok(()) } else { Err(error) })
}

/// Prints a few whole lines of what came in each `period` (a second), and passes over the rest.
pub async fn sample(
    file: &impl Tail,
    mut offset: u64,
    mut out: impl AsyncWrite + Unpin,
    mut end: watch::Receiver<Option<u64>>,
    first: First,
    period: Duration,
) -> Result<(), Error> {
    loop {
        let began = clock::now();
        let over = *end.borrow_and_update();
        let len = file.length().await?;
        if len > offset {
            let bytes = file.tail(offset, SAMPLE_BYTES, WAIT).await?;
            // Output grows by whole lines, so the offset is where a line begins.
            let lines = head(&bytes, SAMPLE_LINES);
            let printed = async {
                out.write_all(lines).await?;
                out.flush().await
            };
            match printed.await.map_err(Error::from) {
                Err(error) if gone(&error) => return Ok(()),
                other => other?,
            }
            if !lines.is_empty() {
                first.note();
                offset = len;
            }
        }
        if over.is_some() {
            return Ok(());
        }
        tokio::select! {
            () = clock::sleep_until(began + period) => {}
            _ = end.changed() => {}
        }
    }
}

/// The first `n` whole lines.
fn head(bytes: &[u8], n: usize) -> &[u8] {
    let newlines = bytes
        .iter()
        .enumerate()
        .filter(|(_, b)| **b == b'\n')
        .map(|(i, _)| i + 1);
    &bytes[..newlines.take(n).last().unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::Pin;
    use std::sync::Mutex;
    use std::task::{Context, Poll};

    /// Grows by a piece with each look.
    struct Growing {
        pieces: Mutex<Vec<&'static [u8]>>,
        bytes: Mutex<Vec<u8>>,
        end: watch::Sender<Option<u64>>,
    }

    impl Growing {
        fn new(mut pieces: Vec<&'static [u8]>) -> (Self, watch::Receiver<Option<u64>>) {
            let (end, receiver) = watch::channel(None);
            pieces.reverse();
            (
                Self {
                    pieces: Mutex::new(pieces),
                    bytes: Mutex::new(vec![]),
                    end,
                },
                receiver,
            )
        }

        fn grow(&self) {
            let mut bytes = self.bytes.lock().unwrap();
            match self.pieces.lock().unwrap().pop() {
                Some(piece) => bytes.extend_from_slice(piece),
                None => drop(self.end.send(Some(bytes.len() as u64))),
            }
        }
    }

    impl Tail for Growing {
        async fn tail(&self, offset: u64, max: usize, _: Duration) -> Result<Bytes, Error> {
            self.grow();
            let bytes = self.bytes.lock().unwrap();
            let from = bytes.len().min(offset as usize);
            Ok(Bytes::copy_from_slice(&bytes[from..bytes.len().min(from + max)]))
        }
        async fn length(&self) -> Result<u64, Error> {
            self.grow();
            Ok(self.bytes.lock().unwrap().len() as u64)
        }
    }

    #[tokio::test]
    async fn all_is_copied_once_from_the_offset_to_the_end() {
        let (file, end) = Growing::new(vec![b"old\n", b"a\n", b"", b"b\nc\n"]);
        let (mut out, first) = (vec![], First::default());
        copy_all(&file, 4, &mut out, end, first.clone()).await.unwrap();
        assert_eq!(out, b"a\nb\nc\n");
        assert!(first.at_us().is_some());
    }

    #[tokio::test]
    async fn a_sample_is_a_few_whole_lines_a_period() {
        let (file, end) = Growing::new(vec![b"1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n", b"", b"x\n", b""]);
        let mut out = vec![];
        sample(
            &file,
            0,
            &mut out,
            end,
            First::default(),
            Duration::from_millis(5),
        )
        .await
        .unwrap();
        assert!(out.starts_with(b"1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n"), "{out:?}");
        assert!(out.len() < 30 && out.ends_with(b"\n"));
    }

    struct Closed;
    impl AsyncWrite for Closed {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_reader_that_has_gone_is_no_failure() {
        let (file, end) = Growing::new(vec![b"a\n"]);
        copy_all(&file, 0, Closed, end.clone(), First::default())
            .await
            .unwrap();
        sample(&file, 0, Closed, end, First::default(), Duration::from_millis(5))
            .await
            .unwrap();
    }
}
