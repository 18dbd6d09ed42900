//! What happens to a simulated cluster, drawn from the seed, and what must hold at the end.

use std::time::Duration;

use common::clock::Time;
use rand::RngExt;
use rand::seq::{IteratorRandom, SliceRandom};

use super::Setup;
use super::world::{Network, World};
use crate::state::State;
use crate::state::settings::Configuration;

const MS: Duration = Duration::from_millis(1);
/// A healed cluster agrees within this.
pub const CONVERGE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Nothing happens, over a network that loses up to 5 %.
    Healthy,
    /// One or two nodes crash.
    Crash,
    /// The network falls into two halves and heals; nothing is lost within each.
    Split,
    /// A node stands still for a while; nothing is lost.
    Stall,
    /// A node leaves.
    Leave,
    /// Everything, many times over, then all heals.
    Chaos,
    /// A node restarts every two seconds for two minutes.
    Flap,
    /// A node's datagrams are late, both ways, by more than the ping timeout, and some are lost.
    Slow,
    /// The configuration is changed here and there, often at once, with losses, cuts, crashes and late joiners.
    Switch,
}

/// What a run was like.
#[derive(Debug, Default)]
pub struct Outcome {
    pub violations: Vec<String>,
    pub counts: super::world::Counts,
    /// From the crash to the first suspicion, and to `failed` at all.
    pub victims: usize,
    pub suspected_ms: u64,
    pub failed_ms: u64,
    /// From the healing to agreement.
    pub converged_ms: u64,
    /// The most changes of the flapping member that any subscriber was told.
    pub told: u64,
    /// By the slow node itself.
    pub accusations: u64,
    pub trace: u64,
}

pub fn run(setup: Setup, scenario: Scenario, seed: u64, verbose: bool) -> Outcome {
    let n = 3 + (seed % 10) as usize;
    let mut world = World::new(setup, seed, n, verbose);
    let mut outcome = Outcome::default();
    calm(
        &mut world,
        if matches!(scenario, Scenario::Stall | Scenario::Split) {
            0.0
        } else {
            0.05
        },
    );
    for i in 0..n {
        world.start(i, 0);
        let pause = world.rng.random_range(0..100);
        world.run_for(pause * MS);
    }
    if let Some(problem) = settle(&mut world, CONVERGE, &[]).err() {
        world.violations.push(format!("after the start: {problem}"));
    }
    match scenario {
        Scenario::Healthy => healthy(&mut world),
        Scenario::Crash => crash(&mut world, &mut outcome),
        Scenario::Split => split(&mut world, &mut outcome),
        Scenario::Stall => stall(&mut world),
        Scenario::Leave => leave(&mut world),
        Scenario::Chaos => chaos(&mut world, &mut outcome),
        Scenario::Flap => flap(&mut world, &mut outcome),
        Scenario::Slow => slow(&mut world, &mut outcome),
        Scenario::Switch => switch(&mut world, &mut outcome),
    }
    outcome.trace = world.trace();
    outcome.counts = world.counts;
    outcome.violations = world.violations;
    outcome
}

/// A network as in a machine room on a bad day.
fn calm(world: &mut World, loss: f64) {
    let longest = world.rng.random_range(1..20);
    let loss = if loss > 0.0 {
        world.rng.random_range(0.0..loss)
    } else {
        0.0
    };
    world.network = Network {
        loss,
        duplicate: world.rng.random_range(0.0..0.05),
        delay_ms: 0..longest,
    };
}

fn healthy(world: &mut World) {
    world.run_for(15_000 * MS);
    if world.counts.false_failures > 0 {
        world.violations.push(format!(
            "{} live nodes were called failed",
            world.counts.false_failures
        ));
    }
}

