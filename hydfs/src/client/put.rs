//! Whole local files into HyDFS.

use bytes::{Bytes, BytesMut};
use common::ids::Epoch;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::error::Error;
use super::{Appender, Client, FileRef, MAX_APPEND, nodes};

const PIECE: usize = 1024 * 1024;
/// Bytes read and not yet acknowledged.
const AHEAD: u64 = 16 * 1024 * 1024;

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
        if piece.capacity() == piece.len() {
            piece.reserve(piece.len().clamp(PIECE, size));
        }
        let room = (size - piece.len()) as u64;
        if (&mut *local)
            .take(room)
            .read_buf(&mut piece)
            .await
            .map_err(unreadable)?
            == 0
        {
            break;
        }
    }
    Ok(piece.freeze())
}

/// A stream that nobody else writes.
async fn open(client: &Client, file: FileRef<'_>, why: &str) -> Result<Appender, Error> {
    client
        .open_append(file, &format!("{why}-{:016x}", nodes::random()), Epoch(1), false)
        .await
}

pub async fn append_all<R: AsyncRead + Unpin>(
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

pub async fn append_whole<R: AsyncRead + Unpin>(
    client: &Client,
    mut local: R,
    file: &str,
    mut progress: impl FnMut(u64),
) -> Result<u64, Error> {
    let mut appender: Option<Appender> = None;
    loop {
        let piece = read_piece(&mut local, MAX_APPEND).await?;
        let open = match &mut appender {
            Some(open) if piece.is_empty() => {
                let _ = open;
                break;
            }
            Some(open) => open,
            None => appender.insert(open(client, file.into(), "append").await?),
        };
        if piece.is_empty() {
            break;
        }
        open.append(piece);
        let queued = open.queued();
        progress(open.wait_acked(queued.saturating_sub(MAX_APPEND as u64)).await?);
    }
    match appender {
        Some(appender) => drain(appender, progress).await,
        None => Ok(0),
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
