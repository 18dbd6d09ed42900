//! Storage nodes alone, without SSH: `memberd` and `hydfsd` of a cluster of their own, perhaps each in a network namespace. All is ended and removed
//! when it is dropped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context, Result, ensure};

use crate::{PATIENCE, root, skip, succeed, wait_for};

/// A cluster's nodes `n1`, `n2`, ...
pub struct Storage {
    folder: tempfile::TempDir,
    bin: PathBuf,
    count: usize,
    /// By program and node.
    running: Vec<(String, Child)>,
    namespaces: Option<Namespaces>,
}

/// The subnet of nodes in network namespaces.
const SPACE: &str = "10.62.0";

impl Storage {
    /// Addresses are `subnet.11`, `.12`, ...; `settings` goes to the head of the cluster file. Nothing is started yet.
    pub fn new(subnet: &str, count: usize, settings: &str) -> Result<Self> {
        let bin = match std::env::var_os("RAINSTORM_BIN") {
            Some(bin) => bin.into(),
            None => root().join("target/release"),
        };
        for program in ["memberd", "hydfsd", "hydfs"] {
            let path = bin.join(program);
            ensure!(
                path.exists(),
                "{} is not built; type: cargo build --release --workspace",
                path.display()
            );
        }
        let folder = tempfile::Builder::new().prefix("rainstorm-test-").tempdir()?;
        let mut text = format!("secret_file = \"secret\"\n{settings}\n");
        for n in 1..=count {
            let addr = format!("{subnet}.{}", 10 + n);
            text.push_str(&format!(
                "\n[[node]]\nname = \"n{n}\"\naddr = \"{addr}\"\ndata = \"n{n}/data\"\nlog = \"n{n}/log\"\n"
            ));
            std::fs::create_dir_all(folder.path().join(format!("n{n}/data")))?;
        }
        std::fs::write(folder.path().join("cluster.toml"), text)?;
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "c3RvcmFnZSB0ZXN0cyBuZWVkIGEgc2VjcmV0IHRvbywgYW55\n")?;
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self {
            folder,
            bin,
            count,
            running: Vec::new(),
            namespaces: None,
        })
    }

    /// Each node in a network namespace, all on one switch. `None`: this machine does not let us; says why on standard error.
    pub fn in_namespaces(count: usize, settings: &str) -> Result<Option<Self>> {
        let mut storage = Self::new(SPACE, count, settings)?;
        match Namespaces::make(count) {
            Ok(namespaces) => storage.namespaces = Some(namespaces),
            Err(error) => {
                skip(format_args!("no network namespaces here: {error:#}"));
                return Ok(None);
            }
        }
        Ok(Some(storage))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn nodes(&self) -> usize {
        self.count
    }

    /// A program as it would run on that node, told about the cluster.
    pub fn on(&self, node: usize, program: &Path) -> Command {
        let program = if program.components().count() == 1 {
            self.bin.join(program)
        } else {
            program.into()
        };
        let mut command = match &self.namespaces {
            Some(spaces) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &spaces.name(node)]).arg(program);
                command
            }
            None => Command::new(program),
        };
        command
            .env("RAINSTORM_CLUSTER", self.path("cluster.toml"))
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    pub fn start(&mut self, node: usize, program: &str) -> Result<()> {
        let out = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path(&format!("n{node}/{program}.out")))?;
        let mut command = self.on(node, Path::new(program));
        command
            .args(["--node", &format!("n{node}")])
            .stdout(out.try_clone()?)
            .stderr(out);
        let child = command.spawn().with_context(|| format!("start {program}"))?;
        self.running.push((format!("{program} {node}"), child));
        Ok(())
    }

    /// All nodes' storage daemons, with or without a `memberd` each, and waits until they know each other.
    pub fn start_all(&mut self, memberd: bool) -> Result<()> {
        for node in 1..=self.count {
            if memberd {
                self.start(node, "memberd")?;
            }
            self.start(node, "hydfsd")?;
        }
        self.wait_alive(1, self.count)
    }

    pub fn wait_alive(&self, asked: usize, count: usize) -> Result<()> {
        wait_for(
            &format!("{count} nodes alive, as n{asked} sees it"),
            PATIENCE,
            || {
                let ring = self.hydfs(asked, &["--patience", "2", "list_mem_ids"])?;
                let text = String::from_utf8_lossy(&ring.stdout).into_owned();
                Ok((text.matches("alive").count() >= count).then_some(()))
            },
        )
    }

    /// Ends the program with that signal (`KILL`, `TERM`); waits until it has ended. Its exit code, if it had one.
    pub fn stop(
        &mut self,
        node: usize,
        program: &str,
        signal: nix::sys::signal::Signal,
    ) -> Result<Option<i32>> {
        let what = format!("{program} {node}");
        let at = self.running.iter().position(|(name, _)| *name == what);
        let (_, mut child) = self
            .running
            .remove(at.with_context(|| format!("{what} does not run"))?);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), signal)?;
        Ok(wait_end(&mut child)?.code())
    }

    /// Waits until the program ends by itself.
    pub fn wait_exit(&mut self, node: usize, program: &str) -> Result<Option<i32>> {
        let what = format!("{program} {node}");
        let at = self.running.iter().position(|(name, _)| *name == what);
        let (_, mut child) = self
            .running
            .remove(at.with_context(|| format!("{what} does not run"))?);
        let ended = wait_end(&mut child);
        if ended.is_err() {
            self.running.push((what, child));
        }
        Ok(ended?.code())
    }

    /// `hydfs` as run on that node.
    pub fn hydfs(&self, node: usize, args: &[&str]) -> Result<Output> {
        let mut command = self.on(node, Path::new("hydfs"));
        Ok(command
            .args(["--node", &format!("n{node}")])
            .args(args)
            .output()?)
    }

    /// The same, which must succeed; its standard output.
    pub fn hydfs_ok(&self, node: usize, args: &[&str]) -> Result<String> {
        let mut command = self.on(node, Path::new("hydfs"));
        succeed(command.args(["--node", &format!("n{node}")]).args(args))
    }

    pub fn log(&self, node: usize) -> String {
        let text = |name: &str| std::fs::read_to_string(self.path(name)).unwrap_or_default();
        text(&format!("n{node}/log/hydfsd.log")) + &text(&format!("n{node}/hydfsd.out"))
    }

    /// Takes the cable of these nodes to a switch of their own; with none, all are on one again.
    pub fn part(&self, side: &[usize]) -> Result<()> {
        let spaces = self
            .namespaces
            .as_ref()
            .context("these nodes have no namespaces")?;
        for node in 1..=self.count {
            let switch = if side.contains(&node) { "br1" } else { "br0" };
            spaces.hub(&["ip", "link", "set", &format!("v{node}"), "master", switch])?;
        }
        Ok(())
    }

    /// From now on what `from` sends to `to` gets lost on the way, without a word; the other direction is as before.
    pub fn lose(&self, from: usize, to: usize) -> Result<()> {
        // The address of a network card that nobody has.
        self.neighbour(from, &["replace", &address(to), "lladdr", NOBODY, "dev", "eth0"])
    }

    /// It arrives again.
    pub fn lose_no_more(&self, from: usize, to: usize) -> Result<()> {
        self.neighbour(from, &["del", &address(to), "dev", "eth0"])
    }

    fn neighbour(&self, node: usize, args: &[&str]) -> Result<()> {
        let spaces = self
            .namespaces
            .as_ref()
            .context("these nodes have no namespaces")?;
        run(&[&["ip", "-n", &spaces.name(node), "neigh"], args].concat())
    }
}

