//! What the system tests share: a cluster of their own with real SSH, jobs on it, faults, and oracles that are not our code.
//!
//! The programs are those of `target/release` (or `$RAINSTORM_BIN`); `demo/test.sh` builds them first.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;

pub use job::Job;

pub mod chaos;
pub mod disks;
pub mod job;
pub mod jobs;
pub mod leaders;
pub mod network;
pub mod procs;
pub mod proxy;
pub mod records;
pub mod soak;
pub mod storage;
pub mod tap;

/// A local cluster under a folder of its own, on addresses of its own. Taken down when dropped.
pub struct Cluster {
    /// Mounts and networks: they go after the processes and before the folder.
    _guards: Vec<Box<dyn Send + Sync>>,
    folder: tempfile::TempDir,
    bin: PathBuf,
    nodes: usize,
    /// What the nodes' programs do first, in shell.
    first: String,
    /// What a command on this cluster begins with.
    enter: Vec<String>,
}

/// How a cluster differs from the ordinary.
#[derive(Default)]
pub struct Special {
    /// Shell text that every daemon and worker of the nodes (and their sshd) does before it becomes the program; `$program`,
    /// `$node`, `$task` and `$epoch` say which. What is in `$enter` then, the program is started with.
    pub first: String,
    /// What every command on the cluster begins with, such as what enters its network.
    pub enter: Vec<String>,
    /// How the name of the cluster's folder ends.
    pub suffix: String,
    /// Given the nodes' folders before anything starts: what must be dropped after all has ended.
    pub prepare: Option<Prepare>,
}

/// Given a run folder: guards that are dropped when the cluster is down, before the folder goes.
pub type Prepare = Box<dyn FnOnce(&Path) -> Result<Vec<Box<dyn Send + Sync>>>>;

/// One line of `rainstormctl list_tasks --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct TaskInfo {
    pub job: String,
    pub task: String,
    pub stage: u16,
    pub node: String,
    /// None while the process is being started.
    pub pid: Option<i32>,
    pub epoch: u64,
    pub state: String,
}

/// How long a test waits for what must come, on any machine however busy: it decides when a test gives up, never what is right. What has to be
/// there within a time by contract is measured instead.
pub const PATIENCE: Duration = Duration::from_secs(120);

const PROGRAMS: [&str; 6] = ["memberd", "hydfsd", "hydfs", "leader", "worker", "rainstormctl"];

/// Where sshd is: mostly not where an ordinary user's programs are.
pub fn sshd() -> Result<PathBuf> {
    let mut find = Command::new("sh");
    find.args(["-c", "PATH=$PATH:/usr/sbin:/usr/local/sbin command -v sshd"]);
    Ok(succeed(&mut find)?.trim().into())
}

/// Writes a script that does something and then becomes a program.
fn wrap(program: &Path, script: &Path, first: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let text = format!(
        r#"#!/bin/sh
program={name} node='' task='' epoch='' enter='' last=''
for arg in "$@"; do
    case $last in
    --node) node=$arg ;;
    --task-id) task=$arg ;;
    --epoch) epoch=$arg ;;
    -f) node=${{arg%/*}} node=${{node##*/}} ;; # .../n1/sshd_config
    esac
    last=$arg
done
{first}
exec $enter {} "$@"
"#,
        program.display()
    );
    std::fs::write(script, text)?;
    Ok(std::fs::set_permissions(
        script,
        std::fs::Permissions::from_mode(0o755),
    )?)
}

/// The folder of the repository.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .map(Path::to_path_buf)
        .unwrap_or_else(|| here.to_path_buf())
}

#[allow(clippy::disallowed_methods)] // tests measure real time
pub fn now() -> Instant {
    Instant::now()
}

/// A test cannot do its work on this machine: it says so here and ends. What a passing test prints is not shown, so `demo/test.sh` reads the
/// file that $RAINSTORM_SKIPPED names: lines `TEST<TAB>REASON`.
pub fn skip(why: impl std::fmt::Display) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let why = why.to_string().replace(['\n', '\t'], " ");
    eprintln!("SKIPPED {test}: {why}");
    let Some(list) = std::env::var_os("RAINSTORM_SKIPPED") else {
        return;
    };
    let said = File::options()
        .create(true)
        .append(true)
        .open(&list)
        .and_then(|mut file| file.write_all(format!("{test}\t{why}\n").as_bytes()));
    if let Err(error) = said {
        panic!(
            "{test} cannot say in {} that it is skipped: {error}",
            list.display()
        );
    }
}

