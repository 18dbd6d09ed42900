//! Which processes belong to a cluster and a job, as /proc tells: by command line, environment and descent, never by a bare name.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Cluster, PATIENCE, sshd, wait_for};

/// A living process (no zombie).
#[derive(Debug, Clone)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    pub args: Vec<String>,
}

/// A worker of a job, by its own command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    pub pid: i32,
    pub task: String,
    pub epoch: u64,
    pub node: String,
}

/// A foreign operator's process (the worker's child, or what that has started).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorProcess {
    pub pid: i32,
    pub parent: i32,
    pub task: String,
}

impl Process {
    fn read(pid: i32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The program's name, in brackets, may hold anything.
        let mut rest = stat.rsplit_once(") ")?.1.split(' ');
        let state = rest.next()?;
        let parent = rest.next()?.parse().ok()?;
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let line = line.strip_suffix(b"\0").unwrap_or(&line);
        let args = line
            .split(|b| *b == 0)
            .map(|a| String::from_utf8_lossy(a).into_owned())
            .collect();
        (state != "Z").then_some(Self { pid, parent, args })
    }

    /// What follows an option.
    fn option(&self, name: &str) -> Option<&str> {
        let at = self.args.iter().position(|a| a == name)?;
        self.args.get(at + 1).map(String::as_str)
    }

    fn is(&self, program: &str) -> bool {
        let name = self.args.first().map_or("", String::as_str);
        name == program || name.ends_with(&format!("/{program}"))
    }

    /// A leader that was started as a standby. It may lead now.
    fn is_standby(&self) -> bool {
        self.is("leader") && self.option("--standby").is_some()
    }

    /// A variable of the environment it was started with.
    pub fn variable(&self, name: &str) -> Option<String> {
        let all = std::fs::read(format!("/proc/{}/environ", self.pid)).ok()?;
        all.split(|b| *b == 0)
            .filter_map(|pair| std::str::from_utf8(pair).ok())
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    }
}

/// All processes of the machine that can be looked at.
pub fn all() -> Result<Vec<Process>> {
    let mut found = vec![];
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = name.to_str().and_then(|n| n.parse::<i32>().ok());
        found.extend(pid.and_then(Process::read));
    }
    Ok(found)
}

pub fn is_alive(pid: i32) -> bool {
    Process::read(pid).is_some()
}

/// Resident memory in bytes; None when the process is gone.
pub fn resident(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    line.trim()
        .strip_suffix(" kB")?
        .trim()
        .parse::<u64>()
        .ok()
        .map(|kb| kb * 1024)
}

pub fn signal(pid: i32, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(pid), signal).with_context(|| format!("{signal} to {pid}"))
}

impl Cluster {
    /// The worker processes of a job on all nodes.
    pub fn workers(&self, job: &str) -> Result<Vec<Worker>> {
        let config = self.config();
        let config = config.to_string_lossy();
        let of = |p: &Process| {
            if !p.is("worker") || p.option("--cluster") != Some(&config) || p.option("--job") != Some(job) {
                return None;
            }
            Some(Worker {
                pid: p.pid,
                task: p.option("--task-id")?.into(),
                epoch: p.option("--epoch")?.parse().ok()?,
                node: p.option("--node")?.into(),
            })
        };
        Ok(all()?.iter().filter_map(of).collect())
    }

    /// The newest process of a task, if one lives.
    pub fn worker(&self, job: &str, task: &str) -> Result<Option<Worker>> {
        let all = self.workers(job)?;
        Ok(all.into_iter().filter(|w| w.task == task).max_by_key(|w| w.epoch))
    }

    /// The processes that were started as standbys of a job's leaders: pid and node. One of them may lead now.
    pub fn standbys(&self, job: &str) -> Result<Vec<(i32, String)>> {
        let config = self.config();
        let config = config.to_string_lossy();
        let of = |p: &Process| {
            let ours =
                p.is_standby() && p.option("--cluster") == Some(&config) && p.option("--job") == Some(job);
            ours.then(|| Some((p.pid, p.option("--node")?.to_owned())))?
        };
        Ok(all()?.iter().filter_map(of).collect())
    }

    /// Foreign operators of a job, with all that they have started. A job's name is of one cluster only in these tests.
    pub fn operators(&self, job: &str) -> Result<Vec<OperatorProcess>> {
        let of = |p: Process| {
            let task = p.variable("RAINSTORM_TASK")?;
            (p.variable("RAINSTORM_JOB")? == job).then_some(OperatorProcess {
                pid: p.pid,
                parent: p.parent,
                task,
            })
        };
        Ok(all()?.into_iter().filter_map(of).collect())
    }

