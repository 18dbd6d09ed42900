//! A job that is led elsewhere: this process plans it and ships its executables; what is stored then is taken up by a leader on
//! that node, as `--resume` does.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use common::cluster::Node;
use common::ids::{JobName, NodeName};
use common::ssh::Folder;
use tokio::process::Command;

use super::{Base, own_folder};
use crate::cli::{LauncherKind, On};
use crate::driver::error::Error;
use api::find::ask_all;
use api::wire::Request;
use job::journal;
use job::standby::JournalFacts;
use launcher::remote::{Finished, Remote};

/// A leader is under way within seconds; login shells may take their time.
const WITHIN: Duration = Duration::from_secs(60);

/// The node that is to lead the job; of `alive` ones, in the cluster file's order.
pub(super) async fn choose(base: &Base, on: &On, alive: &[NodeName]) -> Result<Node, Error> {
    let name = match on {
        On::Node(name) => {
            let node = base.cluster.node(name)?;
            if !alive.contains(&node.name) {
                return Err(Error::Cannot(format!(
                    "node {name} is not alive, as memberd of node {} sees it; name another, or let --on any choose",
                    base.node.name
                )));
            }
            node.name.clone()
        }
        On::Any => {
            let rows = ask_all(&base.cluster, &base.me, Request::List).await.tasks();
            let mut tasks: BTreeMap<NodeName, usize> = BTreeMap::new();
            for row in rows.into_iter().filter(|row| row.pid.is_some()) {
                *tasks.entry(row.node).or_default() += 1;
            }
            most_room(alive, &tasks).ok_or_else(|| Error::Cannot("no node is alive".into()))?
        }
    };
    Ok(base.cluster.node(name.as_str())?.clone())
}

/// The one with the fewest tasks; of several the first.
fn most_room(alive: &[NodeName], tasks: &BTreeMap<NodeName, usize>) -> Option<NodeName> {
    let room = |node: &&NodeName| tasks.get(*node).copied().unwrap_or(0);
    alive.iter().min_by_key(room).cloned()
}

/// Has a leader on that node take the job up, and waits until the job is under way.
pub(super) async fn start(base: &Base, job: &JobName, node: &Node) -> Result<(), Error> {
    let own = own_folder()?;
    let program = node.bin.as_deref().unwrap_or(&own).join("leader");
    let cluster = base.cluster.path.display().to_string();
    let words = [
        &program.display().to_string(),
        "--cluster",
        &cluster,
        "--node",
        node.name.as_str(),
        "--launcher",
        base.request.launcher.name(),
        "--detach",
        "--resume",
        job.as_str(),
    ]
    .map(str::to_owned);
    let ended = match base.request.launcher {
        LauncherKind::Ssh => {
            let folder = Folder::new().map_err(|source| Error::Io {
                what: "cannot make a folder for SSH's sockets".into(),
                source,
            })?;
            let remote = Remote::new(node.clone(), Arc::new(folder));
            let ended = remote.output(&words, WITHIN).await;
            remote.close().await;
            ended?
        }
        LauncherKind::Local => here(&words).await?,
    };
    if ended.ok || is_led(base, job).await {
        return Ok(());
    }
    Err(Error::Cannot(format!(
        "the leader on node {} did not start: {}{}",
        node.name,
        ended.how,
        match ended.stderr.trim() {
            "" => String::new(),
            said => format!("; it said: {said}"),
        }
    )))
}

async fn here(words: &[String]) -> Result<Finished, Error> {
    let run = Command::new(&words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let io = |source| Error::Io {
        what: format!("cannot start {}", words[0]),
        source,
    };
    let late = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
    let output = tokio::time::timeout(WITHIN, run)
        .await
        .map_err(late)
        .and_then(|ended| ended)
        .map_err(io)?;
    Ok(Finished {
        ok: output.status.success(),
        how: output.status.to_string(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Whatever became of its first words: somebody has taken the job up.
async fn is_led(base: &Base, job: &JobName) -> bool {
    let records = journal::read(&base.client, job).await.unwrap_or_default();
    JournalFacts::of(&records).leader.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_with_the_fewest_tasks_has_most_room() {
        let nodes: Vec<NodeName> = ["n1", "n2", "n3"].map(|n| NodeName::new(n).unwrap()).into();
        let tasks = |of: &[(usize, usize)]| of.iter().map(|(i, n)| (nodes[*i].clone(), *n)).collect();
        assert_eq!(most_room(&nodes, &tasks(&[])), Some(nodes[0].clone()));
        assert_eq!(
            most_room(&nodes, &tasks(&[(0, 2), (1, 1), (2, 1)])),
            Some(nodes[1].clone())
        );
        assert_eq!(
            most_room(&nodes[..2], &tasks(&[(0, 2), (1, 3)])),
            Some(nodes[0].clone())
        );
        assert_eq!(most_room(&[], &tasks(&[])), None);
    }
}
