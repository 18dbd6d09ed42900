//! A bound on who may be connected: on how many, and on how long one may neither take nor say anything.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use common::clock::{self, Time};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

pub struct Limits {
    pub clients: usize,
    /// A connection on which no byte moves for so long is closed.
    pub idle: Duration,
}

pub struct Bounded {
    listener: TcpListener,
    room: Arc<Semaphore>,
    limits: Limits,
    /// When a client too many was last worth a line.
    complained: Option<Time>,
}

const COMPLAIN_EVERY: Duration = Duration::from_secs(10);
const AFTER_ERROR: Duration = Duration::from_millis(100);

impl Bounded {
    pub fn new(listener: TcpListener, limits: Limits) -> Self {
        Self {
            listener,
            room: Arc::new(Semaphore::new(limits.clients)),
            limits,
            complained: None,
        }
    }

    fn full(&mut self, addr: SocketAddr) {
        let now = clock::now();
        if self.complained.is_none_or(|at| now.since(at) > COMPLAIN_EVERY) {
            self.complained = Some(now);
            tracing::warn!(client = %addr, most = self.limits.clients, "HTTP_FULL");
        }
    }
}

impl Listener for Bounded {
    type Io = Client;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Client, SocketAddr) {
        loop {
            let (stream, addr) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, perhaps: the job needs them more.
                    tracing::warn!(error = %error, "HTTP_ACCEPT_FAILED");
                    tokio::time::sleep(AFTER_ERROR).await;
                    continue;
                }
            };
            match self.room.clone().try_acquire_owned() {
                Ok(room) => {
                    let _ = stream.set_nodelay(true);
                    return (Client::new(stream, self.limits.idle, room), addr);
                }
                Err(_) => self.full(addr),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends when nothing moves on it.
pub struct Client {
    stream: TcpStream,
    idle: Duration,
    over: Pin<Box<Sleep>>,
    _room: OwnedSemaphorePermit,
}

impl Client {
    fn new(stream: TcpStream, idle: Duration, room: OwnedSemaphorePermit) -> Self {
        Self {
            stream,
            idle,
            over: Box::pin(tokio::time::sleep(idle)),
            _room: room,
        }
    }

    /// Something moved, or it is too late, or the wait goes on.
    fn timed<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match poll {
            Poll::Ready(done) => {
                self.over = Box::pin(tokio::time::sleep(self.idle));
                Poll::Ready(done)
            }
            Poll::Pending => match self.over.as_mut().poll(cx) {
                Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                Poll::Pending => Poll::Pending,
            },
        }
    }
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.timed(cx, poll)
    }
}

impl AsyncWrite for Client {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.timed(cx, poll)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