    /// P: every process of a job but its first leader, on every node: workers, operators, standbys, and what starts workers on a node.
    pub fn left_of(&self, job: &str) -> Result<Vec<String>> {
        let config = self.config();
        let config = config.to_string_lossy();
        let mut left = vec![];
        for p in all()? {
            let ours = p.option("--cluster") == Some(&config)
                && p.option("--job") == Some(job)
                && (!p.is("leader") || p.is_standby());
            if ours || p.variable("RAINSTORM_JOB").as_deref() == Some(job) {
                left.push(format!("{} {}", p.pid, p.args.join(" ")));
            }
        }
        Ok(left)
    }

    /// SSH clients that hold connections to this cluster's nodes: a leader's.
    pub fn ssh_connections(&self) -> Result<Vec<i32>> {
        let key = self.path("run/id_ed25519").to_string_lossy().into_owned();
        let ours = |p: &Process| p.is("ssh") && p.args.iter().any(|a| a.contains(&key));
        Ok(all()?.into_iter().filter(ours).map(|p| p.pid).collect())
    }

    /// Waits until no process of a job is left but its leader.
    pub fn wait_until_gone(&self, job: &str, most: Duration) -> Result<()> {
        let gone = wait_for(&format!("the processes of {job} to be gone"), most, || {
            Ok(self.left_of(job)?.is_empty().then_some(()))
        });
        gone.with_context(|| format!("left: {:#?}", self.left_of(job).unwrap_or_default()))
    }

    /// Every process of these nodes: daemons, sshd, its sessions, and all that came of those.
    fn node_processes(&self, nodes: &[&str]) -> Result<Vec<i32>> {
        let config = self.config();
        let config = config.to_string_lossy();
        let list = all()?;
        let of_node = |p: &Process| {
            nodes.iter().any(|node| {
                let sshd = format!(" -f {} ", self.path(&format!("run/{node}/sshd_config")).display());
                let by_option = p.option("--cluster") == Some(&config)
                    && p.option("--node") == Some(node)
                    && (!p.is("leader") || p.is_standby());
                by_option || format!(" {} ", p.args.join(" ")).contains(&sshd)
            })
        };
        let mut hit: BTreeSet<i32> = list.iter().filter(|p| of_node(p)).map(|p| p.pid).collect();
        let parents: BTreeMap<i32, i32> = list.iter().map(|p| (p.pid, p.parent)).collect();
        loop {
            let more: Vec<i32> = parents
                .iter()
                .filter(|(pid, parent)| hit.contains(parent) && !hit.contains(pid))
                .map(|(pid, _)| *pid)
                .collect();
            if more.is_empty() {
                break;
            }
            hit.extend(more);
        }
        Ok(hit.into_iter().collect())
    }

    /// `kill -9` of all processes of all these nodes, as near to the same moment as it gets. How many were hit.
    pub fn kill_nodes(&self, nodes: &[&str]) -> Result<usize> {
        let first = self.node_processes(nodes)?;
        ensure!(!first.is_empty(), "no process of {nodes:?}");
        let mut left = first.clone();
        // Again, for what was being born meanwhile.
        wait_for("the nodes' processes to be gone", PATIENCE, || {
            for pid in &left {
                // Some end because others do.
                let _ = signal(*pid, Signal::SIGKILL);
            }
            left = self.node_processes(nodes)?;
            Ok(left.is_empty().then_some(()))
        })?;
        for node in nodes {
            for daemon in ["sshd", "memberd", "hydfsd"] {
                let _ = std::fs::remove_file(self.path(&format!("run/{node}/{daemon}.pid")));
            }
        }
        Ok(first.len())
    }

    /// Starts the daemons of a node that was killed, and waits for nothing. They end with the cluster; wait for them then.
    pub fn start_daemons(&self, node: &str) -> Result<Vec<Child>> {
        let folder = self.path(&format!("run/{node}"));
        let start = |mut command: Command| -> Result<Child> {
            let quiet = command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            Ok(quiet.process_group(0).current_dir(&folder).spawn()?)
        };
        let mut sshd = Command::new(sshd()?);
        sshd.arg("-D").arg("-f").arg(folder.join("sshd_config"));
        sshd.arg("-E").arg(folder.join("log/sshd.log"));
        let mut children = vec![start(sshd)?];
        for program in ["memberd", "hydfsd"] {
            let mut command = self.command(program);
            command.arg("--cluster").arg(self.config()).args(["--node", node]);
            children.push(start(command)?);
        }
        Ok(children)
    }

    /// The pid of a node's daemon.
    pub fn daemon(&self, node: &str, program: &str) -> Result<i32> {
        let config = self.config();
        let config = config.to_string_lossy();
        let found = all()?.into_iter().find(|p| {
            p.is(program) && p.option("--cluster") == Some(&config) && p.option("--node") == Some(node)
        });
        match found {
            Some(p) => Ok(p.pid),
            None => bail!("no {program} on {node}"),
        }
    }
}
