//! The newest events of all machines, from the ends of their logs. Each node's console reads its own; the others ask it through
//! its memberd.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use common::spawn;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};

use super::Place;

/// Where a node's own are.
pub const HERE: &str = "/api/events/here";
/// So much of each log's end is read.
const TAIL: u64 = 64 * 1024;
/// Events of one node, and of all.
const OF_NODE: usize = 100;
const OF_ALL: usize = 300;
/// The longest line that is shown whole.
const LINE: usize = 2000;
/// Nodes asked at a time, and how long for each.
const AT_ONCE: usize = 16;
const WITHIN: Duration = Duration::from_secs(5);
/// Too many, and on jobs' pages.
const LEFT_OUT: [&str; 1] = ["RATE"];

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct LogEvent {
    at: String,
    #[serde(default)]
    node: String,
    log: String,
    level: String,
    event: String,
    text: String,
}

/// The newest of this node's logs, the oldest first.
pub fn here(folder: &Path) -> Value {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let logs = entries.filter(|entry| {
        entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "log")
    });
    let mut events = vec![];
    for entry in logs {
        let name = entry.file_name().to_string_lossy().into_owned();
        let tail = tail(&entry.path()).unwrap_or_default();
        events.extend(tail.lines().filter_map(|line| parse(&name, line)));
    }
    json!(newest(events, OF_NODE))
}

fn newest(mut events: Vec<LogEvent>, most: usize) -> Vec<LogEvent> {
    // By time, which is the first field.
    events.sort();
    let older = events.len().saturating_sub(most);
    events.drain(..older);
    events
}

/// Whole lines at a log's end.
fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    let from = len.saturating_sub(TAIL);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = vec![];
    file.take(TAIL).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Ok(match (from, text.split_once('\n')) {
        (0, _) | (_, None) => text,
        (_, Some((_, whole))) => whole.to_owned(),
    })
}

/// `2026-11-21T05:40:00.123456Z INFO TASK_START job=j task=s1t0`; `None`: it is no such line.
fn parse(log: &str, line: &str) -> Option<LogEvent> {
    let (at, rest) = line.split_once(' ')?;
    let (level, rest) = rest.split_once(' ')?;
    let (event, text) = rest.split_once(' ').unwrap_or((rest, ""));
    let is_time = at.len() == 27 && at.ends_with('Z') && at.as_bytes()[10] == b'T';
    if !is_time || LEFT_OUT.contains(&event) {
        return None;
    }
    Some(LogEvent {
        at: at.into(),
        node: String::new(),
        log: log.into(),
        level: level.into(),
        event: event.into(),
        text: text.chars().take(LINE).collect(),
    })
}

/// Those of all nodes, and who did not say.
pub async fn all(place: &Place) -> Value {
    let nodes = &place.cluster.nodes;
    let (tell, mut heard) = mpsc::channel(nodes.len().max(1));
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let guards: Vec<_> = nodes
        .iter()
        .map(|node| {
            let (place, node, tell, room) = (place.clone(), node.name.clone(), tell.clone(), room.clone());
            spawn::guarded("events", async move {
                let _turn = room.acquire().await;
                let asked = memberd::client::console(&place.cluster, &place.me, &node, HERE);
                let said = match tokio::time::timeout(WITHIN, asked).await {
                    Ok(Ok(said)) if said.status == 200 => {
                        serde_json::from_slice::<Vec<LogEvent>>(&said.body).map_err(|e| e.to_string())
                    }
                    Ok(Ok(said)) => Err(format!("it answers with status {}", said.status)),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err("it does not answer".into()),
                };
                let _ = tell.send((node, said)).await;
                Ok::<(), std::convert::Infallible>(())
            })
        })
        .collect();
    drop(tell);
    let (mut events, mut silent) = (vec![], vec![]);
    while let Some((node, said)) = heard.recv().await {
        match said {
            Ok(some) => events.extend(some.into_iter().map(|event| LogEvent {
                node: node.to_string(),
                ..event
            })),
            Err(why) => silent.push(json!({ "node": node.as_str(), "error": why })),
        }
    }
    drop(guards);
    json!({ "events": newest(events, OF_ALL), "silent": silent })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_of_all_logs_are_told_by_time() {
        let dir = tempfile::tempdir().unwrap();
        let line = |second: u32, rest: &str| format!("2026-11-21T05:40:{second:02}.000000Z {rest}\n");
        let worker = line(1, "INFO TASK_START job=j")
            + &line(2, "INFO RATE job=j")
            + "garbage\n\n"
            + &line(5, "WARN FULL");
        std::fs::write(dir.path().join("worker.log"), worker).unwrap();
        std::fs::write(dir.path().join("leader.log"), line(3, "ERROR BROKEN why=\"a b\"")).unwrap();
        std::fs::write(dir.path().join("leader.log.1"), line(4, "INFO OLD")).unwrap();
        let told: Vec<LogEvent> = serde_json::from_value(here(dir.path())).unwrap();
        let told: Vec<(&str, &str, &str)> = told
            .iter()
            .map(|e| (e.log.as_str(), e.event.as_str(), e.text.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                ("worker.log", "TASK_START", "job=j"),
                ("leader.log", "BROKEN", "why=\"a b\""),
                ("worker.log", "FULL", "")
            ]
        );
    }

    #[test]
    fn of_a_long_log_the_end_is_read_from_a_whole_line_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let lines: String = (0..2000)
            .map(|n| format!("2026-11-21T05:40:00.{n:06}Z INFO E{n} {}\n", "x".repeat(60)))
            .collect();
        std::fs::write(&path, &lines).unwrap();
        let end = tail(&path).unwrap();
        assert!(end.len() <= TAIL as usize && lines.ends_with(&end) && end.starts_with("2026"));
        assert_eq!(here(dir.path()).as_array().unwrap().len(), OF_NODE);
        assert_eq!(here(dir.path())[OF_NODE - 1]["event"], "E1999");
    }
}
