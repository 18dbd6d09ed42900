//! The operators that come with RainStorm: their names, what they take, how they are made.

mod filter;
mod grep;
mod identity;
mod project;
mod replace;
mod split;

use protocol::control::OpKind;

use crate::aggregate;
use crate::args::{self, Args, Error, Opt, flag, with_value};
use crate::operator::Operator;

/// One operator.
#[derive(Debug)]
pub struct Spec {
    pub name: &'static str,
    pub kind: OpKind,
    pub about: &'static str,
    pub usage: &'static str,
    /// A command line that works.
    pub example: &'static str,
    pub positionals: &'static [&'static str],
    pub options: &'static [Opt],
    pub build: fn(&Args) -> Result<Box<dyn Operator>, args::Error>,
}

const EMIT: Opt = with_value("--emit");
const COLUMN: Opt = with_value("-c");

static SPECS: &[Spec] = &[
    Spec {
        name: "identity",
        kind: OpKind::Transform,
        about: "passes every tuple on",
        usage: "identity [--key KEY] [-d SEP] [--csv]",
        example: "identity --key word:0",
        positionals: &[],
        options: &[],
        build: identity::build,
    },
    Spec {
        name: "grep",
        kind: OpKind::Filter,
        about: "passes the tuples whose value matches a regular expression (-F: holds a text; -i: whatever the case; -v: does not)",
        usage: "grep [-F] [-i] [-v] PATTERN [--key KEY] [-d SEP] [--csv]",
        example: "grep -i 'error|failed' --key word:0",
        positionals: &["PATTERN"],
        options: &[flag("-F"), flag("-i"), flag("-v")],
        build: grep::build,
    },
    Spec {
        name: "replace",
        kind: OpKind::Transform,
        about: "replaces every match in the value; TEXT may name groups as $1 or ${name} (-F: both are plain text)",
        usage: "replace [-F] [-i] PATTERN TEXT [--key KEY] [-d SEP] [--csv]",
        example: "replace '(\\w+)@(\\w+)' '$2 at $1'",
        positionals: &["PATTERN", "TEXT"],
        options: &[flag("-F"), flag("-i")],
        build: replace::build,
    },
    Spec {
        name: "filter",
        kind: OpKind::Filter,
        about: "passes the tuples whose column compares as asked (-lt, -gt: as numbers if both are, else byte by byte)",
        usage: "filter -c COL (-eq|-ne|-lt|-gt|-contains) VALUE [--key KEY] [-d SEP] [--csv]",
        example: "filter -c 2 -gt 100",
        positionals: &[],
        options: filter::OPTIONS,
        build: filter::build,
    },
    Spec {
        name: "project",
        kind: OpKind::Transform,
        about: "keeps the columns named, in that order; one that a line lacks is empty",
        usage: "project -c COLS [--key KEY] [-d SEP] [--csv]",
        example: "project -c 0-2,5",
        positionals: &[],
        options: &[COLUMN],
        build: project::build,
    },
    Spec {
        name: "split",
        kind: OpKind::Transform,
        about: "makes a tuple of every word of the value",
        usage: "split [--key KEY] [-d SEP] [--csv]",
        example: "split --key value",
        positionals: &[],
        options: &[],
        build: split::build,
    },
    Spec {
        name: "filtertransform",
        kind: OpKind::Transform,
        about: "grep and project in one: the columns named of the values that match",
        usage: "filtertransform [-F] [-i] [-v] PATTERN -c COLS [--key KEY] [-d SEP] [--csv]",
        example: "filtertransform -F Stop -c 0,2",
        positionals: &["PATTERN"],
        options: &[flag("-F"), flag("-i"), flag("-v"), COLUMN],
        build: project::build_filtered,
    },
    Spec {
        name: "count",
        kind: OpKind::Aggregate,
        about: "counts the tuples of each key",
        usage: "count [--emit update|batch|final] [--key KEY]",
        example: "count --emit final",
        positionals: &[],
        options: &[EMIT],
        build: aggregate::build_count,
    },
    Spec {
        name: "sum",
        kind: OpKind::Aggregate,
        about: "adds up a column for each key",
        usage: "sum -c COL [--emit update|batch|final] [--key KEY] [-d SEP] [--csv]",
        example: "sum -c 3 --emit batch",
        positionals: &[],
        options: &[EMIT, COLUMN],
        build: aggregate::build_sum,
    },
    Spec {
        name: "avg",
        kind: OpKind::Aggregate,
        about: "averages a column for each key",
        usage: "avg -c COL [--emit update|batch|final] [--key KEY] [-d SEP] [--csv]",
        example: "avg -c 3 --emit final",
        positionals: &[],
        options: &[EMIT, COLUMN],
        build: aggregate::build_avg,
    },
    Spec {
        name: "min",
        kind: OpKind::Aggregate,
        about: "keeps the smallest number in a column for each key",
        usage: "min -c COL [--emit update|batch|final] [--key KEY] [-d SEP] [--csv]",
        example: "min -c 3",
        positionals: &[],
        options: &[EMIT, COLUMN],
        build: aggregate::build_min,
    },
    Spec {
        name: "max",
        kind: OpKind::Aggregate,
        about: "keeps the largest number in a column for each key",
        usage: "max -c COL [--emit update|batch|final] [--key KEY] [-d SEP] [--csv]",
        example: "max -c 3",
        positionals: &[],
        options: &[EMIT, COLUMN],
        build: aggregate::build_max,
    },
];

fn spec(name: &str) -> Option<&'static Spec> {
    SPECS.iter().find(|s| s.name == name)
}

/// What the leader must know before a job is planned; `None`: not an operator that comes with RainStorm.
pub fn kind_of(name: &str) -> Option<OpKind> {
    spec(name).map(|s| s.kind)
}

/// The operator of that name, ready to run. Also the way to check a command line: making one does nothing else.
pub fn builtin(name: &str, args: &[String]) -> Result<Box<dyn Operator>, Error> {
    let spec = spec(name).ok_or_else(|| Error {
        op: name.to_owned(),
        what: format!(
            "no such operator comes with RainStorm; there are {}",
            names().join(", ")
        ),
        usage: "one of these, or the path of an executable, such as ./my-operator".to_owned(),
        example: "grep -F error".to_owned(),
    })?;
    (spec.build)(&Args::parse(spec, args)?)
}

/// One line: the arguments of the operator.
pub fn usage(name: &str) -> Option<&'static str> {
    spec(name).map(|s| s.usage)
}

/// One line: what the operator does, and an example that works.
pub fn about(name: &str) -> Option<(&'static str, &'static str)> {
    spec(name).map(|s| (s.about, s.example))
}

pub fn names() -> &'static [&'static str] {
    static NAMES: [&str; SPECS.len()] = {
        let mut names = [""; SPECS.len()];
        let mut i = 0;
        while i < names.len() {
            names[i] = SPECS[i].name;
            i += 1;
        }
        names
    };
    &NAMES
}

#[cfg(test)]
pub mod tests;
