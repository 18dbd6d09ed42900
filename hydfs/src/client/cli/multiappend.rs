//! `multiappend`: one `hydfs append` on each node, over SSH, all let go at the same time.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use common::clock;
use common::cluster::{Cluster, Node};
use common::ids::NodeName;
use common::spawn;
use common::ssh::{Folder, Marker};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::oneshot;

use super::local;
use super::out::Out;
use super::transfer::open;
use crate::client::{Client, Error, MAX_APPEND, check_name};

/// Until an append on a node is connected.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// What a program says before it fails is this long at most.
const COMPLAINT: u64 = 4096;

/// How a process is started on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Launcher {
    Ssh,
    Local,
}

/// How the appends are made.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The files are their nodes' own.
    pub there: bool,
    pub launcher: Launcher,
    /// The file may be one of the system's.
    pub system: bool,
}

/// Nodes and files in pairs.
fn pairs(cluster: &Cluster, words: &[String]) -> Result<Vec<(NodeName, String)>, Error> {
    let node = |word: &String| {
        cluster
            .nodes
            .iter()
            .find(|n| n.name.as_str() == word)
            .map(|n| n.name.clone())
    };
    let all = |words: &[String]| words.iter().map(node).collect::<Option<Vec<NodeName>>>();
    let Some((last, most)) = words.split_last().filter(|(_, most)| !most.is_empty()) else {
        return Err(Error::Usage(
            "multiappend: name nodes, and as many local files".into(),
        ));
    };
    // One file for all; a file that is named like a node comes in pairs only.
    if node(last).is_none()
        && let Some(nodes) = all(most)
    {
        return Ok(nodes.into_iter().map(|n| (n, last.clone())).collect());
    }
    let half = words.len() / 2;
    if words.len().is_multiple_of(2)
        && let Some(nodes) = all(&words[..half])
    {
        return Ok(nodes.into_iter().zip(words[half..].iter().cloned()).collect());
    }
    let have: Vec<&str> = cluster.nodes.iter().map(|n| n.name.as_str()).collect();
    Err(Error::Usage(format!(
        "multiappend: after NAME come nodes ({}), then as many local files, or one for all; not `{}`; such as: hydfs multiappend log n1 n2 one.txt two.txt",
        have.join(", "),
        words.join(" ")
    )))
}

/// An append on a node that waits to be let go.
struct Waiting {
    node: NodeName,
    file: String,
    child: Child,
    /// Comes before its own words.
    marker: Option<Marker>,
    stdout: BufReader<ChildStdout>,
    complaint: oneshot::Receiver<String>,
}

pub async fn run(
    client: &Client,
    name: &str,
    words: Vec<String>,
    options: Options,
    out: &mut Out<'_>,
) -> Result<(), Error> {
    check_name(name)?;
    let cluster = client.cluster().clone();
    let pairs = pairs(&cluster, &words)?;
    let mut contents = Vec::new();
    for (_, file) in &pairs {
        contents.push(match options.there {
            true => None,
            false => Some(content(file).await?),
        });
    }
    client.stat(name).await?;
    let folder = Folder::new().map_err(|e| local(&PathBuf::from("/tmp"), "write to", e))?;
    let mut starting = Vec::new();
    for (node, file) in pairs {
        let from = if options.there { file.as_str() } else { "-" };
        let settings = cluster.node(node.as_str()).map_err(unknown)?;
        let words = words_of(&cluster, settings, options.system, from, name)?;
        let started = match options.launcher {
            Launcher::Local => start(node, file, None, plain(&words)),
            Launcher::Ssh => {
                let marker = Marker::new().map_err(|e| Error::Some(e.to_string()))?;
                let command = over_ssh(settings, &folder, &marker.command(words))?;
                start(node, file, Some(marker), command)
            }
        };
        starting.push(started?);
    }
    let mut waiting = Vec::new();
    let by = clock::now() + READY_WITHIN;
    for mut one in starting {
        let ready = tokio::time::timeout(by.since(clock::now()), ready(&mut one)).await;
        match ready {
            Ok(Ok(())) => waiting.push(one),
            Ok(Err(why)) => return Err(nothing_done(&one.node, &why)),
            Err(_) => return Err(nothing_done(&one.node, "it is not connected in time")),
        }
    }
    // All at once from here on.
    let begun = clock::now();
    let mut tasks = Vec::new();
    for (one, content) in waiting.into_iter().zip(contents) {
        let (tell, done) = oneshot::channel();
        let (node, file) = (one.node.clone(), one.file.clone());
        let task = spawn::guarded("hydfs-multiappend", async move {
            let _ = tell.send(finish(one, content).await);
            Ok::<(), std::convert::Infallible>(())
        });
        tasks.push((node, file, task, done));
    }
    let (total, mut failed, mut unwritten) = (tasks.len(), Vec::new(), Ok(()));
    for (node, file, _task, done) in tasks {
        match done.await {
            Ok(Ok(())) => {
                let ms = clock::now().since(begun).as_secs_f64() * 1000.0;
                // The others are under way all the same.
                if unwritten.is_ok() {
                    let line = format!("{node}\t{file}\tdone by {ms:.1} ms\n");
                    unwritten = out.write(line.as_bytes()).await;
                }
            }
            Ok(Err(why)) => failed.push(format!("{node}: {why}")),
            Err(_) => failed.push(format!("{node}: given up")),
        }
    }
    match failed.is_empty() {
        true => unwritten,
        false => Err(Error::Some(format!(
            "{} of {total} appends failed: {}",
            failed.len(),
            failed.join("; ")
        ))),
    }
}

