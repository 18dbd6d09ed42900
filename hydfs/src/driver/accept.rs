//! Who connects: clients and peers; strangers are refused.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::clock;
use common::net::{self, Identity, Role};
use common::spawn;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};

use super::core::Events;
use super::{clients, peers};

/// Hellos under way; more wait in the listener's queue.
const HELLOS: usize = 128;
/// Strangers are logged at most this often.
const LOG_EVERY: Duration = Duration::from_secs(1);

struct Door {
    me: Identity,
    events: Events,
    names: Vec<common::ids::NodeName>,
    came: Vec<Arc<Notify>>,
    connections: AtomicU64,
    /// When a stranger was last logged, microseconds, and how many have come since.
    logged: AtomicU64,
    unlogged: AtomicU64,
}

/// Accepts until aborted. `came` is told which of the nodes `names` has come.
pub async fn accept(
    listener: TcpListener,
    me: Identity,
    names: Vec<common::ids::NodeName>,
    came: Vec<Arc<Notify>>,
    events: Events,
) -> Result<(), Infallible> {
    let hellos = Arc::new(Semaphore::new(HELLOS));
    let door = Arc::new(Door {
        me,
        events,
        names,
        came,
        connections: AtomicU64::new(1),
        logged: AtomicU64::new(0),
        unlogged: AtomicU64::new(0),
    });
    loop {
        let hello = hellos.clone().acquire_owned().await;
        match listener.accept().await {
            Ok((stream, addr)) => {
                let door = door.clone();
                // Ends by itself: the hello has a time limit, and the connection ends with the core.
                spawn::task("hydfs-connection", async move {
                    let connection = door.greet(stream, addr).await;
                    drop(hello);
                    if let Some(connection) = connection {
                        door.serve(connection).await;
                    }
                    Ok::<(), Infallible>(())
                });
            }
            // Out of descriptors, or the other side is gone already.
            Err(error) => {
                tracing::warn!(error = %error, "ACCEPT_FAILED");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

impl Door {
    async fn greet(&self, stream: TcpStream, addr: std::net::SocketAddr) -> Option<net::Connection> {
        match net::accept(stream, addr, &self.me).await {
            Ok(connection) => Some(connection),
            Err(net::Error::Io(_) | net::Error::Closed) => None,
            Err(error) => {
                self.stranger(&addr, &error.to_string());
                None
            }
        }
    }

    async fn serve(&self, connection: net::Connection) {
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        let peer = &connection.peer;
        match peer.role {
            Role::HydfsClient => clients::serve(number, connection, self.events.clone()).await,
            Role::HydfsPeer => {
                let at = peer
                    .node
                    .as_ref()
                    .and_then(|name| self.names.iter().position(|n| n == name));
                match at {
                    Some(at) => {
                        self.came[at].notify_one();
                        peers::serve(crate::view::NodeIx(at as u16), connection, self.events.clone()).await;
                    }
                    None => self.stranger(
                        &connection.addr,
                        "it is a storage node that the cluster file does not name",
                    ),
                }
            }
            other => self.stranger(
                &connection.addr,
                &format!("a storage node does not serve {other:?}"),
            ),
        }
    }

    fn stranger(&self, addr: &std::net::SocketAddr, why: &str) {
        let (now, last) = (clock::now().0, self.logged.load(Ordering::Relaxed));
        if last != 0 && now - last < LOG_EVERY.as_micros() as u64 {
            self.unlogged.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.logged.store(now, Ordering::Relaxed);
        let more = self.unlogged.swap(0, Ordering::Relaxed);
        tracing::warn!(from = %addr, why, not_logged = more, "STRANGER");
    }
}
