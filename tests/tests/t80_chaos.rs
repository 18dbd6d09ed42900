//! A part of `demo/chaos.sh`: a dozen random jobs under random faults, judged by awk.

use std::path::Path;

use anyhow::{Result, ensure};
use system_tests::Cluster;
use system_tests::chaos::report::{self, Report};
use system_tests::chaos::run::{Options, run};
use system_tests::chaos::scenario::{Limits, Scenario};

/// Every kind of job; tasks, an operator, a storage daemon, a node and two nodes killed, a task stopped and woken.
const SEEDS: [u64; 12] = [2, 3, 6, 9, 24, 25, 26, 28, 29, 30, 34, 35];

/// RAINSTORM_CHAOS_FIRST: a dozen others, from that seed on.
#[test]
fn t81_random_jobs_under_random_faults() -> Result<()> {
    let limits = Limits {
        nodes: 5,
        node_faults: true,
        leader_faults: false,
    };
    let options = Options {
        evidence: Path::new(env!("CARGO_TARGET_TMPDIR")).join("chaos"),
        verify: false,
        keep: false,
    };
    let seeds: Vec<u64> = match std::env::var("RAINSTORM_CHAOS_FIRST") {
        Ok(first) => (0..)
            .map(|n| first.parse::<u64>().map(|f| f + n))
            .take(SEEDS.len())
            .collect::<Result<_, _>>()?,
        Err(_) => SEEDS.to_vec(),
    };
    let cluster = Cluster::up("127.0.58", limits.nodes)?;
    let mut report = Report::default();
    for seed in seeds {
        let scenario = Scenario::new(seed, limits);
        let outcome = run(&cluster, &scenario, &options)?;
        println!("{}", report::line(&scenario, &outcome));
        report.add(&scenario, &outcome);
    }
    println!("{report}");
    ensure!(report.failed().is_empty(), "{:#?}", report.failed());
    ensure!(
        report.valid() == report.runs(),
        "only {} of {} runs had a fault that hit: they prove nothing",
        report.valid(),
        report.runs()
    );
    Ok(())
}
