//! `list_mem`, `list_self`: what a node's memberd sees.

use common::cluster::Cluster;
use common::net::Identity;
use memberd::Member;
use memberd::client::Error;

use super::{json_or, show};

pub async fn list_mem(
    cluster: &Cluster,
    me: &Identity,
    node: Option<String>,
    json: bool,
) -> Result<String, super::Error> {
    let members = ask(cluster, me, node, false).await?;
    json_or(json, || rows(&members), || show::members(&members))
}

pub async fn list_self(
    cluster: &Cluster,
    me: &Identity,
    node: Option<String>,
    json: bool,
) -> Result<String, super::Error> {
    let members = ask(cluster, me, node, true).await?;
    json_or(json, || rows(&members), || show::members(&members))
}

/// Asks the named node, or else this machine's, or else any that answers.
async fn ask(
    cluster: &Cluster,
    me: &Identity,
    node: Option<String>,
    itself: bool,
) -> Result<Vec<Member>, Error> {
    let mut nodes = match node {
        Some(name) => vec![cluster.node(&name)?.name.clone()],
        None => cluster.nodes.iter().map(|n| n.name.clone()).collect(),
    };
    // This machine's first.
    nodes.sort_by_key(|n| Some(n) != me.node.as_ref());
    let mut last = None;
    for node in nodes {
        let answer = if itself {
            memberd::client::list_self(cluster, me, &node)
                .await
                .map(|m| vec![m])
        } else {
            memberd::client::list(cluster, me, &node).await
        };
        match answer {
            Ok(members) => return Ok(members),
            Err(error) => last = last.or(Some(error)),
        }
    }
    Err(last.unwrap_or_else(|| unreachable!("a cluster file has at least one node")))
}

/// As `GET /list_mem` has it: `name, id, addr, incarnation, state`.
fn rows(members: &[Member]) -> Vec<serde_json::Value> {
    let row = |m: &Member| {
        serde_json::json!({"name": m.name, "id": m.id(), "addr": m.addr, "incarnation": m.incarnation,
            "state": m.state.to_string()})
    };
    members.iter().map(row).collect()
}
