//! Runs random jobs under random faults on a local cluster of its own, and compares every output with an oracle.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use system_tests::Cluster;
use system_tests::chaos::report::{self, Report};
use system_tests::chaos::run::{Options, Outcome, run};
use system_tests::chaos::scenario::{Limits, Scenario};

/// Random jobs under random faults: every output must be what awk makes of the same input.
///
/// Exit code: 0 all as it must be, 1 a run went wrong (its seed and evidence are named), 2 bad usage.
#[derive(Debug, Parser)]
#[command(name = "chaos")]
struct Args {
    /// How many runs, from --first on; one in which no fault struck while tuples were in flight is replaced by a further one
    #[arg(long, value_name = "N", default_value = "20")]
    runs: u64,
    /// The first run's seed
    #[arg(long, value_name = "SEED", default_value = "1")]
    first: u64,
    /// This seed alone, once (or --runs times, if given)
    #[arg(long, value_name = "SEED", conflicts_with = "first")]
    seed: Option<u64>,
    /// Nodes of the cluster: with five, two may be killed at once; with three, one
    #[arg(long, value_name = "N", default_value = "5", value_parser = clap::value_parser!(u16).range(1..=20))]
    nodes: u16,
    /// No faults of nodes and daemons, only of single processes
    #[arg(long)]
    tasks_only: bool,
    /// Kill the leader too, and resume the job
    #[arg(long)]
    resume: bool,
    /// Ask `rainstormctl verify` too
    #[arg(long)]
    verify: bool,
    /// Keep evidence of runs that went well, too
    #[arg(long)]
    keep: bool,
    /// Only print what the seeds stand for
    #[arg(long)]
    dry_run: bool,
    /// Stop at the first run that goes wrong
    #[arg(long)]
    stop: bool,
    /// Where evidence of wrong runs goes
    #[arg(long, value_name = "FOLDER", default_value = "run/chaos")]
    evidence: PathBuf,
    /// The cluster's addresses begin with this
    #[arg(long, value_name = "PREFIX", default_value = "127.0.50")]
    subnet: String,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match chaos(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn chaos(args: &Args) -> Result<bool> {
    let limits = Limits {
        nodes: args.nodes.into(),
        node_faults: !args.tasks_only,
        leader_faults: args.resume,
    };
    let options = Options {
        evidence: std::path::absolute(&args.evidence)?,
        verify: args.verify,
        keep: args.keep,
    };
    let given = std::env::args().any(|a| a.starts_with("--runs"));
    // A run that proves nothing is replaced, a few times: were there many of them, something else would be wrong.
    let most = args.runs + args.runs / 5 + 1;
    let (seeds, wanted): (Vec<u64>, u64) = match args.seed {
        Some(seed) => (vec![seed; if given { args.runs as usize } else { 1 }], u64::MAX),
        None if args.dry_run => ((args.first..args.first + args.runs).collect(), args.runs),
        None => ((args.first..args.first + most).collect(), args.runs),
    };
    if args.dry_run {
        seeds
            .into_iter()
            .for_each(|seed| println!("{:?}", Scenario::new(seed, limits)));
        return Ok(true);
    }
    let mut cluster = Cluster::up(&args.subnet, limits.nodes)?;
    let mut report = Report::default();
    for seed in seeds {
        let scenario = Scenario::new(seed, limits);
        let outcome = match run(&cluster, &scenario, &options) {
            Ok(outcome) => outcome,
            Err(error) => {
                // The cluster itself is in doubt: the next run gets a new one.
                drop(cluster);
                cluster = Cluster::up(&args.subnet, limits.nodes)?;
                Outcome {
                    seed,
                    wrong: vec![format!("the run could not be ended: {error:#}")],
                    ..Outcome::default()
                }
            }
        };
        println!("{}", report::line(&scenario, &outcome));
        for wrong in &outcome.wrong {
            println!("    {}", wrong.replace('\n', "\n    "));
        }
        if let Some(kept) = &outcome.kept {
            println!(
                "    evidence: {}    again: demo/chaos.sh --seed {seed}",
                kept.display()
            );
        }
        report.add(&scenario, &outcome);
        if report.counted() >= wanted || (args.stop && !outcome.wrong.is_empty()) {
            break;
        }
    }
    println!("\n{report}");
    Ok(report.failed().is_empty())
}