fn unknown(error: common::cluster::Error) -> Error {
    Error::Usage(error.to_string())
}

fn nothing_done(node: &NodeName, why: &str) -> Error {
    Error::Some(format!("node {node}: {why}; nothing was appended"))
}

async fn content(file: &str) -> Result<Vec<u8>, Error> {
    let path = PathBuf::from(file);
    let (mut from, _) = open(&path).await?;
    let mut read = vec![];
    from.read_to_end(&mut read)
        .await
        .map_err(|e| local(&path, "read", e))?;
    if read.len() > MAX_APPEND {
        let why = format!("it has {} bytes, and one append {MAX_APPEND} at most", read.len());
        return Err(local(&path, "append", std::io::Error::other(why)));
    }
    Ok(read)
}

/// What is to run on a node.
fn words_of(
    cluster: &Cluster,
    node: &Node,
    system: bool,
    from: &str,
    name: &str,
) -> Result<Vec<String>, Error> {
    let own = std::env::current_exe().map_err(|e| local(&PathBuf::from("hydfs"), "find", e))?;
    let folder = node
        .bin
        .clone()
        .or_else(|| own.parent().map(PathBuf::from))
        .unwrap_or_default();
    let program = folder.join("hydfs").display().to_string();
    let path = cluster.path.display().to_string();
    let mut words = vec![
        &program,
        "--cluster",
        &path,
        "--node",
        node.name.as_str(),
        "append",
        "--gate",
    ];
    words.extend(system.then_some("--system"));
    words.extend(["--", from, name]);
    Ok(words.into_iter().map(str::to_owned).collect())
}

fn plain(words: &[String]) -> Command {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

fn over_ssh(node: &Node, folder: &Folder, words: &[String]) -> Result<Command, Error> {
    let plain = |path: &Path| folder.plain(path).map_err(|e| local(path, "link to", e));
    let mut command = Command::new("ssh");
    let ssh = &node.ssh;
    let known = if ssh.known_hosts.is_some() {
        "yes"
    } else {
        "accept-new"
    };
    command.args([
        "-T",
        "-o",
        "BatchMode=yes",
        "-o",
        "ConnectTimeout=5",
        "-o",
        "ServerAliveInterval=5",
    ]);
    command.args([
        "-o",
        &format!("StrictHostKeyChecking={known}"),
        "-o",
        "LogLevel=ERROR",
    ]);
    if let Some(file) = &ssh.known_hosts {
        command.args(["-o", &format!("UserKnownHostsFile={}", plain(file)?.display())]);
    }
    if let Some(key) = &ssh.key {
        command.args(["-o", "IdentitiesOnly=yes", "-i"]).arg(plain(key)?);
    }
    if let Some(user) = &ssh.user {
        command.args(["-l", user]);
    }
    if let Some(port) = ssh.port {
        command.args(["-p", &port.to_string()]);
    }
    command
        .arg("--")
        .arg(node.addr.to_string())
        .arg(shell_words::join(words));
    Ok(command)
}

fn start(
    node: NodeName,
    file: String,
    marker: Option<Marker>,
    mut command: Command,
) -> Result<Waiting, Error> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let program = command.as_std().get_program().to_owned();
    let failed = |why: String| Error::Some(format!("cannot start {}: {why}", program.to_string_lossy()));
    let mut child = command.spawn().map_err(|e| failed(e.to_string()))?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(failed("it has no output".into()));
    };
    let (tell, complaint) = oneshot::channel();
    let of_stderr = marker.clone();
    spawn::task("hydfs-multiappend-stderr", async move {
        let mut stderr = BufReader::new(stderr);
        // Without it, what was said is all that there is.
        let passed = match of_stderr {
            Some(marker) => marker.pass(&mut stderr).await,
            None => Ok(()),
        };
        let _ = tell.send(match passed {
            Ok(()) => last_line(stderr).await,
            Err(silent) => silent.said.last().cloned().unwrap_or_default(),
        });
        Ok::<(), std::convert::Infallible>(())
    });
    Ok(Waiting {
        node,
        file,
        child,
        marker,
        stdout: BufReader::new(stdout),
        complaint,
    })
}

