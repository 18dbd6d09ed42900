//! Leaders and their standbys: whoever dies, the job goes on by itself, and the output is exact. (faults.md: the leader dies and a
//! standby takes the job up)

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use system_tests::chaos::kinds::FOREIGN_TWICE;
use system_tests::chaos::recovery::{LogTail, between, time_of_day};
use system_tests::job::held;
use system_tests::jobs::{GREP_COUNT, GREP_COUNT_ORACLE, with_end};
use system_tests::leaders::wait_for_standby;
use system_tests::procs::signal;
use system_tests::{Cluster, Job, PATIENCE, kill_process, network, skip, succeed, wait_for};

const LINES: u64 = 300_000;

/// A counting job that follows, held until [`end`].
fn follow<'c>(cluster: &'c Cluster, name: &str, dest: &str) -> Result<Job<'c>> {
    let rate = held(LINES);
    let mut args = vec!["--follow"];
    args.extend(with_end(&GREP_COUNT, dest, "true", &rate));
    let mut job = cluster.start(name, &args)?;
    job.wait_for_output()?;
    Ok(job)
}

/// `attach` until the job's end; its exit code.
fn watch(cluster: &Cluster, name: &str) -> Result<std::process::ExitStatus> {
    let mut command = cluster.command("rainstormctl");
    command
        .args(["attach", name, "--quiet"])
        .stdout(std::process::Stdio::null());
    Ok(command.status()?)
}

/// Lets the job go, wherever its leader is; it must end well, be exact, and leave nobody behind.
fn end(cluster: &Cluster, name: &str, dest: &str, resumed: u64) -> Result<()> {
    wait_for("the next leader's tasks to run", PATIENCE, || {
        let tasks = cluster.tasks(name)?;
        Ok((tasks.len() == 6 && tasks.iter().all(|t| t.state == "running")).then_some(()))
    })?;
    cluster.release(name)?;
    cluster.drain(name)?;
    let past = cluster.wait_for_outcome(name, "done")?;
    ensure!(past.resumed == resumed, "{past:?}");
    cluster.wait_until_gone(name, PATIENCE)?;
    cluster.check(dest, GREP_COUNT_ORACLE)?;
    succeed(cluster.command("rainstormctl").args(["verify", name])).map(drop)
}

#[test]
fn t311_two_leaders_die_and_nobody_has_to_do_anything() -> Result<()> {
    let cluster = Cluster::with_text("127.0.89", 3, LINES)?;
    let mut job = follow(&cluster, "watched", "out/watched")?;
    let (standby, node) = wait_for_standby(&cluster, "watched")?;
    ensure!(node != "n1", "it stands beside its leader");
    let first = cluster.led("watched")?.context("a leader")?;
    job.kill_leader()?;
    let second = cluster.wait_for_leader("watched", first.pid)?;
    ensure!(
        (second.pid, &second.node) == (standby, &node),
        "{second:?} is not the standby {standby} on {node}"
    );
    wait_for_standby(&cluster, "watched")?;
    kill_process(second.pid)?;
    cluster.wait_for_leader("watched", second.pid)?;
    let told = cluster.log_lines("LEADER_TAKEOVER")?;
    ensure!(
        told.len() == 2 && told.iter().all(|l| l.contains("total_ms=")),
        "{told:?}"
    );
    end(&cluster, "watched", "out/watched", 2)
}

#[test]
fn t312_the_leaders_node_dies() -> Result<()> {
    let cluster = Cluster::with_text("127.0.89.21", 4, LINES)?;
    let mut job = follow(&cluster, "noded", "out/noded")?;
    wait_for_standby(&cluster, "noded")?;
    let first = cluster.led("noded")?.context("a leader")?;
    job.kill_leader()?;
    cluster.kill_nodes(&["n1"])?;
    let second = cluster.wait_for_leader("noded", first.pid)?;
    // Now that of the standby that took over, which has a standby elsewhere.
    wait_for_standby(&cluster, "noded")?;
    cluster.script(&["start-node", "n1"])?;
    cluster.kill_nodes(&[&second.node])?;
    cluster.wait_for_leader("noded", second.pid)?;
    cluster.script(&["start-node", &second.node])?;
    end(&cluster, "noded", "out/noded", 2)
}

