//! Names that are removed and made anew while a job reads or writes the file. (faults.md: a source, a followed file, a
//! destination replaced)

use std::time::Duration;

use anyhow::{Result, ensure};
use system_tests::jobs::{GREP_REPLACE, with_end};
use system_tests::{Cluster, succeed, wait_for};

const LIMIT: Duration = Duration::from_secs(60);
const IDENTITY: [&str; 6] = ["2", "2", "identity", "", "identity", ""];

/// Lines that tell the files apart; long ones, so that no reader has read all of a file ahead.
fn write_lines(cluster: &Cluster, local: &str, word: &str, lines: usize) -> Result<()> {
    let text: String = (1..=lines).map(|n| format!("{word} {n:0>100}\n")).collect();
    Ok(std::fs::write(cluster.path(local), text)?)
}

/// The old file's lines, perhaps not all, and none of the new one's; the job fails and names the file.
#[test]
fn t261_a_source_made_anew_ends_the_job_with_its_name() -> Result<()> {
    let cluster = Cluster::up("127.0.80", 3)?;
    write_lines(&cluster, "old", "old", 400_000)?;
    write_lines(&cluster, "new", "new", 400_000)?;
    cluster.hydfs(&["create", "old", "in/data.txt"])?;
    let mut job = cluster.start("replaced", &with_end(&IDENTITY, "out", "true", "60000"))?;
    job.wait_for_output()?;
    cluster.hydfs(&["rm", "in/data.txt"])?;
    cluster.hydfs(&["create", "new", "in/data.txt"])?;
    ensure!(
        job.is_running()? && job.printed()? < 400_000,
        "all was read before the source was replaced"
    );
    let said = job.fail(LIMIT)?;
    let last = said.lines().last().unwrap_or_default();
    ensure!(
        last.contains("in/data.txt"),
        "the last line names the file: {said}"
    );
    let out = cluster.sorted("out")?;
    let out = String::from_utf8_lossy(&out);
    ensure!(
        !out.is_empty() && !out.contains("\tnew "),
        "lines of another file"
    );
    // What was put out before counted once, by the logs as well: nothing of another file is in them.
    succeed(cluster.command("rainstormctl").args(["verify", "replaced"]))?;
    Ok(())
}

/// One whose source is gone for good says so as well, and at once.
#[test]
fn t262_a_source_removed_ends_the_job_with_its_name() -> Result<()> {
    let cluster = Cluster::up("127.0.80.21", 3)?;
    write_lines(&cluster, "old", "old", 400_000)?;
    cluster.hydfs(&["create", "old", "in/data.txt"])?;
    let mut job = cluster.start("removed", &with_end(&IDENTITY, "out", "true", "60000"))?;
    job.wait_for_output()?;
    cluster.hydfs(&["rm", "in/data.txt"])?;
    ensure!(job.is_running()?, "all was read before the source was removed");
    let said = job.fail(LIMIT)?;
    let last = said.lines().last().unwrap_or_default();
    ensure!(
        last.contains("in/data.txt"),
        "the last line names the file: {said}"
    );
    Ok(())
}