/// Asks `probe` until it has an answer, for at most `most`. Every wait of a test goes through here.
pub fn wait_for<T>(what: &str, most: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = now() + most;
    loop {
        if let Some(found) = probe()? {
            return Ok(found);
        }
        ensure!(now() < deadline, "waited {most:?} for {what}, in vain");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Cluster {
    /// `subnet` such as `127.0.31`, or `127.0.31.21` where the first node is not to be `.11`: one per test, so that none
    /// meets another's cluster.
    pub fn up(subnet: &str, nodes: usize) -> Result<Self> {
        Self::up_with(subnet, nodes, Special::default())
    }

    /// [`Self::up`], in surroundings of its own.
    pub fn up_with(subnet: &str, nodes: usize, special: Special) -> Result<Self> {
        let bin = match std::env::var_os("RAINSTORM_BIN") {
            Some(bin) => bin.into(),
            None => root().join("target/release"),
        };
        for program in PROGRAMS {
            ensure!(
                bin.join(program).exists(),
                "{} is not built; type: cargo build --release --workspace",
                bin.join(program).display()
            );
        }
        let mut cluster = Self {
            _guards: vec![],
            folder: tempfile::Builder::new()
                .prefix("rainstorm-test-")
                .suffix(&special.suffix)
                .tempdir()?,
            bin: std::path::absolute(bin)?,
            nodes,
            first: special.first,
            enter: special.enter,
        };
        std::fs::write(cluster.path("subnet"), subnet)?;
        if let Some(prepare) = special.prepare {
            for n in 1..=nodes {
                std::fs::create_dir_all(cluster.path(&format!("run/n{n}/data")))?;
            }
            cluster._guards = prepare(&cluster.path("run"))?;
        }
        if !cluster.first.is_empty() {
            cluster.wrap_programs()?;
        }
        cluster.script(&["up", &nodes.to_string()])?;
        if !cluster.first.is_empty() {
            let folder = cluster.path("wrapped");
            (1..=nodes).try_for_each(|n| cluster.use_programs(&format!("n{n}"), &folder))?;
        }
        Ok(cluster)
    }

    /// The same with `in/data.txt`, lines of [`write_text`]; a copy is `data.txt` in the cluster's folder.
    pub fn with_text(subnet: &str, nodes: usize, lines: u64) -> Result<Self> {
        let cluster = Self::up(subnet, nodes)?;
        cluster.load_text(lines)?;
        Ok(cluster)
    }

    /// Makes `data.txt` in the cluster's folder, lines of [`write_text`], and `in/data.txt` of it.
    pub fn load_text(&self, lines: u64) -> Result<()> {
        write_text(&self.path("data.txt"), lines, 7)?;
        self.hydfs(&["create", "data.txt", "in/data.txt"]).map(drop)
    }

    /// An executable in the cluster's folder; `./NAME` for jobs started there.
    pub fn write_operator(&self, name: &str, text: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(self.path(name), text)?;
        Ok(std::fs::set_permissions(
            self.path(name),
            std::fs::Permissions::from_mode(0o755),
        )?)
    }

    /// On that node workers are started through a shell script, which does this first: a fault between a worker and the rest.
    pub fn wrap_worker(&self, node: &str, first: &str) -> Result<()> {
        let folder = self.path(&format!("bin-{node}"));
        std::fs::create_dir(&folder)?;
        for program in PROGRAMS.into_iter().filter(|p| *p != "worker") {
            std::os::unix::fs::symlink(self.bin.join(program), folder.join(program))?;
        }
        wrap(&self.bin.join("worker"), &folder.join("worker"), first)?;
        self.use_programs(node, &folder)
    }

    /// On that node workers are started from that folder.
    fn use_programs(&self, node: &str, folder: &Path) -> Result<()> {
        let config = std::fs::read_to_string(self.config())?;
        let name = format!("name = \"{node}\"\n");
        let with_bin = config.replace(&name, &format!("{name}bin = \"{}\"\n", folder.display()));
        ensure!(with_bin != config, "no node {node} in the cluster file");
        Ok(std::fs::write(self.config(), with_bin)?)
    }

    /// `wrapped/`: the programs, sshd among them, as scripts that do what comes first.
    fn wrap_programs(&self) -> Result<()> {
        let folder = self.path("wrapped");
        std::fs::create_dir(&folder)?;
        for program in PROGRAMS {
            wrap(&self.bin.join(program), &folder.join(program), &self.first)?;
        }
        wrap(&sshd()?, &folder.join("sshd"), &self.first)
    }

    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// A path in the cluster's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn config(&self) -> PathBuf {
        self.path("run/cluster.toml")
    }

    /// `demo/cluster.sh` on this cluster.
    pub fn script(&self, args: &[&str]) -> Result<String> {
        succeed(&mut self.script_command(args)?)
    }

    /// The same, not started yet.
    pub fn script_command(&self, args: &[&str]) -> Result<Command> {
        let text = std::fs::read_to_string(self.path("subnet"))?;
        let (subnet, first) = match text.matches('.').count() {
            3 => text.rsplit_once('.').unwrap_or((&text, "11")),
            _ => (text.as_str(), "11"),
        };
        let mut command = self.entering(&root().join("demo/cluster.sh"));
        command
            .args(args)
            .env("RAINSTORM_RUN", self.path("run"))
            .env("RAINSTORM_SUBNET", subnet)
            .env("RAINSTORM_FIRST", first);
        command.env("RAINSTORM_BIN", &self.bin).stdin(Stdio::null());
        if !self.first.is_empty() {
            let wrapped = self.path("wrapped");
            let path = std::env::var("PATH").unwrap_or_default();
            command
                .env("RAINSTORM_BIN", &wrapped)
                .env("PATH", format!("{}:{path}", wrapped.display()));
        }
        Ok(command)
    }

    /// A program, started where this cluster is.
    fn entering(&self, program: &Path) -> Command {
        match self.enter.split_first() {
            None => Command::new(program),
            Some((enter, args)) => {
                let mut command = Command::new(enter);
                command.args(args).arg(program);
                command
            }
        }
    }

    /// One of our programs, told about this cluster.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.entering(&self.bin.join(program));
        command
            .env("RAINSTORM_CLUSTER", self.config())
            .stdin(Stdio::null())
            .current_dir(self.folder.path());
        command
    }

    pub fn hydfs(&self, args: &[&str]) -> Result<String> {
        succeed(self.command("hydfs").args(args))
    }

    /// Runs a job to its end, whatever that is.
    pub fn leader(&self, args: &[&str]) -> Result<Output> {
        Ok(self.command("leader").args(args).output()?)
    }

    /// Starts a job; its output goes to files beside the cluster.
    pub fn start(&self, name: &str, args: &[&str]) -> Result<Job<'_>> {
        let all: Vec<&str> = ["--job", name].into_iter().chain(args.iter().copied()).collect();
        self.spawn_leader(name, name, &all)
    }

    /// [`Self::start`], with nobody who would take the job up.
    pub fn start_alone(&self, name: &str, args: &[&str]) -> Result<Job<'_>> {
        let all: Vec<&str> = ["--standbys", "0"]
            .into_iter()
            .chain(args.iter().copied())
            .collect();
        self.start(name, &all)
    }

    fn spawn_leader(&self, name: &str, files: &str, args: &[&str]) -> Result<Job<'_>> {
        let (stdout, stderr) = (
            self.path(&format!("{files}.out")),
            self.path(&format!("{files}.err")),
        );
        let summary = self.path(&format!("{files}.json"));
        let mut command = self.command("leader");
        command
            .args(["--progress", "never", "--summary"])
            .arg(&summary)
            .args(args);
        let child = command
            .stdout(File::create(&stdout)?)
            .stderr(File::create(&stderr)?)
            .process_group(0)
            .spawn()?;
        Ok(Job {
            cluster: self,
            name: name.into(),
            child: Some(child),
            stdout,
            stderr,
            summary,
        })
    }

    /// Starts `leader --resume` of a job whose leader is gone, as that node's.
    pub fn resume(&self, name: &str, node: &str) -> Result<Job<'_>> {
        self.spawn_leader(
            name,
            &format!("{name}.resumed"),
            &["--node", node, "--resume", name],
        )
    }

    /// The tasks of a job that are up, as the console tells.
    pub fn tasks(&self, job: &str) -> Result<Vec<TaskInfo>> {
        let out = self
            .command("rainstormctl")
            .args(["list_tasks", job, "--json"])
            .output()?;
        if !out.status.success() {
            return Ok(vec![]);
        }
        serde_json::from_slice(&out.stdout).context("list_tasks --json")
    }

    /// Processes (by /proc) that speak of this cluster's folder, but for the caller's own.
    pub fn processes(&self, program: &str) -> Result<Vec<i32>> {
        let config = self.config();
        let config = config.to_str().context("a path in UTF-8")?;
        let mut found = vec![];
        for entry in std::fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|n| n.parse::<i32>().ok()) else {
                continue;
            };
            let Ok(cmdline) = std::fs::read(format!("/proc/{pid}/cmdline")) else {
                continue;
            };
            let args: Vec<&str> = cmdline
                .split(|b| *b == 0)
                .filter_map(|a| std::str::from_utf8(a).ok())
                .collect();
            if args.first().is_some_and(|a| a.ends_with(program)) && args.contains(&config) {
                found.push(pid);
            }
        }
        Ok(found)
    }

    /// Every line with `pattern` in the workers' and leaders' logs of all nodes.
    pub fn log_lines(&self, pattern: &str) -> Result<Vec<String>> {
        let mut lines = vec![];
        for n in 1..=self.nodes {
            for log in ["worker.log", "leader.log"] {
                let path = self.path(&format!("run/n{n}/log/{log}"));
                let text = std::fs::read_to_string(path).unwrap_or_default();
                lines.extend(text.lines().filter(|l| l.contains(pattern)).map(str::to_owned));
            }
        }
        Ok(lines)
    }

    /// The output of a shell pipeline run in this cluster's folder, sorted bytewise: the oracle's side.
    pub fn oracle(&self, pipeline: &str) -> Result<Vec<u8>> {
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("({pipeline}) | sort")])
            .env("LC_ALL", "C")
            .current_dir(self.folder.path());
        let out = command.output()?;
        ensure!(
            out.status.success(),
            "the oracle failed: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(out.stdout)
    }

    /// The destination's content, sorted bytewise.
    pub fn sorted(&self, file: &str) -> Result<Vec<u8>> {
        let local = self.path("fetched");
        let _ = std::fs::remove_file(&local);
        self.hydfs(&["get", file, local.to_str().context("a path in UTF-8")?])?;
        self.oracle("cat fetched")
    }

    /// The destination equals what the pipeline says, as multisets of lines.
    pub fn check(&self, file: &str, pipeline: &str) -> Result<()> {
        let (want, got) = (self.oracle(pipeline)?, self.sorted(file)?);
        ensure!(
            !want.is_empty(),
            "the oracle says nothing: the test would prove nothing"
        );
        compare(&want, &got)
    }
}

