//! The command line client of HyDFS.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use common::cluster::Cluster;
use common::net::Identity;
use common::output::{self, complain};
use common::signals::Stop;
use common::size::Size;
use hydfs::client::{Cache, Client, cli};

const MORE_HELP: &str = "\
Exit code: 0 done, 1 it could not be done (why is on standard error), 2 bad usage, 128 and the signal's number when stopped by one.";

/// Files in HyDFS: replicated, append-only
#[derive(Parser)]
#[command(name = "hydfs", version, after_help = MORE_HELP)]
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
    /// Keep up to SIZE (such as 64MiB) of what `get` and `cat` bring in the user's cache folder, and serve it again from there
    /// after asking whether it changed [default: the cluster file's, else none]
    #[arg(long, global = true, value_name = "SIZE")]
    cache: Option<Size>,
    #[command(subcommand)]
    command: cli::Command,
}

fn main() -> ExitCode {
    common::open_files::raise_limit();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(usage) => {
            let code = usage.exit_code() as u8;
            return ExitCode::from(output::code_of("hydfs", usage.print(), code));
        }
    };
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = match error.downcast_ref::<hydfs::client::Error>() {
                Some(error) => error.code(),
                None => error.downcast_ref::<common::cluster::Error>().map_or(1, usage),
            };
            // Where nothing was under way, whoever stopped it knows.
            if !matches!(error.downcast_ref(), Some(hydfs::client::Error::Stopped { what, .. }) if what.is_empty())
            {
                complain(format_args!("hydfs: {error:#}"));
            }
            ExitCode::from(code)
        }
    }
}

fn usage(error: &common::cluster::Error) -> u8 {
    match error {
        common::cluster::Error::NoSuchNode { .. } => 2,
        _ => 1,
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
    let limit = args.cache.unwrap_or(cluster.hydfs.cache).0;
    let cache = match limit {
        0 => None,
        // Without a cache all works the same, only slower.
        limit => Cache::of_user(&me.secret, limit).unwrap_or_else(|error| {
            complain(format_args!("hydfs: going on without the cache: {error}"));
            None
        }),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let done = runtime.block_on(async {
        let mut client =
            Client::new(Arc::new(cluster), me).with_patience(std::time::Duration::from_secs(args.patience));
        if let Some(cache) = cache {
            client = client.with_cache(Arc::new(cache));
        }
        let (stop, _signals) = Stop::on_signals().context("cannot listen to signals")?;
        let out = &mut common::shown::Stdout::new();
        Ok(cli::run(&client, node.as_ref(), args.command, &stop, out).await?)
    });
    // A read from standard input that is under way cannot be waited for.
    runtime.shutdown_background();
    done
}
