//! Killing a worker of another node: its host does it.

use std::path::Path;
use std::time::Duration;

use common::cluster::Node;
use common::secret::Secret;
use tokio::io::AsyncBufRead;

use super::host::{self, HostCommand, HostReply};
use super::remote::{Channel, Remote, reason};
use super::{DRAIN, LastLines, with_last};

/// A host answers as soon as it is there.
const WITHIN: Duration = Duration::from_secs(8);

/// Has the node's host kill process `pid` if it is a worker whose command line holds `must`; returns that line. `own`: where this machine's programs are.
pub async fn kill_over_ssh(
    remote: &Remote,
    cluster: &Path,
    secret: &Secret,
    own: &Path,
    pid: u32,
    must: &str,
) -> Result<String, String> {
    let words = host_words(remote.node(), cluster, own);
    let Channel {
        child,
        mut stdin,
        mut stdout,
        stderr,
    } = remote.run(&words).await.map_err(|e| e.to_string())?;
    let asked = async {
        let must = must.to_owned();
        host::write(&mut stdin, format!("{}\n", secret.to_hex()).as_bytes()).await?;
        host::say(&mut stdin, &HostCommand::KillProcess { pid, must }).await?;
        answer(&mut stdout).await
    };
    let answered = tokio::time::timeout(WITHIN, asked).await;
    let answered = answered.map_err(|_| "its host did not answer in time".to_owned())?;
    drop(stdin);
    match answered {
        Ok(Some(killed)) => killed,
        // It may not be installed there.
        ended => {
            let why = match ended {
                Err(error) => error.to_string(),
                _ => reason(child).await,
            };
            let last = LastLines::default();
            let _ = tokio::time::timeout(DRAIN, last.fill(stderr)).await;
            let why = format!("its host, {}, ended without an answer: {why}", words[0]);
            Err(with_last(why, &last))
        }
    }
}

/// Its command line does not pass for a worker's: `host` stands between the cluster and the node.
fn host_words(node: &Node, cluster: &Path, own: &Path) -> Vec<String> {
    let program = super::host_program(node, own).display().to_string();
    let (cluster, node) = (cluster.display().to_string(), node.name.to_string());
    [&program, "--cluster", &cluster, "host", "--node", &node]
        .map(str::to_owned)
        .to_vec()
}

async fn answer(from: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Option<Result<String, String>>> {
    while let Some(text) = host::line(from).await? {
        if let Some(HostReply::KilledProcess { killed, .. }) = host::parse(&text) {
            return Ok(Some(killed));
        }
    }
    Ok(None)
}
