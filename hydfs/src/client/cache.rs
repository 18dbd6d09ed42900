//! What was got of files, kept on the local disk: least recently used out first, bounded in bytes, shared by all of a user's
//! clients of one cluster.
//!
//! A file in HyDFS only grows, and a name that is removed and made again is another file (another nonce). So a block of bytes of
//! (name, nonce) never changes once it is committed; it can only become longer, when it was the file's last. What a client asks the
//! coordinator before each get is the nonce and the length: nothing stale is ever served, whoever appended.
//!
//! ```text
//! $XDG_CACHE_HOME/rainstorm/<cluster>/       mode 0700
//!     lock      held for moments; holds the bytes of all blocks, 8 of them little-endian
//!     <hash of name and nonce>-<block>       "RSCACHE1" | XXH3-64 of the rest | up to 1 MiB of the file from block * 1 MiB
//! ```
//! Blocks come by renaming, so a reader sees a whole one or none; a damaged one is none. A block's time is when it was last used.

use std::fs::{self, DirBuilder, File, FileTimes};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use common::clock;
use common::secret::Secret;
use nix::fcntl::{Flock, FlockArg};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Bytes of a file in one block.
pub const BLOCK: u64 = 1024 * 1024;
const MAGIC: &[u8; 8] = b"RSCACHE1";
const HEAD: u64 = 16;
/// A block that was not renamed for this long was left behind by a killed process.
const LEFT_BEHIND: Duration = Duration::from_secs(600);

/// One version of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(u128);

impl Key {
    pub fn new(file: &str, nonce: u64) -> Self {
        Self(xxh3_128(&[file.as_bytes(), &[0], &nonce.to_le_bytes()].concat()))
    }
}

/// Blocks of files on the local disk, for readers of this node.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    limit: u64,
    next: AtomicU64,
    pub(super) hits: AtomicU64,
    pub(super) misses: AtomicU64,
}

impl Cache {
    /// The user's cache of the cluster with this secret, of at most `limit` bytes. `None`: the user has no place for caches.
    pub fn of_user(secret: &Secret, limit: u64) -> io::Result<Option<Self>> {
        let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
        let base = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(home);
        let Some(base) = base.filter(|b| b.is_absolute()) else {
            return Ok(None);
        };
        let id = xxh3_64(&secret.key("client cache"));
        Self::open(&base.join("rainstorm").join(format!("{id:016x}")), limit).map(Some)
    }

    /// In that folder, which nobody but the user may be able to look into.
    pub fn open(folder: &Path, limit: u64) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let meta = fs::metadata(folder)?;
        if meta.mode() & 0o077 != 0 || meta.uid() != nix::unistd::geteuid().as_raw() {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the cache folder is not the user's own, or others can look into it (chmod 700)",
            ));
        }
        let cache = Self {
            folder: folder.into(),
            limit,
            next: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        };
        // It may have been larger before.
        if let Some(mut account) = cache.account()
            && account.bytes()? > limit
        {
            cache.sweep(&mut account, limit)?;
        }
        Ok(cache)
    }

    /// Is a file of that length worth keeping? One that does not fit would only drive all else out.
    pub fn takes(&self, len: u64) -> bool {
        len <= self.limit
    }

    /// Blocks served and not served since this was opened.
    pub fn counts(&self) -> (u64, u64) {
        (
            self.hits.load(Ordering::Relaxed),
            self.misses.load(Ordering::Relaxed),
        )
    }

    fn path(&self, key: Key, block: u64) -> PathBuf {
        self.folder.join(format!("{:032x}-{block}", key.0))
    }

    /// How many bytes of that block are here.
    pub fn len(&self, key: Key, block: u64) -> u64 {
        fs::metadata(self.path(key, block)).map_or(0, |m| m.len().saturating_sub(HEAD))
    }

    /// The beginning of a block, as much as is here.
    pub fn get(&self, key: Key, block: u64) -> Option<Bytes> {
        let path = self.path(key, block);
        let mut file = File::open(&path).ok()?;
        let mut all = Vec::with_capacity(file.metadata().ok()?.len() as usize);
        file.read_to_end(&mut all).ok()?;
        if all.len() as u64 <= HEAD || &all[..8] != MAGIC || all[8..16] != xxh3_64(&all[16..]).to_le_bytes() {
            // Torn by a crash of the machine, or not ours.
            let _ = fs::remove_file(&path);
            return None;
        }
        // Used now. Who may not set the time loses a block earlier, no more.
        let _ = file.set_times(FileTimes::new().set_modified(now()));
        Some(Bytes::from(all).slice(HEAD as usize..))
    }

    /// Keeps the beginning of a block. Fails silently: a cache that cannot be written is an empty one.
    pub fn put(&self, key: Key, block: u64, bytes: &[u8]) {
        let _ = self.try_put(key, block, bytes);
    }

    fn try_put(&self, key: Key, block: u64, bytes: &[u8]) -> io::Result<()> {
        let need = HEAD + bytes.len() as u64;
        if bytes.is_empty() || need > self.limit {
            return Ok(());
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let part = self.folder.join(format!("part-{}-{number}", std::process::id()));
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&part)?;
        let head = [MAGIC.as_slice(), &xxh3_64(bytes).to_le_bytes()].concat();
        let written = file.write_all(&head).and_then(|()| file.write_all(bytes));
        let counted = written.and_then(|()| {
            // Counted before it is there: a crash in between makes the count too high until the next sweep.
            let mut account = self.account().ok_or(io::ErrorKind::WouldBlock)?;
            let old = fs::metadata(self.path(key, block)).map_or(0, |m| m.len());
            if old >= need {
                // Another client had more of it.
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let mut total = account.bytes()?;
            if total + need - old > self.limit {
                total = self.sweep(&mut account, (self.limit - self.limit / 8).min(self.limit - need))?;
            }
            account.set(total + need)?;
            fs::rename(&part, self.path(key, block))
        });
        if counted.is_err() {
            let _ = fs::remove_file(&part);
        }
        counted
    }

    fn account(&self) -> Option<Account> {
        let lock = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.folder.join("lock"))
            .ok()?;
        Flock::lock(lock, FlockArg::LockExclusive).ok().map(Account)
    }

    /// Removes what was not used for the longest time until no more than `to` bytes are left; returns how many are.
    fn sweep(&self, account: &mut Account, to: u64) -> io::Result<u64> {
        let mut blocks = Vec::new();
        let now = now();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let Ok(meta) = entry.metadata() else { continue };
            let used = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            if name.starts_with("part-") {
                if now.duration_since(used).is_ok_and(|age| age > LEFT_BEHIND) {
                    let _ = fs::remove_file(entry.path());
                }
            } else if name != "lock" {
                blocks.push((used, meta.len(), entry.path()));
            }
        }
        blocks.sort_unstable();
        let mut total: u64 = blocks.iter().map(|(_, len, _)| len).sum();
        for (_, len, path) in blocks {
            if total <= to {
                break;
            }
            // A reader that has it open reads on.
            fs::remove_file(path)?;
            total -= len;
        }
        account.set(total)?;
        Ok(total)
    }
}

