//! The one SSH connection to a node, which carries all sessions there.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::cluster::Node;
use common::ids::NodeName;
use nix::fcntl::{Flock, FlockArg};
use openssh::{ControlPersist, KnownHosts, Session, SessionBuilder};
use tokio::sync::Mutex;

use super::chain;

pub(super) const CONNECT_WITHIN: Duration = Duration::from_secs(8);
const KILL_WITHIN: Duration = Duration::from_secs(5);
const CLOSE_WITHIN: Duration = Duration::from_millis(500);
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
    sockets: PathBuf,
    open: Mutex<Option<Arc<Session>>>,
}

impl Remote {
    pub fn new(node: Node, sockets: PathBuf) -> Self {
        Self {
            node,
            sockets,
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

    pub(crate) async fn session(&self) -> Result<Arc<Session>, Unreachable> {
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

    /// Kills process `pid` if its command line (words with spaces between) holds `must`; returns that line.
    pub async fn kill(&self, pid: u32, must: &str) -> Result<String, String> {
        let run = async {
            let session = self.session().await.map_err(|e| e.to_string())?;
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
    words.extend([host, command.to_owned()]);
    shell_words::join(words)
}

/// A private folder for sockets; removed with all in it when dropped, and by a later program when this one was killed.
pub struct SocketFolder {
    dir: tempfile::TempDir,
    /// Held as long as this process lives.
    _lock: Flock<File>,
}

const PREFIX: &str = "rs-ssh-";
const LOCK: &str = "lock";

impl SocketFolder {
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    fn make(place: &Path) -> std::io::Result<Self> {
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(place)?;
        // It has its name only when it is locked: nobody takes it for one that was left behind.
        let unnamed = dir.path().join("unlocked");
        let lock = lock(File::create(&unnamed)?)?;
        std::fs::rename(&unnamed, dir.path().join(LOCK))?;
        Ok(Self { dir, _lock: lock })
    }

    /// Removes what programs that were killed have left.
    fn tidy(place: &Path) {
        let Ok(entries) = std::fs::read_dir(place) else {
            return;
        };
        let ours = entries
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().starts_with(PREFIX));
        for entry in ours {
            // Others' are not ours to open, or to remove.
            let left = File::open(entry.path().join(LOCK)).and_then(lock);
            if left.is_ok() {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}

fn lock(file: File) -> std::io::Result<Flock<File>> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno.into())
}

/// Paths of sockets may have about 100 bytes: not below a long TMPDIR.
pub fn socket_folder() -> std::io::Result<SocketFolder> {
    let usual = std::env::temp_dir();
    let place = if usual.as_os_str().len() <= 30 {
        usual
    } else {
        "/tmp".into()
    };
    SocketFolder::tidy(&place);
    SocketFolder::make(&place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Exit;
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

    #[test]
    fn folders_of_killed_programs_are_removed_and_no_others() {
        let place = tempfile::tempdir().unwrap();
        let live = SocketFolder::make(place.path()).unwrap();
        let killed = SocketFolder::make(place.path()).unwrap();
        let left = killed.path().to_owned();
        let SocketFolder { dir, _lock } = killed;
        let _ = dir.keep();
        drop(_lock);
        let strange = place.path().join("rs-ssh-without-a-lock");
        std::fs::create_dir(&strange).unwrap();
        SocketFolder::tidy(place.path());
        assert!(live.path().exists() && strange.exists() && !left.exists());
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
            crate::launcher::local::exit_of(child.wait().await.unwrap()),
            Exit::Killed
        );
        assert!(kill_script(pid, "600 ").await.unwrap_err().contains("no process"));
    }
}
