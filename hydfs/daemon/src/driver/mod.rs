//! The storage daemon: carries out what the [`Replica`] decides, over sockets and a disk.
//!
//! ```text
//!   accept.rs: hello, then by role            peers.rs: one connection to each peer, kept up
//!      |  clients.rs: one reader and one writer per client       |
//!      |  outbox.rs:  how much is taken on for one of them       |
//!      |  peers.rs:   one reader per peer that dialled us        |        membership.rs: memberd says failed
//!      +---------------------- CoreEvent ------------------------+-------------+
//!                                  v
//!   core.rs: a burst of events -> replica.handle, once replica.flush -> effects -> writers; then a few reads
//!      client_conn.rs: what clients are told   pending_reads.rs: reads that wait
//!      serve.rs: reads, tails, listings        repair.rs: fetches missing segments, throttled
//!      inspect.rs: what this node's copies are, for merge and fsck
//!      range_log.rs: how ranges stand, for the log
//!      filling.rs: how full the disk is, and what is on it
//! ```
//! One thread; the core alone owns the replica and its store.

mod accept;
mod client_conn;
mod clients;
mod core;
mod filling;
mod inspect;
mod marks;
mod membership;
mod outbox;
mod peers;
mod pending_reads;
mod range_log;
mod repair;
mod serve;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use common::clock;
use common::cluster::{self, Cluster};
use common::ids::NodeName;
use common::net::Identity;
use common::spawn;
use tokio::net::TcpListener;

use crate::disk::{self, DiskStore};
use crate::replica::Replica;
use crate::store;
use hydfs::ring::Ring;
use hydfs::view::{Incarnation, NodeIx};

/// Why the daemon cannot start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    #[error("cannot listen on {addr}: {source}{}", hint(.source))]
    Listen { addr: SocketAddr, source: io::Error },
    #[error(transparent)]
    Open(#[from] disk::OpenError),
    #[error("the store failed: {0}; start again when the disk is well")]
    Broken(#[from] store::Error),
    #[error("hydfsd cannot go on: {0}; start it again")]
    Lost(#[from] spawn::Lost),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (is another hydfsd of this node running?)",
        io::ErrorKind::AddrNotAvailable => " (the address is not one of this machine's; is --node right?)",
        _ => "",
    }
}

/// A storage node that listens, and has read its disk.
pub struct Daemon {
    core: core::Core,
    listener: TcpListener,
}

impl Daemon {
    pub async fn start(cluster: Arc<Cluster>, node: &NodeName) -> Result<Self, Error> {
        let settings = cluster.node(node.as_str())?.clone();
        let at = cluster
            .nodes
            .iter()
            .position(|n| n.name == *node)
            .unwrap_or_default();
        let me = Identity {
            who: format!("hydfsd {}", std::process::id()),
            node: Some(node.clone()),
            secret: cluster.secret()?,
            security: cluster.security,
        };
        let folder = settings.data.join("hydfs");
        let begun = clock::now();
        // The lock first: two daemons of one node must not both think that only the port is taken.
        let store = DiskStore::open(&folder, cluster.hydfs.durability)?;
        let addr = settings.at(cluster.ports.hydfs);
        let listener = TcpListener::bind(addr)
            .await
            .map_err(|source| Error::Listen { addr, source })?;
        let ring = Ring::new(cluster.nodes.iter().map(|n| n.name.as_str()), cluster.replication);
        let incarnation = Incarnation(clock::unix_micros() / 1000);
        let replica = Replica::new(NodeIx(at as u16), ring, store, incarnation, clock::now())?;
        tracing::info!(
            node = %node, addr = %addr, pid = std::process::id(), incarnation = replica.incarnation().0,
            ms = clock::now().since(begun).as_millis() as u64, "START"
        );
        Ok(Self {
            core: core::Core::new(cluster, me, NodeIx(at as u16), replica),
            listener,
        })
    }

    /// Serves until `stop` resolves (then all that was acknowledged is as durable as the setting says) or the store fails.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), Error> {
        self.core.run(self.listener, stop).await
    }
}
