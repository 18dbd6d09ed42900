//! From a command line to a job that may start: what can be refused is refused here, before any worker exists. What does
//! not depend on each other goes on at the same time.

pub(super) mod files;
mod hand_over;
mod resume;
mod standby;
mod start;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::cluster::{Cluster, Node};
use common::ids::{JobName, NodeName};
use common::net::Identity;
use common::replacement;
use common::secret::Secret;
use common::signals::Stop;
use common::telemetry;
use hydfs::client::Client;
use memberd::client::Follower;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::error::Error;
use crate::cli::{LauncherKind, Request, What};
use crate::progress::Screen;
use job::journal::Journal;
use job::machine::Job;
use job::standby::Standbys;
use launcher::ssh::{Opening, Ssh};
use launcher::{self, Launcher, local::Local};
use page::Events;

const MEMBERD_WITHIN: Duration = Duration::from_secs(5);
const STORE_PATIENCE: Duration = Duration::from_secs(10);

/// All that running needs.
pub struct Ready {
    pub base: Base,
    pub started_us: u64,
    pub job: Job,
    pub journal: Journal,
    pub listener: TcpListener,
    pub addr: SocketAddr,
    pub launcher: Box<dyn Launcher>,
    pub launched: mpsc::UnboundedReceiver<launcher::ProcessEvent>,
    /// Where this program is: workers are beside it unless the cluster file says otherwise.
    pub own_folder: PathBuf,
    pub standbys: Standbys,
}

pub enum Outcome {
    Ready(Box<Ready>),
    DryRun(String),
    /// A standby that had nothing to take up.
    NotNeeded,
    /// Another node leads it.
    HandedOver(JobName),
}

/// Asked to stop, it leaves nothing behind and ends with [`Error::Stopped`].
pub async fn prepare(request: Request, started_us: u64, stop: &Stop) -> Result<Outcome, Error> {
    check_file("--summary", request.summary.as_deref())?;
    check_file("--report", request.report.as_deref())?;
    match request.what.clone() {
        What::Start(start) => start::prepare(request, start, started_us, stop).await,
        What::Resume(how) => stop
            .unless(resume::prepare(request, how, started_us))
            .await
            .map_err(Error::Stopped)?,
        What::StandBy(how) => stop
            .unless(standby::prepare(request, how))
            .await
            .unwrap_or(Ok(Outcome::NotNeeded)),
    }
}

/// What every leader has, whatever its job.
pub struct Base {
    pub request: Request,
    pub cluster: Arc<Cluster>,
    pub node: Node,
    pub me: Identity,
    pub client: Client,
    pub follower: Follower,
    pub screen: Screen,
    pub log: telemetry::Guard,
    /// Every line of this process names its job.
    _context: tracing::span::EnteredSpan,
    /// What the log says, for the page.
    pub events: Events,
}

impl Base {
    /// `secret`: where the cluster's own secret file is not to be read.
    fn new(request: Request, job: &JobName, secret: Option<Secret>) -> Result<Self, Error> {
        let cluster = Arc::new(Cluster::find(request.cluster.as_deref())?);
        // Who only hands a job over need not be a node.
        let guest = request.on.as_ref().and_then(|_| cluster.nodes.first());
        let node = match &request.node {
            Some(name) => cluster.node(name)?,
            None => cluster.local_node().or(guest).ok_or_else(|| {
                Error::Cannot(format!(
                    "no node of {} has an address of this machine; run the leader on one of the nodes, or say which this is with --node",
                    cluster.path.display()
                ))
            })?,
        }
        .clone();
        let secret = match secret {
            Some(secret) => secret,
            None => cluster.secret()?,
        };
        let screen = Screen::new(request.progress);
        let events = Events::default();
        let tap = Some(events.tap());
        let folder = node.is_here().then(|| cluster.log_of(&node, "leader.log"));
        let log = telemetry::init_tapped(folder, screen.writer(), tap)?;
        let context = tracing::error_span!("job", %job).entered();
        let me = Identity {
            who: format!("leader {job} {}", std::process::id()),
            node: Some(node.name.clone()),
            secret,
            security: cluster.security,
        };
        let client = Client::new(cluster.clone(), me.clone()).with_patience(STORE_PATIENCE);
        let follower = Follower::of_any(cluster.clone(), me.clone(), node.name.clone());
        Ok(Self {
            request,
            cluster,
            node,
            me,
            client,
            follower,
            screen,
            log,
            _context: context,
            events,
        })
    }

    /// Not usable as the job starts.
    fn failed(&self, alive: &BTreeSet<NodeName>) -> BTreeSet<NodeName> {
        let mut all = self.all_nodes();
        all.retain(|name| !alive.contains(name));
        all.into_iter().collect()
    }

    /// In the cluster file's order.
    fn all_nodes(&self) -> Vec<NodeName> {
        self.cluster.nodes.iter().map(|n| n.name.clone()).collect()
    }
}

/// Where a leader is reached, and what starts its workers.
struct LeaderEndpoint {
    listener: TcpListener,
    launcher: (Box<dyn Launcher>, mpsc::UnboundedReceiver<launcher::ProcessEvent>),
}

