//! What the workers' logs say, read on as they grow: how long a task that was killed took to put something out again, and what its
//! replacement read to come back.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use crate::Cluster;
use crate::chaos::recovery::{between, parse};
use crate::chaos::run::BROKEN;

/// One node's log, and how far it was read.
struct Tail {
    path: PathBuf,
    inode: u64,
    at: u64,
}

/// A process that was killed and whose replacement has put nothing out yet.
#[derive(Debug, Clone)]
pub struct Hit {
    pub epoch: u64,
    /// Microseconds within the day.
    pub at: u64,
}

pub struct Watch {
    tails: Vec<Tail>,
    /// By job and task.
    hits: BTreeMap<(String, String), Hit>,
    /// Since they were last taken.
    pub recoveries: Vec<Duration>,
    pub replays: Vec<Duration>,
    /// The most that a replacement read of its log, bytes.
    pub replayed: u64,
    /// Lines that tell of something broken.
    pub broken: Vec<String>,
}

impl Watch {
    pub fn begin(cluster: &Cluster) -> Self {
        let tails = (1..=cluster.nodes()).flat_map(|n| {
            ["worker.log", "leader.log", "hydfsd.log", "memberd.log"].map(|log| Tail {
                path: cluster.path(&format!("run/n{n}/log/{log}")),
                inode: 0,
                at: 0,
            })
        });
        Self {
            tails: tails.collect(),
            hits: BTreeMap::new(),
            recoveries: vec![],
            replays: vec![],
            replayed: 0,
            broken: vec![],
        }
    }

    pub fn hit(&mut self, job: &str, task: &str, hit: Hit) {
        self.hits.insert((job.into(), task.into()), hit);
    }

    /// Reads what is new.
    pub fn look(&mut self) -> Result<()> {
        let mut lines = vec![];
        for tail in &mut self.tails {
            let worker = tail.path.ends_with("worker.log");
            lines.extend(tail.news()?.into_iter().map(|line| (worker, line)));
        }
        for (worker, line) in lines {
            if BROKEN.iter().any(|word| line.contains(word)) {
                self.broken.push(line.clone());
            }
            if worker {
                self.take(&line);
            }
        }
        Ok(())
    }

    fn take(&mut self, line: &str) {
        let Some(event) = parse(line, false) else { return };
        let (job, task) = (event.field("job").to_owned(), event.field("task").to_owned());
        match event.word.as_str() {
            "FIRST_OUTPUT" => {
                let epoch: u64 = event.field("epoch").parse().unwrap_or(0);
                let key = (job, task);
                if self.hits.get(&key).is_some_and(|hit| epoch > hit.epoch)
                    && let Some(hit) = self.hits.remove(&key)
                {
                    self.recoveries.push(between(hit.at, event.at));
                }
            }
            "REPLAY" => {
                let number = |name| event.field(name).parse::<u64>().unwrap_or(0);
                self.replays.push(Duration::from_millis(number("ms")));
                self.replayed = self.replayed.max(number("log_bytes"));
            }
            _ => {}
        }
    }
}

impl Tail {
    /// Whole lines since the last time. A log that was renamed is left at its end: what was written to it since is lost to the figures.
    fn news(&mut self) -> Result<Vec<String>> {
        let Ok(file) = std::fs::File::open(&self.path) else {
            return Ok(vec![]);
        };
        let meta = file.metadata()?;
        if meta.ino() != self.inode || meta.len() < self.at {
            (self.inode, self.at) = (meta.ino(), 0);
        }
        let mut reader = BufReader::new(file);
        reader.seek(SeekFrom::Start(self.at))?;
        let mut lines = vec![];
        loop {
            let mut line = vec![];
            let len = reader.read_until(b'\n', &mut line)?;
            if line.pop() != Some(b'\n') {
                return Ok(lines);
            }
            self.at += len as u64;
            lines.push(String::from_utf8_lossy(&line).into_owned());
        }
    }
}
