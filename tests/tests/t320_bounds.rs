//! What grows with time, and what bounds it: logs of programs, ended jobs, disks. (faults.md: weeks under way)

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::job::held;
use system_tests::storage::Storage;
use system_tests::{Cluster, PATIENCE, kill_process, succeed, wait_for};

/// Marks each value. Read line by line, whatever shell it is.
const MARK: &str = r#"#!/bin/sh
while IFS= read -r line; do
    case $line in
    "value: "*) printf 'forward\nvalue: marked %s\n' "${line#value: }" ;;
    esac
done
"#;

/// Adds to the cluster file. What starts from now on reads it.
fn set(cluster: &Cluster, text: &str) -> Result<()> {
    Ok(File::options()
        .append(true)
        .open(cluster.config())?
        .write_all(text.as_bytes())?)
}

#[test]
fn t321_workers_that_share_a_log_rotate_it_and_lose_no_line() -> Result<()> {
    let cluster = Cluster::with_text("127.0.141", 3, 20_000)?;
    set(&cluster, "\n[log]\nmax_size = \"4KiB\"\nfiles = 100\n")?;
    for n in 0..4 {
        let (name, out) = (format!("many{n}"), format!("out{n}"));
        let job = [
            "2", "12", "grep", "static", "identity", "", "in", &out, "true", "false",
        ];
        cluster.start(&name, &job)?.finish(PATIENCE)?;
        cluster.check(
            &out,
            "awk '/static/ {print \"in/data.txt:\" NR \"\\t\" $0}' data.txt",
        )?;
    }

    let mut rotated = 0;
    for n in 1..=3 {
        for entry in std::fs::read_dir(cluster.path(&format!("run/n{n}/log")))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("worker.log") {
                rotated += usize::from(name != "worker.log");
                let text = std::fs::read_to_string(entry.path())?;
                let torn = text
                    .lines()
                    .find(|l| !l.starts_with("20") || !l.contains(" job=many"));
                ensure!(torn.is_none(), "{name}: {torn:?}");
            }
        }
    }
    ensure!(rotated > 0, "no log was ever full");
    let all: Vec<String> = (1..=2)
        .flat_map(|stage| (0..12).map(move |task| format!("task=s{stage}t{task}")))
        .collect();
    for word in ["TASK_START", "TASK_END"] {
        let mut ctl = cluster.command("rainstormctl");
        let lines = succeed(ctl.args(["grep", &format!(" {word} job=many.*pid=")]))?;
        for (n, task) in (0..4).flat_map(|n| all.iter().map(move |task| (n, task))) {
            let (job, task) = (format!(" job=many{n} "), format!(" {task} "));
            let said = lines
                .lines()
                .filter(|l| l.contains(":worker.log") && l.contains(&job) && l.contains(&task));
            ensure!(said.count() == 1, "{word} of {task} of {job}: {lines}");
        }
    }
    Ok(())
}

/// The last line of standard error of a command that must fail.
fn refused(cluster: &Cluster, program: &str, args: &[&str]) -> Result<String> {
    let out = cluster.command(program).args(args).output()?;
    ensure!(!out.status.success(), "{program} {args:?} was carried out");
    Ok(String::from_utf8_lossy(&out.stderr).into_owned())
}

fn stored(cluster: &Cluster, prefix: &str) -> Result<Vec<String>> {
    let found = cluster.hydfs(&["find", prefix])?;
    Ok(found
        .lines()
        .filter_map(|l| Some(l.split_once('\t')?.0.to_owned()))
        .collect())
}

#[test]
fn t322_what_a_job_keeps_goes_when_it_is_forgotten_and_its_output_stays() -> Result<()> {
    const LINES: u64 = 20_000;
    let cluster = Cluster::with_text("127.0.142", 3, LINES)?;
    let args = |dest, rate| {
        [
            "2", "2", "grep", "static", "count", "", "in", dest, "true", "false", rate,
        ]
    };
    let forget = |args: &[&str]| {
        let mut ctl = cluster.command("rainstormctl");
        succeed(ctl.arg("forget").args(args))
    };
    cluster.start("done", &args("out", "0"))?.finish(PATIENCE)?;
    let rate = held(LINES);
    let mut held = cluster.start("held", &args("out2", &rate))?;
    held.wait_for_output()?;
    // One that runs is never forgotten, and one that was interrupted only by force.
    let why = refused(&cluster, "rainstormctl", &["forget", "held", "--force"])?;
    ensure!(why.contains("held runs"), "{why}");
    held.kill_leader()?;
    wait_for("the workers' end", PATIENCE, || {
        Ok(cluster.processes("worker")?.is_empty().then_some(()))
    })?;
    let why = refused(&cluster, "rainstormctl", &["forget", "held"])?;
    ensure!(why.contains("--resume held") && why.contains("--force"), "{why}");
    ensure!(!stored(&cluster, "jobs/held/")?.is_empty());
    let said = forget(&["held", "--force"])?;
    ensure!(said.contains("forgot job held"), "{said}");

    let said = forget(&["done"])?;
    ensure!(said.contains("forgot job done"), "{said}");
    ensure!(
        stored(&cluster, "jobs/")?.is_empty(),
        "{:?}",
        stored(&cluster, "jobs/")?
    );
    ensure!(!cluster.hydfs(&["cat", "out"])?.is_empty());
    let why = refused(&cluster, "leader", &["--resume", "held"])?;
    ensure!(why.contains("no job held"), "{why}");
    let why = refused(&cluster, "rainstormctl", &["forget", "done"])?;
    ensure!(why.contains("no journal of a job `done`"), "{why}");
    // The name is free again.
    cluster.start("done", &args("out3", "0"))?.finish(PATIENCE)?;
    ensure!(!cluster.hydfs(&["cat", "out3"])?.is_empty());
    Ok(())
}

