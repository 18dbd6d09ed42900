//! Starting a program so that nothing of it is left behind.
//!
//! It leads a process group of its own, which is killed as a whole. A worker killed with SIGKILL runs no destructor:
//! for that the kernel is asked to kill the program when the thread that started it ends, and what the program itself
//! started sees its pipes close.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getppid};
use tokio::process::{Child, Command};

use crate::operator::Error;

/// The file may be open for writing for a moment still: in another child between fork and exec.
const BUSY_TRIES: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// A running program. Dropped, its whole group is killed.
#[derive(Debug)]
pub struct Group {
    pub child: Child,
    group: Option<Pid>,
}

impl Group {
    /// Starts the program with all three standard streams piped (`input` false: nothing to read). To be called on a
    /// thread that outlives it.
    pub async fn start(
        exe: &Path,
        args: &[String],
        env: &[(String, String)],
        input: bool,
    ) -> Result<Self, Error> {
        let mut command = Command::new(exe);
        command.args(args).envs(env.iter().map(|(k, v)| (k, v)));
        command.stdin(if input { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        die_with_this_thread(&mut command);
        let mut tries = 0;
        loop {
            match command.spawn() {
                Ok(child) => {
                    let group = child
                        .id()
                        .and_then(|id| i32::try_from(id).ok())
                        .map(Pid::from_raw);
                    return Ok(Self { child, group });
                }
                Err(e) if e.raw_os_error() == Some(Errno::ETXTBSY as i32) && tries < BUSY_TRIES => {
                    tries += 1;
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                Err(e) => return Err(not_started(exe, &e)),
            }
        }
    }

    /// Kills everything in the group. The number cannot have passed to another group: either the program has not been
    /// waited for, or this comes right after.
    pub fn kill(&mut self) {
        if let Some(group) = self.group.take() {
            // Gone already: that is what is wanted.
            let _ = killpg(group, Signal::SIGKILL);
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
        Some(Errno::ENOENT) if exe.exists() => {
            "; the interpreter named in its first line (#!) is not on this node"
        }
        Some(Errno::ENOENT) => "; give the path of an executable",
        Some(Errno::EACCES) => "; make it executable: chmod +x",
        _ => "",
    };
    Error::fatal(format!(
        "the operator {} cannot be started: {e}{advice}",
        exe.display()
    ))
}

#[allow(unsafe_code)] // pre_exec is the only way to have the kernel kill a child whose parent got SIGKILL
fn die_with_this_thread(command: &mut Command) {
    let parent = Pid::this();
    let before_exec = move || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have died before the request was made.
        if getppid() == parent {
            Ok(())
        } else {
            Err(Errno::ESRCH.into())
        }
    };
    // SAFETY: between fork and exec the closure makes two system calls; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(before_exec) };
}
