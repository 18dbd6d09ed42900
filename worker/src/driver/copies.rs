//! The node's copies of foreign operators, `operators/HASH` in its data folder.
//!
//! A copy that runs is locked. One that nobody has used for as long as ended jobs are kept is removed by the next task that is
//! started here with a foreign operator. HyDFS has what is needed again.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use common::clock;
use common::cluster::Keep;
use hydfs::client::Client;
use nix::fcntl::{Flock, FlockArg};
use ops::operator;

/// How often others may remove a copy between its making and its locking.
const TRIES: u32 = 20;

/// A copy that is not removed as long as this is there.
pub struct Copy {
    path: PathBuf,
    _lock: Flock<File>,
}

impl Copy {
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Locks the copy that is there under this name now, and notes that it is used.
    fn of(path: &Path) -> io::Result<Self> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let lock = Flock::lock(File::open(path)?, FlockArg::LockSharedNonblock).map_err(|_| missing())?;
        if !is_named(&lock, path) {
            return Err(missing());
        }
        lock.set_modified(wall_clock())?;
        Ok(Self {
            path: path.into(),
            _lock: lock,
        })
    }
}

/// The executable on this node, with the content that the job was started with: a copy that has changed since, or was cut
/// short, is replaced. Several tasks may fetch it at the same time: each writes a file of its own and renames it.
pub async fn fetch(
    client: &Client,
    name: &str,
    folder: &Path,
    hash: &str,
    keep: Keep,
) -> Result<Copy, operator::Error> {
    let path = folder.join(hash);
    let failed = |what: String| operator::Error {
        restart_helps: true,
        ..operator::Error::fatal(what)
    };
    let io = |e: io::Error| {
        failed(format!(
            "cannot keep operator {name} in {}: {e}",
            folder.display()
        ))
    };
    if let Keep::For(keep) = keep {
        sweep(folder, keep);
    }
    let is_right = |content: &[u8]| blake3::hash(content).to_hex().as_str() == hash;
    for _ in 0..TRIES {
        // From here on nobody removes it.
        let copy = Copy::of(&path);
        match copy.and_then(|copy| Ok((fs::read(&path)?, copy))) {
            Ok((content, copy)) if is_right(&content) => {
                fs::set_permissions(&path, Permissions::from_mode(0o755)).map_err(io)?;
                return Ok(copy);
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            wrong => {
                let why = wrong.map_or_else(
                    |e| e.to_string(),
                    |_| "its content is not what its name says".into(),
                );
                tracing::warn!(file = %path.display(), why, "OPERATOR_COPY_REPLACED");
            }
        }
        let mut content = Vec::new();
        let mut pieces = client.stream(name, 0..u64::MAX);
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|e| failed(format!("cannot fetch operator {name}: {e}")))?;
            content.extend_from_slice(&piece);
        }
        if !is_right(&content) {
            return Err(operator::Error::fatal(format!(
                "operator {name} in HyDFS is not what its name says ({} bytes with another hash); start the job again: its leader \
                 puts the right one there",
                content.len()
            )));
        }
        fs::create_dir_all(folder).map_err(io)?;
        let own = folder.join(format!(".{hash}.{}", std::process::id()));
        fs::write(&own, content).map_err(io)?;
        fs::set_permissions(&own, Permissions::from_mode(0o755)).map_err(io)?;
        fs::rename(&own, &path).map_err(io)?;
    }
    Err(failed(format!(
        "operator {name} is removed from {} again and again",
        folder.display()
    )))
}

/// Removes what nobody runs and nobody has used for so long.
fn sweep(folder: &Path, keep: Duration) {
    let now = wall_clock();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_old = |used: SystemTime| now.duration_since(used).is_ok_and(|age| age > keep);
        let used = entry.metadata().and_then(|metadata| metadata.modified());
        if !used.is_ok_and(is_old) {
            continue;
        }
        let path = entry.path();
        let Ok(file) = File::open(&path) else { continue };
        let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
            continue;
        };
        // It may have been used, or replaced, since it was looked at.
        let used = lock.metadata().and_then(|metadata| metadata.modified());
        if used.is_ok_and(is_old) && is_named(&lock, &path) && fs::remove_file(&path).is_ok() {
            tracing::info!(file = %path.display(), "OPERATOR_COPY_REMOVED");
        }
    }
}

/// Whether the file that is open has this name.
fn is_named(open: &File, path: &Path) -> bool {
    let of = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (open.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(named)) => of(open) == of(named),
        _ => false,
    }
}

fn wall_clock() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(clock::unix_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn used(path: &Path, ago: Duration) {
        let file = File::open(path).unwrap();
        file.set_modified(wall_clock() - ago).unwrap();
    }

    #[test]
    fn copies_that_nobody_uses_any_more_go_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (name, days) in [("new", 6), ("old", 8), (".old.12", 8), ("runs", 8), ("again", 8)] {
            fs::write(at(name), "x").unwrap();
            used(&at(name), DAY * days);
        }
        let runs = Copy::of(&at("runs")).unwrap();
        // It has run for days.
        used(&at("runs"), DAY * 8);
        drop(Copy::of(&at("again")).unwrap());
        let there = || {
            let entries = fs::read_dir(dir.path()).unwrap();
            let mut names: Vec<_> = entries
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        sweep(dir.path(), DAY * 7);
        assert_eq!(there(), ["again", "new", "runs"]);
        drop(runs);
        sweep(dir.path(), DAY * 7);
        assert_eq!(there(), ["again", "new"]);
    }

    #[test]
    fn a_copy_that_went_is_no_copy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        assert!(Copy::of(&path).is_err());
        fs::write(&path, "x").unwrap();
        assert_eq!(Copy::of(&path).unwrap().path(), path);
    }
}
