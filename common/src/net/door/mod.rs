//! The one way to accept connections: a bounded number of them, and no end because one could not be taken.
//!
//! ```text
//!   accept fails for now (no descriptors, no memory)   wait, longer each time, and try again; one line of the log per burst
//!   accept fails for good (no such socket)             the caller ends; see `spawn::Vitals`
//!   too many strangers                                 further ones wait in the listener's queue
//!   too many connections                               further ones are closed; a line now and then
//! ```

mod greeter;
mod idle;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::backoff::Backoff;
use crate::clock::{self, Time};

pub use greeter::{Guest, greet};
pub use idle::{IdleDoor, IdleStream};

/// Failing accepts are tried again after this at first, and after this at last.
const AGAIN: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));
/// What may come in masses from outside is logged so often.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// How many may be there at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections that have not said who they are. Each has a time limit of its own, so those that wait get their turn.
    pub strangers: usize,
    pub connections: usize,
}

/// Counts one connection, until it is dropped.
#[derive(Debug)]
pub struct ConnectionPermit(#[allow(dead_code)] OwnedSemaphorePermit);

/// Who has come.
#[derive(Debug)]
pub struct Arrival {
    pub stream: TcpStream,
    pub addr: SocketAddr,
    /// To be dropped when it is known who it is.
    pub stranger: ConnectionPermit,
    /// To be dropped with the connection.
    pub place: ConnectionPermit,
}

/// What yields connections.
pub trait Accepts: Send {
    fn accept(&self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send;
}

impl Accepts for TcpListener {
    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        TcpListener::accept(self).await
    }
}

/// A listener.
pub struct Door<L = TcpListener> {
    /// For the log.
    name: &'static str,
    listener: L,
    strangers: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    limits: Limits,
    backoff: Backoff,
    /// Of the burst of failures that is not over.
    failures: u64,
    full: Seldom,
}

impl<L: Accepts> Door<L> {
    pub fn new(name: &'static str, listener: L, limits: Limits) -> Self {
        Self {
            name,
            listener,
            strangers: Arc::new(Semaphore::new(limits.strangers)),
            connections: Arc::new(Semaphore::new(limits.connections)),
            limits,
            backoff: Backoff::new(AGAIN.0, AGAIN.1),
            failures: 0,
            full: Seldom::new(LOG_EVERY),
        }
    }

    /// Waits for the next. An error says that there will never be one again. Cancel-safe.
    pub async fn next(&mut self) -> io::Result<Arrival> {
        loop {
            let stranger = place(&self.strangers).await?;
            let (stream, addr) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if is_final(&error) => return Err(error),
                Err(error) => {
                    self.failed(&error).await;
                    continue;
                }
            };
            self.recovered();
            let Ok(place) = self.connections.clone().try_acquire_owned() else {
                if let Some(not_logged) = self.full.note(clock::now()) {
                    tracing::warn!(door = self.name, from = %addr, most = self.limits.connections, not_logged, "TOO_MANY_CONNECTIONS");
                }
                continue;
            };
            return Ok(Arrival {
                stream,
                addr,
                stranger,
                place: ConnectionPermit(place),
            });
        }
    }

    async fn failed(&mut self, error: &io::Error) {
        self.failures += 1;
        if self.failures == 1 {
            tracing::warn!(door = self.name, error = %error, "ACCEPT_FAILED");
        }
        tokio::time::sleep(self.backoff.delay()).await;
    }

    fn recovered(&mut self) {
        if self.failures > 0 {
            tracing::info!(door = self.name, failures = self.failures, "ACCEPT_GOES_ON");
            self.failures = 0;
            self.backoff.reset();
        }
    }
}

async fn place(of: &Arc<Semaphore>) -> io::Result<ConnectionPermit> {
    // Nobody closes it.
    let place = of.clone().acquire_owned().await;
    place.map(ConnectionPermit).map_err(io::Error::other)
}

/// The listener itself is of no use any more. All else passes: connections that were given up, descriptors or memory that
/// somebody else will give back, a network that is down.
fn is_final(error: &io::Error) -> bool {
    let never = [
        libc::EBADF,
        libc::EINVAL,
        libc::ENOTSOCK,
        libc::EOPNOTSUPP,
        libc::EFAULT,
    ];
    error.raw_os_error().is_some_and(|code| never.contains(&code))
}

