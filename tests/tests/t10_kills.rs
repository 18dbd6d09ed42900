//! `kill -9` of tasks and of a whole node, in mid-run: the output equals the oracle's. (faults.md: G, P)

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use system_tests::chaos::recovery::{LogTail, between};
use system_tests::job::held;
use system_tests::jobs::{
    GREP_COUNT, GREP_COUNT_ORACLE, GREP_REPLACE, GREP_REPLACE_ORACLE, THREE, THREE_ORACLE, with_end,
};
use system_tests::{Cluster, Job, PATIENCE, wait_for};

const LINES: u64 = 1_200_000;

struct Case {
    name: &'static str,
    /// From Nstages to the last operator's arguments.
    args: &'static [&'static str],
    /// Given `data.txt`: what the destination must hold.
    oracle: &'static str,
    /// Tasks that are killed in turn.
    tasks: &'static [&'static str],
}

const REPLACE: Case = Case {
    name: "replace",
    args: &GREP_REPLACE,
    oracle: GREP_REPLACE_ORACLE,
    tasks: &["s0t0", "s1t0", "s1t1", "s2t0", "s2t1"],
};

const COUNT: Case = Case {
    name: "count",
    args: &GREP_COUNT,
    oracle: GREP_COUNT_ORACLE,
    tasks: &["s0t1", "s1t0", "s1t1", "s2t0"],
};

const STAGES: Case = Case {
    name: "three",
    args: &THREE,
    oracle: THREE_ORACLE,
    tasks: &["s0t0", "s1t1", "s2t0", "s3t1"],
};

fn start<'a>(cluster: &'a Cluster, case: &Case, name: &str) -> Result<Job<'a>> {
    let dest = format!("out/{name}");
    let mut job = cluster.start(name, &with_end(case.args, &dest, "true", &held(LINES)))?;
    job.wait_for_output()?;
    Ok(job)
}

fn kill_each_in_turn(subnet: &str, case: &Case) -> Result<()> {
    let cluster = Cluster::with_text(subnet, 3, LINES)?;
    let mut job = start(&cluster, case, case.name)?;
    let mut killed = vec![];
    for task in case.tasks {
        let victim = job.kill_task(task)?;
        job.wait_for_task(task, victim.epoch + 1)?;
        killed.push(victim);
    }
    let now = cluster.tasks(case.name)?;
    for task in &now {
        // No other process restarts because of a kill.
        let expected = 1 + killed.iter().filter(|k| k.task == task.task).count() as u64;
        ensure!(
            task.epoch == expected,
            "{} has epoch {}, expected {expected}",
            task.task,
            task.epoch
        );
    }
    job.release()?;
    let summary = job.finish(PATIENCE)?;
    ensure!(
        summary["restarts"] == killed.len(),
        "{} kills, but {}",
        killed.len(),
        summary["restarts"]
    );
    ensure!(summary["lines_in"] == LINES, "lines_in {}", summary["lines_in"]);
    cluster.check(&format!("out/{}", case.name), case.oracle)
}

#[test]
fn t11_kill_each_task_of_grep_and_replace() -> Result<()> {
    kill_each_in_turn("127.0.31", &REPLACE)
}

#[test]
fn t12_kill_each_task_of_grep_and_count() -> Result<()> {
    kill_each_in_turn("127.0.32", &COUNT)
}

#[test]
fn t13_kill_each_task_of_three_stages() -> Result<()> {
    kill_each_in_turn("127.0.33", &STAGES)
}