/// Kills the consoles: memberd starts others, which read the cluster file anew.
fn renew_consoles(cluster: &Cluster) -> Result<()> {
    let old = consoles(cluster)?;
    old.iter().try_for_each(|pid| kill_process(*pid))?;
    wait_for("new consoles", PATIENCE, || {
        let now = consoles(cluster)?;
        let all = now.len() == cluster.nodes() && now.iter().all(|pid| !old.contains(pid));
        Ok(all.then_some(()))
    })
}

fn consoles(cluster: &Cluster) -> Result<Vec<i32>> {
    cluster.processes("rainstormctl")
}

#[test]
fn t323_ended_jobs_and_their_operators_go_by_themselves() -> Result<()> {
    let cluster = Cluster::with_text("127.0.143", 3, 2_000)?;
    cluster.write_operator("mark.sh", MARK)?;
    let job = |dest| ["1", "2", "transform:./mark.sh", "", "in", dest, "true", "false"];
    cluster.start("ends", &job("out"))?.finish(PATIENCE)?;
    let rate = held(2_000);
    let grep = ["1", "1", "grep", "static", "in", "out2", "true", "false", &rate];
    let mut open = cluster.start("open", &grep)?;
    open.wait_for_output()?;
    open.kill_leader()?;
    ensure!(stored(&cluster, "ops/")?.len() == 1);
    set(&cluster, "\n[jobs]\nkeep_ended = \"3s\"\n")?;
    renew_consoles(&cluster)?;
    wait_for("the job to be forgotten", PATIENCE, || {
        Ok(stored(&cluster, "jobs/ends/")?.is_empty().then_some(()))
    })?;
    wait_for("its operator to go", PATIENCE, || {
        Ok(stored(&cluster, "ops/")?.is_empty().then_some(()))
    })?;
    let mut ctl = cluster.command("rainstormctl");
    let said = succeed(ctl.args(["grep", "-h", "JOB_FORGOTTEN"]))?;
    ensure!(said.contains("job=ends") && !said.contains("job=open"), "{said}");
    // What can be taken up stays, and so does what has come out.
    ensure!(stored(&cluster, "jobs/open/")?.contains(&"jobs/open/journal".to_owned()));
    cluster.check(
        "out",
        "awk '{print \"in/data.txt:\" NR \"\\t\" \"marked \" $0}' data.txt",
    )
}

fn get(addr: &str, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("an HTTP answer")?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
    Ok((status.context("a status")?, body.to_owned()))
}

