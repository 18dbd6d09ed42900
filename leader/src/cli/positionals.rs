//! The positional grammar of the contract.

use hydfs::client::names::{Deed, check_users};

use super::{Error, Stage, refuse};

pub(super) struct Positionals {
    pub stages: Vec<Stage>,
    pub tasks: u16,
    pub src: String,
    pub dest: String,
    pub exactly_once: bool,
    pub rate: u64,
    /// LW and HW, with autoscale.
    pub marks: Option<(u64, u64)>,
}

const MOST_STAGES: u16 = 64;
const MOST_TASKS: u16 = 1000;

impl Positionals {
    /// `system`: names that are not for users may be given all the same.
    pub fn read(rest: &[String], system: bool) -> Result<Self, Error> {
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
        let allowed = |deed| if system { None } else { Some(deed) };
        let src = tail[0].trim_end_matches('/');
        let src = hydfs_name(at, "hydfs_src", src, &tail[0], allowed(Deed::Feed))?;
        let dest = hydfs_name(at + 1, "hydfs_dest", &tail[1], &tail[1], allowed(Deed::Write))?;
        if dest == src || dest.starts_with(&format!("{src}/")) {
            let what = format!(
                "it lies inside the source `{src}`, so the job would read its own output; choose another name"
            );
            return Err(refuse(at + 1, "hydfs_dest", &dest, what));
        }
        let exactly_once = boolean(at + 2, "exactly_once", &tail[2])?;
        let autoscale = boolean(at + 3, "autoscale_enabled", &tail[3])?;
        if autoscale && tail.len() < 7 {
            let what = "with autoscaling INPUT_RATE, LW and HW must follow, such as: true 10000 1000 3000";
            return Err(refuse(at + 3, "autoscale_enabled", &tail[3], what));
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
        let mark = |i: usize, name: &str| match tail.get(i) {
            None => Ok(None),
            Some(text) => text.parse::<u64>().map(Some).map_err(|_| {
                let what = "it must be a whole number of tuples per second";
                refuse(at + i, name, text, what)
            }),
        };
        let marks = mark(5, "LW")?.zip(mark(6, "HW")?);
        if let Some((low, high)) = marks.filter(|(low, high)| autoscale && low >= high) {
            let what = format!(
                "it must be more than LW, which is {low}; with HW at least twice LW a task more never makes one too many"
            );
            return Err(refuse(at + 6, "HW", &high.to_string(), what));
        }
        Ok(Self {
            stages,
            tasks,
            src,
            dest,
            exactly_once,
            rate,
            marks: marks.filter(|_| autoscale),
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

fn hydfs_name(
    number: usize,
    name: &str,
    text: &str,
    given: &str,
    deed: Option<Deed>,
) -> Result<String, Error> {
    let checked = hydfs::client::check_name(text);
    let checked = checked.and_then(|()| deed.map_or(Ok(()), |deed| check_users(text, deed)));
    checked.map_err(|e| match e {
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
