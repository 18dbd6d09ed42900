//! Who connects: clients and peers; strangers are refused.

use std::convert::Infallible;
use std::sync::Arc;

use common::ids::NodeName;
use common::net::door::{self, Guest, Limits};
use common::net::{Identity, Role};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::core::CoreEvents;
use super::{clients, peers};
use hydfs::view::NodeIx;

/// Clients are programs that know the secret: as many as there are descriptors for.
const LIMITS: Limits = Limits {
    strangers: 128,
    connections: 65_536,
};

/// Accepts until aborted. `came` is told which of the nodes `names` has come. A connection ends with the core, by itself.
pub async fn accept(
    listener: TcpListener,
    me: Identity,
    names: Vec<NodeName>,
    came: Vec<Arc<Notify>>,
    events: CoreEvents,
) -> std::io::Result<()> {
    let nodes: Arc<[_]> = names.into_iter().zip(came).collect();
    door::greet("hydfs", listener, LIMITS, Arc::new(me), move |guest| {
        serve(guest, nodes.clone(), events.clone())
    })
    .await
}

async fn serve(
    guest: Guest,
    nodes: Arc<[(NodeName, Arc<Notify>)]>,
    events: CoreEvents,
) -> Result<(), Infallible> {
    let peer = &guest.connection.peer;
    match peer.role {
        Role::HydfsClient => clients::serve(guest.number, guest.connection, events).await,
        Role::HydfsPeer => match nodes
            .iter()
            .position(|(name, _)| peer.node.as_ref() == Some(name))
        {
            Some(at) => {
                nodes[at].1.notify_one();
                peers::serve(NodeIx(at as u16), guest.connection, events).await;
            }
            None => guest.refuse("it is a storage node that the cluster file does not name"),
        },
        other => guest.refuse(format_args!("a storage node does not serve {other:?}")),
    }
    Ok(())
}