/// Says where two sorted texts differ.
pub fn compare(want: &[u8], got: &[u8]) -> Result<()> {
    if want == got {
        return Ok(());
    }
    let lines = |t: &[u8]| t.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>();
    let (want, got) = (lines(want), lines(got));
    let count = |list: &[Vec<u8>]| {
        let mut counts = std::collections::BTreeMap::<Vec<u8>, i64>::new();
        list.iter()
            .for_each(|l| *counts.entry(l.clone()).or_default() += 1);
        counts
    };
    let (w, g) = (count(&want), count(&got));
    let show = |a: &std::collections::BTreeMap<Vec<u8>, i64>,
                b: &std::collections::BTreeMap<Vec<u8>, i64>| {
        let rest = a.iter().filter(|(l, n)| b.get(*l).copied().unwrap_or(0) < **n);
        let shown: Vec<String> = rest
            .clone()
            .take(3)
            .map(|(l, _)| String::from_utf8_lossy(&l[..l.len().min(100)]).into_owned())
            .collect();
        format!("{} ({shown:?})", rest.count())
    };
    bail!(
        "{} lines expected, {} there; missing {}, extra {}",
        want.len() - 1,
        got.len() - 1,
        show(&w, &g),
        show(&g, &w)
    )
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("RAINSTORM_KEEP").is_some() {
            self.keep_evidence();
        }
        if let Err(error) = self.script(&["down"]) {
            eprintln!("taking the cluster down: {error:#}");
        }
    }
}