fn crash(world: &mut World, outcome: &mut Outcome) {
    world.run_for(2_000 * MS);
    let all: Vec<usize> = world.up();
    let two = world.names.len() > 3 && world.rng.random();
    let victims = all.into_iter().sample(&mut world.rng, if two { 2 } else { 1 });
    world.forget();
    let at = world.now;
    victims.iter().for_each(|v| world.crash(*v));
    outcome.victims = victims.len();
    world.run_for(6_000 * MS);
    for &v in &victims {
        let when =
            |world: &World, i: usize, state| world.seen.get(&(i, v, state)).map(|t: &Time| t.since(at));
        let suspected = world
            .up()
            .iter()
            .filter_map(|i| when(world, *i, State::Suspect))
            .min();
        let failed = world
            .up()
            .iter()
            .map(|i| when(world, *i, State::Failed))
            .collect::<Option<Vec<_>>>();
        match (suspected, failed.and_then(|f| f.into_iter().max())) {
            (suspected, Some(failed)) if suspected.is_some() || !world.settings.suspicion => {
                let suspected = suspected.unwrap_or(failed);
                outcome.suspected_ms = outcome.suspected_ms.max(suspected.as_millis() as u64);
                outcome.failed_ms = outcome.failed_ms.max(failed.as_millis() as u64);
            }
            _ => world
                .violations
                .push(format!("{} crashed, and after 6 s not all know", world.names[v])),
        }
    }
    if world.counts.false_failures > 0 && world.settings.suspicion {
        world.violations.push(format!(
            "{} live nodes were called failed",
            world.counts.false_failures
        ));
    }
}

fn split(world: &mut World, outcome: &mut Outcome) {
    partition(world, 2);
    let time = world.rng.random_range(1_000..20_000);
    world.run_for(time * MS);
    world.cuts.clear();
    // From now on each side hears from the other that its nodes have failed, and should know better.
    world.counts = Default::default();
    let start = world.now;
    match settle(world, CONVERGE, &[]) {
        Ok(at) => outcome.converged_ms = at.since(start).as_millis() as u64,
        Err(problem) => world.violations.push(format!("after the healing: {problem}")),
    }
    let lost = world.counts.false_failures;
    // Long enough that each side had called all of the other failed by then.
    if time * MS > 20 * world.settings.period() && lost > 0 {
        world.violations.push(format!(
            "{lost} nodes that were in reach were called failed by hearsay"
        ));
    }
}

fn stall(world: &mut World) {
    // So slow that most of the time some probe is open, and yet in time.
    world.network.delay_ms = 25..45;
    world.run_for(5_000 * MS);
    world.counts = Default::default();
    let victim = world.rng.random_range(0..world.names.len());
    // Not so short that no timer falls into it.
    let shortest = 2 * world.settings.period().as_millis() as u32;
    let time = world.rng.random_range(400..6_000).max(shortest);
    world.freeze(victim, time * MS);
    world.run_for(time * MS + 3_000 * MS);
    if world.counts.false_suspicions + world.counts.false_failures > 0 {
        world.violations.push(format!(
            "{} stood still, and then accused others",
            world.names[victim]
        ));
    }
    if let Err(problem) = settle(world, CONVERGE, &[]) {
        world.violations.push(format!("after the stall: {problem}"));
    }
}

fn leave(world: &mut World) {
    world.run_for(2_000 * MS);
    let victim = world.rng.random_range(0..world.names.len());
    world.forget();
    world.leave(victim);
    world.run_for(1_000 * MS);
    if world.is_up(victim) {
        world
            .violations
            .push(format!("{} does not get away", world.names[victim]));
    }
    world.run_for(4_000 * MS);
    for i in world.up() {
        let state = world.belief(i, victim).map(|f| f.state);
        let slandered = world.seen.contains_key(&(i, victim, State::Failed));
        if state != Some(State::Left) || slandered {
            world.violations.push(format!(
                "{} left, for {} it is {state:?}",
                world.names[victim], world.names[i]
            ));
        }
    }
}

