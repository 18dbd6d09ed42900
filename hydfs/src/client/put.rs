//! Whole local files into HyDFS.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use common::clock::{self, Time};
use common::ids::{Creation, Epoch};
use common::signals::{Asked, Stop};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::error::Error;
use super::{Appender, Client, FileRef, MAX_APPEND, nodes};

const PIECE: usize = 1024 * 1024;
/// Bytes read and not yet acknowledged.
const AHEAD: u64 = 16 * 1024 * 1024;
/// How long it may take to remove what was not made whole.
const TIDY_WITHIN: Duration = Duration::from_secs(5);
/// What was written before a signal to stop has come when nothing more comes for so long.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// When what has come of an input goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gather {
    /// At its end, or as much as one append takes.
    Whole,
    /// Also, at the end of a line, this long after it came.
    Lines(Duration),
    /// At its end, if it has just this length; else not at all.
    Exactly(u64),
}

fn unreadable(error: std::io::Error) -> Error {
    Error::Local {
        what: "the local file cannot be read".into(),
        why: error.to_string(),
    }
}

/// Reads until `size` bytes are there or the input ends.
async fn read_piece(local: &mut (impl AsyncRead + Unpin), size: usize) -> Result<Bytes, Error> {
    let mut piece = BytesMut::with_capacity(size.min(PIECE));
    while piece.len() < size {
        let room = size - piece.len();
        if read_some(local, &mut piece, room).await? == 0 {
            break;
        }
    }
    Ok(piece.freeze())
}

/// Reads what there is, at most `room`. Cancel-safe.
async fn read_some(
    local: &mut (impl AsyncRead + Unpin),
    into: &mut BytesMut,
    room: usize,
) -> Result<usize, Error> {
    if into.capacity() == into.len() {
        into.reserve(into.len().clamp(PIECE.min(room), MAX_APPEND));
    }
    let read = (&mut *local).take(room as u64).read_buf(into).await;
    read.map_err(unreadable)
}

/// A stream that nobody else writes.
async fn open(client: &Client, file: FileRef<'_>, why: &str) -> Result<Appender, Error> {
    client
        .open_append(file, &format!("{why}-{:016x}", nodes::random()), Epoch(1), false)
        .await
}

/// Makes `file` of all that `local` yields. When that fails, or is stopped, there is none.
pub async fn make<R: AsyncRead + Unpin>(
    client: &Client,
    local: R,
    file: &str,
    stop: &Stop,
    progress: impl FnMut(u64),
) -> Result<u64, Error> {
    let nonce = nodes::random();
    let mut creating = std::pin::pin!(client.create_as(file, nonce));
    let created = match stop.unless(&mut creating).await {
        Ok(created) => created,
        // It may have been made by now: whether it was decides what there is to remove.
        Err(_) => tokio::time::timeout(TIDY_WITHIN, creating)
            .await
            .unwrap_or(Ok(())),
    };
    created?;
    let made = match stop
        .unless(append_all(
            client,
            local,
            (file, Creation(nonce)).into(),
            progress,
        ))
        .await
    {
        Ok(Ok(len)) => return Ok(len),
        Ok(Err(error)) => error,
        Err(by) => Error::Stopped {
            by,
            what: format!("`{file}` was not made"),
        },
    };
    // Half a file under this name would look like a whole one.
    let tidy = client.with_patience(TIDY_WITHIN);
    match tidy.remove_made(file, nonce).await {
        Ok(()) | Err(Error::NoSuchFile { .. }) => Err(made),
        Err(left) => {
            let what = format!("a part of `{file}` may be left ({left}); remove it: hydfs rm {file}");
            Err(match made {
                Error::Stopped { by, .. } => Error::Stopped { by, what },
                other => Error::Some(format!("{other}; {what}")),
            })
        }
    }
}

