//! The node's console, a child of memberd's: `rainstormctl serve`. Membership knows nothing of storage and of jobs; what the
//! node's HTTP port says of them, it asks the console, over a Unix socket in the node's data folder.
//!
//! Without a console membership goes on. It is started again when it ends. It ends when its standard input does, and so with
//! memberd, however that ends.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{self, Body, Bytes};
use axum::http::{Request, StatusCode, header};
use common::backoff::Backoff;
use common::clock;
use common::cluster::{Cluster, Node};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};

const PROGRAM: &str = "rainstormctl";
const SOCKET: &str = "console.sock";
/// The longest answer that is passed on.
pub const MOST: usize = 4 << 20;
/// How long the console may take for one. It asks other nodes for some.
pub const ANSWER: Duration = Duration::from_secs(15);
/// One that has lived for so long was no failure to start.
const LIVES: Duration = Duration::from_secs(60);

/// What the console says to a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    pub status: u16,
    /// The content's type.
    pub kind: String,
    #[serde(with = "serde_bytes")]
    pub body: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the node's console does not answer: {0}; why is in console.log and memberd.log of the node")]
    Away(String),
    #[error("the node's console did not answer within {} s", ANSWER.as_secs())]
    Silent,
}

/// The way to the console. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Console(Arc<PathBuf>);

impl Console {
    pub fn of(node: &Node) -> Self {
        Self(Arc::new(node.data.join(SOCKET)))
    }

    /// Asks for a path, with its query.
    pub async fn get(&self, path: &str) -> Result<Answered, Error> {
        let asked = tokio::time::timeout(ANSWER, self.ask(path)).await;
        asked
            .map_err(|_| Error::Silent)?
            .map_err(|why| Error::Away(why.to_string()))
    }

    async fn ask(&self, path: &str) -> anyhow::Result<Answered> {
        let stream = connect(&self.0).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::get(path)
            .header(header::HOST, "localhost")
            .body(Body::empty())?;
        let answer = async {
            let answer = sender.send_request(request).await?;
            let status = answer.status().as_u16();
            let kind = answer
                .headers()
                .get(header::CONTENT_TYPE)
                .and_then(|kind| kind.to_str().ok());
            let kind = kind.unwrap_or("application/octet-stream").to_owned();
            let body = body::to_bytes(Body::new(answer.into_body()), MOST).await?;
            Ok(Answered {
                status,
                kind,
                body: body.into(),
            })
        };
        let mut connection = std::pin::pin!(connection);
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            // It closes behind its answer.
            closed = &mut connection => {
                closed?;
                answer.await
            }
        }
    }
}

/// A socket's name has at most 107 bytes; a data folder's may be longer.
async fn connect(path: &Path) -> std::io::Result<UnixStream> {
    let folder = File::open(path.parent().unwrap_or(Path::new(".")))?;
    UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd())).await
}

/// For the console: where it is asked, by its owner alone. The socket of the one before it is removed.
pub fn listen(node: &Node) -> std::io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir_all(&node.data)?;
    let folder = File::open(&node.data)?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd());
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

impl axum::response::IntoResponse for Answered {
    fn into_response(self) -> axum::response::Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::BAD_GATEWAY);
        (
            status,
            [(header::CONTENT_TYPE, self.kind)],
            Bytes::from(self.body),
        )
            .into_response()
    }
}

/// Keeps a console running, until dropped. Not where the program is missing: memberd may be installed alone.
pub(crate) async fn keep(cluster: Arc<Cluster>, node: Node) -> std::io::Result<()> {
    let program = std::env::current_exe()?.with_file_name(PROGRAM);
    if !program.exists() {
        tracing::info!(program = %program.display(), "NO_CONSOLE");
        return Ok(());
    }
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    loop {
        let began = clock::now();
        let mut command = tokio::process::Command::new(&program);
        command
            .arg("--cluster")
            .arg(&cluster.path)
            .arg("serve")
            .args(["--node", node.name.as_str()]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            // What a terminal sends to memberd is for memberd: it ends the console itself.
            .process_group(0);
        let ended = async {
            let mut child = command.spawn()?;
            // `wait` would close it, and with that end the console.
            let _stdin = child.stdin.take();
            child.wait().await
        };
        let why = match ended.await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(why, "CONSOLE_ENDED");
        if clock::now().since(began) > LIVES {
            backoff.reset();
        }
        tokio::time::sleep(backoff.delay()).await;
    }
}
