//! The meta log: an append-only file of [`Meta`] records, rewritten as a snapshot when it has grown far beyond one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use super::frame::{self, Found, MAGIC_LEN, Scan};
use super::record::{META_MAGIC, Meta};

/// A log shorter than this is never rewritten.
const SMALL: u64 = 4 * 1024 * 1024;
/// So much room is kept behind its end, for what is to be written down though the disk is full: some hundred records.
const RESERVE: u64 = 64 * 1024;
/// A log that could not be rewritten grows by this much before that is tried again: it costs as much as all that is written to the new one.
const TRY_AGAIN: u64 = 256 * 1024;

pub struct MetaLog {
    path: PathBuf,
    file: File,
    size: u64,
    /// Its length as a snapshot.
    snapshot: u64,
    pub unsynced: bool,
    /// The end of the log was torn when it was opened, and was cut off.
    pub torn: bool,
    /// The file system keeps room for the log up to here.
    reserved: u64,
    /// Its size when it could not be rewritten: it is tried again when it has grown some more.
    not_rewritten_at: Option<u64>,
}

/// How records stand to the room on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// They leave the reserve as it is.
    Room,
    /// What the protocol remembers, a few hundred bytes at a time: half of the reserve is for it, so that a node takes part while its disk is full.
    Memory,
    /// What they say frees room.
    MakesRoom,
}

impl Need {
    /// How much of the reserve is to be left behind them.
    fn leaves(self) -> u64 {
        match self {
            Need::Room => RESERVE,
            Need::Memory => RESERVE / 2,
            Need::MakesRoom => 0,
        }
    }
}

#[derive(Debug)]
pub enum OpenError {
    Io(io::Error),
    /// Something else than was written lies at this byte: what the node remembers cannot be trusted.
    Damaged {
        path: PathBuf,
        at: u64,
    },
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl MetaLog {
    /// Opens (or makes) the log and hands over its records. A torn tail is cut off.
    pub fn open(path: &Path, mut replay: impl FnMut(Meta)) -> Result<Self, OpenError> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)?;
        let mut scan = Scan::new(&file)?;
        let damaged = |at| OpenError::Damaged {
            path: path.into(),
            at,
        };
        let magic = scan.bytes(0, MAGIC_LEN as usize)?;
        let (mut at, mut torn) = (MAGIC_LEN, false);
        if magic != META_MAGIC {
            if !META_MAGIC.starts_with(magic) {
                return Err(damaged(0));
            }
            file.set_len(0)?;
            (&file).write_all(&META_MAGIC)?;
        } else {
            loop {
                match scan.record(at)? {
                    Found::Record(meta, next) => {
                        replay(meta);
                        at = next;
                    }
                    Found::End => break,
                    Found::Torn => {
                        torn = true;
                        file.set_len(at)?;
                        break;
                    }
                    Found::Damaged => return Err(damaged(at)),
                }
            }
        }
        Ok(Self {
            path: path.into(),
            file,
            size: at,
            snapshot: 0,
            unsynced: true,
            torn,
            reserved: 0,
            not_rewritten_at: None,
        })
    }

    /// All of them or, on failure, none.
    pub fn write(&mut self, records: &[Meta], need: Need) -> io::Result<()> {
        let mut bytes = Vec::new();
        for record in records {
            frame::put(record, &mut bytes)?;
        }
        self.reserve(bytes.len() as u64, need.leaves())?;
        #[cfg(test)]
        let room = match need {
            Need::Room => super::room::take(&self.file, bytes.len()),
            Need::Memory | Need::MakesRoom => Ok(()),
        };
        #[cfg(not(test))]
        let room = Ok::<(), io::Error>(());
        if let Err(error) = room.and_then(|()| (&self.file).write_all(&bytes)) {
            self.file.set_len(self.size)?;
            self.reserved = 0;
            return Err(error);
        }
        self.size += bytes.len() as u64;
        self.unsynced = true;
        Ok(())
    }

    /// Room for `len` bytes, and `rest` behind them.
    fn reserve(&mut self, len: u64, rest: u64) -> io::Result<()> {
        let reserve = |room: u64| {
            let flags = FallocateFlags::FALLOC_FL_KEEP_SIZE;
            fallocate(&self.file, flags, self.size as i64, room as i64).map(|()| self.size + room)
        };
        if self.size + len + rest <= self.reserved {
            return Ok(());
        }
        // More than is needed, if that can be had: then it is not asked for each time.
        self.reserved = match reserve(len + 2 * RESERVE).or_else(|_| reserve(len + rest)) {
            Ok(end) => end,
            Err(Errno::ENOSPC | Errno::EDQUOT) => return Err(io::ErrorKind::StorageFull.into()),
            // A file system that keeps no room: then there is no reserve.
            Err(_) => u64::MAX,
        };
        Ok(())
    }

    pub fn sync(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.unsynced) {
            self.file.sync_data()?;
        }
        Ok(())
    }

    pub fn outgrown(&self) -> bool {
        let again = self.not_rewritten_at.is_none_or(|at| self.size >= at + TRY_AGAIN);
        again && self.size > SMALL.max(4 * self.snapshot)
    }

    /// Puts a snapshot in the log's place. On failure the log goes on as it was, and nothing is left of the snapshot, which may have filled the disk.
    pub fn rewrite(&mut self, records: impl Iterator<Item = Meta>) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let written = Self::snapshot(&new, records)
            .and_then(|written| std::fs::rename(&new, &self.path).map(|()| written));
        let (file, size) = match written {
            Ok(written) => written,
            Err(error) => {
                self.not_rewritten_at = Some(self.size);
                std::fs::remove_file(&new).ok();
                return Err(error);
            }
        };
        // From here on it is the log, whether or not its name is durable.
        (self.file, self.size, self.snapshot, self.unsynced) = (file, size, size, false);
        (self.reserved, self.not_rewritten_at) = (0, None);
        if let Some(folder) = self.path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }

    /// A log of these records; its size.
    fn snapshot(path: &Path, records: impl Iterator<Item = Meta>) -> io::Result<(File, u64)> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)?;
        file.set_len(0)?;
        let mut out = io::BufWriter::with_capacity(256 * 1024, &file);
        out.write_all(&META_MAGIC)?;
        let (mut size, mut bytes) = (MAGIC_LEN, Vec::new());
        for record in records {
            bytes.clear();
            frame::put(&record, &mut bytes)?;
            #[cfg(test)]
            super::room::take(&file, bytes.len())?;
            out.write_all(&bytes)?;
            size += bytes.len() as u64;
        }
        out.flush()?;
        drop(out);
        // Or a power failure could leave the name pointing to nothing.
        file.sync_all()?;
        Ok((file, size))
    }
}
