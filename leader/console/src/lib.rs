//! `rainstormctl`: the operator's console.

mod files;
mod grep;
mod history;
mod jobs;
mod kill;
mod log;
mod members;
mod prompt;
mod rates;
mod show;
mod verify;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::find::Missing;
use clap::{Parser, Subcommand};
use common::cluster::Cluster;
use common::ids::{JobName, NodeName, TaskId};
use common::net::Identity;
use common::output::{self, complain};
use common::shown;
use common::signals::{Asked, Stop};
use hydfs::client::Client;
use serde::Serialize;
use tokio::runtime::Runtime;

use job::journal;
use launcher::host;

/// How long a file that is unavailable is waited for.
const STORE_PATIENCE: Duration = Duration::from_secs(10);

/// The same for the words of `hydfs`, as that has it.
const FILES_PATIENCE: Duration = Duration::from_secs(30);

const MORE_HELP: &str = "\
Without a word it is a prompt; when standard input is no terminal, it reads words from there, a line each.

Examples:
  rainstormctl list_tasks                which task runs where, as which process
  rainstormctl list_tasks myjob --json   the same for scripts
  rainstormctl kill_task n2 4711         kill -9 of that worker on node n2: its task is restarted
  rainstormctl status                    what each stage of each job is doing
  rainstormctl history                   the jobs that were, and how they ended
  rainstormctl grep -i TASK_RESTART      all machines' logs at once
  rainstormctl rates myjob               what the resource manager sees: rates and backlogs
  rainstormctl set_rate myjob 5000       tuples per second over all sources, from now on; 0: no limit
  rainstormctl list_mem                  which nodes are alive
  rainstormctl log myjob s1t0            what a task consumed in which order, and its checkpoints
  rainstormctl verify myjob              do the job's logs prove that everything counted exactly once?

Exit code: 0 done, 1 it could not be done (why is on standard error), 2 bad usage, 128 and the signal's number when stopped by one.
Of verify: 0 proved, 1 refuted, 2 it could not be checked. Of grep: 0 something was found, 1 nothing, 2 a machine failed.
Of words from standard input: that of the last one that failed.";

/// Looks at running jobs and at the cluster, and kills tasks to see them come back.
#[derive(Debug, Parser)]
#[command(name = "rainstormctl", version, after_help = MORE_HELP)]
pub struct Args {
    /// The cluster file [default: $RAINSTORM_CLUSTER, else ./cluster.toml]
    #[arg(long, value_name = "FILE", global = true)]
    cluster: Option<PathBuf>,
    #[command(subcommand)]
    word: Option<Word>,
}

