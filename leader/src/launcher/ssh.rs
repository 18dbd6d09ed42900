//! Starts workers over SSH: one multiplexed connection per node, more when a node has many tasks.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::cluster::{Cluster, Node};
use common::ids::{Epoch, JobName, NodeName, TaskId};
use common::secret::Secret;
use common::spawn;
use openssh::{ControlPersist, KnownHosts, Session, SessionBuilder, Stdio};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use super::{Closing, Event, Events, Launcher, Order, attend, chain, signature};
use crate::job::Exit;

/// sshd allows 10 sessions per connection (`MaxSessions`); two are kept for kills.
const SESSIONS: usize = 8;
const CONNECT_WITHIN: Duration = Duration::from_secs(8);
const KILL_WITHIN: Duration = Duration::from_secs(5);
/// A master that nobody uses ends by itself after so many seconds: that is when this program was killed.
const IDLE: usize = 10;

/// A node cannot be reached. Says what to try by hand.
#[derive(Debug, Clone, thiserror::Error)]
#[error("SSH does not reach node {node}: {why}; try by hand: {by_hand}")]
pub struct Unreachable {
    pub node: NodeName,
    pub why: String,
    pub by_hand: String,
}

struct Shared {
    session: Arc<Session>,
    workers: Arc<Semaphore>,
}

/// The connections to one node.
pub struct Remote {
    node: Node,
    /// Where the masters' sockets are.
    sockets: PathBuf,
    open: Mutex<Vec<Shared>>,
}

impl Remote {
    pub fn new(node: Node, sockets: PathBuf) -> Self {
        Self {
            node,
            sockets,
            open: Mutex::new(vec![]),
        }
    }

    /// Makes the first connection ahead of need.
    pub async fn connect(&self) -> Result<(), Unreachable> {
        self.session().await.map(drop)
    }

    /// A connection with room for one more worker. The permit is that worker's for its life.
    async fn session(&self) -> Result<(Arc<Session>, OwnedSemaphorePermit), Unreachable> {
        let mut open = self.open.lock().await;
        for shared in open.iter() {
            if let Ok(permit) = shared.workers.clone().try_acquire_owned() {
                return Ok((shared.session.clone(), permit));
            }
        }
        let session = Arc::new(self.dial().await?);
        let workers = Arc::new(Semaphore::new(SESSIONS));
        let permit = workers.clone().try_acquire_owned();
        open.push(Shared {
            session: session.clone(),
            workers,
        });
        permit
            .map(|permit| (session, permit))
            .map_err(|e| self.unreachable(e.to_string()))
    }

    /// Any connection, for a kill.
    async fn any(&self) -> Result<Arc<Session>, Unreachable> {
        if let Some(shared) = self.open.lock().await.first() {
            return Ok(shared.session.clone());
        }
        self.session().await.map(|(session, _)| session)
    }

    /// Forgets a connection that does not work any more.
    async fn forget(&self, session: &Arc<Session>) {
        self.open
            .lock()
            .await
            .retain(|s| !Arc::ptr_eq(&s.session, session));
    }

    async fn dial(&self) -> Result<Session, Unreachable> {
        let ssh = &self.node.ssh;
        let mut builder = SessionBuilder::default();
        builder.connect_timeout(Duration::from_secs(5));
        builder.server_alive_interval(Duration::from_secs(5));
        builder.control_directory(&self.sockets);
        builder.control_persist(
            std::num::NonZeroUsize::new(IDLE).map_or(ControlPersist::Forever, ControlPersist::IdleFor),
        );
        builder.known_hosts_check(if ssh.known_hosts.is_some() {
            KnownHosts::Strict
        } else {
            KnownHosts::Add
        });
        if let Some(user) = &ssh.user {
            builder.user(user.clone());
        }
        if let Some(port) = ssh.port {
            builder.port(port);
        }
        if let Some(key) = &ssh.key {
            builder.keyfile(key);
        }
        if let Some(file) = &ssh.known_hosts {
            builder.user_known_hosts_file(file);
        }
        match tokio::time::timeout(CONNECT_WITHIN, builder.connect_mux(self.node.addr.to_string())).await {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(error)) => Err(self.unreachable(chain(&error))),
            Err(_) => Err(self.unreachable(format!("no connection within {} s", CONNECT_WITHIN.as_secs()))),
        }
    }

    fn unreachable(&self, why: String) -> Unreachable {
        Unreachable {
            node: self.node.name.clone(),
            why,
            by_hand: by_hand(&self.node),
        }
    }

    /// Kills process `pid` if its command line (words with spaces between) holds `must`; returns that line.
    pub async fn kill(&self, pid: u32, must: &str) -> Result<String, String> {
        let run = async {
            let session = self.any().await.map_err(|e| e.to_string())?;
            let mut command = session.command("sh");
            command.args(["-c", KILL, "sh", &pid.to_string(), must]);
            command.output().await.map_err(|e| chain(&e))
        };
        let output = tokio::time::timeout(KILL_WITHIN, run)
            .await
            .map_err(|_| "no answer in time".to_owned())??;
        let line = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        kill_outcome(
            output.status.code(),
            pid,
            line,
            String::from_utf8_lossy(&output.stderr).trim(),
        )
    }

    /// Closes all connections: the masters end once no session is left.
    pub async fn close(&self) {
        self.open.lock().await.clear();
    }
}

