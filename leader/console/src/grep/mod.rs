//! `grep [GREP-OPTIONS] PATTERN`: all machines' logs at once. Each machine's own grep does the work; only matches travel.

pub mod args;
mod machine;

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use common::cluster::{Cluster, Node};
use common::ssh::Folder;
use common::{clock, output, shown};
use tokio::sync::{mpsc, watch};

use args::Search;
use machine::{MachineReply, RollCall};

use crate::outcome::{Done, Error, FAILED};
use launcher::remote::Remote;

/// Blocks of lines on their way to standard output, over all machines.
const AHEAD: usize = 64;

/// Exit codes as grep's: 0 something was found; and:
const NOTHING: u8 = 1;

/// Searches. Matches go to standard output as they come, each under its machine's name; with `-c`, a count per machine does.
/// Everything else, a machine that does not answer among it, goes to standard error.
pub async fn run(cluster: &Cluster, words: &[String]) -> Result<Done, Error> {
    let began = clock::now();
    let search = Arc::new(args::read(words)?);
    let folder = Arc::new(Folder::new().map_err(|source| Error::Sockets { source })?);
    let roll = Arc::new(watch::Sender::new(RollCall {
        dialling: cluster.nodes.len(),
        reached: 0,
    }));
    let (tell, mut said) = mpsc::channel(AHEAD);
    let guards: Vec<_> = cluster
        .nodes
        .iter()
        .enumerate()
        .map(|(at, node)| {
            let remote = Remote::new(node.clone(), folder.clone());
            machine::search(
                at,
                node.clone(),
                remote,
                search.clone(),
                roll.clone(),
                tell.clone(),
            )
        })
        .collect();
    drop(tell);

    let mut sums: Vec<Sum> = cluster.nodes.iter().map(Sum::of).collect();
    // Colours were asked for by name: what else the logs hold is escaped in them.
    let coloured = search
        .args
        .iter()
        .any(|a| a.starts_with("--colo") && a.ends_with("=always"));
    let terminal = io::stdout().is_terminal() && !coloured;
    let mut out = io::BufWriter::new(shown::Shown::new(io::stdout(), terminal));
    while let Some((at, said_there)) = said.recv().await {
        let Some(sum) = sums.get_mut(at) else { continue };
        let written = match said_there {
            MachineReply::Lines(lines) => sum.take(&search, &lines, &mut out),
            MachineReply::End(end) => {
                sum.end = Some(end);
                Ok(())
            }
        };
        // Nobody waits for what is here already.
        let flushed = written.and_then(|()| if said.is_empty() { out.flush() } else { Ok(()) });
        if flushed.is_err() {
            output::judge(flushed)?;
            // The reader has seen what it wanted.
            return Ok(Done::default());
        }
    }
    while guards.iter().any(|guard| !guard.is_finished()) {
        // Connections that close, each within its bound.
        tokio::task::yield_now().await;
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    if search.counts {
        for sum in sums.iter().filter(|sum| matches!(sum.end, Some(Ok(_)))) {
            output::judge(writeln!(out, "{}:{}", sum.name, sum.matches))?;
        }
    }
    output::judge(out.flush())?;
    let seconds = clock::now().since(began).as_secs_f64();
    Ok(Done {
        code: conclude(&search, &sums, seconds, &mut io::stderr()),
        ..Done::default()
    })
}

/// What one machine has.
struct Sum {
    name: String,
    matches: u64,
    end: Option<Result<bool, String>>,
}

impl Sum {
    fn of(node: &Node) -> Self {
        Self {
            name: node.name.to_string(),
            matches: 0,
            end: None,
        }
    }

    /// Writes whole lines, the machine's name before each, and counts what matched.
    fn take(&mut self, search: &Search, lines: &[u8], out: &mut impl Write) -> io::Result<()> {
        for line in lines.split_inclusive(|b| *b == b'\n') {
            if search.counts {
                self.matches += count_of(line);
                continue;
            }
            self.matches += u64::from(!search.context || is_match(search, line));
            out.write_all(self.name.as_bytes())?;
            out.write_all(b":")?;
            out.write_all(line)?;
            if !line.ends_with(b"\n") {
                out.write_all(b"\n")?;
            }
        }
        Ok(())
    }
}

/// Of `worker.log:12`, or `12`.
fn count_of(line: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(line);
    let number = text.trim_end().rsplit(':').next();
    number.and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Whether it is not one of the lines around a match: `worker.log:...` or `worker.log.1:...`, not `worker.log-...` or `--`.
fn is_match(search: &Search, line: &[u8]) -> bool {
    if search.bare {
        return line.trim_ascii_end() != b"--";
    }
    let name = line.windows(4).position(|four| four == b".log");
    let Some(mut behind) = name.and_then(|at| line.get(at + 4..)) else {
        return false;
    };
    if let Some(number) = behind.strip_prefix(b".") {
        let digits = number.iter().take_while(|b| b.is_ascii_digit()).count();
        behind = &number[digits..];
    }
    behind.first() == Some(&b':')
}

/// Says what was found where, and who did not answer; returns the exit code.
fn conclude(search: &Search, sums: &[Sum], seconds: f64, err: &mut impl Write) -> u8 {
    let mut found = false;
    let mut failed = 0;
    for sum in sums {
        let said = match sum.end.as_ref() {
            Some(Ok(some)) => {
                found |= some;
                if search.quiet || search.counts {
                    continue;
                }
                format!("{}: {}", sum.name, count(sum.matches))
            }
            Some(Err(why)) => {
                failed += 1;
                format!("{}: {why}", sum.name)
            }
            None => {
                failed += 1;
                format!("{}: its search ended early", sum.name)
            }
        };
        let _ = writeln!(err, "{said}");
    }
    if !search.quiet {
        let all: u64 = sums.iter().map(|sum| sum.matches).sum();
        let answered = sums.len() - failed;
        let machines = if sums.len() == 1 { "machine" } else { "machines" };
        let of = match failed {
            0 => format!("{answered} {machines}"),
            _ => format!("{answered} of {} {machines}", sums.len()),
        };
        let _ = writeln!(err, "{} on {of}, {seconds:.2} s", count(all));
    }
    match (failed, found) {
        (0, true) => 0,
        (0, false) => NOTHING,
        _ => FAILED,
    }
}

fn count(matches: u64) -> String {
    match matches {
        1 => "1 match".into(),
        n => format!("{n} matches"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(matches: u64, end: Result<bool, String>) -> Sum {
        Sum {
            name: "n1".into(),
            matches,
            end: Some(end),
        }
    }

    fn take(words: &[&str], lines: &[u8]) -> (u64, String) {
        let words: Vec<String> = words.iter().map(|w| w.to_string()).collect();
        let (mut one, mut out) = (sum(0, Ok(true)), vec![]);
        one.take(&args::read(&words).unwrap(), lines, &mut out).unwrap();
        (one.matches, String::from_utf8(out).unwrap())
    }

    #[test]
    fn lines_get_their_machines_name_and_only_matches_count() {
        assert_eq!(
            take(&["x"], b"worker.log:a x\nleader.log:x"),
            (2, "n1:worker.log:a x\nn1:leader.log:x\n".into())
        );
        let around = b"worker.log-before: c\nworker.log:x\n--\nworker.log:x\n";
        assert_eq!(take(&["-C1", "x"], around).0, 2);
        let around = b"worker.log.12-before: c\nworker.log.12:x\n--\nworker.log:x\n";
        assert_eq!(take(&["-C1", "x"], around).0, 2);
        assert_eq!(
            take(&["-c", "x"], b"leader.log:3\nworker.log:40\n"),
            (43, String::new())
        );
        assert_eq!(take(&["-ch", "x"], b"3\n40\n").0, 43);
    }

    #[test]
    fn codes_are_greps() {
        let search = args::read(&["x".to_owned()]).unwrap();
        let code = |sums: &[Sum]| {
            let mut said = vec![];
            let code = conclude(&search, sums, 0.5, &mut said);
            (code, String::from_utf8(said).unwrap())
        };
        assert_eq!(
            code(&[sum(2, Ok(true)), sum(0, Ok(false))]),
            (
                0,
                "n1: 2 matches\nn1: 0 matches\n2 matches on 2 machines, 0.50 s\n".into()
            )
        );
        assert_eq!(code(&[sum(0, Ok(false))]).0, NOTHING);
        let (failed, said) = code(&[sum(1, Ok(true)), sum(0, Err("did not answer: boom".into()))]);
        assert_eq!(failed, FAILED);
        assert!(
            said.contains("n1: did not answer: boom\n") && said.contains("1 match on 1 of 2 machines"),
            "{said}"
        );
    }
}
