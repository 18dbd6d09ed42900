//! HTTP for operators and scripts: what the group looks like, its configuration, metrics. Reading needs nothing; what
//! changes something needs the token.

mod metrics;

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use common::cluster::{Cluster, Node};
use common::ids::NodeName;
use common::net;
use common::net::door::IdleDoor;
use common::secret::Secret;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::console::{self, Console};
use crate::driver::DriverHandle;
use crate::state::{self, settings};
use crate::wire::Member;

/// The longest request body. A whole configuration has some hundred bytes.
const MAX_BODY: usize = 64 * 1024;
/// Connections at once.
const CLIENTS: usize = 64;
/// How long nothing may move on one.
const IDLE: Duration = Duration::from_secs(15);
const TOKEN_FILE: &str = "admin.token";

const PATHS: &str = "GET / /api/cluster /api/jobs /api/tasks /api/events /get /set?KEY=VALUE /list_mem /list_self /display_suspects /display_protocol /leave /metrics /healthz, POST /switch /set /leave";

/// The port, bound and not yet served.
pub(crate) struct Admin {
    tcp: TcpListener,
    addr: SocketAddr,
    me: NodeName,
    token: String,
    token_file: PathBuf,
}

#[derive(Clone)]
struct Shared(Arc<Inner>);

struct Inner {
    handle: DriverHandle,
    console: Console,
    addr: SocketAddr,
    me: NodeName,
    token: String,
    token_file: PathBuf,
}

impl Admin {
    /// On the node's own address if that is a loopback one, else on 127.0.0.1. Without the port membership works all the
    /// same, so a taken one is a warning. Port 0 in the cluster file: no HTTP.
    pub(crate) async fn bind(cluster: &Cluster, node: &Node, secret: &Secret) -> Option<Self> {
        let port = cluster.ports.admin;
        if port == 0 {
            return None;
        }
        let ip = match node.addr {
            ip if ip.is_loopback() => ip,
            _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let addr = SocketAddr::new(ip, port);
        let tcp = match TcpListener::bind(addr).await {
            Ok(tcp) => tcp,
            Err(error) => {
                tracing::warn!(%addr, %error, advice = "membership works without; free the port or change `admin` in [ports] of the cluster file", "HTTP_UNAVAILABLE");
                return None;
            }
        };
        // One token for the whole cluster: half of a key that nothing else is derived from.
        let key = secret.key("membership http token");
        let token: String = key[..16].iter().map(|b| format!("{b:02x}")).collect();
        let token_file = node.data.join(TOKEN_FILE);
        if let Err(error) = write_token(&token_file, &token) {
            tracing::warn!(file = %token_file.display(), %error, "TOKEN_UNWRITTEN");
        }
        Some(Self {
            tcp,
            addr,
            me: node.name.clone(),
            token,
            token_file,
        })
    }

    pub(crate) async fn serve(self, handle: DriverHandle, console: Console) -> std::io::Result<()> {
        tracing::info!(node = %self.me, addr = %self.addr, "HTTP");
        let shared = Shared(Arc::new(Inner {
            handle,
            console,
            addr: self.addr,
            me: self.me,
            token: self.token,
            token_file: self.token_file,
        }));
        let of_console = Router::new()
            .route("/", get(ask_console))
            .route("/api/{*path}", get(ask_console))
            .layer(middleware::from_fn(common::http::guard));
        let router = Router::new()
            .merge(of_console)
            .route("/get", get(configuration))
            .route("/set", get(set_by_query).post(set_by_body))
            .route("/switch", post(switch))
            .route("/list_mem", get(list_mem))
            .route("/list_self", get(list_self))
            .route("/display_suspects", get(display_suspects))
            .route("/display_protocol", get(display_protocol))
            .route("/leave", get(leave).post(leave))
            .route("/metrics", get(metrics::show))
            .route("/healthz", get(healthz))
            .fallback(unknown)
            .method_not_allowed_fallback(unknown)
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .with_state(shared);
        axum::serve(IdleDoor::new("admin", self.tcp, CLIENTS, IDLE)?, router).await
    }
}

/// Readable by the owner alone, from the first moment on.
fn write_token(path: &Path, token: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let fresh = path.with_extension("token.new");
    let _ = std::fs::remove_file(&fresh);
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&fresh)?;
    writeln!(file, "{token}")?;
    std::fs::rename(&fresh, path)
}

