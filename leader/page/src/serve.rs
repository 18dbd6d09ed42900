//! The HTTP server: reads what is there, changes nothing.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State as Shared};
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use common::net::door::IdleDoor;
use common::spawn;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::snapshot::{Outcome, Snapshot};
use super::state::State;
use super::{metrics, page};

const CLIENTS: usize = 64;
const IDLE: Duration = Duration::from_secs(30);
const ALIVE_EVERY: Duration = Duration::from_secs(10);
/// Messages on their way to one who watches; and how long one may take.
const AHEAD: usize = 4;
const TAKES_WITHIN: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct Server {
    state: State,
    watched: watch::Sender<()>,
}

/// `watched`: each who watches holds a receiver of it until the last word is on its way.
pub async fn serve(
    listener: TcpListener,
    state: State,
    watched: watch::Sender<()>,
) -> Result<(), std::io::Error> {
    let door = IdleDoor::new("http", listener, CLIENTS, IDLE)?;
    axum::serve(door, router(Server { state, watched })).await
}

fn router(server: Server) -> Router {
    Router::new()
        .route("/", get(root))
        .route("/metrics", get(prometheus))
        .route("/api/job", get(job))
        .route("/api/tasks", get(tasks))
        .route("/api/rates", get(rates))
        .route("/api/history", get(history))
        .route("/api/events", get(events))
        .route("/api/stream", get(stream))
        .fallback(nowhere)
        .layer(middleware::from_fn(common::http::guard))
        .with_state(server)
}

async fn nowhere() -> Response {
    let there = "there are / /metrics /api/job /api/tasks /api/rates /api/history /api/events /api/stream\n";
    (StatusCode::NOT_FOUND, there).into_response()
}

async fn root() -> Response {
    axum::response::Html(page::live()).into_response()
}

fn json(text: impl Into<axum::body::Body>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text.into()).into_response()
}

/// Before the first snapshot there is nothing to say.
fn of_snapshot<T: Serialize>(server: &Server, what: impl FnOnce(&Snapshot) -> T) -> Response {
    let Some(snapshot) = server.state.snapshot() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "the job has not begun\n").into_response();
    };
    match serde_json::to_vec(&what(&snapshot)) {
        Ok(text) => json(text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn job(Shared(server): Shared<Server>) -> Response {
    of_snapshot(&server, |s| s.job.clone())
}

async fn tasks(Shared(server): Shared<Server>) -> Response {
    of_snapshot(&server, |s| s.tasks.clone())
}

async fn rates(Shared(server): Shared<Server>) -> Response {
    of_snapshot(&server, Snapshot::rates)
}

async fn history(Shared(server): Shared<Server>) -> Response {
    json(server.state.history())
}

#[derive(Deserialize)]
struct Since {
    /// The `id` of the newest event that the client has.
    #[serde(default)]
    since: u64,
}

async fn events(Shared(server): Shared<Server>, Query(Since { since }): Query<Since>) -> Response {
    json(serde_json::to_vec(&server.state.events.after(since)).unwrap_or_default())
}

async fn prometheus(Shared(server): Shared<Server>) -> Response {
    let text = server
        .state
        .snapshot()
        .map_or(String::new(), |s| metrics::render(&s));
    let kind = common::prometheus::CONTENT_TYPE;
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

/// `all` once, then `now` for each snapshot and `event` for each line of the log.
async fn stream(Shared(server): Shared<Server>) -> Response {
    let (to, messages) = mpsc::channel(AHEAD);
    spawn::task("http-stream", async move {
        // Ends also when the client goes: then nobody takes what is sent.
        let _held = server.watched.subscribe();
        tell(&server.state, &to).await;
        // The last message is taken when the channel is empty again.
        let _ = tokio::time::timeout(TAKES_WITHIN, to.reserve_many(AHEAD)).await;
        Ok::<(), Infallible>(())
    });
    let alive = KeepAlive::new().interval(ALIVE_EVERY);
    Sse::new(ReceiverStream::new(messages))
        .keep_alive(alive)
        .into_response()
}

type To = mpsc::Sender<Result<Event, Infallible>>;

async fn tell(state: &State, to: &To) {
    let (mut now, mut newest) = (state.now.subscribe(), state.events.watch());
    now.borrow_and_update();
    let mut told = *newest.borrow_and_update();
    let mut over = state.snapshot().is_some_and(|s| is_over(&s));
    let mut going = put(to, "all", state.full(0)).await;
    while going && !over {
        let shown = tokio::select! {
            Ok(()) = newest.changed() => false,
            Ok(()) = now.changed() => true,
            () = to.closed() => return,
            else => return,
        };
        for event in state.events.after(told) {
            told = event.id;
            going = going && put(to, "event", serde_json::to_string(&event).unwrap_or_default()).await;
        }
        let snapshot = if shown { now.borrow().clone() } else { None };
        if let Some(snapshot) = snapshot {
            over = is_over(&snapshot);
            let text = String::from_utf8_lossy(&snapshot.text()).into_owned();
            going = going && put(to, "now", text).await;
        }
    }
}

fn is_over(snapshot: &Snapshot) -> bool {
    matches!(snapshot.job.state, Outcome::Done | Outcome::Failed)
}

/// False: the client has gone, or is too slow.
async fn put(to: &To, name: &'static str, json: String) -> bool {
    let message = Event::default().event(name).data(json);
    matches!(
        tokio::time::timeout(TAKES_WITHIN, to.send(Ok(message))).await,
        Ok(Ok(()))
    )
}
