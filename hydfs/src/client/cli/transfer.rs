//! Bytes in and out, with a progress bar where somebody looks.

use std::io::{self, IsTerminal};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::WRITE;
use common::ids::NodeName;
use common::output::complain;
use common::replacement::Replacement;
use common::signals::Stop;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use super::local;
use super::out::Out;
use super::regular::Regular;
use crate::client::stream::PIECE;
use crate::client::{Client, Error, FileRef, Gather, check_name};

/// Transfers shorter than this show no progress bar.
const WORTH_A_BAR: u64 = 8_000_000;
/// How much is looked at, at a time, to find the last lines.
const BACK: u64 = 64 * 1024;

pub(super) type Input = Box<dyn AsyncRead + Unpin + Send>;

/// A reader and, where it is known, how much it will yield.
pub(super) async fn open(path: &Path) -> Result<(Input, Option<u64>), Error> {
    if path == Path::new("-") {
        return Ok((Box::new(tokio::io::stdin()), None));
    }
    let read = |e| local(path, "read", e);
    // Looked at first: opening a pipe would wait for its writer, and bad permissions are better told apart from that.
    let meta = tokio::fs::metadata(path).await.map_err(read)?;
    if meta.is_dir() {
        return Err(read(io::Error::other(
            "it is a folder; name a file, or all in it with create -r",
        )));
    }
    let file = tokio::fs::File::open(path).await.map_err(read)?;
    Ok(match Regular::new(path, file).await.map_err(read)? {
        Ok(file) => {
            let size = file.size();
            (Box::new(file), Some(size))
        }
        Err(file) => (Box::new(file), None),
    })
}

pub fn bar(size: Option<u64>, what: &'static str) -> ProgressBar {
    let worth = size.is_none_or(|n| n > WORTH_A_BAR) && io::stderr().is_terminal();
    if !worth {
        return ProgressBar::hidden();
    }
    let template = match size {
        Some(_) => "{msg} {bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        None => "{msg} {spinner} {bytes} {bytes_per_sec}",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = size.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    bar.with_style(style).with_message(what)
}

/// For what leaves nothing behind when it is given up.
pub(super) async fn unless<T>(
    stop: &Stop,
    doing: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let given_up = |by| {
        let what = String::new();
        Err(Error::Stopped { by, what })
    };
    stop.unless(doing).await.unwrap_or_else(given_up)
}

pub async fn create(client: &Client, from: &Path, name: &str, stop: &Stop) -> Result<(), Error> {
    check_name(name)?;
    let (input, size) = unless(stop, open(from)).await?;
    let bar = bar(size, "create");
    let done = client.put(input, name, stop, |n| bar.set_position(n)).await;
    bar.finish_and_clear();
    done.map(drop)
}

/// `linger`: how long lines from a pipe may wait for more.
pub async fn append(
    client: &Client,
    from: &Path,
    name: &str,
    gate: bool,
    linger: Duration,
    stop: &Stop,
    out: &mut Out<'_>,
) -> Result<(), Error> {
    check_name(name)?;
    let (mut input, size) = unless(stop, open(from)).await?;
    let mut gather = match size {
        Some(_) => Gather::Whole,
        None => Gather::Lines(linger),
    };
    if gate {
        client.stat(name).await?;
        out.write(b"READY\n").await?;
        out.flush().await?;
        // What lies behind the gate is the data, if that comes the same way.
        let length = match from == Path::new("-") {
            true => unless(stop, go(&mut input)).await?,
            false => unless(stop, go(&mut tokio::io::stdin())).await?,
        };
        gather = length.map_or(Gather::Whole, Gather::Exactly);
    }
    let bar = bar(size, "append");
    let done = client
        .append(input, name, gather, stop, |n| bar.set_position(n))
        .await;
    bar.finish_and_clear();
    done.map(drop)
}

/// Waits for the line `GO` or `GO LENGTH`, the latter before as many bytes of data.
async fn go(stdin: &mut (impl AsyncRead + Unpin)) -> Result<Option<u64>, Error> {
    let closed = || Error::Usage("append --gate: nobody opened the gate".into());
    let mut line = Vec::new();
    // One byte at a time, to take nothing of what lies behind.
    while line.last() != Some(&b'\n') && line.len() < 32 {
        line.push(stdin.read_u8().await.map_err(|_| closed())?);
    }
    let line = String::from_utf8_lossy(&line);
    match line.strip_prefix("GO").map(str::trim) {
        Some("") => Ok(None),
        Some(length) => length.parse().map(Some).map_err(|_| closed()),
        None => Err(closed()),
    }
}

/// A local file that comes to be when it is whole.
struct Target {
    path: PathBuf,
    replacement: Replacement,
    file: tokio::fs::File,
}

impl Target {
    /// `name`: what a file in a folder is to be called.
    async fn open(path: &Path, name: &str) -> Result<Self, Error> {
        let mut path = path.to_owned();
        if path.is_dir() {
            path.push(name.rsplit('/').next().unwrap_or(name));
        }
        let place = path.clone();
        // Opening a pipe waits for its reader.
        let opened = tokio::task::spawn_blocking(move || {
            let replacement = Replacement::open(&place)?;
            let file = replacement.file()?;
            Ok((replacement, file))
        });
        let opened = opened.await.map_err(io::Error::other).and_then(|opened| opened);
        let (replacement, file) = opened.map_err(|e| local(&path, "write", e))?;
        let mut file = tokio::fs::File::from_std(file);
        file.set_max_buf_size(WRITE);
        Ok(Self {
            path,
            replacement,
            file,
        })
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let written = self.file.write_all(bytes).await;
        written.map_err(|e| local(&self.path, "write", e))
    }

    /// All is written.
    async fn close(mut self) -> Result<(), Error> {
        let flushed = self.file.flush().await;
        let done = flushed.and_then(|()| self.replacement.commit());
        done.map_err(|e| local(&self.path, "write", e))
    }
}

pub async fn get(client: &Client, name: &str, to: &Path, out: &mut Out<'_>) -> Result<(), Error> {
    // Asked first: a file that is not there must not leave anything here.
    let mut from = 0;
    let mut stream = loop {
        match client.get(name, from..u64::MAX).await {
            Err(Error::Trimmed { base, .. }) => from = base,
            other => break other?,
        }
    };
    say_base(name, stream.base());
    if to == Path::new("-") {
        while let Some(piece) = stream.next().await {
            out.write(&piece?).await?;
            if out.is_done() {
                break;
            }
        }
        return Ok(());
    }
    let mut target = Target::open(to, name).await?;
    let bar = bar(Some(stream.len().saturating_sub(stream.base())), "get");
    let copied = async {
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            target.write(&piece).await?;
            bar.inc(piece.len() as u64);
        }
        Ok(())
    }
    .await;
    bar.finish_and_clear();
    match copied {
        Ok(()) => target.close().await,
        Err(error) => Err(error),
    }
}

