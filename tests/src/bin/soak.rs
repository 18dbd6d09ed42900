//! Runs jobs that follow their input on a local cluster of its own, for as long as asked, while things are killed.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;
use system_tests::Cluster;
use system_tests::soak::run::{Report, run};
use system_tests::soak::{Kind, Options};

/// Jobs without end, killed now and then, with nobody watching: every line must come out once, and nothing may grow.
///
/// A line for each sample goes to standard output, all figures to the table. Exit code: 0 exact and no figure grows; 1 otherwise.
#[derive(Debug, Parser)]
#[command(name = "soak")]
struct Args {
    /// How long
    #[arg(long, value_name = "M", default_value = "120")]
    minutes: f64,
    /// Seconds between two samples
    #[arg(long, value_name = "S", default_value = "300")]
    every: f64,
    /// Seconds between two kills, on average; 0: none
    #[arg(long, value_name = "S", default_value = "20")]
    pause: f64,
    /// The jobs, each with its lines per second
    #[arg(
        long,
        value_name = "JOB=RATE",
        value_delimiter = ',',
        default_value = "plain=30000,count=20000,python=5000"
    )]
    jobs: Vec<String>,
    /// Smaller batches by this factor: more order records for as many lines, so that the logs come to more
    #[arg(long, value_name = "X", default_value = "1")]
    speedup: u32,
    /// No leader is killed
    #[arg(long)]
    no_leaders: bool,
    /// No node and no daemon is killed
    #[arg(long)]
    no_nodes: bool,
    #[arg(long, value_name = "SEED", default_value = "1")]
    seed: u64,
    #[arg(long, value_name = "N", default_value = "5")]
    nodes: usize,
    /// Where the samples go: lines `SECONDS<TAB>FIGURE<TAB>VALUE`
    #[arg(long, value_name = "FILE", default_value = "soak.tsv")]
    table: PathBuf,
    /// The cluster's addresses begin with this
    #[arg(long, value_name = "PREFIX", default_value = "127.0.46")]
    subnet: String,
}

fn main() -> ExitCode {
    match soak(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn job(text: &str) -> Result<(Kind, u64)> {
    let Some((name, rate)) = text.split_once('=') else {
        anyhow::bail!("--jobs {text}: JOB=RATE, such as plain=30000");
    };
    let kind = <Kind as clap::ValueEnum>::from_str(name, false).map_err(anyhow::Error::msg)?;
    Ok((kind, rate.parse()?))
}

fn soak(args: &Args) -> Result<bool> {
    let options = Options {
        seed: args.seed,
        time: Duration::from_secs_f64(args.minutes * 60.0),
        every: Duration::from_secs_f64(args.every),
        pause: Duration::from_secs_f64(args.pause),
        jobs: args.jobs.iter().map(|text| job(text)).collect::<Result<_>>()?,
        leaders: !args.no_leaders,
        nodes: !args.no_nodes,
    };
    ensure!((1..=10_000).contains(&args.speedup), "--speedup: 1 to 10000");
    let cluster = Cluster::up(&args.subnet, args.nodes)?;
    if args.speedup > 1 {
        let config = std::fs::read_to_string(cluster.config())?;
        let bytes = (128 * 1024 / args.speedup).max(16);
        std::fs::write(
            cluster.config(),
            format!("{config}\n[job]\nbatch_bytes = {bytes}\n"),
        )?;
    }
    let report = run(&cluster, &options, &args.table)?;
    Ok(tell(&report))
}

/// True: all is as it must be.
fn tell(report: &Report) -> bool {
    let struck = report.struck;
    println!(
        "killed: {} tasks, {} operators, {} daemons, {} nodes, {} leaders; {} lines came out; {} MiB of logs were written",
        struck.tasks,
        struck.operators,
        struck.daemons,
        struck.nodes,
        struck.leaders,
        report.lines,
        report.logged / 1024 / 1024,
    );
    for t in &report.trends {
        let word = if t.grows { "GROWS" } else { "stays" };
        println!(
            "{word}  {}: {:.1} in the first third, {:.1} in the last ({:+.1} per hour)",
            t.name, t.first, t.last, t.per_hour
        );
    }
    for wrong in &report.wrong {
        println!("WRONG  {wrong}");
    }
    report.wrong.is_empty() && report.trends.iter().all(|t| !t.grows)
}
