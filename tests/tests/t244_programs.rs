//! Operators as programs: helpers that they leave behind, starts that take long, files that cannot be run, words that a terminal
//! would obey. (faults.md: helpers of operators)

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use system_tests::procs::{all, is_alive, signal};
use system_tests::{Cluster, kill_process, wait_for};

const LIMIT: Duration = Duration::from_secs(60);
const GONE_WITHIN: Duration = Duration::from_secs(4);

/// Becomes a helper; `bare` has nothing in its environment that would tell whose it is.
const HELPER: &str = r#"#!/bin/sh
echo "$1 $2 $$ $3" >> "${0%/*}/helpers"
[ "$3" = bare ] && exec env -i sleep 600
exec sleep 600
"#;

/// Starts helpers in four ways, when it is asked what it is as well; then passes tuples on.
const BUSY: &str = r#"#!/usr/bin/env python3
import os, subprocess, sys
task = os.environ.get("RAINSTORM_TASK", "asked")
helper = f"FOLDER/helper.sh {task} {os.getpid()}"
ways = [f"{helper} &", f"setsid {helper} > /dev/null 2>&1 &", f"nohup {helper} > /dev/null 2>&1 &"]
if task != "asked":
    ways.append(f"(setsid sh -c '{helper} bare > /dev/null 2>&1 &' &)")
for way in ways:
    subprocess.run(way, shell=True, stdin=subprocess.DEVNULL)
sys.stdin.reconfigure(newline="\n")
for line in sys.stdin:
    print("forward\nvalue: " + next(sys.stdin)[7:-1], flush=True)
"#;
const WAYS: usize = 4;

#[derive(Debug, Clone)]
struct Helper {
    task: String,
    operator: i32,
    pid: i32,
    bare: bool,
}

fn helpers(cluster: &Cluster) -> Result<Vec<Helper>> {
    let text = std::fs::read_to_string(cluster.path("helpers")).unwrap_or_default();
    let one = |line: &str| {
        let mut words = line.split(' ');
        Some(Helper {
            task: words.next()?.into(),
            operator: words.next()?.parse().ok()?,
            pid: words.next()?.parse().ok()?,
            bare: words.next() == Some("bare"),
        })
    };
    text.lines()
        .map(|line| one(line).context("a helper's line"))
        .collect()
}

/// Ends the helpers that are left when a test fails.
struct Ends<'a>(&'a Cluster);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        let all = helpers(self.0).unwrap_or_default();
        let left = all.iter().filter(|h| is_alive(h.pid));
        left.for_each(|h| drop(signal(h.pid, Signal::SIGKILL)));
    }
}

/// The helpers of the task's newest operator, once all run.
fn of_task(cluster: &Cluster, task: &str) -> Result<Vec<Helper>> {
    wait_for(&format!("the helpers of {task}"), Duration::from_secs(20), || {
        let mut all = helpers(cluster)?;
        all.retain(|h| h.task == task);
        let newest = all.last().map(|h| h.operator);
        all.retain(|h| Some(h.operator) == newest);
        let alive = all.iter().filter(|h| is_alive(h.pid)).count();
        Ok((alive == WAYS).then_some(all))
    })
}

fn wait_until_gone(of: &str, helpers: &[Helper]) -> Result<()> {
    wait_for(
        &format!("the end of helpers when {of} was killed: {helpers:?}"),
        GONE_WITHIN,
        || Ok((!helpers.iter().any(|h| is_alive(h.pid))).then_some(())),
    )
}

/// The node's host: the process that started its workers.
fn host_of(cluster: &Cluster, job: &str, task: &str) -> Result<(i32, Vec<i32>)> {
    let workers = cluster.workers(job)?;
    let pid = workers.iter().find(|w| w.task == task).context("a worker")?.pid;
    let processes = all()?;
    let host = processes
        .iter()
        .find(|p| p.pid == pid)
        .context("its process")?
        .parent;
    let on_it = processes.iter().filter(|p| p.parent == host).map(|p| p.pid);
    Ok((host, on_it.collect()))
}

