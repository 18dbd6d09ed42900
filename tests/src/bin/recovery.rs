//! How long it takes from `kill -9` to new output: of single tasks, and of whole nodes. Every output is compared with awk's.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use nix::sys::signal::Signal;
use system_tests::chaos::recovery::{LogTail, between, time_of_day};
use system_tests::jobs::with_end;
use system_tests::procs::{Worker, signal};
use system_tests::{Cluster, Job, wait_for};

/// Kills tasks, then nodes, of jobs of two stages of three identity tasks, and prints how long the first new output took.
///
/// A task's time is from the signal to the moment when its replacement lets go its first output that nobody has had; a node's
/// is that of the slowest of the tasks that ran there.
#[derive(Debug, Parser)]
#[command(name = "recovery")]
struct Args {
    /// How many tasks are killed, every task of the job in turn
    #[arg(long, value_name = "N", default_value = "300")]
    kills: usize,
    /// How many nodes are killed, never the leader's
    #[arg(long, value_name = "N", default_value = "20")]
    nodes: usize,
    /// The clusters' addresses begin with this
    #[arg(long, value_name = "PREFIX", default_value = "127.0.42")]
    subnet: String,
}

const LINES: u64 = 400_000;
/// Per second, over all sources: every task has something under way at all times.
const RATE: &str = "10000";
const STAGES: [&str; 6] = ["2", "3", "identity", "", "identity", ""];
const ORACLE: &str = r#"awk '{ print "in/data.txt:" NR "\t" $0 }' data.txt"#;
const PATIENCE: Duration = Duration::from_secs(30);
/// What is left of a job when no more is killed.
const LAST: usize = 60_000;

fn main() -> ExitCode {
    let args = Args::parse();
    match measure(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("recovery: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> Result<()> {
    for (what, wanted, nodes, strike) in [
        (
            "a task",
            args.kills,
            3,
            kill_task as fn(&Cluster, &str, usize) -> Result<Strike>,
        ),
        ("a node", args.nodes, 5, kill_node),
    ] {
        if wanted == 0 {
            continue;
        }
        let cluster = Cluster::with_text(&args.subnet, nodes, LINES)?;
        let mut times = vec![];
        for round in 0.. {
            if times.len() >= wanted {
                break;
            }
            let name = format!("recovery{round}");
            let dest = format!("out/{name}");
            let mut job = cluster.start(&name, &with_end(&STAGES, &dest, "true", RATE))?;
            job.wait_for_output()?;
            let before = times.len();
            while times.len() < wanted && job.printed()? + LAST < LINES as usize {
                times.push(one(&cluster, &mut job, times.len(), strike)?);
            }
            ensure!(
                times.len() > before,
                "the job was over before anything was killed"
            );
            job.finish(Duration::from_secs(200))?;
            cluster.check(&dest, ORACLE)?;
            cluster.hydfs(&["rm", &dest])?;
        }
        println!("{what}: {}; every output exact", statistics(&mut times));
    }
    Ok(())
}

/// What was hit, and the node that must be started again.
struct Strike {
    at: u64,
    hit: Vec<Worker>,
    node: Option<String>,
}

fn kill_task(cluster: &Cluster, job: &str, turn: usize) -> Result<Strike> {
    let mut workers = newest(cluster, job)?;
    workers.sort_by(|a, b| a.task.cmp(&b.task));
    let victim = workers.swap_remove(turn % workers.len());
    let at = time_of_day();
    signal(victim.pid, Signal::SIGKILL)?;
    Ok(Strike {
        at,
        hit: vec![victim],
        node: None,
    })
}

/// The node, other than the leader's, on which most tasks run.
fn kill_node(cluster: &Cluster, job: &str, _: usize) -> Result<Strike> {
    let workers = newest(cluster, job)?;
    let on = |node: &str| workers.iter().filter(|w| w.node == node).count();
    let nodes = (2..=cluster.nodes()).map(|n| format!("n{n}"));
    let node = nodes.max_by_key(|n| on(n)).context("nodes")?;
    let at = time_of_day();
    cluster.kill_nodes(&[&node])?;
    let hit = workers.into_iter().filter(|w| w.node == node).collect();
    Ok(Strike {
        at,
        hit,
        node: Some(node),
    })
}

/// The newest process of each task, once all have one.
fn newest(cluster: &Cluster, job: &str) -> Result<Vec<Worker>> {
    wait_for("all tasks to run", PATIENCE, || {
        let running = cluster.tasks(job)?;
        let all = running.iter().filter(|t| t.state == "running").count() >= 7;
        let mut workers = cluster.workers(job)?;
        workers.retain(|w| {
            running
                .iter()
                .any(|t| t.task == w.task && t.epoch == w.epoch && t.state == "running")
        });
        Ok((all && workers.len() >= 7).then_some(workers))
    })
}

fn one(
    cluster: &Cluster,
    job: &mut Job<'_>,
    turn: usize,
    strike: fn(&Cluster, &str, usize) -> Result<Strike>,
) -> Result<Duration> {
    let logs = LogTail::begin(cluster);
    let Strike { at, hit, node } = strike(cluster, &job.name, turn)?;
    ensure!(!hit.is_empty(), "nothing ran on {node:?}");
    let mut worst = Duration::ZERO;
    for victim in &hit {
        let took = wait_for(&format!("output of {}", victim.task), PATIENCE, || {
            ensure!(job.is_running()?, "the job is over: {}", job.said());
            let events = logs.events(&job.name)?;
            let first = events.iter().filter(|e| {
                e.word == "FIRST_OUTPUT"
                    && e.field("task") == victim.task
                    && e.field("epoch")
                        .parse::<u64>()
                        .is_ok_and(|epoch| epoch > victim.epoch)
            });
            Ok(first.map(|e| between(at, e.at)).min())
        })?;
        worst = worst.max(took);
    }
    if let Some(node) = node {
        cluster.script(&["start-node", &node])?;
    }
    Ok(worst)
}

fn statistics(times: &mut [Duration]) -> String {
    times.sort();
    let at = |q: f64| {
        let rank = (times.len() as f64 * q).ceil() as usize;
        times[rank.clamp(1, times.len()) - 1].as_secs_f64() * 1000.0
    };
    format!(
        "{} kills, first new output after {:.1} ms (median), 90 % {:.1}, 99 % {:.1}, worst {:.1}",
        times.len(),
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0)
    )
}
