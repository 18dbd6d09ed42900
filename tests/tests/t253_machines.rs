//! Life on real machines: descriptors that run out, terminals that close, login shells that talk, folders with strange names.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::process::{Resource, Rlimit, prlimit};
use system_tests::jobs::{GREP_COUNT_ORACLE, GREP_REPLACE, GREP_REPLACE_ORACLE, with_end};
use system_tests::{Cluster, Special, wait_for};

const LIMIT: Duration = Duration::from_secs(90);

/// No further descriptor for a process, until this is dropped: it has more than three.
struct NoDescriptors {
    pid: rustix::process::Pid,
    before: Rlimit,
}

impl NoDescriptors {
    fn of(pid: i32) -> Result<Self> {
        let pid = rustix::process::Pid::from_raw(pid).context("a pid")?;
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", pid.as_raw_nonzero()))?;
        let line = limits.lines().find_map(|l| l.strip_prefix("Max open files"));
        let most = line
            .and_then(|l| l.split_whitespace().nth(1))
            .context("the hard limit")?;
        let few = Rlimit {
            current: Some(3),
            maximum: most.parse().ok(),
        };
        let before = prlimit(Some(pid), Resource::Nofile, few)?;
        Ok(Self { pid, before })
    }
}

impl Drop for NoDescriptors {
    fn drop(&mut self) {
        let before = Rlimit {
            current: self.before.current,
            maximum: self.before.maximum,
        };
        let _ = prlimit(Some(self.pid), Resource::Nofile, before);
    }
}

fn wait_for_line(cluster: &Cluster, log: &str, words: &[&str]) -> Result<()> {
    let path = cluster.path(log);
    wait_for(&format!("{words:?} in {log}"), LIMIT, || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        Ok(text
            .lines()
            .any(|l| words.iter().all(|w| l.contains(w)))
            .then_some(()))
    })
}

#[test]
fn t253_a_listener_outlives_a_lack_of_descriptors() -> Result<()> {
    let cluster = Cluster::with_text("127.25.6", 3, 400_000)?;
    let count = ["2", "2", "grep", "--key word:0 static", "count", ""];
    let mut job = cluster.start("few", &with_end(&count, "out/few", "true", "45000"))?;
    job.wait_for_output()?;
    let receiver = job.wait_for_task("s1t0", 1)?;
    let log = format!("run/{}/log/worker.log", receiver.node);
    {
        let _few = NoDescriptors::of(receiver.pid.context("a pid")?)?;
        // Its replacement connects anew.
        job.kill_task("s0t0")?;
        wait_for_line(&cluster, &log, &["ACCEPT_FAILED", "door=data"])?;
    }
    wait_for_line(&cluster, &log, &["ACCEPT_GOES_ON", "door=data"])?;
    ensure!(job.is_running()?, "the job was over: its listener was not needed");
    let summary = job.finish(LIMIT)?;
    ensure!(summary["restarts"] == 1, "only one task was killed: {summary}");
    cluster.check("out/few", GREP_COUNT_ORACLE)?;

    for (program, log, door, words) in [
        (
            "hydfsd",
            "run/n1/log/hydfsd.log",
            "door=hydfs",
            &["hydfs", "--node", "n1", "find"][..],
        ),
        (
            "memberd",
            "run/n1/log/memberd.log",
            "door=introducer",
            &["memberd", "list_mem", "--node", "n1"],
        ),
    ] {
        let pid = daemon(&cluster, program, "n1")?;
        {
            let _few = NoDescriptors::of(pid)?;
            let mut command = cluster.command(words[0]);
            let mut asks = command
                .args(&words[1..])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            let noted = wait_for_line(&cluster, log, &["ACCEPT_FAILED", door]);
            let _ = asks.kill();
            asks.wait()?;
            noted?;
        }
        wait_for_line(&cluster, log, &["ACCEPT_GOES_ON", door])?;
        system_tests::succeed(cluster.command(words[0]).args(&words[1..]))?;
    }
    Ok(())
}