/// Kills a process only if it is the one that is meant.
pub const KILL: &str = r#"c=$(tr '\000' ' ' < "/proc/$1/cmdline" 2>/dev/null) || exit 3
[ -n "$c" ] || exit 3
printf '%s\n' "$c"
case "$c " in *worker*"$2"*) kill -9 "$1" ;; *) exit 4 ;; esac"#;

/// What [`KILL`]'s exit code means.
pub fn kill_outcome(code: Option<i32>, pid: u32, line: String, stderr: &str) -> Result<String, String> {
    match code {
        Some(0) => Ok(line),
        Some(3) => Err(format!("there is no process {pid}")),
        Some(4) => Err(format!("process {pid} is not a worker of this cluster: {line}")),
        _ => Err(format!("process {pid} was not killed: {stderr}")),
    }
}

/// The command that a person may type to see why.
fn by_hand(node: &Node) -> String {
    let mut words = vec!["ssh".to_owned()];
    if let Some(port) = node.ssh.port {
        words.extend(["-p".into(), port.to_string()]);
    }
    if let Some(key) = &node.ssh.key {
        words.extend([
            "-o".into(),
            "IdentitiesOnly=yes".into(),
            "-i".into(),
            key.display().to_string(),
        ]);
    }
    if let Some(file) = &node.ssh.known_hosts {
        words.extend(["-o".into(), format!("UserKnownHostsFile={}", file.display())]);
    }
    let host = node
        .ssh
        .user
        .as_ref()
        .map_or(node.addr.to_string(), |user| format!("{user}@{}", node.addr));
    words.extend([host, "true".into()]);
    shell_words::join(words)
}

pub struct Ssh {
    cluster_path: PathBuf,
    job: JobName,
    secret: Secret,
    events: Events,
    remotes: Arc<BTreeMap<NodeName, Arc<Remote>>>,
    running: Vec<spawn::Guard>,
    /// Removed with all in it at the end.
    _sockets: tempfile::TempDir,
}

impl Ssh {
    pub fn new(cluster: &Cluster, job: JobName, secret: Secret, events: Events) -> std::io::Result<Self> {
        let sockets = socket_folder()?;
        let remote = |n: &Node| {
            (
                n.name.clone(),
                Arc::new(Remote::new(n.clone(), sockets.path().to_owned())),
            )
        };
        let remotes = Arc::new(cluster.nodes.iter().map(remote).collect());
        Ok(Self {
            cluster_path: cluster.path.clone(),
            job,
            secret,
            events,
            remotes,
            running: vec![],
            _sockets: sockets,
        })
    }

    /// For connecting ahead of need.
    pub fn remotes(&self) -> Arc<BTreeMap<NodeName, Arc<Remote>>> {
        self.remotes.clone()
    }
}

/// A private folder for sockets, whose paths may have about 100 bytes: not below a long TMPDIR.
pub fn socket_folder() -> std::io::Result<tempfile::TempDir> {
    let usual = std::env::temp_dir();
    let place = if usual.as_os_str().len() <= 30 {
        usual
    } else {
        "/tmp".into()
    };
    tempfile::Builder::new().prefix("rs-ssh-").tempdir_in(place)
}

impl Launcher for Ssh {
    fn launch(&mut self, order: Order) {
        self.running.retain(|guard| !guard.is_finished());
        let (task, epoch) = (order.task, order.epoch);
        let Some(remote) = self.remotes.get(&order.node).cloned() else {
            let why = format!("node {} is not in the cluster file", order.node);
            let _ = self.events.send(Event::Failed { task, epoch, why });
            return;
        };
        let (secret, events) = (self.secret.clone(), self.events.clone());
        self.running.push(spawn::guarded("ssh-process", async move {
            let event = match run(&remote, &order, &secret).await {
                Ok((exit, stderr)) => Event::Exited {
                    task,
                    epoch,
                    exit,
                    stderr,
                },
                Err(why) => Event::Failed { task, epoch, why },
            };
            // The receiver is gone only when the job is over.
            let _ = events.send(event);
            Ok::<(), Unreachable>(())
        }));
    }

