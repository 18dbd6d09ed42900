//! The source's rate, and what load does to a job. (faults.md: sources with nothing to read; starved tasks)

use std::time::Duration;

use anyhow::{Result, ensure};
use system_tests::jobs::{GREP_REPLACE_ORACLE, with_end};
use system_tests::{Cluster, now, wait_for};

/// Two of three sources have nothing to read: the third gets their part, and all together keep the rate to 1 % over five
/// seconds. A busy machine may take a while until it lets them.
#[test]
fn t271_idle_sources_keep_nothing_of_the_rate() -> Result<()> {
    const RATE: usize = 30_000;
    const WINDOW: Duration = Duration::from_secs(5);
    let cluster = Cluster::up("127.0.83", 3)?;
    let text: String = (1..=RATE * 90).map(|n| format!("{n}\n")).collect();
    std::fs::write(cluster.path("much"), text)?;
    std::fs::write(cluster.path("little"), "1\n")?;
    cluster.hydfs(&["create", "little", "in/a"])?;
    cluster.hydfs(&["create", "little", "in/b"])?;
    cluster.hydfs(&["create", "little", "in/much"])?;
    let mut args = vec!["--follow"];
    let rate = RATE.to_string();
    args.extend(with_end(&["1", "3", "identity", ""], "out", "true", &rate));
    let mut job = cluster.start("pace", &args)?;
    job.wait_for_output()?;
    // It grows under one source; a file that is large at the start would be shared out.
    cluster.hydfs(&["append", "much", "in/much"])?;
    let mut seen = vec![];
    let near = |(_, lines): &(std::time::Instant, usize)| *lines > 10;
    let off = wait_for("five seconds at the rate", Duration::from_secs(80), || {
        ensure!(job.is_running()?, "the job ended by itself: {}", job.said());
        seen.push((now(), job.printed()?));
        let (at, lines) = seen[seen.len() - 1];
        let before = seen
            .iter()
            .filter(|s| near(s))
            .rev()
            .find(|(then, _)| at - *then >= WINDOW);
        let Some((then, before)) = before else {
            return Ok(None);
        };
        let due = RATE as f64 * (at - *then).as_secs_f64();
        let off = (lines - before) as f64 / due - 1.0;
        Ok((off.abs() < 0.01).then_some(off))
    });
    let rates: Vec<usize> = seen.iter().step_by(100).map(|s| s.1).collect();
    let off = off.map_err(|e| e.context(format!("lines printed, once a second or so: {rates:?}")))?;
    println!("off by {:.3} %", off * 100.0);
    job.interrupt()?;
    drop(job);
    Ok(())
}

/// 80 tasks and their sources on a machine of a few cores, at full speed: each starves for most of the time. Nobody takes that
/// for a death.
#[test]
fn t272_starved_tasks_are_not_taken_for_dead_ones() -> Result<()> {
    let cluster = Cluster::with_text("127.0.84", 5, 8_000_000)?;
    let stages = ["2", "40", "grep", "static", "replace", "static STATIC"];
    let mut job = cluster.start("starved", &with_end(&stages, "out", "true", "0"))?;
    job.wait_for_output()?;
    let summary = job.finish(Duration::from_secs(300))?;
    ensure!(summary["restarts"] == 0, "{summary}");
    let told = cluster.log_lines("TASK_FAIL")?;
    ensure!(told.is_empty(), "{told:?}");
    cluster.check("out", GREP_REPLACE_ORACLE)
}
