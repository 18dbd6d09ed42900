//! Jobs that do not end by themselves, tuples that operators die of, one key with nearly all tuples: under kills. (faults.md: Ctrl-C
//! on a `--follow` job; a poison tuple; one hot key; kill by the console)

use std::io::Write;

use anyhow::{Context, Result, ensure};
use system_tests::chaos::judge;
use system_tests::job::held;
use system_tests::jobs::{GREP_COUNT, GREP_COUNT_ORACLE, THREE, THREE_ORACLE, with_end};
use system_tests::procs::is_alive;
use system_tests::{Cluster, PATIENCE, kill_process, wait_for, write_text};

/// Files grow, a new one comes, every task is killed while tuples of a new piece are under way; then Ctrl-C, with a task just
/// killed again and tuples still to come.
#[test]
fn t111_a_job_that_follows_survives_kills_and_drains_at_ctrl_c() -> Result<()> {
    const PIECES: usize = 10;
    /// A piece takes most of a minute then: it is under way when the fault strikes.
    const HELD: u64 = 100;
    let cluster = Cluster::up("127.0.64.31", 3)?;
    write_text(&cluster.path("all"), 50_000, 7)?;
    let text = std::fs::read_to_string(cluster.path("all"))?;
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let mut due = vec![];
    for (n, piece) in lines.chunks(lines.len() / PIECES).enumerate() {
        std::fs::write(cluster.path(&format!("piece{n}")), piece.concat())?;
        let before = due.last().copied().unwrap_or(0);
        due.push(before + piece.iter().filter(|l| l.contains("static")).count());
    }
    // The last line has no newline: it may go on until it is said that nothing comes.
    std::fs::write(cluster.path("last"), "static without an end")?;
    std::fs::OpenOptions::new()
        .append(true)
        .open(cluster.path("all"))?
        .write_all(b"static without an end")?;

    cluster.hydfs(&["create", "piece0", "in/first"])?;
    let mut args = vec!["--follow"];
    args.extend(with_end(&GREP_COUNT, "out/follow", "true", "100"));
    let mut job = cluster.start("follow", &args)?;
    job.wait_for_output()?;
    let mut killed = 0;
    let tasks = ["s0t0", "s1t0", "s1t1", "s2t0", "s0t1", "s2t1", "s1t0", "s2t0"];
    for (n, due) in due.iter().enumerate().skip(1) {
        let piece = format!("piece{n}");
        job.set_rate(HELD)?;
        match n {
            1 => cluster.hydfs(&["create", &piece, "in/second"])?,
            _ => cluster.hydfs(&["append", &piece, ["in/first", "in/second"][n % 2]])?,
        };
        if let Some(task) = tasks.get(n - 1) {
            let victim = job.kill_task(task)?;
            ensure!(
                job.printed()? < *due,
                "all was out when {task} was killed: nothing was in flight"
            );
            killed += 1;
            job.wait_for_task(task, victim.epoch + 1)?;
        }
        job.set_rate(0)?;
    }
    let all = *due.last().context("pieces")?;
    wait_for("all that is there to come out", PATIENCE, || {
        ensure!(job.is_running()?, "the job ended by itself: {}", job.said());
        Ok((job.printed()? == all).then_some(()))
    })?;
    // Ctrl-C comes with tuples in flight and a task dead.
    job.set_rate(HELD)?;
    cluster.hydfs(&["append", "piece0", "in/second"])?;
    let again = std::fs::read(cluster.path("piece0"))?;
    let mut second = std::fs::OpenOptions::new()
        .append(true)
        .open(cluster.path("all"))?;
    second.write_all(b"\n")?;
    second.write_all(&again)?;
    cluster.hydfs(&["append", "last", "in/first"])?;
    job.kill_task("s2t1")?;
    job.interrupt()?;
    ensure!(
        job.printed()? < all + due[0],
        "all was out at Ctrl-C: nothing had to be drained"
    );
    let summary = job.finish(PATIENCE)?;
    ensure!(
        summary["restarts"] == killed + 1,
        "{killed} kills and one at the end: {summary}"
    );
    cluster.check("out/follow", r#"awk '/static/ { print $1 "\t" ++n[$1] }' all"#)
}

/// Kills of the task that is just dying of a tuple, of its predecessors and successors: what is set aside is set aside once, what
/// can be done is done once.
#[test]
fn t112_poison_is_set_aside_once_under_kills() -> Result<()> {
    let cluster = Cluster::up("127.0.64.41", 3)?;
    let mut data = std::io::BufWriter::new(std::fs::File::create(cluster.path("data.txt"))?);
    for n in 1..=60_000 {
        match n % 20_000 {
            7_001 => writeln!(data, "item-{n} n/a")?,
            _ => writeln!(data, "item-{n} {}.{:02}", n % 977, n % 100)?,
        }
    }
    data.into_inner()?;
    cluster.hydfs(&["create", "data.txt", "in/data.txt"])?;
    let operator = system_tests::root().join("demo/operators/prices.sh");
    let operator = operator.to_string_lossy();
    let stages = ["2", "2", &operator, "", "identity", ""];
    let mut args = vec!["--poison", "skip", "--max-restarts", "1"];
    args.extend(with_end(&stages, "out/poison", "true", "3000"));
    let mut job = cluster.start("poison", &args)?;
    job.wait_for_output()?;
    // A task has just died of a tuple, and its next process, which is to meet it again, is killed before it can.
    let met = wait_for("a task to die of a tuple", PATIENCE, || {
        ensure!(job.is_running()?, "the job was over: {}", job.said());
        let failed = cluster.log_lines("TASK_FAIL job=poison task=s1")?;
        Ok(failed.into_iter().find(|l| l.contains("the operator ended")))
    })?;
    job.set_rate(200)?;
    let task = if met.contains("task=s1t0") { "s1t0" } else { "s1t1" };
    let next = wait_for("its next process", PATIENCE, || {
        Ok(cluster.worker("poison", task)?.filter(|w| w.epoch > 1))
    })?;
    kill_process(next.pid)?;
    let mut killed = 1;
    for task in ["s0t0", "s2t0", "s1t1", "s1t0", "s2t1"] {
        let victim = job.kill_task(task)?;
        killed += 1;
        job.wait_for_task(task, victim.epoch + 1)?;
    }
    job.release()?;
    let summary = job.finish(PATIENCE)?;
    // Three tuples, each tried twice.
    ensure!(
        summary["restarts"].as_u64() >= Some(killed + 3) && summary["restarts"].as_u64() <= Some(killed + 6),
        "{killed} kills: {summary}"
    );
    cluster.check(
        "out/poison",
        r#"awk '$2 != "n/a" { split($2, p, "."); print "in/data.txt:" NR "\t" p[1] * 100 + p[2] }' data.txt"#,
    )?;
    cluster.check(
        "out/poison.poison",
        r#"awk '$2 == "n/a" { print "in/data.txt:" NR "\t" $0 }' data.txt"#,
    )
}

/// Nine of ten tuples have one key: the task that has it dies, too.
#[test]
fn t113_one_hot_key() -> Result<()> {
    let cluster = Cluster::up("127.0.64.51", 3)?;
    let mut data = std::io::BufWriter::new(std::fs::File::create(cluster.path("data.txt"))?);
    for n in 0..200_000 {
        match n % 10 {
            0 => writeln!(data, "key{} static {n}", n / 10 % 50)?,
            _ => writeln!(data, "hot static {n}")?,
        }
    }
    data.into_inner()?;
    cluster.hydfs(&["create", "data.txt", "in/data.txt"])?;
    let stages = ["2", "3", "grep", "--key word:0 static", "count", ""];
    let mut job = cluster.start("hot", &with_end(&stages, "out/hot", "true", &held(200_000)))?;
    job.wait_for_output()?;
    let rates = wait_for("rates of all counting tasks", PATIENCE, || {
        let out = cluster
            .command("rainstormctl")
            .args(["list_tasks", "hot", "--json"])
            .output()?;
        let list: Vec<serde_json::Value> = serde_json::from_slice(&out.stdout).unwrap_or_default();
        let rates: Vec<(String, f64)> = list
            .iter()
            .filter(|t| t["stage"] == 2)
            .filter_map(|t| Some((t["task"].as_str()?.to_owned(), t["in_per_s"].as_f64()?)))
            .collect();
        Ok((rates.len() == 3 && rates.iter().any(|r| r.1 > 500.0)).then_some(rates))
    })?;
    let hot = rates.iter().max_by(|a, b| a.1.total_cmp(&b.1)).context("tasks")?;
    ensure!(
        hot.1 > 0.6 * rates.iter().map(|r| r.1).sum::<f64>(),
        "no task has most of the tuples: {rates:?}"
    );
    let victim = job.kill_task(&hot.0)?;
    job.wait_for_task(&hot.0, victim.epoch + 1)?;
    job.release()?;
    let summary = job.finish(PATIENCE)?;
    ensure!(
        summary["restarts"] == 1 && summary["scale_events"] == 0,
        "{summary}"
    );
    cluster.check("out/hot", GREP_COUNT_ORACLE)
}

/// `rainstormctl kill_task NODE PID` for a task of each stage; and for what is none.
#[test]
fn t114_the_console_kills_a_task_and_nothing_else() -> Result<()> {
    let cluster = Cluster::with_text("127.0.64.61", 3, 250_000)?;
    let mut job = cluster.start(
        "console",
        &with_end(&THREE, "out/console", "true", &held(250_000)),
    )?;
    job.wait_for_output()?;
    let kill = |node: &str, pid: i32| {
        cluster
            .command("rainstormctl")
            .args(["kill_task", node, &pid.to_string()])
            .output()
    };
    // A daemon, a process of somebody else, a worker of another node, a number that is none.
    let mut stranger = std::process::Command::new("sleep").arg("60").spawn()?;
    let there = job.wait_for_task("s1t0", 1)?;
    let elsewhere = if there.node == "n1" { "n2" } else { "n1" };
    let cases = [
        ("n2", cluster.daemon("n2", "hydfsd")?),
        ("n1", stranger.id() as i32),
        (elsewhere, there.pid.context("a pid")?),
        ("n1", 1),
    ];
    for (node, pid) in cases {
        let out = kill(node, pid)?;
        ensure!(
            !out.status.success(),
            "kill_task {node} {pid} claims to have killed it"
        );
        ensure!(is_alive(pid), "kill_task {node} {pid} killed it");
    }
    kill_process(stranger.id() as i32)?;
    stranger.wait()?;
    for task in ["s0t0", "s1t1", "s2t0", "s3t1"] {
        let victim = job.wait_for_task(task, 1)?;
        let pid = victim.pid.context("a pid")?;
        let out = kill(&victim.node, pid)?;
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        ensure!(
            out.status.success() && said.contains(task),
            "{}: {said}",
            out.status
        );
        ensure!(job.is_running()?, "the job was over when {task} was killed");
        wait_for("the process to be gone", PATIENCE, || {
            Ok((!is_alive(pid)).then_some(()))
        })?;
        job.wait_for_task(task, victim.epoch + 1)?;
    }
    job.release()?;
    let summary = job.finish(PATIENCE)?;
    ensure!(summary["restarts"] == 4, "four kills: {summary}");
    cluster.check("out/console", THREE_ORACLE)?;
    let (want, printed) = (
        cluster.sorted("out/console")?,
        std::fs::read(cluster.path("console.out"))?,
    );
    ensure!(
        judge::compare(&want, &printed).holds(true),
        "what was printed is not what is stored"
    );
    Ok(())
}
