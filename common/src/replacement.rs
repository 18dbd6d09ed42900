//! A local file that comes to be when it is whole.
//!
//! It is written beside its place and renamed; dropped before that, it leaves nothing. A file that it replaces hands its mode and owner
//! on; a new one follows the umask. A symbolic link stays one, and the file comes to be where it leads. What is no regular file (a device, a pipe) is written as it
//! is, and so is a file in a folder that takes no other.

use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// As many symbolic links in a row as Linux follows.
const MOST_LINKS: u32 = 40;

pub struct Replacement {
    path: PathBuf,
    form: Form,
}

enum Form {
    /// With what it replaces.
    Beside(NamedTempFile, Option<Box<Metadata>>),
    InPlace(File),
}

impl Replacement {
    pub fn open(path: &Path) -> io::Result<Self> {
        let path = resolve(path)?;
        let old = std::fs::metadata(&path).ok();
        let form = match &old {
            Some(old) if old.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Some(old) if !old.is_file() => Form::InPlace(OpenOptions::new().write(true).open(&path)?),
            _ => match beside(&path, old.is_some()) {
                Ok(part) => Form::Beside(part, old.map(Box::new)),
                Err(error) if old.is_some() && is_refused(&error) => {
                    Form::InPlace(OpenOptions::new().write(true).truncate(true).open(&path)?)
                }
                Err(error) => return Err(error),
            },
        };
        Ok(Self { path, form })
    }

    /// Where the content goes.
    pub fn file(&self) -> io::Result<File> {
        match &self.form {
            Form::Beside(part, _) => part.as_file().try_clone(),
            Form::InPlace(file) => file.try_clone(),
        }
    }

    /// All is written: the file takes its place.
    pub fn commit(self) -> io::Result<()> {
        let Form::Beside(part, old) = self.form else {
            return Ok(());
        };
        if let Some(old) = old {
            // Only root can give files away; and whoever writes to another's file in a shared folder may go on doing so.
            let _ = fchown(part.as_file(), Some(old.uid()), Some(old.gid()));
            part.as_file()
                .set_permissions(Permissions::from_mode(old.mode() & 0o7777))?;
        }
        part.persist(&self.path).map(drop).map_err(|e| e.error)
    }
}

/// Where a path leads, also when nothing is there yet.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        match (std::fs::canonicalize(&path), std::fs::read_link(&path)) {
            (Ok(whole), _) => return Ok(whole),
            // A link to nothing: the file is to be made where it points, seen from its own folder.
            (Err(_), Ok(to)) => path = path.parent().unwrap_or(Path::new("")).join(to),
            (Err(_), Err(_)) => return Ok(path),
        }
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

/// The part is nobody else's to read while the file that it will be may not be either.
fn beside(path: &Path, replaces: bool) -> io::Result<NamedTempFile> {
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".rainstorm-").suffix(".part");
    let mode = Permissions::from_mode(if replaces { 0o600 } else { 0o666 });
    builder.permissions(mode).tempfile_in(folder)
}

fn is_refused(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
    )
}

/// Writes a whole file.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let replacement = Replacement::open(path)?;
    replacement.file()?.write_all(content)?;
    replacement.commit()
}

/// Whether [`write()`] could be done now. Nothing is changed.
pub fn probe(path: &Path) -> io::Result<()> {
    let path = resolve(path)?;
    let old = std::fs::metadata(&path).ok();
    // Not to wait for the reader of a pipe.
    let open = || {
        OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
    };
    match old {
        Some(old) if old.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Some(old) if !old.is_file() => match open() {
            // A pipe whose reader is still to come.
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(()),
            opened => opened.map(drop),
        },
        Some(_) => match beside(&path, true) {
            Err(error) if is_refused(&error) => open().map(drop),
            made => made.map(drop),
        },
        None => beside(&path, false).map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn entries(dir: &Path) -> usize {
        std::fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn a_replaced_file_hands_its_mode_on_and_a_new_one_follows_the_umask() {
        let dir = tempfile::tempdir().unwrap();
        let (old, link, new) = (
            dir.path().join("old"),
            dir.path().join("link"),
            dir.path().join("new"),
        );
        std::fs::write(&old, "before").unwrap();
        std::os::unix::fs::symlink("old", &link).unwrap();
        for bits in [0o600, 0o640, 0o755] {
            std::fs::set_permissions(&old, Permissions::from_mode(bits)).unwrap();
            write(&link, b"after").unwrap();
            assert_eq!(
                (mode(&old), std::fs::read(&old).unwrap()),
                (bits, b"after".to_vec())
            );
        }
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        write(&new, b"x").unwrap();
        std::fs::write(dir.path().join("plain"), "x").unwrap();
        assert_eq!(mode(&new), mode(&dir.path().join("plain")));
    }

    #[test]
    fn a_link_to_nothing_stays_one_and_its_file_comes_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("sub")).unwrap();
        for (link, to) in [
            ("first", "sub/second"),
            ("sub/second", "../target"),
            ("loop", "loop"),
            ("lost", "none/x"),
        ] {
            std::os::unix::fs::symlink(to, at(link)).unwrap();
        }
        probe(&at("first")).unwrap();
        assert!(!at("target").exists());
        write(&at("first"), b"x").unwrap();
        assert!(at("first").is_symlink() && at("sub/second").is_symlink());
        assert_eq!(std::fs::read(at("target")).unwrap(), b"x");
        for bad in ["loop", "lost"] {
            assert!(
                probe(&at(bad)).is_err() && write(&at(bad), b"x").is_err() && at(bad).is_symlink(),
                "{bad}"
            );
        }
    }

    #[test]
    fn one_that_is_given_up_leaves_nothing_and_what_was_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        std::fs::write(&old, "before").unwrap();
        for path in [&old, &new] {
            let given_up = Replacement::open(path).unwrap();
            given_up.file().unwrap().write_all(b"half").unwrap();
            drop(given_up);
        }
        assert_eq!(
            (entries(dir.path()), std::fs::read(&old).unwrap()),
            (1, b"before".to_vec())
        );
    }

    #[test]
    fn a_probe_changes_nothing_and_finds_what_cannot_be() {
        let dir = tempfile::tempdir().unwrap();
        let old = dir.path().join("old");
        std::fs::write(&old, "before").unwrap();
        for fine in [&old, &dir.path().join("new"), Path::new("/dev/null")] {
            probe(fine).unwrap();
        }
        assert_eq!(
            (entries(dir.path()), std::fs::read(&old).unwrap()),
            (1, b"before".to_vec())
        );
        for bad in [
            dir.path(),
            &dir.path().join("none/x"),
            Path::new("/proc/x"),
            &old.join("x"),
        ] {
            assert!(probe(bad).is_err(), "{}", bad.display());
        }
    }

    #[test]
    fn what_is_no_regular_file_is_written_as_it_is() {
        write(Path::new("/dev/null"), b"x").unwrap();
        assert!(write(Path::new("/dev/full"), b"x").is_err());
    }
}
