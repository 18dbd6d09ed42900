//! A network for each node: namespaces joined by a program that loses, holds back and doubles packets, and cuts nodes off.
//!
//! Nothing of it outlives the test, not even one that is killed: the program ends with its standard input, the namespaces with
//! the program and the nodes' processes.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};

use crate::{Cluster, Special, succeed};

const SWITCH: &str = include_str!("network/switch.c");

/// A cluster's network. Nodes are `n1` and so on.
#[derive(Clone)]
pub struct Network(Arc<Mutex<Switch>>);

struct Switch {
    child: Child,
    say: Option<ChildStdin>,
    hear: BufReader<ChildStdout>,
}

/// Packets since the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub passed: u64,
    pub lost: u64,
    pub held_back: u64,
    pub doubled: u64,
}

impl Drop for Switch {
    fn drop(&mut self) {
        drop(self.say.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether namespaces can be made here; why not, otherwise.
pub fn is_possible() -> Result<(), String> {
    if !Path::new("/dev/net/tun").exists() {
        return Err("there is no /dev/net/tun".into());
    }
    let tried = Command::new("unshare")
        .args(["-n", "ip", "link", "set", "lo", "up"])
        .output();
    match tried {
        Ok(out) if out.status.success() => Ok(()),
        Ok(out) => Err(String::from_utf8_lossy(&out.stderr).trim().into()),
        Err(error) => Err(format!("unshare: {error}")),
    }
}

/// A cluster each of whose nodes is alone in its network, with addresses from `prefix`.11 on. Commands on it are n1's.
pub fn cluster(prefix: &str, nodes: usize) -> Result<(Cluster, Network)> {
    let folder = tempfile::tempdir()?;
    let program = build(folder.path(), "switch.c", SWITCH, &[])?;
    let mut child = Command::new(program)
        .args([prefix, "11", &nodes.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let say = child.stdin.take();
    let hear = BufReader::new(child.stdout.take().context("its output")?);
    let mut switch = Switch { child, say, hear };
    let mut first = String::from("case $node in\n");
    let mut enter = vec![];
    for n in 1..=nodes {
        let mut pid = String::new();
        switch.hear.read_line(&mut pid)?;
        let ns = format!("--net=/proc/{}/ns/net", pid.trim());
        ensure!(!pid.is_empty(), "the network cannot be made");
        first += &format!("n{n}) enter='nsenter {ns}' ;;\n");
        if n == 1 {
            enter = vec!["nsenter".to_owned(), ns];
        }
    }
    first += "esac";
    let network = Network(Arc::new(Mutex::new(switch)));
    let kept = network.clone();
    let special = Special {
        first,
        enter,
        prepare: Some(Box::new(move |_| {
            Ok(vec![Box::new(kept) as Box<dyn Send + Sync>])
        })),
        ..Special::default()
    };
    Ok((Cluster::up_with(prefix, nodes, special)?, network))
}

impl Network {
    fn tell(&self, what: &str) -> Result<Counts> {
        let mut switch = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let say = switch.say.as_mut().context("the network is gone")?;
        writeln!(say, "{what}")?;
        say.flush()?;
        let mut line = String::new();
        switch.hear.read_line(&mut line)?;
        let counts: Vec<u64> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let [passed, lost, held_back, doubled] = counts[..] else {
            anyhow::bail!("the network answers `{}` to `{what}`", line.trim())
        };
        Ok(Counts {
            passed,
            lost,
            held_back,
            doubled,
        })
    }

    /// Nothing passes to or from the `n`-th node any more.
    pub fn cut(&self, n: usize) -> Result<Counts> {
        self.tell(&format!("cut {}", n - 1))
    }

    pub fn mend(&self, n: usize) -> Result<Counts> {
        self.tell(&format!("mend {}", n - 1))
    }

    /// Of a hundred packets so many are lost, held back for some milliseconds (others overtake them), and sent twice.
    pub fn harm(&self, lost: u8, held_back: u8, doubled: u8) -> Result<Counts> {
        self.tell(&format!("loss {lost} {held_back} {doubled}"))
    }

    pub fn counts(&self) -> Result<Counts> {
        self.tell("counts")
    }
}

/// Compiles a C program that only tests need.
pub fn build(folder: &Path, name: &str, text: &str, args: &[&str]) -> Result<std::path::PathBuf> {
    let source = folder.join(name);
    std::fs::write(&source, text)?;
    let out = source.with_extension("out");
    let mut cc = Command::new("cc");
    succeed(cc.args(["-O2", "-Wall", "-o"]).arg(&out).arg(&source).args(args))?;
    Ok(out)
}
