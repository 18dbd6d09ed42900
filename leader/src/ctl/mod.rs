//! `rainstormctl`: the operator's console.

mod files;
pub mod find;
mod jobs;
mod kill;
mod log;
mod members;
mod rates;
mod show;
mod verify;
pub mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use common::cluster::Cluster;
use common::ids::{JobName, NodeName, TaskId};
use common::net::Identity;
use hydfs::client::Client;
use serde::Serialize;

use crate::journal;
use crate::launcher::host;

/// How long a file that is unavailable is waited for.
const STORE_PATIENCE: Duration = Duration::from_secs(10);

const MORE_HELP: &str = "\
Examples:
  rainstormctl list_tasks                which task runs where, as which process
  rainstormctl list_tasks myjob --json   the same for scripts
  rainstormctl kill_task n2 4711         kill -9 of that worker on node n2: its task is restarted
  rainstormctl status                    what each stage of each job is doing
  rainstormctl rates myjob               what the resource manager sees: rates and backlogs
  rainstormctl set_rate myjob 5000       tuples per second over all sources, from now on; 0: no limit
  rainstormctl list_mem                  which nodes are alive
  rainstormctl log myjob s1t0            what a task consumed in which order, and its checkpoints
  rainstormctl verify myjob              do the job's logs prove that everything counted exactly once?

Exit code: 0 done, 1 it could not be done (why is on standard error), 2 bad usage.
Of verify: 0 proved, 1 refuted, 2 it could not be checked.";

/// Looks at running jobs and at the cluster, and kills tasks to see them come back.
#[derive(Debug, Parser)]
#[command(name = "rainstormctl", version, after_help = MORE_HELP)]
pub struct Args {
    /// The cluster file [default: $RAINSTORM_CLUSTER, else ./cluster.toml]
    #[arg(long, value_name = "FILE", global = true)]
    cluster: Option<PathBuf>,
    #[command(subcommand)]
    word: Word,
}

