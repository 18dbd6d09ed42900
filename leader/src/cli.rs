//! The command line of `leader`: options, then the positional grammar of the contract. Pure: nothing is looked up here.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use common::control::Format;
use common::ids::JobName;

/// An example that works, shown with every refusal.
pub const EXAMPLE: &str = "leader 2 3 grep 'static' replace 'static STATIC' src/code out.tsv true false";

const GRAMMAR: &str = "leader [OPTIONS] <Nstages> <Ntasks_per_stage> <op1_exe> <op1_args> ... <opN_exe> <opN_args> \
     <hydfs_src> <hydfs_dest> <exactly_once> <autoscale_enabled> [<INPUT_RATE> <LW> <HW>]";

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
  autoscale_enabled  true or false (true is not built yet)
  INPUT_RATE         lines per second over all sources; 0 or absent: as fast as it goes

Example: lines with `static` in them, `static` written large, three tasks per stage:
  leader 2 3 grep 'static' replace 'static STATIC' src/code out.tsv true false

Output tuples go to standard output as they become final, everything else to standard error.
Exit code: 0 done, 1 the job failed (why is the last line), 2 bad usage.";

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

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatArg {
    Tsv,
    Value,
    Json,
}

/// Runs one RainStorm job: starts its workers, watches them, restarts them, prints the output.
#[derive(Debug, Parser)]
#[command(name = "leader", version, override_usage = GRAMMAR, after_help = MORE_HELP)]
struct Args {
    /// The cluster file [default: $RAINSTORM_CLUSTER, else ./cluster.toml]
    #[arg(long, value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// The node of the cluster file that this machine is [default: the first whose address is this machine's]
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// The job's name [default: made of the time]
    #[arg(long, value_name = "NAME")]
    job: Option<String>,
    /// How output tuples are written: key<TAB>value, the value alone, or a JSON object per line
    #[arg(long, value_enum, default_value = "tsv")]
    format: FormatArg,
    /// What of the output is printed; `sample`: at most 10 lines a second
    #[arg(long, value_enum, default_value = "all")]
    console: Console,
    /// Writes the figures of the run to this file, as JSON
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
    /// The progress display on standard error
    #[arg(long, value_enum, default_value = "auto")]
    progress: Progress,
    /// How workers are started
    #[arg(long, value_enum, default_value = "ssh")]
    launcher: LauncherKind,
    /// The most tasks that a stage may have
    #[arg(long, value_name = "N")]
    max_tasks: Option<u16>,
    /// Appends to the destination if it exists
    #[arg(long, conflicts_with = "overwrite")]
    append: bool,
    /// Removes the destination first if it exists
    #[arg(long)]
    overwrite: bool,
    /// Prints the plan and starts nothing
    #[arg(long)]
    dry_run: bool,
    /// How long an operator may take over one tuple, seconds
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    op_timeout: f64,
    /// How often a task whose operator fails at the same tuple is restarted
    #[arg(long, value_name = "N", default_value = "5")]
    max_restarts: u32,
    /// Keep reading files as they grow (not built yet)
    #[arg(long, hide = true)]
    follow: bool,
    /// Take up a job whose leader is gone (not built yet)
    #[arg(long, value_name = "JOB", hide = true)]
    resume: Option<String>,
    /// See below
    #[arg(
        value_name = "ARGUMENTS",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        hide = true
    )]
    rest: Vec<String>,
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
    pub job: Option<JobName>,
    pub format: Format,
    pub console: Console,
    pub summary: Option<PathBuf>,
    pub progress: Progress,
    pub launcher: LauncherKind,
    pub if_exists: IfExists,
    pub dry_run: bool,
    pub op_timeout: Duration,
    pub max_restarts: u32,
    pub stages: Vec<Stage>,
    pub tasks_per_stage: u16,
    pub src: String,
    pub dest: String,
    pub exactly_once: bool,
    /// Lines per second over all sources; 0: no limit.
    pub rate: u64,
}

