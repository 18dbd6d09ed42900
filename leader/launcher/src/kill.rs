//! Killing a worker, on its own node: by a descriptor of the process, so that no other is hit that has got its number.

use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Kills process `pid` of this machine if it is a worker and its command line (words with spaces between) holds `must`.
/// Returns that line.
pub fn kill_worker(pid: u32, must: &str) -> Result<String, String> {
    let gone = || format!("there is no process {pid}");
    let failed = |error: Errno| match error {
        Errno::SRCH => gone(),
        error => format!("process {pid} was not killed: {error}"),
    };
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    // From here on it is this process that is meant, or none.
    let process = pidfd_open(number.ok_or_else(gone)?, PidfdFlags::empty()).map_err(failed)?;
    let file = Path::new("/proc").join(pid.to_string()).join("cmdline");
    let line = std::fs::read(file).unwrap_or_default();
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    let line = line.trim();
    if line.is_empty() {
        return Err(gone());
    }
    let meant = line
        .find("worker")
        .is_some_and(|at| format!("{} ", &line[at..]).contains(must));
    if !meant {
        return Err(format!("process {pid} is not a worker of this cluster: {line}"));
    }
    pidfd_send_signal(&process, Signal::KILL).map_err(failed)?;
    Ok(line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::exit::Exit;

    #[tokio::test]
    async fn only_the_right_process_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let worker = dir.path().join("worker");
        std::fs::copy("/bin/sleep", &worker).unwrap();
        let mut child = tokio::process::Command::new(&worker)
            .args(["600"])
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pid = child.id().unwrap();
        // Until the new program's own command line is there.
        while !std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
            .unwrap()
            .contains("600")
        {
            tokio::task::yield_now().await;
        }
        let refused = kill_worker(pid, "--epoch 7 ").unwrap_err();
        assert!(refused.contains("not a worker of this cluster"), "{refused}");
        assert!(child.try_wait().unwrap().is_none());
        assert!(kill_worker(pid, "600 ").unwrap().ends_with("600"));
        assert_eq!(Exit::from(child.wait().await.unwrap()), Exit::Killed);
        assert!(kill_worker(pid, "600 ").unwrap_err().contains("no process"));
    }
}
