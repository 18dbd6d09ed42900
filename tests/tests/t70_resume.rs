//! The leader is killed and the job taken up again: the workers are gone, the output is exact. (faults.md: leader `kill -9`, then
//! `--resume`)

use std::process::Stdio;

use anyhow::{Result, ensure};
use system_tests::chaos::judge;
use system_tests::chaos::kinds::FOREIGN_TWICE;
use system_tests::job::held;
use system_tests::jobs::{GREP_COUNT, GREP_COUNT_ORACLE, with_end};
use system_tests::{Cluster, Job, PATIENCE, wait_for};

/// What the successor prints is the job's whole output.
fn printed_is_stored(cluster: &Cluster, job: &Job<'_>, dest: &str) -> Result<()> {
    let printed = std::fs::read(&job.stdout)?;
    let verdict = judge::compare(&cluster.sorted(dest)?, &printed);
    ensure!(verdict.holds(true), "printed is not what is stored: {verdict:?}");
    Ok(())
}

#[test]
fn t71_a_job_is_taken_up_twice_after_its_leader_died() -> Result<()> {
    let cluster = Cluster::with_text("127.0.57", 3, 300_000)?;
    let mut job = cluster.start_alone(
        "taken",
        &with_end(&GREP_COUNT, "out/count", "true", &held(300_000)),
    )?;
    job.wait_for_output()?;
    job.kill_leader()?;
    // At once, on another node, while the workers of the first are still noticing.
    let mut second = cluster.resume("taken", "n2")?;
    second.wait_for_output()?;
    wait_for("its tasks to run", PATIENCE, || {
        let tasks = cluster.tasks("taken")?;
        Ok((tasks.len() == 6 && tasks.iter().all(|t| t.state == "running" && t.epoch > 1)).then_some(()))
    })?;
    ensure!(
        cluster.workers("taken")?.len() == 6,
        "workers of the dead leader are left"
    );
    second.kill_leader()?;
    cluster.wait_until_gone("taken", PATIENCE)?;
    // Later, with nobody left, and a task killed for good measure.
    let mut third = cluster.resume("taken", "n3")?;
    let victim = third.kill_task("s2t0")?;
    ensure!(victim.epoch > 2, "{victim:?}");
    third.release()?;
    let status = third.wait_for_end(PATIENCE)?;
    ensure!(status.success(), "the job failed with {status}: {}", third.said());
    cluster.wait_until_gone("taken", PATIENCE)?;
    cluster.check("out/count", GREP_COUNT_ORACLE)?;
    printed_is_stored(&cluster, &third, "out/count")?;
    // An SSH connection that nobody uses ends by itself after 10 s: the killed leaders' too.
    wait_for("the SSH connections to be gone", PATIENCE, || {
        Ok(cluster.ssh_connections()?.is_empty().then_some(()))
    })
}

#[test]
fn t72_a_job_with_a_foreign_operator_is_taken_up_from_two_nodes_at_once() -> Result<()> {
    let cluster = Cluster::with_text("127.0.57.21", 3, 200_000)?;
    cluster.write_operator("twice.sh", FOREIGN_TWICE)?;
    let rate = held(200_000);
    let args = [
        "3",
        "2",
        "grep",
        "static",
        "transform:./twice.sh",
        "",
        "replace",
        "static STATIC",
        "in",
        "out/twice",
        "true",
        "false",
        &rate,
    ];
    let mut job = cluster.start_alone("foreign", &args)?;
    job.wait_for_output()?;
    // While it runs, nobody else may have it.
    let out = cluster.leader(&["--node", "n2", "--resume", "foreign"])?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(
        !out.status.success() && said.contains("foreign is running"),
        "{:?}: {said}",
        out.status.code()
    );
    ensure!(job.is_running()?, "the job was over");
    job.kill_leader()?;
    // The executable is not where it was: HyDFS has it.
    std::fs::remove_file(cluster.path("twice.sh"))?;
    let mut one = cluster.resume("foreign", "n1")?;
    let other = cluster
        .command("leader")
        .args(["--node", "n3", "--console", "none", "--resume", "foreign"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    // Whoever has it now.
    wait_for("the job to be let go", PATIENCE, || {
        let mut ctl = cluster.command("rainstormctl");
        let done = ctl.args(["set_rate", "foreign", "0"]).output()?.status.success();
        Ok(done.then_some(()))
    })?;
    let other = other.wait_with_output()?;
    let status = one.wait_for_end(PATIENCE)?;
    let said = format!("{}{}", one.said(), String::from_utf8_lossy(&other.stderr));
    ensure!(
        status.success() != other.status.success(),
        "one must end it, the other be refused: {status} and {}: {said}",
        other.status
    );
    cluster.wait_until_gone("foreign", PATIENCE)?;
    cluster.check(
        "out/twice",
        r#"awk '/static/ { even = length($0) % 2 == 0; gsub(/static/, "STATIC"); print "in/data.txt:" NR "\tA " $0; if (even) print "even\tB " $0 }' data.txt"#,
    )?;
    // What has ended cannot be taken up; what never was, neither.
    for name in ["foreign", "nobody"] {
        let out = cluster.leader(&["--resume", name])?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(
            !out.status.success() && said.contains(name),
            "{name}: {:?}: {said}",
            out.status.code()
        );
    }
    Ok(())
}
