//! Faults that other faults lead to: the leader's own node among the dead, senders that are done already, a start beside a
//! node that has just died.

use std::time::Duration;

use anyhow::{Result, ensure};
use system_tests::chaos::judge;
use system_tests::job::held;
use system_tests::jobs::{GREP_COUNT, GREP_COUNT_ORACLE, with_end};
use system_tests::{Cluster, PATIENCE, now, wait_for};

/// A leader that tries dead nodes in turn takes longer, whatever the machine.
const SOON: Duration = Duration::from_secs(20);

/// The leader must not go on trying the two dead nodes in turn, although its own memberd cannot tell it that they are dead.
#[test]
fn t91_two_of_five_nodes_die_at_once_one_of_them_the_leaders() -> Result<()> {
    let cluster = Cluster::with_text("127.0.58.21", 5, 250_000)?;
    let mut job = cluster.start("mine", &with_end(&GREP_COUNT, "out", "true", &held(250_000)))?;
    job.wait_for_output()?;
    // A task that has been on the three others before has only the dead ones left that it does not avoid.
    for _ in 0..12 {
        let task = job.wait_for_task("s1t0", 1)?;
        let been: std::collections::BTreeSet<String> = cluster
            .log_lines("TASK_START job=mine task=s1t0 ")?
            .iter()
            .filter_map(|l| node_of(l))
            .collect();
        if ["n3", "n4", "n5"].iter().filter(|n| been.contains(**n)).count() == 3
            && !["n1", "n2"].contains(&task.node.as_str())
        {
            break;
        }
        let victim = job.kill_task("s1t0")?;
        job.wait_for_task("s1t0", victim.epoch + 1)?;
    }
    cluster.kill_nodes(&["n1", "n2"])?;
    let victim = job.kill_task("s1t0")?;
    let struck = now();
    job.wait_for_task("s1t0", victim.epoch + 1)?;
    ensure!(now() - struck < SOON, "s1t0 came back after {:?}", now() - struck);
    job.release()?;
    job.finish(PATIENCE)?;
    cluster.check("out", GREP_COUNT_ORACLE)
}

fn node_of(line: &str) -> Option<String> {
    line.split(' ')
        .find_map(|w| w.strip_prefix("node="))
        .map(str::to_owned)
}

/// A source that is done must still have its end mark for a task of the first stage that is started anew.
#[test]
fn t92_without_the_guarantee_a_task_dies_after_one_of_its_sources_is_done() -> Result<()> {
    // Too short to be shared out: one source has it, and the other is done at once.
    let cluster = Cluster::with_text("127.0.58.31", 3, 20_000)?;
    std::fs::write(cluster.path("few.txt"), "static one\n")?;
    cluster.hydfs(&["create", "few.txt", "in/few.txt"])?;
    let stages = ["1", "2", "grep", "static"];
    let mut job = cluster.start("ended", &with_end(&stages, "out", "false", &held(20_000)))?;
    job.wait_for_output()?;
    wait_for("a source to be done", PATIENCE, || {
        let tasks = cluster.tasks("ended")?;
        Ok(tasks
            .iter()
            .any(|t| t.stage == 0 && t.state == "done")
            .then_some(()))
    })?;
    job.kill_task("s1t0")?;
    job.release()?;
    job.finish(PATIENCE)?;
    let want = cluster.oracle(
        r#"for f in data few; do awk -v f=$f '/static/ { print "in/" f ".txt:" NR "\t" $0 }' $f.txt; done"#,
    )?;
    let verdict = judge::compare(&want, &cluster.sorted("out")?);
    ensure!(verdict.holds(false), "{verdict:?}");
    Ok(())
}

/// Until the membership has called a dead node failed (1.5 s) a new job wants to start tasks there: it must do without it.
#[test]
fn t93_a_job_starts_right_after_a_node_died() -> Result<()> {
    let cluster = Cluster::with_text("127.0.58.41", 5, 10_000)?;
    // A cluster that has worked for a while: all its nodes know which of them have what.
    let before = cluster.start("before", &with_end(&GREP_COUNT, "before", "true", "3000"))?;
    before.finish(PATIENCE)?;
    cluster.kill_nodes(&["n3"])?;
    let died = now();
    let job = cluster.start("prompt", &with_end(&GREP_COUNT, "out", "true", "0"))?;
    job.finish(PATIENCE)?;
    ensure!(now() - died < SOON, "the job took {:?}", now() - died);
    cluster.check("out", GREP_COUNT_ORACLE)
}
