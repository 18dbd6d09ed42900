//! The cluster file, `cluster.toml`: the one description of the cluster that every program reads.

mod keeping;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::ids::NodeName;
use crate::secret::{self, Secret};
use crate::size::Size;
use crate::telemetry::LogTo;

pub use keeping::{Jobs, Keep, Log};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "no cluster file: {path} does not exist ({how}); start a local cluster with `demo/cluster.sh up`, then pass --cluster run/cluster.toml or set RAINSTORM_CLUSTER"
    )]
    Missing { path: PathBuf, how: &'static str },
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}:{line}: {what}")]
    Invalid {
        path: PathBuf,
        line: usize,
        what: String,
    },
    #[error(transparent)]
    Secret(#[from] secret::Error),
    #[error("{path} has no node `{name}`; it has {have}")]
    NoSuchNode {
        path: PathBuf,
        name: String,
        have: String,
    },
}

/// How strangers are kept out of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// Both sides prove that they know the secret; then the connection goes on in the clear.
    Auth,
    /// The same, and everything after is encrypted.
    Encrypt,
}

/// From where what is served over HTTP can be reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HttpBind {
    /// From the machine itself.
    #[default]
    Loopback,
    /// From wherever the node's address can be reached.
    Node,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Acknowledged when in the page cache of every replica: survives killed processes and the loss of two nodes.
    Os,
    /// Acknowledged when on the disk of every replica.
    Fsync,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ports {
    /// UDP, membership.
    pub membership: u16,
    /// TCP, joins and the subscriber stream of memberd.
    pub introducer: u16,
    /// TCP, membership's HTTP admin.
    pub admin: u16,
    /// TCP, HyDFS.
    pub hydfs: u16,
    /// TCP, the leader's control connections; a second job's leader on the same node takes the next free of ten.
    pub control: u16,
    /// TCP, the leader's HTTP.
    pub http: u16,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            membership: 5000,
            introducer: 6000,
            admin: 8080,
            hydfs: 10010,
            control: 15000,
            http: 15080,
        }
    }
}

/// How SSH reaches a node. What is absent is left to the user's own SSH configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ssh {
    pub user: Option<String>,
    pub port: Option<u16>,
    pub key: Option<PathBuf>,
    pub known_hosts: Option<PathBuf>,
}

/// How memberd looks for failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// SWIM: a direct probe, then indirect ones.
    PingAck,
    /// Heartbeats, passed on from node to node.
    Gossip,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Protocol::PingAck => "pingack",
            Protocol::Gossip => "gossip",
        })
    }
}

/// Failure detection as it begins: the group may change it while it runs. Times in milliseconds.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Membership {
    /// One probe per node and period.
    pub period_ms: u64,
    /// How long a direct probe's answer may take before others are asked to probe.
    pub ping_timeout_ms: u64,
    /// How many others are asked.
    pub indirect: usize,
    /// How long a suspected node has to refute.
    pub suspicion_ms: u64,
    /// How long a failed node stays listed (and is now and then probed again).
    pub cleanup_ms: u64,
    pub protocol: Protocol,
    /// Whether an accused node may refute before it is called failed.
    pub suspicion: bool,
    /// Gossip: heartbeats are sent once per period ...
    pub gossip_period_ms: u64,
    /// ... to so many others.
    pub fanout: usize,
    /// Gossip: who has been silent for so long is accused.
    pub fail_ms: u64,
    /// For tests: the part of arriving datagrams that is thrown away, 0 to 0.9.
    pub drop_rate: f64,
}

