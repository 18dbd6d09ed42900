//! `memberd --cluster FILE --node NAME` runs the daemon; `memberd list_mem` and the like ask one that runs.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::anyhow;
use clap::{CommandFactory, Parser, Subcommand};
use common::cluster::Cluster;
use common::ids::NodeName;
use common::net::Identity;
use memberd::{Member, client, driver::Driver};
use tokio::signal::unix::{SignalKind, signal};

/// Membership daemon: one per node, watches which nodes of the cluster are alive.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  memberd --cluster run/cluster.toml --node n1\n  memberd list_mem --cluster run/cluster.toml --node n1 --json"
)]
struct Args {
    /// The cluster file [default: $RAINSTORM_CLUSTER, else ./cluster.toml]
    #[arg(long, global = true, value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// Which node of the cluster file this daemon is, or which node's daemon is asked [default for asking: the first
    /// node of the file that is this machine]
    #[arg(long, global = true, value_name = "NAME")]
    node: Option<String>,
    #[command(subcommand)]
    query: Option<Query>,
}

/// Without one of these, the daemon runs.
#[derive(Subcommand)]
#[command(rename_all = "snake_case")]
enum Query {
    /// List the members that the node's daemon knows
    ListMem {
        /// As an array of {name, id, addr, incarnation, state}
        #[arg(long)]
        json: bool,
    },
    /// Show the node's own entry
    ListSelf {
        /// As an object {name, id, addr, incarnation, state}
        #[arg(long)]
        json: bool,
    },
    /// Have the node's daemon announce that it leaves, and exit
    Leave,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let cluster = match Cluster::find(args.cluster.as_deref()) {
        Ok(cluster) => cluster,
        Err(e) => return usage(e),
    };
    let named = match (&args.node, &args.query) {
        (Some(name), _) => cluster.node(name).map(|n| n.name.clone()).map_err(|e| e.to_string()),
        (None, Some(_)) => {
            let none = "none of the cluster file's nodes is this machine; say which to ask with --node NAME";
            cluster.local_node().map(|n| n.name.clone()).ok_or(none.to_owned())
        }
        (None, None) => Err("--node NAME is missing: it says which node of the cluster file this daemon is, as in `memberd --cluster run/cluster.toml --node n1`".into()),
    };
    let node = match named {
        Ok(node) => node,
        Err(e) => return usage(e),
    };
    let done = match args.query {
        None => daemon(cluster, node),
        Some(query) => ask(&cluster, &node, query),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // The libraries' messages name their causes themselves: `{e:#}` would say them twice.
            eprintln!("memberd: {e}");
            ExitCode::FAILURE
        }
    }
}

fn usage(what: impl std::fmt::Display) -> ExitCode {
    eprintln!("memberd: {what}");
    eprintln!("{}", Args::command().render_usage());
    ExitCode::from(2)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| anyhow!("cannot start the async runtime: {e}"))
}

fn daemon(cluster: Cluster, name: NodeName) -> anyhow::Result<()> {
    let log = cluster.node(name.as_str())?.log.clone();
    let _log = common::telemetry::init(Some((&log, "memberd.log")), std::io::stderr)?;
    runtime()?.block_on(async {
        // Before the ports are bound: whoever sees them open may send the signal.
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let driver = Driver::bind(Arc::new(cluster), &name).await?;
        driver
            .run(async {
                tokio::select! {
                    _ = term.recv() => {}
                    _ = int.recv() => {}
                }
            })
            .await?;
        Ok(())
    })
}

fn ask(cluster: &Cluster, node: &NodeName, query: Query) -> anyhow::Result<()> {
    let me = Identity {
        who: format!("memberd-query {}", std::process::id()),
        node: None,
        secret: cluster.secret()?,
        security: cluster.security,
    };
    runtime()?.block_on(async {
        match query {
            Query::ListMem { json } => show(&client::list(cluster, &me, node).await?, json),
            Query::ListSelf { json: true } => print(&to_json(&client::list_self(cluster, &me, node).await?)),
            Query::ListSelf { json: false } => show(&[client::list_self(cluster, &me, node).await?], false),
            Query::Leave => {
                client::leave(cluster, &me, node).await?;
                eprintln!("{node} is leaving");
                Ok(())
            }
        }
    })
}

fn to_json(member: &Member) -> serde_json::Value {
    serde_json::json!({
        "name": member.name,
        "id": member.id(),
        "addr": member.addr,
        "incarnation": member.incarnation,
        "state": member.state,
    })
}

fn show(members: &[Member], json: bool) -> anyhow::Result<()> {
    if json {
        return print(&serde_json::Value::Array(members.iter().map(to_json).collect()));
    }
    let width = |header: &str, cell: &dyn Fn(&Member) -> String| {
        members
            .iter()
            .map(|m| cell(m).len())
            .chain([header.len()])
            .max()
            .unwrap_or(0)
    };
    let (n, a) = (
        width("NAME", &|m| m.name.to_string()),
        width("ADDR", &|m| m.addr.to_string()),
    );
    let mut out = format!("{:n$}  {:a$}  {:13}  STATE\n", "NAME", "ADDR", "INCARNATION");
    for m in members {
        out.push_str(&format!(
            "{:n$}  {:a$}  {:<13}  {}\n",
            m.name,
            m.addr.to_string(),
            m.incarnation,
            m.state
        ));
    }
    write(&out)
}

fn print(value: &serde_json::Value) -> anyhow::Result<()> {
    write(&format!("{value:#}\n"))
}

/// A reader that closed the pipe (`| head`) is no error.
fn write(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(anyhow!("cannot write to standard output: {e}"))
        }
        _ => Ok(()),
    }
}
