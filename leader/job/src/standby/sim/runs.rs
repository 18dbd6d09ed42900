//! Many seeds, the same seed twice, and with steps left out.

use common::mutants::all_are_caught;
use common::seeds::Seeds;

use super::World;
use crate::standby::mutants::Mutant;

#[test]
fn one_leads_whatever_dies_and_standbys_are_replaced() {
    let seeds = Seeds::from_env(0..2000);
    if seeds.told {
        println!("{}", World::new(seeds.range.start).run().trace);
        return;
    }
    let n = seeds.count();
    let (mut deaths, mut takeovers) = (0, 0);
    for seed in seeds.range {
        let ran = World::new(seed).run();
        deaths += u64::from(ran.deaths);
        takeovers += u64::from(ran.takeovers);
    }
    // A simulation in which little is taken up proves little.
    assert!(
        deaths > n && takeovers > n,
        "only {deaths} deaths and {takeovers} take-overs"
    );
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..20 {
        assert!(
            World::new(seed).run().trace == World::new(seed).run().trace,
            "seed {seed}"
        );
    }
}

#[test]
fn mutants_are_caught() {
    all_are_caught(Mutant::ALL, Mutant::turn_on, 0..2000, |_, seed| {
        World::new(seed).run();
        true
    });
}