impl Default for Membership {
    fn default() -> Self {
        Self {
            period_ms: 600,
            ping_timeout_ms: 100,
            indirect: 3,
            suspicion_ms: 1000,
            cleanup_ms: 60_000,
            protocol: Protocol::PingAck,
            suspicion: true,
            gossip_period_ms: 200,
            fanout: 3,
            fail_ms: 900,
            drop_rate: 0.0,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Hydfs {
    pub durability: Durability,
    /// How long a peer's storage daemon may be silent on its connection before it is called failed.
    pub peer_timeout_ms: u64,
    /// Bandwidth of re-replication, bytes per second and node; 0 for no limit.
    pub repair_bytes_per_s: u64,
    /// How much each user's `hydfs` keeps of what it got, on the disk of the machine it runs on; 0 for nothing.
    pub cache: Size,
    /// A disk that is used so far, in percent, is warned of.
    pub warn_percent: u8,
    /// New files of users are refused where the disk of one of their nodes is used so far, in percent.
    pub refuse_percent: u8,
}

impl Default for Hydfs {
    fn default() -> Self {
        Self {
            durability: Durability::Os,
            peer_timeout_ms: 3000,
            repair_bytes_per_s: 200_000_000,
            cache: Size(0),
            warn_percent: 85,
            refuse_percent: 92,
        }
    }
}

/// Tunables of jobs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Job {
    /// A batch closes at this many bytes ...
    pub batch_bytes: usize,
    /// ... or after this long, where no append to the task's log closes it.
    pub linger_ms: u64,
    /// Bytes that a task keeps for another until it acknowledges them, or three times as many for all others together: with more
    /// it stops reading. So many for each stage behind the task, where the output is to be exact: an acknowledgement comes when
    /// what became of the bytes is safe in its turn, after some 75 ms a stage under full load.
    pub window_bytes: usize,
    /// How long a worker or the leader may be silent on the control connection.
    pub lease_ms: u64,
}

impl Default for Job {
    fn default() -> Self {
        Self {
            batch_bytes: 128 * 1024,
            linger_ms: 2,
            window_bytes: 6 * 1024 * 1024,
            lease_ms: 3000,
        }
    }
}

/// One node, every default filled in and every path absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub name: NodeName,
    pub addr: IpAddr,
    /// Storage, operator cache. Created when missing.
    pub data: PathBuf,
    /// `worker.log`, `hydfsd.log`, ... Created when missing.
    pub log: PathBuf,
    /// Where RainStorm's programs are on that node; `None`: where the leader's own are.
    pub bin: Option<PathBuf>,
    pub ssh: Ssh,
}

/// The parsed and checked cluster file.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    pub path: PathBuf,
    /// In the file's order; indexes into this list are stable while the file is.
    pub nodes: Vec<Node>,
    pub ports: Ports,
    /// Copies of every file.
    pub replication: usize,
    pub secret_file: PathBuf,
    pub security: Security,
    pub http_bind: HttpBind,
    pub membership: Membership,
    pub hydfs: Hydfs,
    pub job: Job,
    pub jobs: Jobs,
    pub log: Log,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNode {
    name: Spanned<String>,
    addr: Spanned<String>,
    data: Option<PathBuf>,
    log: Option<PathBuf>,
    bin: Option<PathBuf>,
    #[serde(default)]
    ssh: Ssh,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    secret_file: Spanned<PathBuf>,
    replication: Option<Spanned<usize>>,
    security: Option<Security>,
    #[serde(default)]
    http_bind: HttpBind,
    #[serde(default)]
    ports: Ports,
    #[serde(default)]
    ssh: Ssh,
    #[serde(default)]
    membership: Membership,
    hydfs: Option<Spanned<Hydfs>>,
    #[serde(default)]
    job: Job,
    #[serde(default)]
    jobs: Jobs,
    log: Option<Spanned<Log>>,
    #[serde(default)]
    node: Vec<RawNode>,
}

impl Cluster {
    /// Finds the file as every program does: `--cluster`, else `$RAINSTORM_CLUSTER`, else `./cluster.toml`.
    pub fn find(flag: Option<&Path>) -> Result<Self, Error> {
        let (path, how) = match (flag, std::env::var_os("RAINSTORM_CLUSTER")) {
            (Some(path), _) => (path.to_path_buf(), "named by --cluster"),
            (None, Some(path)) => (path.into(), "named by RAINSTORM_CLUSTER"),
            (None, None) => ("cluster.toml".into(), "the default"),
        };
        if !path.exists() {
            return Err(Error::Missing { path, how });
        }
        Self::load(&path)
    }

    pub fn load(path: &Path) -> Result<Self, Error> {
        let read = |source| Error::Read {
            path: path.into(),
            source,
        };
        let text = std::fs::read_to_string(path).map_err(read)?;
        let path = path.canonicalize().map_err(read)?;
        Self::parse(&path, &text)
    }

    /// Checks a file's text. `path` is where it came from: relative paths in it are relative to its folder.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Error> {
        let line_of = |offset: usize| 1 + text[..offset.min(text.len())].matches('\n').count();
        let invalid = |offset: usize, what: String| Error::Invalid {
            path: path.into(),
            line: line_of(offset),
            what,
        };
        let raw: Raw = toml::from_str(text).map_err(|e| {
            invalid(
                e.span().map_or(0, |s| s.start),
                e.message().trim().replace('\n', " "),
            )
        })?;
        let base = path.parent().unwrap_or(Path::new("."));

