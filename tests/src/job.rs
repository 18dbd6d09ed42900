//! A job under way: what a test waits for, whom it kills, how it must end.

use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::{Cluster, PATIENCE, TaskInfo, kill_process, succeed, wait_for};

/// The INPUT_RATE at which so many lines last as long as a test has patience: the job is held until its faults have struck, then
/// [`Job::release`]d. So the fault hits a job with tuples under way, whatever the machine's speed.
pub fn held(lines: u64) -> String {
    (lines / PATIENCE.as_secs()).max(1).to_string()
}

/// A job under way.
pub struct Job<'a> {
    pub(crate) cluster: &'a Cluster,
    pub name: String,
    pub(crate) child: Option<Child>,
    pub stdout: PathBuf,
    pub stderr: PathBuf,
    pub(crate) summary: PathBuf,
}

impl Job<'_> {
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(match &mut self.child {
            Some(child) => child.try_wait()?.is_none(),
            None => false,
        })
    }

    /// Waits until output has come.
    pub fn wait_for_output(&mut self) -> Result<()> {
        let stdout = self.stdout.clone();
        wait_for("the first output", PATIENCE, || {
            let some = std::fs::metadata(&stdout)?.len() > 0;
            if !some && !self.is_running()? {
                bail!(
                    "the job ended before any output: {}",
                    std::fs::read_to_string(&self.stderr)?
                );
            }
            Ok(some.then_some(()))
        })
    }

    /// A running process of the task, of epoch `at_least` or newer.
    pub fn wait_for_task(&self, task: &str, at_least: u64) -> Result<TaskInfo> {
        let mut last = None;
        wait_for(&format!("{task} to run"), PATIENCE, || {
            let tasks = self.cluster.tasks(&self.name)?;
            let seen = tasks.into_iter().find(|t| t.task == task);
            last = seen.or(last.take());
            Ok(last.take_if(|t| t.epoch >= at_least && t.state == "running"))
        })
        .with_context(|| format!("last seen of it: {last:?}; the leader: {}", self.said()))
    }

    /// `kill -9` of a task's process, which must be working when it is hit.
    pub fn kill_task(&mut self, task: &str) -> Result<TaskInfo> {
        let found = self.wait_for_task(task, 1)?;
        kill_process(found.pid.context("a running task has a pid")?)?;
        ensure!(
            self.is_running()?,
            "the job was over when {task} was killed: the fault hit nothing"
        );
        Ok(found)
    }

    /// Ctrl-C as a terminal sends it: to the leader and all that it has started there.
    pub fn interrupt(&mut self) -> Result<()> {
        ensure!(self.is_running()?, "the job was over when it was interrupted");
        let pid = self.leader().context("no leader")?;
        nix::sys::signal::killpg(
            nix::unistd::Pid::from_raw(pid as i32),
            nix::sys::signal::Signal::SIGINT,
        )
        .context("Ctrl-C")
    }

    /// The faults have struck: what is left of the input, as fast as it goes.
    pub fn release(&mut self) -> Result<()> {
        ensure!(
            self.is_running()?,
            "the job was over before its faults had struck: {}",
            self.said()
        );
        self.set_rate(0)
    }

    /// INPUT_RATE from now on; 0: none.
    pub fn set_rate(&self, rate: u64) -> Result<()> {
        let rate = rate.to_string();
        let mut ctl = self.cluster.command("rainstormctl");
        let asked = succeed(ctl.args(["set_rate", &self.name, &rate])).map(drop);
        asked.with_context(|| format!("the job says: {}", self.said()))
    }

    /// Lines printed so far.
    pub fn printed(&self) -> Result<usize> {
        Ok(std::fs::read(&self.stdout)?
            .iter()
            .filter(|b| **b == b'\n')
            .count())
    }

    /// The leader's pid, while it runs.
    pub fn leader(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The leader was killed by other means: its end is taken note of.
    pub fn reap(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }

    /// `kill -9` of the leader.
    pub fn kill_leader(&mut self) -> Result<()> {
        ensure!(
            self.is_running()?,
            "the job was over when its leader was killed: the fault hit nothing"
        );
        let Some(mut child) = self.child.take() else {
            bail!("no leader")
        };
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Waits for the leader's end, whatever it is; kills it when it takes longer. Then its standard error goes with the error.
    pub fn wait_for_end(&mut self, most: Duration) -> Result<ExitStatus> {
        let Some(mut child) = self.child.take() else {
            bail!("finished twice")
        };
        let status = wait_for("the job's end", most, || Ok(child.try_wait()?));
        if status.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        status.with_context(|| self.said())
    }

    /// What the leader said on standard error.
    pub fn said(&self) -> String {
        let bytes = std::fs::read(&self.stderr).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The figures of a job that has ended.
    pub fn summary(&self) -> Result<serde_json::Value> {
        let text = std::fs::read(&self.summary).context("the summary")?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Waits for the end; the job must succeed. Returns the summary.
    pub fn finish(mut self, most: Duration) -> Result<serde_json::Value> {
        let status = self.wait_for_end(most)?;
        ensure!(status.success(), "the job failed with {status}: {}", self.said());
        // P: no process of the job is left on any node.
        self.cluster.wait_until_gone(&self.name, PATIENCE)?;
        self.summary()
    }

    /// Waits for the end; the job must fail, with exit code 1 and the reason in the last line, and leave no process. Returns
    /// what it said.
    pub fn fail(mut self, most: Duration) -> Result<String> {
        let status = self.wait_for_end(most)?;
        let said = self.said();
        ensure!(
            status.code() == Some(1),
            "the job ended with {status}, should have failed: {said}"
        );
        ensure!(!said.contains("panicked"), "{said}");
        self.cluster.wait_until_gone(&self.name, PATIENCE)?;
        Ok(said)
    }
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
