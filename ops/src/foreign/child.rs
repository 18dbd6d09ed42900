//! Starting a program so that nothing of it is left behind.
//!
//! It leads a process group of its own, which is killed as a whole; what got away from there is ended as an orphan
//! ([`common::orphans`]). A worker killed with SIGKILL runs no destructor: for that the kernel is asked to kill the program
//! when the thread that started it ends, and the worker's host ends what the program itself had started.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use common::orphans;
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use tokio::process::{Child, Command};

use crate::operator::Error;

/// The file may be open for writing for a moment still: in another child between fork and exec.
const BUSY_TRIES: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// A running program. Dropped, its whole group is killed.
#[derive(Debug)]
pub struct Group {
    pub child: Child,
    /// While there is something to kill. Its leader has the group's number.
    leader: Option<orphans::Own>,
    mark: String,
}

impl Group {
    /// Starts the program in `folder` (or where this one is) with all three standard streams piped (`input` false: nothing to
    /// read). To be called on a thread that outlives it.
    pub async fn start(
        exe: &Path,
        args: &[String],
        env: &[(String, String)],
        folder: Option<&Path>,
        input: bool,
    ) -> Result<Self, Error> {
        // What the system would only call "no such file", or give to `sh`.
        super::runnable::check(exe)
            .map_err(|e| Error::fatal(format!("the operator cannot be started: {e}")))?;
        let mut command = Command::new(exe);
        let mark = orphans::new_mark();
        command.args(args).env(orphans::MARK, &mark);
        command.envs(env.iter().map(|(k, v)| (k, v)));
        if let Some(folder) = folder {
            command.current_dir(folder).env("TMPDIR", folder);
        }
        command.stdin(if input { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        orphans::end_with_parent(command.as_std_mut(), Signal::SIGKILL);
        let mut tries = 0;
        loop {
            match command.spawn() {
                Ok(child) => {
                    let leader = child.id().map(orphans::own);
                    return Ok(Self { child, leader, mark });
                }
                Err(e) if e.raw_os_error() == Some(Errno::ETXTBSY as i32) && tries < BUSY_TRIES => {
                    tries += 1;
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                Err(e) => return Err(not_started(exe, &e)),
            }
        }
    }

    /// Kills everything in the group, and what has left it. The number cannot have passed to another group: either the program
    /// has not been waited for, or this comes right after.
    pub fn kill(&mut self) {
        if let Some(leader) = self.leader.take() {
            // Gone already: that is what is wanted.
            let _ = killpg(leader.pid(), Signal::SIGKILL);
            orphans::end(Some(leader.pid()), Some(&self.mark));
        }
    }

    /// The program's end. What it has started ends with it. May be dropped and called again.
    pub async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        let status = self.child.wait().await;
        self.kill();
        status
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

fn not_started(exe: &Path, e: &std::io::Error) -> Error {
    let advice = match e.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EACCES) => "; may this user run it, and is its file system mounted without noexec?",
        _ => "",
    };
    Error::fatal(format!(
        "the operator {} cannot be started: {e}{advice}",
        exe.display()
    ))
}