fn wait_end(child: &mut Child) -> Result<std::process::ExitStatus> {
    wait_for("a program's end", PATIENCE, || Ok(child.try_wait()?))
}

impl Drop for Storage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in 1..=self.count {
                let log = self.log(node);
                let lines: Vec<&str> = log.lines().collect();
                eprintln!("--- n{node} hydfsd");
                lines
                    .iter()
                    .skip(lines.len().saturating_sub(25))
                    .for_each(|l| eprintln!("{l}"));
            }
        }
        for (_, child) in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

const NOBODY: &str = "02:00:00:00:00:01";

/// A node's in its network namespace.
fn address(node: usize) -> String {
    format!("{SPACE}.{}", 10 + node)
}

/// One network namespace per node and one with the switches between them.
struct Namespaces {
    prefix: String,
    made: Vec<String>,
}

impl Namespaces {
    fn make(count: usize) -> Result<Self> {
        let mut spaces = Self {
            prefix: format!("rs{}", std::process::id()),
            made: Vec::new(),
        };
        let hub = format!("{}-hub", spaces.prefix);
        spaces.add(&hub)?;
        for switch in ["br0", "br1"] {
            spaces.hub(&["ip", "link", "add", switch, "type", "bridge"])?;
            spaces.hub(&["ip", "link", "set", switch, "up"])?;
        }
        for node in 1..=count {
            let name = spaces.name(node);
            spaces.add(&name)?;
            let (cable, addr) = (format!("v{node}"), format!("{}/24", address(node)));
            spaces.hub(&[
                "ip", "link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns", &name,
            ])?;
            spaces.hub(&["ip", "link", "set", &cable, "master", "br0", "up"])?;
            let inside = |args: &[&str]| run(&[&["ip", "-n", &name], args].concat());
            inside(&["addr", "add", &addr, "dev", "eth0"])?;
            inside(&["link", "set", "eth0", "up"])?;
            inside(&["link", "set", "lo", "up"])?;
        }
        Ok(spaces)
    }

    fn add(&mut self, name: &str) -> Result<()> {
        run(&["ip", "netns", "add", name])?;
        self.made.push(name.into());
        Ok(())
    }

    fn name(&self, node: usize) -> String {
        format!("{}-n{node}", self.prefix)
    }

    fn hub(&self, args: &[&str]) -> Result<()> {
        run(&[&["ip", "netns", "exec", &format!("{}-hub", self.prefix)], args].concat())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.made {
            if let Err(error) = run(&["ip", "netns", "del", name]) {
                eprintln!("removing the namespace {name}: {error:#}");
            }
        }
    }
}

fn run(args: &[&str]) -> Result<()> {
    succeed(Command::new(args[0]).args(&args[1..]).stdin(Stdio::null())).map(drop)
}
