//! What memberd says. It is only an opinion, one of several; without a memberd failures are noticed a little later.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use common::cluster::Cluster;
use common::ids::NodeName;
use common::net::Identity;
use memberd::client::Follower;
use memberd::state::State;

use super::core::{CoreEvent, CoreEvents};
use hydfs::view::NodeIx;

/// Follows this node's memberd; tells each time that a member has come to be called failed or has left.
pub async fn follow(
    cluster: Arc<Cluster>,
    me: Identity,
    node: NodeName,
    events: CoreEvents,
) -> Result<(), Infallible> {
    let follower = Follower::start(cluster.clone(), me, node.clone());
    let mut watch = follower.watch();
    let mut gone: BTreeMap<NodeName, bool> = BTreeMap::new();
    while watch.changed().await.is_ok() {
        let view = watch.borrow_and_update().clone();
        for (name, member) in view.members {
            let now = matches!(member.state, State::Failed | State::Left);
            let before = gone.insert(name.clone(), now);
            let at = cluster.nodes.iter().position(|n| n.name == name);
            if let Some(at) = at.filter(|_| now && before == Some(false) && name != node) {
                let why = format!("memberd: {:?}", member.state);
                events.send(CoreEvent::Suspect {
                    node: NodeIx(at as u16),
                    why,
                });
            }
        }
    }
    Ok(())
}
