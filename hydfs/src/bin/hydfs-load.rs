//! Puts load on HyDFS and measures it: for `bench/hydfs.sh` and the system tests.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use common::cluster::Cluster;
use common::net::Identity;
use hydfs::client::Client;
use hydfs::load::{self, Load};

/// Puts load on HyDFS and measures it; one JSON object on standard output
#[derive(Parser)]
#[command(name = "hydfs-load", version)]
struct Args {
    /// The cluster file [default: $RAINSTORM_CLUSTER, else cluster.toml]
    #[arg(long, global = true, value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// The node to ask first [default: the one whose address is this machine's]
    #[arg(long, global = true, value_name = "NAME")]
    node: Option<String>,
    #[command(subcommand)]
    load: Load,
}

fn main() -> ExitCode {
    common::open_files::raise_limit();
    common::heap::keep_freed_memory();
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hydfs-load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let cluster = Arc::new(Cluster::find(args.cluster.as_deref())?);
    let node = match &args.node {
        Some(name) => Some(cluster.node(name)?.name.clone()),
        None => cluster.local_node().map(|n| n.name.clone()),
    };
    let me = Identity {
        who: format!("hydfs-load {}", std::process::id()),
        node,
        secret: cluster.secret()?,
        security: cluster.security,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    // Each of several clients has connections of its own.
    let client = || Client::new(cluster.clone(), me.clone());
    let measured = runtime.block_on(load::run(client, args.load))?;
    common::output::print(&format!("{measured}\n"))?;
    Ok(())
}