#[test]
fn t14_kill_a_random_task_every_second() -> Result<()> {
    let cluster = Cluster::with_text("127.0.34", 3, LINES)?;
    for (n, case) in [&REPLACE, &COUNT, &STAGES].into_iter().enumerate() {
        let mut job = start(&cluster, case, case.name)?;
        let (mut kills, mut random) = (0u64, 17 + n as u64);
        let mut next = system_tests::now();
        while kills < 8 {
            wait_for("the next kill", PATIENCE, || {
                Ok((system_tests::now() >= next).then_some(()))
            })?;
            next += Duration::from_secs(1);
            let tasks = cluster.tasks(case.name)?;
            let running: Vec<_> = tasks.iter().filter(|t| t.state == "running").collect();
            random = random
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let victim = running.get((random >> 33) as usize % running.len().max(1));
            // One that has just ended by itself is no victim.
            if let Some(pid) = victim.and_then(|v| v.pid)
                && system_tests::kill_process(pid).is_ok()
            {
                kills += 1;
            }
        }
        job.release()?;
        let summary = job.finish(PATIENCE)?;
        ensure!(
            summary["restarts"].as_u64() >= Some(kills.saturating_sub(1)),
            "{kills} kills: {summary}"
        );
        cluster.check(&format!("out/{}", case.name), case.oracle)?;
    }
    Ok(())
}

#[test]
fn t15_kill_a_node_in_mid_run() -> Result<()> {
    let cluster = Cluster::with_text("127.0.35", 5, LINES)?;
    for (case, node) in [(&REPLACE, "n4"), (&COUNT, "n2"), (&STAGES, "n5")] {
        let mut job = start(&cluster, case, case.name)?;
        let tasks = cluster.tasks(case.name)?;
        let hit = tasks.iter().filter(|t| t.node == node).count();
        ensure!(hit > 0, "no task on {node}: {tasks:?}");
        cluster.script(&["kill-node", node])?;
        job.release()?;
        let summary = job.finish(PATIENCE)?;
        ensure!(
            summary["restarts"].as_u64() >= Some(hit as u64),
            "{hit} tasks were on {node}: {summary}"
        );
        cluster.check(&format!("out/{}", case.name), case.oracle)?;
        cluster.script(&["start-node", node])?;
    }
    Ok(())
}

/// Whoever is killed again and again without having got anywhere waits before the next start. One that has worked since is no such task,
/// even if it is killed again before its next beat (half a second).
#[test]
fn t16_a_task_that_works_between_two_kills_is_replaced_at_once_each_time() -> Result<()> {
    let cluster = Cluster::with_text("127.0.36.21", 3, LINES)?;
    let mut job = start(&cluster, &REPLACE, REPLACE.name)?;
    let logs = LogTail::begin(&cluster);
    let mut killed = vec![];
    for _ in 0..6 {
        let victim = job.kill_task("s1t1")?;
        killed.push(victim.epoch);
        wait_for("new output of s1t1", PATIENCE, || {
            let events = logs.events(REPLACE.name)?;
            let first = events.iter().find(|e| {
                e.word == "FIRST_OUTPUT"
                    && e.field("task") == "s1t1"
                    && e.field("epoch") == (victim.epoch + 1).to_string()
            });
            Ok(first.map(|_| ()))
        })?;
        let works = system_tests::now();
        wait_for("it to work for 0.35 s", PATIENCE, || {
            Ok((system_tests::now() - works >= Duration::from_millis(350)).then_some(()))
        })?;
    }
    let events = logs.events(REPLACE.name)?;
    let when = |word: &str, epoch: u64| {
        let mut of = events.iter().filter(|e| {
            e.leader && e.word == word && e.field("task") == "s1t1" && e.field("epoch") == epoch.to_string()
        });
        of.next().map(|e| e.at)
    };
    // One that is taken for failing again and again waits 800 ms before the fifth start after the first, and 1,600 ms before the sixth.
    for epoch in killed.into_iter().skip(4) {
        let (failed, again) = (when("TASK_FAIL", epoch), when("TASK_RESTART", epoch + 1));
        let (failed, again) = failed.zip(again).with_context(|| format!("epoch {epoch}"))?;
        let waited = between(failed, again);
        ensure!(
            waited < Duration::from_millis(400),
            "epoch {epoch} was replaced after {waited:?}"
        );
    }
    job.release()?;
    job.finish(PATIENCE)?;
    cluster.check(&format!("out/{}", REPLACE.name), REPLACE.oracle)
}
