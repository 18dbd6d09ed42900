//! `worker`: one task of a job. Started by the leader; the cluster secret comes on standard input.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use common::cluster::Cluster;
use common::ids::{Epoch, JobName, TaskId};
use common::net::Identity;
use common::output::{self, complain};
use common::secret::Secret;
use worker::driver::{End, Start};
use worker::failpoint::{self, FailPoint};

/// Runs one task of a RainStorm job. The leader starts workers over SSH; nobody needs to start one by hand.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// The cluster file
    #[arg(long)]
    cluster: PathBuf,
    /// The node that this process runs on
    #[arg(long)]
    node: String,
    #[arg(long)]
    job: JobName,
    /// The task's identity, such as s1t2: stage 1, task 2
    #[arg(long)]
    task_id: TaskId,
    /// Which process of the identity this is
    #[arg(long)]
    epoch: u64,
    /// Where the leader's control port is
    #[arg(long)]
    leader: SocketAddr,
}

fn main() -> ExitCode {
    common::open_files::raise_limit();
    common::heap::keep_freed_memory();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(usage) => {
            let code = usage.exit_code() as u8;
            return ExitCode::from(output::code_of("worker", usage.print(), code));
        }
    };
    let who = format!("{} of job {}", args.task_id, args.job);
    match start(args) {
        Ok(code) => code,
        Err(error) => {
            complain(format_args!("worker {who}: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn start(args: Args) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::load(&args.cluster)?;
    let node = cluster.node(&args.node)?.clone();
    let secret =
        Secret::from_line(std::io::stdin().lock()).context("reading the secret from standard input")?;
    let secret = secret.context("standard input must hold the cluster secret")?;
    let _log = common::telemetry::init(Some(cluster.log_of(&node, "worker.log")), std::io::stderr)?;
    let (job, task, epoch, pid) = (&args.job, args.task_id, args.epoch, std::process::id());
    let _context = tracing::error_span!("task", %job, %task, epoch, node = %node.name, pid).entered();
    let me = Identity {
        who: format!("{} of job {} epoch {}", args.task_id, args.job, args.epoch),
        node: Some(node.name.clone()),
        secret,
        security: cluster.security,
    };
    let armed = std::env::var(failpoint::VARIABLE).ok();
    let fail_point = FailPoint::parse(armed.as_deref())?;
    if let Some(point) = armed {
        tracing::warn!(point, "FAIL_POINT");
    }
    let start = Start {
        cluster,
        node,
        job: args.job,
        task: args.task_id,
        epoch: Epoch(args.epoch),
        leader: args.leader,
        me,
        fail_point,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    common::orphans::adopt().context("cannot become the parent of what the operator leaves behind")?;
    let end = runtime.block_on(worker::driver::run(start));
    // Helper tasks that still wait for somebody are not waited for.
    runtime.shutdown_background();
    Ok(match end {
        End::Finished => ExitCode::SUCCESS,
        End::Fenced(why) => {
            tracing::warn!(why, "FENCED");
            ExitCode::from(3)
        }
        End::LeaderLost(why) => {
            tracing::warn!(why, "LEADER_LOST");
            ExitCode::from(4)
        }
        End::Failed(failure) => {
            let key = failure.key.unwrap_or_default();
            tracing::warn!(key, why = failure.what, "TASK_FAIL");
            ExitCode::FAILURE
        }
    })
}
