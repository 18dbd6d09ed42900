//! Files that are trimmed: by one who appends for ever, and by hand.

use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use common::cluster::Cluster;
use common::ids::Epoch;
use common::net::Identity;
use hydfs::client::Client;
use nix::sys::signal::Signal;
use system_tests::storage::Storage;
use system_tests::{PATIENCE, wait_for};

const PIECE: u64 = 64 * 1024;
/// The writer keeps so many bytes.
const KEPT: u64 = 256 * 1024;
const PIECES: u64 = 900;
/// What a node may have on its disk: three times what is kept and a few pieces (docs/hydfs.md), and its log.
const MOST: u64 = 2 * 1024 * 1024;

fn size(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // A file may go while it is looked at.
        let Ok(meta) = entry.metadata() else { continue };
        bytes += match meta.is_dir() {
            true => size(&entry.path())?,
            false => meta.len(),
        };
    }
    Ok(bytes)
}

/// Lines of 64 bytes that say which they are.
fn piece(number: u64) -> Vec<u8> {
    let lines = number * PIECE / 64..(number + 1) * PIECE / 64;
    lines
        .flat_map(|line| format!("{line:063}\n").into_bytes())
        .collect()
}

fn client(storage: &Storage) -> Result<Client> {
    let cluster = Cluster::load(&storage.path("cluster.toml"))?;
    let me = Identity {
        who: "trims".into(),
        node: None,
        secret: cluster.secret()?,
        security: cluster.security,
    };
    Ok(Client::new(Arc::new(cluster), me).with_patience(PATIENCE))
}

#[test]
fn t203_a_file_that_is_trimmed_as_it_grows_keeps_its_size_on_every_disk() -> Result<()> {
    let mut storage = Storage::new("127.0.69", 3, "")?;
    storage.start_all(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let client = client(&storage)?;
    let mut writer = runtime.block_on(client.open_append("log", "writer", Epoch(1), true))?;
    let mut seen = vec![0; 3];
    for number in 0..PIECES {
        match number {
            300 => drop(storage.stop(2, "hydfsd", Signal::SIGKILL)?),
            600 => storage.start(2, "hydfsd")?,
            _ => {}
        }
        writer.append(piece(number));
        let acked = runtime.block_on(writer.wait_acked((number + 1) * PIECE))?;
        writer.trim(acked.saturating_sub(KEPT));
        if number % 20 == 0 {
            for (node, most) in seen.iter_mut().enumerate() {
                *most = size(&storage.path(&format!("n{}/data/hydfs", node + 1)))?.max(*most);
            }
        }
    }
    let (length, base) = (PIECES * PIECE, PIECES * PIECE - KEPT);
    let trimmed = async {
        while writer.base() < base {
            tokio::task::yield_now().await;
        }
    };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, trimmed).await })?;
    println!("{length} bytes appended, at most {seen:?} on the disks");
    for most in seen {
        ensure!(
            most < MOST,
            "{most} bytes were on a disk of {length} appended, {KEPT} kept"
        );
    }
    // The node that was away, too, once it is whole.
    wait_for("three whole copies", PATIENCE, || {
        let stat = storage.hydfs_ok(1, &["stat", "--json", "log"])?;
        let stat: serde_json::Value = serde_json::from_str(&stat)?;
        ensure!(stat["base"] == base && stat["len"] == length, "{stat}");
        let whole = stat["under_replicated"] == false && stat["replicas"].as_array().map(Vec::len) == Some(3);
        Ok(whole.then_some(()))
    })?;
    storage.hydfs_ok(1, &["merge", "log"])?;
    let all: Vec<u8> = (0..PIECES).flat_map(piece).collect();
    for node in 1..=3 {
        let name = format!("n{node}");
        let copy = storage.hydfs(1, &["getfromreplica", &name, "log", "-"])?;
        ensure!(
            copy.stdout == all[base as usize..],
            "{name}: {} bytes",
            copy.stdout.len()
        );
        let there = size(&storage.path(&format!("{name}/data/hydfs")))?;
        ensure!(there < MOST, "{name} has {there} bytes");
    }
    ensure!(storage.hydfs_ok(2, &["fsck"])?.contains("all is well"), "fsck");
    Ok(())
}

fn stderr(out: &Output) -> String {
    String::from_utf8_lossy(&out.stderr).into_owned()
}

