//! A storage node whose disk is a small tmpfs: full, it acknowledges nothing and says so; with room it goes on. (faults.md: disk full)

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use system_tests::storage::Storage;
use system_tests::{succeed, wait_for};

const LONG: Duration = Duration::from_secs(60);

struct Mount(PathBuf);

impl Mount {
    fn tmpfs(at: &Path, size: &str) -> Result<Self> {
        succeed(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
                .arg(at),
        )?;
        Ok(Self(at.into()))
    }

    fn resize(&self, size: &str) -> Result<()> {
        succeed(
            Command::new("mount")
                .args(["-o", &format!("remount,size={size}")])
                .arg(&self.0),
        )
        .map(drop)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = succeed(Command::new("umount").arg("-l").arg(&self.0)) {
            eprintln!("unmounting {}: {error:#}", self.0.display());
        }
    }
}

/// A piece that says what it is, in each of its lines.
fn piece(i: usize) -> String {
    (0..4000).map(|line| format!("piece {i} line {line}\n")).collect()
}

#[test]
fn t211_a_full_disk_acknowledges_nothing_says_so_and_goes_on_when_there_is_room() -> Result<()> {
    // A take-over by two would be no fault of the disk's: three nodes, all of them replicas.
    let mut storage = Storage::new("127.0.62", 3, "")?;
    let mount = match Mount::tmpfs(&storage.path("n2/data"), "2m") {
        Ok(mount) => mount,
        Err(error) => {
            eprintln!("SKIPPED: no tmpfs can be mounted here: {error:#}");
            return Ok(());
        }
    };
    storage.start_all(false)?;
    storage.hydfs_ok(1, &["create", "/dev/null", "full/f"])?;
    let mut acked = Vec::new();
    let refused = loop {
        let i = acked.len();
        ensure!(i < 100, "a disk of 2 MiB took {i} pieces");
        std::fs::write(storage.path("piece"), piece(i))?;
        let out = storage.hydfs(1, &["--patience", "3", "append", "piece", "full/f"])?;
        if !out.status.success() {
            break String::from_utf8_lossy(&out.stderr).into_owned();
        }
        acked.push(i);
    };
    ensure!(!acked.is_empty(), "nothing fitted: the test proves nothing");
    ensure!(
        refused.contains("n2") && refused.contains("full"),
        "an unclear error: {refused}"
    );
    // What was acknowledged is read, from the full node too.
    let want: String = acked.iter().map(|i| piece(*i)).collect();
    for node in 1..=3 {
        let got = storage.hydfs_ok(node, &["cat", "full/f"])?;
        ensure!(
            got == want,
            "n{node}: {} bytes, {} acknowledged",
            got.len(),
            want.len()
        );
    }

    mount.resize("32m")?;
    std::fs::write(storage.path("piece"), "there is room\n")?;
    storage.hydfs_ok(1, &["append", "piece", "full/f"])?;
    // The piece that was refused was not acknowledged: it may be there, whole, or not.
    let (with, without) = (
        format!("{want}{}there is room\n", piece(acked.len())),
        format!("{want}there is room\n"),
    );
    let text = storage.hydfs_ok(1, &["cat", "full/f"])?;
    ensure!(text == with || text == without, "{} bytes", text.len());

    // A start on a full disk.
    storage.stop(2, "hydfsd", Signal::SIGTERM)?;
    let filler = storage.path("n2/data/filler");
    let _ = succeed(
        Command::new("dd")
            .args(["if=/dev/zero", "bs=4k"])
            .arg(format!("of={}", filler.display())),
    );
    // To the last byte of what the log's last page has left.
    let meta = std::fs::metadata(storage.path("n2/data/hydfs/meta"))?.len();
    storage.start(2, "hydfsd")?;
    if 4096 - meta % 4096 < 200 {
        let code = storage.wait_exit(2, "hydfsd")?;
        ensure!(
            code == Some(1) && storage.log(2).contains("full"),
            "exit code {code:?}: {}",
            storage.log(2)
        );
        std::fs::remove_file(&filler)?;
        storage.start(2, "hydfsd")?;
    } else {
        std::fs::remove_file(&filler)?;
    }
    storage.wait_alive(1, 3)?;
    std::fs::write(storage.path("piece"), "back\n")?;
    storage.hydfs_ok(3, &["append", "piece", "full/f"])?;
    wait_for("three whole copies", LONG, || {
        let stat = storage.hydfs_ok(1, &["stat", "--json", "full/f"])?;
        Ok(stat
            .replace(' ', "")
            .contains("\"under_replicated\":false")
            .then_some(()))
    })?;
    for node in 1..=3 {
        ensure!(
            storage.hydfs_ok(node, &["cat", "full/f"])? == format!("{text}back\n"),
            "n{node}"
        );
    }
    Ok(())
}