async fn last_line(from: impl AsyncRead + Unpin) -> String {
    let mut text = Vec::new();
    let _ = from.take(COMPLAINT).read_to_end(&mut text).await;
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines()
        .rev()
        .find(|l| !l.trim().is_empty())
        .unwrap_or("")
        .to_owned()
}

async fn ready(one: &mut Waiting) -> Result<(), String> {
    if let Some(marker) = &one.marker
        && marker.pass(&mut one.stdout).await.is_err()
    {
        return Err(why(&mut one.complaint, "its login shell ended before it began").await);
    }
    let mut line = String::new();
    match one.stdout.read_line(&mut line).await {
        Ok(_) if line == "READY\n" => Ok(()),
        _ => Err(why(&mut one.complaint, "it ended before it was ready").await),
    }
}

async fn why(complaint: &mut oneshot::Receiver<String>, otherwise: &str) -> String {
    let said = tokio::time::timeout(Duration::from_secs(2), complaint).await;
    let said = said.ok().and_then(Result::ok).filter(|s| !s.is_empty());
    said.unwrap_or_else(|| otherwise.to_owned())
}

async fn finish(mut one: Waiting, content: Option<Vec<u8>>) -> Result<(), String> {
    if let Some(mut stdin) = one.child.stdin.take() {
        let go = match &content {
            // So that half of it, where this program is ended meanwhile, is known to be half.
            Some(content) => format!("GO {}\n", content.len()),
            None => "GO\n".to_owned(),
        };
        let sent = async {
            stdin.write_all(go.as_bytes()).await?;
            stdin.write_all(&content.unwrap_or_default()).await?;
            stdin.shutdown().await
        };
        // Who does not read says why on its standard error.
        let _ = sent.await;
    }
    match one.child.wait().await {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(why(&mut one.complaint, &format!("it ended with {status}")).await),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_come_first_and_files_are_as_many_or_one() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "x".repeat(32)).unwrap();
        let mut text = "secret_file = \"secret\"\n".to_owned();
        for i in 1..=3 {
            text += &format!("[[node]]\nname = \"n{i}\"\naddr = \"127.0.0.{i}\"\n");
        }
        let cluster = Cluster::parse(&dir.path().join("cluster.toml"), &text).unwrap();
        let paired = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let paired = pairs(&cluster, &words)?;
            Ok::<_, Error>(
                paired
                    .iter()
                    .map(|(n, f)| format!("{n}:{f}"))
                    .collect::<Vec<_>>()
                    .join(" "),
            )
        };
        assert_eq!(paired("n1 n2 a b").unwrap(), "n1:a n2:b");
        assert_eq!(paired("n1 n2 n3 a").unwrap(), "n1:a n2:a n3:a");
        assert_eq!(
            paired("n1 n2 n3 n3").unwrap(),
            "n1:n3 n2:n3",
            "a file may be named like a node"
        );
        assert_eq!(paired("n1 n1 a b").unwrap(), "n1:a n1:b");
        for bad in ["a b", "n1 n2 n3 a b", "n1", "n9 a"] {
            assert!(paired(bad).is_err_and(|e| e.code() == 2), "{bad}");
        }
    }
}