fn chaos(world: &mut World, outcome: &mut Outcome) {
    let n = world.names.len();
    world.network = Network {
        loss: world.rng.random_range(0.0..0.3),
        duplicate: world.rng.random_range(0.0..0.2),
        delay_ms: 0..world.rng.random_range(1..120),
    };
    // Those whose goodbye everybody must have heard.
    let mut left = vec![false; n];
    for _ in 0..world.rng.random_range(3..10) {
        let i = world.rng.random_range(0..n);
        match world.rng.random_range(0..9) {
            0 | 1 if world.up().len() > 1 => world.crash(i),
            2..=4 => {
                let down: Vec<usize> = (0..n).filter(|i| !world.is_up(*i)).collect();
                if let Some(down) = down.into_iter().choose(&mut world.rng) {
                    // Some come back with a clock that has been set back an hour.
                    let clock = if world.rng.random_bool(0.2) { -3_600_000 } else { 0 };
                    world.start(down, clock);
                    left[down] = false;
                }
            }
            5 => {
                let ways = world.rng.random_range(0..4);
                partition(world, ways);
            }
            6 => world.cuts.clear(),
            7 => {
                let time = world.rng.random_range(200..5_000);
                world.freeze(i, time * MS);
            }
            8 if world.up().len() > 2 && world.nodes[i].as_ref().is_some_and(|n| !n.leaving) => {
                world.leave(i);
                left[i] = false;
            }
            _ => {}
        }
        let pause = world.rng.random_range(50..2_500);
        world.run_for(pause * MS);
    }
    world.cuts.clear();
    calm(world, 0.05);
    if world.up().is_empty() {
        world.start(0, 0);
    }
    let thawed = world.thawed();
    world.run_for(thawed.since(world.now));
    // One more goodbye, in a connected cluster that has not yet agreed: all must hear it.
    if world.up().len() > 2 && world.rng.random_bool(0.3) {
        let i = world.up()[0];
        // With a clock set back, and not having learned so from anybody, it is not heard.
        let own = world.belief(i, i).map(|f| f.incarnation);
        left[i] = world
            .up()
            .iter()
            .all(|j| world.belief(*j, i).map(|f| f.incarnation) <= own);
        world.leave(i);
    }
    let start = world.now;
    match settle(world, CONVERGE, &left) {
        Ok(at) => outcome.converged_ms = at.since(start).as_millis() as u64,
        Err(problem) => world.violations.push(format!("after the healing: {problem}")),
    }
}

fn flap(world: &mut World, outcome: &mut Outcome) {
    let victim = world.rng.random_range(0..world.names.len());
    world.told.clear();
    for _ in 0..60 {
        let down = world.rng.random_range(100..1900);
        world.crash(victim);
        world.run_for(down * MS);
        world.start(victim, 0);
        world.run_for((2_000 - down) * MS);
    }
    let others = || (0..world.names.len()).filter(|i| *i != victim);
    let told = others().map(|i| world.told.get(&(i, victim)).copied().unwrap_or(0));
    outcome.told = told.max().unwrap_or(0);
    if outcome.told > 30 {
        world.violations.push(format!(
            "{} restarted 60 times in two minutes, and subscribers heard {} changes",
            world.names[victim], outcome.told
        ));
    }
    // It is steady now, and must be let in again.
    world.run_for(20_000 * MS);
    if let Err(problem) = settle(world, CONVERGE, &[]) {
        world.violations.push(format!("after the flapping: {problem}"));
    }
}

fn slow(world: &mut World, outcome: &mut Outcome) {
    let victim = world.rng.random_range(0..world.names.len());
    // There and back again, it is over the ping timeout, and most helpers' answers are over the period.
    let late = world.rng.random_range(70..200);
    world.slow.insert(victim, late * MS);
    world.run_for(30_000 * MS);
    if let Some(node) = &world.nodes[victim] {
        outcome.accusations = node.members.counts().accusations;
    }
}

