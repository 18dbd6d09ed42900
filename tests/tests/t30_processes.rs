//! Processes that are stopped, killed again and again, or lose their node or their leader: the output equals the oracle's,
//! and nothing is left behind. (faults.md: SIGSTOP; operator child; ten kills; two nodes; leader)

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use system_tests::chaos::kinds::FOREIGN_TWICE;
use system_tests::job::held;
use system_tests::jobs::{GREP_COUNT, GREP_COUNT_ORACLE, with_end};
use system_tests::procs::{is_alive, signal};
use system_tests::proxy::Proxy;
use system_tests::{Cluster, PATIENCE, now, wait_for};

#[test]
fn t31_a_stopped_task_is_replaced_and_fenced_when_it_wakes() -> Result<()> {
    let cluster = Cluster::with_text("127.0.51", 3, 300_000)?;
    let mut job = cluster.start(
        "stopped",
        &with_end(&GREP_COUNT, "out/stopped", "true", &held(300_000)),
    )?;
    job.wait_for_output()?;
    // A source, a filter, and the last stage, which holds state and appends.
    let mut zombies = vec![];
    for task in ["s0t0", "s1t1", "s2t0"] {
        let victim = job.wait_for_task(task, 1)?;
        let pid = victim.pid.context("a pid")?;
        signal(pid, Signal::SIGSTOP)?;
        zombies.push((victim, pid));
    }
    let stopped = now();
    for (victim, _) in &zombies {
        job.wait_for_task(&victim.task, victim.epoch + 1)?;
    }
    let replaced = now() - stopped;
    ensure!(
        replaced < Duration::from_secs(5),
        "replaced only after {replaced:?}; the lease is 3 s"
    );
    for (_, pid) in &zombies {
        signal(*pid, Signal::SIGCONT)?;
    }
    wait_for("the zombies to exit", PATIENCE, || {
        Ok((!zombies.iter().any(|(_, pid)| is_alive(*pid))).then_some(()))
    })?;
    job.release()?;
    let summary = job.finish(PATIENCE)?;
    ensure!(summary["restarts"] == 3, "three tasks were stopped: {summary}");
    cluster.check("out/stopped", GREP_COUNT_ORACLE)?;
    // Each says why it ends: refused, or it finds that the leader has hung up on it.
    for (victim, _) in &zombies {
        let lines = cluster.log_lines(&format!("job=stopped task={} epoch=1 ", victim.task))?;
        let last = lines
            .iter()
            .any(|l| l.contains(" FENCED ") || l.contains(" LEADER_LOST "));
        ensure!(last, "{} does not say why it ended: {lines:#?}", victim.task);
    }
    Ok(())
}

/// What n2's workers say does not reach the leader any more, while they hear it and everybody else: they are replaced after
/// the lease and go on working all the same. So they really try to write, beside their replacements.
#[test]
fn t38_a_task_that_the_leader_cannot_hear_goes_on_working_and_is_fenced() -> Result<()> {
    let lines = 1_200_000;
    let cluster = Cluster::with_text("127.0.52.21", 3, lines)?;
    let proxy = Proxy::start("127.0.52.99:0".parse()?, "127.0.52.21:15000".parse()?)?;
    cluster.wrap_worker(
        "n2",
        &format!(
            r#"for arg in "$@"; do case $arg in 127.0.52.21:*) arg={} ;; esac; set -- "$@" "$arg"; shift; done"#,
            proxy.addr
        ),
    )?;
    let mut job = cluster.start(
        "unheard",
        &with_end(&GREP_COUNT, "out/unheard", "true", &held(lines)),
    )?;
    job.wait_for_output()?;
    // Each of them has something to write at any time.
    job.set_rate(60_000)?;
    let zombies: Vec<_> = cluster
        .workers("unheard")?
        .into_iter()
        .filter(|w| w.node == "n2")
        .collect();
    ensure!(
        !zombies.is_empty() && proxy.mute() == zombies.len(),
        "nobody is behind the proxy: {zombies:?}"
    );
    for zombie in &zombies {
        job.wait_for_task(&zombie.task, zombie.epoch + 1)?;
    }
    ensure!(
        job.is_running()? && proxy.dropped() > 0,
        "nothing was kept from the leader"
    );
    job.release()?;
    let summary = job.finish(PATIENCE)?;
    ensure!(summary["restarts"] == zombies.len(), "{zombies:?}: {summary}");
    cluster.check("out/unheard", GREP_COUNT_ORACLE)?;
    for zombie in &zombies {
        let lines = cluster.log_lines(&format!("job=unheard task={} epoch=1 ", zombie.task))?;
        ensure!(
            lines.iter().any(|l| l.contains(" FENCED ")),
            "{} was not refused: {lines:#?}",
            zombie.task
        );
    }
    Ok(())
}

