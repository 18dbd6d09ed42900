//! Membership at the console: who is there, which protocol is in force, and changing it for the whole group.

use common::cluster::Cluster;
use common::ids::NodeName;
use common::net::Identity;
use memberd::client::{self, Error};
use memberd::{Configuration, Member, State};

use crate::outcome::{self, json_or};
use crate::show;

pub async fn list_mem(
    cluster: &Cluster,
    me: &Identity,
    node: Option<String>,
    json: bool,
) -> Result<String, outcome::Error> {
    let members = any(cluster, me, node, async |node| {
        client::list(cluster, me, &node).await
    })
    .await?;
    json_or(json, || rows(&members), || show::members(&members))
}

pub async fn list_self(
    cluster: &Cluster,
    me: &Identity,
    node: Option<String>,
    json: bool,
) -> Result<String, outcome::Error> {
    let itself = any(cluster, me, node, async |node| {
        client::list_self(cluster, me, &node).await
    });
    let members = [itself.await?];
    json_or(json, || rows(&members), || show::members(&members))
}

pub async fn display_suspects(
    cluster: &Cluster,
    me: &Identity,
    node: Option<String>,
    json: bool,
) -> Result<String, outcome::Error> {
    let mut members = any(cluster, me, node, async |node| {
        client::list(cluster, me, &node).await
    })
    .await?;
    members.retain(|m| m.state == State::Suspect);
    json_or(json, || rows(&members), || show::members(&members))
}

pub async fn display_protocol(
    cluster: &Cluster,
    me: &Identity,
    node: Option<String>,
) -> Result<String, outcome::Error> {
    Ok(configuration(cluster, me, node).await?.to_string())
}

/// The group's configuration as JSON, or one setting of it.
pub async fn get_config(
    cluster: &Cluster,
    me: &Identity,
    node: Option<String>,
    key: Option<String>,
) -> Result<String, outcome::Error> {
    let all = configuration(cluster, me, node).await?.to_json();
    match key {
        None => Ok(serde_json::to_string_pretty(&all)?),
        Some(key) => match &all[&key] {
            serde_json::Value::Null => Err(outcome::Error::Setting { key }),
            serde_json::Value::String(text) => Ok(text.clone()),
            other => Ok(other.to_string()),
        },
    }
}

/// Changes settings of the whole group, by way of any node; `settings`: `KEY=VALUE` each.
pub async fn set(
    cluster: &Cluster,
    me: &Identity,
    node: Option<String>,
    settings: Vec<String>,
) -> Result<String, outcome::Error> {
    let pair = |s: &String| {
        let (key, value) = s
            .split_once('=')
            .ok_or_else(|| outcome::Error::Pair { text: s.clone() })?;
        Ok((key.to_owned(), value.to_owned()))
    };
    let changes = settings
        .iter()
        .map(pair)
        .collect::<Result<Vec<_>, outcome::Error>>()?;
    Ok(change(cluster, me, node, changes).await?.to_string())
}

/// Switches the whole group to a protocol; what is not named stays as it is.
pub async fn switch(
    cluster: &Cluster,
    me: &Identity,
    node: Option<String>,
    protocol: String,
    suspicion: Option<String>,
    suspicion_time: Option<String>,
) -> Result<String, outcome::Error> {
    let given = [
        ("protocol", Some(protocol)),
        ("suspicion", suspicion),
        ("suspicion_time", suspicion_time),
    ];
    let changes = given
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect();
    Ok(change(cluster, me, node, changes).await?.to_string())
}

/// Has a node's memberd say goodbye and exit.
pub async fn leave(cluster: &Cluster, me: &Identity, node: &str) -> Result<String, outcome::Error> {
    let node = cluster.node(node)?.name.clone();
    client::leave(cluster, me, &node).await?;
    Ok(format!("{node} is leaving"))
}

async fn configuration(
    cluster: &Cluster,
    me: &Identity,
    node: Option<String>,
) -> Result<Configuration, Error> {
    any(cluster, me, node, async |node| {
        client::configuration(cluster, me, &node).await
    })
    .await
}

async fn change(
    cluster: &Cluster,
    me: &Identity,
    node: Option<String>,
    changes: Vec<(String, String)>,
) -> Result<Configuration, Error> {
    any(cluster, me, node, async |node| {
        client::change(cluster, me, &node, changes.clone()).await
    })
    .await
}

/// Asks the named node, or else this machine's, or else any that answers.
pub async fn any<T>(
    cluster: &Cluster,
    me: &Identity,
    node: Option<String>,
    ask: impl AsyncFn(NodeName) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut nodes = match node {
        Some(name) => vec![cluster.node(&name)?.name.clone()],
        None => cluster.nodes.iter().map(|n| n.name.clone()).collect(),
    };
    // This machine's first.
    nodes.sort_by_key(|n| Some(n) != me.node.as_ref());
    let mut last = None;
    for node in nodes {
        match ask(node).await {
            Ok(answer) => return Ok(answer),
            // Another node would refuse it too.
            Err(error @ Error::Refused { .. }) => return Err(error),
            Err(error) => last = last.or(Some(error)),
        }
    }
    Err(last.unwrap_or_else(|| unreachable!("a cluster file has at least one node")))
}

/// As `GET /list_mem` has it.
fn rows(members: &[Member]) -> Vec<serde_json::Value> {
    members.iter().map(Member::to_json).collect()
}
