//! `memberd --cluster FILE --node NAME` runs the daemon; `memberd list_mem` and the like ask one that runs.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::anyhow;
use clap::{CommandFactory, Parser, Subcommand};
use common::cluster::Cluster;
use common::ids::NodeName;
use common::net::Identity;
use common::output::{self, complain};
use common::signals::Signals;
use memberd::state::settings::KEYS;
use memberd::{Member, State, client, driver::Driver};

/// Membership daemon: one per node, watches which nodes of the cluster are alive.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  memberd --cluster run/cluster.toml --node n1\n  memberd list_mem --cluster run/cluster.toml --node n1 --json\n  memberd switch gossip enabled 1s --cluster run/cluster.toml\n  memberd set fanout=4 fail_ms=1200 --cluster run/cluster.toml"
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
    /// List the members that are suspected just now
    DisplaySuspects {
        /// As an array of {name, id, addr, incarnation, state}
        #[arg(long)]
        json: bool,
    },
    /// Show which protocol is in force, with or without suspicion
    DisplayProtocol,
    /// Switch the whole group to another protocol
    Switch {
        #[arg(value_parser = ["gossip", "pingack"])]
        protocol: String,
        /// [default: as it is]
        #[arg(value_parser = ["enabled", "disabled"])]
        suspicion: Option<String>,
        /// How long a suspect may refute, such as 1s [default: as it is]
        suspicion_time: Option<String>,
    },
    /// Show the group's configuration
    Get {
        /// One setting alone
        key: Option<String>,
    },
    /// Change settings of the whole group: all of them or none
    Set {
        /// Such as fanout=4 suspicion_time=750ms
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<String>,
    },
}

/// The words' settings, as the protocol takes them.
fn pairs(settings: &[String]) -> anyhow::Result<Vec<(String, String)>> {
    let pair = |s: &String| {
        let (key, value) = s.split_once('=').ok_or_else(|| {
            anyhow!("`{s}` is not KEY=VALUE; for example: memberd set suspicion_time=750ms")
        })?;
        Ok((key.to_owned(), value.to_owned()))
    };
    settings.iter().map(pair).collect()
}

fn main() -> ExitCode {
    common::open_files::raise_limit();
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(usage) => {
            let code = usage.exit_code() as u8;
            return ExitCode::from(output::code_of("memberd", usage.print(), code));
        }
    };
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
            complain(format_args!("memberd: {e}"));
            ExitCode::FAILURE
        }
    }
}

fn usage(what: impl std::fmt::Display) -> ExitCode {
    complain(format_args!(
        "memberd: {what}\n{}",
        Args::command().render_usage()
    ));
    ExitCode::from(2)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| anyhow!("cannot start the async runtime: {e}"))
}

fn daemon(cluster: Cluster, name: NodeName) -> anyhow::Result<()> {
    let node = cluster.node(name.as_str())?;
    let log = common::telemetry::init(Some(cluster.log_of(node, "memberd.log")), std::io::stderr)?;
    runtime()?.block_on(async {
        // Before the ports are bound: whoever sees them open may send the signal.
        let mut signals = Signals::new()?;
        let driver = Driver::bind(Arc::new(cluster), &name).await?;
        driver
            .run(async {
                signals.stopped(|| log.reopen()).await;
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
            Query::DisplaySuspects { json } => {
                let mut members = client::list(cluster, &me, node).await?;
                members.retain(|m| m.state == State::Suspect);
                show(&members, json)
            }
            Query::DisplayProtocol => {
                write(&format!("{}\n", client::configuration(cluster, &me, node).await?))
            }
            Query::Switch {
                protocol,
                suspicion,
                suspicion_time,
            } => {
                let given = [
                    ("protocol", Some(protocol)),
                    ("suspicion", suspicion),
                    ("suspicion_time", suspicion_time),
                ];
                let changes = given
                    .into_iter()
                    .filter_map(|(k, v)| Some((k.to_owned(), v?)))
                    .collect();
                write(&format!(
                    "{}\n",
                    client::change(cluster, &me, node, changes).await?
                ))
            }
            Query::Get { key: None } => print(&client::configuration(cluster, &me, node).await?.to_json()),
            Query::Get { key: Some(key) } => {
                let all = client::configuration(cluster, &me, node).await?.to_json();
                match &all[&key] {
                    serde_json::Value::Null => Err(anyhow!(
                        "there is no setting `{key}`; there are {}",
                        KEYS.join(", ")
                    )),
                    serde_json::Value::String(text) => write(&format!("{text}\n")),
                    other => write(&format!("{other}\n")),
                }
            }
            Query::Set { settings } => {
                let new = client::change(cluster, &me, node, pairs(&settings)?).await?;
                print(&new.to_json())
            }
            Query::ListSelf { json: true } => print(&client::list_self(cluster, &me, node).await?.to_json()),
            Query::ListSelf { json: false } => show(&[client::list_self(cluster, &me, node).await?], false),
            Query::Leave => {
                client::leave(cluster, &me, node).await?;
                complain(format_args!("{node} is leaving"));
                Ok(())
            }
        }
    })
}

fn show(members: &[Member], json: bool) -> anyhow::Result<()> {
    if json {
        return print(&serde_json::Value::Array(
            members.iter().map(Member::to_json).collect(),
        ));
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

fn write(text: &str) -> anyhow::Result<()> {
    Ok(output::print(text)?)
}