/// Why a call was not carried out.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(
        "this call changes something and needs the token: curl -H \"Authorization: Bearer $(cat {0})\" ...; or use the command line, as in: memberd switch gossip, memberd set KEY=VALUE, memberd leave"
    )]
    Token(String),
    #[error(transparent)]
    Settings(#[from] settings::Error),
    #[error("the body is not {need}: {why}")]
    Body { need: &'static str, why: String },
    #[error(transparent)]
    Console(#[from] console::Error),
    #[error("{0}")]
    Unknown(String),
    #[error("this memberd is going down")]
    Gone(#[from] net::Error),
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = match &self {
            Error::Token(_) => StatusCode::UNAUTHORIZED,
            Error::Settings(_) | Error::Body { .. } => StatusCode::BAD_REQUEST,
            Error::Unknown(_) => StatusCode::NOT_FOUND,
            Error::Gone(_) | Error::Console(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        let mut response = shown(status, &json!({"error": self.to_string()}));
        if status == StatusCode::UNAUTHORIZED {
            let scheme = header::HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

type Answer = Result<Response, Error>;

fn shown(status: StatusCode, value: &Value) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (status, kind, format!("{value:#}\n")).into_response()
}

fn fine(value: &Value) -> Answer {
    Ok(shown(StatusCode::OK, value))
}

impl Shared {
    fn check(&self, headers: &HeaderMap) -> Result<(), Error> {
        let given = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let given = given
            .and_then(|v| v.strip_prefix("Bearer "))
            .map_or("", str::trim);
        let token = &self.0.token;
        // All bytes are looked at, so that the time does not tell how many were right.
        let differ = given
            .bytes()
            .zip(token.bytes())
            .fold(given.len() ^ token.len(), |acc, (a, b)| acc | usize::from(a ^ b));
        match differ {
            0 => Ok(()),
            _ => Err(Error::Token(self.0.token_file.display().to_string())),
        }
    }

    async fn change(&self, changes: Vec<(String, String)>) -> Answer {
        tracing::info!(node = %self.0.me, ?changes, "CHANGE_REQUEST");
        let configuration = self.0.handle.change(changes).await??;
        fine(&configuration.to_json())
    }

    async fn members(&self, which: impl Fn(&Member) -> bool) -> Result<Vec<Value>, Error> {
        let members = self.0.handle.list().await?;
        Ok(members.iter().filter(|m| which(m)).map(Member::to_json).collect())
    }
}

async fn configuration(State(shared): State<Shared>) -> Answer {
    fine(&shared.0.handle.configuration().await?.to_json())
}

async fn set_by_query(
    State(shared): State<Shared>,
    headers: HeaderMap,
    Query(changes): Query<Vec<(String, String)>>,
) -> Answer {
    shared.check(&headers)?;
    shared.change(changes).await
}

async fn set_by_body(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Answer {
    shared.check(&headers)?;
    shared.change(object(&body)?).await
}

async fn switch(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Answer {
    shared.check(&headers)?;
    let changes = object(&body)?;
    let known = ["protocol", "suspicion", "suspicion_time"];
    if let Some((key, _)) = changes.iter().find(|(key, _)| !known.contains(&key.as_str())) {
        return Err(Error::Body {
            need: r#"as in {"protocol":"gossip","suspicion":"enabled","suspicion_time":"1s"}"#,
            why: format!("`{key}` is not one of {}; other settings: /set", known.join(", ")),
        });
    }
    shared.change(changes).await
}

/// The settings in a JSON object. Texts as they are, numbers and truth values as they are written.
fn object(body: &[u8]) -> Result<Vec<(String, String)>, Error> {
    let need = r#"a JSON object as in {"protocol":"gossip","suspicion":"enabled","suspicion_time":"1s"}"#;
    let wrong = |why: String| Error::Body { need, why };
    let value: Value = serde_json::from_slice(body).map_err(|e| wrong(e.to_string()))?;
    let Value::Object(map) = value else {
        return Err(wrong("it is another kind of JSON".into()));
    };
    let pair = |(key, value): (String, Value)| match value {
        Value::String(text) => Ok((key, text)),
        Value::Number(_) | Value::Bool(_) => Ok((key, value.to_string())),
        _ => Err(wrong(format!("the value of `{key}` is neither text nor number"))),
    };
    map.into_iter().map(pair).collect()
}

async fn list_mem(State(shared): State<Shared>) -> Answer {
    fine(&Value::Array(shared.members(|_| true).await?))
}

async fn list_self(State(shared): State<Shared>) -> Answer {
    let mut own = shared.members(|m| m.name == shared.0.me).await?;
    fine(&own.pop().unwrap_or(Value::Null))
}

async fn display_suspects(State(shared): State<Shared>) -> Answer {
    let suspects = shared.members(|m| m.state == state::State::Suspect).await?;
    fine(&Value::Array(suspects))
}

async fn display_protocol(State(shared): State<Shared>) -> Answer {
    let all = shared.0.handle.configuration().await?.to_json();
    let of = |key: &str| all[key].clone();
    fine(&json!({
        "protocol": of("protocol"),
        "suspicion": of("suspicion"),
        "suspicion_time": of("suspicion_time"),
        "version": of("version"),
        "by": of("by"),
    }))
}

async fn leave(State(shared): State<Shared>, headers: HeaderMap) -> Answer {
    shared.check(&headers)?;
    tracing::info!(who = "http", "LEAVE_REQUEST");
    shared.0.handle.leave().await?;
    fine(&json!({"leaving": shared.0.me}))
}

/// What the node's console says of jobs and storage.
async fn ask_console(State(shared): State<Shared>, uri: Uri) -> Answer {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Ok(shared.0.console.get(path).await?.into_response())
}

/// That it answers is the news: the state machine took its turn.
async fn healthz(State(shared): State<Shared>) -> Answer {
    let alive = shared.members(|m| m.state == state::State::Alive).await?;
    fine(&json!({"status": "ok", "node": shared.0.me, "alive": alive.len()}))
}

async fn unknown(State(shared): State<Shared>, method: axum::http::Method, uri: Uri) -> Error {
    let asked: String = uri.path().chars().take(80).collect();
    Error::Unknown(format!(
        "no {method} {asked} at {}; there are {PATHS}",
        shared.0.addr
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_an_object_of_texts_and_numbers() {
        let of = |text: &str| object(text.as_bytes());
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(
            of(r#"{"protocol":"gossip","fanout":4,"drop_rate":0.1}"#).unwrap(),
            [
                pair("drop_rate", "0.1"),
                pair("fanout", "4"),
                pair("protocol", "gossip")
            ]
        );
        for bad in ["", "gossip", "[]", "{\"a\":null}", "{\"a\":{}}", "{\"a\":1"] {
            assert!(matches!(of(bad), Err(Error::Body { .. })), "{bad}");
        }
    }

    #[test]
    fn the_token_file_is_the_owners_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data").join(TOKEN_FILE);
        for token in ["first", "second"] {
            write_token(&path, token).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{token}\n"));
            assert_eq!(
                std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
    }
}
