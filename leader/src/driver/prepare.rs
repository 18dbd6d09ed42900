//! From a command line to a job that may start: what can be refused is refused here, before any worker exists. What does
//! not depend on each other goes on at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::cluster::Cluster;
use common::ids::{JobName, NodeName};
use common::net::Identity;
use common::secret::Secret;
use common::telemetry;
use hydfs::client::{Client, Error as StoreError, Stat};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::Error;
use crate::cli::{IfExists, LauncherKind, Request};
use crate::journal::{self, Entry, Journal};
use crate::launcher::ssh::{Opening, Ssh};
use crate::launcher::{self, Launcher, local::Local};
use crate::operators::{self, Located, Resolved};
use crate::plan::{Input, Plan, SPLIT_FROM, Stage, place, slices};
use crate::progress::Screen;

const MEMBERD_WITHIN: Duration = Duration::from_secs(5);
const STORE_PATIENCE: Duration = Duration::from_secs(10);
const TIDY_WITHIN: Duration = Duration::from_secs(2);
/// Index questions under way at a time.
const AT_ONCE: usize = 16;

/// All that running needs.
pub struct Ready {
    pub request: Request,
    pub started_us: u64,
    pub cluster: Arc<Cluster>,
    pub me: Identity,
    pub node: NodeName,
    pub client: Client,
    pub follower: memberd::client::Follower,
    /// Not usable as the job starts.
    pub failed: BTreeSet<NodeName>,
    pub plan: Plan,
    pub journal: Journal,
    /// Taken by the loop.
    pub listener: Option<TcpListener>,
    pub addr: SocketAddr,
    pub launcher: Box<dyn Launcher>,
    pub launched: mpsc::UnboundedReceiver<launcher::Event>,
    /// Where this program is: workers are beside it unless the cluster file says otherwise.
    pub own_folder: PathBuf,
    /// The destination's length as the job starts.
    pub dest_from: u64,
    pub screen: Screen,
    pub log: telemetry::Guard,
}

pub enum Outcome {
    Ready(Box<Ready>),
    DryRun(String),
}

pub async fn prepare(request: Request, started_us: u64) -> Result<Outcome, Error> {
    let located = request
        .stages
        .iter()
        .enumerate()
        .map(|(i, stage)| operators::locate(i + 1, stage));
    let located: Vec<Located> = located.collect::<Result<_, _>>()?;
    check_summary(&request)?;
    let cluster = Arc::new(Cluster::find(request.cluster.as_deref())?);
    let node = match &request.node {
        Some(name) => cluster.node(name)?,
        None => cluster.local_node().ok_or_else(|| {
            Error::Cannot(format!(
                "no node of {} has an address of this machine; run the leader on one of the nodes, or say which this is with --node",
                cluster.path.display()
            ))
        })?,
    }
    .clone();
    let secret = cluster.secret()?;
    let screen = Screen::new(request.progress);
    let log = telemetry::init(Some((&node.log, "leader.log")), screen.writer())?;
    let job = match &request.job {
        Some(job) => job.clone(),
        None => job_name()?,
    };
    let who = format!("leader {job} {}", std::process::id());
    let me = Identity {
        who,
        node: Some(node.name.clone()),
        secret: secret.clone(),
        security: cluster.security,
    };
    let client = Client::new(cluster.clone(), me.clone()).with_patience(STORE_PATIENCE);
    let follower = memberd::client::Follower::start(cluster.clone(), me.clone(), node.name.clone());

    let (events, launched) = mpsc::unbounded_channel();
    let own_folder = own_folder()?;
    let (launcher, hosts) = start_launcher(&request, &cluster, &job, &secret, &own_folder, events)?;

    let (inputs, dest, resolved, alive) = tokio::try_join!(
        find_inputs(&client, &request),
        stat_dest(&client, &request),
        resolve_all(located, request.exactly_once),
        members(&follower, &node.name),
    )?;
    let nodes: Vec<NodeName> = cluster
        .nodes
        .iter()
        .map(|n| n.name.clone())
        .filter(|n| alive.contains(n))
        .collect();
    let failed = cluster
        .nodes
        .iter()
        .map(|n| n.name.clone())
        .filter(|n| !alive.contains(n))
        .collect();
    let plan = plan(&request, job, &inputs, &resolved, &nodes);
    if request.dry_run {
        return Ok(Outcome::DryRun(plan.describe()));
    }

    let bind = async { bind(&cluster, &node).await };
    let ahead = async { tokio::try_join!(bind, ship(&client, &resolved), opened(hosts, &nodes)) };
    let (ahead, journal) = tokio::join!(ahead, start_journal(&client, &plan));
    let mut journal = journal?;
    let (listener, (), ()) = match ahead {
        Ok(ahead) => ahead,
        Err(error) => {
            // The job's name stays free. One that cannot be removed is an empty job's.
            let _ = tokio::time::timeout(TIDY_WITHIN, client.remove(&journal::name(&plan.job))).await;
            return Err(error);
        }
    };
    let addr = listener.local_addr().map_err(|source| Error::Io {
        what: "the control port".into(),
        source,
    })?;
    // From here on something is left behind when it goes wrong: the job's name, and its destination.
    let made = async { make_dest(&client, &request, dest).await };
    let (dest_from, ()) = tokio::try_join!(made, async { Ok(journal.flush().await?) })?;
    Ok(Outcome::Ready(Box::new(Ready {
        request,
        started_us,
        cluster,
        me,
        node: node.name,
        client,
        follower,
        failed,
        plan,
        journal,
        listener: Some(listener),
        addr,
        launcher,
        launched,
        own_folder,
        dest_from,
        screen,
        log,
    })))
}