impl Cluster {
    /// The logs' ends, for who reads the failed test's output.
    fn keep_evidence(&self) {
        for n in 1..=self.nodes {
            for log in [
                "leader.log",
                "worker.log",
                "hydfsd.log",
                "memberd.log",
                "console.log",
            ] {
                let path = self.path(&format!("run/n{n}/log/{log}"));
                let Ok(text) = std::fs::read_to_string(&path) else {
                    continue;
                };
                let lines: Vec<&str> = text.lines().collect();
                eprintln!("--- n{n} {log}");
                lines
                    .iter()
                    .skip(lines.len().saturating_sub(25))
                    .for_each(|l| eprintln!("{l}"));
            }
        }
    }
}

/// `kill -9`.
pub fn kill_process(pid: i32) -> Result<()> {
    kill(Pid::from_raw(pid), Signal::SIGKILL).with_context(|| format!("killing {pid}"))
}

/// Runs a command that must succeed; its standard output.
pub fn succeed(command: &mut Command) -> Result<String> {
    let out = command.output().with_context(|| format!("{command:?}"))?;
    let said = || {
        format!(
            "{}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        )
    };
    ensure!(
        out.status.success(),
        "{command:?} ended with {}: {}",
        out.status,
        said()
    );
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// `lines` lines of words, about every tenth with `static` in it; the same for the same seed. Each line is unique.
pub fn write_text(path: &Path, lines: u64, seed: u64) -> Result<()> {
    const WORDS: [&str; 12] = [
        "let", "static", "fn", "use", "impl", "pub", "match", "self", "return", "struct", "for", "mod",
    ];
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut out = std::io::BufWriter::new(File::create(path)?);
    for line in 0..lines {
        write!(out, "{}", WORDS[(random() % 12) as usize])?;
        for _ in 0..random() % 6 {
            write!(out, " {}", WORDS[(random() % 12) as usize])?;
        }
        writeln!(out, " {line}")?;
    }
    Ok(out.flush()?)
}
