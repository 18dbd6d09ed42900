//! Strangers at every port while a job runs: random bytes, huge lengths, half-open connections, the wrong secret. They are refused
//! and logged, memory stays bounded, nothing panics, and the job's output is exact. (faults.md: ports fed random bytes ...)

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use system_tests::chaos::random::Random;
use system_tests::job::held;
use system_tests::procs::{all, resident};
use system_tests::{Cluster, PATIENCE, wait_for};

const MIB: u64 = 1 << 20;
const FIRST: u16 = 11;
const SUBNET: &str = "127.0.55";
/// membership introducer, its admin, HyDFS, leader control, leader HTTP
const PORTS: [u16; 5] = [6000, 8080, 10010, 15000, 15080];

const STAGES: [&str; 6] = ["2", "2", "grep", "static", "count", ""];
const GREP_COUNT_ORACLE: &str = r#"awk '/static/ { print $1 "\t" ++n[$1] }' data.txt"#;

fn with_end<'a>(dest: &'a str, rate: &'a str) -> Vec<&'a str> {
    let mut args = STAGES.to_vec();
    args[3] = "--key word:0 static";
    args.extend(["in", dest, "true", "false", rate]);
    args
}

/// What listens on a node: the fixed ports, and the workers' data ports.
fn listeners(cluster: &Cluster, job: &str) -> Result<Vec<SocketAddr>> {
    let mut found = vec![];
    let workers: Vec<String> = cluster
        .workers(job)?
        .iter()
        .map(|w| format!("pid={},", w.pid))
        .collect();
    let said = Command::new("ss").args(["-Hltnp"]).output()?;
    for line in String::from_utf8_lossy(&said.stdout).lines() {
        let Some(addr) = line
            .split_whitespace()
            .nth(3)
            .and_then(|a| a.parse::<SocketAddr>().ok())
        else {
            continue;
        };
        let ours = addr.ip().to_string().starts_with(&format!("{SUBNET}."));
        if ours && (PORTS.contains(&addr.port()) || workers.iter().any(|pid| line.contains(pid))) {
            found.push(addr);
        }
    }
    Ok(found)
}

/// Memory of every daemon, worker and leader of the cluster, by pid.
fn memory(cluster: &Cluster) -> Result<BTreeMap<i32, (String, u64)>> {
    let config = cluster.config().to_string_lossy().into_owned();
    let ours = all()?.into_iter().filter(|p| {
        let name = p.args.first().map_or("", String::as_str);
        let known = ["memberd", "hydfsd", "leader", "worker"]
            .iter()
            .any(|k| name.ends_with(k));
        known && (p.args.contains(&config) || p.variable("RAINSTORM_CLUSTER").as_ref() == Some(&config))
    });
    Ok(ours
        .filter_map(|p| {
            Some((
                p.pid,
                (p.args.first()?.rsplit('/').next()?.to_owned(), resident(p.pid)?),
            ))
        })
        .collect())
}

fn send(addr: SocketAddr, bytes: &[u8]) -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    // The other side may hang up while this is being written.
    let _ = stream.write_all(bytes);
    Ok(stream)
}

/// Random bytes; the right beginning and then a huge length, or rubbish as long as it says; HTTP with endless headers.
fn attack(addr: SocketAddr, random: &mut Random) -> Result<()> {
    let mut noise = |len: usize| (0..len).map(|_| random.draw() as u8).collect::<Vec<u8>>();
    let magic = b"RNSTR\x03";
    let pieces: Vec<Vec<u8>> = vec![
        noise(1),
        noise(100),
        noise(200_000),
        vec![0xff; 64],
        vec![0; 4096],
        [&magic[..], &[0xff, 0xff], &noise(70_000)].concat(),
        [&magic[..], &[0x04, 0x00], &noise(1024)].concat(),
        [&magic[..], &[0x00, 0x00]].concat(),
        [&b"RNSTR\xff"[..], &[0x00, 0x30], &noise(48)].concat(),
        u32::MAX.to_be_bytes().to_vec(),
        [&b"GET /"[..], &vec![b'a'; 100_000], &b" HTTP/1.1\r\n\r\n"[..]].concat(),
        b"POST /switch HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\n{".to_vec(),
        b"GET / HTTP/1.1\r\n"
            .iter()
            .copied()
            .chain(b"A: b\r\n".repeat(20_000))
            .collect(),
    ];
    for piece in pieces {
        let mut stream = send(addr, &piece)?;
        stream.set_read_timeout(Some(Duration::from_millis(20)))?;
        // Whatever it answers, nobody waits for it.
        let _ = stream.read(&mut [0; 4096]);
    }
    Ok(())
}

