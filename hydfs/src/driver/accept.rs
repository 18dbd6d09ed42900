//! Who connects: clients and peers; strangers are refused.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::net::door::{Arrival, Door, Limits, Strangers};
use common::net::{self, Identity, Role};
use common::spawn;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use super::core::Events;
use super::{clients, peers};

/// Clients are programs that know the secret: as many as there are descriptors for.
const LIMITS: Limits = Limits {
    strangers: 128,
    connections: 65_536,
};

struct Porter {
    me: Identity,
    events: Events,
    names: Vec<common::ids::NodeName>,
    came: Vec<Arc<Notify>>,
    connections: AtomicU64,
    strangers: Strangers,
}

/// Accepts until aborted. `came` is told which of the nodes `names` has come.
pub async fn accept(
    listener: TcpListener,
    me: Identity,
    names: Vec<common::ids::NodeName>,
    came: Vec<Arc<Notify>>,
    events: Events,
) -> std::io::Result<()> {
    let mut door = Door::new("hydfs", listener, LIMITS);
    let porter = Arc::new(Porter {
        me,
        events,
        names,
        came,
        connections: AtomicU64::new(1),
        strangers: Strangers::default(),
    });
    loop {
        let Arrival {
            stream,
            addr,
            stranger,
            place,
        } = door.next().await?;
        let porter = porter.clone();
        // Ends by itself: the hello has a time limit, and the connection ends with the core.
        spawn::task("hydfs-connection", async move {
            let _place = place;
            let connection = porter.greet(stream, addr).await;
            drop(stranger);
            if let Some(connection) = connection {
                porter.serve(connection).await;
            }
            Ok::<(), Infallible>(())
        });
    }
}

impl Porter {
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
        self.strangers.note(*addr, why);
    }
}
