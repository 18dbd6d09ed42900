//! Whole clusters in a seeded simulation. A failing seed is printed. [`common::seeds`] says how to see its story again, every
//! change of every view, and how to run more seeds of each scenario.

mod figures;
mod scenario;
mod world;

use common::cluster::Protocol;
use common::seeds::{Seeds, again};

use crate::state::Mutant;
use scenario::{CONVERGE, Outcome, Scenario, run};

/// What the group runs from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    pub protocol: Protocol,
    pub suspicion: bool,
}

const PINGACK: Setup = Setup {
    protocol: Protocol::PingAck,
    suspicion: true,
};
const GOSSIP: Setup = Setup {
    protocol: Protocol::Gossip,
    suspicion: true,
};

/// Runs `seeds` and gives all outcomes to the caller; panics with the seed at the first violation.
fn hold(setup: Setup, scenario: Scenario, seeds: std::ops::Range<u64>) -> Vec<Outcome> {
    let Seeds { range, told } = Seeds::from_env(seeds);
    range
        .map(|seed| {
            let outcome = run(setup, scenario, seed, told);
            assert!(
                outcome.violations.is_empty(),
                "{setup:?} {scenario:?}, seed {seed}: {:#?}\n  {}",
                outcome.violations,
                again(seed, "memberd", "sim")
            );
            outcome
        })
        .collect()
}

/// The first of `seeds` that shows that something is broken.
fn first_caught(setup: Setup, scenario: Scenario, mut seeds: std::ops::Range<u64>) -> Option<u64> {
    seeds.find(|seed| !run(setup, scenario, *seed, false).violations.is_empty())
}

fn quantiles(mut values: Vec<u64>) -> (u64, u64, u64) {
    values.sort_unstable();
    let at = |q: usize| values[(values.len() - 1) * q / 100];
    (at(50), at(99), at(100))
}

#[test]
fn healthy_clusters_fail_nobody() {
    for (setup, most) in [(PINGACK, MOST_FALSE_SUSPICIONS), (GOSSIP, 20.0)] {
        let outcomes = hold(setup, Scenario::Healthy, 0..60);
        let suspicions: u64 = outcomes.iter().map(|o| o.counts.false_suspicions).sum();
        let node_minutes: f64 = outcomes.iter().map(|o| o.counts.node_seconds / 60.0).sum();
        let rate = suspicions as f64 / node_minutes;
        println!("{setup:?}: false suspicions per node and minute: {rate:.2}, false failures: 0");
        assert!(rate < most, "{setup:?} {rate}");
    }
}

/// Per node and minute at 0-5 % loss; each is counted once per node that hears of it.
const MOST_FALSE_SUSPICIONS: f64 = 1.0;

#[test]
fn crashed_nodes_are_known_to_all_in_time() {
    for setup in [PINGACK, GOSSIP] {
        let outcomes = hold(setup, Scenario::Crash, 10_000..10_250);
        // Its fixed prober comes to it in every other period; a verdict takes three times the ping timeout, and the suspicion a second. Of two
        // that crash at once, one may have been the other's fixed prober: then a random round has to come to it.
        for (victims, most_suspected, most_failed) in [(1, 1000, 2500), (2, 2700, 3900)] {
            let these = || outcomes.iter().filter(|o| o.victims == victims);
            if these().count() == 0 {
                continue; // a single seed
            }
            let suspected = quantiles(these().map(|o| o.suspected_ms).collect());
            let failed = quantiles(these().map(|o| o.failed_ms).collect());
            println!(
                "{:?}, {victims} crashed: first suspected (p50, p99, max) ms: {suspected:?}; failed at all: {failed:?}",
                setup.protocol
            );
            assert!(
                suspected.1 <= most_suspected && failed.1 <= most_failed && failed.2 <= 4000,
                "{suspected:?} {failed:?}"
            );
        }
    }
}

#[test]
fn without_suspicion_a_crash_is_known_sooner() {
    for protocol in [Protocol::PingAck, Protocol::Gossip] {
        let suspicion = false;
        let outcomes = hold(Setup { protocol, suspicion }, Scenario::Crash, 15_000..15_100);
        let failed = quantiles(outcomes.iter().map(|o| o.failed_ms).collect());
        println!("{protocol:?} without suspicion: failed at all (p50, p99, max) ms: {failed:?}");
        assert!(failed.0 <= 1000, "{failed:?}");
    }
}

#[test]
fn both_sides_of_a_split_find_together_and_fail_nobody_doing_so() {
    for setup in [PINGACK, GOSSIP] {
        let outcomes = hold(setup, Scenario::Split, 60_000..60_150);
        let converged = quantiles(outcomes.iter().map(|o| o.converged_ms).collect());
        println!(
            "{:?}: healing of a split to agreement (p50, p99, max) ms: {converged:?}",
            setup.protocol
        );
    }
}

#[test]
fn who_stood_still_accuses_nobody() {
    for setup in [PINGACK, GOSSIP] {
        let outcomes = hold(setup, Scenario::Stall, 20_000..20_150);
        assert!(
            outcomes.iter().all(|o| o.counts.stalls > 0),
            "a fault that did not hit proves nothing"
        );
    }
}