#[test]
fn t32_the_child_of_a_foreign_operator_is_killed() -> Result<()> {
    let cluster = Cluster::with_text("127.0.51.21", 3, 200_000)?;
    cluster.write_operator("twice.sh", FOREIGN_TWICE)?;
    let stages = [
        "3",
        "2",
        "grep",
        "static",
        "transform:./twice.sh",
        "",
        "replace",
        "static STATIC",
    ];
    let mut job = cluster.start("child", &with_end(&stages, "out/child", "true", &held(200_000)))?;
    job.wait_for_output()?;
    for task in ["s2t0", "s2t1"] {
        let worker = job.wait_for_task(task, 1)?;
        let operators = cluster.operators("child")?;
        let child = operators.iter().find(|o| Some(o.parent) == worker.pid);
        signal(
            child.context("no operator under its worker")?.pid,
            Signal::SIGKILL,
        )?;
        ensure!(job.is_running()?, "the job was over");
        job.wait_for_task(task, worker.epoch + 1)?;
    }
    for task in cluster.tasks("child")? {
        let expected = if task.stage == 2 { 2 } else { 1 };
        ensure!(
            task.epoch == expected,
            "another task than the operator's was restarted: {task:?}"
        );
    }
    job.release()?;
    let summary = job.finish(PATIENCE)?;
    ensure!(summary["restarts"] == 2, "{summary}");
    cluster.check(
        "out/child",
        r#"awk '/static/ { even = length($0) % 2 == 0; gsub(/static/, "STATIC"); print "in/data.txt:" NR "\tA " $0; if (even) print "even\tB " $0 }' data.txt"#,
    )
}

#[test]
fn t33_ten_kills_each_during_the_recovery_from_the_last() -> Result<()> {
    let cluster = Cluster::with_text("127.0.51.31", 3, 400_000)?;
    let mut job = cluster.start(
        "again",
        &with_end(&GREP_COUNT, "out/again", "true", &held(400_000)),
    )?;
    job.wait_for_output()?;
    let mut epoch = 0;
    let mut killed = vec![];
    for _ in 0..10 {
        let deadline = now() + PATIENCE;
        let worker = loop {
            match cluster.worker("again", "s2t1")?.filter(|w| w.epoch > epoch) {
                Some(worker) => break worker,
                None => ensure!(now() < deadline, "no process of s2t1 after epoch {epoch}"),
            }
        };
        // As soon as it is there: it has hardly begun to read its log.
        signal(worker.pid, Signal::SIGKILL)?;
        killed.push(now());
        epoch = worker.epoch;
        ensure!(job.is_running()?, "the job was over after {} kills", killed.len());
    }
    // Backs off: ten restarts at once would hammer a broken node; bounded: it must not give up either.
    let pauses: Vec<Duration> = killed.windows(2).map(|w| w[1] - w[0]).collect();
    ensure!(
        pauses.last() > Some(&Duration::from_millis(500))
            && pauses.iter().max() < Some(&Duration::from_secs(20)),
        "pauses between the processes: {pauses:?}"
    );
    let others = cluster.tasks("again")?;
    let others: Vec<_> = others
        .iter()
        .filter(|t| t.task != "s2t1" && t.epoch != 1)
        .collect();
    ensure!(others.is_empty(), "others were restarted, too: {others:?}");
    job.release()?;
    let summary = job.finish(PATIENCE)?;
    ensure!(summary["restarts"] == 10, "{summary}");
    cluster.check("out/again", GREP_COUNT_ORACLE)
}

#[test]
fn t34_two_of_five_nodes_die_at_once() -> Result<()> {
    let cluster = Cluster::with_text("127.0.52", 5, 250_000)?;
    two_nodes_die(&cluster, "two", ["n3", "n4"])
}

fn two_nodes_die(cluster: &Cluster, name: &str, nodes: [&str; 2]) -> Result<()> {
    let dest = format!("out/{name}");
    let mut job = cluster.start(name, &with_end(&GREP_COUNT, &dest, "true", &held(250_000)))?;
    job.wait_for_output()?;
    let hit = cluster
        .tasks(name)?
        .iter()
        .filter(|t| nodes.contains(&t.node.as_str()))
        .count();
    ensure!(hit > 0, "no task on {nodes:?}");
    let before = std::fs::metadata(&job.stdout)?.len();
    cluster.kill_nodes(&nodes)?;
    let struck = now();
    ensure!(job.is_running()?, "the job was over when the nodes were killed");
    // Appends go on while both are down: there is new output well before anybody comes back.
    let stdout = job.stdout.clone();
    wait_for("output after the loss of two nodes", PATIENCE, || {
        Ok((std::fs::metadata(&stdout)?.len() > before + 2_000).then_some(()))
    })?;
    eprintln!("output again {:?} after the loss", now() - struck);
    job.release()?;
    let summary = job.finish(PATIENCE)?;
    ensure!(
        summary["restarts"].as_u64() >= Some(hit as u64),
        "{hit} tasks were hit: {summary}"
    );
    cluster.check(&dest, GREP_COUNT_ORACLE)?;
    // R: three copies again, all on nodes that live.
    wait_for("three copies", PATIENCE, || {
        let said = cluster.hydfs(&["stat", &dest])?;
        let replicas = said.rsplit_once("replicas ").context("replicas")?.1.trim();
        let list: Vec<&str> = replicas.split(',').collect();
        Ok((list.len() == 3 && !list.iter().any(|n| nodes.contains(n))).then_some(()))
    })?;
    nodes
        .iter()
        .try_for_each(|node| cluster.script(&["start-node", node]).map(drop))?;
    cluster.check(&dest, GREP_COUNT_ORACLE)
}