/// The lock, and the count in it.
struct Account(Flock<File>);

impl Account {
    fn bytes(&mut self) -> io::Result<u64> {
        let mut count = [0; 8];
        self.0.seek(SeekFrom::Start(0))?;
        match self.0.read_exact(&mut count) {
            Ok(()) => Ok(u64::from_le_bytes(count)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn set(&mut self, bytes: u64) -> io::Result<()> {
        self.0.seek(SeekFrom::Start(0))?;
        self.0.write_all(&bytes.to_le_bytes())
    }
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(clock::unix_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on_disk(folder: &Path) -> u64 {
        let files = fs::read_dir(folder).unwrap().map(|e| e.unwrap());
        files
            .filter(|e| e.file_name() != "lock")
            .map(|e| e.metadata().unwrap().len())
            .sum()
    }

    #[test]
    fn it_keeps_what_was_used_last_and_never_more_than_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("cache");
        let cache = Cache::open(&folder, 10_000).unwrap();
        let keys: Vec<Key> = (0..20).map(|n| Key::new("f", n)).collect();
        for (i, key) in keys.iter().enumerate() {
            cache.put(*key, 0, &[i as u8; 1000]);
            assert!(on_disk(&folder) <= 10_000);
            // The first is used again and again.
            assert_eq!(cache.get(keys[0], 0).unwrap(), [0; 1000][..], "after {i}");
        }
        assert_eq!(cache.get(keys[19], 0).unwrap(), [19; 1000][..]);
        assert!(cache.get(keys[1], 0).is_none());
        // A smaller limit holds from the start; a file larger than it is not taken.
        let cache = Cache::open(&folder, 3000).unwrap();
        assert!(on_disk(&folder) <= 3000 && cache.get(keys[0], 0).is_some());
        cache.put(keys[5], 0, &[0; 4000]);
        assert!(cache.get(keys[5], 0).is_none() && !cache.takes(3001));
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_block_grows_and_a_damaged_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("c"), 1 << 20).unwrap();
        let key = Key::new("f", 1);
        cache.put(key, 3, b"abc");
        cache.put(key, 3, b"abcdef");
        cache.put(key, 3, b"ab");
        assert_eq!(cache.get(key, 3).unwrap(), "abcdef");
        assert!(cache.get(key, 2).is_none() && cache.get(Key::new("f", 2), 3).is_none());
        assert_eq!(cache.len(key, 3), 6);
        let path = cache.path(key, 3);
        let mut bytes = fs::read(&path).unwrap();
        bytes[18] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(cache.get(key, 3).is_none());
    }

    #[test]
    fn others_may_not_look_into_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert!(Cache::open(folder.path(), 1).is_err());
    }

    #[test]
    fn clients_at_the_same_time_keep_within_the_limit_and_read_what_was_put() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("cache");
        let work = |who: u8| {
            let folder = folder.clone();
            move || {
                let cache = Cache::open(&folder, 20_000).unwrap();
                for round in 0..200u64 {
                    let (key, byte) = (Key::new("f", round % 40), (round % 40) as u8);
                    cache.put(key, 0, &vec![byte; 500 + usize::from(who)]);
                    if let Some(bytes) = cache.get(Key::new("f", (round * 7) % 40), 0) {
                        assert!(bytes.iter().all(|b| *b == ((round * 7) % 40) as u8));
                    }
                }
            }
        };
        let threads: Vec<_> = (0..4).map(|who| std::thread::spawn(work(who))).collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert!(on_disk(&folder) <= 20_000);
        let cache = Cache::open(&folder, 20_000).unwrap();
        let counted = cache.account().unwrap().bytes().unwrap();
        assert!(counted >= on_disk(&folder), "{counted}");
    }
}
