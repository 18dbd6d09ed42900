//! A log that several processes write and that bounds itself: `worker.log`, and before it `worker.log.1`, `worker.log.2`, ...
//!
//! Every line goes to the file that bears the log's name when the line is written. Whoever finds that one full renames it,
//! under a lock of the folder; the others notice by its inode. So it does not matter who rotates, and logrotate may, too.
//! A line is whole, since it is one write with O_APPEND. It is not lost either: who was stopped for so long that its file is
//! the oldest, and removed, notices that afterwards and writes the line again.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::cluster;

/// A line is written so often until a file has it that is there: each further time the log went round meanwhile.
const ATTEMPTS: usize = 3;

pub struct LogFile {
    file: File,
    path: PathBuf,
    folder: PathBuf,
    limits: cluster::Log,
}

impl LogFile {
    pub fn open(folder: &Path, name: &str, limits: cluster::Log) -> io::Result<Self> {
        let path = folder.join(name);
        Ok(Self {
            file: append_to(&path)?,
            path,
            folder: folder.into(),
            limits,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the open file that of the log's name, with room for a line of `len` bytes.
    fn prepare(&mut self, len: usize) {
        match std::fs::metadata(&self.path) {
            Ok(named) if self.is_full(&named, len) => {
                self.rotate(len);
                self.reopen();
            }
            Ok(named) if self.is_open(&named) => {}
            _ => {
                self.reopen();
            }
        }
    }

    /// Returns whether the file that has the line is in the folder.
    fn append(&mut self, line: &[u8]) -> io::Result<bool> {
        self.file.write_all(line)?;
        Ok(self.file.metadata().map_or(true, |open| open.nlink() > 0))
    }

    fn is_full(&self, named: &Metadata, len: usize) -> bool {
        let most = self.limits.max_size.0;
        most > 0 && named.len() > 0 && named.len() + len as u64 > most
    }

    fn is_open(&self, named: &Metadata) -> bool {
        let open = self.file.metadata();
        open.is_ok_and(|open| (open.dev(), open.ino()) == (named.dev(), named.ino()))
    }

    /// If it cannot be opened, the one that is open goes on.
    fn reopen(&mut self) -> bool {
        match append_to(&self.path) {
            Ok(file) => {
                self.file = file;
                true
            }
            Err(_) => false,
        }
    }

    /// Renames the full file. Who holds the lock does it; nobody waits for a lock that somebody stopped may hold. Whatever
    /// fails here, the log goes on in the file that is there.
    fn rotate(&self, len: usize) {
        let Ok(folder) = File::open(&self.folder) else {
            return;
        };
        let Ok(_lock) = Flock::lock(folder, FlockArg::LockExclusiveNonblock) else {
            return;
        };
        // Somebody may have done it meanwhile.
        if !std::fs::metadata(&self.path).is_ok_and(|named| self.is_full(&named, len)) {
            return;
        }
        let last = self.limits.files - 1;
        // Up to the first free number: one that was killed half-way left it.
        let free = (1..=last).find(|k| !self.numbered(*k).exists()).unwrap_or(last);
        for k in (1..free).rev() {
            let _ = std::fs::rename(self.numbered(k), self.numbered(k + 1));
        }
        let _ = std::fs::rename(&self.path, self.numbered(1));
        // The cluster file kept more of them once.
        for k in last + 1..cluster::Log::MOST_FILES {
            if std::fs::remove_file(self.numbered(k)).is_err() {
                break;
            }
        }
    }

    fn numbered(&self, k: usize) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{k}"));
        name.into()
    }
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        for _ in 0..ATTEMPTS {
            self.prepare(line.len());
            if self.append(line)? {
                break;
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::size::Size;

    fn limits(max_size: u64, files: usize) -> cluster::Log {
        cluster::Log {
            max_size: Size(max_size),
            files,
        }
    }

    /// Each file's name and lines.
    fn logs(folder: &Path) -> BTreeMap<String, String> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        let text = |path: PathBuf| std::fs::read_to_string(path).unwrap();
        entries
            .map(|e| (e.file_name().into_string().unwrap(), text(e.path())))
            .collect()
    }

    #[test]
    fn a_full_log_is_renamed_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::open(dir.path(), "x.log", limits(12, 3)).unwrap();
        for n in 0..9 {
            log.write_all(format!("line{n}\n").as_bytes()).unwrap();
        }
        let have = logs(dir.path());
        let have: Vec<(&str, &str)> = have.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect();
        assert_eq!(
            have,
            [
                ("x.log", "line8\n"),
                ("x.log.1", "line6\nline7\n"),
                ("x.log.2", "line4\nline5\n")
            ]
        );
    }

    #[test]
    fn a_rotation_that_was_cut_short_loses_nothing_in_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("x.log", "e\n"), ("x.log.2", "d\n"), ("x.log.3", "c\n")] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let mut log = LogFile::open(dir.path(), "x.log", limits(2, 4)).unwrap();
        log.write_all(b"f\n").unwrap();
        let have = logs(dir.path());
        let text: Vec<&str> = have.values().map(String::as_str).collect();
        assert_eq!(text, ["f\n", "e\n", "d\n", "c\n"]);
    }

