//! A regular local file, read to its end. One that becomes shorter meanwhile (a log that is rotated by `copytruncate`) is an error: what
//! was read is a file that nobody ever had. One that grows has just not all in it yet.

use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::fs::File;
use tokio::io::{AsyncRead, ReadBuf};

/// How much is read at a time.
const PIECE: usize = 1024 * 1024;

pub struct Regular {
    path: PathBuf,
    file: File,
    /// To look at it while the other reads: the same open file.
    same: std::fs::File,
    at_first: Metadata,
    read: u64,
}

impl Regular {
    /// What is no regular file comes back: it has no size to compare with.
    pub async fn new(path: &Path, file: File) -> io::Result<Result<Self, File>> {
        let at_first = file.metadata().await?;
        if !at_first.is_file() {
            return Ok(Err(file));
        }
        let same = file.try_clone().await?.into_std().await;
        let mut file = file;
        file.set_max_buf_size(PIECE);
        Ok(Ok(Self {
            path: path.to_owned(),
            file,
            same,
            at_first,
            read: 0,
        }))
    }

    pub fn size(&self) -> u64 {
        self.at_first.len()
    }

    /// `ended`: there is no more.
    fn check(&self, ended: bool) -> io::Result<()> {
        let (size, read) = (self.size(), self.read);
        if read >= size {
            return Ok(());
        }
        let now = self.same.metadata()?;
        // It may have grown again already. Files that always yield less than they say (in /sys) do not change for it.
        let changed = ended && now.modified()? != self.at_first.modified()?;
        match now.len() < size || changed {
            false => Ok(()),
            true => Err(io::Error::other(format!(
                "{} became shorter while it was read ({size} bytes, {read} read)",
                self.path.display()
            ))),
        }
    }
}

impl AsyncRead for Regular {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let (before, room) = (into.filled().len(), into.remaining());
        ready!(Pin::new(&mut this.file).poll_read(cx, into))?;
        let came = into.filled().len() - before;
        this.read += came as u64;
        let checked = this.check(came == 0 && room > 0);
        if checked.is_err() {
            // A read that fails has read nothing.
            into.set_filled(before);
        }
        Poll::Ready(checked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use tokio::io::AsyncReadExt;

    const SIZE: usize = 3 * PIECE;

    /// What reading comes to when `meanwhile` happens after the first bytes.
    async fn read(meanwhile: impl FnOnce(&Path)) -> Result<usize, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, vec![b'x'; SIZE]).unwrap();
        let file = File::open(&path).await.unwrap();
        let Ok(mut file) = Regular::new(&path, file).await.unwrap() else {
            panic!("a regular file")
        };
        let mut all = vec![0; 10];
        file.read_exact(&mut all).await.unwrap();
        meanwhile(&path);
        let read = file.read_to_end(&mut all).await;
        read.map(|_| all.len()).map_err(|e| e.to_string())
    }

    #[tokio::test]
    async fn a_file_that_becomes_shorter_is_an_error_and_one_that_grows_is_none() {
        assert_eq!(read(|_| {}).await, Ok(SIZE));
        let grow = |path: &Path| {
            let mut file = std::fs::File::options().append(true).open(path).unwrap();
            file.write_all(b"more").unwrap();
        };
        assert_eq!(read(grow).await, Ok(SIZE + 4));
        for left in [0, 5, SIZE as u64 - 1] {
            let cut = |path: &Path| {
                let file = std::fs::File::options().write(true).open(path).unwrap();
                file.set_len(left).unwrap();
            };
            let said = read(cut).await.unwrap_err();
            let named = said.contains("/log became shorter while it was read");
            assert!(named && said.contains(&format!("({SIZE} bytes, ")), "{said}");
        }
    }

    #[tokio::test]
    async fn what_has_no_size_is_no_regular_file_and_files_of_the_system_end_where_they_do() {
        let null = File::open("/dev/null").await.unwrap();
        assert!(Regular::new(Path::new("/dev/null"), null).await.unwrap().is_err());
        for path in ["/proc/self/status", "/sys/kernel/mm/transparent_hugepage/enabled"] {
            let Ok(file) = File::open(path).await else {
                continue;
            };
            let Ok(mut file) = Regular::new(Path::new(path), file).await.unwrap() else {
                panic!("a regular file")
            };
            let mut text = String::new();
            file.read_to_string(&mut text).await.unwrap();
            assert!(!text.is_empty(), "{path}");
        }
    }
}
