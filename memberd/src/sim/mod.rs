//! Whole clusters in a seeded simulation. A failing seed is printed; to see its story again:
//!
//! ```text
//! SIM_SEED=1234 cargo test -p memberd chaos -- --nocapture      one seed, every change of every view
//! SIM_SEEDS=20 cargo test -p memberd sim                        twenty times as many seeds
//! ```

mod scenario;
mod world;

use scenario::{CONVERGE, Outcome, Scenario, run};

/// Rules that can be broken, one at a time, to see that the oracles notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A node does not contradict what is said of it.
    NoRefute,
    /// Nobody else is asked to probe.
    NoIndirect,
    /// An unanswered probe is a failure at once.
    NoSuspicion,
    /// Others raise a suspect's incarnation for it.
    RaiseOthers,
    /// The failed are never called again.
    NoSearch,
    /// A node leaves without saying so.
    SilentLeave,
    /// Datagrams carry facts about sender and receiver only.
    NoDissemination,
    /// `failed` by hearsay is believed even of a node that is present here.
    HearsayKills,
    /// Late timers are taken for good ones.
    StallBlind,
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|v| v.parse().ok())
}

/// Runs `seeds` and gives all outcomes to the caller; panics with the seed at the first violation.
fn hold(scenario: Scenario, seeds: std::ops::Range<u64>) -> Vec<Outcome> {
    let one = number("SIM_SEED");
    let more = number("SIM_SEEDS").unwrap_or(1);
    let seeds = one.map_or(seeds.start..seeds.start + (seeds.end - seeds.start) * more, |s| {
        s..s + 1
    });
    seeds
        .map(|seed| {
            let outcome = run(scenario, seed, None, one.is_some());
            assert!(
                outcome.violations.is_empty(),
                "{scenario:?}, SIM_SEED={seed}: {:#?}",
                outcome.violations
            );
            outcome
        })
        .collect()
}

/// How many of `seeds` show that something is broken.
fn caught(scenario: Scenario, mutant: Mutant, seeds: std::ops::Range<u64>) -> usize {
    seeds
        .filter(|seed| !run(scenario, *seed, Some(mutant), false).violations.is_empty())
        .count()
}

/// Per thousand probes.
fn false_suspicions(outcomes: &[Outcome]) -> f64 {
    let suspicions: u64 = outcomes.iter().map(|o| o.counts.false_suspicions).sum();
    let pings: u64 = outcomes.iter().map(|o| o.counts.pings).sum();
    1000.0 * suspicions as f64 / pings as f64
}

fn quantiles(mut values: Vec<u64>) -> (u64, u64, u64) {
    values.sort_unstable();
    let at = |q: usize| values[(values.len() - 1) * q / 100];
    (at(50), at(99), at(100))
}

#[test]
fn healthy_clusters_fail_nobody() {
    let outcomes = hold(Scenario::Healthy, 0..120);
    let rate = false_suspicions(&outcomes);
    println!("false suspicions per 1,000 pings: {rate:.2}, false failures: 0");
    assert!(rate < MOST_FALSE_SUSPICIONS, "{rate}");
}

/// Per 1,000 pings at 0-5 % loss; each is counted once per node that hears of it.
const MOST_FALSE_SUSPICIONS: f64 = 2.0;

#[test]
fn crashed_nodes_are_known_to_all_in_time() {
    let outcomes = hold(Scenario::Crash, 10_000..10_400);
    // Of two that crash at once, one may have been the other's fixed prober.
    for (victims, most_suspected, most_failed) in [(1, 1000, 2500), (2, 1500, 3000)] {
        let these = || outcomes.iter().filter(|o| o.victims == victims);
        if these().count() == 0 {
            continue; // a single seed
        }
        let suspected = quantiles(these().map(|o| o.suspected_ms).collect());
        let failed = quantiles(these().map(|o| o.failed_ms).collect());
        println!(
            "{victims} crashed: first suspected (p50, p99, max) ms: {suspected:?}; failed at all: {failed:?}"
        );
        assert!(
            suspected.2 <= most_suspected && failed.2 <= most_failed,
            "{suspected:?} {failed:?}"
        );
    }
}

#[test]
fn both_sides_of_a_split_find_together_and_fail_nobody_doing_so() {
    let outcomes = hold(Scenario::Split, 60_000..60_250);
    let converged = quantiles(outcomes.iter().map(|o| o.converged_ms).collect());
    println!("healing of a split to agreement (p50, p99, max) ms: {converged:?}");
}

#[test]
fn who_stood_still_accuses_nobody() {
    let outcomes = hold(Scenario::Stall, 20_000..20_250);
    assert!(
        outcomes.iter().all(|o| o.counts.stalls > 0),
        "a fault that did not hit proves nothing"
    );
}

#[test]
fn who_leaves_has_left() {
    hold(Scenario::Leave, 30_000..30_250);
}

#[test]
fn chaos_converges() {
    let outcomes = hold(Scenario::Chaos, 40_000..41_000);
    let converged = quantiles(outcomes.iter().map(|o| o.converged_ms).collect());
    println!("healing to agreement (p50, p99, max) ms: {converged:?}, bound {CONVERGE:?}");
}

#[test]
fn the_same_seed_is_the_same_story() {
    for scenario in [
        Scenario::Healthy,
        Scenario::Crash,
        Scenario::Split,
        Scenario::Stall,
        Scenario::Leave,
        Scenario::Chaos,
    ] {
        let trace = |seed| run(scenario, seed, None, false).trace;
        assert_eq!(trace(7), trace(7), "{scenario:?}");
        assert_ne!(
            trace(7),
            trace(17),
            "{scenario:?}: as many nodes, and another story"
        );
    }
}

#[test]
fn each_broken_rule_is_noticed() {
    let cases = [
        (Mutant::NoRefute, Scenario::Chaos),
        (Mutant::NoRefute, Scenario::Stall),
        (Mutant::NoSuspicion, Scenario::Healthy),
        (Mutant::RaiseOthers, Scenario::Chaos),
        (Mutant::NoSearch, Scenario::Chaos),
        (Mutant::SilentLeave, Scenario::Leave),
        (Mutant::NoDissemination, Scenario::Crash),
        (Mutant::HearsayKills, Scenario::Split),
        (Mutant::StallBlind, Scenario::Stall),
    ];
    for (mutant, scenario) in cases {
        let seeds = 50_000..50_050;
        let n = caught(scenario, mutant, seeds.clone());
        println!("{mutant:?} in {scenario:?}: {n} of {}", seeds.end - seeds.start);
        assert!(n > 0, "{mutant:?} was not noticed in {scenario:?}");
    }
}

#[test]
fn without_indirect_probes_loss_makes_many_suspicions() {
    let outcomes: Vec<_> = (0..30)
        .map(|seed| run(Scenario::Healthy, seed, Some(Mutant::NoIndirect), false))
        .collect();
    let rate = false_suspicions(&outcomes);
    println!("false suspicions per 1,000 pings without indirect probes: {rate:.2}");
    assert!(rate > 10.0 * MOST_FALSE_SUSPICIONS, "{rate}");
}
