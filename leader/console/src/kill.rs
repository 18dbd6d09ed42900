//! `kill_task NODE PID`.

use std::net::UdpSocket;
use std::sync::Arc;

use common::cluster::{Cluster, Node};
use common::ssh::Folder;

use super::Error;
use launcher::remote::{KILL, Remote, kill_outcome};

/// Kills a worker of this cluster over SSH; what was killed is returned. On a node that is this very machine and has no
/// SSH it is killed directly.
pub async fn kill_task(cluster: &Cluster, node: &str, pid: u32) -> Result<String, Error> {
    let node = cluster.node(node)?;
    let failed = |why: String| Error::Kill {
        node: node.name.to_string(),
        why,
    };
    let must = format!("--cluster {} --node {} --job ", cluster.path.display(), node.name);
    let folder = Folder::new().map_err(|e| failed(e.to_string()))?;
    let remote = Remote::new(node.clone(), Arc::new(folder));
    let killed = match remote.connect().await {
        Ok(()) => remote.kill(pid, &must).await,
        Err(_) if is_here(node) => directly(pid, &must).await,
        Err(unreachable) => Err(unreachable.to_string()),
    };
    remote.close().await;
    let line = killed.map_err(failed)?;
    let value = |flag: &str| {
        line.split(' ')
            .skip_while(|w| *w != flag)
            .nth(1)
            .unwrap_or("?")
            .to_owned()
    };
    Ok(format!(
        "killed {} (job {}, epoch {}), process {pid} on {}",
        value("--task-id"),
        value("--job"),
        value("--epoch"),
        node.name
    ))
}

fn is_here(node: &Node) -> bool {
    UdpSocket::bind((node.addr, 0)).is_ok()
}

async fn directly(pid: u32, must: &str) -> Result<String, String> {
    let output = tokio::process::Command::new("sh")
        .args(["-c", KILL, "sh", &pid.to_string(), must])
        .output()
        .await;
    let output = output.map_err(|e| e.to_string())?;
    let line = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    kill_outcome(
        output.status.code(),
        pid,
        line,
        String::from_utf8_lossy(&output.stderr).trim(),
    )
}
