//! Many seeds, the same seed twice, and with steps left out.

use common::mutants::all_are_caught;
use common::seeds::Seeds;

use super::World;
use crate::machine::mutants::Mutant;

#[test]
fn jobs_end_whatever_dies() {
    let seeds = Seeds::from_env(0..2000);
    if seeds.told {
        println!("{}", World::new(seeds.range.start).run().trace);
        return;
    }
    let n = seeds.count();
    let (mut launches, mut crashes, mut poisoned, mut scaled, mut moves) = (0, 0, 0, 0, 0);
    let mut rewritten = 0;
    for seed in seeds.range {
        let ran = World::new(seed).run();
        launches += u64::from(ran.launches);
        crashes += u64::from(ran.crashes);
        poisoned += ran.poisoned as u64;
        scaled += u64::from(ran.scaled);
        moves += u64::from(ran.moves);
        rewritten += u64::from(ran.rewritten);
    }
    assert!(moves > n / 4, "only {moves} tasks moved state");
    assert!(rewritten > n / 2, "only {rewritten} journals were rewritten");
    assert!(scaled > n / 4, "only {scaled} changes of stages");
    // A simulation in which little is replaced proves little.
    assert!(launches > 20 * n, "only {launches} launches");
    assert!(crashes > n / 2, "only {crashes} crashes of the leader");
    assert!(poisoned > n / 10, "only {poisoned} jobs with poison");
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

/// With a step left out the same simulation must find something wrong: so its oracles see.
#[test]
fn mutants_are_caught() {
    all_are_caught(Mutant::ALL, Mutant::turn_on, 0..2000, |_, seed| {
        World::new(seed).run();
        true
    });
}