#[test]
fn who_is_slow_accuses_less() {
    let accusations = || {
        let runs = (25_000..25_040).map(|seed| run(PINGACK, Scenario::Slow, seed, false));
        runs.map(|o| o.accusations).sum::<u64>()
    };
    let with = accusations();
    let _left_out = Mutant::NoLocalHealth.turn_on();
    let without = accusations();
    println!("accusations by a slow node: {with}, without local health {without}");
    assert!(without > 2 * with, "{with} of {without}");
}

#[test]
fn who_leaves_has_left() {
    for setup in [PINGACK, GOSSIP] {
        hold(setup, Scenario::Leave, 30_000..30_120);
    }
}

#[test]
fn who_flaps_is_held_back_and_let_in_again() {
    for setup in [PINGACK, GOSSIP] {
        let outcomes = hold(setup, Scenario::Flap, 70_000..70_006);
        let most = outcomes.iter().map(|o| o.told).max();
        println!(
            "{:?}: changes told of a member that restarts 60 times: at most {most:?}",
            setup.protocol
        );
    }
}

#[test]
fn switches_end_in_one_configuration_everywhere() {
    for setup in [PINGACK, GOSSIP] {
        let outcomes = hold(setup, Scenario::Switch, 80_000..80_080);
        let agreed = quantiles(outcomes.iter().map(|o| o.converged_ms).collect());
        println!("last switch or healing to one configuration (p50, p99, max) ms: {agreed:?}");
    }
}

#[test]
fn chaos_converges() {
    for setup in [PINGACK, GOSSIP] {
        let outcomes = hold(setup, Scenario::Chaos, 40_000..40_350);
        let converged = quantiles(outcomes.iter().map(|o| o.converged_ms).collect());
        println!(
            "{:?}: healing to agreement (p50, p99, max) ms: {converged:?}, bound {CONVERGE:?}",
            setup.protocol
        );
    }
}

#[test]
fn the_same_seed_is_the_same_story() {
    for setup in [PINGACK, GOSSIP] {
        for scenario in [
            Scenario::Healthy,
            Scenario::Crash,
            Scenario::Split,
            Scenario::Stall,
            Scenario::Leave,
            Scenario::Switch,
            Scenario::Chaos,
        ] {
            let trace = |seed| run(setup, scenario, seed, false).trace;
            assert_eq!(trace(7), trace(7), "{scenario:?}");
            assert_ne!(
                trace(7),
                trace(17),
                "{scenario:?}: as many nodes, and another story"
            );
        }
    }
}

/// Where it must be noticed that a rule is broken.
fn scenarios_for(mutant: Mutant) -> &'static [(Setup, Scenario)] {
    use Scenario::{Chaos, Crash, Flap, Healthy, Leave, Split, Stall, Switch};
    match mutant {
        Mutant::NoRefute => &[(PINGACK, Chaos), (GOSSIP, Chaos), (PINGACK, Stall)],
        Mutant::NoSuspicion => &[(PINGACK, Healthy)],
        Mutant::RaiseOthers => &[(PINGACK, Chaos)],
        Mutant::NoSearch => &[(PINGACK, Chaos), (GOSSIP, Chaos)],
        Mutant::SilentLeave => &[(PINGACK, Leave)],
        Mutant::NoDissemination => &[(PINGACK, Crash)],
        Mutant::HearsayKills => &[(PINGACK, Split), (GOSSIP, Split)],
        Mutant::StallBlind => &[(PINGACK, Stall), (GOSSIP, Stall)],
        Mutant::Undamped => &[(PINGACK, Flap)],
        Mutant::NoTieBreak => &[(PINGACK, Switch)],
        Mutant::NoAgreement => &[(GOSSIP, Switch)],
        Mutant::NoExchange => &[(PINGACK, Chaos), (GOSSIP, Chaos)],
        // They break nothing, they make more noise: `without_indirect_probes_loss_makes_many_suspicions`, `who_is_slow_accuses_less`.
        Mutant::NoIndirect | Mutant::NoLocalHealth => &[],
    }
}

#[test]
fn each_broken_rule_is_noticed() {
    for mutant in Mutant::ALL.iter().copied() {
        let _left_out = mutant.turn_on();
        for (setup, scenario) in scenarios_for(mutant).iter().copied() {
            let seeds = match scenario {
                Scenario::Flap => 50_000..50_003,
                _ => 50_000..50_040,
            };
            let seed = first_caught(setup, scenario, seeds);
            println!("{mutant:?} in {scenario:?}: seed {seed:?}");
            assert!(seed.is_some(), "{mutant:?} was not noticed in {scenario:?}");
        }
    }
}

#[test]
fn without_indirect_probes_loss_makes_many_suspicions() {
    let rate = || {
        let outcomes = (0..30).map(|seed| run(PINGACK, Scenario::Healthy, seed, false));
        outcomes.map(|o| o.counts.false_suspicions).sum::<u64>()
    };
    let with = rate();
    let _left_out = Mutant::NoIndirect.turn_on();
    let without = rate();
    println!("false suspicions: {with}, without indirect probes {without}");
    assert!(without > 10 * with.max(1), "{with} of {without}");
}