    #[test]
    fn fewer_files_are_kept_when_the_cluster_file_says_so() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("x.log", "f\n"),
            ("x.log.1", "e\n"),
            ("x.log.2", "d\n"),
            ("x.log.3", "c\n"),
        ] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let mut log = LogFile::open(dir.path(), "x.log", limits(2, 2)).unwrap();
        log.write_all(b"g\n").unwrap();
        let have = logs(dir.path());
        let text: Vec<&str> = have.values().map(String::as_str).collect();
        assert_eq!(text, ["g\n", "f\n"]);
    }

    #[test]
    fn a_log_that_somebody_renamed_or_removed_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let mut log = LogFile::open(dir.path(), "x.log", limits(0, 5)).unwrap();
        log.write_all(b"a\n").unwrap();
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        log.write_all(b"b\n").unwrap();
        std::fs::remove_file(&path).unwrap();
        log.write_all(b"c\n").unwrap();
        let have = logs(dir.path());
        let have: Vec<(&str, &str)> = have.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect();
        assert_eq!(have, [("old", "a\n"), ("x.log", "c\n")]);
    }

    #[test]
    fn a_line_for_a_file_that_has_gone_is_known_to_be_lost() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::open(dir.path(), "x.log", limits(0, 5)).unwrap();
        assert!(log.append(b"a\n").unwrap());
        // As if the log went round between its look at the name and its write.
        std::fs::remove_file(log.path()).unwrap();
        assert!(!log.append(b"lost\n").unwrap());
        log.write_all(b"b\n").unwrap();
        assert_eq!(logs(dir.path())["x.log"], "b\n");
    }

    /// An open file has its own lock, in one process as in several.
    #[test]
    fn many_writers_lose_and_tear_no_line() {
        const WRITERS: usize = 6;
        const LINES: usize = 400;
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let folder = dir.path();
                scope.spawn(move || {
                    let mut log = LogFile::open(folder, "x.log", limits(2048, 100)).unwrap();
                    for n in 0..LINES {
                        let tail = "=".repeat(n % 40);
                        log.write_all(format!("{writer} {n} {tail}\n").as_bytes())
                            .unwrap();
                    }
                });
            }
        });
        let have = logs(dir.path());
        let mut lines: Vec<&str> = have.values().flat_map(|text| text.lines()).collect();
        lines.sort_unstable();
        let mut wanted: Vec<String> = (0..WRITERS)
            .flat_map(|w| (0..LINES).map(move |n| format!("{w} {n} {}", "=".repeat(n % 40))))
            .collect();
        wanted.sort_unstable();
        assert_eq!(lines, wanted);
        assert!(have.len() > 10, "it was never full");
    }
}