#[derive(Debug, Subcommand)]
enum Word {
    /// Lists the tasks of running jobs: node, PID, operator, epoch, state, rate, log
    #[command(name = "list_tasks")]
    ListTasks {
        job: Option<String>,
        /// A JSON array instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Kills (-9) one worker process on a node
    #[command(name = "kill_task")]
    KillTask { node: String, pid: u32 },
    /// Lists the running jobs
    Jobs {
        #[arg(long)]
        json: bool,
    },
    /// What each stage of a running job is doing
    Status {
        job: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// What the resource manager sees: each stage's and task's measured rates and backlog
    Rates {
        job: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Changes the sources' rate while the job runs
    #[command(name = "set_rate")]
    SetRate {
        job: JobName,
        /// Tuples per second over all sources; 0: as fast as the job can
        rate: u64,
    },
    /// Prints a task's log in HyDFS, one record a line: what it consumed in which order, and its checkpoints
    Log {
        job: JobName,
        /// Such as s1t0: stage 1, task 0; the source is stage 0
        task: TaskId,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Replays the logs of an exactly-once job, running or ended, and proves or refutes that everything counted once
    Verify { job: JobName },
    /// Starts a job's workers on this node, for its leader, which speaks on standard input
    #[command(hide = true)]
    Host {
        #[arg(long)]
        node: NodeName,
        /// Only so that the command line tells whose process this is
        #[arg(long)]
        job: JobName,
    },
    /// Lists the members of the cluster as one node sees them
    #[command(name = "list_mem")]
    ListMem {
        /// The node to ask [default: this machine's, else the first that answers]
        #[arg(long)]
        node: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// What a node says of itself
    #[command(name = "list_self")]
    ListSelf {
        /// The node to ask [default: this machine's, else the first that answers]
        #[arg(long)]
        node: Option<String>,
        #[arg(long)]
        json: bool,
    },
}

/// Why a word was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Cluster(#[from] common::cluster::Error),
    #[error("no job is running{0}")]
    NoJob(String),
    #[error("no job `{job}` is running; there {have}")]
    NoSuchJob { job: String, have: String },
    #[error("node {node}: {why}")]
    Kill { node: String, why: String },
    #[error(transparent)]
    Member(#[from] memberd::client::Error),
    #[error(transparent)]
    Host(#[from] host::Error),
    #[error("cannot write JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("HyDFS: {0}")]
    Store(#[from] hydfs::client::Error),
    #[error("HyDFS has no journal of a job `{job}`{have}")]
    UnknownJob { job: String, have: String },
    #[error("{name}: {error}")]
    Journal { name: String, error: journal::OpenError },
    #[error("the journal of job {job} holds no plan: the job never started")]
    NoPlan { job: String },
    #[error("{task} of job {job} has no log: {why}")]
    NoLog { job: String, task: TaskId, why: String },
    /// Neither proved nor refuted.
    #[error("not verified: {0}")]
    Unverified(#[source] Box<Error>),
}

impl Error {
    fn unverified(self) -> Self {
        Self::Unverified(Box::new(self))
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Unverified(_) => verify::UNCHECKED,
            _ => 1,
        }
    }
}

/// What a word came to.
#[derive(Debug, Default)]
pub struct Done {
    /// For standard output, without the last newline.
    pub text: String,
    /// The exit code.
    pub code: u8,
    /// For standard error.
    pub complaint: Option<String>,
}

impl From<String> for Done {
    fn from(text: String) -> Self {
        Self {
            text,
            ..Self::default()
        }
    }
}

/// Carries out one word.
pub async fn run(args: Args) -> Result<Done, Error> {
    if let Word::Host { node, .. } = args.word {
        // It needs nothing of the cluster file: its orders say all.
        host::serve(node, tokio::io::stdin(), tokio::io::stdout()).await?;
        return Ok(Done::default());
    }
    let cluster = Arc::new(Cluster::find(args.cluster.as_deref())?);
    let me = Identity {
        who: format!("rainstormctl {}", std::process::id()),
        node: cluster.local_node().map(|n| n.name.clone()),
        secret: cluster.secret()?,
        security: cluster.security,
    };
    let store = || Client::new(cluster.clone(), me.clone()).with_patience(STORE_PATIENCE);
    let text = match args.word {
        // Above.
        Word::Host { .. } => String::new(),
        Word::ListTasks { job, json } => jobs::list_tasks(&cluster, &me, job, json).await?,
        Word::Jobs { json } => jobs::jobs(&cluster, &me, json).await?,
        Word::Status { job, json } => jobs::status(&cluster, &me, job, json).await?,
        Word::Rates { job, json } => rates::rates(&cluster, &me, job, json).await?,
        Word::SetRate { job, rate } => rates::set_rate(&cluster, &me, job.as_str(), rate).await?,
        Word::KillTask { node, pid } => kill::kill_task(&cluster, &node, pid).await?,
        Word::ListMem { node, json } => members::list_mem(&cluster, &me, node, json).await?,
        Word::ListSelf { node, json } => members::list_self(&cluster, &me, node, json).await?,
        Word::Log { job, task, json } => return log::run(&store(), &job, task, json).await,
        Word::Verify { job } => return verify::run(&store(), &job).await.map_err(Error::unverified),
    };
    Ok(text.into())
}

/// JSON for scripts, or else a table for people.
fn json_or<T: Serialize>(
    json: bool,
    rows: impl FnOnce() -> T,
    table: impl FnOnce() -> String,
) -> Result<String, Error> {
    Ok(match json {
        true => serde_json::to_string_pretty(&rows())?,
        false => table(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_parse() {
        use clap::CommandFactory;
        Args::command().debug_assert();
        for line in [
            "list_tasks",
            "list_tasks j --json",
            "kill_task n1 7",
            "jobs",
            "status j",
            "rates j --json",
            "set_rate j 0",
            "list_mem",
            "list_self --node n1",
            "log j s1t0 --json",
            "verify j",
            "--cluster c.toml host --node n1 --job j",
        ] {
            let words = std::iter::once("rainstormctl").chain(line.split(' '));
            assert!(Args::try_parse_from(words).is_ok(), "{line}");
        }
        for line in [
            "set_rate j -1",
            "set_rate j x",
            "kill_task n1 x",
            "log j 1t0",
            "verify a/b",
        ] {
            let words = std::iter::once("rainstormctl").chain(line.split(' '));
            assert!(Args::try_parse_from(words).is_err(), "{line}");
        }
    }
}
