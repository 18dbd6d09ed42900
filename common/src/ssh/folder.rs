//! A private folder for what `ssh` is to find: sockets, and links to files whose names it would read as something else.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use xxhash_rust::xxh3::xxh3_64;

const PREFIX: &str = "rs-ssh-";
const LOCK: &str = "lock";
/// Paths of sockets may have about 100 bytes.
const LONGEST: usize = 30;

/// Removed with all in it when dropped, and by a later program when this one was killed.
pub struct Folder {
    dir: tempfile::TempDir,
    /// Held as long as this process lives.
    _lock: Flock<File>,
}

impl Folder {
    /// In the usual place for such things, if `ssh` takes a path there for what it is.
    pub fn new() -> io::Result<Self> {
        let usual = std::env::temp_dir();
        let place = match usual.as_os_str().len() <= LONGEST && is_plain(&usual) {
            true => usual,
            false => "/tmp".into(),
        };
        Self::tidy(&place);
        Self::make(&place)
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A path to the same file that means the same to `ssh`, which expands `%`, `${` and `~`, splits at spaces and takes quotes off:
    /// itself, or a link to it in here.
    pub fn plain(&self, path: &Path) -> io::Result<PathBuf> {
        if is_plain(path) {
            return Ok(path.to_owned());
        }
        let path = std::path::absolute(path)?;
        let name = format!("{:016x}", xxh3_64(path.as_os_str().as_encoded_bytes()));
        let link = self.path().join(name);
        match std::os::unix::fs::symlink(&path, &link) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(link),
        }
    }

    fn make(place: &Path) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(place)?;
        // It has its name only when it is locked: nobody takes it for one that was left behind.
        let unnamed = dir.path().join("unlocked");
        let lock = lock(File::create(&unnamed)?)?;
        std::fs::rename(&unnamed, dir.path().join(LOCK))?;
        Ok(Self { dir, _lock: lock })
    }

    /// Removes what programs that were killed have left.
    fn tidy(place: &Path) {
        let Ok(entries) = std::fs::read_dir(place) else {
            return;
        };
        let ours = entries
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().starts_with(PREFIX));
        for entry in ours {
            // Others' are not ours to open, or to remove.
            let left = File::open(entry.path().join(LOCK)).and_then(lock);
            if left.is_ok() {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}

fn lock(file: File) -> io::Result<Flock<File>> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno.into())
}

/// Whether nothing of it has another meaning in an option of `ssh`.
fn is_plain(path: &Path) -> bool {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"/._-+@,=".contains(b);
    let bytes = path.as_os_str().as_encoded_bytes();
    !bytes.is_empty() && bytes.iter().all(plain)
}

/// For people who type an option of `ssh` that names a file: as newer versions read it.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    match is_plain(path) {
        true => text,
        false => format!(
            "\"{}\"",
            text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_killed_programs_are_removed_and_no_others() {
        let place = tempfile::tempdir().unwrap();
        let live = Folder::make(place.path()).unwrap();
        let killed = Folder::make(place.path()).unwrap();
        let left = killed.path().to_owned();
        let Folder { dir, _lock } = killed;
        let _ = dir.keep();
        drop(_lock);
        let strange = place.path().join("rs-ssh-without-a-lock");
        std::fs::create_dir(&strange).unwrap();
        Folder::tidy(place.path());
        assert!(live.path().exists() && strange.exists() && !left.exists());
    }

    #[test]
    fn strange_paths_are_reached_through_plain_ones() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::make(place.path()).unwrap();
        assert_eq!(
            folder.plain(Path::new("/a/b-c_1.d")).unwrap(),
            Path::new("/a/b-c_1.d")
        );
        for name in ["a b", "a%h", "a\"b", "a'b", "${HOME}", "~a", "a\\b", "a#b", "ä"] {
            let file = place.path().join(name);
            std::fs::write(&file, name).unwrap();
            for _ in 0..2 {
                let plain = folder.plain(&file).unwrap();
                assert!(is_plain(&plain), "{}", plain.display());
                assert_eq!(std::fs::read_to_string(plain).unwrap(), name);
            }
        }
    }
}
