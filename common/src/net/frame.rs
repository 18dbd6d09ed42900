//! Frames: a 4-byte big-endian length, then that many bytes of MessagePack. With `security = encrypt` the bytes are
//! sealed in pieces of at most 64 KiB by the Noise session that the hello agreed on.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::Error;

/// The longest frame: a 16 MiB line and what goes with it, with room. Checked before anything is allocated.
pub const MAX_FRAME: usize = 64 * 1024 * 1024;

/// Frames shorter than this are gathered; longer ones are written from where they are.
const GATHER: usize = 16 * 1024;
/// How far the read buffer grows ahead of the bytes that really came: enough for nearly every frame to be read into place.
const READ_STEP: usize = 2 * 1024 * 1024;
/// Noise messages are at most 65,535 bytes, 16 of them the tag.
const PIECE: usize = 65_535 - 16;

pub(super) type Session = Arc<snow::StatelessTransportState>;

/// Writes frames. Not cancel-safe: let one task own it.
pub struct Sender {
    io: OwnedWriteHalf,
    gathered: BytesMut,
    seal: Option<(Session, u64)>,
}

impl Sender {
    pub(super) fn new(io: OwnedWriteHalf, session: Option<Session>) -> Self {
        Self {
            io,
            gathered: BytesMut::new(),
            seal: session.map(|s| (s, 1)),
        }
    }

    /// Encodes `message` with named fields and sends it.
    pub async fn send(&mut self, message: &impl Serialize) -> Result<(), Error> {
        self.feed(message).await?;
        self.flush().await
    }

    /// Like [`Sender::send`], leaving small messages in the buffer until the next [`Sender::flush`].
    pub async fn feed(&mut self, message: &impl Serialize) -> Result<(), Error> {
        let encoded = encode(message)?;
        self.feed_frame(encoded).await
    }

    /// Queues one already encoded frame; writes through when it is long.
    pub async fn feed_frame(&mut self, frame: impl Into<Bytes>) -> Result<(), Error> {
        let mut frame: Bytes = frame.into();
        if frame.len() > MAX_FRAME {
            return Err(Error::TooLong {
                len: frame.len(),
                most: MAX_FRAME,
            });
        }
        if let Some((session, nonce)) = &mut self.seal {
            frame = seal(session, nonce, &frame)?;
        }
        self.gathered
            .extend_from_slice(&(frame.len() as u32).to_be_bytes());
        if frame.len() < GATHER {
            self.gathered.extend_from_slice(&frame);
            if self.gathered.len() >= 4 * GATHER {
                self.flush().await?;
            }
        } else {
            let mut both = bytes::Buf::chain(self.gathered.split(), frame);
            self.io.write_all_buf(&mut both).await?;
        }
        Ok(())
    }

    /// Queues one frame given as its beginning and the payloads that end it; long payloads are written from where they are.
    pub async fn feed_parts(&mut self, head: &[u8], payloads: &[Bytes]) -> Result<(), Error> {
        let len = head.len() + payloads.iter().map(Bytes::len).sum::<usize>();
        if len < GATHER || self.seal.is_some() {
            let mut frame = BytesMut::with_capacity(len);
            frame.extend_from_slice(head);
            payloads.iter().for_each(|p| frame.extend_from_slice(p));
            return self.feed_frame(frame.freeze()).await;
        }
        if len > MAX_FRAME {
            return Err(Error::TooLong { len, most: MAX_FRAME });
        }
        self.gathered.extend_from_slice(&(len as u32).to_be_bytes());
        self.gathered.extend_from_slice(head);
        for payload in payloads {
            if payload.len() < GATHER {
                self.gathered.extend_from_slice(payload);
            } else {
                let mut both = bytes::Buf::chain(self.gathered.split(), payload.clone());
                self.io.write_all_buf(&mut both).await?;
            }
        }
        Ok(())
    }

