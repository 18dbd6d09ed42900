//! The command line, and what may be said at the prompt.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use common::ids::{JobName, NodeName, TaskId};

const MORE_HELP: &str = "\
Without a word it is a prompt; when standard input is no terminal, it reads words from there, a line each.

Examples:
  rainstormctl list_tasks                which task runs where, as which process
  rainstormctl list_tasks myjob --json   the same for scripts
  rainstormctl kill_task n2 4711         kill -9 of that worker on node n2: its task is restarted
  rainstormctl status                    what each stage of each job is doing
  rainstormctl attach myjob              its output from now on, and how far it is
  rainstormctl stop myjob                a job that follows reads what is there, and ends
  rainstormctl history                   the jobs that were, and how they ended
  rainstormctl forget myjob              removes its journal, logs and snapshots, once it has ended; its output stays
  rainstormctl top                       nodes, disks, jobs and events as they are; q ends it
  rainstormctl grep -i TASK_RESTART      all machines' logs at once
  rainstormctl rates myjob               what the resource manager sees: rates and backlogs
  rainstormctl set_rate myjob 5000       tuples per second over all sources, from now on; 0: no limit
  rainstormctl list_mem                  which nodes are alive
  rainstormctl log myjob s1t0            what a task consumed in which order, and its checkpoints
  rainstormctl verify myjob              do the job's logs prove that everything counted exactly once?

Exit code: 0 done, 1 it could not be done (why is on standard error), 2 bad usage, 128 and the signal's number when stopped by one.
Of attach: that of the job, 0 done or 1 failed. Of verify: 0 proved, 1 refuted, 2 it could not be checked. Of grep: 0 something was found, 1 nothing, 2 a machine failed.
Of words from standard input: that of the last one that failed.";

