//! The command line client of HyDFS.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use common::cluster::Cluster;
use common::net::Identity;
use hydfs::client::{Client, cli};

/// Files in HyDFS: replicated, append-only
#[derive(Parser)]
#[command(name = "hydfs", version)]
struct Args {
    /// The cluster file [default: $RAINSTORM_CLUSTER, else cluster.toml]
    #[arg(long, global = true, value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// The node to ask first [default: the one whose address is this machine's]
    #[arg(long, global = true, value_name = "NAME")]
    node: Option<String>,
    /// How many seconds to keep trying
    #[arg(long, global = true, value_name = "S", default_value_t = 30)]
    patience: u64,
    #[command(subcommand)]
    command: cli::Command,
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(usage) => {
            let code = usage.exit_code();
            let _ = usage.print();
            return ExitCode::from(code as u8);
        }
    };
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hydfs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let cluster = Cluster::find(args.cluster.as_deref())?;
    let node = match &args.node {
        Some(name) => Some(cluster.node(name)?.name.clone()),
        None => cluster.local_node().map(|n| n.name.clone()),
    };
    let me = Identity {
        who: format!("hydfs {}", std::process::id()),
        node: node.clone(),
        secret: cluster.secret()?,
        security: cluster.security,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let done = runtime.block_on(async {
        let client =
            Client::new(Arc::new(cluster), me).with_patience(std::time::Duration::from_secs(args.patience));
        cli::run(&client, node.as_ref(), args.command, &mut tokio::io::stdout()).await
    });
    // A read from standard input that is under way cannot be waited for.
    runtime.shutdown_background();
    Ok(done?)
}
