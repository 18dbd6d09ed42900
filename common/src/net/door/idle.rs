//! For HTTP, where nobody says who he is: connections end when nothing moves on them, so that whoever opens some and says nothing
//! holds nobody up.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;

use super::{ConnectionPermit, Door, Limits};

/// A door for `axum::serve`.
pub struct IdleDoor {
    door: Door,
    addr: SocketAddr,
    idle: Duration,
}

impl IdleDoor {
    /// At most `most` connections; on each something moves at least every `idle`.
    pub fn new(name: &'static str, listener: TcpListener, most: usize, idle: Duration) -> io::Result<Self> {
        // All are strangers, and some stay for long: one too many is better told at once.
        let limits = Limits {
            strangers: most + 1,
            connections: most,
        };
        Ok(Self {
            addr: listener.local_addr()?,
            door: Door::new(name, listener, limits),
            idle,
        })
    }
}

impl axum::serve::Listener for IdleDoor {
    type Io = IdleStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (IdleStream, SocketAddr) {
        match self.door.next().await {
            Ok(arrival) => {
                let _ = arrival.stream.set_nodelay(true);
                let places = [arrival.stranger, arrival.place];
                (IdleStream::new(arrival.stream, self.idle, places), arrival.addr)
            }
            Err(error) => {
                // What is served over HTTP is for people: without it the process goes on.
                tracing::error!(addr = %self.addr, error = %error, "HTTP_LOST");
                std::future::pending().await
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }
}

/// A connection that ends when nothing moves on it.
pub struct IdleStream {
    stream: TcpStream,
    idle: Duration,
    over: Pin<Box<Sleep>>,
    _places: [ConnectionPermit; 2],
}

impl IdleStream {
    fn new(stream: TcpStream, idle: Duration, places: [ConnectionPermit; 2]) -> Self {
        Self {
            stream,
            idle,
            over: Box::pin(tokio::time::sleep(idle)),
            _places: places,
        }
    }

    /// Something moved, or it is too late, or the wait goes on.
    fn timed<T>(&mut self, cx: &mut Context<'_>, moved: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if moved.is_ready() {
            self.over.set(tokio::time::sleep(self.idle));
            return moved;
        }
        match self.over.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for IdleStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.timed(cx, read)
    }
}

impl AsyncWrite for IdleStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.timed(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
