//! The oracle: awk over the same input, compared with the job's output as multisets of lines.

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::scenario::Scenario;

/// How the output differs from what must be there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    pub expected: u64,
    /// Lines that are not there as often as they must be, counted.
    pub lost: u64,
    /// Lines that are there more often than they may be, though they may be there.
    pub doubled: u64,
    /// Lines that must not be there at all.
    pub wrong: u64,
    /// The first of each.
    pub shown: Vec<String>,
}

/// What must come out, from the inputs in `folder` (which bear the names of the scenario's).
pub fn expected(scenario: &Scenario, folder: &Path) -> Result<Vec<u8>> {
    let program = format!(
        "function key() {{ return dir \"/\" FILENAME \":\" FNR }}\n{}",
        scenario.kind.oracle()
    );
    let mut command = Command::new("awk");
    command
        .arg("-v")
        .arg(format!("dir={}", scenario.source()))
        .arg(program)
        .args(scenario.inputs.iter().map(|i| &i.name))
        .current_dir(folder);
    let said = said_by(command)?;
    ensure!(
        !said.is_empty(),
        "the oracle says nothing: the run would prove nothing"
    );
    Ok(said)
}

/// The output in `got` as it is to be compared: where an operator chose at random, with its choices checked and taken away.
pub fn normal(scenario: &Scenario, got: &Path) -> Result<Vec<u8>> {
    let Some(program) = scenario.kind.normalizer() else {
        return Ok(std::fs::read(got)?);
    };
    let mut command = Command::new("awk");
    command.arg(program).arg(got);
    said_by(command)
}

fn said_by(mut command: Command) -> Result<Vec<u8>> {
    command.env("LC_ALL", "C").stdin(Stdio::null());
    let out = command.output().context("awk")?;
    ensure!(
        out.status.success(),
        "the oracle failed: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(out.stdout)
}

pub fn compare(want: &[u8], got: &[u8]) -> Verdict {
    let mut counts: HashMap<&[u8], (u64, u64)> = HashMap::new();
    for line in lines(want) {
        counts.entry(line).or_default().0 += 1;
    }
    for line in lines(got) {
        counts.entry(line).or_default().1 += 1;
    }
    let mut verdict = Verdict {
        expected: lines(want).count() as u64,
        ..Verdict::default()
    };
    for (line, (want, got)) in counts {
        let (kind, by) = match (want, got) {
            (w, g) if w == g => continue,
            (w, g) if g < w => (&mut verdict.lost, w - g),
            (0, g) => (&mut verdict.wrong, g),
            (w, g) => (&mut verdict.doubled, g - w),
        };
        *kind += by;
        if verdict.shown.len() < 10 {
            let short = String::from_utf8_lossy(&line[..line.len().min(120)]).into_owned();
            verdict
                .shown
                .push(format!("expected {want} times, there {got} times: {short}"));
        }
    }
    verdict
}

/// A last line without its newline is another line than one with it.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|b| *b == b'\n')
}

impl Verdict {
    pub fn holds(&self, exactly_once: bool) -> bool {
        self.lost == 0 && self.wrong == 0 && (self.doubled == 0 || !exactly_once)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_doubled_and_wrong_is_told_apart() {
        let v = compare(b"a\nb\nb\nc\n", b"c\nb\nb\na\n");
        assert_eq!((v.expected, v.lost, v.doubled, v.wrong), (4, 0, 0, 0));
        assert!(v.holds(true));
        let v = compare(b"a\nb\nb\nc\n", b"a\na\nb\nx\nc");
        assert_eq!((v.lost, v.doubled, v.wrong), (2, 1, 2));
        assert!(!v.holds(false));
        let v = compare(b"a\n", b"a\na\n");
        assert!(v.holds(false) && !v.holds(true));
    }
}
