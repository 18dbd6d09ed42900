//! What a program leaves behind: helpers in the background, whatever they did to get away (`setsid`, `nohup`, two forks).
//!
//! A process that adopts (Linux: a child subreaper, `prctl(2)`) becomes the parent of every process below it that has lost its
//! own, instead of process 1. So what an operator left behind is found as a child that nobody here started:
//!
//! ```text
//!   host ---> worker ---> operator ---> helper       all there
//!                |--------------------> helper       the operator ended: its worker ends what it left
//!     |-------------------------------> helper       the worker was killed: its host does
//! ```
//! A worker whose host was killed is told by the kernel ([`end_with_parent`]) and ends its operator before itself. Where all of
//! them are killed at once, helpers are found by a mark in their environment, by the next host on that machine.
//!
//! To be used on one thread: what was started must be registered ([`own`]) before anybody looks for orphans.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getppid};

use crate::clock;

/// Who was killed is gone at once. What is not (it hangs in the kernel) is not waited for any longer.
const WITHIN: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(1);
/// Environment variable that marks what a process has started: its number, when it started, and a count.
pub const MARK: &str = "RAINSTORM_STARTED_BY";

static ADOPTS: AtomicBool = AtomicBool::new(false);
static OWN: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn lock() -> MutexGuard<'static, BTreeSet<i32>> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on what processes below this one leave behind becomes a child of this one. Not for a process that starts daemons
/// (such as SSH masters): they would be taken for orphans.
pub fn adopt() -> io::Result<()> {
    // What ran before this program took the process over (a shell's `exec`) is none of ours.
    let before = orphans();
    lock().extend(before.into_iter().map(Pid::as_raw));
    nix::sys::prctl::set_child_subreaper(true)?;
    ADOPTS.store(true, Ordering::Relaxed);
    Ok(())
}

/// A child that is no orphan, as long as this lives.
#[derive(Debug)]
pub struct Own(i32);

/// Registers a child, right after it was started.
pub fn own(pid: u32) -> Own {
    let pid = i32::try_from(pid).unwrap_or(0);
    lock().insert(pid);
    Own(pid)
}

impl Own {
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.0)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        lock().remove(&self.0);
    }
}

