//! `rainstormctl`: the operator's console.

pub mod find;
mod kill;
mod show;
pub mod wire;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use common::cluster::Cluster;
use common::ids::{JobName, NodeName};
use common::net::Identity;

use crate::launcher::host;
use find::{Asked, ask_all};
use wire::{JobRow, Reply, Request, TaskRow};

const MORE_HELP: &str = "\
Examples:
  rainstormctl list_tasks                which task runs where, as which process
  rainstormctl list_tasks myjob --json   the same for scripts
  rainstormctl kill_task n2 4711         kill -9 of that worker on node n2: its task is restarted
  rainstormctl status                    what each stage of each job is doing
  rainstormctl list_mem                  which nodes are alive

Exit code: 0 done, 1 it could not be done (why is on standard error), 2 bad usage.";

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

/// Why a word was not carried out; all are exit code 1.
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
}

/// Carries out one word; what it prints is returned.
pub async fn run(args: Args) -> Result<String, Error> {
    if let Word::Host { node, .. } = args.word {
        // It needs nothing of the cluster file: its orders say all.
        host::serve(node, tokio::io::stdin(), tokio::io::stdout()).await?;
        return Ok(String::new());
    }
    let cluster = Cluster::find(args.cluster.as_deref())?;
    let me = Identity {
        who: format!("rainstormctl {}", std::process::id()),
        node: cluster.local_node().map(|n| n.name.clone()),
        secret: cluster.secret()?,
        security: cluster.security,
    };
    match args.word {
        Word::ListTasks { job, json } => {
            let asked = ask_all(&cluster, &me, Request::List).await;
            let trouble = trouble(&asked);
            let mut rows: Vec<TaskRow> = asked
                .replies
                .into_iter()
                .flat_map(|r| if let Reply::Tasks(t) = r { t } else { vec![] })
                .collect();
            rows.sort_by(|a, b| (&a.job, a.task).cmp(&(&b.job, b.task)));
            if let Some(job) = &job {
                let names = rows.iter().map(|r| r.job.to_string()).collect();
                rows.retain(|r| r.job.as_str() == job);
                must_have(rows.is_empty(), job, names, trouble)?;
            }
            Ok(if json {
                serde_json::to_string_pretty(&rows)?
            } else {
                show::tasks(&rows)
            })
        }
        Word::Jobs { json } => {
            let (rows, _) = jobs(&cluster, &me).await;
            Ok(if json {
                serde_json::to_string_pretty(&rows)?
            } else {
                show::jobs(&rows)
            })
        }
        Word::Status { job, json } => {
            let (mut rows, trouble) = jobs(&cluster, &me).await;
            if let Some(job) = &job {
                let names = rows.iter().map(|r| r.job.to_string()).collect();
                rows.retain(|r| r.job.as_str() == job);
                must_have(rows.is_empty(), job, names, trouble)?;
            }
            Ok(if json {
                serde_json::to_string_pretty(&rows)?
            } else {
                show::status(&rows)
            })
        }
        // Above.
        Word::Host { .. } => Ok(String::new()),
        Word::KillTask { node, pid } => kill::kill_task(&cluster, &node, pid).await,
        Word::ListMem { node, json } => {
            let members = ask_member(&cluster, &me, node, false).await?;
            Ok(if json {
                members_json(&members)?
            } else {
                show::members(&members)
            })
        }
        Word::ListSelf { node, json } => {
            let members = ask_member(&cluster, &me, node, true).await?;
            Ok(if json {
                members_json(&members)?
            } else {
                show::members(&members)
            })
        }
    }
}

async fn jobs(cluster: &Cluster, me: &Identity) -> (Vec<JobRow>, String) {
    let asked = ask_all(cluster, me, Request::Status).await;
    let trouble = trouble(&asked);
    let rows = asked
        .replies
        .into_iter()
        .filter_map(|r| if let Reply::Status(s) = r { Some(*s) } else { None });
    let mut rows: Vec<JobRow> = rows.collect();
    rows.sort_by(|a, b| a.job.cmp(&b.job));
    (rows, trouble)
}

fn trouble(asked: &Asked) -> String {
    asked
        .troubles
        .iter()
        .map(|(addr, why)| format!("; {addr}: {why}"))
        .collect()
}

fn must_have(empty: bool, job: &str, mut names: Vec<String>, trouble: String) -> Result<(), Error> {
    names.dedup();
    match (empty, names.is_empty()) {
        (false, _) => Ok(()),
        (true, true) => Err(Error::NoJob(trouble)),
        (true, false) => Err(Error::NoSuchJob {
            job: job.into(),
            have: format!("runs: {}", names.join(", ")),
        }),
    }
}

/// Asks the named node, or else this machine's, or else any that answers.
async fn ask_member(
    cluster: &Cluster,
    me: &Identity,
    node: Option<String>,
    itself: bool,
) -> Result<Vec<memberd::Member>, memberd::client::Error> {
    let mut nodes = match node {
        Some(name) => vec![cluster.node(&name)?.name.clone()],
        None => cluster.nodes.iter().map(|n| n.name.clone()).collect(),
    };
    // This machine's first.
    nodes.sort_by_key(|n| Some(n) != me.node.as_ref());
    let mut last = None;
    for node in nodes {
        let answer = if itself {
            memberd::client::list_self(cluster, me, &node)
                .await
                .map(|m| vec![m])
        } else {
            memberd::client::list(cluster, me, &node).await
        };
        match answer {
            Ok(members) => return Ok(members),
            Err(error) => last = last.or(Some(error)),
        }
    }
    Err(last.unwrap_or_else(|| unreachable!("a cluster file has at least one node")))
}

/// As `GET /list_mem` has it: `name, id, addr, incarnation, state`.
fn members_json(members: &[memberd::Member]) -> Result<String, serde_json::Error> {
    let rows: Vec<serde_json::Value> = members
        .iter()
        .map(|m| {
            serde_json::json!({"name": m.name, "id": m.id(), "addr": m.addr, "incarnation": m.incarnation,
                "state": m.state.to_string()})
        })
        .collect();
    serde_json::to_string_pretty(&rows)
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
            "list_mem",
            "list_self --node n1",
            "--cluster c.toml host --node n1 --job j",
        ] {
            let words = std::iter::once("rainstormctl").chain(line.split(' '));
            assert!(Args::try_parse_from(words).is_ok(), "{line}");
        }
        assert!(Args::try_parse_from(["rainstormctl", "kill_task", "n1", "x"]).is_err());
    }
}
