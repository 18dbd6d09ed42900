//! The introducer's port: tables for other daemons (role `Join`), answers and updates for programs (role `Subscribe`).

use std::sync::Arc;
use std::time::Duration;

use common::cluster::Cluster;
use common::net::door::{Arrival, ConnectionPermit, Door, Limits, Strangers};
use common::net::{self, Connection, Identity, Role};
use common::spawn;
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio::time::timeout;

use crate::console::Console;
use crate::driver::{DriverHandle, EXCHANGE_TIMEOUT};
use crate::wire::{Reply, Request, TableExchange, Update};

/// A node has a handful of programs that follow the membership.
const LIMITS: Limits = Limits {
    strangers: 128,
    connections: 512,
};
/// How long a program may take to say what it wants.
const IDLE: Duration = Duration::from_secs(10);
/// How long a subscriber may take to read what it is sent.
const SLOW: Duration = Duration::from_secs(5);
/// A subscriber hears something at least this often, so that silence means a dead connection.
pub(crate) const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// Accepts until dropped; its connections go with it.
pub(crate) async fn accept(
    tcp: TcpListener,
    cluster: Arc<Cluster>,
    me: Identity,
    handle: DriverHandle,
    console: Console,
) -> std::io::Result<()> {
    let mut door = Door::new("introducer", tcp, LIMITS);
    let strangers = Arc::new(Strangers::default());
    let mut connections: Vec<spawn::Guard> = Vec::new();
    loop {
        let arrival = door.next().await?;
        connections.retain(|c| !c.is_finished());
        let (cluster, me, handle, strangers) =
            (cluster.clone(), me.clone(), handle.clone(), strangers.clone());
        let console = console.clone();
        connections.push(spawn::guarded("connection", async move {
            let Arrival {
                stream,
                addr,
                stranger,
                place,
            } = arrival;
            let greeted = net::accept(stream, addr, &me).await;
            drop(stranger);
            match greeted {
                Ok(connection) => serve(connection, place, &cluster, &me, &handle, &console).await,
                Err(e @ (net::Error::Secret | net::Error::Magic { .. } | net::Error::TooLong { .. })) => {
                    strangers.note(addr, e);
                    Ok(())
                }
                Err(_) => Ok(()),
            }
        }));
    }
}

async fn serve(
    connection: Connection,
    _place: ConnectionPermit,
    cluster: &Cluster,
    me: &Identity,
    handle: &DriverHandle,
    console: &Console,
) -> Result<(), net::Error> {
    let served = match connection.peer.role {
        Role::Join => join(connection, cluster, handle).await,
        Role::Subscribe => answer(connection, me, handle, console).await,
        role => {
            tracing::warn!(from = %connection.addr, who = connection.peer.who, ?role, "WRONG_PORT");
            Ok(())
        }
    };
    match served {
        // The other side went away, as programs do.
        Err(net::Error::Closed | net::Error::Io(_) | net::Error::Timeout) => Ok(()),
        other => other,
    }
}

async fn join(
    mut connection: Connection,
    cluster: &Cluster,
    handle: &DriverHandle,
) -> Result<(), net::Error> {
    let Some(from) = connection
        .peer
        .node
        .clone()
        .filter(|n| cluster.node(n.as_str()).is_ok())
    else {
        tracing::warn!(from = %connection.addr, who = connection.peer.who, why = "the cluster file has no such node", "STRANGER");
        return Ok(());
    };
    let swap = async {
        let Some(table) = connection.rx.recv::<TableExchange>().await? else {
            return Ok(());
        };
        let answer = handle.exchange(from, table).await?;
        connection.tx.send(&answer).await
    };
    timeout(EXCHANGE_TIMEOUT, swap)
        .await
        .map_err(|_| net::Error::Timeout)?
}

async fn answer(
    mut connection: Connection,
    me: &Identity,
    handle: &DriverHandle,
    console: &Console,
) -> Result<(), net::Error> {
    loop {
        let request = timeout(IDLE, connection.rx.recv())
            .await
            .map_err(|_| net::Error::Timeout)??;
        let reply = match request {
            None => return Ok(()),
            Some(Request::List) => Reply::Members(handle.list().await?),
            Some(Request::ListSelf) => {
                let mut members = handle.list().await?;
                members.retain(|m| Some(&m.name) == me.node.as_ref());
                Reply::Members(members)
            }
            Some(Request::Leave) => {
                tracing::info!(who = connection.peer.who, "LEAVE_REQUEST");
                handle.leave().await?;
                Reply::Leaving
            }
            Some(Request::Configuration) => Reply::Configuration(handle.configuration().await?),
            Some(Request::Change(changes)) => {
                tracing::info!(who = connection.peer.who, ?changes, "CHANGE_REQUEST");
                match handle.change(changes).await? {
                    Ok(configuration) => Reply::Configuration(configuration),
                    Err(why) => Reply::Refused(why.to_string()),
                }
            }
            Some(Request::Console(path)) => match console.get(&path).await {
                Ok(answered) => Reply::Console(answered),
                Err(why) => Reply::Refused(why.to_string()),
            },
            Some(Request::Subscribe) => return follow(connection, handle).await,
        };
        timeout(SLOW, connection.tx.send(&reply))
            .await
            .map_err(|_| net::Error::Timeout)??;
    }
}

async fn follow(mut connection: Connection, handle: &DriverHandle) -> Result<(), net::Error> {
    let (snapshot, mut changes) = handle.subscribe().await?;
    let mut update = Update::Snapshot(snapshot);
    loop {
        let reply = Reply::Update(update);
        timeout(SLOW, connection.tx.send(&reply))
            .await
            .map_err(|_| net::Error::Timeout)??;
        update = tokio::select! {
            change = timeout(SIGN_OF_LIFE, changes.recv()) => match change {
                Ok(Ok(member)) => Update::Change(member),
                Ok(Err(broadcast::error::RecvError::Closed)) => return Ok(()),
                // Too slow for single changes, or a sign of life is due: the whole table, taken together with a new
                // place in the stream so that no change falls between them.
                Ok(Err(broadcast::error::RecvError::Lagged(_))) | Err(_) => {
                    let (snapshot, fresh) = handle.subscribe().await?;
                    changes = fresh;
                    Update::Snapshot(snapshot)
                }
            },
            // Nothing more is said after Subscribe, so this is its end.
            _ = connection.rx.recv_frame() => return Ok(()),
        };
    }
}