fn switch(world: &mut World, outcome: &mut Outcome) {
    let n = world.names.len();
    for _ in 0..world.rng.random_range(1..6) {
        // Often two at once, sometimes on both sides of a cut.
        if world.rng.random_bool(0.3) {
            let ways = world.rng.random_range(0..4);
            partition(world, ways);
        }
        for _ in 0..world.rng.random_range(1..4) {
            let at = world.rng.random_range(0..n);
            let protocol = ["gossip", "pingack"][world.rng.random_range(0..2)];
            let fanout = ["2", "3", "4"][world.rng.random_range(0..3)];
            let time = ["800ms", "1s", "1200ms"][world.rng.random_range(0..3)];
            world.change(
                at,
                &[
                    ("protocol", protocol),
                    ("fanout", fanout),
                    ("suspicion_time", time),
                ],
            );
        }
        match world.rng.random_range(0..6) {
            0 if world.up().len() > 2 => {
                let i = world.rng.random_range(0..n);
                world.crash(i);
            }
            1 => {
                let down: Vec<usize> = (0..n).filter(|i| !world.is_up(*i)).collect();
                if let Some(down) = down.into_iter().choose(&mut world.rng) {
                    world.start(down, 0);
                }
            }
            _ => {}
        }
        let pause = world.rng.random_range(0..3_000);
        world.run_for(pause * MS);
        if world.rng.random_bool(0.5) {
            world.cuts.clear();
        }
    }
    for i in 0..n {
        if !world.is_up(i) {
            // The latecomer has the cluster file's.
            world.start(i, 0);
        }
    }
    let was_cut = !world.cuts.is_empty();
    world.cuts.clear();
    world.counts = Default::default();
    let start = world.now;
    if let Err(problem) = settle(world, CONVERGE, &[]) {
        world.violations.push(format!("after the switches: {problem}"));
    }
    let all: Vec<_> = world.nodes.iter().flatten().collect();
    let first = all[0].members.configuration().clone();
    // Nobody may have changed anything.
    let same = |c: &Configuration| c.stamp() == first.stamp() || (c.version == 0 && first.version == 0);
    if let Some(other) = all.iter().find(|n| !same(n.members.configuration())) {
        let other = other.members.configuration().clone();
        world
            .violations
            .push(format!("two configurations: {first:?} and {other:?}"));
    }
    outcome.converged_ms = world.now.since(start).as_millis() as u64;
    // It works: nobody is lost, over a network that loses a little.
    world.counts = Default::default();
    world.run_for(5_000 * MS);
    if world.counts.false_failures > 0 && !was_cut {
        world
            .violations
            .push("a live node was called failed after the switch".into());
    }
}

/// Two sides; `ways`: 0 cuts one direction, 1 the other, more both.
fn partition(world: &mut World, ways: u32) {
    let n = world.names.len();
    let mut order: Vec<usize> = (0..n).collect();
    order.shuffle(&mut world.rng);
    let (one, two) = order.split_at(world.rng.random_range(1..n));
    for &a in one {
        for &b in two {
            if ways != 0 {
                world.cuts.insert((a, b));
            }
            if ways != 1 {
                world.cuts.insert((b, a));
            }
        }
    }
}

/// Runs until all nodes agree on the truth, and checks that a second later they still do.
fn settle(world: &mut World, bound: Duration, left: &[bool]) -> Result<Time, String> {
    let end = world.now + bound;
    while let Err(problem) = agree(world, left) {
        if world.now >= end {
            return Err(format!("no agreement within {bound:?}: {problem}"));
        }
        world.run_for(100 * MS);
    }
    let at = world.now;
    world.run_for(1_000 * MS);
    // Loss may just now have made somebody suspect; nobody may be worse than that.
    let up = world.up();
    let gone = |f: &crate::state::Fact| f.state >= State::Failed;
    match up
        .iter()
        .flat_map(|i| up.iter().map(move |j| (*i, *j)))
        .find(|(i, j)| world.belief(*i, *j).is_none_or(gone))
    {
        Some((i, j)) => Err(format!("{} is lost again for {}", world.names[j], world.names[i])),
        None => Ok(at),
    }
}

fn agree(world: &World, left: &[bool]) -> Result<(), String> {
    let up = world.up();
    for j in 0..world.names.len() {
        let incarnation = world.nodes[j].as_ref().map(|n| n.members.incarnation());
        for &i in &up {
            let belief = world.belief(i, j);
            let fine = match (incarnation, belief) {
                (Some(real), Some(f)) => f.state == State::Alive && f.incarnation == real,
                (Some(_), None) => false,
                (None, Some(f)) if left.get(j) == Some(&true) => f.state == State::Left,
                (None, Some(f)) => f.state >= State::Failed,
                (None, None) => left.get(j) != Some(&true),
            };
            if !fine {
                return Err(format!(
                    "for {}, {} is {belief:?}",
                    world.names[i], world.names[j]
                ));
            }
            if incarnation.is_none() && belief != world.belief(up[0], j) {
                return Err(format!(
                    "{} and {} differ about {}",
                    world.names[i], world.names[up[0]], world.names[j]
                ));
            }
        }
    }
    Ok(())
}
