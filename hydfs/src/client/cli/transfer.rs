//! Bytes in and out, with a progress bar where somebody looks.

use std::io::{self, IsTerminal};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::WRITE;
use common::ids::NodeName;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{flush, local, write};
use crate::client::stream::PIECE;
use crate::client::{Client, Error, FileRef, check_name, put};

/// Transfers shorter than this show no progress bar.
const WORTH_A_BAR: u64 = 8_000_000;
/// How much is looked at, at a time, to find the last lines.
const BACK: u64 = 64 * 1024;

type Input = Box<dyn AsyncRead + Unpin + Send>;

/// A reader and, where it is known, how much it will yield.
async fn open(path: &Path) -> Result<(Input, Option<u64>), Error> {
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
    let mut file = tokio::fs::File::open(path).await.map_err(read)?;
    file.set_max_buf_size(1024 * 1024);
    Ok((Box::new(file), meta.is_file().then_some(meta.len())))
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

pub async fn create(client: &Client, from: &Path, name: &str) -> Result<(), Error> {
    check_name(name)?;
    let (input, size) = open(from).await?;
    let bar = bar(size, "create");
    let done = create_of(client, input, name, |n| bar.set_position(n)).await;
    bar.finish_and_clear();
    done.map(drop)
}

/// Makes the file of all that `input` yields; when that fails there is none.
pub async fn create_of(
    client: &Client,
    input: impl AsyncRead + Unpin,
    name: &str,
    progress: impl FnMut(u64),
) -> Result<u64, Error> {
    let creation = client.create(name).await?;
    match put::append_all(client, input, (name, creation).into(), progress).await {
        Ok(len) => Ok(len),
        Err(error) => {
            // Half a file under this name would look like a whole one. If this does not come through either, the first error says why.
            let _ = client.with_patience(Duration::from_secs(2)).remove(name).await;
            Err(error)
        }
    }
}

pub async fn append<W: AsyncWrite + Unpin>(
    client: &Client,
    from: &Path,
    name: &str,
    gate: bool,
    out: &mut W,
) -> Result<(), Error> {
    check_name(name)?;
    let (mut input, size) = open(from).await?;
    if gate {
        client.stat(name).await?;
        write(out, b"READY\n").await?;
        flush(out).await?;
        let closed = || Error::Usage("append --gate: nobody opened the gate".into());
        let mut line = Vec::new();
        // One byte at a time: what lies behind is the data, if that comes the same way.
        let mut stdin: Input = match from == Path::new("-") {
            true => std::mem::replace(&mut input, Box::new(tokio::io::empty())),
            false => Box::new(tokio::io::stdin()),
        };
        while line.last() != Some(&b'\n') && line.len() < 16 {
            line.push(stdin.read_u8().await.map_err(|_| closed())?);
        }
        if line != b"GO\n" {
            return Err(closed());
        }
        if from == Path::new("-") {
            input = stdin;
        }
    }
    let bar = bar(size, "append");
    let done = client.append(input, name, |n| bar.set_position(n)).await;
    bar.finish_and_clear();
    done.map(drop)
}

/// A local file that comes to be when it is whole: written beside its place, and renamed. What is there and no regular file (a
/// device, a pipe) is written to as it is.
struct Target {
    path: PathBuf,
    part: Option<PathBuf>,
    file: tokio::fs::File,
}

impl Target {
    /// `name`: what a file in a folder is to be called.
    async fn open(path: &Path, name: &str) -> Result<Self, Error> {
        let mut path = path.to_owned();
        if path.is_dir() {
            path.push(name.rsplit('/').next().unwrap_or(name));
        }
        // A symbolic link stays one.
        if let Ok(real) = std::fs::canonicalize(&path) {
            path = real;
        }
        let special = std::fs::metadata(&path).is_ok_and(|m| !m.is_file() && !m.is_dir());
        let mut part = path.as_os_str().to_owned();
        part.push(format!(".{}.part", std::process::id()));
        let part = (!special).then_some(PathBuf::from(part));
        let file = match &part {
            Some(part) => tokio::fs::File::create(part).await,
            None => tokio::fs::OpenOptions::new().write(true).open(&path).await,
        };
        let mut file = file.map_err(|e| local(&path, "write", e))?;
        file.set_max_buf_size(WRITE);
        Ok(Self { path, part, file })
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let written = self.file.write_all(bytes).await;
        written.map_err(|e| local(&self.path, "write", e))
    }

    async fn close(mut self, copied: Result<(), Error>) -> Result<(), Error> {
        let done = match copied {
            Ok(()) => match (self.file.flush().await, &self.part) {
                (Ok(()), Some(part)) => tokio::fs::rename(part, &self.path).await,
                (flushed, _) => flushed,
            }
            .map_err(|e| local(&self.path, "write", e)),
            Err(error) => Err(error),
        };
        if let (Err(_), Some(part)) = (&done, &self.part) {
            let _ = tokio::fs::remove_file(part).await;
        }
        done
    }
}

pub async fn get<W: AsyncWrite + Unpin>(
    client: &Client,
    name: &str,
    to: &Path,
    out: &mut W,
) -> Result<(), Error> {
    // Asked first: a file that is not there must not leave anything here.
    let mut stream = client.get(name, 0..u64::MAX).await?;
    if to == Path::new("-") {
        while let Some(piece) = stream.next().await {
            write(out, &piece?).await?;
        }
        return Ok(());
    }
    let mut target = Target::open(to, name).await?;
    let bar = bar(Some(stream.len()), "get");
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
    target.close(copied).await
}

pub async fn get_from_replica<W: AsyncWrite + Unpin>(
    client: &Client,
    node: &NodeName,
    name: &str,
    to: &Path,
    out: &mut W,
) -> Result<(), Error> {
    if to == Path::new("-") {
        let sink = async |bytes: bytes::Bytes, _| write(out, &bytes).await;
        return client.get_from_replica(node, name, sink).await.map(drop);
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
    target.close(copied.map(drop)).await
}

async fn copy<W: AsyncWrite + Unpin>(
    client: &Client,
    file: FileRef<'_>,
    range: Range<u64>,
    out: &mut W,
) -> Result<(), Error> {
    let mut stream = client.stream(file, range);
    while let Some(piece) = stream.next().await {
        write(out, &piece?).await?;
    }
    flush(out).await
}

/// Where the last `lines` lines of the first `len` bytes begin.
async fn last_lines(client: &Client, file: FileRef<'_>, len: u64, lines: u64) -> Result<u64, Error> {
    let (mut from, mut left) = (len, lines);
    while from > 0 && lines > 0 {
        let begin = from.saturating_sub(BACK);
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
    Ok(from.min(if lines == 0 { len } else { 0 }))
}

pub async fn tail<W: AsyncWrite + Unpin>(
    client: &Client,
    name: &str,
    follow: bool,
    lines: u64,
    bytes: Option<u64>,
    out: &mut W,
) -> Result<(), Error> {
    let stat = client.stat(name).await?;
    let len = stat.len;
    // What comes after it under its name is another file.
    let file = FileRef::from((name, stat.creation));
    let from = match bytes {
        Some(bytes) => len.saturating_sub(bytes),
        None => last_lines(client, file, len, lines).await?,
    };
    copy(client, file, from..len, out).await?;
    let mut at = len;
    if !follow {
        return Ok(());
    }
    loop {
        let more = client
            .tail(file, at, PIECE as usize, Duration::from_secs(60))
            .await?;
        write(out, &more).await?;
        flush(out).await?;
        at += more.len() as u64;
    }
}