async fn append_all<R: AsyncRead + Unpin>(
    client: &Client,
    mut local: R,
    file: FileRef<'_>,
    mut progress: impl FnMut(u64),
) -> Result<u64, Error> {
    let first = read_piece(&mut local, PIECE).await?;
    if first.is_empty() {
        return Ok(0);
    }
    let mut appender = open(client, file, "put").await?;
    appender.append(first);
    loop {
        let piece = read_piece(&mut local, PIECE).await?;
        if piece.is_empty() {
            break;
        }
        appender.append(piece);
        let queued = appender.queued();
        if queued > AHEAD {
            progress(appender.wait_acked(queued - AHEAD).await?);
        }
    }
    drain(appender, progress).await
}

/// Appends what `local` yields, gathered into pieces. Stopped, it still appends what has come, if lines are on their own, and else
/// no piece that is not whole.
pub async fn append<R: AsyncRead + Unpin>(
    client: &Client,
    mut local: R,
    file: &str,
    gather: Gather,
    stop: &Stop,
    mut progress: impl FnMut(u64),
) -> Result<u64, Error> {
    let mut appender = match stop.unless(open(client, file.into(), "append")).await {
        Ok(opened) => opened?,
        Err(by) => return Err(stopped(by, file, 0)),
    };
    let mut held = Held::new(gather);
    let mut by = None;
    let mut unread = None;
    loop {
        let (queued, acked) = (appender.queued(), appender.acked());
        let waits = queued - acked > MAX_APPEND as u64;
        let room = held.room();
        tokio::select! {
            biased;
            asked = stop.asked() => {
                by = Some(asked);
                break;
            }
            () = clock::sleep_until(held.due.unwrap_or(Time::ZERO)), if held.due.is_some() => held.is_due(),
            // An error shows while nothing comes, too.
            changed = appender.changed(), if queued > acked => progress(changed?),
            read = read_some(&mut local, &mut held.bytes, room), if !waits => match read {
                Ok(0) => break,
                Ok(n) => held.came(n, clock::now()),
                Err(error) => {
                    unread = Some(error);
                    break;
                }
            },
        }
        if held.is_too_long() {
            break;
        }
        while let Some(piece) = held.piece() {
            appender.append(piece);
        }
    }
    if let Some(error) = unread {
        let done = appended(drain(appender, progress).await?, file);
        return Err(Error::Some(format!("{error}; {done}")));
    }
    let Some(by) = by else {
        held.check_length()?;
        if !held.bytes.is_empty() {
            appender.append(held.bytes.freeze());
        }
        return drain(appender, progress).await;
    };
    if let Gather::Lines(_) = gather {
        // What was written before the signal may still be in the pipe.
        while held.bytes.len() < MAX_APPEND {
            let (room, more) = (held.room(), &mut held.bytes);
            match tokio::time::timeout(LAST_WORDS, read_some(&mut local, more, room)).await {
                Ok(Ok(1..)) => {}
                _ => break,
            }
        }
        if !held.bytes.is_empty() {
            appender.append(held.bytes.freeze());
        }
    }
    let done = drain(appender, progress).await?;
    Err(stopped(by, file, done))
}

fn stopped(by: Asked, file: &str, appended: u64) -> Error {
    let what = self::appended(appended, file);
    Error::Stopped { by, what }
}

fn appended(bytes: u64, file: &str) -> String {
    match bytes {
        0 => format!("nothing was appended to `{file}`"),
        n => format!("{n} bytes were appended to `{file}`"),
    }
}

/// What has come and has not gone.
struct Held {
    gather: Gather,
    bytes: BytesMut,
    /// Behind the last line's end.
    whole: usize,
    /// When the whole lines are to go.
    due: Option<Time>,
    /// They are: the next line's end does not wait.
    overdue: bool,
}

impl Held {
    fn new(gather: Gather) -> Self {
        Self {
            gather,
            bytes: BytesMut::new(),
            whole: 0,
            due: None,
            overdue: false,
        }
    }

    fn room(&self) -> usize {
        MAX_APPEND.saturating_sub(self.bytes.len()).max(1)
    }

    fn is_too_long(&self) -> bool {
        matches!(self.gather, Gather::Exactly(wanted) if self.bytes.len() as u64 > wanted)
    }