        if raw.node.is_empty() {
            return Err(invalid(
                text.len(),
                "no nodes; add one: [[node]] name = \"n1\" addr = \"192.0.2.1\"".into(),
            ));
        }
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut nodes = Vec::new();
        for node in raw.node {
            let at = node.name.span().start;
            let name = NodeName::new(node.name.get_ref().as_str()).map_err(|e| invalid(at, e.to_string()))?;
            let addr: IpAddr = node.addr.get_ref().parse().map_err(|_| {
                invalid(
                    node.addr.span().start,
                    format!("`{}` is not an IP address", node.addr.get_ref()),
                )
            })?;
            for (key, at) in [
                (format!("name `{name}`"), at),
                (format!("address {addr}"), node.addr.span().start),
            ] {
                if let Some(first) = seen.insert(key.clone(), at) {
                    return Err(invalid(
                        at,
                        format!("{key} is used twice, first in line {}", line_of(first)),
                    ));
                }
            }
            let under = |given: Option<PathBuf>, default: &str| {
                base.join(given.unwrap_or_else(|| Path::new(name.as_str()).join(default)))
            };
            let mut ssh = node.ssh;
            ssh.user = ssh.user.or_else(|| raw.ssh.user.clone());
            ssh.port = ssh.port.or(raw.ssh.port);
            ssh.key = ssh.key.or_else(|| raw.ssh.key.clone()).map(|p| base.join(p));
            ssh.known_hosts = ssh
                .known_hosts
                .or_else(|| raw.ssh.known_hosts.clone())
                .map(|p| base.join(p));
            nodes.push(Node {
                data: under(node.data, "data"),
                log: under(node.log, "log"),
                bin: node.bin.map(|p| base.join(p)),
                name,
                addr,
                ssh,
            });
        }
        let replication = match raw.replication {
            Some(r) if (1..=7).contains(r.get_ref()) => *r.get_ref(),
            Some(r) => return Err(invalid(r.span().start, "replication is 1 to 7".into())),
            None => 3,
        };
        let secret_file = base.join(raw.secret_file.get_ref());
        if !secret_file.exists() {
            return Err(invalid(
                raw.secret_file.span().start,
                format!(
                    "the secret file {} does not exist; make it: head -c 32 /dev/urandom | base64 > {0} && chmod 600 {0}",
                    secret_file.display()
                ),
            ));
        }
        let hydfs_at = raw.hydfs.as_ref().map_or(0, |hydfs| hydfs.span().start);
        let hydfs = raw.hydfs.map(Spanned::into_inner).unwrap_or_default();
        let (warn, refuse) = (hydfs.warn_percent, hydfs.refuse_percent);
        if warn == 0 || refuse > 100 || warn > refuse {
            let what = "[hydfs] warn_percent is at least 1, and refuse_percent is between it and 100";
            return Err(invalid(hydfs_at, what.into()));
        }
        let log = match raw.log {
            Some(log) => {
                log.get_ref()
                    .check()
                    .map_err(|what| invalid(log.span().start, what))?;
                log.into_inner()
            }
            None => Log::default(),
        };
        Ok(Self {
            path: path.into(),
            nodes,
            ports: raw.ports,
            replication,
            secret_file,
            security: raw.security.unwrap_or(Security::Auth),
            http_bind: raw.http_bind,
            membership: raw.membership,
            hydfs,
            job: raw.job,
            jobs: raw.jobs,
            log,
        })
    }

    /// Where a program of `node` serves HTTP: its own address if that is the machine's alone, or if `http_bind` says so; else
    /// 127.0.0.1.
    pub fn http_addr(&self, node: &Node, port: u16) -> SocketAddr {
        match self.http_bind {
            HttpBind::Loopback if !node.addr.is_loopback() => (Ipv4Addr::LOCALHOST, port).into(),
            _ => node.at(port),
        }
    }

    pub fn secret(&self) -> Result<Secret, Error> {
        Ok(Secret::load(&self.secret_file)?)
    }

