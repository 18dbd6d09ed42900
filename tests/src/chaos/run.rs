//! One scenario on a cluster that is up: input in, job started, faults, end, verdict, clean again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::evidence;
use super::judge::{self, Verdict};
use super::recovery::{LogTail, recoveries, was_at_work};
use super::scenario::{Fault, Scenario};
use super::strike::{Strikes, Struck};
use crate::{Cluster, Job, PATIENCE, now, wait_for};

/// What `leader --resume` says of a job that needs none.
const ENDED: &str = "it has ended well";
/// Signs in the logs that something broke, whatever the output looks like.
pub const BROKEN: [&str; 4] = ["panicked", " ERROR ", "DATA_LOST", "TASK_PANIC"];

#[derive(Debug, Clone)]
pub struct Options {
    /// Where evidence goes.
    pub evidence: PathBuf,
    /// Run `rainstormctl verify JOB` as well.
    pub verify: bool,
    /// Keep the evidence of good runs too.
    pub keep: bool,
}

/// What a run came to.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub seed: u64,
    /// Processes at work that were hit.
    pub kills: u32,
    /// Nodes, daemons, leaders killed.
    pub wide: u32,
    /// Of both, those that struck before all output was out.
    pub in_flight: u32,
    pub missed: u32,
    pub restarts: u64,
    /// From a hit to the replacement's first output.
    pub recoveries: Vec<Duration>,
    /// From the run's start to its end, with loading, judging and cleaning.
    pub took: Duration,
    /// Of that, the job.
    pub job: Duration,
    pub verdict: Verdict,
    /// What was wrong; empty: all as it must be.
    pub wrong: Vec<String>,
    pub kept: Option<PathBuf>,
}

impl Outcome {
    /// A run in which no fault struck while tuples were in flight proves nothing.
    pub fn is_valid(&self) -> bool {
        self.in_flight > 0
    }
}

/// Carries a scenario out. Errors are the runner's own or the cluster's; what the job does wrong is in the outcome.
pub fn run(cluster: &Cluster, scenario: &Scenario, options: &Options) -> Result<Outcome> {
    let began = now();
    let logs = LogTail::begin(cluster);
    let work = cluster.path(&format!("chaos-{}", scenario.seed));
    let mut outcome = Outcome {
        seed: scenario.seed,
        ..Outcome::default()
    };
    std::fs::create_dir_all(&work)?;
    let done = attempt(cluster, scenario, options, &work, &logs, &mut outcome);
    if let Err(error) = done {
        outcome.wrong.push(format!("{error:#}"));
    }
    if options.keep || !outcome.wrong.is_empty() {
        outcome.kept = Some(evidence::keep(
            &options.evidence,
            cluster,
            scenario,
            &work,
            &logs,
            &outcome,
        )?);
    }
    clean(cluster, scenario, &work)?;
    outcome.took = now() - began;
    Ok(outcome)
}

fn attempt(
    cluster: &Cluster,
    scenario: &Scenario,
    options: &Options,
    work: &Path,
    logs: &LogTail,
    outcome: &mut Outcome,
) -> Result<()> {
    for input in &scenario.inputs {
        let local = work.join(&input.name);
        input.write(&local)?;
        let name = format!("{}/{}", scenario.source(), input.name);
        cluster.hydfs(&["create", &local.to_string_lossy(), &name])?;
    }
    let op = scenario.kind.operator(scenario.seed, work)?;
    let args = scenario.args(&op);
    let job_began = now();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    // A leader that is killed is taken up by hand, where that is the fault.
    let by_hand = scenario
        .faults
        .iter()
        .any(|f| matches!(f.fault, Fault::KillLeader { .. }));
    let mut job = match by_hand {
        true => cluster.start_alone(&scenario.job(), &args)?,
        false => cluster.start(&scenario.job(), &args)?,
    };
    if scenario.kind.is_final() {
        wait_for_tuples(&mut job, logs)?;
    } else {
        job.wait_for_output()?;
    }
    let mut strikes = Strikes {
        cluster,
        job: &mut job,
        struck: Struck::default(),
    };
    let faults = strikes.all(&scenario.faults);
    let mut struck = strikes.struck;
    let ended = faults.and_then(|()| end(cluster, scenario, &mut job, &mut struck));
    outcome.job = now() - job_began;
    struck.restore(cluster)?;
    outcome.wide = struck.wide.len() as u32;
    outcome.wrong.append(&mut struck.wrong);
    let events = logs.events(&scenario.job())?;
    let (at_work, idle): (Vec<_>, Vec<_>) =
        struck.hits.iter().cloned().partition(|h| was_at_work(h, &events));
    outcome.kills = at_work.len() as u32;
    outcome.missed = struck.missed + idle.len() as u32;
    outcome.recoveries = recoveries(&at_work, &events);
    outcome.restarts = events
        .iter()
        .filter(|e| e.leader && e.word == "TASK_RESTART")
        .count() as u64;
    ended?;
    if let Err(error) = cluster.wait_until_gone(&scenario.job(), PATIENCE) {
        outcome.wrong.push(format!("processes are left: {error:#}"));
    }
    if !scenario.has_wide_faults() && outcome.restarts > outcome.kills.into() {
        let (restarts, kills) = (outcome.restarts, outcome.kills);
        outcome
            .wrong
            .push(format!("{kills} processes were hit, but {restarts} restarts"));
    }
    let broken = logs.lines(&BROKEN)?;
    if !broken.is_empty() {
        let some: Vec<&String> = broken.iter().take(5).collect();
        outcome.wrong.push(format!("the logs say: {some:#?}"));
    }
    let stored = judged(cluster, scenario, work, struck.resume.is_some(), outcome)?;
    let printed = at_work.iter().map(|h| h.printed).chain(struck.wide);
    outcome.in_flight = printed.filter(|printed| *printed < stored).count() as u32;
    if options.verify && scenario.exactly_once {
        let said = cluster
            .command("rainstormctl")
            .args(["verify", &scenario.job()])
            .output()?;
        if !said.status.success() {
            let said = format!(
                "rainstormctl verify: {} {}{}",
                said.status,
                String::from_utf8_lossy(&said.stdout),
                String::from_utf8_lossy(&said.stderr)
            );
            outcome.wrong.push(said);
        }
    }
    Ok(())
}

