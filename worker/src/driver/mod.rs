//! A worker's life: connect to the leader, fence the predecessor out, read the log back, run, end.

pub mod control;
mod copies;
mod end;
pub mod engine;
pub mod links;
pub mod meter;
pub mod operator;
pub mod pace;
mod peers;
mod pulse;
mod read;
pub mod storage;
mod work;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::cluster::{Cluster, Node};
use common::ids::{Epoch, JobName, TaskId};
use common::net::Identity;
use common::orphans;
use common::spawn;
use hydfs::client::Client;
use protocol::control::{Failure, TaskPlan, ToLeader, ToWorker};
use protocol::task_log::Keeps;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

use crate::failpoint::FailPoint;
use crate::source::Source;
use crate::task::{Bounds, Config, ConnectionId, Input, Neighbours, Stored, Task};
use crate::wire::{Open, Opened, Standing};
use engine::Engine;
use operator::Runner;
use pace::Pace;
use peers::Dialer;
use read::Reader;
use storage::Storage;

/// What reaches the engine from the tasks that move bytes.
pub enum EngineEvent {
    Control(Box<ToWorker>),
    ControlLost(String),
    /// A sender has connected and asks where to begin. Dropping `acks` closes its connection.
    SenderConnected {
        connection: ConnectionId,
        open: Open,
        reply: oneshot::Sender<Opened>,
        acks: watch::Sender<Option<u64>>,
    },
    /// A receiver has said what it has. Dropping `frames` closes the connection.
    ReceiverConnected {
        output: usize,
        standing: Standing,
        frames: mpsc::UnboundedSender<Bytes>,
    },
    ReceiverLost {
        output: usize,
    },
    /// What needs nothing of the driver.
    Task(Input),
}

/// Why the process ends.
#[derive(Debug)]
pub enum End {
    /// The leader said so.
    Finished,
    /// Another process has this identity now.
    Fenced(String),
    LeaderLost(String),
    Failed(Failure),
}

/// What the command line and standard input said.
pub struct Start {
    pub cluster: Cluster,
    pub node: Node,
    pub job: JobName,
    pub task: TaskId,
    pub epoch: Epoch,
    pub leader: SocketAddr,
    pub me: Identity,
    /// Where a test has this process die.
    pub fail_point: FailPoint,
}

/// How often orphans that ended by themselves are reaped, at most.
const REAP_EVERY: Duration = Duration::from_secs(1);

/// Lives the whole life of a worker process, or until its host has gone: then nobody would be left to end what its operator
/// has started, if it were killed.
pub async fn run(start: Start) -> End {
    let signals =
        || Ok::<_, std::io::Error>((signal(SignalKind::terminate())?, signal(SignalKind::child())?));
    let (mut terminate, mut ended) = match signals() {
        Ok(signals) => signals,
        Err(e) => return failed(format!("cannot listen for signals: {e}")),
    };
    let reap = async {
        while ended.recv().await.is_some() {
            orphans::reap();
            tokio::time::sleep(REAP_EVERY).await;
        }
        std::future::pending().await
    };
    tokio::select! {
        end = work_on(start) => end,
        _ = terminate.recv() => End::LeaderLost("the process that started this one has gone, or it was told to end".into()),
        end = reap => end,
    }
}

async fn work_on(start: Start) -> End {
    match start.epoch {
        Epoch(1) => tracing::info!("TASK_START"),
        _ => tracing::info!("TASK_RESTART"),
    }
    let lease = start.cluster.job_lease();
    let (events, mut inbox) = mpsc::channel(links::EVENTS);
    let bound = async {
        let listener = TcpListener::bind((start.node.addr, 0)).await?;
        let addr = listener.local_addr()?;
        Ok::<_, std::io::Error>((listener, addr))
    };
    let (listener, data_addr) = match bound.await {
        Ok(bound) => bound,
        Err(e) => return failed(format!("cannot listen on {}: {e}", start.node.addr)),
    };
    let register = ToLeader::Register {
        job: start.job.clone(),
        task: start.task,
        epoch: start.epoch,
        node: start.node.name.clone(),
        pid: std::process::id(),
        data_addr,
    };
    let control = match control::connect(start.leader, &start.me, register, lease, events.clone()).await {
        Ok(control) => control,
        Err(error) => return End::LeaderLost(error.to_string()),
    };
    let plan = match await_plan(&mut inbox, lease).await {
        Ok(plan) => Arc::new(plan),
        Err(end) => return end,
    };
    let to_leader = control.to_leader.clone();
    let mut engine = match prepare(&start, plan, control, inbox, events.clone()).await {
        Ok(engine) => engine,
        Err((end, control)) => {
            tell(&end, &to_leader);
            drop(to_leader);
            control.drain().await;
            return end;
        }
    };
    let me = Arc::new(start.me.clone());
    let mut vitals = spawn::Vitals::default();
    let doors = links::listen(listener, me, events, start.fail_point.clone());
    vitals.spawn("data_listener", doors);
    engine.link_up();
    let end = tokio::select! {
        end = engine.run() => end.err().unwrap_or(End::Finished),
        // The leader starts another.
        lost = vitals.lost() => failed(format!("{} cannot go on: {lost}", start.task)),
    };
    tell(&end, &to_leader);
    drop(to_leader);
    engine.control.drain().await;
    end
}

fn failed(what: String) -> End {
    End::Failed(Failure {
        what,
        key: None,
        unit: None,
        stderr: vec![],
        fatal: false,
    })
}

