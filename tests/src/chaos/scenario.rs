//! What a seed stands for: the job, its input, the faults and when they strike. Pure; the same for the same seed.

use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::kinds::Kind;
use super::random::Random;

/// What the caller allows.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Of the cluster: two are killed at once from five on, one from three on.
    pub nodes: usize,
    /// Faults of nodes and daemons; they take longest.
    pub node_faults: bool,
    /// `kill -9` of the leader, followed by `leader --resume`.
    pub leader_faults: bool,
}

/// One input file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    pub name: String,
    pub lines: u64,
    pub seed: u64,
    /// Now and then a long line, an empty one, bytes that are not UTF-8.
    pub odd: bool,
    pub final_newline: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9` of these tasks' processes, all at once.
    Kill { tasks: Vec<String> },
    /// `kill -9`, and again of each replacement as soon as its process is there and `later_us` have passed.
    KillAgain { task: String, later_us: Vec<u64> },
    /// `kill -9` of the foreign operator of a task.
    KillOperator { task: String },
    /// SIGSTOP until the task is replaced; SIGCONT then, so much later. None: it is never woken.
    Stop { task: String, wake_ms: Option<u64> },
    /// `kill -9` of all processes of these nodes, all at once; started again so much later, or after the run.
    KillNodes {
        nodes: Vec<String>,
        back_ms: Option<u64>,
    },
    /// `kill -9` of one daemon of a node, started again so much later.
    KillDaemon {
        node: String,
        program: &'static str,
        back_ms: u64,
    },
    /// `kill -9` of the leader; `leader --resume` so much later.
    KillLeader { resume_ms: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timed {
    /// Since the first output.
    pub at: Duration,
    pub fault: Fault,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    pub seed: u64,
    pub kind: Kind,
    pub tasks: u16,
    pub exactly_once: bool,
    pub inputs: Vec<Input>,
    /// Lines per second over all sources.
    pub rate: u64,
    pub faults: Vec<Timed>,
}

impl Scenario {
    pub fn new(seed: u64, limits: Limits) -> Self {
        let mut random = Random::new(seed);
        let r = &mut random;
        let kind = r.weighted(&Kind::ALL);
        let tasks = r.weighted(&[(2, 1), (5, 2), (3, 3)]);
        // What comes twice cannot be told from what was chosen otherwise, the second time.
        let exactly_once = kind.counts() || kind == Kind::Random || !r.percent(8);
        let rate = r.between(25, 80) * 1000;
        let millis = r.between(1000, 2000);
        let lines = rate * millis / 1000;
        let inputs = inputs(r, kind, lines);
        let mut scenario = Self {
            seed,
            kind,
            tasks,
            exactly_once,
            inputs,
            rate,
            faults: vec![],
        };
        let mut at: Vec<u64> = (0..r.weighted(&[(3, 1), (4, 2), (3, 3), (1, 5)]))
            .map(|_| r.between(millis * 3 / 100, millis * 70 / 100))
            .collect();
        at.sort_unstable();
        // The first always hits: the job is young.
        at[0] = at[0].min(millis * 40 / 100);
        let mut left = Left {
            nodes: if limits.node_faults {
                limits.nodes.saturating_sub(1) / 2
            } else {
                0
            },
            down: vec![],
            stops: 1,
            operators: 2,
            leader: limits.leader_faults,
        };
        for at in at {
            let fault = scenario.fault(r, limits, &mut left);
            scenario.faults.push(Timed {
                at: Duration::from_millis(at),
                fault,
            });
        }
        if let Some(first) = scenario.faults.first_mut() {
            first.fault.aim_at_what_is_there();
        }
        scenario
    }

    /// All tasks, the source's too (there is one for each slice of the input, so the first at least).
    fn task(&self, r: &mut Random) -> String {
        let stage = r.between(0, self.kind.stages().len() as u64);
        let index = r.between(0, u64::from(self.tasks) - 1);
        format!("s{stage}t{index}")
    }

    fn fault(&self, r: &mut Random, limits: Limits, left: &mut Left) -> Fault {
        #[derive(Clone, Copy)]
        enum Choice {
            One,
            Several,
            Again,
            Operator,
            Stop,
            Node,
            Two,
            Storage,
            Membership,
            Leader,
        }
        let foreign = self.kind.foreign_stage();
        let one = left.nodes > 0;
        let choice = r.weighted(&[
            (40, Choice::One),
            (10, Choice::Several),
            (14, Choice::Again),
            (
                if foreign.is_some() && left.operators > 0 {
                    30
                } else {
                    0
                },
                Choice::Operator,
            ),
            (if left.stops > 0 { 3 } else { 0 }, Choice::Stop),
            (if one { 3 } else { 0 }, Choice::Node),
            (if left.nodes > 1 { 3 } else { 0 }, Choice::Two),
            (if one { 2 } else { 0 }, Choice::Storage),
            (if one { 1 } else { 0 }, Choice::Membership),
            (if left.leader { 12 } else { 0 }, Choice::Leader),
        ]);
        match choice {
            Choice::One => Fault::Kill {
                tasks: vec![self.task(r)],
            },
            Choice::Several => {
                let mut tasks: Vec<String> = (0..r.between(2, 4)).map(|_| self.task(r)).collect();
                tasks.sort();
                tasks.dedup();
                Fault::Kill { tasks }
            }
            Choice::Again => Fault::KillAgain {
                task: self.task(r),
                later_us: (0..r.between(1, 3)).map(|_| r.between(0, 20_000)).collect(),
            },
            Choice::Operator => {
                left.operators -= 1;
                let stage = foreign.unwrap_or(1);
                let index = r.between(0, u64::from(self.tasks) - 1);
                Fault::KillOperator {
                    task: format!("s{stage}t{index}"),
                }
            }
            Choice::Stop => {
                left.stops -= 1;
                Fault::Stop {
                    task: self.task(r),
                    wake_ms: r.percent(75).then(|| r.between(0, 400)),
                }
            }
            Choice::Node => Fault::KillNodes {
                nodes: vec![left.node(r, limits.nodes)],
                back_ms: r.percent(40).then(|| r.between(200, 1500)),
            },
            Choice::Two => Fault::KillNodes {
                nodes: vec![left.node(r, limits.nodes), left.node(r, limits.nodes)],
                back_ms: r.percent(30).then(|| r.between(500, 1500)),
            },
            Choice::Storage => Fault::KillDaemon {
                node: left.node(r, limits.nodes),
                program: "hydfsd",
                back_ms: r.between(100, 1500),
            },
            Choice::Membership => Fault::KillDaemon {
                node: left.node(r, limits.nodes),
                program: "memberd",
                back_ms: r.between(100, 1500),
            },
            Choice::Leader => {
                left.leader = false;
                Fault::KillLeader {
                    resume_ms: r.between(0, 2500),
                }
            }
        }
    }

    pub fn job(&self) -> String {
        format!("chaos-{}", self.seed)
    }

    pub fn source(&self) -> String {
        format!("chaos/{}/in", self.seed)
    }

    pub fn dest(&self) -> String {
        format!("chaos/{}/out", self.seed)
    }

    /// The leader's arguments from Nstages on. `op`: where the foreign executable is.
    pub fn args(&self, op: &str) -> Vec<String> {
        let stages = self.kind.stages();
        let mut args = vec![stages.len().to_string(), self.tasks.to_string()];
        for (exe, of) in stages {
            args.push(exe.replace("{op}", op));
            args.push((*of).into());
        }
        args.extend([self.source(), self.dest()]);
        args.extend([
            self.exactly_once.to_string(),
            "false".into(),
            self.rate.to_string(),
        ]);
        args
    }

    pub fn lines(&self) -> u64 {
        self.inputs.iter().map(|i| i.lines).sum()
    }

    /// How long the job takes at its rate when nothing happens.
    pub fn paced(&self) -> Duration {
        Duration::from_secs_f64(self.lines() as f64 / self.rate as f64)
    }

    /// Whether a fault reaches beyond single processes of the job.
    pub fn has_wide_faults(&self) -> bool {
        let wide = |f: &Timed| {
            matches!(
                f.fault,
                Fault::KillNodes { .. } | Fault::KillDaemon { .. } | Fault::KillLeader { .. }
            )
        };
        self.faults.iter().any(wide)
    }
}

/// What may still happen in one run.
struct Left {
    nodes: usize,
    down: Vec<String>,
    stops: u32,
    operators: u32,
    leader: bool,
}

impl Left {
    /// A node that has not been hit in this run.
    fn node(&mut self, r: &mut Random, nodes: usize) -> String {
        self.nodes = self.nodes.saturating_sub(1);
        loop {
            let node = format!("n{}", r.between(1, nodes as u64));
            if !self.down.contains(&node) {
                self.down.push(node.clone());
                return node;
            }
        }
    }
}

fn inputs(r: &mut Random, kind: Kind, lines: u64) -> Vec<Input> {
    let files = r.weighted(&[(5, 1), (2, 2), (2, 4), (1, 9)]);
    let odd = !kind.counts() && r.percent(30);
    let mut left = lines;
    let mut inputs: Vec<Input> = (0..files)
        .map(|n| {
            let share = if n + 1 == files {
                left
            } else {
                r.between(0, left / 2)
            };
            left -= share;
            Input {
                name: format!("f{n}"),
                lines: share,
                seed: r.draw(),
                odd,
                final_newline: true,
            }
        })
        .collect();
    if let Some(last) = inputs.last_mut() {
        last.final_newline = !r.percent(20);
    }
    inputs
}

impl Input {
    /// Writes the file. Every line ends with a number of its own, so that none equals another.
    pub fn write(&self, path: &Path) -> Result<()> {
        const WORDS: [&str; 16] = [
            "let", "static", "fn", "use", "impl", "pub", "match", "self", "return", "struct", "for", "mod",
            "static", "x", "statics", "the",
        ];
        let mut r = Random::new(self.seed);
        // One hot key in some files.
        let hot = r.percent(25);
        let mut out = BufWriter::new(File::create(path)?);
        for line in 0..self.lines {
            let what = r.draw();
            if self.odd && what % 500 < 3 {
                match what % 500 {
                    0 => out.write_all(b"\xff\xfe static \x01\x80 ")?,
                    1 => out.write_all("static-long ".repeat(r.between(1, 4000) as usize).as_bytes())?,
                    _ => out.write_all(b"\t  static\t")?,
                }
                write!(out, "{}.{line}", self.name)?;
            } else if self.odd && what % 500 == 3 {
                // Nothing at all: the key tells it apart.
            } else {
                let first = if hot && !what.is_multiple_of(10) {
                    WORDS[1]
                } else {
                    *r.pick(&WORDS)
                };
                write!(out, "{first}")?;
                for _ in 0..what % 6 {
                    write!(out, " {}", r.pick(&WORDS))?;
                }
                write!(out, " {}.{line}", self.name)?;
            }
            if line + 1 < self.lines || self.final_newline {
                out.write_all(b"\n")?;
            }
        }
        Ok(out.flush()?)
    }
}

impl Fault {
    /// There may be fewer slices of the input, and so fewer source tasks, than tasks of a stage: of those the first only.
    fn aim_at_what_is_there(&mut self) {
        let aim = |task: &mut String| {
            if task.starts_with("s0t") {
                *task = "s0t0".into();
            }
        };
        match self {
            Fault::Kill { tasks } => {
                tasks.iter_mut().for_each(aim);
                tasks.dedup();
            }
            Fault::KillAgain { task, .. } | Fault::Stop { task, .. } => aim(task),
            _ => {}
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Kill { tasks } => write!(f, "{}", tasks.join("+")),
            Fault::KillAgain { task, later_us } => write!(f, "{task}x{}", later_us.len() + 1),
            Fault::KillOperator { task } => write!(f, "{task}/op"),
            Fault::Stop { task, wake_ms } => {
                write!(f, "{task}:stop{}", if wake_ms.is_some() { "+cont" } else { "" })
            }
            Fault::KillNodes { nodes, back_ms } => {
                write!(
                    f,
                    "{}{}",
                    nodes.join("+"),
                    if back_ms.is_some() { ":back" } else { "" }
                )
            }
            Fault::KillDaemon { node, program, .. } => write!(f, "{node}/{program}"),
            Fault::KillLeader { .. } => f.write_str("leader"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIVE: Limits = Limits {
        nodes: 5,
        node_faults: true,
        leader_faults: true,
    };

    #[test]
    fn a_seed_always_means_the_same_and_two_seeds_do_not() {
        for seed in 0..200 {
            assert_eq!(Scenario::new(seed, FIVE), Scenario::new(seed, FIVE));
        }
        assert_ne!(Scenario::new(1, FIVE), Scenario::new(2, FIVE));
    }

    #[test]
    fn the_limits_hold_and_every_fault_comes_up() {
        let mut seen = std::collections::HashSet::new();
        for seed in 0..2000 {
            let s = Scenario::new(seed, FIVE);
            let mut down = 0;
            for t in &s.faults {
                assert!(t.at < s.paced(), "{s:?}");
                seen.insert(std::mem::discriminant(&t.fault));
                down += match &t.fault {
                    Fault::KillNodes { nodes, .. } => nodes.len(),
                    Fault::KillDaemon { .. } => 1,
                    _ => 0,
                };
            }
            assert!(down <= 2, "{s:?}");
            assert!(s.exactly_once || !s.kind.counts());
            let without = Scenario::new(
                seed,
                Limits {
                    nodes: 3,
                    node_faults: false,
                    leader_faults: false,
                },
            );
            assert!(!without.has_wide_faults());
        }
        assert_eq!(seen.len(), 7);
    }

    #[test]
    fn data_is_the_same_for_the_same_seed() {
        let dir = tempfile::tempdir().unwrap();
        let input = Input {
            name: "f0".into(),
            lines: 2000,
            seed: 9,
            odd: true,
            final_newline: false,
        };
        input.write(&dir.path().join("a")).unwrap();
        input.write(&dir.path().join("b")).unwrap();
        let (a, b) = (
            std::fs::read(dir.path().join("a")).unwrap(),
            std::fs::read(dir.path().join("b")).unwrap(),
        );
        assert_eq!(a, b);
        assert_eq!(a.split(|b| *b == b'\n').count(), 2000);
        assert!(!a.contains(&b'\r') && a.last() != Some(&b'\n'));
    }
}