/// For jobs without output before their end: until the first stage has passed tuples on.
fn wait_for_tuples(job: &mut Job<'_>, logs: &LogTail) -> Result<()> {
    let name = job.name.clone();
    wait_for("the first tuples", PATIENCE, || {
        let events = logs.events(&name)?;
        let moving = events
            .iter()
            .any(|e| e.word == "FIRST_OUTPUT" && e.field("task").starts_with("s1"));
        ensure!(
            moving || job.is_running()?,
            "the job ended before any tuple moved: {}",
            job.said()
        );
        Ok(moving.then_some(()))
    })
}

/// Waits for the job's end, of its successor's if its leader was killed.
fn end<'c>(cluster: &'c Cluster, scenario: &Scenario, job: &mut Job<'c>, struck: &mut Struck) -> Result<()> {
    if let Some(pause) = struck.resume {
        std::thread::sleep(pause);
        // From a node that lives.
        let up = (1..=cluster.nodes())
            .map(|n| format!("n{n}"))
            .find(|n| !struck.is_down(n));
        *job = cluster.resume(&scenario.job(), &up.unwrap_or_else(|| "n1".into()))?;
    }
    let deadline = now() + scenario.paced() + PATIENCE;
    let running = wait_for("the job's end", PATIENCE + scenario.paced(), || {
        struck.start_nodes(cluster)?;
        Ok((!job.is_running()?).then_some(()))
    });
    if running.is_err() {
        struck
            .wrong
            .push(format!("the job hangs: {:?}", cluster.tasks(&scenario.job())?));
    }
    let status = job.wait_for_end(deadline.saturating_duration_since(now()) + Duration::from_millis(10))?;
    if struck.resume.is_some() && !status.success() && job.said().contains(ENDED) {
        // The leader was about to exit when it was killed: nothing was hit. The output is judged all the same.
        struck.wide.pop();
        struck.missed += 1;
        return Ok(());
    }
    ensure!(status.success(), "the job failed with {status}: {}", job.said());
    Ok(())
}

/// Compares what is stored, and what was printed, with the oracle. How many bytes are stored.
fn judged(
    cluster: &Cluster,
    scenario: &Scenario,
    work: &Path,
    resumed: bool,
    outcome: &mut Outcome,
) -> Result<u64> {
    let want = judge::expected(scenario, work)?;
    let got = work.join("got");
    cluster.hydfs(&["get", &scenario.dest(), &got.to_string_lossy()])?;
    outcome.verdict = judge::compare(&want, &judge::normal(scenario, &got)?);
    let got = std::fs::read(got)?;
    if !outcome.verdict.holds(scenario.exactly_once) {
        std::fs::write(work.join("expected"), &want)?;
        outcome
            .wrong
            .push(format!("the output is wrong: {:?}", outcome.verdict));
    }
    // What a killed leader printed, and its successor did not, nobody promised.
    let printed = std::fs::read(cluster.path(&format!("{}.out", scenario.job())))?;
    let same = judge::compare(&got, &printed);
    if !resumed && !same.holds(true) {
        outcome
            .wrong
            .push(format!("what was printed is not what is stored: {same:?}"));
    }
    Ok(got.len() as u64)
}

/// Leaves nothing of the run, so that the next finds what this one found.
fn clean(cluster: &Cluster, scenario: &Scenario, work: &Path) -> Result<()> {
    let mut names = BTreeSet::new();
    for prefix in [
        format!("chaos/{}/", scenario.seed),
        format!("jobs/{}/", scenario.job()),
    ] {
        let list = cluster.hydfs(&["find", &prefix]).context("cleaning up")?;
        names.extend(
            list.lines()
                .filter_map(|l| l.split('\t').next())
                .map(str::to_owned),
        );
    }
    names
        .iter()
        .try_for_each(|name| cluster.hydfs(&["rm", "--system", name]).map(drop))?;
    std::fs::remove_dir_all(work)?;
    for end in ["out", "err", "json", "resumed.out", "resumed.err", "resumed.json"] {
        let _ = std::fs::remove_file(cluster.path(&format!("{}.{end}", scenario.job())));
    }
    Ok(())
}
