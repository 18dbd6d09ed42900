//! How long it takes from `kill -9` of a job's leader to new output, when nobody is there: of the leader alone, and of its node. The
//! output is compared with awk's.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use nix::sys::signal::Signal;
use system_tests::chaos::recovery::{LogTail, between, time_of_day};
use system_tests::jobs::with_end;
use system_tests::leaders::{Led, wait_for_standby};
use system_tests::procs::signal;
use system_tests::{Cluster, Job, wait_for};

/// Kills the leader of one follow job again and again, then its whole node, and prints how long the first new output took.
///
/// The time is from the signal to the moment when a task of the last stage, started by the next leader, lets go its first
/// output that nobody has had.
#[derive(Debug, Parser)]
#[command(name = "leaders")]
struct Args {
    /// How many leaders are killed
    #[arg(long, value_name = "N", default_value = "50")]
    kills: usize,
    /// How many leaders are killed with all of their node
    #[arg(long, value_name = "N", default_value = "10")]
    nodes: usize,
    /// The clusters' addresses begin with this
    #[arg(long, value_name = "PREFIX", default_value = "127.0.43")]
    subnet: String,
}

const LINES: u64 = 600_000;
/// Per second, over all sources: every task has something under way at all times.
const RATE: &str = "1000";
const STAGES: [&str; 6] = ["2", "3", "identity", "", "identity", ""];
const LAST_STAGE: &str = "s2t";
const ORACLE: &str = r#"awk '{ print "in/data.txt:" NR "\t" $0 }' data.txt"#;
const PATIENCE: Duration = Duration::from_secs(60);
const JOB: &str = "watched";

fn main() -> ExitCode {
    match measure(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("leaders: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> Result<()> {
    let cluster = Cluster::with_text(&args.subnet, if args.nodes > 0 { 5 } else { 3 }, LINES)?;
    let mut all = vec!["--follow"];
    all.extend(with_end(&STAGES, "out/watched", "true", RATE));
    let mut job = cluster.start(JOB, &all)?;
    job.wait_for_output()?;
    for (what, wanted, node) in [
        ("leaders", args.kills, false),
        ("leaders' nodes", args.nodes, true),
    ] {
        let mut times = vec![];
        while times.len() < wanted {
            times.push(one(&cluster, &mut job, node)?);
        }
        if wanted > 0 {
            println!("{what}: {}", statistics(&mut times));
        }
    }
    cluster.release(JOB)?;
    cluster.drain(JOB)?;
    cluster.wait_for_outcome(JOB, "done")?;
    cluster.wait_until_gone(JOB, PATIENCE)?;
    cluster.check("out/watched", ORACLE)?;
    println!("the output is exact: {LINES} lines, each once");
    Ok(())
}

fn one(cluster: &Cluster, job: &mut Job, node: bool) -> Result<Duration> {
    wait_for_standby(cluster, JOB)?;
    let Led { pid, node: on, .. } = cluster.led(JOB)?.context("a leader")?;
    let epochs = cluster
        .tasks(JOB)?
        .iter()
        .map(|t| t.epoch)
        .max()
        .context("tasks")?;
    let logs = LogTail::begin(cluster);
    let at = time_of_day();
    signal(pid, Signal::SIGKILL)?;
    if node {
        cluster.kill_nodes(&[&on])?;
    }
    job.reap();
    let took = wait_for("output of the next leader's tasks", PATIENCE, || {
        let events = logs.events(JOB)?;
        if events.iter().any(|e| e.word == "STANDBY_FAILED") {
            bail!("a standby failed");
        }
        let first = events.iter().filter(|e| {
            let newer = e.field("epoch").parse::<u64>().is_ok_and(|epoch| epoch > epochs);
            e.word == "FIRST_OUTPUT" && e.field("task").starts_with(LAST_STAGE) && newer
        });
        Ok(first.map(|e| between(at, e.at)).min())
    })?;
    if node {
        cluster.script(&["start-node", &on])?;
    }
    ensure!(took < PATIENCE, "{took:?}");
    Ok(took)
}

fn statistics(times: &mut [Duration]) -> String {
    times.sort();
    let ms = |i: usize| times[i].as_secs_f64() * 1000.0;
    format!(
        "{} killed, first new output after {:.0} ms (median), worst {:.0}",
        times.len(),
        ms(times.len() / 2),
        ms(times.len() - 1)
    )
}