#[test]
fn t313_a_standby_is_replaced_and_where_all_die_the_job_is_taken_up_by_hand() -> Result<()> {
    let cluster = Cluster::with_text("127.0.89.41", 3, LINES)?;
    let mut job = follow(&cluster, "both", "out/both")?;
    let (one, _) = wait_for_standby(&cluster, "both")?;
    kill_process(one)?;
    let (two, node) = wait_for_standby(&cluster, "both")?;
    ensure!(one != two, "{one} is dead");
    // With its node.
    cluster.kill_nodes(&[&node])?;
    cluster.script(&["start-node", &node])?;
    let (three, _) = wait_for_standby(&cluster, "both")?;
    ensure!(two != three, "{two} is dead");
    ensure!(job.is_running()?, "the job was over: {}", job.said());
    // Stopped, it cannot take the job up before it is dead.
    signal(three, Signal::SIGSTOP)?;
    job.kill_leader()?;
    kill_process(three)?;
    cluster.wait_until_gone("both", PATIENCE)?;
    let mut again = cluster.resume("both", "n2")?;
    again.wait_for_output()?;
    wait_for_standby(&cluster, "both")?;
    end(&cluster, "both", "out/both", 1)?;
    ensure!(again.wait_for_end(PATIENCE)?.success(), "{}", again.said());
    Ok(())
}

#[test]
fn t314_a_leader_that_was_only_stopped_ends_and_says_who_has_the_job() -> Result<()> {
    let cluster = Cluster::with_text("127.0.89.61", 3, LINES)?;
    let mut job = follow(&cluster, "stopped", "out/stopped")?;
    wait_for_standby(&cluster, "stopped")?;
    let first = cluster.led("stopped")?.context("a leader")?;
    signal(first.pid, Signal::SIGSTOP)?;
    let second = cluster.wait_for_leader("stopped", first.pid)?;
    signal(first.pid, Signal::SIGCONT)?;
    let status = job.wait_for_end(PATIENCE)?;
    let (said, by) = (
        job.said(),
        format!("the leader on node {}, process {}", second.node, second.pid),
    );
    ensure!(status.code() == Some(1) && said.contains(&by), "{status}: {said}");
    end(&cluster, "stopped", "out/stopped", 1)
}

#[test]
fn t315_with_its_job_a_standby_ends_at_once() -> Result<()> {
    let cluster = Cluster::with_text("127.0.89.81", 3, LINES)?;
    let rate = held(LINES);
    // Stopped by its user, and ended by itself.
    let mut job = cluster.start("given-up", &with_end(&GREP_COUNT, "out/up", "true", &rate))?;
    job.wait_for_output()?;
    wait_for_standby(&cluster, "given-up")?;
    job.interrupt()?;
    ensure!(job.wait_for_end(PATIENCE)?.code() == Some(1), "{}", job.said());
    ensure!(
        cluster.standbys("given-up")?.is_empty(),
        "a standby outlives its leader"
    );
    cluster.wait_until_gone("given-up", PATIENCE)?;
    ensure!(cluster.past("given-up")?.context("a job")?.outcome == "failed");
    let mut job = cluster.start("whole", &with_end(&GREP_COUNT, "out/whole", "true", &rate))?;
    job.wait_for_output()?;
    wait_for_standby(&cluster, "whole")?;
    job.release()?;
    ensure!(job.wait_for_end(PATIENCE)?.success(), "{}", job.said());
    ensure!(
        cluster.standbys("whole")?.is_empty(),
        "a standby outlives its leader"
    );
    cluster.wait_until_gone("whole", PATIENCE)?;
    let told = cluster.log_lines("LEADER_TAKEOVER")?;
    ensure!(told.is_empty(), "{told:?}");
    cluster.check("out/whole", GREP_COUNT_ORACLE)
}