/// The pid of a node's daemon.
fn daemon(cluster: &Cluster, program: &str, node: &str) -> Result<i32> {
    let pids = cluster.processes(program)?;
    let of_node = pids.into_iter().find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line)
            .split('\0')
            .any(|word| word == node)
    });
    of_node.with_context(|| format!("no {program} of {node}"))
}

#[test]
fn t254_a_terminal_that_closes_ends_nothing_under_nohup() -> Result<()> {
    // Whoever runs the tests may do so under nohup.
    let special = Special {
        enter: ["env", "--default-signal=HUP"].map(str::to_owned).to_vec(),
        ..Special::default()
    };
    let cluster = Cluster::up_with("127.25.7", 3, special)?;
    cluster.load_text(200_000)?;
    let started = |name: &str, nohup: bool| -> Result<std::process::Child> {
        let leader = cluster.command("leader");
        let mut command = match nohup {
            true => Command::new("nohup"),
            false => Command::new("env"),
        };
        command.arg(leader.get_program()).args(leader.get_args());
        if nohup {
            // Behind `env`, which sets the signal back, comes the one that ignores it.
            command = Command::new("nohup");
            command.arg(leader.get_args().last().context("the leader")?);
        }
        let dest = format!("out/{name}");
        command
            .env("RAINSTORM_CLUSTER", cluster.config())
            .current_dir(cluster.path("."))
            .args(["--job", name, "--progress", "never"])
            .args(with_end(&GREP_REPLACE, &dest, "true", "60000"))
            .stdin(Stdio::null())
            .stdout(File::create(cluster.path(&format!("{name}.out")))?)
            .stderr(File::create(cluster.path(&format!("{name}.err")))?)
            .process_group(0);
        Ok(command.spawn()?)
    };
    for (name, nohup) in [("stays", true), ("goes", false)] {
        let mut leader = started(name, nohup)?;
        let out = cluster.path(&format!("{name}.out"));
        let ended = wait_for("the first output", LIMIT, || {
            Ok((std::fs::metadata(&out)?.len() > 0).then_some(()))
        })
        .and_then(|()| {
            ensure!(leader.try_wait()?.is_none(), "the job was over");
            // As a terminal that closes sends it.
            nix::sys::signal::killpg(Pid::from_raw(leader.id() as i32), Signal::SIGHUP)?;
            wait_for("the leader's end", LIMIT, || Ok(leader.try_wait()?))
        });
        let _ = leader.kill();
        let _ = leader.wait();
        let said = std::fs::read_to_string(cluster.path(&format!("{name}.err")))?;
        let status = ended.with_context(|| said.clone())?;
        ensure!(status.success() == nohup, "{name}: {status}: {said}");
        ensure!(nohup || said.contains("stopped by SIGHUP"), "{said}");
    }
    cluster.check("out/stays", GREP_REPLACE_ORACLE)?;

    for program in ["memberd", "hydfsd"] {
        let pid = daemon(&cluster, program, "n2")?;
        let log = format!("run/n2/log/{program}.log");
        let rotated = cluster.path(&format!("{log}.1"));
        std::fs::rename(cluster.path(&log), &rotated)?;
        kill(Pid::from_raw(pid), Signal::SIGHUP)?;
        wait_for_line(&cluster, &log, &["LOG_REOPENED"])?;
        let before = std::fs::read(&rotated)?.len();
        kill(Pid::from_raw(pid), Signal::SIGHUP)?;
        wait_for("a second line", LIMIT, || {
            let lines = std::fs::read_to_string(cluster.path(&log))?;
            Ok((lines.matches("LOG_REOPENED").count() >= 2).then_some(()))
        })?;
        ensure!(
            std::fs::read(&rotated)?.len() == before,
            "it still writes to {}",
            rotated.display()
        );
        ensure!(daemon(&cluster, program, "n2")? == pid, "it is another process");
    }
    Ok(())
}

