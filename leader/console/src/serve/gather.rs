//! What the cluster is asked for its page. What cannot be had is left out, and said.

use std::collections::BTreeMap;

use common::clock;
use hydfs::client::cli::df;
use serde_json::{Value, json};

use super::Place;
use crate::show::HistoryRow;
use api::find::ask_all;
use api::wire::Request;

/// Jobs that were, the newest first.
const JOBS: usize = 100;

/// Nodes as membership and storage have them.
pub async fn cluster(place: &Place) -> Value {
    let (members, storage) = tokio::join!(
        memberd::client::list(&place.cluster, &place.me, &place.node.name),
        df::all(&place.client)
    );
    let states: BTreeMap<String, String> = match &members {
        Ok(members) => members
            .iter()
            .map(|m| (m.name.to_string(), m.state.to_string()))
            .collect(),
        Err(_) => BTreeMap::new(),
    };
    let sum = |of: fn(&hydfs::client::Work) -> u64| -> u64 {
        storage
            .iter()
            .filter_map(|(_, status)| Some(of(&status.as_ref().ok()?.work)))
            .sum()
    };
    let totals = json!({
        "ranges": sum(|w| w.ranges),
        "under_replicated_ranges": sum(|w| w.under_replicated_ranges),
        "unavailable_ranges": sum(|w| w.unavailable_ranges),
        "missing_segments": sum(|w| w.missing_segments),
    });
    let mut nodes = df::as_json(&storage);
    for (node, shown) in place
        .cluster
        .nodes
        .iter()
        .zip(nodes.as_array_mut().into_iter().flatten())
    {
        shown["addr"] = node.addr.to_string().into();
        let state = states.get(node.name.as_str());
        shown["member"] = state.map_or("unknown", String::as_str).into();
    }
    json!({
        "node": place.node.name.as_str(),
        "at_us": clock::unix_micros(),
        "replication": place.cluster.replication,
        "warn_percent": place.cluster.hydfs.warn_percent,
        "refuse_percent": place.cluster.hydfs.refuse_percent,
        "nodes": nodes,
        "totals": totals,
        "error": members.err().map(|error| error.to_string()),
    })
}

/// Jobs that run, as their leaders tell, and jobs that were, as their journals do.
pub async fn jobs(place: &Place) -> Value {
    let running = ask_all(&place.cluster, &place.me, Request::Status).await.jobs();
    let mut journals = place.journals.lock().await;
    let error = journals.refresh(&place.client).await.err();
    let mut were: Vec<HistoryRow> = journals
        .rows()
        .filter(|row| running.iter().all(|r| r.job != row.job))
        .collect();
    were.sort_by(|a, b| (b.at_us, &b.job).cmp(&(a.at_us, &a.job)));
    let all = were.len();
    were.truncate(JOBS);
    json!({
        "running": running,
        "were": were,
        "were_in_all": all,
        "error": error.map(|error| error.to_string()),
    })
}

pub async fn tasks(place: &Place) -> Value {
    json!(ask_all(&place.cluster, &place.me, Request::List).await.tasks())
}