/// Takes the job's name, and begins its journal with the plan.
async fn start_journal(client: &Client, plan: &Plan) -> Result<Journal, Error> {
    let mut journal = Journal::create(client, &plan.job).await.map_err(|e| match e {
        StoreError::Exists { .. } => Error::Usage(crate::cli::Error::Option {
            option: "--job",
            what: format!(
                "a job named {} exists (its journal is {}); choose another name",
                plan.job,
                journal::name(&plan.job)
            ),
        }),
        other => Error::Storage(other),
    })?;
    journal.write(Entry::Plan(Box::new(plan.clone())));
    Ok(journal)
}

fn check_summary(request: &Request) -> Result<(), Error> {
    let Some(file) = &request.summary else {
        return Ok(());
    };
    let folder = file
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let what = if file.is_dir() {
        format!("{} is a folder", file.display())
    } else if !folder.is_dir() {
        format!("there is no folder {}", folder.display())
    } else {
        return Ok(());
    };
    Err(Error::Usage(crate::cli::Error::Option {
        option: "--summary",
        what,
    }))
}

/// `20261121-054000-kqz`: sorts by time, and two in one second differ.
fn job_name() -> Result<JobName, Error> {
    let digits: String = telemetry::timestamp()
        .chars()
        .take(19)
        .filter(char::is_ascii_digit)
        .collect();
    let (day, time) = digits.split_at(8.min(digits.len()));
    let mut random = [0u8; 4];
    getrandom::fill(&mut random).map_err(|e| Error::Cannot(format!("no random numbers: {e}")))?;
    let letters: String = random.iter().map(|b| char::from(b'a' + b % 26)).collect();
    JobName::new(format!("{day}-{time}-{letters}")).map_err(|e| Error::Cannot(e.to_string()))
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

/// The nodes' hosts are being started while the rest is looked up.
fn start_launcher(
    request: &Request,
    cluster: &Cluster,
    job: &JobName,
    secret: &Secret,
    own: &Path,
    events: launcher::Events,
) -> Result<(Box<dyn Launcher>, Hosts), Error> {
    match request.launcher {
        LauncherKind::Local => Ok((Box::new(Local::new(secret.clone(), events)), BTreeMap::new())),
        LauncherKind::Ssh => {
            let io = |source| Error::Io {
                what: "cannot make a folder for SSH's sockets".into(),
                source,
            };
            let ssh = Ssh::new(cluster, job.clone(), secret.clone(), own, events).map_err(io)?;
            let hosts = if request.dry_run {
                BTreeMap::new()
            } else {
                ssh.open_all()
            };
            Ok((Box::new(ssh), hosts))
        }
    }
}

/// Until the nodes that the job may use are ready; the first that does not get ready is the error.
async fn opened(mut hosts: Hosts, nodes: &[NodeName]) -> Result<(), Error> {
    for node in nodes {
        if let Some(opening) = hosts.remove(node) {
            match opening.await {
                Ok(opened) => opened?,
                Err(_) => return Err(Error::Cannot(format!("SSH to node {node} ended early"))),
            }
        }
    }
    Ok(())
}

/// The nodes that are alive, as this node's memberd sees it.
async fn members(follower: &memberd::client::Follower, node: &NodeName) -> Result<BTreeSet<NodeName>, Error> {
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

/// Every file under the source folder, or the one file of that name, with the marks to split large ones at.
async fn find_inputs(client: &Client, request: &Request) -> Result<Vec<Input>, Error> {
    let folder = format!("{}/", request.src);
    let (under, single) = tokio::join!(client.find(&folder), client.stat(&request.src));
    let mut files: Vec<(String, u64)> = under?.into_iter().map(|e| (e.file, e.len)).collect();
    match single {
        Ok(stat) => files.push((stat.file, stat.len)),
        Err(StoreError::NoSuchFile { .. }) => {}
        Err(other) => return Err(other.into()),
    }
    if files.is_empty() {
        return Err(request
            .refuse_src("HyDFS has no file of that name and none under it; see `hydfs find ''`")
            .into());
    }
    let mut inputs = vec![];
    for some in files.chunks(AT_ONCE) {
        let indexed = some.iter().map(|(file, len)| {
            let (client, file, len) = (client.clone(), file.clone(), *len);
            let (tell, heard) = tokio::sync::oneshot::channel();
            let guard = common::spawn::guarded("index", async move {
                let marks = if len >= SPLIT_FROM {
                    client.index(&file).await
                } else {
                    Ok(vec![])
                };
                let _ = tell.send(marks.map(|marks| Input { file, len, marks }));
                Ok::<(), StoreError>(())
            });
            (guard, heard)
        });
        for (guard, heard) in indexed.collect::<Vec<_>>() {
            let input = heard
                .await
                .map_err(|_| Error::Cannot("looking up the source's line marks ended early".into()))?;
            drop(guard);
            inputs.push(input?);
        }
    }
    Ok(inputs)
}

async fn stat_dest(client: &Client, request: &Request) -> Result<Option<Stat>, Error> {
    match (client.stat(&request.dest).await, request.if_exists) {
        (Ok(_), IfExists::Refuse) => Err(request.refuse_dest(exists(&request.dest)).into()),
        (Ok(stat), _) => Ok(Some(stat)),
        (Err(StoreError::NoSuchFile { .. }), _) => Ok(None),
        (Err(other), _) => Err(other.into()),
    }
}

fn exists(dest: &str) -> String {
    format!(
        "HyDFS has that file already; choose another name, say --append or --overwrite, or remove it: hydfs rm {dest}"
    )
}

/// Makes the destination, exclusively; returns the length that the job's output starts at.
async fn make_dest(client: &Client, request: &Request, found: Option<Stat>) -> Result<u64, Error> {
    if let (Some(stat), IfExists::Append) = (&found, request.if_exists) {
        return Ok(stat.len);
    }
    if found.is_some() {
        match client.remove(&request.dest).await {
            Ok(()) | Err(StoreError::NoSuchFile { .. }) => {}
            Err(other) => return Err(other.into()),
        }
    }
    match client.create(&request.dest).await {
        Ok(()) => Ok(0),
        // Another job of the same destination was quicker.
        Err(StoreError::Exists { .. }) => Err(request.refuse_dest(exists(&request.dest)).into()),
        Err(other) => Err(other.into()),
    }
}

async fn resolve_all(located: Vec<Located>, exactly_once: bool) -> Result<Vec<Resolved>, Error> {
    let mut resolved = vec![];
    for (i, located) in located.into_iter().enumerate() {
        resolved.push(operators::resolve(i + 1, located, exactly_once).await?);
    }
    Ok(resolved)
}

fn plan(
    request: &Request,
    job: JobName,
    inputs: &[Input],
    resolved: &[Resolved],
    nodes: &[NodeName],
) -> Plan {
    // A limited rate of less than one line a second and source would be no limit.
    let most = match request.rate {
        0 => request.tasks_per_stage,
        rate => request
            .tasks_per_stage
            .min(u16::try_from(rate).unwrap_or(u16::MAX)),
    };
    let sources = slices(inputs, most);
    let mut stages = vec![Stage {
        op: None,
        tasks: sources.len() as u16,
    }];
    stages.extend(resolved.iter().map(|r| Stage {
        op: Some(r.spec.clone()),
        tasks: request.tasks_per_stage,
    }));
    let sizes: Vec<u16> = stages.iter().map(|s| s.tasks).collect();
    Plan {
        job,
        exactly_once: request.exactly_once,
        format: request.format,
        dest: request.dest.clone(),
        op_timeout_ms: request.op_timeout.as_millis() as u64,
        rate: request.rate,
        stages,
        sources,
        nodes: place(&sizes, nodes),
    }
}

async fn bind(cluster: &Cluster, node: &common::cluster::Node) -> Result<TcpListener, Error> {
    let mut last = None;
    for i in 0..crate::ctl::find::PORTS {
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
        crate::ctl::find::PORTS - 1
    );
    let source = last.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into());
    Err(Error::Io {
        what: format!("no free control port: tried {ports}"),
        source,
    })
}

/// Puts foreign executables into HyDFS, each content once.
async fn ship(client: &Client, resolved: &[Resolved]) -> Result<(), Error> {
    let contents: BTreeMap<&String, &PathBuf> = resolved
        .iter()
        .filter_map(|r| r.content.as_ref())
        .map(|(n, p)| (n, p))
        .collect();
    for (name, path) in contents {
        let bytes = tokio::fs::read(path).await.map_err(|source| Error::Io {
            what: format!("cannot read {}", path.display()),
            source,
        })?;
        put_once(client, name, &bytes).await?;
    }
    Ok(())
}

/// A file of that name may be there, whole, growing (another leader ships it just now), or left behind in part.
async fn put_once(client: &Client, name: &str, bytes: &[u8]) -> Result<(), Error> {
    const GROWS_WITHIN: u32 = 10;
    let (mut len, mut still) = (0, 0);
    loop {
        match client.put(bytes, name, |_| {}).await {
            Ok(_) => return Ok(()),
            Err(StoreError::Exists { .. }) => {}
            Err(other) => return Err(other.into()),
        }
        loop {
            let now = match client.stat(name).await {
                Ok(stat) => stat.len,
                Err(StoreError::NoSuchFile { .. }) => break,
                Err(other) => return Err(other.into()),
            };
            if now == bytes.len() as u64 {
                return Ok(());
            }
            still = if now == len { still + 1 } else { 0 };
            len = now;
            if still >= GROWS_WITHIN {
                client.remove(name).await?;
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