#[test]
fn t204_a_file_is_trimmed_by_hand() -> Result<()> {
    let mut storage = Storage::new("127.0.70", 3, "")?;
    storage.start_all(false)?;
    let text: String = (0..1000).map(|line| format!("line {line:04}\n")).collect();
    std::fs::write(storage.path("text"), &text)?;
    storage.hydfs_ok(1, &["create", "text", "f"])?;
    ensure!(
        storage.hydfs_ok(1, &["trim", "f", "5003"])? == "f\t5003\n",
        "trim"
    );
    ensure!(storage.hydfs_ok(2, &["trim", "f", "17"])? == "f\t5003\n", "again");
    let beyond = storage.hydfs(1, &["trim", "f", "10001"])?;
    let said = stderr(&beyond);
    ensure!(
        beyond.status.code() == Some(1) && said.contains("cannot be trimmed to byte 10001: it ends at 10000"),
        "{said}"
    );
    for words in [
        &["trim", "f", "x"][..],
        &["trim", "f", "-1"],
        &["trim", "jobs/a", "0"],
        &["trim", "f"],
    ] {
        let out = storage.hydfs(1, words)?;
        ensure!(out.status.code() == Some(2), "{words:?}: {}", stderr(&out));
    }
    let none = storage.hydfs(1, &["trim", "--system", "jobs/a", "0"])?;
    ensure!(
        none.status.code() == Some(1) && stderr(&none).contains("no file"),
        "{}",
        stderr(&none)
    );
    // What is left is got, and whoever gets it is told.
    let (rest, note) = (&text[5003..], "`f` begins at byte 5003");
    for words in [
        &["cat", "f"][..],
        &["get", "f", "-"],
        &["getfromreplica", "n2", "f", "-"],
    ] {
        let out = storage.hydfs(3, words)?;
        ensure!(
            out.status.success() && out.stdout == rest.as_bytes(),
            "{words:?}: {}",
            stderr(&out)
        );
        ensure!(stderr(&out).contains(note), "{words:?}: {}", stderr(&out));
    }
    for words in [
        &["get", "f", "local"][..],
        &["getfromreplica", "n1", "f", "local"],
    ] {
        let out = storage.hydfs(3, words)?;
        ensure!(stderr(&out).contains(note), "{words:?}: {}", stderr(&out));
        ensure!(
            std::fs::read_to_string(storage.path("local"))? == rest,
            "{words:?}"
        );
    }
    // With a cache, too, which has all of it from before.
    for base in [5003, 7007] {
        storage.hydfs_ok(1, &["trim", "f", &base.to_string()])?;
        let mut cached = storage.on(1, Path::new("hydfs"));
        cached
            .args(["--cache", "1MiB", "cat", "f"])
            .env("XDG_CACHE_HOME", storage.path("cache"));
        ensure!(cached.output()?.stdout == text.as_bytes()[base..], "from {base}");
    }
    for (words, want) in [
        (&["tail", "f"][..], &text[9900..]),
        (&["tail", "-n", "2000", "f"], &text[7007..]),
        (&["tail", "-c", "9999", "f"], &text[7007..]),
        (&["tail", "-c", "5", "f"], &text[9995..]),
    ] {
        ensure!(storage.hydfs_ok(1, words)? == want, "{words:?}");
    }
    let stat = storage.hydfs_ok(1, &["stat", "f"])?;
    ensure!(
        stat.contains("10000 bytes\t1000 newlines\tbegins at byte 7007\t"),
        "{stat}"
    );
    let json: serde_json::Value = serde_json::from_str(&storage.hydfs_ok(1, &["stat", "--json", "f"])?)?;
    ensure!(
        (json["base"].as_u64(), json["len"].as_u64()) == (Some(7007), Some(10000)),
        "{json}"
    );
    // Appends go on, and a file may be trimmed to its end.
    std::fs::write(storage.path("text"), "more\n")?;
    storage.hydfs_ok(1, &["append", "text", "f"])?;
    storage.hydfs_ok(1, &["trim", "f", "10005"])?;
    let empty = storage.hydfs(1, &["cat", "f"])?;
    ensure!(
        empty.status.success() && empty.stdout.is_empty(),
        "{}",
        stderr(&empty)
    );
    storage.hydfs_ok(1, &["append", "text", "f"])?;
    ensure!(storage.hydfs_ok(1, &["cat", "f"])? == "more\n", "what came after");
    // Enough for it to be worth closing a segment.
    std::fs::write(storage.path("text"), "x".repeat(100_000))?;
    storage.hydfs_ok(1, &["append", "text", "f"])?;
    storage.hydfs_ok(1, &["trim", "f", "110010"])?;
    let merged = storage.hydfs_ok(1, &["merge", "f"])?;
    ensure!(
        merged.contains("3 replicas identical") && merged.contains("110010 bytes"),
        "{merged}"
    );
    ensure!(storage.hydfs_ok(1, &["fsck"])?.contains("all is well"), "fsck");
    let held = storage.hydfs_ok(1, &["liststore", "n1"])?;
    let held = held.trim_end().rsplit('\t').next().context("a number")?;
    ensure!(held.parse::<u64>()? < 100, "{held} bytes are left");
    Ok(())
}