#[derive(Debug, Subcommand)]
enum Word {
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
    /// Starts a job's workers on this node, for its leader, which speaks on standard input
    #[command(hide = true)]
    Host {
        #[arg(long)]
        node: NodeName,
        /// Only so that the command line tells whose process this is
        #[arg(long)]
        job: JobName,
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

const GREP_HELP: &str = "\
Searches the logs of all machines at once: *.log in each node's log folder.

Each machine's own grep does the work over SSH, all at the same time; every option of grep is handed on, but for -f and -r.
Matches go to standard output, each under its machine's name: n2:worker.log:... With -c it is a count per machine. The counts,
and each machine that did not answer, go to standard error. Exit code: 0 something was found, 1 nothing, 2 a machine failed.
Where no machine has SSH, those that are this very machine are read directly.

Examples: grep TASK_FAIL     grep -c 'task=s1t0 '     grep -i -E 'fail|restart'     grep -A2 -e -x";

impl Word {
    /// Takes its data from standard input.
    fn reads_standard_input(&self) -> bool {
        let dash = |local: &Path| local == Path::new("-");
        match self {
            Word::Store(
                hydfs::client::cli::Command::Create { local, .. }
                | hydfs::client::cli::Command::Append { local, .. },
            ) => dash(local),
            _ => false,
        }
    }
}

/// Why a word was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Cluster(#[from] common::cluster::Error),
    #[error(transparent)]
    Missing(#[from] Missing),
    #[error("`{0}` is no word for people")]
    NotHere(&'static str),
    #[error(transparent)]
    Grep(#[from] grep::Misuse),
    #[error("cannot make a folder for SSH's sockets: {source}")]
    Sockets { source: std::io::Error },
    #[error("node {node}: {why}")]
    Kill { node: String, why: String },
    #[error(transparent)]
    Member(#[from] memberd::client::Error),
    #[error("`{text}` is not KEY=VALUE; for example: rainstormctl set suspicion_time=750ms")]
    Pair { text: String },
    #[error("membership has no setting `{key}`; there are {}", memberd::state::settings::KEYS.join(", "))]
    Setting { key: String },
    #[error(transparent)]
    Host(#[from] host::Error),
    #[error("cannot write JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Output(#[from] output::Unwritable),
    #[error("cannot listen to signals: {0}")]
    Signals(std::io::Error),
    #[error("stopped by {0}")]
    Stopped(Asked),
    #[error("HyDFS: {0}")]
    Store(#[from] hydfs::client::Error),
    #[error("HyDFS has no journal of a job `{job}`{have}")]
    UnknownJob { job: String, have: String },
    #[error("{name}: {error}")]
    Journal { name: String, error: journal::OpenError },
    #[error("the journal of job {job} holds no plan: the job never started")]
    NoPlan { job: String },
    #[error("{task} of job {job} has no log: {why}")]
    NoLog { job: String, task: TaskId, why: String },
    /// Neither proved nor refuted.
    #[error("not verified: {0}")]
    Unverified(#[source] Box<Error>),
}

impl Error {
    fn unverified(self) -> Self {
        Self::Unverified(Box::new(self))
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Unverified(_) => verify::UNCHECKED,
            Self::Grep(_) => grep::FAILED,
            Self::Store(error) => error.code(),
            Self::Stopped(asked) => asked.code(),
            _ => 1,
        }
    }
}

/// What a word came to.
#[derive(Debug, Default)]
pub struct Done {
    /// For standard output, without the last newline.
    pub text: String,
    /// The exit code.
    pub code: u8,
    /// For standard error.
    pub complaint: Option<String>,
}

impl From<String> for Done {
    fn from(text: String) -> Self {
        Self {
            text,
            ..Self::default()
        }
    }
}

/// The command line, ready for clap: what follows `grep` is grep's own, `--` included.
pub fn parse<T: AsRef<OsStr>>(words: impl IntoIterator<Item = T>) -> Result<Args, clap::Error> {
    let words = words.into_iter().map(|w| w.as_ref().to_owned()).collect();
    Args::try_parse_from(as_meant(words, 1))
}

/// The first word from `at` on but for `--cluster FILE`: behind `grep` comes a `--`, so that the rest is grep's own (help is
/// ours), and `get` without a name and a place for it is the membership's, not HyDFS'.
fn as_meant(mut words: Vec<OsString>, mut at: usize) -> Vec<OsString> {
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
    } else if *word == "grep" && rest.first().is_some_and(|word| word != "--help") {
        words.insert(at + 1, "--".into());
    }
    words
}

/// Carries out the word, or all words at the prompt; returns the exit code.
pub fn run(args: Args, runtime: &Runtime) -> u8 {
    if let Some(Word::Host { node, .. }) = args.word {
        // It needs nothing of the cluster file: its orders say all.
        return tell(
            host::begin()
                .and_then(|()| runtime.block_on(host::serve(node, tokio::io::stdin(), tokio::io::stdout())))
                .map(|()| Done::default())
                .map_err(Error::from),
        );
    }
    let console = match Console::new(args.cluster.as_deref()) {
        Ok(console) => console,
        Err(error) => return tell(Err(error)),
    };
    match args.word {
        Some(word) => carry_out(&console, runtime, word),
        None => prompt::run(&console, runtime),
    }
}

/// Carries out one word of a command line or a script, until it is done or a signal stops it.
fn carry_out(console: &Console, runtime: &Runtime, word: Word) -> u8 {
    tell(runtime.block_on(async {
        let (stop, _signals) = Stop::on_signals().map_err(Error::Signals)?;
        let minds_a_stop = matches!(word, Word::Store(_));
        let done = console.carry_out(word, &stop);
        match minds_a_stop {
            true => done.await,
            // What they hold (connections, their sockets' folder) goes when they are dropped.
            false => stop
                .unless(done)
                .await
                .unwrap_or_else(|asked| Err(Error::Stopped(asked))),
        }
    }))
}

/// Says what a word came to; returns its exit code.
fn tell(done: Result<Done, Error>) -> u8 {
    match done {
        Ok(done) => {
            let printed = match done.text.is_empty() {
                true => Ok(()),
                false => output::print(&format!("{}\n", done.text)),
            };
            if let Some(complaint) = done.complaint {
                complain(format_args!("rainstormctl: {complaint}"));
            }
            match printed {
                Ok(()) => done.code,
                Err(error) => tell(Err(error.into())),
            }
        }
        Err(error) => {
            // Where nothing was under way, whoever stopped it knows.
            let known = match &error {
                Error::Store(hydfs::client::Error::Stopped { what, .. }) => what.is_empty(),
                Error::Stopped(_) => true,
                _ => false,
            };
            if !known {
                complain(format_args!("rainstormctl: {error}"));
            }
            error.code()
        }
    }
}

/// What all words need.
struct Console {
    cluster: Arc<Cluster>,
    me: Identity,
}

impl Console {
    fn new(file: Option<&Path>) -> Result<Self, Error> {
        let cluster = Arc::new(Cluster::find(file)?);
        let me = Identity {
            who: format!("rainstormctl {}", std::process::id()),
            node: cluster.local_node().map(|n| n.name.clone()),
            secret: cluster.secret()?,
            security: cluster.security,
        };
        Ok(Self { cluster, me })
    }

    fn store(&self) -> Client {
        Client::new(self.cluster.clone(), self.me.clone()).with_patience(STORE_PATIENCE)
    }

    async fn carry_out(&self, word: Word, stop: &Stop) -> Result<Done, Error> {
        let (cluster, me) = (&*self.cluster, &self.me);
        let text = match word {
            Word::Host { .. } => return Err(Error::NotHere("host")),
            Word::ListTasks { job, json } => jobs::list_tasks(cluster, me, job, json).await?,
            Word::Jobs { json } => jobs::jobs(cluster, me, json).await?,
            Word::Status { job, json } => jobs::status(cluster, me, job, json).await?,
            Word::History { most, json } => {
                return history::run(cluster, me, &self.store(), most, json).await;
            }
            Word::Grep { words } => return grep::run(cluster, &words).await,
            Word::Rates { job, json } => rates::rates(cluster, me, job, json).await?,
            Word::SetRate { job, rate } => rates::set_rate(cluster, me, job.as_str(), rate).await?,
            Word::KillTask { node, pid } => kill::kill_task(cluster, &node, pid).await?,
            Word::ListMem { node, json } => members::list_mem(cluster, me, node, json).await?,
            Word::ListSelf { node, json } => members::list_self(cluster, me, node, json).await?,
            Word::DisplaySuspects { node, json } => {
                members::display_suspects(cluster, me, node, json).await?
            }
            Word::DisplayProtocol { node } => members::display_protocol(cluster, me, node).await?,
            Word::Switch {
                protocol,
                suspicion,
                suspicion_time,
                node,
            } => members::switch(cluster, me, node, protocol, suspicion, suspicion_time).await?,
            Word::GetConfig { key, node } => members::get_config(cluster, me, node, key).await?,
            Word::Set { settings, node } => members::set(cluster, me, node, settings).await?,
            Word::Leave { node } => members::leave(cluster, me, &node).await?,
            Word::Log { job, task, json } => return log::run(&self.store(), &job, task, json).await,
            Word::Verify { job } => {
                return verify::run(&self.store(), &job).await.map_err(Error::unverified);
            }
            Word::Store(command) => {
                let client = self.store().with_patience(FILES_PATIENCE);
                let out = &mut shown::Stdout::new();
                hydfs::client::cli::run(&client, me.node.as_ref(), command, stop, out).await?;
                String::new()
            }
        };
        Ok(text.into())
    }
}

/// JSON for scripts, or else a table for people.
fn json_or<T: Serialize>(
    json: bool,
    rows: impl FnOnce() -> T,
    table: impl FnOnce() -> String,
) -> Result<String, Error> {
    Ok(match json {
        true => serde_json::to_string_pretty(&rows())?,
        false => table(),
    })
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
            "grep -ic -- x",
            "create a b",
            "list_mem_ids",
            "--cluster c.toml host --node n1 --job j",
        ] {
            let words = std::iter::once("rainstormctl").chain(line.split(' '));
            assert!(Args::try_parse_from(words).is_ok(), "{line}");
        }
        let spelt = |line: &str| {
            let words = as_meant(line.split(' ').map(OsString::from).collect(), 1);
            match Args::try_parse_from(words).map(|args| args.word) {
                Ok(Some(Word::Grep { words })) => words,
                other => panic!("{line}: {other:?}"),
            }
        };
        let store = |line: &str| {
            let words = as_meant(line.split(' ').map(OsString::from).collect(), 1);
            matches!(Args::try_parse_from(words).unwrap().word, Some(Word::Store(_)))
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
            "leave",
            "log j 1t0",
            "verify a/b",
        ] {
            let words = std::iter::once("rainstormctl").chain(line.split(' '));
            assert!(Args::try_parse_from(words).is_err(), "{line}");
        }
    }
}
