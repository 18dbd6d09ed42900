//! For the other programs: ask a node's memberd, or follow it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use common::backoff::Backoff;
use common::cluster::{self, Cluster};
use common::ids::NodeName;
use common::net::{self, Connection, Identity, Role};
use common::spawn;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::console::{self, Answered};
use crate::serve::SIGN_OF_LIFE;
use crate::state::settings::Configuration;
use crate::wire::{Member, Reply, Request, Update};

/// How long an answer may take once connected.
const ANSWER: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    #[error(
        "memberd of {node} cannot be asked: {source}; is it running? (`memberd --cluster FILE --node {node}`, log in memberd.log)"
    )]
    Unreachable { node: NodeName, source: net::Error },
    #[error("memberd of {node} did not answer within {} s", .after.as_secs())]
    Silent { node: NodeName, after: Duration },
    #[error("memberd of {node} sent an answer that was not asked for")]
    Unexpected { node: NodeName },
    #[error("node {node}: {why}")]
    Console { node: NodeName, why: String },
    #[error("{why}")]
    Refused { why: String },
}

/// All members that `node` lists, itself included, by name.
pub async fn list(cluster: &Cluster, me: &Identity, node: &NodeName) -> Result<Vec<Member>, Error> {
    match ask(cluster, me, node, Request::List).await? {
        Reply::Members(members) => Ok(members),
        _ => Err(Error::Unexpected { node: node.clone() }),
    }
}

/// What `node` says of itself.
pub async fn list_self(cluster: &Cluster, me: &Identity, node: &NodeName) -> Result<Member, Error> {
    match ask(cluster, me, node, Request::ListSelf).await? {
        Reply::Members(mut members) if members.len() == 1 => Ok(members.remove(0)),
        _ => Err(Error::Unexpected { node: node.clone() }),
    }
}

/// Has `node`'s memberd announce that it leaves, and exit. Returns when it has begun to.
pub async fn leave(cluster: &Cluster, me: &Identity, node: &NodeName) -> Result<(), Error> {
    match ask(cluster, me, node, Request::Leave).await? {
        Reply::Leaving => Ok(()),
        _ => Err(Error::Unexpected { node: node.clone() }),
    }
}

/// The configuration that the group has agreed on, as far as `node` knows.
pub async fn configuration(
    cluster: &Cluster,
    me: &Identity,
    node: &NodeName,
) -> Result<Configuration, Error> {
    expect_configuration(node, ask(cluster, me, node, Request::Configuration).await?)
}

/// Changes settings of the whole group by way of `node`, by key and text as in [`crate::state::settings::KEYS`]: all of
/// them or none. Returns the new configuration as soon as `node` has it; the others follow within moments.
pub async fn change(
    cluster: &Cluster,
    me: &Identity,
    node: &NodeName,
    changes: Vec<(String, String)>,
) -> Result<Configuration, Error> {
    expect_configuration(node, ask(cluster, me, node, Request::Change(changes)).await?)
}

/// What the console of `node` says to a path, as its HTTP port would.
pub async fn console(
    cluster: &Cluster,
    me: &Identity,
    node: &NodeName,
    path: &str,
) -> Result<Answered, Error> {
    let mut connection = connect(cluster, me, node, Request::Console(path.into())).await?;
    match receive(&mut connection, node, console::ANSWER + ANSWER).await? {
        Reply::Console(answered) => Ok(answered),
        Reply::Refused(why) => Err(Error::Console {
            node: node.clone(),
            why,
        }),
        _ => Err(Error::Unexpected { node: node.clone() }),
    }
}

fn expect_configuration(node: &NodeName, reply: Reply) -> Result<Configuration, Error> {
    match reply {
        Reply::Configuration(configuration) => Ok(configuration),
        Reply::Refused(why) => Err(Error::Refused { why }),
        _ => Err(Error::Unexpected { node: node.clone() }),
    }
}

async fn ask(cluster: &Cluster, me: &Identity, node: &NodeName, request: Request) -> Result<Reply, Error> {
    let mut connection = connect(cluster, me, node, request).await?;
    receive(&mut connection, node, ANSWER).await
}

async fn connect(
    cluster: &Cluster,
    me: &Identity,
    node: &NodeName,
    request: Request,
) -> Result<Connection, Error> {
    let addr = cluster.node(node.as_str())?.at(cluster.ports.introducer);
    let unreachable = |source| Error::Unreachable {
        node: node.clone(),
        source,
    };
    let mut connection = net::dial(addr, me, Role::Subscribe).await.map_err(unreachable)?;
    connection.tx.send(&request).await.map_err(unreachable)?;
    Ok(connection)
}

async fn receive(connection: &mut Connection, node: &NodeName, bound: Duration) -> Result<Reply, Error> {
    let reply = timeout(bound, connection.rx.recv()).await;
    let reply = reply.map_err(|_| Error::Silent {
        node: node.clone(),
        after: bound,
    })?;
    let unreachable = |source| Error::Unreachable {
        node: node.clone(),
        source,
    };
    reply
        .map_err(unreachable)?
        .ok_or_else(|| unreachable(net::Error::Closed))
}