#[test]
fn t316_a_detached_job_is_watched_over_a_change_of_leader_and_stopped() -> Result<()> {
    let cluster = Cluster::with_text("127.0.89.101", 3, LINES)?;
    let rate = held(LINES);
    let mut args = vec!["--detach", "--follow", "--job", "left"];
    args.extend(with_end(&GREP_COUNT, "out/left", "true", &rate));
    let out = cluster.leader(&args)?;
    ensure!(
        out.status.success() && out.stdout == b"left\n",
        "{out:?}: not its name, or not detached"
    );
    // Its own refusals come with their exit codes.
    let out = cluster.leader(&args)?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(
        out.status.code() == Some(2) && said.contains("has that file already"),
        "{said}"
    );
    ensure!(out.stdout.is_empty(), "{out:?}");

    let printed = |name: &str| std::fs::read(cluster.path(name)).unwrap_or_default();
    let attach = |name: &str, from: &[&str]| -> Result<std::process::Child> {
        let mut command = cluster.command("rainstormctl");
        command.args(["attach", "left"]).args(from);
        command.stdout(std::fs::File::create(cluster.path(name))?);
        command.stderr(std::fs::File::create(cluster.path(&format!("{name}.err")))?);
        Ok(command.spawn()?)
    };
    let mut whole = attach("whole.out", &["--from-start"])?;
    wait_for("output", PATIENCE, || {
        Ok((!printed("whole.out").is_empty()).then_some(()))
    })?;
    let mut late = attach("late.out", &["--quiet"])?;
    wait_for("output", PATIENCE, || {
        Ok((!printed("late.out").is_empty()).then_some(()))
    })?;
    wait_for_standby(&cluster, "left")?;
    let first = cluster.led("left")?.context("a leader")?;
    kill_process(first.pid)?;
    cluster.wait_for_leader("left", first.pid)?;
    let before = printed("whole.out").len();
    wait_for("output after the kill", PATIENCE, || {
        Ok((printed("whole.out").len() > before).then_some(()))
    })?;
    cluster.release("left")?;
    let said = succeed(cluster.command("rainstormctl").args(["stop", "left"]))?;
    ensure!(said.contains("reads what is there"), "{said}");
    for child in [&mut whole, &mut late] {
        let status = wait_for("the job's end", PATIENCE, || Ok(child.try_wait()?))?;
        ensure!(status.code() == Some(0), "{status}");
    }
    cluster.wait_until_gone("left", PATIENCE)?;
    cluster.check("out/left", GREP_COUNT_ORACLE)?;
    // All of it was shown from the start; from later on, the end of it.
    let (stored, shown, some) = (
        cluster.hydfs(&["cat", "out/left"])?.into_bytes(),
        printed("whole.out"),
        printed("late.out"),
    );
    ensure!(shown == stored, "{} bytes shown of {}", shown.len(), stored.len());
    ensure!(
        some.len() < stored.len() && stored.ends_with(&some),
        "{} bytes are not the end of {}",
        some.len(),
        stored.len()
    );
    ensure!(printed("late.out.err").is_empty(), "--quiet says something");
    let said = String::from_utf8_lossy(&printed("whole.out.err")).into_owned();
    ensure!(said.contains("was taken up by the leader on node"), "{said}");
    Ok(())
}

#[test]
fn t317_a_job_that_follows_nothing_stops_at_once_and_goes_on_when_resumed() -> Result<()> {
    let cluster = Cluster::with_text("127.0.89.121", 2, LINES)?;
    let rate = held(LINES);
    let mut args = vec!["--detach", "--job", "brief"];
    args.extend(with_end(&GREP_COUNT, "out/brief", "true", &rate));
    let out = cluster.leader(&args)?;
    ensure!(out.status.success(), "{out:?}");
    wait_for_standby(&cluster, "brief")?;
    let said = succeed(cluster.command("rainstormctl").args(["stop", "brief"]))?;
    ensure!(said.contains("leader --resume brief"), "{said}");
    cluster.wait_for_outcome("brief", "failed")?;
    cluster.wait_until_gone("brief", PATIENCE)?;
    let out = cluster
        .command("rainstormctl")
        .args(["attach", "brief"])
        .output()?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(
        out.status.code() == Some(1) && said.contains("rainstormctl stop"),
        "{said}"
    );
    let out = cluster.leader(&["--detach", "--resume", "brief"])?;
    ensure!(out.status.success() && out.stdout == b"brief\n", "{out:?}");
    cluster.release("brief")?;
    let status = watch(&cluster, "brief")?;
    ensure!(status.success(), "{status}");
    cluster.wait_until_gone("brief", PATIENCE)?;
    cluster.check("out/brief", GREP_COUNT_ORACLE)
}

