//! Two storage nodes of five killed at once while ten clients append: nothing acknowledged is lost, nothing is reordered.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use common::seeds::Seeds;
use system_tests::records::{Load, described, judge};
use system_tests::{Cluster, PATIENCE, wait_for};
use xxhash_rust::xxh3::Xxh3;

const CLIENTS: usize = 10;
const NODES: usize = 5;
/// Seconds by which clients go on longer, so that they still do on a busy machine when the nodes are killed.
const STRIKING: u64 = 8;

fn setting(name: &str, otherwise: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text}")),
        Err(_) => Ok(otherwise),
    }
}

/// Which two nodes, and when, in thousandths of the run. By hand `RAINSTORM_SEEDS=50 RAINSTORM_APPEND_SECONDS=60`.
fn fault(seed: u64) -> (String, String, u64) {
    let mixed = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let first = (mixed >> 40) % NODES as u64;
    let second = (first + 1 + (mixed >> 50) % (NODES as u64 - 1)) % NODES as u64;
    (
        format!("n{}", first + 1),
        format!("n{}", second + 1),
        200 + (mixed >> 20) % 400,
    )
}

#[test]
fn t201_two_nodes_killed_at_once_while_ten_clients_append() -> Result<()> {
    let seconds = setting("RAINSTORM_APPEND_SECONDS", 4)?;
    let cluster = Cluster::up("127.0.59", NODES)?;
    std::fs::write(cluster.path("empty"), b"")?;
    for seed in Seeds::from_env(0..2).range {
        run(&cluster, seed, seconds).with_context(|| format!("seed {seed}"))?;
    }
    Ok(())
}

fn run(cluster: &Cluster, seed: u64, seconds: u64) -> Result<()> {
    let file = format!("log-{seed}");
    cluster.hydfs(&["create", "empty", &file])?;
    let mut clients: Vec<Load> = (0..CLIENTS)
        .map(|c| Load::start(cluster.command("hydfs-load"), &file, c, seconds + STRIKING))
        .collect::<Result<_>>()?;
    let length = || -> Result<u64> {
        let text = cluster.hydfs(&["stat", &file, "--json"])?;
        let stat: serde_json::Value = serde_json::from_str(&text)?;
        stat["len"].as_u64().context("stat says the length")
    };
    let bound = PATIENCE;
    wait_for("the first appends", bound, || Ok((length()? > 0).then_some(())))?;
    let (a, b, part) = fault(seed);
    let strike = system_tests::now() + Duration::from_millis(seconds * part);
    wait_for("the time to strike", bound + Duration::from_secs(seconds), || {
        Ok((system_tests::now() >= strike).then_some(()))
    })?;
    let before = length()?;
    let killed = cluster.kill_nodes(&[&a, &b])?;
    ensure!(
        killed >= 4,
        "only {killed} processes of {a} and {b} were there to be killed"
    );
    for client in &mut clients {
        ensure!(
            !client.has_ended()?,
            "a client had ended when {a} and {b} were killed: the fault hit nothing"
        );
    }
    let acked: Vec<usize> = clients.into_iter().map(Load::finish).collect::<Result<_>>()?;
    let after = length()?;
    ensure!(
        after > before,
        "no append came through after {a} and {b} were killed: {before}, {after}"
    );
    // What there is to repair grows with the time, and appends go on beside it.
    let patience = (30 + 2 * seconds).to_string();
    let (replicas, copy) = identical(cluster, &file, &patience)?;
    ensure!(
        replicas.iter().all(|r| *r != a && *r != b),
        "{replicas:?} without {a} and {b}"
    );
    check(cluster, &file, &acked, copy)?;
    for node in [&a, &b] {
        cluster.script(&["start-node", node])?;
    }
    let (_, copy) = identical(cluster, &file, &patience)?;
    check(cluster, &file, &acked, copy)?;
    wait_for("fsck to find all well", bound, || {
        Ok(cluster
            .command("hydfs")
            .arg("fsck")
            .output()?
            .status
            .success()
            .then_some(()))
    })?;
    let total: usize = acked.iter().sum();
    println!(
        "seed {seed}: {a} and {b} killed at {before} bytes of {after}; {total} appends acknowledged, all there"
    );
    Ok(())
}

