//! Jobs that follow their input for hours while everything is killed now and then, with nobody watching: is the output exact, and
//! does what they keep stay where it is?
//!
//! ```text
//!   feed.rs   appends numbered lines at a rate, and trims what was read    -->  HyDFS  -->  job  -->  HyDFS
//!   judge.rs  reads the output, knows each line's number, and trims what it has seen      <------------'
//!   fault.rs  a seeded plan of kills                watch.rs  the workers' logs: recovery times
//!   sample.rs bytes kept, memory, descriptors       trend.rs  do they grow?
//! ```

pub mod fault;
pub mod feed;
pub mod judge;
pub mod run;
pub mod sample;
pub mod trend;
pub mod watch;

use std::time::Duration;

/// `demo/operators/mood.py` and its SDK as one executable, in the cluster's folder: its values end with the lines as they were.
const MOOD: &str = "./mood";

/// What a job of the soak does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Stateless: passes each line through two stages of three tasks.
    Plain,
    /// Counts lines by key, over keys that become more and more.
    Count,
    /// The same as plain, by a Python program.
    Python,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Count => "count",
            Self::Python => "python",
        }
    }

    /// The leader's stages: number, tasks, operators with their arguments.
    pub fn stages(self) -> [&'static str; 6] {
        match self {
            Self::Plain => ["2", "3", "grep", "-F -v never", "identity", ""],
            Self::Count => ["2", "3", "identity", "--key word:1", "count", ""],
            Self::Python => ["2", "3", MOOD, "", "identity", ""],
        }
    }
}

#[derive(Debug, Clone)]
pub struct Options {
    pub seed: u64,
    pub time: Duration,
    /// Between two samples.
    pub every: Duration,
    /// Between two faults, on average; zero: there are none.
    pub pause: Duration,
    /// Lines per second, each job's.
    pub jobs: Vec<(Kind, u64)>,
    /// Leaders are killed too; somebody else must take the job up.
    pub leaders: bool,
    /// Nodes and daemons are killed too.
    pub nodes: bool,
}
