//! `multiappend`: one `hydfs append` on each node, over SSH, all let go at the same time.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use common::clock;
use common::cluster::{Cluster, Node};
use common::ids::NodeName;
use common::spawn;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::oneshot;

use super::{local, write};
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
    stdout: BufReader<ChildStdout>,
    complaint: oneshot::Receiver<String>,
}

pub async fn run<W: AsyncWrite + Unpin>(
    client: &Client,
    name: &str,
    words: Vec<String>,
    there: bool,
    launcher: Launcher,
    out: &mut W,
) -> Result<(), Error> {
    check_name(name)?;
    let cluster = client.cluster().clone();
    let pairs = pairs(&cluster, &words)?;
    let mut contents = Vec::new();
    for (_, file) in &pairs {
        contents.push(match there {
            true => vec![],
            false => content(file).await?,
        });
    }
    client.stat(name).await?;
    let mut starting = Vec::new();
    for (node, file) in pairs {
        let from = if there { file.as_str() } else { "-" };
        let command = command(
            &cluster,
            cluster.node(node.as_str()).map_err(unknown)?,
            launcher,
            from,
            name,
        )?;
        starting.push(start(node, file, command)?);
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
    let (total, mut failed) = (tasks.len(), Vec::new());
    for (node, file, _task, done) in tasks {
        match done.await {
            Ok(Ok(())) => {
                let ms = clock::now().since(begun).as_secs_f64() * 1000.0;
                write(out, format!("{node}\t{file}\tdone by {ms:.1} ms\n").as_bytes()).await?;
            }
            Ok(Err(why)) => failed.push(format!("{node}: {why}")),
            Err(_) => failed.push(format!("{node}: given up")),
        }
    }
    match failed.is_empty() {
        true => Ok(()),
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
    let read = tokio::fs::read(&path)
        .await
        .map_err(|e| local(&path, "read", e))?;
    if read.len() > MAX_APPEND {
        let why = format!("it has {} bytes, and one append {MAX_APPEND} at most", read.len());
        return Err(local(&path, "append", std::io::Error::other(why)));
    }
    Ok(read)
}

fn command(cluster: &Cluster, node: &Node, how: Launcher, from: &str, name: &str) -> Result<Command, Error> {
    let own = std::env::current_exe().map_err(|e| local(&PathBuf::from("hydfs"), "find", e))?;
    let folder = node
        .bin
        .clone()
        .or_else(|| own.parent().map(PathBuf::from))
        .unwrap_or_default();
    let program = folder.join("hydfs").display().to_string();
    let words = [
        &program,
        "--cluster",
        &cluster.path.display().to_string(),
        "--node",
        node.name.as_str(),
        "append",
        "--gate",
        "--",
        from,
        name,
    ]
    .map(str::to_owned);
    if how == Launcher::Local {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        return Ok(command);
    }
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
        command.args(["-o", &format!("UserKnownHostsFile=\"{}\"", file.display())]);
    }
    if let Some(key) = &ssh.key {
        command.args(["-o", "IdentitiesOnly=yes", "-i"]).arg(key);
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

fn start(node: NodeName, file: String, mut command: Command) -> Result<Waiting, Error> {
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
    spawn::task("hydfs-multiappend-stderr", async move {
        let _ = tell.send(last_line(stderr).await);
        Ok::<(), std::convert::Infallible>(())
    });
    Ok(Waiting {
        node,
        file,
        child,
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

async fn finish(mut one: Waiting, content: Vec<u8>) -> Result<(), String> {
    if let Some(mut stdin) = one.child.stdin.take() {
        let sent = async {
            stdin.write_all(b"GO\n").await?;
            stdin.write_all(&content).await?;
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
