//! Open files, the least recently used closed first: there may be many more segments than descriptors.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub struct Handles {
    folder: PathBuf,
    most: usize,
    clock: u64,
    open: HashMap<u64, (Arc<File>, u64)>,
    by_use: BTreeMap<u64, u64>,
}

impl Handles {
    /// Segment files lie under `folder`, in sub-folders of a thousand or so.
    pub fn new(folder: &Path, most: usize) -> Self {
        Self {
            folder: folder.into(),
            most: most.max(1),
            clock: 0,
            open: HashMap::new(),
            by_use: BTreeMap::new(),
        }
    }

    pub fn path(&self, number: u64) -> PathBuf {
        self.folder
            .join(format!("{:06x}", number >> 10))
            .join(format!("{number:012x}.seg"))
    }

    /// The number in a segment file's name.
    pub fn number(path: &Path) -> Option<u64> {
        let name = path.file_name()?.to_str()?.strip_suffix(".seg")?;
        u64::from_str_radix(name, 16).ok()
    }

    pub fn get(&mut self, number: u64) -> io::Result<Arc<File>> {
        self.clock += 1;
        if let Some((file, used)) = self.open.get_mut(&number) {
            self.by_use.remove(used);
            *used = self.clock;
            self.by_use.insert(self.clock, number);
            return Ok(file.clone());
        }
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .open(self.path(number))?;
        Ok(self.keep(number, file))
    }

    /// Makes an empty file.
    pub fn create(&mut self, number: u64) -> io::Result<Arc<File>> {
        let path = self.path(number);
        let options = OpenOptions::new()
            .read(true)
            .append(true)
            .create_new(true)
            .to_owned();
        let file = match options.open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir_all(path.parent().unwrap_or(&self.folder))?;
                options.open(&path)?
            }
            other => other?,
        };
        self.clock += 1;
        Ok(self.keep(number, file))
    }

    fn keep(&mut self, number: u64, file: File) -> Arc<File> {
        while self.open.len() >= self.most {
            let Some((_, oldest)) = self.by_use.pop_first() else {
                break;
            };
            self.open.remove(&oldest);
        }
        let file = Arc::new(file);
        self.open.insert(number, (file.clone(), self.clock));
        self.by_use.insert(self.clock, number);
        file
    }

    /// Removes the file; one that is not there is as good as removed.
    pub fn remove(&mut self, number: u64) {
        if let Some((_, used)) = self.open.remove(&number) {
            self.by_use.remove(&used);
        }
        let path = self.path(number);
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            // Swept at the next start.
            tracing::warn!(path = %path.display(), error = %error, "REMOVE_FAILED");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn more_files_than_handles() {
        let dir = tempfile::tempdir().unwrap();
        let mut handles = Handles::new(dir.path(), 3);
        for n in 0..10 {
            handles
                .create(n * 1000)
                .unwrap()
                .as_ref()
                .write_all(&[n as u8])
                .unwrap();
        }
        for n in (0..10).rev() {
            handles.get(n * 1000).unwrap().as_ref().write_all(b"x").unwrap();
            assert!(handles.open.len() <= 3 && handles.by_use.len() == handles.open.len());
        }
        for n in 0..10u64 {
            let path = handles.path(n * 1000);
            assert_eq!(std::fs::read(&path).unwrap(), [n as u8, b'x']);
            assert_eq!(Handles::number(&path), Some(n * 1000));
        }
        handles.remove(0);
        handles.remove(0);
        assert!(!handles.path(0).exists() && handles.get(0).is_err());
    }
}
