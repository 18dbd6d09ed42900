//! The command line of `leader`: options, then the positional grammar of the contract. Pure: nothing is looked up here.

mod args;
mod positionals;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use common::ids::{Epoch, JobName};
use protocol::control::Format;

/// An example that works, shown with every refusal.
pub const EXAMPLE: &str = "leader 2 3 grep 'static' replace 'static STATIC' src/code out.tsv true false";

/// What of the command line cannot be right. `Display` says which argument and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("argument {number} ({name}) is `{given}`: {what}")]
    Argument {
        number: usize,
        name: String,
        given: String,
        what: String,
    },
    #[error("{what}")]
    Count { what: String },
    #[error("{option}: {what}")]
    Option { option: &'static str, what: String },
}

impl Error {
    /// A command line that works.
    pub fn example(&self) -> &'static str {
        match self {
            Error::Option {
                option: "--resume", ..
            } => "leader --resume myjob",
            _ => EXAMPLE,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Console {
    All,
    Sample,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Progress {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LauncherKind {
    /// Starts workers over SSH.
    Ssh,
    /// Starts all workers on this machine, without SSH.
    Local,
}

impl LauncherKind {
    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ssh => "ssh",
            Self::Local => "local",
        }
    }
}

/// What becomes of a tuple that an operator fails at again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Poison {
    /// The job fails.
    Fail,
    /// The tuple is set aside in the HyDFS file `<dest>.poison`, and the job goes on.
    Skip,
}

/// Whose outputs are kept in the task's log before they leave, with exactly-once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Productions {
    /// Those of executables that say that they are not deterministic.
    Auto,
    /// Those of all executables.
    Strong,
    /// Nobody's.
    Weak,
}

/// One stage as the user wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    pub exe: String,
    pub args: Vec<String>,
    /// Number of the `opK_exe` argument, for messages; its arguments are the next.
    pub number: usize,
}

/// What to do with a destination that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfExists {
    Refuse,
    Append,
    Overwrite,
}

/// A command line whose form is right.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub cluster: Option<PathBuf>,
    pub node: Option<String>,
    pub console: Console,
    pub summary: Option<PathBuf>,
    pub report: Option<PathBuf>,
    pub progress: Progress,
    pub launcher: LauncherKind,
    pub detach: Option<Detach>,
    /// Which node is to lead the job, instead of this process.
    pub on: Option<On>,
    pub what: What,
}

/// The job is to go on without who started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detach {
    /// Starts the process that leads, and waits until the job is under way.
    Starter,
    /// Is that process.
    Leader,
}

/// Where a job is led.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum On {
    /// The living node with the fewest tasks.
    Any,
    Node(String),
}

#[derive(Debug, Clone, PartialEq)]
pub enum What {
    Start(Start),
    Resume(Resume),
    StandBy(StandBy),
}

/// A job whose leader may end: wait for that.
#[derive(Debug, Clone, PartialEq)]
pub struct StandBy {
    pub job: JobName,
    pub leader: SocketAddr,
    /// That leader's processes have epochs above it.
    pub base: Epoch,
}

/// A job to be planned and begun.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    pub job: Option<JobName>,
    pub format: Format,
    pub if_exists: IfExists,
    pub dry_run: bool,
    pub op_timeout: Duration,
    /// How long an executable may take to say what it is.
    pub describe_within: Duration,
    pub max_restarts: u32,
    pub poison: Poison,
    pub productions: Productions,
    pub follow: bool,
    pub keep_logs: bool,
    pub stages: Vec<Stage>,
    pub tasks_per_stage: u16,
    pub src: String,
    pub dest: String,
    pub exactly_once: bool,
    /// Lines per second over all sources; 0: no limit.
    pub rate: u64,
    /// Stages gain and lose tasks by themselves.
    pub scaling: Option<job::plan::Scaling>,
    /// How many leaders wait for this one's end; `None`: one, where there is a node for it.
    pub standbys: Option<u16>,
}

/// A job whose leader is gone. `None`: as the job was planned.
#[derive(Debug, Clone, PartialEq)]
pub struct Resume {
    pub job: JobName,
    pub op_timeout: Option<Duration>,
    pub max_restarts: Option<u32>,
    pub poison: Option<Poison>,
    pub standbys: Option<u16>,
}

impl Start {
    /// Numbers of the source and destination arguments, for messages.
    pub fn src_number(&self) -> usize {
        3 + 2 * self.stages.len()
    }

    pub fn refuse_src(&self, what: impl Into<String>) -> Error {
        refuse(self.src_number(), "hydfs_src", &self.src, what)
    }

    pub fn refuse_dest(&self, what: impl Into<String>) -> Error {
        refuse(self.src_number() + 1, "hydfs_dest", &self.dest, what)
    }
}

/// What parsing came to: a request, or text to print and an exit code (help, version, mistakes that clap finds).
pub enum Parsed {
    Request(Box<Request>),
    Print(clap::Error),
}

/// Parses a whole command line, the program's name first.
pub fn parse<I, T>(words: I) -> Result<Parsed, Error>
where
    I: IntoIterator<Item = T>,
    T: Into<std::ffi::OsString> + Clone,
{
    match args::Args::try_parse_from(words) {
        Ok(args) => Ok(Parsed::Request(Box::new(args.check()?))),
        Err(error) => Ok(Parsed::Print(error)),
    }
}

pub fn refuse(number: usize, name: impl Into<String>, given: &str, what: impl Into<String>) -> Error {
    let given = if given.chars().count() > 80 {
        format!("{}...", given.chars().take(80).collect::<String>())
    } else {
        given.into()
    };
    Error::Argument {
        number,
        name: name.into(),
        given,
        what: what.into(),
    }
}
