//! The kinds of jobs, their operators, and the awk programs that say what must come out.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::{root, succeed};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// grep, replace
    Replace,
    /// grep by first word, count: every running value
    Count,
    /// The same, the last value per key only
    CountFinal,
    /// grep, replace, filter
    Three,
    /// grep by first word, replace, count
    ThreeCount,
    /// A foreign filter in the text protocol, replace
    ForeignFilter,
    /// grep, a foreign transform in the text protocol that gives one or two tuples, replace
    ForeignTwice,
    /// A foreign transform in the text protocol that changes the key, count
    ForeignCount,
    /// grep, a foreign transform in the batch protocol that gives one or two tuples, replace
    BatchTwice,
    /// grep by first word, a foreign aggregate in the batch protocol that counts and saves its state
    BatchCount,
    /// grep, a foreign transform whose output is not determined by its input, replace
    Random,
    /// grep by first word, a foreign aggregate in the text protocol that cannot save its state
    TextCount,
}

/// `-W interactive` is for mawk, which else reads blocks.
pub const FOREIGN_FILTER: &str = r#"#!/bin/sh
LC_ALL=C exec awk -W interactive '
NR % 2 { next }
{ v = substr($0, 8); if (length(v) % 3) print "forward\nvalue: " v; else print "filter"; fflush() }' 2>/dev/null
"#;

pub const FOREIGN_TWICE: &str = r#"#!/bin/sh
LC_ALL=C exec awk -W interactive '
NR % 2 { next }
{
    v = substr($0, 8)
    print "emit\nvalue: A " v
    if (length(v) % 2 == 0) print "emit\nkey: even\nvalue: B " v
    print "end"; fflush()
}' 2>/dev/null
"#;

const FOREIGN_KEY: &str = r#"#!/bin/sh
LC_ALL=C exec awk -W interactive '
NR % 2 { next }
{ v = substr($0, 8); n = split(v, words); print "forward\nkey: " words[1] "\nvalue: " v; fflush() }' 2>/dev/null
"#;

/// One to three copies, each saying which of how many it is.
const FOREIGN_RANDOM: &str = r#"#!/bin/sh
if [ -n "$RAINSTORM_DESCRIBE" ]; then
    echo 'rainstorm-operator/1 kind=transform protocol=text deterministic=no'
    exit 0
fi
LC_ALL=C exec awk -W interactive -v seed="$$$(date +%N)" '
BEGIN { srand(seed % 2147483647) }
NR % 2 { next }
{
    v = substr($0, 8); k = int(rand() * 3) + 1
    for (i = 1; i <= k; i++) print "emit\nvalue: " i "/" k "|" v
    print "end"; fflush()
}' 2>/dev/null
"#;

const FOREIGN_TEXT_COUNT: &str = r#"#!/bin/sh
LC_ALL=C exec awk -W interactive '
NR % 2 { k = substr($0, 6); next }
{ print "forward\nvalue: " ++n[k]; fflush() }' 2>/dev/null
"#;

const BATCH_TWICE: &str = r#"
import rainstorm

@rainstorm.transform
def twice(value):
    yield b"A " + value
    if len(value) % 2 == 0:
        yield b"even", b"B " + value

rainstorm.run()
"#;

const BATCH_COUNT: &str = r#"
import rainstorm

@rainstorm.aggregate(initial=int)
def count(state, value):
    return state + 1, b"%d" % (state + 1)

rainstorm.run()
"#;

const GREP: (&str, &str) = ("grep", "static");
const GREP_BY_WORD: (&str, &str) = ("grep", "--key word:0 static");

/// One executable of a Python operator and the SDK.
pub fn bundle(source: &Path, executable: &Path) -> Result<()> {
    let mut bundle = Command::new("python3");
    bundle.args(["-m", "rainstorm", "bundle"]).arg(source);
    bundle.arg("-o").arg(executable);
    bundle.env("PYTHONPATH", root().join("ops/python"));
    succeed(bundle.env("PYTHONDONTWRITEBYTECODE", "1")).map(drop)
}

impl Kind {
    pub const ALL: [(u64, Kind); 12] = [
        (4, Kind::Replace),
        (4, Kind::Count),
        (2, Kind::CountFinal),
        (4, Kind::Three),
        (3, Kind::ThreeCount),
        (2, Kind::ForeignFilter),
        (3, Kind::ForeignTwice),
        (2, Kind::ForeignCount),
        (2, Kind::BatchTwice),
        (4, Kind::BatchCount),
        (2, Kind::Random),
        (2, Kind::TextCount),
    ];