/// What may happen very often is told now and then.
#[derive(Debug)]
pub struct Seldom {
    every: Duration,
    told: Option<Time>,
    since: u64,
}

impl Seldom {
    pub const fn new(every: Duration) -> Self {
        Self {
            every,
            told: None,
            since: 0,
        }
    }

    /// It has happened: whether to tell, and how often it has not been told meanwhile.
    pub fn note(&mut self, now: Time) -> Option<u64> {
        if self.told.is_some_and(|told| now.since(told) < self.every) {
            self.since += 1;
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}

/// Tells of those who are not let in.
#[derive(Debug)]
pub struct Strangers(Mutex<Seldom>);

impl Default for Strangers {
    fn default() -> Self {
        Self(Mutex::new(Seldom::new(Duration::from_secs(1))))
    }
}

impl Strangers {
    pub fn note(&self, from: SocketAddr, why: impl std::fmt::Display) {
        let told = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .note(clock::now());
        if let Some(not_logged) = told {
            tracing::warn!(%from, %why, not_logged, "STRANGER");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails with each of these first.
    struct Failing {
        listener: TcpListener,
        errors: Mutex<Vec<i32>>,
    }

    impl Accepts for Failing {
        async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
            let error = self.errors.lock().unwrap().pop();
            match error {
                Some(code) => Err(io::Error::from_raw_os_error(code)),
                None => self.listener.accept().await,
            }
        }
    }

    async fn door(errors: &[i32], limits: Limits) -> (Door<Failing>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let errors = Mutex::new(errors.to_vec());
        (Door::new("test", Failing { listener, errors }, limits), addr)
    }

    const MANY: Limits = Limits {
        strangers: 8,
        connections: 8,
    };

    #[tokio::test]
    async fn failures_that_pass_are_outlived() {
        let errors = [
            libc::EMFILE,
            libc::ENFILE,
            libc::ENOMEM,
            libc::ECONNABORTED,
            libc::EPROTO,
        ];
        let (mut door, addr) = door(&errors, MANY).await;
        let _client = TcpStream::connect(addr).await.unwrap();
        door.next().await.unwrap();
        assert_eq!(door.failures, 0);
    }

    #[tokio::test]
    async fn failures_that_do_not_pass_end_it() {
        for code in [libc::EBADF, libc::EINVAL] {
            let (mut door, _) = door(&[code], MANY).await;
            assert_eq!(door.next().await.unwrap_err().raw_os_error(), Some(code));
        }
    }

    #[tokio::test]
    async fn strangers_wait_and_connections_too_many_are_closed() {
        use tokio::io::AsyncReadExt;
        let limits = Limits {
            strangers: 1,
            connections: 2,
        };
        let (mut door, addr) = door(&[], limits).await;
        let mut clients = vec![];
        for _ in 0..3 {
            clients.push(TcpStream::connect(addr).await.unwrap());
        }
        let first = door.next().await.unwrap();
        let waits = tokio::time::timeout(Duration::from_millis(20), door.next()).await;
        assert!(waits.is_err(), "the first has not said who it is");
        drop(first.stranger);
        let second = door.next().await.unwrap();
        drop(second.stranger);
        let third = tokio::time::timeout(Duration::from_millis(20), door.next()).await;
        assert!(third.is_err(), "two are there");
        assert_eq!(clients[2].read(&mut [0]).await.unwrap(), 0, "it was closed");
        drop(first.place);
        clients.push(TcpStream::connect(addr).await.unwrap());
        door.next().await.unwrap();
    }

    #[test]
    fn what_happens_often_is_told_seldom_with_a_count() {
        let mut seldom = Seldom::new(Duration::from_secs(10));
        let told: Vec<Option<u64>> = [1000, 2000, 10_999, 11_000, 12_000]
            .map(|ms| seldom.note(Time::from_millis(ms)))
            .into();
        assert_eq!(told, [Some(0), None, None, Some(2), None]);
    }
}
