//! Starting worker processes on nodes, and hearing of their ends.
//!
//! ```text
//!   leader: ssh.rs --(remote.rs: one SSH connection, one session per node)--> node: host.rs --> local.rs --> workers
//!   leader: local.rs --> workers
//!   rainstormctl kill_task --(remote_kill.rs)--> node: host.rs --> kill.rs
//! ```

pub mod host;
pub mod kill;
pub mod local;
pub mod remote;
pub mod remote_kill;
pub mod ssh;

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use common::cluster::{Cluster, Node};
use common::ids::{Epoch, JobName, NodeName, TaskId};
use common::secret::Secret;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use common::exit::Exit;

/// How many of a process's last lines on standard error are kept.
const LAST_LINES: usize = 20;
/// Of each of them, at most so many bytes.
const LONGEST_LINE: usize = 400;
/// A process has ended, but its standard error is still held open by a child: not waited for any longer.
const DRAIN: Duration = Duration::from_millis(200);

/// One process to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    pub task: TaskId,
    pub epoch: Epoch,
    pub node: NodeName,
    pub program: PathBuf,
    pub args: Vec<String>,
    /// The node's data folder.
    pub data: PathBuf,
}

/// A standby leader to start. It outlives who starts it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandbyOrder {
    pub node: NodeName,
    pub program: PathBuf,
    pub args: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProcessEvent {
    Exited {
        task: TaskId,
        epoch: Epoch,
        exit: Exit,
        stderr: Vec<String>,
    },
    /// It was not started.
    Failed { task: TaskId, epoch: Epoch, why: String },
    /// A standby was not started, or has ended.
    StandbyEnded { node: NodeName, why: String },
}

impl ProcessEvent {
    /// Which worker has ended.
    pub(crate) fn worker(&self) -> Option<(TaskId, Epoch)> {
        match self {
            Self::Exited { task, epoch, .. } | Self::Failed { task, epoch, .. } => Some((*task, *epoch)),
            Self::StandbyEnded { .. } => None,
        }
    }
}

/// One event for each launch: as many are queued as processes were launched and have not ended.
pub type ProcessEvents = mpsc::UnboundedSender<ProcessEvent>;
pub type Closing = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Starts processes; what becomes of them arrives as [`ProcessEvent`]s.
pub trait Launcher: Send {
    fn launch(&mut self, order: Order);
    /// Starts a process that goes on when this one ends.
    fn stand_by(&mut self, order: StandbyOrder);
    /// Best effort: kills that process if it is still the one it was.
    fn kill(&mut self, task: TaskId, epoch: Epoch, node: NodeName, pid: u32);
    /// Leaves nothing of the launcher's own behind.
    fn close(self: Box<Self>) -> Closing;
}

/// The program that is a node's host, beside its workers.
pub fn host_program(node: &Node, own: &Path) -> PathBuf {
    node.bin.as_deref().unwrap_or(own).join("rainstormctl")
}

/// What of a worker's command line tells it from all others, as it stands in its `/proc/PID/cmdline` with spaces.
pub fn signature(cluster: &Path, node: &NodeName, job: &JobName, task: TaskId, epoch: Epoch) -> String {
    format!(
        "--cluster {} --node {node} --job {job} --task-id {task} --epoch {epoch} ",
        cluster.display()
    )
}

/// The order to start one task's process.
pub fn order(
    cluster: &Cluster,
    node: &Node,
    job: &JobName,
    task: TaskId,
    epoch: Epoch,
    leader: SocketAddr,
    own: &Path,
) -> Order {
    let program = node.bin.as_deref().unwrap_or(own).join("worker");
    let words = [
        ("--cluster", cluster.path.display().to_string()),
        ("--node", node.name.to_string()),
        ("--job", job.to_string()),
        ("--task-id", task.to_string()),
        ("--epoch", epoch.to_string()),
        ("--leader", leader.to_string()),
    ];
    let args = words
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect();
    Order {
        task,
        epoch,
        node: node.name.clone(),
        program,
        args,
        data: node.data.clone(),
    }
}