    pub async fn flush(&mut self) -> Result<(), Error> {
        if !self.gathered.is_empty() {
            self.io.write_all(&self.gathered).await?;
            self.gathered.clear();
        }
        Ok(())
    }

    /// Tells the other side that nothing more comes.
    pub async fn shutdown(&mut self) -> Result<(), Error> {
        self.flush().await?;
        Ok(self.io.shutdown().await?)
    }
}

/// Reads frames. [`Receiver::recv_frame`] is cancel-safe.
pub struct Receiver {
    io: OwnedReadHalf,
    buffer: BytesMut,
    most: usize,
    open: Option<(Session, u64)>,
}

impl Receiver {
    pub(super) fn new(io: OwnedReadHalf, rest: BytesMut, session: Option<Session>) -> Self {
        Self {
            io,
            buffer: rest,
            most: MAX_FRAME,
            open: session.map(|s| (s, 1)),
        }
    }

    /// The next frame, or `None` when the other side closed between frames. The bytes share the read buffer: no copy.
    pub async fn recv_frame(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(Some(frame));
            }
            let need = match self.buffer.get(..4) {
                Some(len) => {
                    4 + u32::from_be_bytes([len[0], len[1], len[2], len[3]]) as usize - self.buffer.len()
                }
                None => 4,
            };
            self.buffer.reserve(need.clamp(128 * 1024, READ_STEP));
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(Error::Closed)
                };
            }
        }
    }

    /// A frame that has already arrived whole, without waiting.
    pub fn buffered(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(frame) = cut(&mut self.buffer, self.most)? else {
            return Ok(None);
        };
        Ok(Some(match &mut self.open {
            Some((session, nonce)) => open(session, nonce, &frame)?,
            None => frame,
        }))
    }

    /// The next message, or `None` when the other side closed.
    pub async fn recv<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        match self.recv_frame().await? {
            Some(frame) => Ok(Some(decode(&frame)?)),
            None => Ok(None),
        }
    }
}

/// Takes the frame at the front of `buffer` out of it, without a copy. `None`: it has not arrived whole.
pub fn cut(buffer: &mut BytesMut, most: usize) -> Result<Option<Bytes>, Error> {
    let Some(len) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let len = u32::from_be_bytes(*len) as usize;
    if len > most {
        return Err(Error::TooLong { len, most });
    }
    if buffer.len() < 4 + len {
        return Ok(None);
    }
    buffer.advance(4);
    Ok(Some(buffer.split_to(len).freeze()))
}

/// MessagePack with named fields: for control messages and what is stored.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, Error> {
    Ok(rmp_serde::to_vec_named(message)?)
}

pub fn decode<'a, T: serde::Deserialize<'a>>(frame: &'a [u8]) -> Result<T, Error> {
    Ok(rmp_serde::from_slice(frame)?)
}

fn seal(session: &Session, nonce: &mut u64, frame: &[u8]) -> Result<Bytes, Error> {
    let mut out = vec![0; frame.len() + 16 * frame.len().div_ceil(PIECE).max(1)];
    let mut at = 0;
    let pieces = if frame.is_empty() {
        vec![frame]
    } else {
        frame.chunks(PIECE).collect()
    };
    for piece in pieces {
        at += session
            .write_message(*nonce, piece, &mut out[at..])
            .map_err(|_| Error::Damaged)?;
        *nonce += 1;
    }
    out.truncate(at);
    Ok(out.into())
}

fn open(session: &Session, nonce: &mut u64, sealed: &[u8]) -> Result<Bytes, Error> {
    let mut out = vec![0; sealed.len()];
    let mut at = 0;
    for piece in sealed.chunks(PIECE + 16) {
        at += session
            .read_message(*nonce, piece, &mut out[at..])
            .map_err(|_| Error::Damaged)?;
        *nonce += 1;
    }
    out.truncate(at);
    Ok(out.into())
}

#[cfg(test)]
impl Sender {
    pub(super) async fn raw(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.expect("the test's own connection");
    }
}