#[test]
fn t244_nothing_that_an_operator_started_outlives_its_task() -> Result<()> {
    let cluster = Cluster::with_text("127.0.140.41", 3, 150_000)?;
    let _ends = Ends(&cluster);
    cluster.write_operator("helper.sh", HELPER)?;
    cluster.write_operator(
        "busy.py",
        &BUSY.replace("FOLDER", &cluster.path("").display().to_string()),
    )?;
    let stages = [
        "1",
        "3",
        "transform:./busy.py",
        "",
        "in",
        "out/busy",
        "true",
        "false",
        "6000",
    ];
    let mut job = cluster.start("busy", &stages)?;
    job.wait_for_output()?;

    let asked: Vec<_> = helpers(&cluster)?
        .into_iter()
        .filter(|h| h.task == "asked")
        .collect();
    ensure!(
        !asked.is_empty(),
        "no helper was started when it was asked what it is"
    );
    wait_until_gone("the operator that was asked what it is", &asked)?;

    let mut left = of_task(&cluster, "s1t0")?;
    job.kill_task("s1t0")?;
    wait_until_gone("the worker", &left)?;

    left = of_task(&cluster, "s1t1")?;
    kill_process(left[0].operator)?;
    wait_until_gone("the operator", &left)?;

    left = of_task(&cluster, "s1t1")?;
    let worker = cluster.worker("busy", "s1t1")?.context("a worker")?.pid;
    kill_process(worker)?;
    let _ = kill_process(left[0].operator);
    wait_until_gone("the worker with the operator", &left)?;

    left = of_task(&cluster, "s1t2")?;
    let (host, workers) = host_of(&cluster, "busy", "s1t2")?;
    kill_process(host)?;
    wait_until_gone("the workers' host", &left)?;
    wait_for("the end of workers without their host", GONE_WITHIN, || {
        Ok((!workers.iter().any(|pid| is_alive(*pid))).then_some(()))
    })?;
    ensure!(job.is_running()?, "the job was over: nothing was at work");

    // All of them at once, none of which can do anything before it dies: nobody is left, until a host is started there again.
    // An operator that has only just started goes on starting helpers after they were counted.
    for task in ["s1t0", "s1t1", "s1t2"] {
        of_task(&cluster, task)?;
    }
    let (host, workers) = host_of(&cluster, "busy", "s1t0")?;
    let at_once: Vec<i32> = std::iter::once(host).chain(workers).collect();
    at_once.iter().try_for_each(|pid| signal(*pid, Signal::SIGSTOP))?;
    let struck = cluster.workers("busy")?.into_iter();
    let struck: Vec<_> = struck
        .filter(|w| at_once.contains(&w.pid))
        .map(|w| w.task)
        .collect();
    let mut before = helpers(&cluster)?;
    before.retain(|h| struck.contains(&h.task) && is_alive(h.pid));
    at_once.iter().try_for_each(|pid| kill_process(*pid))?;
    let oracle = r#"awk '{ print "in/data.txt:" NR "\t" $0 }' data.txt"#;
    job.finish(LIMIT)?;
    cluster.check("out/busy", oracle)?;
    let stages = [
        "1",
        "3",
        "transform:./busy.py",
        "",
        "in",
        "out/next",
        "true",
        "false",
    ];
    cluster.start("next", &stages)?.finish(LIMIT)?;
    cluster.check("out/next", oracle)?;
    // One without anything in its environment cannot be found then.
    let (lost, marked): (Vec<_>, Vec<_>) = before.into_iter().partition(|h| h.bare);
    wait_until_gone("all that could have ended them", &marked)?;
    let mut left = helpers(&cluster)?;
    left.retain(|h| is_alive(h.pid) && !lost.iter().any(|l| l.pid == h.pid));
    ensure!(left.is_empty(), "left when both jobs are over: {left:?}");
    Ok(())
}

#[test]
fn t245_an_operator_may_take_long_to_start_and_one_that_cannot_run_is_explained() -> Result<()> {
    let cluster = Cluster::with_text("127.0.140.51", 3, 500)?;
    let import = "import time\ntime.sleep(7)\n";
    let body = "import sys\nsys.stdin.reconfigure(newline=\"\\n\")\nfor line in sys.stdin:\n    print(\"forward\\nvalue: \" + next(sys.stdin)[7:-1], flush=True)\n";
    cluster.write_operator("slow.py", &format!("#!/usr/bin/env python3\n{import}{body}"))?;
    let stages = [
        "1",
        "1",
        "transform:./slow.py",
        "",
        "in",
        "out/slow",
        "true",
        "false",
    ];
    let job = cluster.start("slow", &stages)?;
    let stderr = cluster.path("slow.err");
    job.finish(LIMIT)?;
    let said = std::fs::read_to_string(stderr)?;
    ensure!(
        said.contains("what it is: 2 s, at most 30 s"),
        "nobody is told why it waits: {said}"
    );
    cluster.check(
        "out/slow",
        r#"awk '{ print "in/data.txt:" NR "\t" $0 }' data.txt"#,
    )?;

    let refused = |options: &[&str], exe: &str| -> Result<String> {
        let stages = ["1", "1", exe, "", "in", "out/refused", "true", "false"];
        let out = cluster.leader(&[options, &stages].concat())?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        ensure!(out.status.code() == Some(2), "{exe}: {}: {said}", out.status);
        Ok(said)
    };
    let said = refused(&["--describe-timeout", "1"], "./slow.py")?;
    ensure!(
        said.contains("within 1 s") && said.contains("--describe-timeout"),
        "{said}"
    );

    let elf = std::fs::read("/bin/sh")?;
    let mut foreign = elf.clone();
    foreign[18] ^= 0x40;
    let crlf = format!("#!/usr/bin/env python3\n{body}").replace('\n', "\r\n");
    let cases: [(&str, &[u8], &str); 7] = [
        ("crlf.py", crlf.as_bytes(), "CR LF"),
        ("plain.py", body.as_bytes(), "names no interpreter"),
        (
            "gone.py",
            b"#!/no/such/python3\n",
            "not on this node: /no/such/python3",
        ),
        ("env.py", b"#!/usr/bin/env python0\n", "no `python0` along PATH"),
        ("mark.py", b"\xef\xbb\xbf#!/bin/sh\n", "byte order mark"),
        ("empty", b"", "is empty"),
        ("foreign", &foreign, "is a program for"),
    ];
    for (name, content, says) in cases {
        cluster.write_operator(name, "")?;
        std::fs::write(cluster.path(name), content)?;
        let said = refused(&[], &format!("./{name}"))?;
        ensure!(said.contains(says) && said.contains(name), "{name}: {said}");
    }
    // What is said to type mends it.
    let mend = refused(&[], "./crlf.py")?;
    let mend = mend
        .split("type: ")
        .nth(1)
        .and_then(|t| t.lines().next())
        .context("what to type")?;
    ensure!(
        Command::new("sh")
            .args(["-c", mend])
            .current_dir(cluster.path(""))
            .status()?
            .success()
    );
    let stages = ["1", "1", "./crlf.py", "", "in", "out/mended", "true", "false"];
    cluster.start("mended", &stages)?.finish(LIMIT).map(drop)
}

