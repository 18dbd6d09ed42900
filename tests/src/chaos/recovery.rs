//! What the logs say of one run: read from where they ended when it began.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;

use crate::Cluster;

const LOGS: [&str; 4] = ["leader.log", "worker.log", "hydfsd.log", "memberd.log"];
const DAY_US: u64 = 86_400_000_000;

/// The nodes' logs from one moment on.
pub struct LogTail {
    /// Node, log, file, where it ended.
    files: Vec<(String, &'static str, PathBuf, u64)>,
}

/// One line of the leaders' and workers' logs that tells of the job.
#[derive(Debug, Clone)]
pub struct Event {
    /// Microseconds within the day (UTC).
    pub at: u64,
    pub leader: bool,
    pub word: String,
    pub fields: BTreeMap<String, String>,
}

/// A process that was killed (or stopped), and when.
#[derive(Debug, Clone)]
pub struct Hit {
    pub task: String,
    pub pid: i32,
    pub epoch: u64,
    pub at: u64,
    /// Bytes of output that had been printed by then.
    pub printed: u64,
}

/// Microseconds within the day, as in the logs.
#[allow(clippy::disallowed_methods)] // tests measure real time
pub fn time_of_day() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_micros() as u64 % DAY_US
}

/// From `a` to `b`, around midnight too.
pub fn between(a: u64, b: u64) -> Duration {
    Duration::from_micros((b + DAY_US - a) % DAY_US)
}

impl LogTail {
    pub fn begin(cluster: &Cluster) -> Self {
        let mut files = vec![];
        for n in 1..=cluster.nodes() {
            for log in LOGS {
                let path = cluster.path(&format!("run/n{n}/log/{log}"));
                let len = std::fs::metadata(&path).map_or(0, |m| m.len());
                files.push((format!("n{n}"), log, path, len));
            }
        }
        Self { files }
    }

    /// What each log has got since: node, log, text.
    pub fn texts(&self) -> Result<Vec<(String, &'static str, String)>> {
        let read = |path: &PathBuf, from: u64| {
            let mut file = std::fs::File::open(path).ok()?;
            file.seek(SeekFrom::Start(from)).ok()?;
            let mut text = vec![];
            file.read_to_end(&mut text).ok()?;
            Some(String::from_utf8_lossy(&text).into_owned())
        };
        let texts = self.files.iter();
        Ok(texts
            .map(|(node, log, path, from)| (node.clone(), *log, read(path, *from).unwrap_or_default()))
            .collect())
    }

    /// The job's events, in no order of time across files.
    pub fn events(&self, job: &str) -> Result<Vec<Event>> {
        let mut events = vec![];
        for (_, log, text) in self.texts()? {
            if log != "leader.log" && log != "worker.log" {
                continue;
            }
            let of_job = text.lines().filter_map(|line| parse(line, log == "leader.log"));
            events.extend(of_job.filter(|e| e.fields.get("job").is_some_and(|j| j == job)));
        }
        Ok(events)
    }

    /// Lines of any log with one of these words.
    pub fn lines(&self, words: &[&str]) -> Result<Vec<String>> {
        let mut found = vec![];
        for (node, log, text) in self.texts()? {
            let hit = text.lines().filter(|l| words.iter().any(|w| l.contains(w)));
            found.extend(hit.map(|l| format!("{node} {log}: {l}")));
        }
        Ok(found)
    }
}

/// `2026-01-31T08:49:34.011735Z LEVEL WORD name=value ...`; values with spaces are in quotes.
pub fn parse(line: &str, leader: bool) -> Option<Event> {
    let mut words = line.splitn(4, ' ');
    let (time, _level, word) = (words.next()?, words.next()?, words.next()?);
    let mut clock = time.split_once('T')?.1.strip_suffix('Z')?.split(':');
    let (hours, minutes) = (
        clock.next()?.parse::<u64>().ok()?,
        clock.next()?.parse::<u64>().ok()?,
    );
    let seconds: f64 = clock.next()?.parse().ok()?;
    let at = (hours * 3600 + minutes * 60) * 1_000_000 + (seconds * 1e6).round() as u64;
    let mut fields = BTreeMap::new();
    // Names and values without spaces are all that is asked for.
    for pair in words.next().unwrap_or_default().split(' ') {
        if let Some((name, value)) = pair.split_once('=') {
            fields.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
    }
    Some(Event {
        at,
        leader,
        word: word.into(),
        fields,
    })
}

impl Event {
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    fn epoch(&self) -> u64 {
        self.field("epoch").parse().unwrap_or(0)
    }
}

/// Whether the leader saw this very process fail: it was at work, then, and not done already.
pub fn was_at_work(hit: &Hit, events: &[Event]) -> bool {
    events
        .iter()
        .any(|e| e.leader && e.word == "TASK_FAIL" && e.field("task") == hit.task && e.epoch() == hit.epoch)
}

/// How long after each hit the task's replacement gave output. Hits whose replacement was hit too, or had nothing more to
/// give, have no figure.
pub fn recoveries(hits: &[Hit], events: &[Event]) -> Vec<Duration> {
    let of = |hit: &Hit| {
        if hits
            .iter()
            .any(|other| other.task == hit.task && other.epoch > hit.epoch)
        {
            return None;
        }
        let first = events
            .iter()
            .filter(|e| {
                !e.leader && e.word == "FIRST_OUTPUT" && e.field("task") == hit.task && e.epoch() > hit.epoch
            })
            .map(|e| between(hit.at, e.at))
            .min();
        first.filter(|d| *d < Duration::from_secs(600))
    };
    hits.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_parsed_and_recovery_is_measured_to_the_newest_process() {
        let line = |t: &str, rest: &str| {
            parse(
                &format!("2026-01-31T08:00:{t}Z INFO {rest}"),
                rest.starts_with("TASK"),
            )
            .unwrap()
        };
        let events = vec![
            line(
                "01.000000",
                "TASK_FAIL job=a task=s1t0 epoch=1 node=n1 pid=7 why=\"its process closed\"",
            ),
            line("01.020000", "FIRST_OUTPUT job=a task=s1t0 epoch=2 pid=8 tuples=3"),
            line("01.120500", "FIRST_OUTPUT job=a task=s1t0 epoch=3 pid=9 tuples=3"),
        ];
        let hit = |epoch, at: u64| Hit {
            task: "s1t0".into(),
            pid: 7,
            epoch,
            at: 8 * 3_600_000_000 + at,
            printed: 0,
        };
        assert!(was_at_work(&hit(1, 1_000_000), &events));
        assert!(!was_at_work(&hit(2, 1_000_000), &events));
        let both = [hit(1, 1_000_000), hit(2, 1_100_000)];
        assert_eq!(recoveries(&both, &events), [Duration::from_micros(20_500)]);
        assert_eq!(between(DAY_US - 1, 1), Duration::from_micros(2));
    }
}
