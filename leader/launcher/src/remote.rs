//! The one SSH connection to a node, which carries all sessions there.

use std::sync::Arc;
use std::time::Duration;

use common::cluster::Node;
use common::ids::NodeName;
use common::ssh::{Folder, Marker, Silent, quoted};
use openssh::{
    Child, ChildStderr, ChildStdin, ChildStdout, ControlPersist, KnownHosts, Session, SessionBuilder, Stdio,
};
use tokio::io::{AsyncReadExt, BufReader};
use tokio::sync::Mutex;

use super::chain;

const CONNECT_WITHIN: Duration = Duration::from_secs(8);
/// Until a command's own words begin: login shells that read much before are not in a hurry.
const BEGIN_WITHIN: Duration = Duration::from_secs(30);
/// How long the reason of a command's end may take to arrive.
const REASON_WITHIN: Duration = Duration::from_secs(1);
const CLOSE_WITHIN: Duration = Duration::from_millis(500);
/// What is kept of a command's words: more than anybody reads.
const MOST_SAID: u64 = 64 * 1024;
/// A master that nobody uses ends by itself after so many seconds: that is when this program was killed.
const IDLE: usize = 10;

/// Nothing can be started on a node. Says what to try by hand.
#[derive(Debug, Clone, thiserror::Error)]
#[error("SSH to node {node}: {why}; try by hand: {by_hand}")]
pub struct Unreachable {
    pub node: NodeName,
    pub why: String,
    pub by_hand: String,
}

/// The connection to one node. It is made when it is first needed, and again when it was forgotten.
pub struct Remote {
    node: Node,
    /// Where the master's socket is.
    folder: Arc<Folder>,
    open: Mutex<Option<Arc<Session>>>,
}

/// A command that runs on a node; its outputs begin where it does, not with what the login shell says.
pub struct Channel {
    pub child: Child<Arc<Session>>,
    pub stdin: ChildStdin,
    pub stdout: BufReader<ChildStdout>,
    pub stderr: BufReader<ChildStderr>,
}

/// A command that has ended.
#[derive(Debug)]
pub struct Finished {
    /// With exit code 0.
    pub ok: bool,
    /// How, for people.
    pub how: String,
    pub stderr: String,
}

impl Remote {
    pub fn new(node: Node, folder: Arc<Folder>) -> Self {
        Self {
            node,
            folder,
            open: Mutex::new(None),
        }
    }

    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Makes the connection ahead of need.
    pub async fn connect(&self) -> Result<(), Unreachable> {
        self.session().await.map(drop)
    }

    async fn session(&self) -> Result<Arc<Session>, Unreachable> {
        let mut open = self.open.lock().await;
        if let Some(session) = &*open {
            return Ok(session.clone());
        }
        let session = Arc::new(self.dial().await?);
        *open = Some(session.clone());
        Ok(session)
    }

    /// The connection does not work any more: the next use makes a new one. Its master ends with its last session.
    pub(super) async fn forget(&self) {
        *self.open.lock().await = None;
    }

    async fn dial(&self) -> Result<Session, Unreachable> {
        let ssh = &self.node.ssh;
        let mut builder = SessionBuilder::default();
        builder.connect_timeout(Duration::from_secs(5));
        builder.server_alive_interval(Duration::from_secs(5));
        builder.control_directory(self.folder.path());
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
        let plain = |path| {
            let failed = |e| self.unreachable(format!("cannot make a link for ssh: {e}"), "true");
            self.folder.plain(path).map_err(failed)
        };
        if let Some(key) = &ssh.key {
            builder.keyfile(plain(key)?);
        }
        if let Some(file) = &ssh.known_hosts {
            builder.user_known_hosts_file(plain(file)?);
        }
        match tokio::time::timeout(CONNECT_WITHIN, builder.connect_mux(self.node.addr.to_string())).await {
            Ok(Ok(session)) => Ok(session),
            Ok(Err(error)) => Err(self.unreachable(chain(&error), "true")),
            Err(_) => Err(self.unreachable(
                format!("no connection within {} s", CONNECT_WITHIN.as_secs()),
                "true",
            )),
        }
    }

    pub(super) fn unreachable(&self, why: String, command: &str) -> Unreachable {
        Unreachable {
            node: self.node.name.clone(),
            why,
            by_hand: by_hand(&self.node, command),
        }
    }

    /// Starts a command and waits until its own words begin. The connection may be one that has died since: then once more with
    /// a new one.
    pub async fn run(&self, words: &[String]) -> Result<Channel, Unreachable> {
        let began = async {
            let mut again = true;
            loop {
                let session = self.session().await?;
                match self.begin(session, words).await {
                    Ok(channel) => return Ok(channel),
                    Err(Begin::Lost(_)) if std::mem::take(&mut again) => self.forget().await,
                    Err(Begin::Lost(why) | Begin::Silent(why)) => {
                        return Err(self.unreachable(why, "true"));
                    }
                }
            }
        };
        let began = tokio::time::timeout(CONNECT_WITHIN + BEGIN_WITHIN, began).await;
        let began = began.unwrap_or_else(|_| {
            let why = format!(
                "nothing began within {} s; is its login shell slow, or does it wait?",
                BEGIN_WITHIN.as_secs()
            );
            Err(self.unreachable(why, "true"))
        });
        if began.is_err() {
            self.forget().await;
        }
        began
    }