#[test]
fn t35_the_leader_dies_and_leaves_nothing_behind() -> Result<()> {
    let cluster = Cluster::with_text("127.0.53", 3, 400_000)?;
    cluster.write_operator("twice.sh", FOREIGN_TWICE)?;
    let stages = ["2", "3", "transform:./twice.sh", "", "count", ""];
    let mut job = cluster.start_alone(
        "orphans",
        &with_end(&stages, "out/orphans", "true", &held(400_000)),
    )?;
    job.wait_for_output()?;
    let (workers, operators) = (
        cluster.workers("orphans")?.len(),
        cluster.operators("orphans")?.len(),
    );
    ensure!(
        workers == 9 && operators >= 3,
        "{workers} workers and {operators} operators run"
    );
    job.kill_leader()?;
    let killed = now();
    cluster.wait_until_gone("orphans", PATIENCE)?;
    eprintln!("all gone {:?} after the leader", now() - killed);
    ensure!(
        cluster.tasks("orphans")?.is_empty(),
        "the console still shows tasks"
    );
    // The cluster is as good as before.
    let job = cluster.start("next", &with_end(&GREP_COUNT, "out/next", "true", "0"))?;
    job.finish(PATIENCE)?;
    cluster.check("out/next", GREP_COUNT_ORACLE)
}

#[test]
fn t36_without_the_guarantee_nothing_is_lost() -> Result<()> {
    let cluster = Cluster::with_text("127.0.53.21", 3, 250_000)?;
    let stages = ["2", "2", "grep", "static", "replace", "static STATIC"];
    let mut job = cluster.start("least", &with_end(&stages, "out/least", "false", &held(250_000)))?;
    job.wait_for_output()?;
    for task in ["s1t0", "s2t1", "s0t0", "s2t0", "s1t1"] {
        let victim = job.kill_task(task)?;
        job.wait_for_task(task, victim.epoch + 1)?;
    }
    job.release()?;
    job.finish(PATIENCE)?;
    let want = cluster
        .oracle(r#"awk '/static/ { gsub(/static/, "STATIC"); print "in/data.txt:" NR "\t" $0 }' data.txt"#)?;
    let verdict = system_tests::chaos::judge::compare(&want, &cluster.sorted("out/least")?);
    ensure!(verdict.holds(false), "{verdict:?}");
    eprintln!("{} of {} came again", verdict.doubled, verdict.expected);
    Ok(())
}

#[test]
fn t37_a_job_started_twice_runs_once() -> Result<()> {
    let cluster = Cluster::with_text("127.0.53.31", 3, 20_000)?;
    for (round, (one, two)) in [(("same", "a"), ("same", "b")), (("x", "same"), ("y", "same"))]
        .into_iter()
        .enumerate()
    {
        for turn in 0..4 {
            let tag = |s: &str| format!("{s}-{round}-{turn}");
            let start = |(job, dest): (&str, &str)| {
                let (job, dest) = (tag(job), format!("out/{}", tag(dest)));
                let child = cluster
                    .command("leader")
                    .args(["--job", &job, "--console", "none"])
                    .args(with_end(&GREP_COUNT, &dest, "true", "0"))
                    .stdout(std::process::Stdio::piped())
                    .stderr(std::process::Stdio::piped())
                    .spawn()?;
                Ok::<_, anyhow::Error>((child, dest, job))
            };
            let (first, second) = (start(one)?, start(two)?);
            let mut done = vec![];
            for (child, dest, job) in [first, second] {
                let out = child.wait_with_output()?;
                let said = String::from_utf8_lossy(&out.stderr).into_owned();
                match out.status.code() {
                    Some(0) => done.push(dest),
                    Some(2) => ensure!(said.contains("same-"), "does not say what is there twice: {said}"),
                    code => anyhow::bail!("exit code {code:?}: {said}"),
                }
                cluster.wait_until_gone(&job, PATIENCE)?;
            }
            ensure!(done.len() == 1, "{} of two ran to the end: {done:?}", done.len());
            cluster.check(&done[0], GREP_COUNT_ORACLE)?;
        }
    }
    Ok(())
}