    fn kill(&mut self, task: TaskId, epoch: Epoch, node: NodeName, pid: u32) {
        let Some(remote) = self.remotes.get(&node).cloned() else {
            return;
        };
        let must = signature(&self.cluster_path, &node, &self.job, task, epoch);
        self.running.push(spawn::guarded("ssh-kill", async move {
            match remote.kill(pid, &must).await {
                Ok(_) => tracing::info!(task = %task, epoch = %epoch, node = %node, pid, "TASK_KILL"),
                Err(why) => {
                    tracing::info!(task = %task, epoch = %epoch, node = %node, pid, why, "TASK_KILL_FAILED")
                }
            }
            Ok::<(), Unreachable>(())
        }));
    }

    fn close(self: Box<Self>) -> Closing {
        Box::pin(async move {
            let Self {
                remotes,
                running,
                _sockets,
                ..
            } = *self;
            drop(running);
            // The aborted tasks give their sessions back when they are next scheduled.
            tokio::task::yield_now().await;
            for remote in remotes.values() {
                if tokio::time::timeout(Duration::from_millis(500), remote.close())
                    .await
                    .is_err()
                {
                    tracing::warn!(node = %remote.node.name, "SSH_CLOSE_FAILED");
                }
            }
        })
    }
}

async fn run(remote: &Remote, order: &Order, secret: &Secret) -> Result<(Exit, Vec<String>), String> {
    let mut again = true;
    let (session, mut child, _permit) = loop {
        let (session, permit) = remote.session().await.map_err(|e| e.to_string())?;
        let mut command = session.clone().arc_command(order.program.display().to_string());
        command
            .args(&order.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        match command.spawn().await {
            Ok(child) => break (session, child, permit),
            Err(error) => {
                // The master may have ended for lack of use, or with the node.
                remote.forget(&session).await;
                if !std::mem::take(&mut again) {
                    return Err(remote.unreachable(chain(&error)).to_string());
                }
            }
        }
    };
    let (Some(stdin), Some(stdout), Some(stderr)) =
        (child.stdin().take(), child.stdout().take(), child.stderr().take())
    else {
        return Err("its standard streams are not piped".into());
    };
    let wait = async {
        match child.wait().await {
            Ok(status) => super::local::exit_of(status),
            Err(openssh::Error::Remote(_)) => Exit::Code(127),
            // By a signal, or the connection was lost: the protocol does not say which.
            Err(error) => match tokio::time::timeout(Duration::from_secs(2), session.check()).await {
                Ok(Ok(())) => Exit::Killed,
                _ => Exit::Unknown(chain(&error)),
            },
        }
    };
    let (exit, stderr) = attend(secret, stdin, stdout, stderr, wait).await;
    if matches!(exit, Exit::Unknown(_)) {
        remote.forget(&session).await;
    }
    Ok((exit, stderr))
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::cluster::Ssh as SshConfig;

    fn node() -> Node {
        Node {
            name: NodeName::new("n1").unwrap(),
            addr: "127.0.0.1".parse().unwrap(),
            data: "d".into(),
            log: "l".into(),
            bin: None,
            ssh: SshConfig {
                user: Some("u".into()),
                port: Some(1),
                key: Some("/k y".into()),
                known_hosts: Some("/kh".into()),
            },
        }
    }

    #[tokio::test]
    async fn a_node_that_is_not_there_is_named_with_what_to_try() {
        let sockets = socket_folder().unwrap();
        let error = Remote::new(node(), sockets.path().into())
            .connect()
            .await
            .unwrap_err()
            .to_string();
        let hint = "ssh -p 1 -o 'IdentitiesOnly=yes' -i '/k y' -o 'UserKnownHostsFile=/kh' u@127.0.0.1 true";
        assert!(error.contains("node n1") && error.contains(hint), "{error}");
    }

    async fn kill_script(pid: u32, must: &str) -> Result<String, String> {
        let pid_text = pid.to_string();
        let output = tokio::process::Command::new("sh")
            .args(["-c", KILL, "sh", &pid_text, must])
            .output()
            .await
            .unwrap();
        let line = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        kill_outcome(
            output.status.code(),
            pid,
            line,
            &String::from_utf8_lossy(&output.stderr),
        )
    }

    #[tokio::test]
    async fn only_the_right_process_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let worker = dir.path().join("worker");
        std::fs::copy("/bin/sleep", &worker).unwrap();
        let mut child = tokio::process::Command::new(&worker)
            .args(["600"])
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pid = child.id().unwrap();
        // Until the new program's own command line is there.
        while !std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
            .unwrap()
            .contains("600")
        {
            tokio::task::yield_now().await;
        }
        assert!(
            kill_script(pid, "--epoch 7 ")
                .await
                .unwrap_err()
                .contains("not a worker of this cluster")
        );
        assert!(child.try_wait().unwrap().is_none());
        assert!(kill_script(pid, "600 ").await.unwrap().contains("600"));
        assert_eq!(
            super::super::local::exit_of(child.wait().await.unwrap()),
            Exit::Killed
        );
        assert!(kill_script(pid, "600 ").await.unwrap_err().contains("no process"));
    }
}
