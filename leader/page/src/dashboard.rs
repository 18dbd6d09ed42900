//! What the driver holds of the dashboard: it hands snapshots over and never waits.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use common::clock::{self, Time};
use common::spawn;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::events::Events;
use super::snapshot::Snapshot;
use super::state::State;
use super::{page, serve};

/// How long the last word may take to those who watch.
const LAST_WORD: Duration = Duration::from_millis(300);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The leader's page. Without a port it still keeps what `--report` wants.
pub struct Dashboard {
    state: State,
    addr: Option<SocketAddr>,
    server: Option<spawn::Guard>,
    watched: watch::Sender<()>,
}

impl Dashboard {
    /// Listens on `addr`; where that port is taken, on one that is free. A dashboard that cannot listen is no reason not to run
    /// the job.
    pub async fn start(addr: SocketAddr, events: Events) -> Self {
        let state = State::new(events);
        let watched = watch::Sender::new(());
        let listener = match TcpListener::bind(addr).await {
            Ok(listener) => Ok(listener),
            Err(_) => TcpListener::bind((addr.ip(), 0)).await,
        };
        let (addr, server) = match listener.and_then(|l| Ok((l.local_addr()?, l))) {
            Ok((addr, listener)) => {
                let server = serve::serve(listener, state.clone(), watched.clone());
                (Some(addr), Some(spawn::guarded("http", server)))
            }
            Err(error) => {
                tracing::warn!(addr = %addr, error = %error, "HTTP_FAILED");
                (None, None)
            }
        };
        Self {
            state,
            addr,
            server,
            watched,
        }
    }

    /// Where the page is.
    pub fn addr(&self) -> Option<SocketAddr> {
        self.addr
    }

    pub fn show(&self, now: Time, snapshot: Snapshot) {
        self.state.show(now, snapshot);
    }

    /// Shows the last snapshot, and gives those who watch a moment to get it.
    pub async fn end(&mut self, now: Time, last: Snapshot) {
        self.state.show(now, last);
        // Each who watches holds a receiver until the last word has left its queue; then it still has to leave the socket.
        let began = clock::now();
        let mut waiting = self.server.is_some() && self.watched.receiver_count() > 0;
        while waiting && clock::now().since(began) < LAST_WORD {
            waiting = self.watched.receiver_count() > 0;
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.server = None;
    }

    /// Keeps the run as one file.
    pub fn keep(&self, file: &Path) -> std::io::Result<()> {
        common::replacement::write(file, page::kept(&self.state).as_bytes())
    }
}