#[test]
fn t318_a_job_is_submitted_to_the_node_with_most_room_with_a_local_executable() -> Result<()> {
    let cluster = Cluster::with_text("127.0.89.141", 3, 100_000)?;
    cluster.write_operator("twice.sh", FOREIGN_TWICE)?;
    let submit = |name: &str, more: &[&str]| -> Result<std::process::Output> {
        let mut command = cluster.command("rainstormctl");
        command.args(["rainstorm", "--job", name]).args(more);
        command.args([
            "1",
            "1",
            "transform:./twice.sh",
            "",
            "in",
            &format!("out/{name}"),
            "true",
            "false",
            "1000",
        ]);
        Ok(command.output()?)
    };
    let out = submit("one", &[])?;
    ensure!(out.status.success() && out.stdout == b"one\n", "{out:?}");
    // A copy is in HyDFS: the executable is this machine's, and the node's leader does without it.
    std::fs::rename(cluster.path("twice.sh"), cluster.path("gone.sh"))?;
    let out = submit("lost", &[])?;
    ensure!(out.status.code() == Some(2), "{out:?}");
    std::fs::rename(cluster.path("gone.sh"), cluster.path("twice.sh"))?;
    let one = cluster.led("one")?.context("a leader")?;
    ensure!(one.node == "n1", "{one:?}: of idle nodes the first");
    wait_for("its tasks", PATIENCE, || {
        Ok(cluster
            .tasks("one")?
            .iter()
            .all(|t| t.pid.is_some())
            .then_some(()))
    })?;
    // Two tasks run, on n1 and n2.
    let out = submit("two", &[])?;
    ensure!(out.status.success(), "{out:?}");
    let two = cluster.led("two")?.context("a leader")?;
    ensure!(two.node == "n3", "{two:?}: n3 is empty");
    let out = submit("three", &["--on", "n2"])?;
    ensure!(out.status.success(), "{out:?}");
    ensure!(cluster.led("three")?.context("a leader")?.node == "n2");
    let out = submit("four", &["--on", "nowhere"])?;
    ensure!(
        !out.status.success() && cluster.past("four")?.is_none(),
        "{out:?}"
    );
    for name in ["one", "two", "three"] {
        cluster.release(name)?;
        let status = watch(&cluster, name)?;
        ensure!(status.success(), "{name}: {status}");
        cluster.wait_until_gone(name, PATIENCE)?;
        cluster.check(
            &format!("out/{name}"),
            r#"awk '{ even = length($0) % 2 == 0; print "in/data.txt:" NR "\tA " $0; if (even) print "even\tB " $0 }' data.txt"#,
        )?;
    }
    Ok(())
}

/// Changes of the rate are small records: so many outgrow what the job comes to.
#[test]
fn t319_a_journal_is_rewritten_and_a_standby_begins_with_what_is_left() -> Result<()> {
    let cluster = Cluster::with_text("127.0.89.161", 3, LINES)?;
    let mut job = follow(&cluster, "long", "out/long")?;
    wait_for_standby(&cluster, "long")?;
    let words: String = (0..1500)
        .map(|i| format!("set_rate long {}\n", 2500 + i % 2))
        .collect();
    std::fs::write(cluster.path("words"), words)?;
    let mut ctl = cluster.command("rainstormctl");
    succeed(ctl.stdin(std::fs::File::open(cluster.path("words"))?))?;
    wait_for("the journal to be trimmed", PATIENCE, || {
        let text = cluster.hydfs(&["stat", "--json", "jobs/long/journal"])?;
        let stat: serde_json::Value = serde_json::from_str(&text)?;
        let number = |name: &str| stat[name].as_u64().unwrap_or(0);
        let (base, len) = (number("base"), number("len").max(number("bytes")));
        Ok((base > 0 && len - base < 80 * 1024).then_some(()))
    })?;
    let first = cluster.led("long")?.context("a leader")?;
    job.kill_leader()?;
    cluster.wait_for_leader("long", first.pid)?;
    end(&cluster, "long", "out/long", 1)?;
    let text = succeed(cluster.command("rainstormctl").args(["history", "--json"]))?;
    let all: serde_json::Value = serde_json::from_str(&text)?;
    ensure!(all[0]["summary"]["lines_in"] == LINES, "{all}");
    ensure!(all[0]["tasks"] == 6 && all[0]["lines_in"] == LINES, "{all}");
    Ok(())
}

/// A pulled plug: no connection closes, and nothing is refused. In the end the node is back, and its leader finds out.
#[test]
fn t310_the_leaders_node_is_cut_off() -> Result<()> {
    if let Err(why) = network::is_possible() {
        skip(format_args!("no networks can be made here: {why}"));
        return Ok(());
    }
    let (cluster, network) = network::cluster("10.231.78", 4)?;
    cluster.load_text(LINES)?;
    let mut job = follow(&cluster, "plug", "out/plug")?;
    wait_for_standby(&cluster, "plug")?;
    let logs = LogTail::begin(&cluster);
    let at = time_of_day();
    network.cut(1)?;
    let took = wait_for("output of the next leader's tasks", PATIENCE, || {
        let events = logs.events("plug")?;
        let first = events.iter().filter(|e| {
            let newer = e.field("epoch").parse::<u64>().is_ok_and(|epoch| epoch > 1000);
            e.word == "FIRST_OUTPUT" && e.field("task").starts_with("s2") && newer
        });
        Ok(first.map(|e| between(at, e.at)).min())
    })?;
    println!(
        "new output {took:?} after the cut: {:?}",
        cluster.log_lines("LEADER_TAKEOVER")?
    );
    network.mend(1)?;
    let status = job.wait_for_end(PATIENCE)?;
    let said = job.said();
    ensure!(
        status.code() == Some(1) && said.contains("taken up by the leader on node"),
        "{status}: {said}"
    );
    end(&cluster, "plug", "out/plug", 1)
}