    async fn begin(&self, session: Arc<Session>, words: &[String]) -> Result<Channel, Begin> {
        let marker = Marker::new().map_err(|e| Begin::Silent(e.to_string()))?;
        let marked = marker.command(words.iter().cloned());
        let mut command = session.arc_command(&marked[0]);
        command
            .args(&marked[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().await.map_err(|e| Begin::Lost(chain(&e)))?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin().take(), child.stdout().take(), child.stderr().take())
        else {
            return Err(Begin::Silent("its standard streams are not piped".into()));
        };
        let (mut stdout, mut stderr) = (BufReader::new(stdout), BufReader::new(stderr));
        // Both at once: a shell that cannot go on complaining does not go on at all.
        let (out, err) = tokio::join!(marker.pass(&mut stdout), marker.pass(&mut stderr));
        if let Err(Silent { said }) = out.or(err) {
            let why = reason(child).await;
            return Err(Begin::Silent(match said.is_empty() {
                true => format!("the login shell ended before the command began: {why}"),
                false => format!(
                    "the login shell ended before the command began: {why}; its last words: {}",
                    said.join(" | ")
                ),
            }));
        }
        Ok(Channel {
            child,
            stdin,
            stdout,
            stderr,
        })
    }

    /// Runs a command to its end, with an empty standard input. What it says on standard error is kept, in part.
    pub async fn output(&self, words: &[String], within: Duration) -> Result<Finished, Unreachable> {
        let Channel {
            child,
            stdin,
            stdout,
            stderr,
        } = self.run(words).await?;
        drop(stdin);
        let said = async {
            let (mut stdout, mut stderr) = (stdout.take(MOST_SAID), stderr.take(MOST_SAID));
            let (mut out, mut err) = (vec![], vec![]);
            let _ = tokio::join!(stdout.read_to_end(&mut out), stderr.read_to_end(&mut err));
            String::from_utf8_lossy(&err).into_owned()
        };
        let Ok(stderr) = tokio::time::timeout(within, said).await else {
            let why = format!("it did not end within {} s", within.as_secs());
            return Err(self.unreachable(why, &shell_words::join(words)));
        };
        let (ok, how) = match tokio::time::timeout(REASON_WITHIN, child.wait()).await {
            Ok(Ok(status)) => (status.success(), status.to_string()),
            Ok(Err(error)) => (false, chain(&error)),
            Err(_) => (false, "no exit code".into()),
        };
        Ok(Finished { ok, how, stderr })
    }

    /// Closes the connection: the master ends once no session is left.
    pub async fn close(&self) {
        let close = async {
            if let Some(session) = self.open.lock().await.take()
                && let Ok(session) = Arc::try_unwrap(session)
            {
                session.close().await
            } else {
                Ok(())
            }
        };
        if !matches!(tokio::time::timeout(CLOSE_WITHIN, close).await, Ok(Ok(()))) {
            // A master whose node is gone has ended already, or will for lack of use.
            tracing::info!(node = %self.node.name, "SSH_CLOSE_FAILED");
        }
    }
}

/// Why a command did not begin.
enum Begin {
    /// Perhaps the connection's fault.
    Lost(String),
    Silent(String),
}

/// Why a command ended.
pub(super) async fn reason(child: Child<Arc<Session>>) -> String {
    match tokio::time::timeout(REASON_WITHIN, child.wait()).await {
        Ok(Ok(status)) => status.to_string(),
        Ok(Err(error)) => chain(&error),
        Err(_) => "no exit code".into(),
    }
}

/// The command that a person may type to see why.
fn by_hand(node: &Node, command: &str) -> String {
    let mut words = vec!["ssh".to_owned()];
    if let Some(port) = node.ssh.port {
        words.extend(["-p".into(), port.to_string()]);
    }
    if let Some(key) = &node.ssh.key {
        words.extend([
            "-o".into(),
            "IdentitiesOnly=yes".into(),
            "-i".into(),
            key.display().to_string().replace('%', "%%"),
        ]);
    }
    if let Some(file) = &node.ssh.known_hosts {
        words.extend(["-o".into(), format!("UserKnownHostsFile={}", quoted(file))]);
    }
    let host = node
        .ssh
        .user
        .as_ref()
        .map_or(node.addr.to_string(), |user| format!("{user}@{}", node.addr));
    words.extend([host, command.to_owned()]);
    shell_words::join(words)
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
        let error = Remote::new(node(), Arc::new(Folder::new().unwrap()))
            .connect()
            .await
            .unwrap_err()
            .to_string();
        let hint = "ssh -p 1 -o 'IdentitiesOnly=yes' -i '/k y' -o 'UserKnownHostsFile=/kh' u@127.0.0.1 true";
        assert!(error.contains("node n1") && error.contains(hint), "{error}");
    }
}
