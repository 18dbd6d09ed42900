//! One line per run, and the whole at the end.

use std::time::Duration;

use super::run::Outcome;
use super::scenario::{Fault, Scenario};

/// The sum of many runs.
#[derive(Debug, Default)]
pub struct Report {
    runs: u64,
    valid: u64,
    counted: u64,
    kills: u64,
    wide: u64,
    in_flight: u64,
    missed: u64,
    restarts: u64,
    lost: u64,
    doubled: u64,
    wrong: u64,
    narrow_recoveries: Vec<Duration>,
    wide_recoveries: Vec<Duration>,
    took: Duration,
    failed: Vec<String>,
}

/// What a run was and came to, on one line.
pub fn line(scenario: &Scenario, outcome: &Outcome) -> String {
    let faults: Vec<String> = scenario.faults.iter().map(|f| f.fault.to_string()).collect();
    let recovered: Vec<String> = outcome.recoveries.iter().map(|d| seconds(*d)).collect();
    let verdict = match (outcome.wrong.first(), outcome.is_valid()) {
        (Some(wrong), _) => format!("WRONG: {}", wrong.lines().next().unwrap_or_default()),
        (None, false) => "ok, but nothing was hit".into(),
        (None, true) => "ok".into(),
    };
    format!(
        "seed {:<6} {:<13} x{} {:>6} lines in {} {:<5} faults {:<28} hit {:>2} wide {} in flight {:>2} missed {} restarts {:>2} recovered [{}] job {} s run {} s {verdict}",
        scenario.seed,
        format!("{:?}", scenario.kind),
        scenario.tasks,
        scenario.lines(),
        scenario.inputs.len(),
        if scenario.exactly_once { "eo" } else { "alo" },
        faults.join(","),
        outcome.kills,
        outcome.wide,
        outcome.in_flight,
        outcome.missed,
        outcome.restarts,
        recovered.join(" "),
        seconds(outcome.job),
        seconds(outcome.took),
    )
}

fn seconds(d: Duration) -> String {
    format!("{:.3}", d.as_secs_f64())
}

impl Report {
    pub fn add(&mut self, scenario: &Scenario, outcome: &Outcome) {
        self.runs += 1;
        self.valid += u64::from(outcome.is_valid());
        self.counted += u64::from(outcome.is_valid() || !outcome.wrong.is_empty());
        self.kills += u64::from(outcome.kills);
        self.wide += u64::from(outcome.wide);
        self.in_flight += u64::from(outcome.in_flight);
        self.missed += u64::from(outcome.missed);
        self.restarts += outcome.restarts;
        self.lost += outcome.verdict.lost;
        self.doubled += if scenario.exactly_once {
            outcome.verdict.doubled
        } else {
            0
        };
        self.wrong += outcome.verdict.wrong;
        // A stopped process costs a lease.
        let slow = scenario.has_wide_faults()
            || scenario
                .faults
                .iter()
                .any(|f| matches!(f.fault, Fault::Stop { .. }));
        let list = if slow {
            &mut self.wide_recoveries
        } else {
            &mut self.narrow_recoveries
        };
        list.extend(&outcome.recoveries);
        self.took += outcome.took;
        if let Some(first) = outcome.wrong.first() {
            let kept = outcome
                .kept
                .as_ref()
                .map_or(String::new(), |k| format!("; evidence in {}", k.display()));
            self.failed.push(format!(
                "seed {}: {}{kept}",
                outcome.seed,
                first.lines().next().unwrap_or_default()
            ));
        }
    }

    pub fn failed(&self) -> &[String] {
        &self.failed
    }

    pub fn runs(&self) -> u64 {
        self.runs
    }

    /// Runs that prove something, or went wrong.
    pub fn counted(&self) -> u64 {
        self.counted
    }

    pub fn valid(&self) -> u64 {
        self.valid
    }
}

fn quantiles(list: &[Duration]) -> String {
    let mut list = list.to_vec();
    list.sort();
    let at = |q: f64| list.get(((list.len() as f64 * q) as usize).min(list.len().saturating_sub(1)));
    match (at(0.5), at(0.9), list.last()) {
        (Some(half), Some(most), Some(max)) => format!(
            "{} measured, half within {} s, 90 % within {} s, all within {} s",
            list.len(),
            seconds(*half),
            seconds(*most),
            seconds(*max)
        ),
        _ => "none measured".into(),
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let each = self.took.as_secs_f64() / self.runs.max(1) as f64;
        writeln!(
            f,
            "runs            {} ({} with a fault that struck while tuples were in flight), {each:.1} s each",
            self.runs, self.valid
        )?;
        writeln!(
            f,
            "hits            {} task processes at work, {} times nodes, daemons or leaders; {} of them with tuples in flight; {} faults hit nothing",
            self.kills, self.wide, self.in_flight, self.missed
        )?;
        writeln!(f, "restarts        {}", self.restarts)?;
        writeln!(
            f,
            "recovery        task killed: {}",
            quantiles(&self.narrow_recoveries)
        )?;
        writeln!(
            f,
            "                node lost or task stopped: {}",
            quantiles(&self.wide_recoveries)
        )?;
        writeln!(
            f,
            "tuples          lost {}, doubled {}, wrong {}",
            self.lost, self.doubled, self.wrong
        )?;
        writeln!(f, "failed runs     {}", self.failed.len())?;
        self.failed.iter().try_for_each(|line| writeln!(f, "    {line}"))
    }
}
