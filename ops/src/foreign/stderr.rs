//! A program's standard error: always drained, each line handed on, the last ones kept for error messages. Escape sequences are
//! shown from here on.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::clock;
use memchr::{memchr, memrchr};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::JoinHandle;

/// Lines kept.
const KEPT: usize = 20;
/// Lines handed on each second: a flood is counted, no more.
const PER_SECOND: u32 = 1000;
/// A longer line is cut.
const LONGEST: usize = 4096;
/// How long to wait for the rest of what a dead program said: something may hold its stream open still.
const REST: Duration = Duration::from_millis(300);

/// Drains one stream until its end, or until this is dropped.
#[derive(Debug)]
pub struct Drain {
    kept: Arc<Mutex<VecDeque<String>>>,
    task: JoinHandle<()>,
}

impl Drain {
    pub fn start(
        stream: impl AsyncRead + Unpin + Send + 'static,
        lines: impl FnMut(&str) + Send + 'static,
    ) -> Self {
        let kept = Arc::new(Mutex::new(VecDeque::new()));
        let task = common::spawn::task("operator-stderr", drain(stream, Sink::new(kept.clone(), lines)));
        Self { kept, task }
    }

    /// The last lines of a program that has ended.
    pub async fn last_lines(&mut self) -> Vec<String> {
        if !self.task.is_finished() {
            // Late or not: what there is by then.
            let _ = tokio::time::timeout(REST, &mut self.task).await;
        }
        lock(&self.kept).iter().cloned().collect()
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A panic elsewhere cannot leave a list of lines half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn drain<F: FnMut(&str)>(
    mut stream: impl AsyncRead + Unpin,
    mut sink: Sink<F>,
) -> Result<(), std::io::Error> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer).await? {
            0 => {
                sink.end(clock::now());
                return Ok(());
            }
            n => sink.bytes(&buffer[..n], clock::now()),
        }
    }
}

struct Sink<F> {
    kept: Arc<Mutex<VecDeque<String>>>,
    lines: F,
    /// A line's beginning.
    partial: Vec<u8>,
    second: clock::Time,
    in_second: u32,
    dropped: u64,
}

impl<F: FnMut(&str)> Sink<F> {
    fn new(kept: Arc<Mutex<VecDeque<String>>>, lines: F) -> Self {
        Self {
            kept,
            lines,
            partial: vec![],
            second: clock::Time::ZERO,
            in_second: 0,
            dropped: 0,
        }
    }

    fn bytes(&mut self, mut bytes: &[u8], now: clock::Time) {
        self.new_second(now);
        // In a flood only the lines that will be kept are looked at.
        if self.in_second >= PER_SECOND {
            let tail = last_lines_start(bytes);
            if tail > 0 {
                self.dropped += memchr::memchr_iter(b'\n', &bytes[..tail]).count() as u64;
                self.partial.clear();
                bytes = &bytes[tail..];
            }
        }
        while let Some(newline) = memchr(b'\n', bytes) {
            self.add(&bytes[..newline]);
            bytes = &bytes[newline + 1..];
            self.line();
        }
        self.add(bytes);
    }

    fn end(&mut self, now: clock::Time) {
        if !self.partial.is_empty() {
            self.line();
        }
        self.new_second(now + Duration::from_secs(1));
    }

    fn new_second(&mut self, now: clock::Time) {
        if now.since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.in_second = 0;
            if self.dropped > 0 {
                (self.lines)(&format!(
                    "({} more lines on standard error were dropped)",
                    self.dropped
                ));
                self.dropped = 0;
            }
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        let room = LONGEST.saturating_sub(self.partial.len());
        self.partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn line(&mut self) {
        let text = String::from_utf8_lossy(self.partial.trim_ascii_end());
        let text = common::shown::line(&text).into_owned();
        self.partial.clear();
        match self.in_second < PER_SECOND {
            true => {
                self.in_second += 1;
                (self.lines)(&text);
            }
            false => self.dropped += 1,
        }
        let mut kept = lock(&self.kept);
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(text);
    }
}

/// Where the last `KEPT` whole lines begin, and what follows them.
fn last_lines_start(bytes: &[u8]) -> usize {
    let mut end = bytes.len();
    for _ in 0..=KEPT {
        match memrchr(b'\n', &bytes[..end]) {
            Some(newline) => end = newline,
            None => return 0,
        }
    }
    end + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    type Shared = Arc<Mutex<VecDeque<String>>>;
    type Seen = Arc<Mutex<Vec<String>>>;

    fn sink() -> (Sink<impl FnMut(&str)>, Shared, Seen) {
        let (kept, seen) = (Shared::default(), Seen::default());
        let to = seen.clone();
        (
            Sink::new(kept.clone(), move |l: &str| lock(&to).push(l.to_owned())),
            kept,
            seen,
        )
    }

    #[test]
    fn lines_in_pieces_are_put_together_and_a_last_one_without_newline_counts() {
        let (mut sink, kept, seen) = sink();
        let now = clock::Time::from_millis(5000);
        [&b"he"[..], b"llo\nwor", b"", b"ld\r\n\nend"]
            .iter()
            .for_each(|b| sink.bytes(b, now));
        sink.end(now);
        assert_eq!(*lock(&seen), ["hello", "world", "", "end"]);
        assert_eq!(*lock(&kept), ["hello", "world", "", "end"]);
    }

    #[test]
    fn a_flood_is_counted_and_its_last_lines_are_kept() {
        let (mut sink, kept, seen) = sink();
        let now = clock::Time::from_millis(5000);
        let flood: String = (0..50_000).map(|i| format!("line {i}\n")).collect();
        flood.as_bytes().chunks(4096).for_each(|b| sink.bytes(b, now));
        // The chunk that crosses the limit is read to its end.
        let handed_on = lock(&seen).len();
        assert_eq!(handed_on, 1000);
        sink.end(now);
        let seen = lock(&seen);
        let dropped: u64 = seen[1000]
            .strip_prefix('(')
            .and_then(|l| l.split(' ').next())
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(dropped, 49_000);
        let want: Vec<String> = (49_980..50_000).map(|i| format!("line {i}")).collect();
        assert_eq!(*lock(&kept), want);
    }

    #[test]
    fn a_line_without_end_takes_bounded_memory() {
        let (mut sink, kept, _) = sink();
        for _ in 0..1000 {
            sink.bytes(&[b'x'; 4096], clock::Time::from_millis(5000));
        }
        assert!(sink.partial.capacity() <= 2 * LONGEST);
        sink.bytes(b"\n", clock::Time::from_millis(5000));
        assert_eq!(lock(&kept)[0].len(), LONGEST);
    }
}