/// A stream of updates from one memberd, until the connection breaks. [`Follower`] takes it up again by itself.
pub struct Subscription {
    connection: Connection,
    node: NodeName,
}

pub async fn subscribe(cluster: &Cluster, me: &Identity, node: &NodeName) -> Result<Subscription, Error> {
    let connection = connect(cluster, me, node, Request::Subscribe).await?;
    Ok(Subscription {
        connection,
        node: node.clone(),
    })
}

impl Subscription {
    /// The next update; the first is a snapshot, and more snapshots come now and then. Cancel-safe.
    pub async fn next(&mut self) -> Result<Update, Error> {
        match receive(&mut self.connection, &self.node, 3 * SIGN_OF_LIFE).await? {
            Reply::Update(update) => Ok(update),
            _ => Err(Error::Unexpected {
                node: self.node.clone(),
            }),
        }
    }
}

/// What a followed memberd says, as of now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    /// Whether the memberd is there; while it is not, `members` are the last that were known.
    pub connected: bool,
    /// All listed members. One that is absent is unknown (a memberd that has just started knows only itself), or was
    /// gone for long: only `failed` and `left` say that a node is gone.
    pub members: BTreeMap<NodeName, Member>,
}

impl View {
    fn apply(&mut self, update: Update) {
        self.connected = true;
        match update {
            Update::Snapshot(members) => {
                self.members = members.into_iter().map(|m| (m.name.clone(), m)).collect()
            }
            Update::Change(member) => {
                self.members.insert(member.name.clone(), member);
            }
        }
    }
}

/// Follows a memberd, over its restarts, until dropped.
pub struct Follower {
    view: watch::Receiver<View>,
    _task: spawn::Guard,
}

impl Follower {
    pub fn start(cluster: Arc<Cluster>, me: Identity, node: NodeName) -> Self {
        let (tx, view) = watch::channel(View::default());
        Self {
            view,
            _task: spawn::guarded("membership", follow(cluster, me, vec![node], tx)),
        }
    }

    /// Follows another node's memberd when `first`'s is not there: for who must see the cluster even from a node that is
    /// half dead.
    pub fn of_any(cluster: Arc<Cluster>, me: Identity, first: NodeName) -> Self {
        let others = cluster.nodes.iter().map(|n| n.name.clone());
        let mut nodes = vec![first.clone()];
        nodes.extend(others.filter(|n| *n != first));
        let (tx, view) = watch::channel(View::default());
        Self {
            view,
            _task: spawn::guarded("membership", follow(cluster, me, nodes, tx)),
        }
    }

    /// The view now.
    pub fn view(&self) -> View {
        self.view.borrow().clone()
    }

    /// For waiting: changes whenever the view does. Valid as long as the follower lives.
    pub fn watch(&self) -> watch::Receiver<View> {
        self.view.clone()
    }
}

async fn follow(
    cluster: Arc<Cluster>,
    me: Identity,
    nodes: Vec<NodeName>,
    view: watch::Sender<View>,
) -> Result<(), Infallible> {
    let mut backoff = Backoff::quick();
    for (tries, node) in nodes.iter().cycle().enumerate() {
        let ended: Result<Infallible, Error> = async {
            let mut subscription = subscribe(&cluster, &me, node).await?;
            loop {
                let update = subscription.next().await?;
                backoff.reset();
                view.send_if_modified(|view| {
                    let before = view.clone();
                    view.apply(update);
                    *view != before
                });
            }
        }
        .await;
        if let Err(error) = ended
            && view.send_if_modified(|view| std::mem::take(&mut view.connected))
        {
            tracing::warn!(node = %node, error = %error, "MEMBERD_LOST");
        }
        // All have been asked.
        if (tries + 1) % nodes.len() == 0 {
            tokio::time::sleep(backoff.delay()).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::State;

    fn member(name: &str, state: State) -> Member {
        Member {
            name: NodeName::new(name).unwrap(),
            addr: "127.0.0.1".parse().unwrap(),
            incarnation: 1,
            state,
        }
    }

    #[test]
    fn a_view_is_the_last_snapshot_and_the_changes_since() {
        let mut view = View::default();
        assert!(!view.connected);
        view.apply(Update::Snapshot(vec![
            member("a", State::Alive),
            member("b", State::Alive),
        ]));
        view.apply(Update::Change(member("b", State::Failed)));
        view.apply(Update::Change(member("c", State::Alive)));
        let seen: Vec<_> = view
            .members
            .values()
            .map(|m| (m.name.as_str(), m.state))
            .collect();
        assert_eq!(
            seen,
            [("a", State::Alive), ("b", State::Failed), ("c", State::Alive)]
        );
        view.apply(Update::Snapshot(vec![member("a", State::Alive)]));
        assert_eq!(view.members.len(), 1);
    }
}
