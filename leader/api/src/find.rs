//! Finding the leaders that run, and asking them.

use std::net::SocketAddr;
use std::time::Duration;

use common::cluster::{Cluster, Node};
use common::ids::JobName;
use common::net::{Connection, Error, Identity, Role, dial};
use common::spawn;
use tokio::sync::mpsc;

use crate::wire::{JobRow, Reply, Request, TaskRow};

/// A leader takes the first free of so many ports.
pub const PORTS: u16 = 10;
const WITHIN: Duration = Duration::from_millis(1500);
/// A leader answers to some requests when they are stored in HyDFS, which may have to change its view first.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// No leader answers for it.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    #[error("no job is running{0}")]
    NoJob(String),
    #[error("no job `{job}` is running; there {have}")]
    NoSuchJob { job: String, have: String },
    #[error(
        "job `{job}` runs, but its leader did not answer: {why}; what was asked for may still happen (see `rainstormctl list_tasks \
         {job}` and `rainstormctl rates {job}`)"
    )]
    NoAnswer { job: String, why: String },
}

/// What came of asking every control port of every node.
#[derive(Debug, Default)]
pub struct LeaderAnswers {
    pub replies: Vec<Reply>,
    /// Addresses where something listens that did not answer as a leader does, and why.
    pub troubles: Vec<(SocketAddr, String)>,
}

impl LeaderAnswers {
    /// The jobs, asked for by [`Request::Status`].
    pub fn jobs(self) -> Vec<JobRow> {
        let rows = self.replies.into_iter().filter_map(|reply| match reply {
            Reply::Status(row) => Some(*row),
            _ => None,
        });
        rows.collect()
    }

    /// All jobs' tasks, asked for by [`Request::List`].
    pub fn tasks(self) -> Vec<TaskRow> {
        let rows = self.replies.into_iter().filter_map(|reply| match reply {
            Reply::Tasks(rows) => Some(rows),
            _ => None,
        });
        rows.flatten().collect()
    }
}

/// One job as its leader has it; `None`: no leader answers for it.
pub async fn status_of(cluster: &Cluster, me: &Identity, job: &JobName) -> Option<JobRow> {
    let rows = ask_all(cluster, me, Request::Status).await.jobs();
    rows.into_iter().find(|row| row.job == *job)
}

fn control_ports(cluster: &Cluster) -> Vec<SocketAddr> {
    let ports = (0..PORTS).filter_map(|i| cluster.ports.control.checked_add(i));
    let ports: Vec<u16> = ports.collect();
    let of_node = |node: &Node| ports.iter().map(|port| node.at(*port)).collect::<Vec<_>>();
    cluster.nodes.iter().flat_map(of_node).collect()
}

/// Asks all leaders of the cluster at once.
pub async fn ask_all(cluster: &Cluster, me: &Identity, request: Request) -> LeaderAnswers {
    let addrs = control_ports(cluster);
    let (tell, mut heard) = mpsc::channel(addrs.len().max(1));
    let guards: Vec<spawn::Guard> = addrs
        .into_iter()
        .map(|addr| {
            let (me, tell) = (me.clone(), tell.clone());
            spawn::guarded("ask-leader", async move {
                let answer = tokio::time::timeout(WITHIN, ask(addr, &me, request)).await;
                let _ = tell.send((addr, answer.unwrap_or(Err(Error::Timeout)))).await;
                Ok::<(), Error>(())
            })
        })
        .collect();
    drop(tell);
    let mut asked = LeaderAnswers::default();
    while let Some((addr, answer)) = heard.recv().await {
        match answer {
            Ok(reply) => asked.replies.push(reply),
            // Nothing listens there, or the node is not there: the usual case.
            Err(Error::Connect { .. } | Error::Timeout) => {}
            Err(error) => asked.troubles.push((addr, error.to_string())),
        }
    }
    drop(guards);
    asked
}

/// Asks the leader of one job.
pub async fn ask_leader(
    cluster: &Cluster,
    me: &Identity,
    job: &str,
    request: Request,
) -> Result<Reply, Missing> {
    let addrs = control_ports(cluster);
    let (tell, mut heard) = mpsc::channel(addrs.len().max(1));
    let guards: Vec<spawn::Guard> = addrs
        .into_iter()
        .map(|addr| {
            let (me, tell, job) = (me.clone(), tell.clone(), job.to_owned());
            spawn::guarded("ask-leader", async move {
                let answer = tokio::time::timeout(3 * WITHIN, connect_if(addr, &me, &job)).await;
                let _ = tell.send(answer.unwrap_or(Err(Error::Timeout))).await;
                Ok::<(), Error>(())
            })
        })
        .collect();
    drop(tell);
    let mut others: Vec<String> = vec![];
    let mut leader = None;
    while leader.is_none()
        && let Some(found) = heard.recv().await
    {
        match found {
            Ok(Ok(connection)) => leader = Some(connection),
            Ok(Err(other)) => others.push(other),
            Err(_) => {}
        }
    }
    drop(guards);
    if let Some(connection) = leader {
        let answer = tokio::time::timeout(ANSWER_WITHIN, ask_on(connection, request)).await;
        return answer
            .unwrap_or(Err(Error::Timeout))
            .map_err(|e| Missing::NoAnswer {
                job: job.into(),
                why: e.to_string(),
            });
    }
    others.sort();
    Err(match others.is_empty() {
        true => Missing::NoJob(String::new()),
        false => Missing::NoSuchJob {
            job: job.into(),
            have: format!("runs: {}", others.join(", ")),
        },
    })
}

/// A connection to that job's leader, or whose leader answers there.
async fn connect_if(addr: SocketAddr, me: &Identity, job: &str) -> Result<Result<Connection, String>, Error> {
    let mut connection = dial(addr, me, Role::Console).await?;
    connection.tx.send(&Request::Status).await?;
    match connection.rx.recv().await?.ok_or(Error::Closed)? {
        Reply::Status(row) if row.job.as_str() == job => Ok(Ok(connection)),
        Reply::Status(row) => Ok(Err(row.job.to_string())),
        _ => Err(Error::Closed),
    }
}

async fn ask_on(mut connection: Connection, request: Request) -> Result<Reply, Error> {
    connection.tx.send(&request).await?;
    connection.rx.recv().await?.ok_or(Error::Closed)
}

async fn ask(addr: SocketAddr, me: &Identity, request: Request) -> Result<Reply, Error> {
    ask_on(dial(addr, me, Role::Console).await?, request).await
}
