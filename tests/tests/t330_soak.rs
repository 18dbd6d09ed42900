//! Two minutes of `bench/soak.sh`: jobs that follow their input while tasks, operators, daemons and nodes are killed, with nobody
//! watching. (faults.md: a job weeks old, killed)

use std::time::Duration;

use anyhow::{Result, ensure};
use system_tests::Cluster;
use system_tests::soak::run::run;
use system_tests::soak::{Kind, Options};

const MIB: u64 = 1024 * 1024;

/// Batches are small, so that the logs come to what they would in an hour or so: they are trimmed many times.
#[test]
fn t331_what_jobs_without_end_keep_stays_where_it_is() -> Result<()> {
    let cluster = Cluster::up("127.0.47", 4)?;
    let config = std::fs::read_to_string(cluster.config())?;
    std::fs::write(cluster.config(), format!("{config}\n[job]\nbatch_bytes = 256\n"))?;
    let options = Options {
        seed: 17,
        time: Duration::from_secs(120),
        every: Duration::from_secs(10),
        pause: Duration::from_secs(7),
        jobs: vec![(Kind::Plain, 15_000), (Kind::Count, 6_000)],
        leaders: true,
        nodes: true,
    };
    let report = run(&cluster, &options, &cluster.path("soak.tsv"))?;
    ensure!(report.wrong.is_empty(), "{:#?}", report.wrong);
    ensure!(report.struck.all() >= 5, "only {:?}", report.struck);
    // 18 tasks, of which each keeps up to 2 MiB and what is being appended.
    ensure!(
        report.logged > 3 * report.kept && report.kept < 40 * MIB,
        "of {} bytes of logs {} are kept",
        report.logged,
        report.kept
    );
    // How long something takes says nothing on a busy machine.
    let grows: Vec<_> = report
        .trends
        .iter()
        .filter(|t| t.grows && !t.name.ends_with("ms"))
        .collect();
    ensure!(grows.is_empty(), "{grows:#?}");
    Ok(())
}