#[test]
fn t324_every_node_shows_the_cluster_whatever_runs_and_its_console_comes_back() -> Result<()> {
    const LINES: u64 = 20_000;
    let cluster = Cluster::with_text("127.0.144", 3, LINES)?;
    let done = ["1", "2", "grep", "static", "in", "out", "true", "false"];
    cluster.start("was", &done)?.finish(PATIENCE)?;
    let rate = held(LINES);
    let mut job = cluster.start(
        "runs",
        &["1", "2", "grep", "static", "in", "out2", "true", "false", &rate],
    )?;
    job.wait_for_output()?;
    let json = |node: usize, path: &str| -> Result<Option<Value>> {
        match get(&format!("127.0.144.{}:8080", 10 + node), path) {
            Ok((200, body)) => Ok(Some(serde_json::from_str(&body)?)),
            _ => Ok(None),
        }
    };
    for node in 1..=3 {
        let seen = wait_for("the cluster", PATIENCE, || {
            let seen = json(node, "/api/cluster")?;
            Ok(seen.filter(|seen| {
                seen["nodes"].as_array().is_some_and(|nodes| {
                    nodes.len() == 3
                        && nodes
                            .iter()
                            .all(|n| n["member"] == "alive" && n["error"].is_null())
                })
            }))
        })?;
        ensure!(
            seen["nodes"][0]["stored"]["users"].as_u64() > Some(100_000),
            "{seen}"
        );
        ensure!(seen["totals"]["ranges"] == 3, "{seen}");
    }
    let jobs = json(2, "/api/jobs")?.context("no jobs")?;
    ensure!(
        jobs["running"][0]["job"] == "runs" && jobs["were"][0]["job"] == "was",
        "{jobs}"
    );
    ensure!(
        jobs["were"][0]["outcome"] == "done" && jobs["were"].as_array().map(Vec::len) == Some(1),
        "{jobs}"
    );
    let tasks = json(3, "/api/tasks")?.context("no tasks")?;
    ensure!(
        tasks
            .as_array()
            .is_some_and(|tasks| tasks.iter().any(|t| t["task"] == "s1t1")),
        "{tasks}"
    );
    let events = json(1, "/api/events")?.context("no events")?;
    let all = events["events"].as_array().context("no list")?;
    for node in ["n1", "n2", "n3"] {
        ensure!(
            all.iter().any(|e| e["node"] == node),
            "nothing of {node}: {events}"
        );
    }
    ensure!(all.iter().any(|e| e["event"] == "RUN_END"), "{events}");
    let (status, page) = get("127.0.144.11:8080", "/")?;
    ensure!(status == 200 && page.contains("Newest events of all machines"));
    let (_, metrics) = get("127.0.144.12:8080", "/metrics")?;
    for metric in [
        "memberd_members{",
        "hydfsd_disk_free_bytes ",
        "hydfsd_stored_bytes{kind=\"users\"}",
    ] {
        ensure!(metrics.contains(metric), "{metric} is not in {metrics}");
    }
    job.release()?;
    job.finish(PATIENCE)?;

    // The console is killed; then memberd itself, and with it its console.
    renew_consoles(&cluster)?;
    wait_for("an answer", PATIENCE, || json(1, "/api/cluster"))?;
    kill_process(cluster.daemon("n2", "memberd")?)?;
    wait_for("the console's end", PATIENCE, || {
        Ok((consoles(&cluster)?.len() == 2).then_some(()))
    })?;
    let seen = wait_for("n2 to be missed", PATIENCE, || {
        Ok(json(1, "/api/cluster")?.filter(|seen| seen["nodes"][1]["member"] == "failed"))
    })?;
    ensure!(
        seen["nodes"][1]["disk"]["capacity"].as_u64() > Some(0),
        "its storage daemon is there: {seen}"
    );
    let events = json(1, "/api/events")?.context("no events")?;
    ensure!(events["silent"][0]["node"] == "n2", "{events}");
    Ok(())
}

#[test]
fn t325_a_disk_that_fills_refuses_users_new_files_and_says_how_to_make_room() -> Result<()> {
    // Any disk of this machine is used to more than one percent.
    let settings = "[hydfs]\nwarn_percent = 1\nrefuse_percent = 1\n";
    let mut storage = Storage::new("127.0.145", 3, settings)?;
    std::fs::write(storage.path("data"), "some data\n")?;
    storage.start_all(false)?;
    wait_for("DISK_SHORT", PATIENCE, || {
        Ok((1..=3)
            .all(|n| storage.log(n).contains("DISK_SHORT"))
            .then_some(()))
    })?;
    let out = storage.hydfs(1, &["create", "data", "in/data"])?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(!out.status.success(), "it was made");
    for word in [
        "in/data",
        "1 %",
        "hydfs df",
        "hydfs rm",
        "hydfs trim",
        "rainstormctl forget",
    ] {
        ensure!(said.contains(word), "{word} is not in: {said}");
    }
    storage.hydfs_ok(1, &["create", "--system", "data", "jobs/j/journal"])?;
    storage.hydfs_ok(1, &["append", "--system", "data", "jobs/j/journal"])?;
    let table = storage.hydfs_ok(2, &["df"])?;
    ensure!(
        table.lines().count() == 4 && table.matches("no new files").count() == 3,
        "{table}"
    );
    let json: Value = serde_json::from_str(&storage.hydfs_ok(3, &["df", "--json"])?)?;
    for node in 0..3 {
        ensure!(
            json[node]["stored"]["journals"] == 20 && json[node]["disk"]["level"] == "short",
            "{json}"
        );
    }
    storage.stop(2, "hydfsd", nix::sys::signal::Signal::SIGKILL)?;
    let out = storage.hydfs(1, &["df"])?;
    let table = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(
        !out.status.success() && table.contains("does not answer"),
        "{table}"
    );
    Ok(())
}