#[test]
fn t51_strangers_at_every_port_while_a_job_runs() -> Result<()> {
    let cluster = Cluster::with_text(SUBNET, 3, 400_000)?;
    let mut job = cluster.start("calm", &with_end("out/calm", &held(400_000)))?;
    job.wait_for_output()?;
    let before = memory(&cluster)?;
    let targets = listeners(&cluster, "calm")?;
    // Three nodes with two or three fixed ports, the leader's, and six workers'.
    ensure!(targets.len() >= 3 * 2 + 1 + 6, "found only {targets:?}");
    let mut random = Random::new(51);
    for addr in &targets {
        attack(*addr, &mut random).with_context(|| addr.to_string())?;
    }
    let socket = UdpSocket::bind((format!("{SUBNET}.99").as_str(), 0))?;
    for n in 0..3 {
        let to = format!("{SUBNET}.{}:5000", FIRST + n);
        for len in [0, 1, 20, 60, 1000, 1400, 9000] {
            let mut bytes: Vec<u8> = (0..len).map(|_| random.draw() as u8).collect();
            socket.send_to(&bytes, &to)?;
            // The right beginning.
            bytes.splice(0..len.min(3), *b"RS\x01");
            socket.send_to(&bytes, &to)?;
        }
    }
    // Half open: silent ones, and ones that stop in the middle of the hello. Held while a task has to be replaced.
    let mut held = vec![];
    for addr in &targets {
        for n in 0..100 {
            held.push(send(*addr, if n % 2 == 0 { b"" } else { b"RNSTR\x03\x00" })?);
        }
    }
    let victim = job.kill_task("s1t1")?;
    job.wait_for_task("s1t1", victim.epoch + 1)?;
    let after = memory(&cluster)?;
    drop(held);
    for (pid, (program, bytes)) in &before {
        match after.get(pid) {
            None => ensure!(
                program == "worker" && *pid == victim.pid.unwrap_or(0),
                "{program} (pid {pid}) is gone"
            ),
            // Buffers of a working job come and go; a length of 4 GiB that is believed, or 13 x 300 connections that cost much, show.
            Some((_, now)) => ensure!(
                *now < bytes + 48 * MIB,
                "{program} (pid {pid}) grew from {bytes} to {now} bytes"
            ),
        }
    }
    job.release()?;
    let summary = job.finish(PATIENCE)?;
    ensure!(summary["restarts"] == 1, "only one task was killed: {summary}");
    cluster.check("out/calm", GREP_COUNT_ORACLE)?;
    for log in ["memberd", "hydfsd", "worker", "leader"] {
        let mut text = String::new();
        for n in 1..=3 {
            for end in ["log", "out"] {
                text += &std::fs::read_to_string(cluster.path(&format!("run/n{n}/log/{log}.{end}")))
                    .unwrap_or_default();
            }
        }
        ensure!(!text.contains("panicked"), "{log} panicked");
        ensure!(text.contains("STRANGER"), "{log} says nothing of the strangers");
    }
    Ok(())
}

#[test]
fn t52_the_wrong_secret_opens_nothing() -> Result<()> {
    let cluster = Cluster::with_text("127.0.55.21", 3, 400_000)?;
    let wrong = cluster.path("run/wrong.toml");
    let config = std::fs::read_to_string(cluster.config())?;
    std::fs::write(
        &wrong,
        config.replace("secret_file = \"secret\"", "secret_file = \"wrong-secret\""),
    )?;
    std::fs::write(
        cluster.path("run/wrong-secret"),
        "another secret, as long as it needs to be\n",
    )?;
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(cluster.path("run/wrong-secret"), mode)?;
    }
    let mut job = cluster.start("guarded", &with_end("out/guarded", &held(400_000)))?;
    job.wait_for_output()?;
    let workers = cluster.workers("guarded")?;
    let pid = workers.first().context("a worker")?.pid.to_string();
    for (program, args) in [
        ("hydfs", vec!["--patience", "1", "create", "data.txt", "stolen"]),
        (
            "hydfs",
            vec!["--patience", "1", "append", "data.txt", "out/guarded"],
        ),
        ("hydfs", vec!["--patience", "1", "rm", "in/data.txt"]),
        ("hydfs", vec!["--patience", "1", "cat", "in/data.txt"]),
        ("rainstormctl", vec!["list_tasks", "guarded"]),
        ("rainstormctl", vec!["list_mem"]),
        (
            "leader",
            ["--job", "intruder"]
                .into_iter()
                .chain(with_end("out/intruder", "0"))
                .collect(),
        ),
    ] {
        let began = system_tests::now();
        let out = cluster
            .command(program)
            .env("RAINSTORM_CLUSTER", &wrong)
            .args(&args)
            .output()?;
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        let told = String::from_utf8_lossy(&out.stdout).into_owned();
        // A console that finds no leader to speak with may say that no job runs; it must not say which.
        let nothing_told = !told.contains("static") && !told.contains(&pid) && !told.contains("alive");
        ensure!(nothing_told, "{program} {args:?} got {told}");
        ensure!(
            !out.status.success() || args[0] == "list_tasks",
            "{program} {args:?} succeeded: {said}{told}"
        );
        ensure!(!said.contains("panicked"), "{said}");
        ensure!(
            system_tests::now() - began < Duration::from_secs(30),
            "{program} {args:?} takes too long to say no"
        );
    }
    ensure!(
        cluster.left_of("intruder")?.is_empty(),
        "a stranger started processes"
    );
    let found = cluster.hydfs(&["find"])?;
    ensure!(
        !found.contains("stolen") && !found.contains("intruder"),
        "a stranger stored: {found}"
    );
    ensure!(found.contains("in/data.txt"), "a stranger removed a file");
    job.release()?;
    job.finish(PATIENCE)?;
    cluster.check("out/guarded", GREP_COUNT_ORACLE)?;
    let refused = wait_for("the refusals in the log", PATIENCE, || {
        let text: String = (1..=3)
            .map(|n| {
                std::fs::read_to_string(cluster.path(&format!("run/n{n}/log/hydfsd.log"))).unwrap_or_default()
            })
            .collect();
        Ok(text.contains("STRANGER").then_some(()))
    });
    refused.context("hydfsd says nothing of the strangers")
}