/// Looks at running jobs and at the cluster, and kills tasks to see them come back.
#[derive(Debug, Parser)]
#[command(name = "rainstormctl", version, after_help = MORE_HELP)]
pub struct Args {
    /// The cluster file [default: $RAINSTORM_CLUSTER, else ./cluster.toml]
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) cluster: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) word: Option<ConsoleCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConsoleCommand {
    /// Lists the tasks of running jobs: node, PID, operator, epoch, state, rate, log
    #[command(name = "list_tasks")]
    ListTasks {
        job: Option<String>,
        /// A JSON array instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Kills (-9) one worker process on a node
    #[command(name = "kill_task")]
    KillTask { node: String, pid: u32 },
    /// Lists the running jobs
    Jobs {
        #[arg(long)]
        json: bool,
    },
    /// Lists the jobs that were, out of their journals in HyDFS: when, how long, how they ended
    History {
        /// Only so many of the newest
        #[arg(short = 'n', value_name = "N")]
        most: Option<usize>,
        #[arg(long)]
        json: bool,
    },
    /// Shows nodes, disks, jobs and events in this terminal, until `q`
    Top {
        /// The node to ask [default: this machine's, else the first that answers]
        #[arg(long)]
        node: Option<String>,
        /// Print it once, as text
        #[arg(long)]
        once: bool,
    },
    /// Removes what jobs that have ended keep in HyDFS: journals, logs, snapshots. Their output stays
    Forget {
        /// Also jobs that failed or were interrupted: they can then be neither taken up nor verified
        #[arg(long)]
        force: bool,
        #[arg(required = true, value_name = "JOB", id = "job")]
        jobs: Vec<JobName>,
    },
    /// Searches the logs of all machines at once: grep [GREP-OPTIONS] PATTERN
    #[command(
        override_usage = "grep [GREP-OPTIONS] PATTERN",
        long_about = GREP_HELP
    )]
    Grep {
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "GREP-OPTIONS PATTERN"
        )]
        words: Vec<String>,
    },
    /// What each stage of a running job is doing
    Status {
        job: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Starts a job as `leader` does, on the node with most room, and leaves it running: rainstorm [LEADER-OPTIONS] ARGUMENTS
    #[command(
        override_usage = "rainstorm [LEADER-OPTIONS] ARGUMENTS",
        long_about = RAINSTORM_HELP
    )]
    Rainstorm {
        #[arg(
            trailing_var_arg = true,
            allow_hyphen_values = true,
            value_name = "LEADER-OPTIONS ARGUMENTS"
        )]
        job_words: Vec<String>,
    },
    /// Shows a job's output as it grows, and how far the job is, until it ends; also a job whose leader changes. Ctrl-C detaches
    Attach {
        job: JobName,
        /// The whole output, and not only what comes from now on
        #[arg(long)]
        from_start: bool,
        /// Nothing on standard error but why the job failed
        #[arg(long)]
        quiet: bool,
    },
    /// Ends a running job: one that follows its input reads what is there, and ends well; any other ends at once, unfinished
    Stop {
        job: JobName,
        /// At once. `leader --resume` goes on with it
        #[arg(long)]
        now: bool,
    },
    /// What the resource manager sees: each stage's and task's measured rates and backlog
    Rates {
        job: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Changes the sources' rate while the job runs
    #[command(name = "set_rate")]
    SetRate {
        job: JobName,
        /// Tuples per second over all sources; 0: as fast as the job can
        rate: u64,
    },
    /// Prints a task's log in HyDFS, one record a line: what it consumed in which order, and its checkpoints
    Log {
        job: JobName,
        /// Such as s1t0: stage 1, task 0; the source is stage 0
        task: TaskId,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Replays the logs of an exactly-once job, running or ended, and proves or refutes that everything counted once
    Verify { job: JobName },
    /// The node's console behind its HTTP port: memberd starts it, and ends it by closing its standard input
    #[command(hide = true)]
    Serve {
        /// The node that this is
        #[arg(long)]
        node: NodeName,
    },
    /// The node's host: starts a job's workers on this node, for its leader, which speaks on standard input
    // Nobody types it: at the prompt, too, it is not offered.
    #[command(hide = true, long_about = HOST_HELP)]
    Host {
        /// The node that this is
        #[arg(long)]
        node: NodeName,
        /// Only so that the command line tells whose process this is
        #[arg(long)]
        job: Option<JobName>,
    },
    /// Lists the members of the cluster as one node sees them
    #[command(name = "list_mem")]
    ListMem {
        /// The node to ask [default: this machine's, else the first that answers]
        #[arg(long)]
        node: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// What a node says of itself
    #[command(name = "list_self")]
    ListSelf {
        /// The node to ask [default: this machine's, else the first that answers]
        #[arg(long)]
        node: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Lists the members that one node suspects just now
    #[command(name = "display_suspects")]
    DisplaySuspects {
        /// The node to ask [default: this machine's, else the first that answers]
        #[arg(long)]
        node: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Which membership protocol is in force, with or without suspicion
    #[command(name = "display_protocol")]
    DisplayProtocol {
        /// The node to ask [default: this machine's, else the first that answers]
        #[arg(long)]
        node: Option<String>,
    },
    /// Switches the membership of the whole group to another protocol
    Switch {
        #[arg(value_parser = ["gossip", "pingack"])]
        protocol: String,
        /// [default: as it is]
        #[arg(value_parser = ["enabled", "disabled"])]
        suspicion: Option<String>,
        /// How long a suspect may refute, such as 1s [default: as it is]
        suspicion_time: Option<String>,
        /// The node to tell first [default: this machine's, else the first that answers]
        #[arg(long)]
        node: Option<String>,
    },
    /// Shows the membership configuration of the group, or one setting of it
    #[command(name = "get_config")]
    GetConfig {
        key: Option<String>,
        /// The node to ask [default: this machine's, else the first that answers]
        #[arg(long)]
        node: Option<String>,
    },
    /// Changes membership settings of the whole group: all that are named, or none
    Set {
        /// Such as fanout=4 suspicion_time=750ms
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<String>,
        /// The node to tell first [default: this machine's, else the first that answers]
        #[arg(long)]
        node: Option<String>,
    },
    /// Has a node's memberd say goodbye and exit
    Leave { node: String },
    /// The words of `hydfs`
    #[command(flatten)]
    Store(hydfs::client::cli::Command),
}

const HOST_HELP: &str = "\
The node's host: one for each job and node. Leaders start it over SSH; nobody needs to by hand.

It starts, watches and kills the workers of one job on this node. Standard input gives it the cluster's secret on a line, then \
commands, one JSON object a line. Standard output says, in the same way, what became of them. It ends when its standard input \
does. What workers are left 3 s later are killed, with all that their operators have started.

kill_task starts one as well, for as long as the kill takes.";

const RAINSTORM_HELP: &str = "\
Starts a job as `leader` does, with the same options and arguments (leader --help), and leaves it running.

It is led by the node with most room: the living one with the fewest tasks, the first in the cluster file of several. `--on NODE`
names another. Executables and other local paths are this machine's; executables are sent along. The job's name is printed when the
job is under way. A refusal, and its exit code, are the leader's.

Then: attach JOB shows its output, stop JOB ends it.

Example: rainstorm 2 3 grep static replace 'static STATIC' src/code out.tsv true false";

const GREP_HELP: &str = "\
Searches the logs of all machines at once: *.log in each node's log folder.

Each machine's own grep does the work over SSH, all at the same time; every option of grep is handed on, but for -f and -r.
Matches go to standard output, each under its machine's name: n2:worker.log:... With -c it is a count per machine. The counts,
and each machine that did not answer, go to standard error. Exit code: 0 something was found, 1 nothing, 2 a machine failed.
Where no machine has SSH, those that are this very machine are read directly.

Examples: grep TASK_FAIL     grep -c 'task=s1t0 '     grep -i -E 'fail|restart'     grep -A2 -e -x";

impl ConsoleCommand {
    /// Takes its data from standard input.
    pub fn reads_standard_input(&self) -> bool {
        let dash = |local: &Path| local == Path::new("-");
        match self {
            ConsoleCommand::Store(
                hydfs::client::cli::Command::Create { local, .. }
                | hydfs::client::cli::Command::Append { local, .. },
            ) => dash(local),
            _ => false,
        }
    }
}

/// The command line, ready for clap: what follows `grep` is grep's own, `--` included, and so for `rainstorm`.
pub fn parse<T: AsRef<OsStr>>(words: impl IntoIterator<Item = T>) -> Result<Args, clap::Error> {
    let words = words.into_iter().map(|w| w.as_ref().to_owned()).collect();
    Args::try_parse_from(as_meant(words, 1))
}

/// The first word from `at` on but for `--cluster FILE`: behind `grep` and `rainstorm` comes a `--`, so that the rest is grep's or
/// the leader's own (help is ours), and `get` without a name and a place for it is the membership's, not HyDFS'.
pub(crate) fn as_meant(mut words: Vec<OsString>, mut at: usize) -> Vec<OsString> {
    let option = |w: &OsString| w.len() > 1 && w.as_encoded_bytes().starts_with(b"-");
    while words.get(at).is_some_and(option) {
        at += if words[at] == "--cluster" { 2 } else { 1 };
    }
    let Some((word, rest)) = words.get_mut(at..).and_then(<[_]>::split_first_mut) else {
        return words;
    };
    if *word == "get" {
        let with_value = |i: usize| i > 0 && rest[i - 1] == "--node";
        let given = (0..rest.len()).filter(|i| !option(&rest[*i]) && !with_value(*i));
        if given.count() < 2 && !rest.iter().any(|w| w == "--help" || w == "-h") {
            *word = "get_config".into();
        }
    } else if (*word == "grep" || *word == "rainstorm") && rest.first().is_some_and(|word| word != "--help") {
        words.insert(at + 1, "--".into());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_parse() {
        use clap::CommandFactory;
        Args::command().debug_assert();
        for line in [
            "list_tasks",
            "list_tasks j --json",
            "kill_task n1 7",
            "jobs",
            "status j",
            "attach j --from-start --quiet",
            "stop j --now",
            "rainstorm -- --follow 1 1 identity x in out true false",
            "rates j --json",
            "set_rate j 0",
            "list_mem",
            "list_self --node n1",
            "display_suspects --json",
            "display_protocol",
            "switch gossip enabled 1s",
            "switch pingack",
            "get_config fanout",
            "set fanout=4 fail_ms=1200 --node n1",
            "leave n1",
            "log j s1t0 --json",
            "verify j",
            "history -n 3 --json",
            "forget j k --force",
            "top --once --node n1",
            "grep -ic -- x",
            "create a b",
            "list_mem_ids",
            "--cluster c.toml serve --node n1",
            "--cluster c.toml host --node n1 --job j",
        ] {
            let words = std::iter::once("rainstormctl").chain(line.split(' '));
            assert!(Args::try_parse_from(words).is_ok(), "{line}");
        }
        let spelt = |line: &str| {
            let words = as_meant(line.split(' ').map(OsString::from).collect(), 1);
            match Args::try_parse_from(words).map(|args| args.word) {
                Ok(Some(ConsoleCommand::Grep { words })) => words,
                other => panic!("{line}: {other:?}"),
            }
        };
        let store = |line: &str| {
            let words = as_meant(line.split(' ').map(OsString::from).collect(), 1);
            matches!(
                Args::try_parse_from(words).unwrap().word,
                Some(ConsoleCommand::Store(_))
            )
        };
        assert!(store("rainstormctl get a b"));
        assert!(!store("rainstormctl get"));
        assert!(!store("rainstormctl get fanout --node n1"));
        assert_eq!(spelt("rainstormctl grep -- -x"), ["--", "-x"]);
        assert_eq!(spelt("rainstormctl --cluster grep grep -h x"), ["-h", "x"]);
        assert_eq!(spelt("rainstormctl --cluster=c grep --version"), ["--version"]);
        for line in [
            "set_rate j -1",
            "set_rate j x",
            "kill_task n1 x",
            "switch smoke",
            "set",
            "forget",
            "leave",
            "log j 1t0",
            "verify a/b",
        ] {
            let words = std::iter::once("rainstormctl").chain(line.split(' '));
            assert!(Args::try_parse_from(words).is_err(), "{line}");
        }
    }
}
