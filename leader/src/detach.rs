//! `leader --detach`: the job goes on in a process of its own, without a terminal and without who started it.
//!
//! ```text
//!   leader --detach ... --starts--> leader --detach --detached ...   (own session; leads the job)
//!        ^                                 |
//!        +---- standard output: one line, the job's name, when the job is under way
//!        +---- standard error: what there is to say until then
//! ```

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use common::ids::JobName;
use common::output::{self, complain};

/// What was said last may be on its way.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Starts this very command again as the process that stays, and waits until its job is under way, or it has ended.
pub fn start() -> ExitCode {
    match started() {
        Ok(code) => code,
        Err(error) => {
            complain(format_args!(
                "leader: cannot start the process that is to stay: {error}"
            ));
            ExitCode::FAILURE
        }
    }
}

fn started() -> io::Result<ExitCode> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("--detached")
        .args(std::env::args_os().skip(1))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::Error::other("its standard streams are not piped"));
    };
    let (tell, all_said) = mpsc::channel();
    std::thread::spawn(move || {
        pass_on(stderr);
        let _ = tell.send(());
    });
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    if line.is_empty() {
        let status = child.wait()?;
        let _ = all_said.recv_timeout(LAST_WORDS);
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        return Ok(code.map_or(ExitCode::FAILURE, ExitCode::from));
    }
    let _ = all_said.recv_timeout(LAST_WORDS);
    Ok(match output::print(&line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("leader: {error}"));
            ExitCode::FAILURE
        }
    })
}

fn pass_on(mut from: impl Read) {
    let mut piece = [0; 4096];
    while let Ok(n @ 1..) = from.read(&mut piece) {
        // A closed standard error is nobody's failure.
        let _ = io::stderr().write_all(&piece[..n]);
    }
}

/// From now on this process belongs to no terminal.
pub fn leave_terminal() {
    // It fails only where it has been done.
    let _ = nix::unistd::setsid();
}

/// The job is under way: says so, and says no more. What there is to say from now on is in the log.
pub fn under_way(job: &JobName) -> io::Result<()> {
    let mut out = io::stdout();
    // Who started it may have gone: the job goes on.
    let _ = writeln!(out, "{job}").and_then(|()| out.flush());
    let nowhere = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(&nowhere)?;
    nix::unistd::dup2_stderr(&nowhere)?;
    Ok(())
}
