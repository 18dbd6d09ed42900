//! Carries faults out, and notes what was hit and when.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::recovery::{Hit, time_of_day};
use super::scenario::{Fault, Timed};
use crate::procs::{Worker, is_alive, signal};
use crate::{Cluster, Job, PATIENCE, now, wait_for};

/// What the faults of a run came to.
#[derive(Default)]
pub struct Struck {
    pub hits: Vec<Hit>,
    /// Nodes, daemons or leaders killed in mid-run: how many bytes of output had been printed by then.
    pub wide: Vec<u64>,
    /// Faults that found nothing to hit: the job had ended, or the task was done.
    pub missed: u32,
    /// Node starts under way, and nodes to be started after the run.
    starting: Vec<Start>,
    /// Processes that were stopped and never woken.
    pub stopped: Vec<i32>,
    /// What must not be.
    pub wrong: Vec<String>,
    /// The leader was killed; its successor is to be started.
    pub resume: Option<Duration>,
}

enum Start {
    At { node: String, at: Instant },
    UnderWay { node: String, child: Child },
    AfterTheRun { node: String },
}

pub struct Strikes<'a, 'c> {
    pub cluster: &'c Cluster,
    pub job: &'a mut Job<'c>,
    pub struck: Struck,
}

impl Strikes<'_, '_> {
    /// Waits for each fault's time and carries it out, as long as the job runs.
    pub fn all(&mut self, faults: &[Timed]) -> Result<()> {
        let began = now();
        for Timed { at, fault } in faults {
            while now() < began + *at && self.job.is_running()? {
                self.struck.start_nodes(self.cluster)?;
                std::thread::sleep(Duration::from_millis(2));
            }
            if !self.job.is_running()? {
                self.struck.missed += 1;
                continue;
            }
            self.strike(fault).with_context(|| format!("{fault:?}"))?;
            if self.struck.resume.is_some() {
                break;
            }
        }
        Ok(())
    }

