//! A storage node's disk: a small tmpfs that is full, writes that were cut off, bits that flipped. (faults.md: disk full; torn write, bit
//! flip in one replica)

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use system_tests::storage::Storage;
use system_tests::{PATIENCE, skip, succeed, wait_for};

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
            skip(format_args!("no tmpfs can be mounted here: {error:#}"));
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
    storage.start(2, "hydfsd")?;
    std::fs::remove_file(&filler)?;
    storage.wait_alive(1, 3)?;
    std::fs::write(storage.path("piece"), "back\n")?;
    storage.hydfs_ok(3, &["append", "piece", "full/f"])?;
    wait_for("three whole copies", PATIENCE, || {
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

/// The one thing that can be done from here about a full disk: it does not need the room that it makes.
#[test]
fn t213_a_trim_makes_room_on_a_full_disk() -> Result<()> {
    let mut storage = Storage::new("127.0.71", 3, "")?;
    let _mount = match Mount::tmpfs(&storage.path("n2/data"), "44m") {
        Ok(mount) => mount,
        Err(error) => {
            skip(format_args!("no tmpfs can be mounted here: {error:#}"));
            return Ok(());
        }
    };
    storage.start_all(false)?;
    std::fs::write(storage.path("old"), "old line\n".repeat(34 * 1024 * 1024 / 9))?;
    storage.hydfs_ok(1, &["create", "old", "old"])?;
    storage.hydfs_ok(1, &["create", "/dev/null", "new"])?;
    std::fs::write(storage.path("piece"), "new line\n".repeat(1024 * 1024 / 9))?;
    let append = |storage: &Storage| storage.hydfs(1, &["--patience", "3", "append", "piece", "new"]);
    let mut appended = 0;
    while append(&storage)?.status.success() {
        appended += 1;
        ensure!(appended < 40, "a disk of 44 MiB took {appended} MiB more");
    }
    // While appends are refused.
    let trimmed = storage.hydfs_ok(1, &["trim", "old", "33554432"])?;
    ensure!(trimmed == "old\t33554432\n", "{trimmed}");
    for _ in 0..20 {
        storage.hydfs_ok(1, &["append", "piece", "new"])?;
    }
    let merged = storage.hydfs_ok(1, &["merge", "new"])?;
    ensure!(merged.contains("3 replicas identical"), "{merged}");
    Ok(())
}

/// All segment files of a node, the newest last: they are numbered as they are made.
fn segments(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => folders.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    Ok(found)
}

type Harm = fn(&mut Vec<u8>);

/// What becomes of a copy: its end cut off in mid-entry, so that acknowledged entries before that are gone, too; cut off with rubbish behind it; a
/// bit flipped.
const HARMS: [(&str, Harm); 3] = [
    ("cut off", |bytes| bytes.truncate(bytes.len() * 2 / 3)),
    ("rubbish at the end", |bytes| {
        bytes.truncate(bytes.len() - 1000);
        bytes.extend((0..5000).map(|i| (i * 31 % 251) as u8));
    }),
    ("a flipped bit", |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
    }),
];

/// One of three copies is harmed while its daemon is down, each node's in turn. It is never served, nothing acknowledged is lost, and it is repaired.
#[test]
fn t212_torn_writes_and_flipped_bits_are_never_served_and_are_repaired() -> Result<()> {
    let mut storage = Storage::new("127.0.63", 3, "")?;
    storage.start_all(false)?;
    storage.hydfs_ok(1, &["create", "/dev/null", "harmed/f"])?;
    let mut want = String::new();
    let mut pieces = 0..;
    let mut append = |storage: &Storage, want: &mut String| {
        let piece = pieces.next().map(piece).unwrap_or_default();
        std::fs::write(storage.path("piece"), &piece)?;
        storage.hydfs_ok(1, &["append", "piece", "harmed/f"])?;
        *want += &piece;
        anyhow::Ok(())
    };
    for (node, (what, harm)) in (1..=3).flat_map(|node| HARMS.map(|harm| (node, harm))) {
        (0..3).try_for_each(|_| append(&storage, &mut want))?;
        storage.stop(node, "hydfsd", Signal::SIGKILL)?;
        let all = segments(&storage.path(&format!("n{node}/data/hydfs/seg")))?;
        // It is still open.
        let newest = all
            .last()
            .ok_or_else(|| anyhow::anyhow!("n{node} has no segment"))?;
        let mut bytes = std::fs::read(newest)?;
        ensure!(
            bytes.len() > 20_000,
            "n{node}: only {} bytes to harm",
            bytes.len()
        );
        harm(&mut bytes);
        std::fs::write(newest, &bytes)?;
        storage.start(node, "hydfsd")?;
        storage.wait_alive(1 + node % 3, 3)?;

        // However soon: the file is whole, and of the harmed copy nothing is given that is not the file's.
        let name = format!("n{node}");
        let mut refused = 0;
        wait_for("three whole copies", PATIENCE, || {
            ensure!(
                storage.hydfs_ok(node, &["cat", "harmed/f"])? == want,
                "{what}: asked {name}"
            );
            let copy = storage.hydfs(
                node,
                &["--patience", "1", "getfromreplica", &name, "harmed/f", "copy"],
            )?;
            match copy.status.success() {
                true => ensure!(
                    want.starts_with(&std::fs::read_to_string(storage.path("copy"))?),
                    "{name}: {what}: the harmed copy was served"
                ),
                false => refused += 1,
            }
            let fsck = storage.hydfs(1, &["--patience", "5", "fsck", "harmed"])?;
            Ok(fsck.status.success().then_some(()))
        })?;
        for path in segments(&storage.path(&format!("n{node}/data/hydfs/seg")))? {
            ensure!(
                std::fs::read(&path)? != bytes,
                "{} is still as it was harmed",
                path.display()
            );
        }
        eprintln!("{name}: {what}: its copy was refused {refused} times until it was repaired");
        for asked in 1..=3 {
            storage.hydfs_ok(
                asked,
                &["getfromreplica", &format!("n{asked}"), "harmed/f", "copy"],
            )?;
            ensure!(
                std::fs::read_to_string(storage.path("copy"))? == want,
                "{name}: {what}: n{asked}'s copy"
            );
        }
    }
    Ok(())
}
