//! Small file systems for the nodes' data folders.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::succeed;

/// A file system in memory, unmounted when dropped, whatever still uses it.
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    pub fn mount(at: &Path, megabytes: u32) -> Result<Self> {
        let mut mount = Command::new("mount");
        mount.args([
            "-t",
            "tmpfs",
            "-o",
            &format!("size={megabytes}m"),
            "rainstorm-test",
        ]);
        succeed(mount.arg(at))?;
        Ok(Self(at.into()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        if let Err(error) = succeed(Command::new("umount").arg("--lazy").arg(&self.0)) {
            eprintln!("unmounting: {error:#}");
        }
    }
}

/// Whether file systems can be mounted here; why not, otherwise.
pub fn is_possible() -> Result<(), String> {
    let tried = tempfile::tempdir().map_err(anyhow::Error::from);
    let tried = tried.and_then(|folder| Tmpfs::mount(folder.path(), 1).map(|mount| (mount, folder).0));
    tried.map(drop).map_err(|e| format!("{e:#}"))
}