/// What each session on a node does before its command: it greets with words that a search finds, does not end the line,
/// complains, and takes its time.
const GREETING: &str = r#"#!/bin/sh
echo 'Welcome! worker.log:TASK_START is what we like to see here.'
echo 'a complaint of the login shell' >&2
if [ -e "${0%/*}/../slow" ]; then sleep 9; fi
printf 'no line break behind this: worker.log:TASK_START'
exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"
"#;

#[test]
fn t255_what_a_login_shell_says_is_not_ours() -> Result<()> {
    let special = Special {
        // `$0` is wrapped/sshd.
        first: r#"case $program in sshd) set -- "$@" -o "ForceCommand=${0%/*}/../run/greet" ;; esac"#.into(),
        prepare: Some(Box::new(|run| {
            let greet = run.join("greet");
            std::fs::write(&greet, GREETING)?;
            std::fs::set_permissions(&greet, std::fs::Permissions::from_mode(0o755))?;
            Ok(vec![])
        })),
        ..Special::default()
    };
    let cluster = Cluster::up_with("127.25.8", 2, special)?;
    cluster.load_text(300_000)?;
    File::create(cluster.path("slow"))?;

    // A search that is stopped leaves no folder of sockets.
    let sockets = tempfile::tempdir_in("/tmp")?;
    let mut command = cluster.command("rainstormctl");
    let mut search = command
        .args(["grep", "x"])
        .env("TMPDIR", sockets.path())
        .spawn()?;
    let ended = wait_for("its sockets", LIMIT, || {
        Ok(std::fs::read_dir(sockets.path())?.next().transpose()?)
    })
    .and_then(|_| {
        kill(Pid::from_raw(search.id() as i32), Signal::SIGINT)?;
        wait_for("its end", LIMIT, || Ok(search.try_wait()?))
    });
    let _ = search.kill();
    let _ = search.wait();
    ensure!(ended?.code() == Some(130));
    ensure!(
        std::fs::read_dir(sockets.path())?.next().is_none(),
        "a folder is left"
    );

    // Stopped before its workers' hosts are there, a job leaves nothing.
    let mut cut = cluster.start("cut", &with_end(&GREP_REPLACE, "out/cut", "true", "0"))?;
    let left = || cluster.hydfs(&["find", "jobs/cut"]);
    wait_for("its journal", LIMIT, || Ok((!left()?.is_empty()).then_some(())))?;
    cut.interrupt()?;
    let said = cut.fail(LIMIT)?;
    ensure!(said.contains("stopped by SIGINT before any worker"), "{said}");
    ensure!(left()?.is_empty() && cluster.hydfs(&["find", "out/cut"])?.is_empty());

    let job = cluster.start(
        "greeted",
        &with_end(&GREP_REPLACE, "out/greeted", "true", "15000"),
    )?;
    wait_for("the first output", LIMIT, || {
        Ok((job.printed()? > 0).then_some(()))
    })?;
    let victim = job.wait_for_task("s1t0", 1)?;
    let pid = victim.pid.context("a pid")?.to_string();
    let killed = cluster
        .command("rainstormctl")
        .args(["kill_task", &victim.node, &pid])
        .output()?;
    ensure!(
        killed.status.success(),
        "{}",
        String::from_utf8_lossy(&killed.stderr)
    );
    ensure!(
        String::from_utf8_lossy(&killed.stdout).contains("killed s1t0 (job greeted, epoch 1)"),
        "{}",
        String::from_utf8_lossy(&killed.stdout)
    );
    let summary = job.finish(LIMIT)?;
    ensure!(summary["restarts"] == 1, "{summary}");
    cluster.check("out/greeted", GREP_REPLACE_ORACLE)?;

    let words = "TASK_START job=greeted";
    let want: usize = cluster.log_lines(words)?.len();
    let out = cluster
        .command("rainstormctl")
        .args(["grep", "TASK_START"])
        .output()?;
    let (found, said) = (
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr),
    );
    ensure!(out.status.code() == Some(0), "{said}");
    ensure!(
        found.lines().filter(|l| l.contains(words)).count() == want && want > 0,
        "{found}"
    );
    ensure!(
        !found.contains("Welcome") && !found.contains("no line break"),
        "{found}"
    );
    // Nothing found is nothing found, although the shell has complained.
    let out = cluster
        .command("rainstormctl")
        .args(["grep", "-c", "no such words"])
        .output()?;
    ensure!(
        out.status.code() == Some(1),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    ensure!(
        out.stdout == b"n1:0\nn2:0\n",
        "{}",
        String::from_utf8_lossy(&out.stdout)
    );

    cluster.hydfs(&["create", "/dev/null", "log"])?;
    cluster.hydfs(&["multiappend", "log", "n1", "n2", "data.txt"])?;
    let twice = 2 * std::fs::metadata(cluster.path("data.txt"))?.len();
    ensure!(
        cluster
            .hydfs(&["stat", "log", "--json"])?
            .contains(&format!("\"len\":{twice}"))
    );
    Ok(())
}