    fn came(&mut self, n: usize, now: Time) {
        let from = self.bytes.len() - n;
        if let Some(at) = memchr::memrchr(b'\n', &self.bytes[from..]) {
            self.whole = from + at + 1;
        }
        if let Gather::Lines(linger) = self.gather
            && self.due.is_none()
            && !self.overdue
        {
            self.due = Some(now + linger);
        }
    }

    fn is_due(&mut self) {
        self.due = None;
        self.overdue = true;
    }

    /// What is to go now: whole lines, unless there is no end of a line in as much as one append takes.
    fn piece(&mut self) -> Option<Bytes> {
        let full = self.bytes.len() >= MAX_APPEND && !matches!(self.gather, Gather::Exactly(_));
        let len = match (full, self.whole) {
            (true, 0) => self.bytes.len(),
            (false, 0) => return None,
            (_, whole) if full || self.overdue => whole,
            _ => return None,
        };
        let piece = self.bytes.split_to(len).freeze();
        (self.whole, self.due, self.overdue) = (0, None, false);
        // What is left has come just now, as far as anybody could tell.
        if let (Gather::Lines(linger), false) = (self.gather, self.bytes.is_empty()) {
            self.due = Some(clock::now() + linger);
        }
        Some(piece)
    }

    fn check_length(&self) -> Result<(), Error> {
        let have = self.bytes.len() as u64;
        match self.gather {
            Gather::Exactly(wanted) if have != wanted => Err(Error::Local {
                what: "nothing was appended".into(),
                why: format!("{have} bytes came of {wanted}"),
            }),
            _ => Ok(()),
        }
    }
}

/// Waits for the last acknowledgement.
async fn drain(mut appender: Appender, mut progress: impl FnMut(u64)) -> Result<u64, Error> {
    let all = appender.queued();
    while appender.acked() < all {
        progress(appender.changed().await?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINGER: Duration = Duration::from_millis(500);

    /// What goes when these come and the time is up after each that is followed by `true`.
    fn pieces(gather: Gather, comes: &[(&[u8], bool)]) -> Vec<Vec<u8>> {
        let (mut held, mut gone) = (Held::new(gather), vec![]);
        for (bytes, due) in comes {
            held.bytes.extend_from_slice(bytes);
            held.came(bytes.len(), clock::now());
            if *due && held.due.is_some() {
                held.is_due();
            }
            while let Some(piece) = held.piece() {
                gone.push(piece.to_vec());
            }
        }
        gone
    }

    #[test]
    fn whole_lines_go_when_it_is_time() {
        let lines = Gather::Lines(LINGER);
        assert_eq!(pieces(lines, &[(b"a\nb\n", false)]), Vec::<Vec<u8>>::new());
        assert_eq!(pieces(lines, &[(b"a\n", false), (b"b\nc", true)]), [b"a\nb\n"]);
        // The rest of a line goes with its end, which does not wait again.
        let halves: [(&[u8], bool); 3] = [(b"a", true), (b"b", false), (b"c\nd", false)];
        assert_eq!(pieces(lines, &halves), [b"abc\n"]);
        assert_eq!(pieces(Gather::Whole, &[(b"a\n", true)]), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn an_append_takes_no_more_than_it_may_and_no_half_lines() {
        let mut text = vec![b'x'; MAX_APPEND - 2];
        text.extend_from_slice(b"\ny");
        for gather in [Gather::Whole, Gather::Lines(LINGER)] {
            let gone = pieces(gather, &[(&text, false)]);
            assert_eq!((gone.len(), gone[0].len()), (1, MAX_APPEND - 1));
            let gone = pieces(gather, &[(&vec![b'x'; MAX_APPEND], false)]);
            assert_eq!(gone[0].len(), MAX_APPEND);
        }
        assert!(pieces(Gather::Exactly(7), &[(&text, true)]).is_empty());
    }

    #[test]
    fn another_length_than_was_said_is_refused() {
        let mut held = Held::new(Gather::Exactly(3));
        for (more, right) in [(&b"ab"[..], false), (b"c", true), (b"d", false)] {
            held.bytes.extend_from_slice(more);
            assert_eq!(held.check_length().is_ok(), right);
        }
    }
}