/// Has the kernel send `signal` to the program when the thread that starts it ends, however that happens.
#[allow(unsafe_code)] // pre_exec is the only way to have the kernel watch a child whose parent may get SIGKILL
pub fn end_with_parent(command: &mut std::process::Command, signal: Signal) {
    use std::os::unix::process::CommandExt;
    let parent = Pid::this();
    let before_exec = move || {
        nix::sys::prctl::set_pdeathsig(signal)?;
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

/// A value for [`MARK`]: no other process of this machine is given it.
pub fn new_mark() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let me = std::process::id();
    let started = stat(me as i32).map_or(0, |s| s.started);
    format!("{me}.{started}.{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Kills every child that nobody here started, and what these leave in turn. `dying`: a child that has been killed, whose
/// orphans come when it is dead. Without [`adopt`] there are none to be found; then what has the mark is killed.
pub fn end(dying: Option<Pid>, mark: Option<&str>) {
    let adopts = ADOPTS.load(Ordering::Relaxed);
    let find = || match (adopts, mark) {
        (true, _) => orphans(),
        (false, Some(mark)) => marked(|m| m == mark),
        (false, None) => vec![],
    };
    end_all(dying, find);
}

/// Kills what processes that are gone have started under [`MARK`] and left behind. For where nobody was left to adopt it.
/// Numbers mean something in one PID namespace only: what runs in others (containers) is none of ours.
pub fn end_left_behind() {
    let space = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let here = space("self");
    let left = |mark: &str| {
        let mut parts = mark.split('.').map(str::parse::<u64>);
        let (Some(Ok(pid)), Some(Ok(started))) = (parts.next(), parts.next()) else {
            return false;
        };
        let by = i32::try_from(pid).ok().and_then(stat);
        by.is_none_or(|by| by.is_zombie || by.started != started)
    };
    end_all(None, || {
        let mut found = marked(left);
        found.retain(|pid| here.is_some() && space(&pid.to_string()) == here);
        found
    });
}

fn end_all(dying: Option<Pid>, find: impl Fn() -> Vec<Pid>) {
    let by = clock::now() + WITHIN;
    // A look is no moment: a process may be looked at right before its parent dies, and that parent right after. So nobody is left
    // only when two looks in a row have found nobody.
    let mut clear = 0;
    loop {
        let dead = dying
            .and_then(|pid| stat(pid.as_raw()))
            .is_none_or(|s| s.is_zombie);
        let found = find();
        clear = if dead && found.is_empty() { clear + 1 } else { 0 };
        if clear == 2 {
            return;
        }
        for pid in &found {
            // Gone already: that is what is wanted. Only a child can be waited for.
            let _ = kill(*pid, Signal::SIGKILL);
            let _ = waitpid(*pid, Some(WaitPidFlag::WNOHANG));
        }
        if clock::now() > by {
            let pids: Vec<String> = found.iter().map(Pid::to_string).collect();
            tracing::warn!(
                pids = pids.join(","),
                why = "killed, but not gone yet",
                "ORPHANS_LEFT"
            );
            return;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Takes the ends of orphans that ended by themselves, so that their numbers become free.
pub fn reap() {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while let Ok(status) = waitid(Id::All, flags) {
        let (WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) = status else {
            return;
        };
        // Whoever started it waits for it, and is about to; later calls find what is behind it.
        if lock().contains(&pid.as_raw()) || waitpid(pid, Some(WaitPidFlag::WNOHANG)).is_err() {
            return;
        }
    }
}

fn orphans() -> Vec<Pid> {
    let mut found = children().unwrap_or_else(children_by_stat);
    let own = lock();
    found.retain(|pid| !own.contains(pid));
    found.into_iter().map(Pid::from_raw).collect()
}

/// This process's children, each listed under the thread that it belongs to; `None`: this kernel does not list them
/// (`CONFIG_PROC_CHILDREN`). proc(5): while a child ends the list may lack others, so one look is not enough.
fn children() -> Option<Vec<i32>> {
    let mut all = vec![];
    for thread in std::fs::read_dir("/proc/self/task").ok()?.flatten() {
        match std::fs::read_to_string(thread.path().join("children")) {
            Ok(list) => all.extend(
                list.split_ascii_whitespace()
                    .filter_map(|pid| pid.parse::<i32>().ok()),
            ),
            // A thread that has ended meanwhile has given its children to another.
            Err(_) if !thread.path().exists() => {}
            Err(_) => return None,
        }
    }
    Some(all)
}

/// The same from the parents of all processes, of which a machine may have many.
fn children_by_stat() -> Vec<i32> {
    let me = Pid::this().as_raw();
    let mut found = processes();
    found.retain(|pid| stat(*pid).is_some_and(|s| s.parent == me));
    found
}

/// Processes of this user with a mark for which `wanted` says so.
fn marked(wanted: impl Fn(&str) -> bool) -> Vec<Pid> {
    let has = |pid: &i32| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|b| *b == 0).any(|variable| {
            let mark = variable
                .strip_prefix(MARK.as_bytes())
                .and_then(|v| v.strip_prefix(b"="));
            mark.is_some_and(|mark| wanted(&String::from_utf8_lossy(mark)))
        })
    };
    let me = Pid::this().as_raw();
    let found = processes().into_iter().filter(|pid| *pid != me && has(pid));
    let own = lock();
    found
        .filter(|pid| !own.contains(pid))
        .map(Pid::from_raw)
        .collect()
}

fn processes() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

struct Stat {
    is_zombie: bool,
    parent: i32,
    /// Clock ticks since the machine started.
    started: u64,
}

/// proc(5): the name, in parentheses, may hold anything; the fields behind it are numbered from 3.
fn stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    Some(Stat {
        is_zombie: matches!(*fields.first()?, "Z" | "X"),
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_listed_by_the_kernel_as_by_their_parents() {
        let mut sleeps: Vec<_> = (0..3)
            .map(|_| std::process::Command::new("sleep").arg("60").spawn().unwrap())
            .collect();
        let pids: Vec<i32> = sleeps.iter().map(|s| s.id() as i32).collect();
        let lists = [children(), Some(children_by_stat())];
        for list in lists.iter().flatten() {
            assert!(pids.iter().all(|pid| list.contains(pid)), "{pids:?}: {list:?}");
        }
        for sleep in &mut sleeps {
            sleep.kill().unwrap();
            sleep.wait().unwrap();
        }
    }
}