    pub fn node(&self, name: &str) -> Result<&Node, Error> {
        self.nodes
            .iter()
            .find(|n| n.name.as_str() == name)
            .ok_or_else(|| Error::NoSuchNode {
                path: self.path.clone(),
                name: name.into(),
                have: self
                    .nodes
                    .iter()
                    .map(|n| n.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }

    /// The first node whose address is this machine's own: the default for a leader or client started by hand.
    pub fn local_node(&self) -> Option<&Node> {
        self.nodes.iter().find(|n| n.is_here())
    }

    /// Where a program of `node` logs to.
    pub fn log_of<'a>(&self, node: &'a Node, name: &'a str) -> LogTo<'a> {
        LogTo {
            folder: &node.log,
            name,
            limits: self.log,
        }
    }

    pub fn job_lease(&self) -> Duration {
        Duration::from_millis(self.job.lease_ms)
    }
}

impl Node {
    /// Is it this machine? That is, can its address be listened at here.
    pub fn is_here(&self) -> bool {
        std::net::UdpSocket::bind((self.addr, 0)).is_ok()
    }

    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.addr, port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Cluster, Error> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "x".repeat(32)).unwrap();
        Cluster::parse(&dir.path().join("cluster.toml"), text)
    }

    const GOOD: &str = "secret_file = \"secret\"\n[ssh]\nport = 2222\n[[node]]\nname = \"n1\"\naddr = \"127.0.0.11\"\n[[node]]\nname = \"n2\"\naddr = \"127.0.0.12\"\nssh.port = 23\n";

    #[test]
    fn defaults_are_filled_in_and_node_settings_win() {
        let c = parse(GOOD).unwrap();
        assert_eq!(
            (c.replication, c.ports.hydfs, c.security),
            (3, 10010, Security::Auth)
        );
        assert_eq!(c.nodes[0].ssh.port, Some(2222));
        assert_eq!(c.nodes[1].ssh.port, Some(23));
        assert!(c.nodes[0].data.is_absolute() && c.nodes[0].data.ends_with("n1/data"));
        assert!(c.node("n2").is_ok());
        assert!(c.node("n9").unwrap_err().to_string().contains("it has n1, n2"));
    }

    #[test]
    fn http_is_for_the_machine_alone_unless_the_file_says_otherwise() {
        let at = |addr: &str, more: &str| {
            let c = parse(&format!("{more}{}", GOOD.replace("127.0.0.11", addr))).unwrap();
            c.http_addr(&c.nodes[0], 15080).to_string()
        };
        assert_eq!(at("127.0.0.11", ""), "127.0.0.11:15080");
        assert_eq!(at("192.0.2.1", ""), "127.0.0.1:15080");
        assert_eq!(at("192.0.2.1", "http_bind = \"node\"\n"), "192.0.2.1:15080");
        assert_eq!(at("192.0.2.1", "http_bind = \"loopback\"\n"), "127.0.0.1:15080");
    }

    #[test]
    fn mistakes_are_refused_with_their_line() {
        let line = |text: &str| match parse(text).unwrap_err() {
            Error::Invalid { line, what, .. } => (line, what),
            other => panic!("{other}"),
        };
        assert_eq!(line(&format!("{GOOD}colour = 3\n")).0, 11);
        let (at, what) = line(&GOOD.replace("n2", "n1"));
        assert!(at == 8 && what.contains("first in line 5"), "{at} {what}");
        assert_eq!(line(&GOOD.replace("127.0.0.12", "127.0.0.11")).0, 9);
        assert_eq!(line(&GOOD.replace("127.0.0.12", "nowhere")).0, 9);
        assert_eq!(line(&GOOD.replace("= \"secret\"", "= \"other\"")).0, 1);
        assert!(line("secret_file = \"secret\"\n").1.contains("no nodes"));
        assert_eq!(line(&format!("replication = 0\n{GOOD}")).0, 1);
        let (at, what) = line(&format!("{GOOD}[hydfs]\ncache = \"64 apples\"\n"));
        assert!(at == 12 && what.contains("64MiB"), "{at} {what}");
        let (at, what) = line(&format!("{GOOD}[hydfs]\nwarn_percent = 95\n"));
        assert!(at == 11 && what.contains("refuse_percent"), "{at} {what}");
        let (at, what) = line(&format!("{GOOD}[jobs]\nkeep_ended = \"7 moons\"\n"));
        assert!(at == 12 && what.contains("forever"), "{at} {what}");
        let keep = |text: &str| {
            parse(&format!("{GOOD}[jobs]\nkeep_ended = \"{text}\"\n"))
                .unwrap()
                .jobs
                .keep_ended
        };
        assert_eq!(keep("forever"), Keep::Forever);
        assert_eq!(keep("36h"), Keep::For(Duration::from_secs(36 * 3600)));
        let (at, what) = line(&format!("{GOOD}[log]\nfiles = 1\n"));
        assert!(at == 11 && what.contains("2 to 100"), "{at} {what}");
        assert_eq!(line(&format!("{GOOD}[log]\nmax_size = \"1KiB\"\n")).0, 11);
        let cache = parse(&format!("{GOOD}[hydfs]\ncache = \"64MiB\"\n"))
            .unwrap()
            .hydfs
            .cache;
        assert_eq!(cache, Size(64 << 20));
    }
}