/// The leader learns of a failure before the connection closes: the reason, not only the fact.
fn tell(end: &End, to_leader: &control::ToLeaderSender) {
    if let End::Failed(failure) = end {
        let _ = to_leader.tell(ToLeader::Failed(failure.clone()));
    }
}

async fn await_plan(inbox: &mut mpsc::Receiver<EngineEvent>, lease: Duration) -> Result<TaskPlan, End> {
    let wait = async {
        loop {
            match inbox.recv().await {
                Some(EngineEvent::Control(message)) => match *message {
                    ToWorker::Plan(plan) => return Ok(*plan),
                    ToWorker::Refused { why } => return Err(End::Fenced(why)),
                    ToWorker::Finish => return Err(End::Finished),
                    _ => {}
                },
                Some(EngineEvent::ControlLost(why)) => return Err(End::LeaderLost(why)),
                Some(_) => {}
                None => return Err(End::LeaderLost("the control task ended".into())),
            }
        }
    };
    tokio::time::timeout(lease * 2, wait)
        .await
        .unwrap_or_else(|_| Err(End::LeaderLost("it sent no plan".into())))
}

/// How many times `window_bytes` a task keeps for each receiver. An acknowledgement comes when what became of the bytes is in
/// the logs of all stages behind, one after the other; without them it comes sooner.
fn window_times(plan: &TaskPlan) -> usize {
    match plan.exactly_once {
        true => usize::from(plan.stages_behind.max(1)),
        false => 1,
    }
}

fn configure(plan: &TaskPlan, cluster: &Cluster, keeps: Keeps, stateful: bool) -> Config {
    Config {
        job: plan.job.clone(),
        task: plan.task,
        epoch: plan.epoch,
        exactly_once: plan.exactly_once,
        keeps,
        follows: plan.follow,
        scales: plan.scales,
        stateful,
        format: plan.format,
        batch_bytes: cluster.job.batch_bytes,
        linger: Duration::from_millis(cluster.job.linger_ms),
        window_bytes: cluster.job.window_bytes * window_times(plan),
        bounds: Bounds {
            keep_log: plan.keep_logs,
            ..Bounds::default()
        },
        skip: plan.skip.iter().copied().collect(),
        sets_aside: plan.poison.is_some() && plan.op.is_some(),
    }
}

/// Opens storage (which fences the predecessor out), reads the log back and makes the operator ready.
async fn prepare(
    start: &Start,
    plan: Arc<TaskPlan>,
    control: control::Control,
    inbox: mpsc::Receiver<EngineEvent>,
    events: links::Events,
) -> Result<Engine, (End, control::Control)> {
    let client = Client::new(Arc::new(start.cluster.clone()), start.me.clone());
    let (keeps, stateful) = Keeps::of(&plan);
    let began = common::clock::now();
    let ready = async {
        let runner = async {
            match &plan.op {
                Some(op) => {
                    let (data, keep) = (&start.node.data, start.cluster.jobs.keep_ended);
                    Ok::<_, End>(Some(Runner::start(&plan, op, &client, data, keep).await?))
                }
                None => Ok(None),
            }
        };
        let storage = async { Ok::<_, End>(Storage::open(&plan, stateful, &client).await?) };
        let ((storage, log), mut runner) = tokio::try_join!(storage, runner)?;
        let config = configure(&plan, &start.cluster, keeps, stateful);
        let neighbours = Neighbours {
            upstream: plan.upstream.clone(),
            is_last: plan.dest.is_some(),
            downstream: plan.downstream.clone(),
            version: plan.route,
            routes: plan.routes.clone(),
            marks: plan.marks,
            owned: plan.owned.clone(),
        };
        let stored = Stored {
            log: &log.content,
            log_begin: log.begin,
            outputs: &storage.output_lengths(),
            snapshots: storage.snapshots.as_ref().map_or(0, |file| file.length()),
        };
        let mut task = Task::recover(config, &neighbours, stored, common::clock::now())?;
        if let Some(runner) = runner.as_mut().filter(|_| stateful) {
            for part in Storage::read_snapshot(&plan, task.now(), &client).await? {
                runner.restore(&part).await?;
            }
            if plan.owned.is_some() {
                runner.forget(&|key| task.is_foreign(key));
            }
        }
        if let (false, Some(from)) = (plan.exactly_once, &plan.resume_from) {
            task.begin_at(from.clone());
        }
        Ok::<_, End>((task, storage, runner, log.content.len()))
    };
    let (task, storage, runner, log_bytes) = match ready.await {
        Ok(ready) => ready,
        Err(end) => return Err((end, control)),
    };
    if plan.epoch > Epoch(1) {
        let ms = common::clock::now().since(began).as_millis() as u64;
        tracing::info!(records = task.replaying(), log_bytes, ms, "REPLAY");
    }
    let started = ToLeader::Started {
        replayed: task.replaying() as u64,
    };
    if let Err(end) = control.to_leader.tell(started) {
        return Err((end, control));
    }
    let reader = plan
        .op
        .is_none()
        .then(|| Reader::new(Source::new(client.clone(), &plan), Pace::new(plan.rate_milli)));
    let dialer = Dialer::new(Arc::new(start.me.clone()), events);
    let mut engine = Engine::new(plan, task, storage, inbox, control, dialer);
    engine.runner = runner;
    engine.reader = reader;
    engine.fail_point = start.fail_point.clone();
    Ok(engine)
}
