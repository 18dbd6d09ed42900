//! Foreign operators that are slow, crash, hang, print garbage or flood standard error: bounded memory, a job that goes on where
//! it can, and where it cannot the tuple's key and the operator's last words. (faults.md: a slow operator; an operator that ...)

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use system_tests::procs::resident;
use system_tests::{Cluster, Job, PATIENCE, now};

const MIB: u64 = 1 << 20;
/// What the operators below make of a tuple when they do what they should.
const SAME_ORACLE: &str = r#"awk '{ print "in/data.txt:" NR "\t" $0 }' data.txt"#;

/// A Python operator that passes tuples on as they are. `first` runs before all, `each` for each tuple; `once(name)` is true
/// for one process only, of all that ever run in this folder.
fn operator(cluster: &Cluster, first: &str, each: &str) -> Result<()> {
    let folder = cluster.path("once");
    std::fs::create_dir(&folder)?;
    cluster.write_operator(
        "op.py",
        &format!(
            r#"#!/usr/bin/env python3
import os, sys, time
sys.stdin.reconfigure(newline="\n")
def once(name):
    try:
        os.mkdir("{}/" + name)
        return True
    except FileExistsError:
        return False
say = sys.stdout.write
n = 0
{first}
for line in sys.stdin:
    key, value = line[5:-1], next(sys.stdin)[7:-1]
    n += 1
{each}
    say("forward\nvalue: " + value + "\n")
    sys.stdout.flush()
"#,
            folder.display()
        ),
    )
}

fn args<'a>(options: &[&'a str], tasks: &'a str, dest: &'a str) -> Vec<&'a str> {
    let mut args = options.to_vec();
    args.extend(["1", tasks, "transform:./op.py", "", "in", dest, "true", "false"]);
    args
}

/// The most memory that each worker of the job ever had.
fn watch(cluster: &Cluster, job: &Job<'_>, peak: &mut BTreeMap<String, u64>) -> Result<()> {
    for worker in cluster.workers(&job.name)? {
        if let Some(now) = resident(worker.pid) {
            let most = peak.entry(worker.task).or_default();
            *most = now.max(*most);
        }
    }
    Ok(())
}

#[test]
fn t41_a_slow_operator_slows_the_source_and_nothing_piles_up() -> Result<()> {
    let cluster = Cluster::up("127.0.54", 3)?;
    // 200 MB in long lines.
    let line = "static ".repeat(400);
    let text: String = (0..70_000).map(|n| format!("{n} {line}\n")).collect();
    std::fs::write(cluster.path("data.txt"), &text)?;
    cluster.hydfs(&["create", "data.txt", "in/data.txt"])?;
    // 5 ms for each tuple as long as the file is there; then as fast as it goes.
    let slow = cluster.path("slow");
    std::fs::write(&slow, "")?;
    operator(
        &cluster,
        "",
        &format!("    if os.path.exists({slow:?}): time.sleep(0.005)"),
    )?;
    let began = now();
    let mut args = args(&["--op-timeout", "3", "--console", "none"], "2", "out");
    let stages = args.iter().position(|a| *a == "1").unwrap_or(0);
    args.splice(
        stages..stages + 4,
        ["2", "2", "transform:./op.py", "", "identity", ""],
    );
    let mut job = cluster.start("slow", &args)?;
    let (mut peak, mut read) = (BTreeMap::new(), 0.0);
    while job.is_running()? {
        watch(&cluster, &job, &mut peak)?;
        if read == 0.0 {
            // The leader's first such line is written 5 s after the start, while the operator is slow: what the source read so far.
            let rates = cluster.log_lines("RATE job=slow stage=0 ")?;
            let total = rates
                .first()
                .and_then(|l| l.split("tuples_in=").nth(1)?.split(' ').next()?.parse().ok());
            read = total.unwrap_or(read);
            if read > 0.0 {
                std::fs::remove_file(&slow)?;
            }
        }
        ensure!(now() - began < PATIENCE, "the job hangs");
        std::thread::sleep(Duration::from_millis(50));
    }
    let summary = job.finish(PATIENCE)?;
    eprintln!("peaks: {peak:?}; the source had read {read} of 70000 lines after 5 s");
    ensure!(summary["restarts"] == 0, "something timed out: {summary}");
    ensure!(
        read > 0.0 && read < 35_000.0,
        "the source was not slowed: {read} lines in 5 s"
    );
    // Two windows of 6 MiB, batches under way, what the allocator keeps: far from the input's 200 MB.
    ensure!(
        peak.len() == 6 && peak.values().all(|bytes| *bytes < 100 * MIB),
        "memory is not bounded: {peak:?}"
    );
    cluster.check("out", SAME_ORACLE)
}

#[test]
fn t42_an_operator_that_crashes_once_is_started_again() -> Result<()> {
    let cluster = Cluster::with_text("127.0.54.21", 3, 60_000)?;
    operator(
        &cluster,
        "",
        r#"    if n == 5000 and once("crash"): sys.stderr.write("no more\n"); sys.exit(9)"#,
    )?;
    let summary = cluster.start("crash", &args(&[], "2", "out"))?.finish(PATIENCE)?;
    ensure!(summary["restarts"] == 1, "{summary}");
    cluster.check("out", SAME_ORACLE)
}

