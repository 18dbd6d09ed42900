//! `kill_task NODE PID`.

use std::path::Path;
use std::sync::Arc;

use common::cluster::Cluster;
use common::net::Identity;
use common::ssh::Folder;
use launcher::kill::kill_worker;
use launcher::remote::Remote;
use launcher::remote_kill::kill_over_ssh;

use crate::outcome::Error;

/// Has the node's host kill a worker of this cluster; what was killed is returned. On a node that is this very machine and has no
/// SSH it is killed from here, in the same way.
pub async fn kill_task(cluster: &Cluster, me: &Identity, node: &str, pid: u32) -> Result<String, Error> {
    let node = cluster.node(node)?;
    let failed = |why: String| Error::Kill {
        node: node.name.to_string(),
        why,
    };
    let must = format!("--cluster {} --node {} --job ", cluster.path.display(), node.name);
    let folder = Folder::new().map_err(|e| failed(e.to_string()))?;
    let remote = Remote::new(node.clone(), Arc::new(folder));
    let exe = std::env::current_exe().map_err(|e| failed(e.to_string()))?;
    let own = exe.parent().unwrap_or(Path::new("/"));
    let killed = match remote.connect().await {
        Ok(()) => kill_over_ssh(&remote, &cluster.path, &me.secret, own, pid, &must).await,
        Err(_) if node.is_here() => kill_worker(pid, &must),
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
