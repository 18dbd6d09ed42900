//! The options, and what of them goes together.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use common::ids::{Epoch, JobName};
use ops::foreign::DESCRIBE_WITHIN;
use protocol::control::Format;

use super::positionals::Positionals;
use super::{
    Console, Detach, Error, IfExists, LauncherKind, On, Poison, Productions, Progress, Request, Resume,
    StandBy, Start, What, refuse,
};
use job::plan::Scaling;

const GRAMMAR: &str = "leader [OPTIONS] <Nstages> <Ntasks_per_stage> <op1_exe> <op1_args> ... <opN_exe> <opN_args> \
     <hydfs_src> <hydfs_dest> <exactly_once> <autoscale_enabled> [<INPUT_RATE> <LW> <HW>]\n       \
     leader [OPTIONS] --resume <JOB>";

const MORE_HELP: &str = "\
Arguments, in this order (options come before them):
  Nstages            how many stages, 1 or more
  Ntasks_per_stage   how many tasks each stage has
  opK_exe            an operator that comes with RainStorm (identity, grep, replace, filter, project, split,
                     count, sum, ...) or a path to any executable; `filter:`, `transform:` or `aggregate:`
                     before it says its kind
  opK_args           all its arguments as ONE word, split as a shell splits words; \"\" for none
  hydfs_src          a HyDFS folder (every file under it is read) or one file
  hydfs_dest         the HyDFS file that the last stage appends to; must not exist yet
  exactly_once       true or false
  autoscale_enabled  true or false; with true INPUT_RATE, LW and HW must follow
  INPUT_RATE         lines per second over all sources; 0 or absent: as fast as it goes
  LW HW              tuples per second and task: a stage whose tasks get less than LW each has one task fewer, one
                     whose tasks get more than HW each, or that cannot follow, one more; aggregates only with
                     --scale-stateful

Example: lines with `static` in them, `static` written large, three tasks per stage:
  leader 2 3 grep 'static' replace 'static STATIC' src/code out.tsv true false

--follow: the first Ctrl-C (or SIGTERM) lets the job read what is there, finish it and end with exit code 0; the
  second stops it now.
--resume JOB: takes up a job whose leader was killed, or that failed, from any node of the cluster. Nothing is read
  or written twice that should not be. The whole output of the job is printed, from where it began in the
  destination, also what its earlier leader printed: each tuple once per invocation. With it go --cluster, --node,
  --console, --summary, --report, --progress, --launcher, and as changes to the plan --op-timeout, --max-restarts, --poison,
  --standbys.
--standbys N: when this leader dies, one of them takes the job up by itself, as --resume does. The output in HyDFS goes on;
  what this leader printed to its terminal does not. `rainstormctl attach JOB` prints it from anywhere.

Output tuples go to standard output as they become final, everything else to standard error.
Exit code: 0 done, 1 the job failed (why is the last line), 2 bad usage.";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatArg {
    Tsv,
    Value,
    Copy,
    Json,
}