/// A log that is rotated by removing it and making it anew, three times: every line of each that was there long enough to be
/// read, none torn, and the keys tell the files apart.
#[test]
fn t263_a_followed_file_made_anew_is_read_from_its_beginning_as_another() -> Result<()> {
    const LINES: usize = 400;
    let cluster = Cluster::up("127.0.81", 3)?;
    let mut args = vec!["--follow"];
    args.extend(with_end(&IDENTITY, "out", "true", "100000"));
    let mut due = 0;
    let mut job = None;
    for round in 1..=3 {
        let (local, rest) = (format!("round{round}"), format!("rest{round}"));
        write_lines(&cluster, &local, &local, LINES)?;
        cluster.hydfs(&["create", &local, "in/log"])?;
        let job = match &mut job {
            Some(job) => job,
            None => job.insert(cluster.start("rotated", &args)?),
        };
        due += LINES;
        wait_for("the file's lines", LIMIT, || {
            ensure!(job.is_running()?, "the job ended by itself: {}", job.said());
            Ok((job.printed()? == due).then_some(()))
        })?;
        // A line without an end: it goes with its file, and is no part of the next one's first line.
        std::fs::write(cluster.path(&rest), format!("torn {round}"))?;
        cluster.hydfs(&["append", &rest, "in/log"])?;
        if round < 3 {
            cluster.hydfs(&["rm", "in/log"])?;
        }
    }
    let mut job = job.expect("three rounds");
    job.interrupt()?;
    let summary = job.finish(LIMIT)?;
    ensure!(summary["lines_out"] == due + 1, "{summary}");
    // The last file is there when the job drains: what there is of its last line is a line then.
    cluster.check(
        "out",
        r#"awk '{ print "in/log:" FNR "\t" $0 }' round1
           awk '{ print "in/log#2:" FNR "\t" $0 }' round2
           awk '{ print "in/log#3:" FNR "\t" $0 }' round3
           printf 'in/log#3:401\ttorn 3\n'"#,
    )?;
    let told = cluster.log_lines("FILE_REPLACED")?;
    ensure!(told.len() == 2, "{told:?}");
    ensure!(
        told[0].contains("file=in/log") && told[0].contains("in/log#2:LINE"),
        "{told:?}"
    );
    succeed(cluster.command("rainstormctl").args(["verify", "rotated"]))?;
    Ok(())
}

/// A task that is killed after its followed file was rotated goes on with the new one.
#[test]
fn t264_a_killed_source_goes_on_behind_a_rotation() -> Result<()> {
    const LINES: usize = 30_000;
    let cluster = Cluster::up("127.0.81.21", 3)?;
    write_lines(&cluster, "first", "first", LINES)?;
    write_lines(&cluster, "second", "second", LINES)?;
    cluster.hydfs(&["create", "first", "in/log"])?;
    let mut args = vec!["--follow"];
    args.extend(with_end(&IDENTITY, "out", "true", "10000"));
    let mut job = cluster.start("killed", &args)?;
    wait_for("the first file's lines", LIMIT, || {
        ensure!(job.is_running()?, "the job ended by itself: {}", job.said());
        Ok((job.printed()? == LINES).then_some(()))
    })?;
    cluster.hydfs(&["rm", "in/log"])?;
    cluster.hydfs(&["create", "second", "in/log"])?;
    wait_for("some of the second file's lines", LIMIT, || {
        Ok((job.printed()? > LINES).then_some(()))
    })?;
    let tasks = cluster.tasks("killed")?;
    for task in tasks.iter().filter(|t| t.stage == 0) {
        let victim = job.kill_task(&task.task)?;
        job.wait_for_task(&task.task, victim.epoch + 1)?;
    }
    ensure!(job.printed()? < 2 * LINES, "nothing was in flight");
    wait_for("the second file's lines", LIMIT, || {
        ensure!(job.is_running()?, "the job ended by itself: {}", job.said());
        Ok((job.printed()? == 2 * LINES).then_some(()))
    })?;
    job.interrupt()?;
    job.finish(LIMIT)?;
    cluster.check(
        "out",
        r#"awk '{ print "in/log:" FNR "\t" $0 }' first; awk '{ print "in/log#2:" FNR "\t" $0 }' second"#,
    )
}

/// Another file under the destination's name gets none of the job's lines.
#[test]
fn t265_a_destination_made_anew_ends_the_job_and_is_left_alone() -> Result<()> {
    let cluster = Cluster::with_text("127.0.82", 3, 300_000)?;
    let mut job = cluster.start("dest", &with_end(&GREP_REPLACE, "out", "true", "50000"))?;
    job.wait_for_output()?;
    cluster.hydfs(&["rm", "out"])?;
    std::fs::write(cluster.path("mine"), "mine\n")?;
    cluster.hydfs(&["create", "mine", "out"])?;
    ensure!(
        job.is_running()?,
        "the job was over before its output was replaced"
    );
    let said = job.fail(LIMIT)?;
    let last = said.lines().last().unwrap_or_default();
    ensure!(last.contains("`out`"), "the last line names the file: {said}");
    ensure!(
        cluster.hydfs(&["cat", "out"])? == "mine\n",
        "it has something of the job's"
    );
    Ok(())
}