pub async fn get_from_replica(
    client: &Client,
    node: &NodeName,
    name: &str,
    to: &Path,
    out: &mut Out<'_>,
) -> Result<(), Error> {
    if to == Path::new("-") {
        let sink = async |bytes: bytes::Bytes, _| out.write(&bytes).await;
        let there = client.get_from_replica(node, name, sink).await?;
        say_base(name, there.start);
        return Ok(());
    }
    // The target is opened with the first bytes: a node that has no copy leaves nothing here.
    let mut target: Option<(Target, ProgressBar)> = None;
    let sink = async |bytes: bytes::Bytes, len| {
        if target.is_none() {
            target = Some((Target::open(to, name).await?, bar(Some(len), "get")));
        }
        if let Some((target, bar)) = &mut target {
            target.write(&bytes).await?;
            bar.inc(bytes.len() as u64);
        }
        Ok(())
    };
    let copied = client.get_from_replica(node, name, sink).await;
    let target = match (target, &copied) {
        (Some((target, bar)), _) => {
            bar.finish_and_clear();
            target
        }
        (None, Ok(_)) => Target::open(to, name).await?,
        (None, Err(_)) => return copied.map(drop),
    };
    match copied {
        Ok(there) => {
            say_base(name, there.start);
            target.close().await
        }
        Err(error) => Err(error),
    }
}

/// Who gets a file that was trimmed is to know that it is not all that there was.
fn say_base(name: &str, base: u64) {
    if base > 0 {
        complain(format_args!(
            "hydfs: `{name}` begins at byte {base}: what was before was trimmed"
        ));
    }
}

async fn copy(client: &Client, file: FileRef<'_>, range: Range<u64>, out: &mut Out<'_>) -> Result<(), Error> {
    let mut stream = client.stream(file, range);
    while let Some(piece) = stream.next().await {
        out.write(&piece?).await?;
        if out.is_done() {
            break;
        }
    }
    out.flush().await
}

/// Where the last `lines` lines of the bytes `there` begin.
async fn last_lines(
    client: &Client,
    file: FileRef<'_>,
    there: &Range<u64>,
    lines: u64,
) -> Result<u64, Error> {
    let (mut from, mut left, len) = (there.end, lines, there.end);
    while from > there.start && lines > 0 {
        let begin = from.saturating_sub(BACK).max(there.start);
        let bytes = client.read(file, begin, (from - begin) as usize).await?;
        for at in memchr::memrchr_iter(b'\n', &bytes) {
            let behind = begin + at as u64 + 1;
            // The newline that ends the last line does not count.
            if behind == len {
                continue;
            }
            left -= 1;
            if left == 0 {
                return Ok(behind);
            }
        }
        from = begin;
    }
    Ok(from)
}

pub async fn tail(
    client: &Client,
    name: &str,
    follow: bool,
    lines: u64,
    bytes: Option<u64>,
    out: &mut Out<'_>,
) -> Result<(), Error> {
    let stat = client.stat(name).await?;
    let len = stat.len;
    // What comes after it under its name is another file.
    let file = FileRef::from((name, stat.creation));
    let from = match bytes {
        Some(bytes) => len.saturating_sub(bytes).max(stat.base),
        None => last_lines(client, file, &(stat.base..len), lines).await?,
    };
    copy(client, file, from..len, out).await?;
    let mut at = len;
    while follow && !out.is_done() {
        let more = client
            .tail(file, at, PIECE as usize, Duration::from_secs(60))
            .await?;
        out.write(&more).await?;
        out.flush().await?;
        at += more.len() as u64;
    }
    Ok(())
}
