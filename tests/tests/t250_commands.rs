//! What commands leave behind when they are cut off, whom they refuse, and what they say of output that cannot be kept.

mod files;

use std::fs::{File, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use system_tests::{Cluster, now, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

/// A process that is killed when the test fails.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        Ok(Self(command.spawn()?))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.0.id() as i32), signal)?)
    }

    fn end(&mut self) -> Result<ExitStatus> {
        wait_for("its end", LIMIT, || Ok(self.0.try_wait()?))
    }

    /// What it has said on standard error, when that was piped.
    fn said(&mut self) -> Result<String> {
        let mut said = String::new();
        self.0.stderr.take().context("piped")?.read_to_string(&mut said)?;
        Ok(said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(out: &Output) -> String {
    format!(
        "{}: {}{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}

/// How long a file in HyDFS is; `None`: it is not there.
fn length(cluster: &Cluster, name: &str) -> Result<Option<u64>> {
    let out = cluster.command("hydfs").args(["stat", name, "--json"]).output()?;
    if !out.status.success() {
        ensure!(text(&out).contains("has no file"), "{}", text(&out));
        return Ok(None);
    }
    let stat: serde_json::Value = serde_json::from_slice(&out.stdout)?;
    Ok(stat["len"].as_u64())
}

/// `hydfs create -` of endless input, of which some is stored already.
fn half_made(cluster: &Cluster, name: &str) -> Result<Running> {
    let mut command = cluster.command("hydfs");
    command.args(["create", "-", name]).stdin(Stdio::piped());
    let mut running = Running::start(command.stderr(Stdio::piped()))?;
    let stdin = running.0.stdin.as_mut().context("piped")?;
    // Two pieces and a half of the client's.
    stdin.write_all(&vec![b'x'; 5 << 19])?;
    wait_for("a part to be stored", LIMIT, || {
        Ok(length(cluster, name)?.filter(|len| *len > 0))
    })?;
    Ok(running)
}

#[test]
fn t250_what_is_cut_off_is_whole_or_not_there() -> Result<()> {
    let cluster = Cluster::up("127.25.0", 3)?;
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let mut create = half_made(&cluster, "half")?;
        create.signal(signal)?;
        let status = create.end()?;
        ensure!(status.code() == Some(code), "{signal}: {status}");
        let said = create.said()?;
        ensure!(
            said.contains(signal.as_str()) && said.contains("was not made"),
            "{said}"
        );
        ensure!(
            length(&cluster, "half")?.is_none(),
            "half a file is there after {signal}"
        );
    }
    // An input that fails: a folder cannot be read.
    let mut command = cluster.command("hydfs");
    let out = command
        .args(["create", "-", "half"])
        .stdin(File::open("/")?)
        .output()?;
    ensure!(
        out.status.code() == Some(1) && text(&out).contains("cannot be read"),
        "{}",
        text(&out)
    );
    ensure!(length(&cluster, "half")?.is_none());

    tree(&cluster)?;
    part_files(&cluster)?;
    half_an_append(&cluster)?;

    // Nobody is there to remove it, so the first Ctrl-C waits a while; the second does not.
    let mut create = half_made(&cluster, "stuck")?;
    let daemons = cluster.processes("hydfsd")?;
    let all = |signal| {
        daemons
            .iter()
            .try_for_each(|pid| kill(Pid::from_raw(*pid), signal))
    };
    all(Signal::SIGSTOP)?;
    let ended = wait_for("the second Ctrl-C to end it", LIMIT, || {
        create.signal(Signal::SIGINT)?;
        Ok(create.0.try_wait()?)
    });
    all(Signal::SIGCONT)?;
    let status = ended?;
    ensure!(status.signal() == Some(Signal::SIGINT as i32), "{status}");
    Ok(())
}

/// `create -r`, stopped on its way: the files that are there are whole.
fn tree(cluster: &Cluster) -> Result<()> {
    const FILES: usize = 300;
    std::fs::create_dir(cluster.path("tree"))?;
    for n in 0..FILES {
        std::fs::write(cluster.path(&format!("tree/{n}")), vec![b'x'; 300_000 + n])?;
    }
    let mut command = cluster.command("hydfs");
    command.args(["create", "-r", "tree", "tree"]);
    let mut create = Running::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let mut first = String::new();
    let mut out = BufReader::new(create.0.stdout.take().context("piped")?);
    out.read_line(&mut first)?;
    create.signal(Signal::SIGINT)?;
    std::io::copy(&mut out, &mut std::io::sink())?;
    let (status, said) = (create.end()?, create.said()?);
    ensure!(status.code() == Some(130), "{status}: {said}");
    let there = cluster.hydfs(&["find", "tree/"])?;
    let mut made = 0;
    for line in there.lines() {
        let (name, len) = line.split_once('\t').context("a line of find")?;
        let local = std::fs::metadata(cluster.path(name))?.len();
        ensure!(len.parse() == Ok(local), "{name} has {len} bytes of {local}");
        made += 1;
    }
    ensure!(
        (1..FILES).contains(&made),
        "{made} files were made: it was not cut off"
    );
    ensure!(
        said.contains(&format!("{made} of {FILES} files were made")),
        "{said}"
    );
    Ok(())
}

/// `get`, stopped on its way, leaves nothing.
fn part_files(cluster: &Cluster) -> Result<()> {
    std::fs::write(cluster.path("big"), vec![b'x'; 96 << 20])?;
    cluster.hydfs(&["create", "big", "big"])?;
    let folder = cluster.path("got");
    std::fs::create_dir(&folder)?;
    let mut command = cluster.command("hydfs");
    let mut get = Running::start(command.args(["get", "big", "got/big"]))?;
    wait_for("a part of it", LIMIT, || {
        Ok(std::fs::read_dir(&folder)?.next().transpose()?)
    })?;
    get.signal(Signal::SIGSTOP)?;
    ensure!(!folder.join("big").exists(), "it was not cut off: all was there");
    get.signal(Signal::SIGINT)?;
    get.signal(Signal::SIGCONT)?;
    let status = get.end()?;
    ensure!(status.code() == Some(130), "{status}");
    let left: Vec<_> = std::fs::read_dir(&folder)?.collect();
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

/// What `multiappend` starts on a node: when less comes than was said, nothing is appended.
fn half_an_append(cluster: &Cluster) -> Result<()> {
    cluster.hydfs(&["create", "/dev/null", "log"])?;
    for (sent, appended) in [(&b"GO 6\nhalf"[..], 0), (b"GO 6\nwhole\n", 6)] {
        let mut command = cluster.command("hydfs");
        command
            .args(["append", "--gate", "-", "log"])
            .stdin(Stdio::piped());
        let mut append = Running::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
        append.0.stdin.take().context("piped")?.write_all(sent)?;
        let status = append.end()?;
        ensure!(status.success() == (appended > 0), "{status}");
        ensure!(length(cluster, "log")? == Some(appended), "after {sent:?}");
    }
    Ok(())
}

#[test]
fn t251_what_the_system_keeps_is_not_for_users() -> Result<()> {
    let cluster = Cluster::with_text("127.25.1", 3, 2_000)?;
    cluster
        .start(
            "kept",
            &["1", "1", "identity", "", "in", "out/kept", "true", "false"],
        )?
        .finish(LIMIT)?;
    let log = "jobs/kept/s1t0.log";
    let before = cluster.hydfs(&["stat", log, "--json"])?;
    let words: [&[&str]; 10] = [
        &["create", "data.txt", "jobs/kept/mine"],
        &["create", "data.txt", "ops/mine"],
        &["create", "data.txt", "out/kept.poison"],
        &["create", "-r", "run/n1/log", "jobs"],
        &["append", "data.txt", log],
        &["multiappend", log, "n1", "n2", "data.txt"],
        &["multicreate", "--prefix", "jobs/kept/", "1", "data.txt"],
        &["rm", log],
        &["rm", "jobs/kept/journal"],
        &["trim", log, "1"],
    ];
    for words in words {
        for program in ["hydfs", "rainstormctl"] {
            let out = cluster.command(program).args(words).output()?;
            ensure!(
                out.status.code() == Some(2),
                "{program} {words:?}: {}",
                text(&out)
            );
            ensure!(text(&out).contains("--system"), "{}", text(&out));
        }
        // The prompt has the same words.
        let mut command = cluster.command("rainstormctl");
        let prompt = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut prompt = prompt.spawn()?;
        writeln!(prompt.stdin.take().context("piped")?, "{}", words.join(" "))?;
        let out = prompt.wait_with_output()?;
        ensure!(
            out.status.code() == Some(2),
            "{words:?} at the prompt: {}",
            text(&out)
        );
    }
    for (src, dest) in [
        ("in", log),
        ("in", "jobs/other"),
        ("in", "ops/x"),
        ("in", "out/x.poison"),
        ("jobs/kept", "out/x"),
        ("jobs", "out/x"),
    ] {
        let args = [
            "--job", "refused", "--append", "1", "1", "identity", "", src, dest, "true", "false",
        ];
        let out = cluster.leader(&args)?;
        ensure!(out.status.code() == Some(2), "{src} to {dest}: {}", text(&out));
        ensure!(
            length(&cluster, "jobs/refused/journal")?.is_none(),
            "{src} to {dest} left a journal"
        );
    }
    ensure!(
        cluster.hydfs(&["stat", log, "--json"])? == before,
        "the log was changed"
    );
    // Reading is for all, and who says so may do what he likes.
    for words in [
        &["cat", log][..],
        &["get", log, "local"],
        &["ls", log],
        &["merge", log],
        &["find", "jobs/"],
    ] {
        cluster.hydfs(words)?;
    }
    cluster.hydfs(&["create", "--system", "data.txt", "jobs/kept/mine"])?;
    cluster.hydfs(&["append", "--system", "data.txt", "jobs/kept/mine"])?;
    cluster.hydfs(&[
        "multiappend",
        "--system",
        "jobs/kept/mine",
        "n1",
        "n2",
        "data.txt",
    ])?;
    cluster.hydfs(&["rm", "--system", "jobs/kept/mine"])?;
    let mut allowed = vec!["--system", "--job", "allowed", "1", "1", "identity", ""];
    allowed.extend([log, "jobs/kept/copy", "false", "false"]);
    let out = cluster.leader(&allowed)?;
    ensure!(out.status.success(), "{}", text(&out));
    Ok(())
}

#[test]
fn t252_output_that_cannot_be_kept_is_an_error_found_early() -> Result<()> {
    let cluster = Cluster::with_text("127.25.2", 3, 20_000)?;
    let job = |name: &'static str| vec!["--job", name, "--progress", "never", "--console", "none"];
    fn stages(dest: &str) -> [&str; 8] {
        ["1", "1", "identity", "", "in", dest, "true", "false"]
    }
    std::fs::write(cluster.path("old"), "an earlier run's\n")?;
    std::fs::create_dir(cluster.path("folder"))?;
    for file in ["/proc/x", "none/x", "folder", "old/x"] {
        for option in ["--report", "--summary"] {
            let out =
                cluster.leader(&[job("early"), vec![option, file], stages("out/early").to_vec()].concat())?;
            ensure!(out.status.code() == Some(2), "{option} {file}: {}", text(&out));
            ensure!(
                text(&out).contains(option) && text(&out).contains(file),
                "{}",
                text(&out)
            );
            ensure!(length(&cluster, "jobs/early/journal")?.is_none(), "the job began");
        }
    }
    // A job that is refused leaves what an earlier one had written.
    let refused = cluster.leader(&[job("early"), vec!["--summary", "old"], vec!["1"]].concat())?;
    ensure!(refused.status.code() == Some(2));
    let out = cluster.leader(
        &[
            job("gone"),
            vec![
                "--report", "old", "1", "1", "identity", "", "nowhere", "out/gone", "true", "false",
            ],
        ]
        .concat(),
    )?;
    ensure!(out.status.code() == Some(2), "{}", text(&out));
    ensure!(std::fs::read_to_string(cluster.path("old"))? == "an earlier run's\n");

    // Found out when the job is done.
    for (name, option) in [("full-summary", "--summary"), ("full-report", "--report")] {
        let dest = format!("out/{name}");
        let out =
            cluster.leader(&[vec!["--job", name, option, "/dev/full"], stages(&dest).to_vec()].concat())?;
        ensure!(out.status.code() == Some(1), "{option}: {}", text(&out));
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        let last = said.lines().last().unwrap_or_default();
        ensure!(
            last.contains("is done, but") && last.contains("/dev/full"),
            "{said}"
        );
        ensure!(length(&cluster, &dest)?.is_some_and(|len| len > 0));
    }

    let commands: [(&str, &[&str]); 22] = [
        ("hydfs", &["--help"]),
        ("hydfs", &["cat", "in/data.txt"]),
        ("hydfs", &["get", "in/data.txt", "-"]),
        ("hydfs", &["tail", "in/data.txt"]),
        ("hydfs", &["ls", "in/data.txt"]),
        ("hydfs", &["stat", "in/data.txt"]),
        ("hydfs", &["find"]),
        ("hydfs", &["list_mem_ids"]),
        ("hydfs", &["merge", "in/data.txt"]),
        ("hydfs", &["fsck", "--quick"]),
        ("rainstormctl", &["--help"]),
        ("rainstormctl", &["verify", "full-report"]),
        ("rainstormctl", &["history"]),
        ("rainstormctl", &["list_mem"]),
        ("rainstormctl", &["log", "full-report", "s1t0"]),
        ("rainstormctl", &["grep", "RUN_END"]),
        ("rainstormctl", &["cat", "in/data.txt"]),
        ("leader", &["--help"]),
        (
            "leader",
            &[
                "--dry-run",
                "1",
                "1",
                "identity",
                "",
                "in",
                "out/dry",
                "true",
                "false",
            ],
        ),
        ("memberd", &["list_mem", "--node", "n1"]),
        ("memberd", &["--help"]),
        ("rainstorm-op", &["--help"]),
    ];
    for (program, args) in commands {
        let out = cluster
            .command(program)
            .args(args)
            .stdout(File::create("/dev/full")?)
            .output()?;
        let said = String::from_utf8_lossy(&out.stderr);
        ensure!(
            matches!(out.status.code(), Some(1 | 2))
                && said.contains("standard output")
                && !said.contains("panicked"),
            "{program} {args:?} to a full device: {}",
            text(&out)
        );
        // A reader that has gone.
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let out = cluster.command(program).args(args).stdout(writer).output()?;
        ensure!(
            out.status.success(),
            "{program} {args:?} with nobody to read: {}",
            text(&out)
        );
    }
    let lines = cluster.path("data.txt");
    let operator = |to: Stdio| -> Result<Output> {
        let mut command = cluster.command("rainstorm-op");
        Ok(command
            .arg("identity")
            .stdin(File::open(&lines)?)
            .stdout(to)
            .stderr(Stdio::piped())
            .spawn()?
            .wait_with_output()?)
    };
    let out = operator(File::create("/dev/full")?.into())?;
    ensure!(
        out.status.code() == Some(1) && text(&out).contains("standard output"),
        "{}",
        text(&out)
    );
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    ensure!(operator(writer.into())?.status.success());
    // A job whose output cannot be printed is done, and says that it was not.
    let mut command = cluster.command("leader");
    command.args(["--job", "unprinted"]).args(stages("out/unprinted"));
    let out = command.stdout(File::create("/dev/full")?).output()?;
    ensure!(
        out.status.code() == Some(1) && text(&out).contains("could not be printed"),
        "{}",
        text(&out)
    );

    // What was asked for is done although nobody reads of it.
    std::fs::create_dir(cluster.path("few"))?;
    for n in 0..50 {
        std::fs::write(cluster.path(&format!("few/{n}")), format!("{n}\n"))?;
    }
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let out = cluster
        .command("hydfs")
        .args(["create", "-r", "few", "few"])
        .stdout(writer)
        .output()?;
    ensure!(out.status.success(), "{}", text(&out));
    ensure!(cluster.hydfs(&["find", "few/"])?.lines().count() == 50);
    Ok(())
}