impl Ready {
    /// `failed`: nodes that are not usable as it starts.
    fn new(
        base: Base,
        started_us: u64,
        job: Job,
        journal: Journal,
        place: LeaderEndpoint,
        failed: BTreeSet<NodeName>,
    ) -> Result<Self, Error> {
        let LeaderEndpoint { listener, launcher } = place;
        let addr = listener.local_addr().map_err(|source| Error::Io {
            what: "the control port".into(),
            source,
        })?;
        let standbys = Standbys::new(
            job.plan().standbys,
            base.cluster.job_lease(),
            base.node.name.clone(),
            base.all_nodes(),
            failed,
        );
        Ok(Self {
            base,
            started_us,
            job,
            journal,
            listener,
            addr,
            launcher: launcher.0,
            launched: launcher.1,
            own_folder: own_folder()?,
            standbys,
        })
    }
}

/// A file that is written when all is over must not turn out to be impossible then.
fn check_file(option: &'static str, file: Option<&Path>) -> Result<(), Error> {
    let Some(file) = file else {
        return Ok(());
    };
    replacement::probe(file).map_err(|error| {
        let what = format!("{} cannot be written: {error}; name another file", file.display());
        Error::Usage(crate::cli::Error::Option { option, what })
    })
}

fn own_folder() -> Result<PathBuf, Error> {
    let io = |source| Error::Io {
        what: "where this program is".into(),
        source,
    };
    let exe = std::env::current_exe().map_err(io)?;
    Ok(exe.parent().unwrap_or(Path::new("/")).to_owned())
}

type Hosts = BTreeMap<NodeName, Opening>;
type Launching = (Box<dyn Launcher>, mpsc::UnboundedReceiver<launcher::ProcessEvent>);

/// With `open`, the nodes' hosts are being started while the rest is looked up.
fn start_launcher(base: &Base, job: &JobName, open: bool) -> Result<(Launching, Hosts), Error> {
    // Each launch has one event.
    let (events, launched) = mpsc::unbounded_channel();
    let secret = base.me.secret.clone();
    match base.request.launcher {
        LauncherKind::Local => {
            common::orphans::adopt().map_err(|source| Error::Io {
                what: "cannot become the parent of what operators leave behind".into(),
                source,
            })?;
            let local = Box::new(Local::new(secret, events));
            Ok(((local, launched), BTreeMap::new()))
        }
        LauncherKind::Ssh => {
            let io = |source| Error::Io {
                what: "cannot make a folder for SSH's sockets".into(),
                source,
            };
            let ssh = Ssh::new(&base.cluster, job.clone(), secret, &own_folder()?, events).map_err(io)?;
            let hosts = match open {
                true => ssh.open_all(),
                false => BTreeMap::new(),
            };
            Ok(((Box::new(ssh), launched), hosts))
        }
    }
}

/// Until the nodes that the job may use are ready, or have shown that they cannot be reached: those are returned, and the job
/// does without them. An error when there is no other.
async fn opened(mut hosts: Hosts, nodes: &[NodeName]) -> Result<BTreeSet<NodeName>, Error> {
    let mut refused = BTreeMap::new();
    let mut opened = 0;
    for node in nodes {
        let Some(opening) = hosts.remove(node) else {
            opened += 1;
            continue;
        };
        let error = match opening.await {
            Ok(Ok(())) => {
                opened += 1;
                continue;
            }
            Ok(Err(error)) => error.into(),
            Err(_) => Error::Cannot(format!("SSH to node {node} ended early")),
        };
        tracing::warn!(%node, %error, "NODE_UNREACHABLE");
        refused.insert(node.clone(), error);
    }
    match refused.pop_first() {
        Some((_, error)) if opened == 0 => Err(error),
        Some((first, _)) => Ok(refused.into_keys().chain([first]).collect()),
        None => Ok(BTreeSet::new()),
    }
}

/// The nodes that are alive, as this node's memberd sees it.
async fn members(follower: &Follower, node: &NodeName) -> Result<BTreeSet<NodeName>, Error> {
    let mut watch = follower.watch();
    let seen = tokio::time::timeout(MEMBERD_WITHIN, watch.wait_for(|view| view.connected)).await;
    let Ok(Ok(view)) = seen else {
        return Err(Error::Cannot(format!(
            "memberd of node {node} does not answer; is the cluster up? (`demo/cluster.sh status`, memberd.log on the node)"
        )));
    };
    let alive = view
        .members
        .values()
        .filter(|m| matches!(m.state, memberd::State::Alive | memberd::State::Suspect));
    let alive: BTreeSet<NodeName> = alive.map(|m| m.name.clone()).collect();
    if alive.is_empty() {
        return Err(Error::Cannot(format!(
            "memberd of node {node} knows no node that is alive"
        )));
    }
    Ok(alive)
}

/// Where tasks may be placed, in the cluster file's order.
fn place_of(cluster: &Cluster, alive: &BTreeSet<NodeName>) -> Vec<NodeName> {
    let all = cluster.nodes.iter().map(|n| n.name.clone());
    all.filter(|name| alive.contains(name)).collect()
}

async fn bind(cluster: &Cluster, node: &Node) -> Result<TcpListener, Error> {
    let mut last = None;
    for i in 0..api::find::PORTS {
        let Some(port) = cluster.ports.control.checked_add(i) else {
            break;
        };
        match TcpListener::bind(node.at(port)).await {
            Ok(listener) => return Ok(listener),
            Err(error) => last = Some(error),
        }
    }
    let ports = format!(
        "{} and the {} ports after it",
        node.at(cluster.ports.control),
        api::find::PORTS - 1
    );
    let source = last.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into());
    Err(Error::Io {
        what: format!("no free control port: tried {ports}"),
        source,
    })
}
