//! Starts workers over SSH: one session per node runs a host ([`super::host`]), which starts all of that node's workers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::cluster::{Cluster, Node};
use common::ids::{Epoch, JobName, NodeName, TaskId};
use common::secret::Secret;
use common::ssh::Folder;
use common::{clock, spawn};
use openssh::{Child, ChildStdin, Session};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::host::{self, HostCommand, HostReply};
use super::remote::{Channel, Remote, Unreachable, reason};
use super::{
    Closing, DRAIN, LastLines, Launcher, Order, ProcessEvent, ProcessEvents, StandbyOrder, signature,
    with_last,
};
use common::exit::Exit;

/// A host answers as soon as it is there.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);
/// A host ends at once when none of its workers is left, and otherwise kills them first.
const CLOSE_WITHIN: Duration = Duration::from_millis(4500);

/// Launches and kills that wait while a node's session is opened: a job launches a task again only when the launch before has
/// come to nothing, so more would be a fault.
const REQUESTS: usize = 16_384;
/// Replies that wait for the keeper. A host that cannot put its replies anywhere waits.
const REPLIES: usize = 1024;

enum HostRequest {
    /// Opens the host ahead of need.
    Open(oneshot::Sender<Result<(), Unreachable>>),
    Command(HostCommand),
}

/// The outcome of opening a node's host ahead of need.
pub type Opening = oneshot::Receiver<Result<(), Unreachable>>;

pub struct Ssh {
    cluster_path: PathBuf,
    job: JobName,
    events: ProcessEvents,
    nodes: BTreeMap<NodeName, (mpsc::Sender<HostRequest>, JoinHandle<()>)>,
}

impl Ssh {
    /// `own`: where this node's programs are; the others' are there too unless the cluster file says otherwise.
    pub fn new(
        cluster: &Cluster,
        job: JobName,
        secret: Secret,
        own: &Path,
        events: ProcessEvents,
    ) -> std::io::Result<Self> {
        // Removed with all in it when the last connection is closed.
        let folder = Arc::new(Folder::new()?);
        let keep = |node: &Node| {
            let keeper = Keeper {
                remote: Remote::new(node.clone(), folder.clone()),
                program: super::host_program(node, own),
                args: host_args(&cluster.path, &node.name, &job),
                secret: secret.clone(),
                events: events.clone(),
            };
            let (ask, asks) = mpsc::channel(REQUESTS);
            (
                node.name.clone(),
                (ask, spawn::task("ssh-host", keeper.run(asks))),
            )
        };
        let nodes = cluster.nodes.iter().map(keep).collect();
        Ok(Self {
            cluster_path: cluster.path.clone(),
            job,
            events,
            nodes,
        })
    }

    /// Opens all nodes' hosts ahead of need.
    pub fn open_all(&self) -> BTreeMap<NodeName, Opening> {
        let open = self.nodes.iter().map(|(name, (ask, _))| {
            let (tell, opening) = oneshot::channel();
            let _ = ask.try_send(HostRequest::Open(tell));
            (name.clone(), opening)
        });
        open.collect()
    }
}

/// `--cluster` and `--node` are words of their own: that tells whose process it is.
fn host_args(cluster: &Path, node: &NodeName, job: &JobName) -> Vec<String> {
    let (cluster, node, job) = (cluster.display().to_string(), node.to_string(), job.to_string());
    ["--cluster", &cluster, "host", "--node", &node, "--job", &job]
        .map(str::to_owned)
        .to_vec()
}

impl Launcher for Ssh {
    fn launch(&mut self, order: Order) {
        let (task, epoch) = (order.task, order.epoch);
        let why = match self.nodes.get(&order.node) {
            None => format!("node {} is not in the cluster file", order.node),
            Some((ask, _)) => {
                let node = order.node.clone();
                match ask.try_send(HostRequest::Command(HostCommand::Launch(order))) {
                    Ok(()) => return,
                    Err(TrySendError::Full(_)) => {
                        format!("{REQUESTS} orders wait for the SSH session of node {node} already")
                    }
                    Err(TrySendError::Closed(_)) => {
                        format!("the SSH session of node {node} is not kept any more")
                    }
                }
            }
        };
        // The receiver is gone only when the job is over.
        let _ = self.events.send(ProcessEvent::Failed { task, epoch, why });
    }

    fn stand_by(&mut self, order: StandbyOrder) {
        let node = order.node.clone();
        let word = HostRequest::Command(HostCommand::StandBy(order));
        if self
            .nodes
            .get(&node)
            .is_none_or(|(ask, _)| ask.try_send(word).is_err())
        {
            let why = format!("the SSH session of node {node} takes no orders");
            let _ = self.events.send(ProcessEvent::StandbyEnded { node, why });
        }
    }

    fn kill(&mut self, task: TaskId, epoch: Epoch, node: NodeName, pid: u32) {
        let must = signature(&self.cluster_path, &node, &self.job, task, epoch);
        if let Some((ask, _)) = self.nodes.get(&node) {
            let _ = ask.try_send(HostRequest::Command(HostCommand::Kill {
                task,
                epoch,
                pid,
                must,
            }));
        }
    }