/// Runs one RainStorm job: starts its workers, watches them, restarts them, prints the output.
#[derive(Debug, Parser)]
#[command(name = "leader", version, override_usage = GRAMMAR, after_help = MORE_HELP)]
pub(super) struct Args {
    /// The cluster file [default: $RAINSTORM_CLUSTER, else ./cluster.toml]
    #[arg(long, value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// The node of the cluster file that this machine is [default: the first whose address is this machine's]
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// The job's name [default: made of the time]
    #[arg(long, value_name = "NAME")]
    job: Option<String>,
    /// How output tuples are written: `key<TAB>value`, the value alone, `key<TAB>value` with tabs, newlines and backslashes
    /// escaped (as PostgreSQL's COPY reads it; lossless), or a JSON object per line [default: tsv]
    #[arg(long, value_enum)]
    format: Option<FormatArg>,
    /// What of the output is printed; `sample`: at most 10 lines a second
    #[arg(long, value_enum, default_value = "all")]
    console: Console,
    /// Writes the figures of the run to this file, as JSON
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
    /// Keeps the run's page in this file, as HTML: how it went, task by task and event by event
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// The progress display on standard error
    #[arg(long, value_enum, default_value = "auto")]
    progress: Progress,
    /// How workers are started
    #[arg(long, value_enum, default_value = "ssh")]
    launcher: LauncherKind,
    /// The most tasks that a stage may have [default with autoscale: twice Ntasks_per_stage, 8 at least]
    #[arg(long, value_name = "N")]
    max_tasks: Option<u16>,
    /// With autoscale: scales count, sum, avg, min and max too, by moving groups of keys with their state between tasks. Needs
    /// exactly_once true, and no other kind of aggregate in the job [default: stages that keep state are not scaled]
    #[arg(long)]
    scale_stateful: bool,
    /// Appends to the destination if it exists
    #[arg(long, conflicts_with = "overwrite")]
    append: bool,
    /// Removes the destination first if it exists
    #[arg(long)]
    overwrite: bool,
    /// Prints the plan and starts nothing
    #[arg(long)]
    dry_run: bool,
    /// How long an operator may take over one tuple, seconds [default: 60]
    #[arg(long, value_name = "SECONDS")]
    op_timeout: Option<f64>,
    /// How long an executable may take to say what it is before the job starts, seconds [default: 30]
    #[arg(long, value_name = "SECONDS")]
    describe_timeout: Option<f64>,
    /// How often a task whose operator fails at the same tuple is restarted [default: 5]
    #[arg(long, value_name = "N")]
    max_restarts: Option<u32>,
    /// What becomes of a tuple that an operator fails at after --max-restarts [default: fail]
    #[arg(long, value_enum)]
    poison: Option<Poison>,
    /// With exactly-once: whose outputs are kept in the task's log before they leave, so that a restart repeats them
    /// instead of making them again [default: auto]
    #[arg(long, value_enum)]
    productions: Option<Productions>,
    /// Leaves the job running on this node: prints its name, and ends as soon as the job is under way. `rainstormctl attach JOB`
    /// shows its output, `rainstormctl stop JOB` ends it
    #[arg(long)]
    detach: bool,
    /// With --detach: the node that leads the job; `any`: the living one with the fewest tasks, the first in the cluster file of
    /// several. Executables are those of this machine [default: this node]
    #[arg(long, value_name = "NODE", requires = "detach", conflicts_with_all = ["summary", "report"])]
    on: Option<String>,
    // The process that --detach leaves running.
    #[arg(long, hide = true)]
    detached: bool,
    /// Keeps reading: files that grow, and new ones, until interrupted
    #[arg(long)]
    follow: bool,
    /// With exactly-once: trims nothing from the tasks' logs, so that `rainstormctl verify` proves the job from its first
    /// line on however long it runs; the logs then grow for ever
    #[arg(long)]
    keep_logs: bool,
    /// Allow a source and a destination that RainStorm keeps for itself: under jobs/ and ops/, and *.poison
    #[arg(long)]
    system: bool,
    /// How many leaders wait on other nodes, to take the job up when this one dies, up to 7 [default: 1 where there is a second node]
    #[arg(long, value_name = "N")]
    standbys: Option<u16>,
    /// Takes up a job whose leader is gone; see below
    #[arg(long, value_name = "JOB")]
    resume: Option<String>,
    // Leaders start it; nobody needs to by hand.
    #[arg(long, value_name = "LEADER", hide = true, requires = "job", requires = "base")]
    standby: Option<SocketAddr>,
    #[arg(long, value_name = "EPOCH", hide = true, requires = "standby")]
    base: Option<u64>,
    /// See below
    #[arg(
        value_name = "ARGUMENTS",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        hide = true
    )]
    rest: Vec<String>,
}

const OP_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_RESTARTS: u32 = 5;
const MOST_STANDBYS: u16 = 7;

impl Args {
    pub fn check(self) -> Result<Request, Error> {
        let op_timeout = self.op_timeout.map(|s| seconds("--op-timeout", s)).transpose()?;
        if self.standbys.is_some_and(|n| n > MOST_STANDBYS) {
            let what = format!("give 0 to {MOST_STANDBYS}");
            return Err(Error::Option {
                option: "--standbys",
                what,
            });
        }
        let what = match (&self.resume, self.standby) {
            (None, Some(leader)) => What::StandBy(StandBy {
                job: job_name("--job", self.job.as_deref().unwrap_or_default())?,
                leader,
                base: Epoch(self.base.unwrap_or(0)),
            }),
            (Some(job), _) => What::Resume(Resume {
                job: job_name("--resume", job)?,
                op_timeout,
                max_restarts: self.max_restarts,
                poison: self.poison,
                standbys: self.standbys,
            }),
            (None, None) => What::Start(self.start(op_timeout)?),
        };
        if self.resume.is_some() {
            self.alone()?;
        }
        if self.detach && (self.dry_run || self.standby.is_some()) {
            return Err(Error::Option {
                option: "--detach",
                what: "no job starts here that could be left running; leave it out".into(),
            });
        }
        let unseen = matches!(what, What::StandBy(_)) || self.detached;
        let detach = match (self.detached, self.detach) {
            // The process that stays is on that node.
            _ if self.on.is_some() => None,
            (true, _) => Some(Detach::Leader),
            (false, true) => Some(Detach::Starter),
            _ => None,
        };
        let on = self.on.as_deref().map(|on| match on {
            "any" => On::Any,
            node => On::Node(node.to_owned()),
        });
        Ok(Request {
            cluster: self.cluster,
            node: self.node,
            console: if unseen { Console::None } else { self.console },
            summary: self.summary,
            report: self.report,
            progress: if unseen { Progress::Never } else { self.progress },
            launcher: self.launcher,
            detach,
            on,
            what,
        })
    }

