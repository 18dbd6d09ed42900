//! The storage daemon: one per node.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use common::cluster::Cluster;
use common::output::{self, complain};
use common::signals::Signals;
use common::telemetry;
use hydfsd::driver::Daemon;

/// A storage node of HyDFS
#[derive(Parser)]
#[command(name = "hydfsd", version)]
struct Args {
    /// The cluster file [default: $RAINSTORM_CLUSTER, else cluster.toml]
    #[arg(long, value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// Which node of the cluster file this is [default: the one whose address is this machine's]
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

fn main() -> ExitCode {
    common::open_files::raise_limit();
    common::heap::keep_freed_memory();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(usage) => {
            let code = usage.exit_code() as u8;
            return ExitCode::from(output::code_of("hydfsd", usage.print(), code));
        }
    };
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("hydfsd: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let cluster = Cluster::find(args.cluster.as_deref())?;
    let node = match &args.node {
        Some(name) => cluster.node(name)?.clone(),
        None => cluster
            .local_node()
            .context("no node of the cluster file has an address of this machine; say which with --node")?
            .clone(),
    };
    let log = telemetry::init(Some(cluster.log_of(&node, "hydfsd.log")), std::io::stderr)?;
    common::work_folder::sweep(&node.data);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let daemon = Daemon::start(Arc::new(cluster), &node.name).await?;
        daemon
            .run(async {
                signals.stopped(|| log.reopen()).await;
            })
            .await?;
        Ok(())
    })
}
