//! `serve`: the node's console, which outlives jobs. memberd starts it on each node, and passes on what is asked at the node's
//! HTTP port.
//!
//! ```text
//!   memberd --- Unix socket ---> router --> cluster, jobs, tasks, events   each asked for at most once at a time, and kept
//!                                |                                         for a moment
//!                                +--> metrics: of this node's storage
//!   tidy: what ended jobs keep, and operators that no job names
//! ```
//! It only looks: nothing can be changed through it. It ends with its standard input.

mod events;
mod gather;
mod journals;
mod metrics;
mod tidy;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use common::clock::{self, Time};
use common::cluster::{Cluster, Keep, Node};
use common::ids::NodeName;
use common::net::Identity;
use common::telemetry;
use hydfs::client::Client;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

use crate::outcome::Error;
use journals::Journals;

const PAGE: &str = include_str!("page.html");
/// How long an answer is kept: however many look, the cluster is asked so often.
const FRESH: Duration = Duration::from_secs(2);
/// How long a file that is unavailable is waited for. Whoever looks at a page looks again.
const PATIENCE: Duration = Duration::from_secs(4);

pub fn run(file: Option<&Path>, node: NodeName, runtime: &Runtime) -> Result<(), Error> {
    let cluster = Arc::new(Cluster::find(file)?);
    let node = cluster.node(node.as_str())?.clone();
    let log = telemetry::init(Some(cluster.log_of(&node, "console.log")), std::io::stderr)?;
    let me = Identity {
        who: format!("console {} {}", node.name, std::process::id()),
        node: Some(node.name.clone()),
        secret: cluster.secret()?,
        security: cluster.security,
    };
    let served = runtime.block_on(async {
        let client = Client::new(cluster.clone(), me.clone()).with_patience(PATIENCE);
        let journals = Arc::new(Mutex::new(Journals::default()));
        let place = Place {
            cluster,
            me,
            node,
            client,
            journals,
        };
        let listener = memberd::console::listen(&place.node).map_err(Error::Serve)?;
        tracing::info!(node = %place.node.name, pid = std::process::id(), "START");
        let _tidy = match place.cluster.jobs.keep_ended {
            Keep::For(keep) => Some(common::spawn::guarded("tidy", tidy::keep(place.clone(), keep))),
            Keep::Forever => None,
        };
        let serve = axum::serve(listener, router(place));
        tokio::select! {
            served = serve.into_future() => served.map_err(Error::Serve),
            () = memberd_ends() => Ok(()),
        }
    });
    tracing::info!("STOP");
    drop(log);
    served
}

/// Its end of our standard input closes when it ends, however it does.
async fn memberd_ends() {
    let (mut stdin, mut some) = (tokio::io::stdin(), [0; 64]);
    while stdin.read(&mut some).await.is_ok_and(|n| n > 0) {}
}

/// Where this is, and whom it asks.
#[derive(Clone)]
pub(crate) struct Place {
    cluster: Arc<Cluster>,
    me: Identity,
    node: Node,
    client: Client,
    journals: Arc<Mutex<Journals>>,
}

/// What was found out a moment ago.
#[derive(Default)]
struct Kept(Mutex<Option<(Time, Value)>>);

impl Kept {
    /// Who comes while it is being found out waits for that.
    async fn or(&self, find_out: impl Future<Output = Value>) -> Value {
        let mut kept = self.0.lock().await;
        if let Some((at, value)) = &*kept
            && clock::now().since(*at) < FRESH
        {
            return value.clone();
        }
        let value = find_out.await;
        *kept = Some((clock::now(), value.clone()));
        value
    }
}

struct Served {
    place: Place,
    cluster: Kept,
    jobs: Kept,
    tasks: Kept,
    events: Kept,
}

type Shared = State<Arc<Served>>;

fn router(place: Place) -> Router {
    let served = Served {
        place,
        cluster: Kept::default(),
        jobs: Kept::default(),
        tasks: Kept::default(),
        events: Kept::default(),
    };
    Router::new()
        .route("/", get(async || Html(PAGE)))
        .route("/api/cluster", get(cluster))
        .route("/api/jobs", get(jobs))
        .route("/api/tasks", get(tasks))
        .route("/api/events", get(all_events))
        .route(events::HERE, get(events_here))
        .route("/metrics", get(storage_metrics))
        .fallback(nowhere)
        .with_state(Arc::new(served))
}

async fn cluster(State(served): Shared) -> Response {
    json(&served.cluster.or(gather::cluster(&served.place)).await)
}

async fn jobs(State(served): Shared) -> Response {
    json(&served.jobs.or(gather::jobs(&served.place)).await)
}

async fn tasks(State(served): Shared) -> Response {
    json(&served.tasks.or(gather::tasks(&served.place)).await)
}

async fn all_events(State(served): Shared) -> Response {
    json(&served.events.or(events::all(&served.place)).await)
}

async fn events_here(State(served): Shared) -> Response {
    json(&events::here(&served.place.node.log))
}

async fn storage_metrics(State(served): Shared) -> Response {
    match served.place.client.status(&served.place.node.name).await {
        Ok(status) => {
            let kind = [(header::CONTENT_TYPE, common::prometheus::CONTENT_TYPE)];
            (kind, metrics::text(&status)).into_response()
        }
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

async fn nowhere() -> Response {
    let there = "there are / /metrics /api/cluster /api/jobs /api/tasks /api/events\n";
    (StatusCode::NOT_FOUND, there).into_response()
}

fn json(value: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_takes_nothing_from_elsewhere_and_inserts_text_only() {
        for elsewhere in [
            "http://",
            "https://",
            "src=",
            "@import",
            "url(",
            "innerHTML",
            "insertAdjacent",
            "eval(",
        ] {
            assert!(!PAGE.contains(elsewhere), "{elsewhere}");
        }
    }
}
