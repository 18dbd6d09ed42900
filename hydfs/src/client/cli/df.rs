//! `df`: how full the nodes' disks are.

use std::sync::Arc;

use common::ids::NodeName;
use common::size::short;
use common::spawn;
use tokio::sync::{Semaphore, mpsc};

use super::out::Out;
use crate::client::{Client, Error, Level, NodeStatus};

/// Nodes asked at a time.
const AT_ONCE: usize = 16;

/// All nodes of the cluster file, in its order; why one did not answer.
pub async fn all(client: &Client) -> Vec<(NodeName, Result<NodeStatus, Error>)> {
    let nodes: Vec<NodeName> = client
        .cluster()
        .nodes
        .iter()
        .map(|node| node.name.clone())
        .collect();
    let (tell, mut heard) = mpsc::channel(nodes.len().max(1));
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let guards: Vec<_> = nodes
        .into_iter()
        .enumerate()
        .map(|(at, node)| {
            let (client, tell, room) = (client.clone(), tell.clone(), room.clone());
            spawn::guarded("df", async move {
                let _turn = room.acquire().await;
                let status = client.status(&node).await;
                let _ = tell.send((at, node, status)).await;
                Ok::<(), std::convert::Infallible>(())
            })
        })
        .collect();
    drop(tell);
    let mut all = vec![];
    while let Some(answer) = heard.recv().await {
        all.push(answer);
    }
    drop(guards);
    all.sort_by_key(|(at, ..)| *at);
    all.into_iter().map(|(_, node, status)| (node, status)).collect()
}

pub async fn df(client: &Client, json: bool, out: &mut Out<'_>) -> Result<(), Error> {
    let all = all(client).await;
    let text = match json {
        true => format!("{:#}\n", as_json(&all)),
        false => table(&all),
    };
    out.write(text.as_bytes()).await?;
    let silent: Vec<String> = all
        .iter()
        .filter_map(|(node, status)| Some(format!("{node}: {}", status.as_ref().err()?)))
        .collect();
    match silent.is_empty() {
        true => Ok(()),
        false => Err(Error::Some(silent.join("; "))),
    }
}

/// An array; a node that did not answer has its `error` instead of figures.
pub fn as_json(all: &[(NodeName, Result<NodeStatus, Error>)]) -> serde_json::Value {
    let one = |(node, status): &(NodeName, Result<NodeStatus, Error>)| match status {
        Ok(status) => serde_json::json!({
            "node": node.as_str(), "percent": status.disk.percent(),
            "disk": status.disk, "stored": status.stored, "work": status.work,
        }),
        Err(error) => serde_json::json!({ "node": node.as_str(), "error": error.to_string() }),
    };
    serde_json::Value::Array(all.iter().map(one).collect())
}

fn table(all: &[(NodeName, Result<NodeStatus, Error>)]) -> String {
    let head = [
        "NODE", "CAPACITY", "USED", "FREE", "USE%", "FILES", "USERS", "JOBS", "NODE'S", "",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    for (node, status) in all {
        let Ok(NodeStatus { disk, stored, .. }) = status else {
            let no = || "-".to_owned();
            rows.push([
                node.to_string(),
                no(),
                no(),
                no(),
                no(),
                no(),
                no(),
                no(),
                no(),
                "does not answer".into(),
            ]);
            continue;
        };
        rows.push([
            node.to_string(),
            short(disk.capacity),
            short(disk.used),
            short(disk.free),
            format!("{}%", disk.percent()),
            stored.files.to_string(),
            short(stored.users),
            short(stored.logs + stored.snapshots + stored.journals + stored.operators),
            short(stored.operator_copies + stored.program_logs),
            match disk.level {
                Level::Roomy => "",
                Level::Fills => "fills",
                Level::Short => "no new files",
            }
            .into(),
        ]);
    }
    let widths: Vec<usize> = (0..head.len())
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    let line = |row: &[String; 10]| {
        let cells = row.iter().zip(&widths).enumerate();
        let cells = cells.map(|(column, (cell, width))| match column {
            0 | 9 => format!("{cell:width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Disk, Stored};

    #[test]
    fn a_node_is_a_line_whether_it_answers_or_not() {
        let status = NodeStatus {
            disk: Disk {
                capacity: 100_000_000_000,
                used: 90_000_000_000,
                free: 10_000_000_000,
                level: Level::Fills,
            },
            stored: Stored {
                files: 3,
                users: 1_500_000,
                logs: 1000,
                journals: 1000,
                ..Stored::default()
            },
            ..NodeStatus::default()
        };
        let node = |name: &str| NodeName::new(name).unwrap();
        let lost = Error::Net {
            node: node("n10"),
            why: "boom".into(),
        };
        let all = [(node("n1"), Ok(status)), (node("n10"), Err(lost))];
        let wanted = "\
NODE  CAPACITY   USED   FREE  USE%  FILES   USERS    JOBS  NODE'S
n1      100 GB  90 GB  10 GB   90%      3  1.5 MB  2.0 kB     0 B  fills
n10          -      -      -     -      -       -       -       -  does not answer
";
        assert_eq!(table(&all), wanted);
        let json = as_json(&all);
        assert_eq!(
            (&json[0]["percent"], &json[0]["disk"]["level"]),
            (&90.into(), &"fills".into())
        );
        assert!(json[1]["error"].as_str().unwrap().contains("boom"));
    }
}