#[test]
fn t256_folders_with_strange_names() -> Result<()> {
    let special = Special {
        suffix: " a\"b'c%h$HOME\\e ä".into(),
        ..Special::default()
    };
    let cluster = Cluster::up_with("127.25.9", 3, special)?;
    cluster.load_text(100_000)?;
    cluster.write_operator(
        "keep static",
        "#!/bin/sh\nexec sed -u '/^key: /d; /static/!{s/.*/filter/;b}; s/^/forward\\n/'\n",
    )?;
    // As `ssh` expands percent signs, and its sockets are usually here.
    let strange = tempfile::Builder::new().prefix("t%h").tempdir()?;
    let leader = |args: &[&str]| {
        let mut command = cluster.command("leader");
        command
            .args(["--progress", "never"])
            .args(args)
            .env("TMPDIR", strange.path());
        system_tests::succeed(&mut command)
    };
    leader(&with_end(&GREP_REPLACE, "out/one", "true", "0"))?;
    cluster.check("out/one", GREP_REPLACE_ORACLE)?;
    leader(&with_end(
        &["1", "2", "filter:./keep static", ""],
        "out/two",
        "true",
        "0",
    ))?;
    cluster.check(
        "out/two",
        r#"awk '/static/ { print "in/data.txt:" NR "\t" $0 }' data.txt"#,
    )?;

    let mut job = cluster.start("three", &with_end(&GREP_REPLACE, "out/three", "true", "20000"))?;
    job.wait_for_output()?;
    let victim = job.wait_for_task("s1t0", 1)?;
    let pid = victim.pid.context("a pid")?.to_string();
    system_tests::succeed(
        cluster
            .command("rainstormctl")
            .args(["kill_task", &victim.node, &pid]),
    )?;
    let found = system_tests::succeed(
        cluster
            .command("rainstormctl")
            .args(["grep", "-c", "TASK_START job=three"])
            .env("TMPDIR", strange.path()),
    )?;
    ensure!(found.lines().count() == 3, "{found}");
    let summary = job.finish(LIMIT)?;
    ensure!(summary["restarts"] == 1, "{summary}");
    cluster.check("out/three", GREP_REPLACE_ORACLE)?;

    cluster.hydfs(&["create", "/dev/null", "log"])?;
    cluster.hydfs(&["multiappend", "log", "n1", "n2", "n3", "data.txt"])?;
    // What a killed leader leaves is found by the scripts, too.
    let mut job = cluster.start_alone("four", &with_end(&GREP_REPLACE, "out/four", "true", "20000"))?;
    job.wait_for_output()?;
    job.kill_leader()?;
    cluster.script(&["kill-node", "n3"])?;
    cluster.script(&["start-node", "n3"])?;
    ensure!(cluster.script(&["status"])?.lines().count() == 4);
    cluster.script(&["down"])?;
    for program in ["memberd", "hydfsd", "worker", "rainstormctl"] {
        ensure!(cluster.processes(program)?.is_empty(), "{program} is left");
    }
    Ok(())
}