/// Waits for three replicas; merges; compares the copies' bytes. Where they are, and their digest.
fn identical(cluster: &Cluster, file: &str, patience: &str) -> Result<(Vec<String>, u128)> {
    let replicas = wait_for("three replicas", PATIENCE, || {
        let list = cluster.hydfs(&["ls", file])?;
        let nodes: Vec<String> = list
            .lines()
            .skip(1)
            .filter_map(|l| Some(l.split('\t').next()?.to_owned()))
            .collect();
        Ok((nodes.len() == 3).then_some(nodes))
    })?;
    let merged = cluster.hydfs(&["--patience", patience, "merge", file])?;
    ensure!(merged.contains("3 replicas identical"), "{merged}");
    let mut copies = Vec::new();
    for node in &replicas {
        let args = ["getfromreplica", node, file, "-"];
        let ((), digest) = reading(cluster, &args, |mut copy| {
            std::io::copy(&mut copy, &mut std::io::sink())?;
            Ok(())
        })?;
        copies.push(digest);
    }
    for (node, copy) in replicas.iter().zip(&copies) {
        ensure!(*copy == copies[0], "{node}'s copy is not that of {}", replicas[0]);
    }
    Ok((replicas, copies[0]))
}

/// See [`judge`]. `copy`: the digest of what the replicas hold.
fn check(cluster: &Cluster, file: &str, acked: &[usize], copy: u128) -> Result<()> {
    let ((), digest) = reading(cluster, &["cat", file], |bytes| judge(bytes, acked))?;
    ensure!(digest == copy, "cat and getfromreplica differ");
    Ok(())
}

/// Runs `hydfs` and gives its standard output to `take`, which reads it to the end. With the output's digest.
fn reading<T>(
    cluster: &Cluster,
    args: &[&str],
    take: impl FnOnce(&mut dyn BufRead) -> Result<T>,
) -> Result<(T, u128)> {
    let mut command = cluster.command("hydfs");
    let mut child = command.args(args).stdout(Stdio::piped()).spawn()?;
    let mut digest = Xxh3::new();
    let mut out = BufReader::with_capacity(
        1 << 16,
        Digesting {
            from: child.stdout.take().context("its output")?,
            digest: &mut digest,
        },
    );
    let taken = take(&mut out);
    drop(out);
    let status = child.wait()?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok((taken?, digest.digest128()))
}

struct Digesting<'a, R> {
    from: R,
    digest: &'a mut Xxh3,
}

impl<R: Read> Read for Digesting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.digest.update(&buffer[..n]);
        Ok(n)
    }
}

#[test]
fn t202_the_judge_sees_what_is_lost_doubled_reordered_or_torn() -> Result<()> {
    let records = |list: &[(&str, usize)]| list.iter().map(|(c, n)| described(c, *n)).collect::<String>();
    let good = records(&[("c0", 0), ("c1", 0), ("c0", 1), ("c1", 1)]);
    judge(good.as_bytes(), &[2, 1])?;
    for (bad, acked) in [
        (good.clone(), [3, 1]),
        (records(&[("c0", 0), ("c1", 0), ("c1", 1)]), [2, 1]),
        (records(&[("c0", 0), ("c1", 0), ("c0", 1), ("c0", 1)]), [2, 1]),
        (records(&[("c0", 1), ("c1", 0), ("c0", 0)]), [2, 1]),
        (records(&[("c0", 0), ("c0", 1)]), [2, 0]),
        (good[..good.len() - 1].to_owned(), [2, 1]),
        (good.replacen('x', "y", 1), [2, 1]),
    ] {
        ensure!(judge(bad.as_bytes(), &acked).is_err(), "not seen: {acked:?}");
    }
    Ok(())
}
