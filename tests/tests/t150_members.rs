//! A node that comes and goes; datagrams that come again. (faults.md: a member flapping every 2 s; replayed datagrams)

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde::Deserialize;
use system_tests::job::held;
use system_tests::jobs::{GREP_COUNT, GREP_COUNT_ORACLE, with_end};
use system_tests::storage::Storage;
use system_tests::tap::{Datagram, datagrams};
use system_tests::{Cluster, PATIENCE, now, wait_for};

#[test]
fn t151_a_node_goes_and_comes_every_two_seconds() -> Result<()> {
    const FLAPS: u32 = 5;
    let cluster = Cluster::with_text("127.0.65.61", 5, 700_000)?;
    let mut job = cluster.start("flap", &with_end(&GREP_COUNT, "out/flap", "true", &held(700_000)))?;
    job.wait_for_output()?;
    let before = cluster.tasks("flap")?;
    let hit = before.iter().filter(|t| t.node == "n4").count();
    ensure!(hit > 0, "no task on n4: {before:?}");
    let began = now();
    let mut children: Vec<Child> = vec![];
    for flap in 0..FLAPS {
        cluster.kill_nodes(&["n4"])?;
        wait_until(began + Duration::from_secs(2) * flap + Duration::from_secs(1))?;
        children.extend(cluster.start_daemons("n4")?);
        wait_until(began + Duration::from_secs(2) * (flap + 1))?;
        ensure!(job.is_running()?, "the job was over after {flap} rounds");
    }
    let tasks = cluster.tasks("flap")?;
    job.release()?;
    let summary = job.finish(PATIENCE)?;
    // Whatever was on the node when it went is started again, each time; nobody else is.
    let restarts = summary["restarts"].as_u64().unwrap_or(u64::MAX);
    eprintln!("{hit} tasks were there at first, {restarts} restarts in {FLAPS} rounds");
    ensure!(
        restarts >= hit as u64 && restarts <= u64::from(FLAPS) * before.len() as u64,
        "{restarts} restarts"
    );
    let elsewhere = |name: &str| before.iter().any(|t| t.task == name && t.node != "n4");
    let others: Vec<_> = tasks
        .iter()
        .filter(|t| elsewhere(&t.task) && t.epoch != 1)
        .collect();
    ensure!(others.is_empty(), "others were restarted, too: {others:?}");
    cluster.check("out/flap", GREP_COUNT_ORACLE)?;
    drop(cluster);
    children.iter_mut().try_for_each(|c| c.wait().map(drop))?;
    Ok(())
}

fn wait_until(then: std::time::Instant) -> Result<()> {
    wait_for("the next round", PATIENCE, || Ok((now() >= then).then_some(())))
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Member {
    name: String,
    incarnation: u64,
    state: String,
}

fn http(node: usize, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(format!("{}:8080", addr(node)))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (_, body) = text.split_once("\r\n\r\n").context("an HTTP answer")?;
    Ok(body.to_owned())
}

fn addr(node: usize) -> String {
    format!("127.0.67.{}", 10 + node)
}

fn members(node: usize) -> Result<Vec<Member>> {
    let mut list: Vec<Member> = serde_json::from_str(&http(node, "/list_mem")?)?;
    list.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(list)
}

fn refused(node: usize) -> Result<u64> {
    let text = http(node, "/metrics")?;
    let of = |line: &str| line.split_once("refused_datagrams_total ")?.1.trim().parse().ok();
    text.lines()
        .find_map(of)
        .context("the count of refused datagrams")
}

/// Sent again as they were, each to whom it was for and to the others too.
fn send_again(heard: &[Datagram], from: &UdpSocket) -> Result<()> {
    for datagram in heard {
        for node in 1..=3 {
            from.send_to(&datagram.bytes, (addr(node).as_str(), 5000))?;
        }
        // Not so many at a time that they do not get there.
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// What these had been sent before is refused and counted; what was for others is not for them, and not in that count.
fn all_refused(heard: &[Datagram], nodes: [usize; 2], before: [u64; 2]) -> Result<()> {
    for (node, before) in nodes.into_iter().zip(before) {
        let for_it = heard
            .iter()
            .filter(|d| d.to.ip().to_string() == addr(node))
            .count() as u64;
        ensure!(for_it > 0, "nothing was heard for n{node}");
        wait_for(&format!("n{node} to refuse {for_it}"), PATIENCE, || {
            Ok((refused(node)? >= before + for_it).then_some(()))
        })?;
    }
    Ok(())
}

/// What a member once said brings it back neither while it is gone nor changes anything when it is there again.
#[test]
fn t152_replayed_datagrams_are_refused() -> Result<()> {
    let mut storage = Storage::new("127.0.67", 3, "")?;
    for node in 1..=3 {
        storage.start(node, "memberd")?;
    }
    let all_see = |states: [&str; 3], nodes: &[usize]| {
        wait_for(&format!("{nodes:?} to see {states:?}"), PATIENCE, || {
            for node in nodes {
                let seen = members(*node).unwrap_or_default();
                if seen.iter().map(|m| m.state.as_str()).ne(states) {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
    };
    all_see(["alive"; 3], &[1, 2, 3])?;
    let Some(mut heard) = datagrams(5000, Duration::from_secs(6))? else {
        return Ok(());
    };
    heard.retain(|d| (1..=3).any(|n| d.from.ip().to_string() == addr(n)));
    // Two in each period of 600 ms.
    let hers = |d: &&Datagram| d.from.ip().to_string() == addr(3);
    ensure!(heard.iter().filter(hers).count() >= 10, "{} heard", heard.len());

    storage.stop(3, "memberd", Signal::SIGKILL)?;
    all_see(["alive", "alive", "failed"], &[1, 2])?;
    let (before, counted) = ([members(1)?, members(2)?], [refused(1)?, refused(2)?]);
    // From the very port that it had.
    let disguised = UdpSocket::bind((addr(3).as_str(), 5000))?;
    send_again(&heard, &disguised)?;
    all_refused(&heard, [1, 2], counted)?;
    ensure!(
        [members(1)?, members(2)?] == before,
        "something has changed: {:?}",
        members(1)?
    );
    drop(disguised);

    storage.start(3, "memberd")?;
    all_see(["alive"; 3], &[1, 2, 3])?;
    let (before, counted) = (members(1)?, [refused(1)?, refused(2)?]);
    send_again(&heard, &UdpSocket::bind((addr(3).as_str(), 0))?)?;
    all_refused(&heard, [1, 2], counted)?;
    // The new process cannot know what its predecessor has heard; but nothing in there is news.
    for node in 1..=3 {
        ensure!(
            members(node)? == before,
            "n{node}: {:?}, not {before:?}",
            members(node)?
        );
    }
    Ok(())
}