    /// Operators and their arguments, stage by stage; `{op}` is the foreign executable.
    pub fn stages(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Kind::Replace => &[GREP, ("replace", "static STATIC")],
            Kind::Count => &[GREP_BY_WORD, ("count", "")],
            Kind::CountFinal => &[GREP_BY_WORD, ("count", "--emit final")],
            Kind::Three => &[GREP, ("replace", "-F static S"), ("filter", "-d ' ' -c 0 -ne S")],
            Kind::ThreeCount => &[GREP_BY_WORD, ("replace", "-F static S"), ("count", "")],
            Kind::ForeignFilter => &[("filter:{op}", ""), ("replace", "-F static STATIC")],
            Kind::ForeignTwice => &[GREP, ("transform:{op}", ""), ("replace", "-F static STATIC")],
            Kind::ForeignCount => &[("transform:{op}", ""), ("count", "")],
            Kind::BatchTwice | Kind::Random => &[GREP, ("{op}", ""), ("replace", "-F static STATIC")],
            Kind::BatchCount => &[GREP_BY_WORD, ("{op}", "")],
            Kind::TextCount => &[GREP_BY_WORD, ("aggregate:{op}", "")],
        }
    }

    /// The foreign operator's stage.
    pub fn foreign_stage(self) -> Option<u16> {
        let at = self.stages().iter().position(|(exe, _)| exe.contains("{op}"))?;
        u16::try_from(at + 1).ok()
    }

    /// Makes the foreign executable in `folder`; where it is. Its content is the run's own: none is found in a node's cache.
    pub fn operator(self, seed: u64, folder: &Path) -> Result<String> {
        use std::os::unix::fs::PermissionsExt;
        let script = match self {
            Kind::ForeignFilter => FOREIGN_FILTER,
            Kind::ForeignTwice => FOREIGN_TWICE,
            Kind::ForeignCount => FOREIGN_KEY,
            Kind::Random => FOREIGN_RANDOM,
            Kind::TextCount => FOREIGN_TEXT_COUNT,
            Kind::BatchTwice => BATCH_TWICE,
            Kind::BatchCount => BATCH_COUNT,
            _ => return Ok(String::new()),
        };
        let (source, path) = (folder.join("operator.py"), folder.join("operator"));
        if script.starts_with("#!") {
            std::fs::write(&path, format!("{script}# {seed}\n"))?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        } else {
            std::fs::write(&source, format!("{script}# {seed}\n"))?;
            bundle(&source, &path)?;
        }
        Ok(path.to_string_lossy().into_owned())
    }

    /// The awk program that says what must come out, given all files in order; `key()` is a line's key.
    pub fn oracle(self) -> &'static str {
        match self {
            Kind::Replace | Kind::Random => r#"/static/ { gsub(/static/, "STATIC"); print key() "\t" $0 }"#,
            Kind::Count | Kind::ThreeCount | Kind::BatchCount | Kind::TextCount => {
                r#"/static/ { print $1 "\t" ++n[$1] }"#
            }
            Kind::CountFinal => r#"/static/ { ++n[$1] } END { for (k in n) print k "\t" n[k] }"#,
            Kind::Three => {
                r#"/static/ { gsub(/static/, "S"); split($0, c, "[ ]"); if (c[1] != "S") print key() "\t" $0 }"#
            }
            Kind::ForeignFilter => r#"length($0) % 3 { gsub(/static/, "STATIC"); print key() "\t" $0 }"#,
            Kind::ForeignTwice | Kind::BatchTwice => {
                r#"/static/ { even = length($0) % 2 == 0; gsub(/static/, "STATIC"); print key() "\tA " $0; if (even) print "even\tB " $0 }"#
            }
            Kind::ForeignCount => r#"{ print $1 "\t" ++n[$1] }"#,
        }
    }

    /// For output with chances in it: the awk program that turns all copies `i/k|` of a line, if they are all there and once
    /// each, into the line; what does not fit it leaves as it is, so that it is seen.
    pub fn normalizer(self) -> Option<&'static str> {
        const COPIES: &str = r#"
{
    at = index($0, "\t"); mark = index($0, "|"); split(substr($0, at + 1, mark - at - 1), of, "/")
    line = substr($0, 1, at) substr($0, mark + 1)
    if (++seen[line, of[1]] > 1 || (line in k && k[line] != of[2])) { print "twice or torn: " $0; next }
    k[line] = of[2]; n[line]++
}
END { for (line in k) print (n[line] == k[line] ? line : "copies missing: " line) }"#;
        (self == Kind::Random).then_some(COPIES)
    }

    /// Whether the first word of each line is a key.
    pub fn counts(self) -> bool {
        matches!(
            self,
            Kind::Count
                | Kind::CountFinal
                | Kind::ThreeCount
                | Kind::ForeignCount
                | Kind::BatchCount
                | Kind::TextCount
        )
    }

    /// Gives output only when all input is read: a fault cannot wait for output.
    pub fn is_final(self) -> bool {
        self == Kind::CountFinal
    }
}
