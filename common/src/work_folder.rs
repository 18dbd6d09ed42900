//! Folders for operators to work in: one for each process, `tasks/JOB/TASK.EPOCH` in the node's data folder, removed when the process
//! has ended.
//!
//! Who has one holds a lock on it, which ends with its process, however that ends. So whoever gets the lock may remove the folder: a
//! worker removes its own, and its host, the next worker and the storage daemon's start remove what others have left.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::ids::{Epoch, JobName, TaskId};

/// How often others may remove a folder between its making and its locking.
const TRIES: u32 = 20;

/// Removed when it is dropped.
#[derive(Debug)]
pub struct WorkFolder {
    path: PathBuf,
    _lock: Flock<File>,
}

impl WorkFolder {
    /// Makes an empty one, of the user's own. What is left of others' goes.
    pub fn make(data: &Path, job: &JobName, task: TaskId, epoch: Epoch) -> io::Result<Self> {
        sweep(data);
        let of_job = place(data).join(job.as_str());
        let path = of_job.join(format!("{task}.{epoch}"));
        let mut why = io::Error::from(io::ErrorKind::AlreadyExists);
        for _ in 0..TRIES {
            fs::create_dir_all(&of_job)?;
            match DirBuilder::new().mode(0o700).create(&path) {
                // The job's folder went with the last one in it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    why = error;
                    continue;
                }
                // Its process has ended or is another with the same number: the lock says.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    sweep(data);
                    why = error;
                    continue;
                }
                made => made?,
            }
            if let Some(lock) = lock(&path) {
                return Ok(Self { path, _lock: lock });
            }
        }
        Err(why)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn place(data: &Path) -> PathBuf {
    data.join("tasks")
}

/// The lock on the folder that is there under this name, if nobody else has it.
fn lock(path: &Path) -> Option<Flock<File>> {
    let lock = Flock::lock(File::open(path).ok()?, FlockArg::LockExclusiveNonblock).ok()?;
    let (held, there) = (lock.metadata().ok()?, fs::metadata(path).ok()?);
    ((held.dev(), held.ino()) == (there.dev(), there.ino())).then_some(lock)
}

/// What cannot be removed now (its program is just being killed) goes with the next sweep.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::info!(folder = %path.display(), error = %error, "WORK_FOLDER_LEFT");
    }
    // With the last of its job.
    if let Some(of_job) = path.parent() {
        let _ = fs::remove_dir(of_job);
    }
}

/// Removes the folders of processes that have ended.
pub fn sweep(data: &Path) {
    for of_job in entries(&place(data)) {
        let all = entries(&of_job);
        if all.is_empty() {
            let _ = fs::remove_dir(&of_job);
        }
        for path in all {
            if let Some(_lock) = lock(&path) {
                remove(&path);
            }
        }
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_has_its_own_until_it_ends_and_what_others_left_goes() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path();
        let (job, epoch) = (JobName::new("j").unwrap(), Epoch(2));
        let make = |index| WorkFolder::make(data, &job, TaskId::new(1, index), epoch).unwrap();
        let left = place(data).join("old/s1t0.1");
        fs::create_dir_all(left.join("sub")).unwrap();
        fs::write(left.join("sub/here.tmp"), "x").unwrap();
        let (one, two) = (make(0), make(1));
        assert!(!left.parent().unwrap().exists());
        assert!(one.path().ends_with("tasks/j/s1t0.2") && two.path().ends_with("s1t1.2"));
        assert_eq!(fs::metadata(one.path()).unwrap().mode() & 0o777, 0o700);
        fs::write(one.path().join("here.tmp"), "x").unwrap();
        // Nobody takes away what is in use.
        sweep(data);
        assert!(one.path().join("here.tmp").exists());
        let same = WorkFolder::make(data, &job, TaskId::new(1, 0), epoch);
        assert_eq!(same.unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let path = one.path().to_owned();
        drop(one);
        assert!(!path.exists() && two.path().exists());
        drop(two);
        assert_eq!(entries(&place(data)), Vec::<PathBuf>::new());
    }
}