    fn close(self: Box<Self>) -> Closing {
        Box::pin(async move {
            let closing = self.nodes.into_iter().map(|(name, (ask, kept))| {
                drop(ask);
                (name, kept)
            });
            // All close at the same time, each within its own bounds; this is for what was being opened meanwhile.
            let by = clock::now() + CLOSE_WITHIN + Duration::from_secs(1);
            for (name, mut kept) in closing.collect::<Vec<_>>() {
                let left = by.since(clock::now());
                if tokio::time::timeout(left, &mut kept).await.is_err() {
                    tracing::warn!(node = %name, "SSH_CLOSE_FAILED");
                    kept.abort();
                }
            }
        })
    }
}

/// Keeps one node's host: opens it when it is needed and there is none, and tells what becomes of its workers.
struct Keeper {
    remote: Remote,
    program: PathBuf,
    args: Vec<String>,
    secret: Secret,
    events: ProcessEvents,
}

/// A host that runs.
struct Host {
    child: Child<Arc<Session>>,
    stdin: ChildStdin,
    said: mpsc::Receiver<HostReply>,
    last: Arc<LastLines>,
    /// What was launched through it and has not ended.
    running: BTreeSet<(TaskId, Epoch)>,
    _readers: [spawn::Guard; 2],
}

impl Keeper {
    async fn run(self, mut asks: mpsc::Receiver<HostRequest>) -> Result<(), std::convert::Infallible> {
        let mut host: Option<Host> = None;
        loop {
            let said = async {
                match &mut host {
                    Some(host) => host.said.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                said = said => match (said, host.take()) {
                    (Some(said), Some(mut live)) => {
                        self.said(&mut live, said);
                        host = Some(live);
                    }
                    (None, Some(dead)) => self.lost(dead, "it ended").await,
                    (_, None) => {}
                },
                ask = asks.recv() => {
                    let Some(ask) = ask else { break };
                    if host.is_none() {
                        match self.open().await {
                            Ok(opened) => host = Some(opened),
                            Err(error) => {
                                self.refuse(ask, &error);
                                // What was asked meanwhile need not wait as long again.
                                while let Ok(ask) = asks.try_recv() {
                                    self.refuse(ask, &error);
                                }
                                continue;
                            }
                        }
                    }
                    if let Some(mut live) = host.take() {
                        match self.pass_on(&mut live, ask).await {
                            Ok(()) => host = Some(live),
                            Err(error) => self.lost(live, &format!("it takes no orders: {error}")).await,
                        }
                    }
                }
            }
        }
        if let Some(Host {
            child,
            stdin,
            mut said,
            ..
        }) = host
        {
            drop(stdin);
            let end = async { while said.recv().await.is_some() {} };
            if tokio::time::timeout(CLOSE_WITHIN, end).await.is_err() {
                tracing::warn!(node = %self.remote.node().name, "HOST_CLOSE_FAILED");
            }
            drop(child);
        }
        self.remote.close().await;
        Ok(())
    }

    /// Starts the host, gives it the secret, and waits until it answers.
    async fn open(&self) -> Result<Host, Unreachable> {
        let program = self.program.display().to_string();
        let words: Vec<String> = std::iter::once(program)
            .chain(self.args.iter().cloned())
            .collect();
        let channel = self.remote.run(&words).await?;
        let last = Arc::new(LastLines::default());
        let greeted = tokio::time::timeout(ANSWER_WITHIN, self.greet(channel, last.clone())).await;
        let greeted = greeted.unwrap_or_else(|_| {
            let why = format!(
                "workers' host did not answer within {} s",
                ANSWER_WITHIN.as_secs()
            );
            Err(self.no_host(why, &last))
        });
        if greeted.is_err() {
            self.remote.forget().await;
        }
        greeted
    }

    async fn greet(&self, channel: Channel, last: Arc<LastLines>) -> Result<Host, Unreachable> {
        let Channel {
            child,
            mut stdin,
            mut stdout,
            stderr,
        } = channel;
        let (tell, mut said) = mpsc::channel(REPLIES);
        let lines = last.clone();
        let stderr = spawn::guarded("host-stderr", async move {
            lines.fill(stderr).await;
            Ok::<(), std::io::Error>(())
        });
        let lines = last.clone();
        let stdout = spawn::guarded("host-stdout", async move {
            while let Some(text) = host::line(&mut stdout).await? {
                match host::parse(&text) {
                    Some(said) => drop(tell.send(said).await),
                    // It may be the reason why nothing else comes.
                    None => lines.push(text.as_bytes()),
                }
            }
            Ok::<(), std::io::Error>(())
        });
        // One that has ended already is heard of below.
        let _ = host::write(&mut stdin, format!("{}\n", self.secret.to_hex()).as_bytes()).await;
        if said.recv().await == Some(HostReply::Ready) {
            return Ok(Host {
                child,
                stdin,
                said,
                last,
                running: BTreeSet::new(),
                _readers: [stdout, stderr],
            });
        }
        let why = reason(child).await;
        // Its last words may be on their way.
        let _ = tokio::time::timeout(DRAIN, async {
            while !stderr.is_finished() {
                tokio::time::sleep(DRAIN / 20).await;
            }
        })
        .await;
        Err(self.no_host(format!("workers' host ended at once: {why}"), &last))
    }

    fn no_host(&self, why: String, last: &LastLines) -> Unreachable {
        let command = shell_words::join([&self.program.display().to_string(), "--version"]);
        self.remote.unreachable(with_last(why, last), &command)
    }

    async fn pass_on(&self, host: &mut Host, ask: HostRequest) -> std::io::Result<()> {
        match ask {
            HostRequest::Open(tell) => {
                // Who asked may have given up.
                let _ = tell.send(Ok(()));
                Ok(())
            }
            HostRequest::Command(word) => {
                if let HostCommand::Launch(order) = &word {
                    host.running.insert((order.task, order.epoch));
                }
                host::say(&mut host.stdin, &word).await
            }
        }
    }

    fn refuse(&self, ask: HostRequest, error: &Unreachable) {
        match ask {
            HostRequest::Open(tell) => drop(tell.send(Err(error.clone()))),
            HostRequest::Command(HostCommand::Launch(Order { task, epoch, .. })) => {
                let why = error.to_string();
                let _ = self.events.send(ProcessEvent::Failed { task, epoch, why });
            }
            HostRequest::Command(HostCommand::StandBy(StandbyOrder { node, .. })) => {
                let why = error.to_string();
                let _ = self.events.send(ProcessEvent::StandbyEnded { node, why });
            }
            HostRequest::Command(HostCommand::Kill { task, epoch, pid, .. }) => {
                tracing::info!(%task, %epoch, node = %error.node, pid, why = %error, "TASK_KILL_FAILED");
            }
            // A leader kills its own processes only.
            HostRequest::Command(HostCommand::KillProcess { .. }) => {}
        }
    }

    fn said(&self, host: &mut Host, said: HostReply) {
        match said {
            HostReply::Ready | HostReply::KilledProcess { .. } => {}
            HostReply::Event(event) => {
                if let Some(worker) = event.worker() {
                    host.running.remove(&worker);
                }
                let _ = self.events.send(event);
            }
            HostReply::Killed {
                task,
                epoch,
                pid,
                failed,
            } => {
                let node = &self.remote.node().name;
                match failed {
                    None => tracing::info!(%task, %epoch, %node, pid, "TASK_KILL"),
                    Some(why) => tracing::info!(%task, %epoch, %node, pid, why, "TASK_KILL_FAILED"),
                }
            }
        }
    }

    /// Its workers may live on or not. The next launch opens a new one, with a new connection.
    async fn lost(&self, host: Host, how: &str) {
        let node = &self.remote.node().name;
        let Host {
            child,
            mut said,
            last,
            running,
            ..
        } = host;
        let why = reason(child).await;
        let why = with_last(
            format!("the SSH session on node {node} was lost: {how} ({why})"),
            &last,
        );
        tracing::warn!(node = %node, workers = running.len(), why, "HOST_LOST");
        let mut left = running;
        // Told before it was lost.
        while let Ok(last_said) = said.try_recv() {
            if let HostReply::Event(event) = last_said {
                if let Some(worker) = event.worker() {
                    left.remove(&worker);
                }
                let _ = self.events.send(event);
            }
        }
        for (task, epoch) in left {
            let _ = self.events.send(ProcessEvent::Exited {
                task,
                epoch,
                exit: Exit::Unknown(why.clone()),
                stderr: vec![],
            });
        }
        self.remote.forget().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing listens at port 1.
    #[tokio::test]
    async fn launches_on_a_node_without_ssh_fail_with_what_to_try() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "x".repeat(32)).unwrap();
        let text =
            "secret_file = \"secret\"\n[ssh]\nport = 1\n[[node]]\nname = \"n1\"\naddr = \"127.0.0.1\"\n";
        let cluster = Cluster::parse(&dir.path().join("c.toml"), text).unwrap();
        let (events, mut heard) = mpsc::unbounded_channel();
        let secret = Secret::from_text(b"a secret of some length");
        let job = JobName::new("j").unwrap();
        let mut ssh = Ssh::new(&cluster, job, secret, dir.path(), events).unwrap();
        for (node, hint) in [
            ("n1", "try by hand: ssh -p 1 127.0.0.1 true"),
            ("n2", "not in the cluster"),
        ] {
            ssh.launch(Order {
                task: TaskId::new(0, 0),
                epoch: Epoch(1),
                node: NodeName::new(node).unwrap(),
                program: "worker".into(),
                args: vec![],
                data: dir.path().to_owned(),
            });
            let told = tokio::time::timeout(Duration::from_secs(20), heard.recv()).await;
            let Some(ProcessEvent::Failed { why, .. }) = told.expect("in time") else {
                panic!()
            };
            assert!(why.contains(hint), "{why}");
        }
        let opening = ssh.open_all().into_values().next().unwrap();
        assert_eq!(opening.await.unwrap().unwrap_err().node.as_str(), "n1");
        Box::new(ssh).close().await;
    }
}
