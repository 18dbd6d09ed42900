//! A storage node that comes back after an absence, with everything it had: what was removed meanwhile stays removed, what was made anew is the
//! new, what was appended is fetched. (faults.md: a node back after a long absence with old data)

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use system_tests::storage::Storage;
use system_tests::{PATIENCE, now, wait_for};

const NODES: usize = 5;
const FILES: usize = 30;

/// What becomes of a file meanwhile.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Stays,
    Removed,
    Replaced,
    Grows,
}

impl Fate {
    fn of(file: usize) -> Self {
        [Self::Stays, Self::Removed, Self::Replaced, Self::Grows][file % 4]
    }
}

fn old(file: usize) -> String {
    format!("old content of file {file}\n").repeat(200)
}

/// What it is afterwards.
fn new(file: usize) -> Option<String> {
    match Fate::of(file) {
        Fate::Stays => Some(old(file)),
        Fate::Removed => None,
        Fate::Replaced => Some(format!("new content of file {file}\n")),
        Fate::Grows => Some(format!("{}more of file {file}\n", old(file))),
    }
}

fn name(file: usize) -> String {
    format!("away/f{file:02}")
}

/// The files that a node stores.
fn stored(storage: &Storage, node: usize) -> Result<Vec<String>> {
    let list = storage.hydfs_ok(node, &["liststore", &format!("n{node}")])?;
    let names = list.split_whitespace().filter(|w| w.starts_with("away/"));
    Ok(names.map(str::to_owned).collect())
}

#[test]
fn t231_who_comes_back_with_old_data_brings_nothing_back() -> Result<()> {
    let mut storage = Storage::new("127.0.68", NODES, "")?;
    storage.start_all(false)?;
    for file in 0..FILES {
        std::fs::write(storage.path("piece"), old(file))?;
        storage.hydfs_ok(1, &["create", "piece", &name(file)])?;
    }
    let had = stored(&storage, 2)?;
    for fate in 0..4 {
        ensure!(
            (0..FILES).any(|f| f % 4 == fate && had.contains(&name(f))),
            "n2 has no file of kind {fate}: the test would prove nothing"
        );
    }
    storage.stop(2, "hydfsd", Signal::SIGKILL)?;
    for file in 0..FILES {
        let name = name(file);
        if matches!(Fate::of(file), Fate::Removed | Fate::Replaced) {
            storage.hydfs_ok(1, &["rm", &name])?;
        }
        match Fate::of(file) {
            Fate::Replaced => {
                std::fs::write(storage.path("piece"), format!("new content of file {file}\n"))?;
                storage.hydfs_ok(1, &["create", "piece", &name])?;
            }
            Fate::Grows => {
                std::fs::write(storage.path("piece"), format!("more of file {file}\n"))?;
                storage.hydfs_ok(1, &["append", "piece", &name])?;
            }
            Fate::Stays | Fate::Removed => {}
        }
    }
    wait_for("three copies without n2", PATIENCE, || {
        let fsck = storage.hydfs(1, &["--patience", "5", "fsck", "away"])?;
        Ok(fsck.status.success().then_some(()))
    })?;

    let since = now();
    storage.start(2, "hydfsd")?;
    storage.wait_alive(1, NODES)?;
    // From the first moment on, asked anywhere.
    for file in 0..FILES {
        for asked in [1, 2] {
            let got = storage.hydfs(asked, &["cat", &name(file)])?;
            match new(file) {
                Some(want) => ensure!(
                    got.status.success() && got.stdout == want.as_bytes(),
                    "{}, asked n{asked}: {} bytes {}",
                    name(file),
                    got.stdout.len(),
                    String::from_utf8_lossy(&got.stderr)
                ),
                None => ensure!(
                    got.status.code() == Some(1) && got.stdout.is_empty(),
                    "{} is back, asked n{asked}: {got:?}",
                    name(file)
                ),
            }
        }
    }
    wait_for("three copies with n2", PATIENCE, || {
        let fsck = storage.hydfs(1, &["--patience", "5", "fsck", "away"])?;
        Ok(fsck.status.success().then_some(()))
    })?;
    let took = now().duration_since(since);
    let found = storage.hydfs_ok(1, &["find", "away"])?;
    for file in 0..FILES {
        ensure!(
            found.contains(&name(file)) == new(file).is_some(),
            "find: {found}"
        );
    }
    // Its own copies, and no others than it should have.
    let mut checked = 0;
    let has = stored(&storage, 2)?;
    ensure!(has.iter().all(|n| had.contains(n)), "n2 has {has:?}, had {had:?}");
    for file in (0..FILES).filter(|f| had.contains(&name(*f))) {
        let Some(want) = new(file) else {
            ensure!(!has.contains(&name(file)), "n2 keeps {}", name(file));
            continue;
        };
        storage.hydfs_ok(1, &["getfromreplica", "n2", &name(file), "copy"])?;
        let copy = std::fs::read_to_string(storage.path("copy"))?;
        ensure!(copy == want, "n2's copy of {}: {} bytes", name(file), copy.len());
        checked += 1;
    }
    eprintln!(
        "n2 had {} files; {checked} of them are there and right {took:.1?} after its start",
        had.len()
    );
    Ok(())
}