/// Sets a terminal's title, where it is obeyed.
const ESCAPE: &str = "\x1b]0;owned\x07";
const SEEN: &str = "\\x1b]0;owned\\x07";

/// What a program prints on a terminal of its own.
fn on_terminal(cluster: &Cluster, program: &str, args: &[&str]) -> Result<String> {
    let ours = cluster.command(program);
    let mut command = Command::new("python3");
    command
        .args([
            "-c",
            "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])) & 255)",
        ])
        .arg(ours.get_program())
        .args(args)
        .env("RAINSTORM_CLUSTER", cluster.config())
        .current_dir(cluster.path(""))
        .stdin(Stdio::null());
    Ok(String::from_utf8_lossy(&command.output()?.stdout).into_owned())
}

fn ensure_shown(what: &str, text: &str) -> Result<()> {
    ensure!(!text.contains(ESCAPE), "{what}: a terminal would obey {text:?}");
    ensure!(text.contains(SEEN), "{what}: nothing is seen of it in {text:?}");
    Ok(())
}

#[test]
fn t246_escape_sequences_are_shown_on_terminals_and_kept_on_pipes() -> Result<()> {
    let cluster = Cluster::up("127.0.140.61", 3)?;
    std::fs::write(cluster.path("data.txt"), format!("one\n{ESCAPE}two\nthree\n"))?;
    cluster.hydfs(&["create", "data.txt", "in/data.txt"])?;
    let stages = |dest: &'static str| ["1", "1", "identity", "--key value", "in", dest, "true", "false"];
    // Standard input of the operator alone: what follows is the same without a cluster.
    let printed = on_terminal(
        &cluster,
        "leader",
        &[&["--job", "seen"], &stages("out/seen")[..]].concat(),
    )?;
    ensure_shown("the job's output", &printed)?;
    ensure_shown(
        "hydfs cat",
        &on_terminal(&cluster, "hydfs", &["cat", "out/seen"])?,
    )?;
    ensure_shown(
        "cat at the console",
        &on_terminal(&cluster, "rainstormctl", &["cat", "out/seen"])?,
    )?;
    // On a pipe the bytes are what they are.
    cluster.check("out/seen", r#"awk '{ print $0 "\t" $0 }' data.txt"#)?;
    let piped = cluster.leader(&[&["--job", "piped"], &stages("out/piped")[..]].concat())?;
    ensure!(
        String::from_utf8_lossy(&piped.stdout).contains(ESCAPE),
        "the output on a pipe was changed"
    );

    // An operator's words, and the key at which it stumbles.
    cluster.write_operator(
        "rude.py",
        "#!/usr/bin/env python3\nimport sys\nfor line in sys.stdin:\n    key, value = line, next(sys.stdin)\n    if \"two\" in value: sys.exit(\"\\x1b]0;owned\\x07 words\")\n    print(\"forward\\n\" + value, end=\"\", flush=True)\n",
    )?;
    let stages = [
        "2",
        "1",
        "identity",
        "--key value",
        "transform:./rude.py",
        "",
        "in",
        "out/rude",
        "true",
        "false",
    ];
    let options = ["--max-restarts", "0"];
    let said = cluster
        .start("rude", &[&options, &stages[..]].concat())?
        .fail(LIMIT)?;
    let last = said.lines().last().unwrap_or_default();
    ensure_shown("the last line", last)?;
    ensure!(
        last.matches(SEEN).count() >= 2 && last.contains("words"),
        "key or words are missing: {last:?}"
    );
    for n in 1..=3 {
        for entry in std::fs::read_dir(cluster.path(&format!("run/n{n}/log")))? {
            let log = std::fs::read(entry?.path())?;
            ensure!(!log.contains(&0x1b), "a log holds an escape");
        }
    }
    let found = on_terminal(&cluster, "rainstormctl", &["grep", "OP_STDERR"])?;
    ensure!(found.contains("owned") && !found.contains(ESCAPE), "{found:?}");
    Ok(())
}
