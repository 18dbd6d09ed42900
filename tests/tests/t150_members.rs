//! A node that comes and goes. (faults.md: a member flapping every 2 s)

use std::process::Child;
use std::time::Duration;

use anyhow::{Result, ensure};
use system_tests::jobs::{GREP_COUNT, GREP_COUNT_ORACLE, with_end};
use system_tests::{Cluster, now, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn t151_a_node_goes_and_comes_every_two_seconds() -> Result<()> {
    const FLAPS: u32 = 5;
    let cluster = Cluster::with_text("127.0.65.61", 5, 700_000)?;
    let mut job = cluster.start("flap", &with_end(&GREP_COUNT, "out/flap", "true", "60000"))?;
    job.wait_for_output()?;
    let before = cluster.tasks("flap")?;
    let hit = before.iter().filter(|t| t.node == "n4").count();
    ensure!(hit > 0, "no task on n4: {before:?}");
    let began = now();
    let mut children: Vec<Child> = vec![];
    for flap in 0..FLAPS {
        cluster.kill_nodes(&["n4"])?;
        wait_until(began + Duration::from_secs(2) * flap + Duration::from_secs(1))?;
        children.extend(cluster.start_daemons("n4")?);
        wait_until(began + Duration::from_secs(2) * (flap + 1))?;
        ensure!(job.is_running()?, "the job was over after {flap} rounds");
    }
    let tasks = cluster.tasks("flap")?;
    let summary = job.finish(LIMIT)?;
    // Whatever was on the node when it went is started again, each time; nobody else is.
    let restarts = summary["restarts"].as_u64().unwrap_or(u64::MAX);
    eprintln!("{hit} tasks were there at first, {restarts} restarts in {FLAPS} rounds");
    ensure!(
        restarts >= hit as u64 && restarts <= u64::from(FLAPS) * before.len() as u64,
        "{restarts} restarts"
    );
    let elsewhere = |name: &str| before.iter().any(|t| t.task == name && t.node != "n4");
    let others: Vec<_> = tasks
        .iter()
        .filter(|t| elsewhere(&t.task) && t.epoch != 1)
        .collect();
    ensure!(others.is_empty(), "others were restarted, too: {others:?}");
    cluster.check("out/flap", GREP_COUNT_ORACLE)?;
    drop(cluster);
    children.iter_mut().try_for_each(|c| c.wait().map(drop))?;
    Ok(())
}

fn wait_until(then: std::time::Instant) -> Result<()> {
    wait_for("the next round", Duration::from_secs(5), || {
        Ok((now() >= then).then_some(()))
    })
}