#[test]
fn t43_an_operator_that_hangs_is_ended_and_named() -> Result<()> {
    let cluster = Cluster::with_text("127.0.54.31", 3, 40_000)?;
    // One hang is got over. The time limit is what a busy machine may keep an operator that works from answering ...
    operator(
        &cluster,
        "",
        r#"    if n == 3000 and once("hang"): time.sleep(1000)"#,
    )?;
    let summary = cluster
        .start("hang", &args(&["--op-timeout", "4"], "2", "out"))?
        .finish(PATIENCE)?;
    ensure!(summary["restarts"] == 1, "{summary}");
    cluster.check("out", SAME_ORACLE)?;
    // ... one at the same tuple again and again is not.
    std::fs::remove_dir_all(cluster.path("once"))?;
    operator(
        &cluster,
        r#"sys.stderr.write("I shall stop at a thousand\n"); sys.stderr.flush()"#,
        r#"    if key == "in/data.txt:1000": time.sleep(1000)"#,
    )?;
    let began = now();
    let options = ["--op-timeout", "4", "--max-restarts", "2"];
    let said = cluster
        .start("hangs", &args(&options, "1", "out2"))?
        .fail(PATIENCE)?;
    let last = said.lines().last().unwrap_or_default();
    ensure!(
        last.contains("in/data.txt:1000")
            && last.contains("I shall stop at a thousand")
            && last.contains("answered nothing"),
        "the last line does not say all: {last}"
    );
    ensure!(
        now() - began < Duration::from_secs(60),
        "it took {:?}",
        now() - began
    );
    Ok(())
}

#[test]
fn t44_an_operator_that_prints_garbage_is_ended_and_named() -> Result<()> {
    let cluster = Cluster::with_text("127.0.54.41", 3, 40_000)?;
    operator(
        &cluster,
        "",
        r#"    if n == 3000 and once("garbage"): say("\x00\xff what? " * 1000)"#,
    )?;
    let summary = cluster
        .start("garbage", &args(&[], "2", "out"))?
        .finish(PATIENCE)?;
    ensure!(summary["restarts"] == 1, "{summary}");
    cluster.check("out", SAME_ORACLE)?;
    for (n, (garbage, says)) in [
        (r#"say("hello world\n")"#, "hello world"),
        (r#"say("forward\nforward\nforward\nforward\n")"#, "forward"),
        // Without a newline, for ever.
        (
            r#"[say("x" * 1000000) for _ in range(100)]"#,
            "longer than 16 MiB",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        std::fs::remove_dir_all(cluster.path("once"))?;
        operator(
            &cluster,
            r#"sys.stderr.write("watch out\n"); sys.stderr.flush()"#,
            &format!("    if key == 'in/data.txt:777': {garbage}"),
        )?;
        let (job, dest) = (format!("garbage-{n}"), format!("out-{n}"));
        let said = cluster
            .start(&job, &args(&["--max-restarts", "1"], "1", &dest))?
            .fail(PATIENCE)?;
        let last = said.lines().last().unwrap_or_default();
        let key = ["in/data.txt:777", "in/data.txt:778"]
            .iter()
            .any(|k| last.contains(k));
        ensure!(
            key && last.contains(says) && last.contains("watch out"),
            "{garbage}: the last line does not say all: {last}"
        );
    }
    Ok(())
}

#[test]
fn t45_an_operator_that_floods_standard_error_harms_nobody() -> Result<()> {
    let cluster = Cluster::with_text("127.0.54.51", 3, 20_000)?;
    // One line of 50 MB, then 200 MB beside 20,000 tuples, for three seconds.
    operator(
        &cluster,
        r#"sys.stderr.write("y" * 50000000 + "\n")"#,
        r#"
    sys.stderr.write(("x" * 99 + "\n") * 100)
    if n % 10 == 0: time.sleep(0.003)"#,
    )?;
    let mut job = cluster.start("flood", &args(&[], "2", "out"))?;
    let mut peak = BTreeMap::new();
    while job.is_running()? {
        watch(&cluster, &job, &mut peak)?;
        std::thread::sleep(Duration::from_millis(20));
    }
    let summary = job.finish(PATIENCE)?;
    ensure!(summary["restarts"] == 0, "{summary}");
    ensure!(
        peak.values().all(|bytes| *bytes < 60 * MIB),
        "memory is not bounded: {peak:?}"
    );
    let logged: u64 = (1..=3)
        .filter_map(|n| std::fs::metadata(cluster.path(&format!("run/n{n}/log/worker.log"))).ok())
        .map(|m| m.len())
        .sum();
    ensure!(
        logged > 10_000 && logged < 30 * MIB,
        "the logs have {logged} bytes"
    );
    ensure!(
        !cluster
            .log_lines("more lines on standard error were dropped")?
            .is_empty(),
        "what was left out is not said"
    );
    cluster.check("out", SAME_ORACLE)?;
    // The end of the flood is in the message of a failure.
    std::fs::remove_dir_all(cluster.path("once"))?;
    operator(
        &cluster,
        "",
        r#"    if n == 100: [sys.stderr.write("%d bottles\n" % i) for i in range(1000000)]; sys.exit(1)"#,
    )?;
    let said = cluster
        .start("floods", &args(&["--max-restarts", "0"], "1", "out2"))?
        .fail(PATIENCE)?;
    let last = said.lines().last().unwrap_or_default();
    ensure!(
        last.contains("999999 bottles") && last.contains("in/data.txt:100") && last.len() < 5000,
        "the last line: {last}"
    );
    Ok(())
}