impl Request {
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
pub fn parse<I, T>(args: I) -> Result<Parsed, Error>
where
    I: IntoIterator<Item = T>,
    T: Into<std::ffi::OsString> + Clone,
{
    match Args::try_parse_from(args) {
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

impl Args {
    fn check(self) -> Result<Request, Error> {
        let not_built = |option, instead: &str| {
            Err(Error::Option {
                option,
                what: format!("not built yet in this version; {instead}"),
            })
        };
        if self.resume.is_some() {
            return not_built("--resume", "start the job anew under another name");
        }
        if self.follow {
            return not_built(
                "--follow",
                "run the job without it: it reads what the files hold now",
            );
        }
        let op_timeout = Duration::try_from_secs_f64(self.op_timeout)
            .ok()
            .filter(|d| *d >= Duration::from_millis(1) && *d <= Duration::from_secs(7 * 86_400))
            .ok_or(Error::Option {
                option: "--op-timeout",
                what: "give seconds, such as 60 or 0.5".into(),
            })?;
        let job = match &self.job {
            Some(name) => Some(JobName::new(name.as_str()).map_err(|e| Error::Option {
                option: "--job",
                what: e.to_string(),
            })?),
            None => None,
        };
        let given = Positionals::read(&self.rest)?;
        if let Some(most) = self.max_tasks.filter(|most| given.tasks > *most) {
            return Err(refuse(
                2,
                "Ntasks_per_stage",
                &self.rest[1],
                format!("--max-tasks allows {most}"),
            ));
        }
        Ok(Request {
            cluster: self.cluster,
            node: self.node,
            job,
            format: match self.format {
                FormatArg::Tsv => Format::Tsv,
                FormatArg::Value => Format::Value,
                FormatArg::Json => Format::Json,
            },
            console: self.console,
            summary: self.summary,
            progress: self.progress,
            launcher: self.launcher,
            if_exists: match (self.append, self.overwrite) {
                (true, _) => IfExists::Append,
                (_, true) => IfExists::Overwrite,
                _ => IfExists::Refuse,
            },
            dry_run: self.dry_run,
            op_timeout,
            max_restarts: self.max_restarts,
            stages: given.stages,
            tasks_per_stage: given.tasks,
            src: given.src,
            dest: given.dest,
            exactly_once: given.exactly_once,
            rate: given.rate,
        })
    }
}

struct Positionals {
    stages: Vec<Stage>,
    tasks: u16,
    src: String,
    dest: String,
    exactly_once: bool,
    rate: u64,
}

const MOST_STAGES: u16 = 64;
const MOST_TASKS: u16 = 1000;

impl Positionals {
    fn read(rest: &[String]) -> Result<Self, Error> {
        let Some(first) = rest.first() else {
            return Err(Error::Count {
                what: "no arguments; `leader --help` explains them".into(),
            });
        };
        if first.starts_with('-') && first.parse::<i64>().is_err() {
            return Err(Error::Count {
                what: format!("`{first}` is not an option of leader; see `leader --help`"),
            });
        }
        let stages = count(1, "Nstages", first, MOST_STAGES)?;
        let n = usize::from(stages);
        let short = 2 + 2 * n + 4;
        if ![short, short + 1, short + 3].contains(&rest.len()) {
            return Err(wrong_count(n, rest));
        }
        let tasks = count(2, "Ntasks_per_stage", &rest[1], MOST_TASKS)?;
        let stages = (0..n).map(|k| stage(k, rest)).collect::<Result<_, _>>()?;
        let tail = &rest[2 + 2 * n..];
        let at = 3 + 2 * n;
        let src = hydfs_name(at, "hydfs_src", tail[0].trim_end_matches('/'), &tail[0])?;
        let dest = hydfs_name(at + 1, "hydfs_dest", &tail[1], &tail[1])?;
        if dest == src || dest.starts_with(&format!("{src}/")) {
            let what = format!(
                "it lies inside the source `{src}`, so the job would read its own output; choose another name"
            );
            return Err(refuse(at + 1, "hydfs_dest", &dest, what));
        }
        let exactly_once = boolean(at + 2, "exactly_once", &tail[2])?;
        if boolean(at + 3, "autoscale_enabled", &tail[3])? {
            return Err(refuse(
                at + 3,
                "autoscale_enabled",
                &tail[3],
                "autoscaling is not built yet in this version; say false",
            ));
        }
        let rate = match tail.get(4) {
            Some(text) => text.parse().map_err(|_| {
                refuse(
                    at + 4,
                    "INPUT_RATE",
                    text,
                    "it must be a whole number of lines per second, 0 for no limit",
                )
            })?,
            None => 0,
        };
        for (i, name) in [(5, "LW"), (6, "HW")] {
            if let Some(text) = tail.get(i)
                && text.parse::<u64>().is_err()
            {
                return Err(refuse(
                    at + i,
                    name,
                    text,
                    "it must be a whole number of tuples per second",
                ));
            }
        }
        Ok(Self {
            stages,
            tasks,
            src,
            dest,
            exactly_once,
            rate,
        })
    }
}

fn count(number: usize, name: &str, text: &str, most: u16) -> Result<u16, Error> {
    match text.parse::<u16>() {
        Ok(n) if n >= 1 && n <= most => Ok(n),
        _ => Err(refuse(
            number,
            name,
            text,
            format!("it must be a whole number from 1 to {most}"),
        )),
    }
}

fn boolean(number: usize, name: &str, text: &str) -> Result<bool, Error> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(refuse(number, name, text, "it must be true or false")),
    }
}

fn stage(k: usize, rest: &[String]) -> Result<Stage, Error> {
    let number = 3 + 2 * k;
    let (exe, args) = (&rest[number - 1], &rest[number]);
    let name = format!("op{}_exe", k + 1);
    if exe.is_empty() {
        return Err(refuse(
            number,
            name,
            exe,
            "it is empty; name an operator, such as identity, or a program",
        ));
    }
    let args = shell_words::split(args).map_err(|e| {
        let what = format!("it cannot be split into words as a shell does ({e}); is a quote missing?");
        refuse(number + 1, format!("op{}_args", k + 1), args, what)
    })?;
    Ok(Stage {
        exe: exe.clone(),
        args,
        number,
    })
}

fn hydfs_name(number: usize, name: &str, text: &str, given: &str) -> Result<String, Error> {
    hydfs::client::check_name(text).map_err(|e| match e {
        hydfs::client::Error::InvalidName { why, .. } => {
            refuse(number, name, given, format!("not a HyDFS name: {why}"))
        }
        other => refuse(number, name, given, other.to_string()),
    })?;
    Ok(text.to_owned())
}

/// Says how the arguments were read, since a forgotten `""` shifts all that follow.
fn wrong_count(n: usize, rest: &[String]) -> Error {
    let short = 2 + 2 * n + 4;
    let mut names = vec!["Nstages".to_owned(), "Ntasks_per_stage".into()];
    for k in 1..=n {
        names.extend([format!("op{k}_exe"), format!("op{k}_args")]);
    }
    names.extend(
        [
            "hydfs_src",
            "hydfs_dest",
            "exactly_once",
            "autoscale_enabled",
            "INPUT_RATE",
            "LW",
            "HW",
        ]
        .map(String::from),
    );
    let mut what = format!(
        "with {n} stage{} there are {short} arguments (or {} with INPUT_RATE, {} with INPUT_RATE LW HW), not {}; they were read as",
        if n == 1 { "" } else { "s" },
        short + 1,
        short + 3,
        rest.len()
    );
    for i in 0..names.len().max(rest.len()) {
        match (names.get(i), rest.get(i)) {
            (Some(name), Some(value)) => what.push_str(&format!(
                "\n  {:>2} {name} = {}",
                i + 1,
                shell_words::quote(value)
            )),
            (Some(name), None) if i < short => what.push_str(&format!("\n  {:>2} {name}: missing", i + 1)),
            (None, Some(value)) => what.push_str(&format!(
                "\n  {:>2} too many: {}",
                i + 1,
                shell_words::quote(value)
            )),
            _ => {}
        }
    }
    what.push_str("\nAn operator without arguments still needs its \"\".");
    Error::Count { what }
}

#[cfg(test)]
mod tests;