    fn strike(&mut self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Kill { tasks } => {
                let workers = self.cluster.workers(&self.job.name)?;
                let newest =
                    |task: &String| workers.iter().filter(|w| w.task == *task).max_by_key(|w| w.epoch);
                let victims: Vec<Worker> = tasks.iter().filter_map(newest).cloned().collect();
                self.struck.missed += (tasks.len() - victims.len()) as u32;
                victims.into_iter().for_each(|w| self.kill(w));
            }
            Fault::KillAgain { task, later_us } => {
                let Some(first) = self.appears(task, 0)? else {
                    self.struck.missed += 1;
                    return Ok(());
                };
                let mut epoch = first.epoch;
                self.kill(first);
                for later in later_us {
                    // None: it was done, and nobody needs it again.
                    let Some(next) = self.appears(task, epoch + 1)? else {
                        break;
                    };
                    std::thread::sleep(Duration::from_micros(*later));
                    epoch = next.epoch;
                    self.kill(next);
                }
            }
            Fault::KillOperator { task } => self.kill_operator(task)?,
            Fault::Stop { task, wake_ms } => self.stop(task, *wake_ms)?,
            Fault::KillNodes { nodes, back_ms } => {
                let names: Vec<&str> = nodes.iter().map(String::as_str).collect();
                let at = time_of_day();
                let there = self.cluster.workers(&self.job.name)?;
                self.cluster.kill_nodes(&names)?;
                let printed = self.printed();
                self.struck.wide.push(printed);
                let hit = there.into_iter().filter(|w| nodes.contains(&w.node));
                self.struck.hits.extend(hit.map(|w| hit_at(w, at, printed)));
                self.struck.back(nodes, *back_ms);
            }
            Fault::KillDaemon {
                node,
                program,
                back_ms,
            } => {
                signal(self.cluster.daemon(node, program)?, Signal::SIGKILL)?;
                let printed = self.printed();
                self.struck.wide.push(printed);
                self.struck.back(std::slice::from_ref(node), Some(*back_ms));
            }
            Fault::KillLeader { resume_ms } => {
                self.job.kill_leader()?;
                let printed = self.printed();
                self.struck.wide.push(printed);
                self.struck.resume = Some(Duration::from_millis(*resume_ms));
            }
        }
        Ok(())
    }

    fn kill(&mut self, worker: Worker) {
        let at = time_of_day();
        // One that has just ended by itself is no hit; the logs tell whether it was at work.
        match signal(worker.pid, Signal::SIGKILL) {
            Ok(()) => {
                let printed = self.printed();
                self.struck.hits.push(hit_at(worker, at, printed));
            }
            Err(_) => self.struck.missed += 1,
        }
    }

    fn printed(&self) -> u64 {
        std::fs::metadata(&self.job.stdout).map_or(0, |m| m.len())
    }

    /// The newest process of a task, of this epoch or a higher one; None when the job ends first, or none comes.
    fn appears(&mut self, task: &str, epoch: u64) -> Result<Option<Worker>> {
        let until = now()
            + if epoch == 0 {
                Duration::from_millis(500)
            } else {
                PATIENCE
            };
        loop {
            if let Some(worker) = self.cluster.worker(&self.job.name, task)?
                && worker.epoch >= epoch
            {
                return Ok(Some(worker));
            }
            if now() > until || !self.job.is_running()? {
                return Ok(None);
            }
            self.struck.start_nodes(self.cluster)?;
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn kill_operator(&mut self, task: &str) -> Result<()> {
        let Some(worker) = self.appears(task, 0)? else {
            self.struck.missed += 1;
            return Ok(());
        };
        let children = self.cluster.operators(&self.job.name)?;
        let child = children
            .into_iter()
            .find(|o| o.parent == worker.pid && o.task == task);
        match child {
            Some(child) if signal(child.pid, Signal::SIGKILL).is_ok() => {
                let printed = self.printed();
                self.struck.hits.push(hit_at(worker, time_of_day(), printed));
            }
            _ => self.struck.missed += 1,
        }
        Ok(())
    }

    fn stop(&mut self, task: &str, wake_ms: Option<u64>) -> Result<()> {
        let Some(worker) = self.appears(task, 0)? else {
            self.struck.missed += 1;
            return Ok(());
        };
        let (pid, epoch, at) = (worker.pid, worker.epoch, time_of_day());
        if signal(pid, Signal::SIGSTOP).is_err() {
            self.struck.missed += 1;
            return Ok(());
        }
        let printed = self.printed();
        self.struck.hits.push(hit_at(worker, at, printed));
        self.struck.stopped.push(pid);
        let replaced = self.appears_within(task, epoch + 1, PATIENCE)?;
        if replaced.is_none() && self.job.is_running()? {
            let why = format!("{task} (pid {pid}) was stopped and not replaced within {PATIENCE:?}");
            self.struck.wrong.push(why);
        }
        let Some(ms) = wake_ms else { return Ok(()) };
        std::thread::sleep(Duration::from_millis(ms));
        if signal(pid, Signal::SIGCONT).is_err() {
            return Ok(());
        }
        let gone = wait_for("the zombie to exit", PATIENCE, || {
            Ok((!is_alive(pid)).then_some(()))
        });
        if gone.is_err() {
            let why = format!(
                "{task} (pid {pid}) was stopped, replaced and woken, and still lives {PATIENCE:?} later"
            );
            self.struck.wrong.push(why);
        }
        Ok(())
    }

    fn appears_within(&mut self, task: &str, epoch: u64, most: Duration) -> Result<Option<Worker>> {
        let until = now() + most;
        while now() < until && self.job.is_running()? {
            if let Some(worker) = self.appears(task, epoch)? {
                return Ok(Some(worker));
            }
        }
        Ok(None)
    }
}

fn hit_at(worker: Worker, at: u64, printed: u64) -> Hit {
    Hit {
        task: worker.task,
        pid: worker.pid,
        epoch: worker.epoch,
        at,
        printed,
    }
}

impl Struck {
    fn back(&mut self, nodes: &[String], back_ms: Option<u64>) {
        for node in nodes {
            let node = node.clone();
            self.starting.push(match back_ms {
                Some(ms) => Start::At {
                    node,
                    at: now() + Duration::from_millis(ms),
                },
                None => Start::AfterTheRun { node },
            });
        }
    }

    /// Whether a node, or a daemon of it, was killed and is not known to be up again.
    pub fn is_down(&self, name: &str) -> bool {
        self.starting.iter().any(|start| match start {
            Start::At { node, .. } | Start::UnderWay { node, .. } | Start::AfterTheRun { node } => {
                node == name
            }
        })
    }

    /// Starts the nodes whose time has come; does not wait for them.
    pub fn start_nodes(&mut self, cluster: &Cluster) -> Result<()> {
        for start in &mut self.starting {
            if let Start::At { node, at } = start
                && now() >= *at
            {
                let node = std::mem::take(node);
                let mut command = cluster.script_command(&["start-node", &node])?;
                let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
                *start = Start::UnderWay { node, child };
            }
        }
        Ok(())
    }

    /// Has all nodes running again.
    pub fn restore(&mut self, cluster: &Cluster) -> Result<()> {
        for start in self.starting.drain(..) {
            match start {
                Start::UnderWay { node, mut child } => {
                    // It may have met a node that was down: asked again, it waits for what is missing.
                    if !child.wait()?.success() {
                        cluster.script(&["start-node", &node])?;
                    }
                }
                Start::At { node, .. } | Start::AfterTheRun { node } => {
                    drop(cluster.script(&["start-node", &node])?)
                }
            }
        }
        Ok(())
    }
}