    /// What is planned already cannot be said again.
    fn alone(&self) -> Result<(), Error> {
        let planned = [
            ("--job", self.job.is_some()),
            ("--format", self.format.is_some()),
            ("--max-tasks", self.max_tasks.is_some()),
            ("--scale-stateful", self.scale_stateful),
            ("--append", self.append),
            ("--overwrite", self.overwrite),
            ("--dry-run", self.dry_run),
            ("--describe-timeout", self.describe_timeout.is_some()),
            ("--productions", self.productions.is_some()),
            ("--follow", self.follow),
            ("--keep-logs", self.keep_logs),
            ("--system", self.system),
            ("--on", self.on.is_some()),
        ];
        if let Some((option, _)) = planned.into_iter().find(|(_, given)| *given) {
            let what = "--resume takes the job up as it was planned; leave this option out".into();
            return Err(Error::Option { option, what });
        }
        if !self.rest.is_empty() {
            return Err(Error::Option {
                option: "--resume",
                what: format!(
                    "it takes no arguments, the job's plan is in its journal; leave out: {}",
                    shell_words::join(&self.rest)
                ),
            });
        }
        Ok(())
    }

    fn start(&self, op_timeout: Option<Duration>) -> Result<Start, Error> {
        let job = self
            .job
            .as_ref()
            .map(|name| job_name("--job", name))
            .transpose()?;
        let describe_within = self.describe_timeout.map(|s| seconds("--describe-timeout", s));
        let describe_within = describe_within.transpose()?;
        let given = Positionals::read(&self.rest, self.system)?;
        if self.scale_stateful {
            let what = match (given.marks, given.exactly_once) {
                (None, _) => {
                    "it says what autoscaling may change; turn that on (autoscale_enabled true), or leave this out"
                }
                (_, false) => {
                    "a state that moves must not be lost or counted twice on its way; set exactly_once to true, or leave this out"
                }
                _ => "",
            };
            if !what.is_empty() {
                return Err(Error::Option {
                    option: "--scale-stateful",
                    what: what.into(),
                });
            }
        }
        if let Some(most) = self.max_tasks.filter(|most| given.tasks > *most) {
            return Err(refuse(
                2,
                "Ntasks_per_stage",
                &self.rest[1],
                format!("--max-tasks allows {most}"),
            ));
        }
        let start = Start {
            job,
            format: match self.format {
                None | Some(FormatArg::Tsv) => Format::Tsv,
                Some(FormatArg::Value) => Format::Value,
                Some(FormatArg::Copy) => Format::Copy,
                Some(FormatArg::Json) => Format::Json,
            },
            if_exists: match (self.append, self.overwrite) {
                (true, _) => IfExists::Append,
                (_, true) => IfExists::Overwrite,
                _ => IfExists::Refuse,
            },
            dry_run: self.dry_run,
            op_timeout: op_timeout.unwrap_or(OP_TIMEOUT),
            describe_within: describe_within.unwrap_or(DESCRIBE_WITHIN),
            max_restarts: self.max_restarts.unwrap_or(MAX_RESTARTS),
            poison: self.poison.unwrap_or(Poison::Fail),
            productions: self.productions.unwrap_or(Productions::Auto),
            follow: self.follow,
            keep_logs: self.keep_logs,
            stages: given.stages,
            tasks_per_stage: given.tasks,
            src: given.src,
            dest: given.dest,
            exactly_once: given.exactly_once,
            rate: given.rate,
            scaling: given.marks.map(|(low, high)| Scaling {
                low,
                high,
                most: self.max_tasks.unwrap_or(given.tasks.saturating_mul(2).max(8)),
                stateful: self.scale_stateful,
            }),
            standbys: self.standbys,
        };
        if start.poison == Poison::Skip {
            let file = hydfs::client::names::poison_file(&start.dest);
            if let Err(error) = hydfs::client::check_name(&file) {
                return Err(start.refuse_dest(format!("--poison skip needs a file beside it: {error}")));
            }
            if file == start.src || file.starts_with(&format!("{}/", start.src)) {
                let what = format!(
                    "tuples set aside would go to `{file}`, which is the source; choose another name"
                );
                return Err(start.refuse_dest(what));
            }
        }
        Ok(start)
    }
}

fn seconds(option: &'static str, seconds: f64) -> Result<Duration, Error> {
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|d| *d >= Duration::from_millis(1) && *d <= Duration::from_secs(7 * 86_400))
        .ok_or(Error::Option {
            option,
            what: "give seconds, such as 60 or 0.5".into(),
        })
}

fn job_name(option: &'static str, name: &str) -> Result<JobName, Error> {
    JobName::new(name).map_err(|e| Error::Option {
        option,
        what: e.to_string(),
    })
}