/// The order to start a standby of the leader at `leader`, whose processes have epochs above `base`. `launcher`: how that leader
/// starts its workers.
pub fn standby_order(
    cluster: &Cluster,
    node: &Node,
    job: &JobName,
    leader: SocketAddr,
    base: Epoch,
    launcher: &str,
    own: &Path,
) -> StandbyOrder {
    let words = [
        ("--cluster", cluster.path.display().to_string()),
        ("--node", node.name.to_string()),
        ("--job", job.to_string()),
        ("--standby", leader.to_string()),
        ("--base", base.to_string()),
        ("--launcher", launcher.to_owned()),
    ];
    StandbyOrder {
        node: node.name.clone(),
        program: node.bin.as_deref().unwrap_or(own).join("leader"),
        args: words
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value])
            .collect(),
    }
}

/// Gives a process the secret, keeps its standard input open, empties its outputs, and waits for its end.
async fn attend(
    secret: &Secret,
    mut stdin: impl AsyncWrite + Unpin,
    mut stdout: impl AsyncRead + Unpin,
    stderr: impl AsyncRead + Unpin,
    wait: impl Future<Output = Exit>,
) -> (Exit, Vec<String>) {
    let lines = LastLines::default();
    let exit = {
        // One that has ended already does not read it.
        let hello = async {
            let _ = stdin.write_all(format!("{}\n", secret.to_hex()).as_bytes()).await;
            let _ = stdin.flush().await;
        };
        let discard = async {
            let mut buffer = vec![0; 4096];
            while stdout.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
        };
        let mut outputs = std::pin::pin!(async { tokio::join!(hello, discard, lines.fill(stderr)) });
        let mut wait = std::pin::pin!(wait);
        tokio::select! {
            exit = &mut wait => {
                let _ = tokio::time::timeout(DRAIN, &mut outputs).await;
                exit
            }
            _ = &mut outputs => wait.await,
        }
    };
    drop(stdin);
    (exit, lines.get())
}

/// The last lines that were written somewhere.
#[derive(Default)]
struct LastLines(Mutex<VecDeque<String>>);

impl LastLines {
    fn get(&self) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect()
    }

    fn push(&self, line: &[u8]) {
        let text = String::from_utf8_lossy(&line[..line.len().min(LONGEST_LINE)]);
        let text = text.trim_end();
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !text.is_empty() {
            lines.push_back(common::shown::line(text).into_owned());
        }
        if lines.len() > LAST_LINES {
            lines.pop_front();
        }
    }

    /// Reads to the end.
    async fn fill(&self, mut from: impl AsyncRead + Unpin) {
        let (mut buffer, mut line) = (vec![0; 4096], Vec::new());
        while let Ok(n @ 1..) = from.read(&mut buffer).await {
            for byte in &buffer[..n] {
                match byte {
                    b'\n' => {
                        self.push(&line);
                        line.clear();
                    }
                    _ if line.len() < LONGEST_LINE => line.push(*byte),
                    _ => {}
                }
            }
        }
        self.push(&line);
    }
}

fn with_last(mut why: String, last: &LastLines) -> String {
    let lines = last.get();
    if !lines.is_empty() {
        why.push_str("; its last words: ");
        why.push_str(&lines.join(" | "));
    }
    why
}

/// An error and what caused it, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let more = e.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = e.source();
    }
    common::shown::line(text.replace(['\n', '\r'], " ").trim()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_lines_are_kept_and_floods_are_bounded() {
        let mut flood = (0..1000)
            .map(|i| format!("line {i}\n"))
            .collect::<String>()
            .into_bytes();
        flood.extend(std::iter::repeat_n(b'x', 1 << 20));
        let last = LastLines::default();
        last.fill(&flood[..]).await;
        let lines = last.get();
        assert_eq!(
            (lines.len(), lines[18].as_str(), lines[19].len()),
            (20, "line 999", LONGEST_LINE)
        );
    }

    #[test]
    fn an_order_holds_its_signature() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "x".repeat(32)).unwrap();
        let text =
            "secret_file = \"secret\"\n[[node]]\nname = \"n1\"\naddr = \"127.0.0.11\"\nbin = \"/opt/rs\"\n";
        let cluster = Cluster::parse(&dir.path().join("c.toml"), text).unwrap();
        let (job, task) = (JobName::new("j").unwrap(), TaskId::new(1, 2));
        let leader = "127.0.0.1:15000".parse().unwrap();
        let order = order(
            &cluster,
            &cluster.nodes[0],
            &job,
            task,
            Epoch(3),
            leader,
            Path::new("/own"),
        );
        assert_eq!(order.program, Path::new("/opt/rs/worker"));
        let line = format!("{} ", order.args.join(" "));
        assert!(
            line.contains(&signature(&cluster.path, &order.node, &job, task, Epoch(3))),
            "{line}"
        );
    }
}
