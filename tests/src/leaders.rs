//! Who leads a job, and who stands by.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde::Deserialize;

use crate::procs::{is_alive, signal};
use crate::{Cluster, PATIENCE, succeed, wait_for};

/// One line of `rainstormctl jobs --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Led {
    pub job: String,
    /// Where its leader runs.
    pub node: String,
    pub pid: i32,
}

/// One line of `rainstormctl history --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Past {
    pub job: String,
    pub outcome: String,
    pub resumed: u64,
}

impl Cluster {
    /// Who leads the job now.
    pub fn led(&self, job: &str) -> Result<Option<Led>> {
        let text = succeed(self.command("rainstormctl").args(["jobs", "--json"]))?;
        let all: Vec<Led> = serde_json::from_str(&text).context("jobs --json")?;
        Ok(all.into_iter().find(|led| led.job == job))
    }

    /// Waits for a leader that is another process than `than`.
    pub fn wait_for_leader(&self, job: &str, than: i32) -> Result<Led> {
        wait_for("another leader", PATIENCE, || {
            Ok(self.led(job)?.filter(|led| led.pid != than))
        })
    }

    /// INPUT_RATE from now on: none.
    pub fn release(&self, job: &str) -> Result<()> {
        succeed(self.command("rainstormctl").args(["set_rate", job, "0"])).map(drop)
    }

    /// The first Ctrl-C, wherever the leader is.
    pub fn drain(&self, job: &str) -> Result<()> {
        signal(self.led(job)?.context("a leader")?.pid, Signal::SIGINT)
    }

    pub fn past(&self, job: &str) -> Result<Option<Past>> {
        let text = succeed(self.command("rainstormctl").args(["history", "--json"]))?;
        let all: Vec<Past> = serde_json::from_str(&text).context("history --json")?;
        Ok(all.into_iter().find(|past| past.job == job))
    }

    /// Waits until the job's history says so.
    pub fn wait_for_outcome(&self, job: &str, outcome: &str) -> Result<Past> {
        wait_for(&format!("{job} to be {outcome}"), PATIENCE, || {
            Ok(self.past(job)?.filter(|past| past.outcome == outcome))
        })
    }
}

/// Waits until a standby of the present leader is ready: its process, and the node that it is on.
pub fn wait_for_standby(cluster: &Cluster, job: &str) -> Result<(i32, String)> {
    wait_for("a standby", PATIENCE + Duration::from_secs(60), || {
        let leader = cluster.led(job)?.map(|led| led.pid);
        let ready = cluster.log_lines("STANDBY_READY")?;
        let found = cluster.standbys(job)?.into_iter().find(|(pid, _)| {
            let said =
                |line: &String| line.contains(&format!("job={job} ")) && line.contains(&format!("pid={pid}"));
            leader.is_some() && Some(*pid) != leader && is_alive(*pid) && ready.iter().any(said)
        });
        Ok(found)
    })
}
