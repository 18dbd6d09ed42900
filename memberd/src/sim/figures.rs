//! Figures of larger groups, for `docs/membership.md`; `bench/membership.sh --simulated` makes all and draws the plots.

use std::fmt::Write;
use std::time::Duration;

use common::cluster::Protocol;
use common::seeds::Seeds;
use rand::RngExt;

use super::world::{Network, World};
use super::{GOSSIP, PINGACK, Setup, quantiles};
use crate::state::State;

const MS: Duration = Duration::from_millis(1);

#[derive(Debug)]
struct Figures {
    /// From a crash to the first suspicion and to the last node's `failed`, milliseconds; `None`: not within 30 s.
    suspected: Vec<u64>,
    failed: Vec<u64>,
    unseen: usize,
    /// Per node and minute, in the quiet time before.
    false_suspicions: f64,
    false_failures: u64,
    bytes_per_s: f64,
    longest: usize,
}

/// `quiet`: how long nothing happens; then one node after the other crashes, `crashes` times.
fn measure(setup: Setup, n: usize, loss: f64, quiet: Duration, crashes: usize, seed: u64) -> Figures {
    let mut world = World::new(setup, seed, n, false);
    world.network = Network {
        loss,
        duplicate: 0.0,
        delay_ms: 0..2,
    };
    world.start_joined();
    // Heartbeats must have come round once.
    world.run_for(5_000 * MS);
    world.counts = Default::default();
    world.weigh = true;
    world.run_for(quiet);
    world.weigh = false;
    let counts = world.counts.clone();
    let mut figures = Figures {
        suspected: vec![],
        failed: vec![],
        unseen: 0,
        false_suspicions: counts.false_suspicions as f64 / (counts.node_seconds / 60.0),
        false_failures: counts.false_failures,
        bytes_per_s: counts.bytes as f64 / counts.node_seconds,
        longest: counts.longest,
    };
    for _ in 0..crashes {
        let up = world.up();
        let victim = up[world.rng.random_range(0..up.len())];
        world.forget();
        let at = world.now;
        world.crash(victim);
        let when = |world: &World, i: usize, state| world.seen.get(&(i, victim, state)).map(|t| t.since(at));
        let end = at + 30_000 * MS;
        let all = |world: &World| {
            let up = world.up().into_iter();
            up.map(|i| when(world, i, State::Failed))
                .collect::<Option<Vec<_>>>()
        };
        while all(&world).is_none() && world.now < end {
            world.run_for(100 * MS);
        }
        let suspected = world
            .up()
            .iter()
            .filter_map(|i| when(&world, *i, State::Suspect))
            .min();
        match (suspected, all(&world).and_then(|f| f.into_iter().max())) {
            (Some(suspected), Some(failed)) => {
                figures.suspected.push(suspected.as_millis() as u64);
                figures.failed.push(failed.as_millis() as u64);
            }
            _ => figures.unseen += 1,
        }
    }
    assert!(world.violations.is_empty(), "{:?}", world.violations);
    figures
}

#[test]
fn a_hundred_nodes_at_5_percent_loss_fail_nobody_and_datagrams_stay_short() {
    for setup in [PINGACK, GOSSIP] {
        let f = measure(setup, 100, 0.05, 20_000 * MS, 2, 1);
        println!("{:?}, 100 nodes, 5 % loss: {f:?}", setup.protocol);
        assert_eq!((f.false_failures, f.unseen), (0, 0));
        assert!(f.longest <= crate::wire::MAX_DATAGRAM);
        assert!(f.failed.iter().all(|ms| *ms <= 4_000), "{:?}", f.failed);
    }
}

/// A minute, or as many as `RAINSTORM_MINUTES` says.
#[test]
fn a_hundred_nodes_at_5_percent_loss_fail_nobody_for_half_an_hour() {
    let minutes = std::env::var("RAINSTORM_MINUTES").map_or(1, |m| m.parse().expect("a number"));
    let quiet = minutes * 60_000 * MS;
    for seed in Seeds::from_env(0..1).range {
        let f = measure(PINGACK, 100, 0.05, quiet, 0, seed);
        assert_eq!(f.false_failures, 0, "seed {seed}");
        println!(
            "seed {seed}: {:.2} false suspicions a node and minute",
            f.false_suspicions
        );
    }
}

/// Everybody's whole table is news at once: the worst that a datagram can be asked to hold.
#[test]
fn a_thousand_nodes_datagrams_are_within_their_bound() {
    use crate::state::{Config, Effect, Fact, Input, Members};
    use rand::SeedableRng;
    for setup in [PINGACK, GOSSIP] {
        let world = World::new(setup, 1, 1000, false);
        let long = |i: usize| common::ids::NodeName::new(format!("{i:064}")).unwrap();
        let now = common::clock::Time::from_millis(1000);
        let config = Config {
            me: long(0),
            others: (1..1000).map(long).collect(),
            incarnation: 1 << 50,
            settings: world.settings.clone(),
        };
        let mut members = Members::new(now, config, rand::rngs::StdRng::seed_from_u64(1));
        let fact = |i| Fact {
            name: long(i),
            incarnation: 1 << 50,
            state: State::Alive,
        };
        let table = Input::Table {
            from: long(1),
            facts: (1..1000).map(fact).collect(),
            configuration: None,
        };
        let mut effects = members.handle(now, table);
        for i in (0..1000).step_by(50) {
            let body = crate::wire::Body::Beats {
                base: 1 << 50,
                beats: (i.max(1)..i + 50)
                    .map(|j| (long(j), j as u64 * 100_000))
                    .collect(),
            };
            let message = crate::wire::Message {
                to: long(0),
                body,
                facts: vec![],
                stamp: None,
                configuration: None,
            };
            effects.extend(members.handle(
                now,
                Input::Datagram {
                    from: long(7),
                    message,
                },
            ));
        }
        // A configuration on top of it.
        effects.extend(members.change(now, &[("fanout".into(), "5".into())]).unwrap());
        while members.next_deadline() < now + 20_000 * MS {
            let now = members.next_deadline();
            effects.extend(members.handle(now, Input::Tick));
        }
        effects.extend(members.handle(now, Input::Leave));
        let sent = effects.iter().filter_map(|e| match e {
            Effect::Send { message, .. } => Some(message),
            _ => None,
        });
        let (mut n, mut most) = (0, 0);
        for message in sent {
            let len = message.encode().expect("within the bound").len() + 3 + 1 + 64 + 8 + 8 + 16;
            (n, most) = (n + 1, most.max(len));
        }
        println!("{:?}: {n} datagrams, the longest {most} bytes", setup.protocol);
        assert!(n > 1000 && most <= 1400 && most > 1200, "{most}");
    }
}

/// A point of a plot: `PROTOCOL TAB x TAB y`.
type Points = String;

fn point(points: &mut Points, protocol: Protocol, x: f64, y: f64) {
    writeln!(points, "{protocol}\t{x}\t{y}").expect("a string takes all");
}

fn row(protocol: Protocol, what: &str, f: Figures) -> u64 {
    let (suspected, failed) = (quantiles(f.suspected), quantiles(f.failed));
    println!(
        "| {protocol} | {what} | {}/{} | {}/{} | {:.2} | {} | {} | {:.0} | {} |",
        suspected.0,
        suspected.2,
        failed.0,
        failed.2,
        f.false_suspicions,
        f.false_failures,
        f.unseen,
        f.bytes_per_s,
        f.longest
    );
    failed.0
}

/// The tables and points of `docs/membership.md`. `RAINSTORM_FIGURES=FOLDER` makes all of them, which takes ten minutes or more, and writes
/// the points to FOLDER; without it only the smallest group is measured.
#[test]
fn figures() {
    let folder = std::env::var_os("RAINSTORM_FIGURES").map(std::path::PathBuf::from);
    let all = [(10, 9), (30, 20), (100, 10), (300, 6), (1000, 3)];
    let (sizes, losses): (&[(usize, usize)], &[f64]) = match folder {
        Some(_) => (&all, &[0.0, 0.05, 0.1, 0.2, 0.3]),
        None => (&all[..1], &[]),
    };
    println!(
        "| protocol | group | first suspected, ms p50/max | failed at all, ms p50/max | false suspicions a node and minute | falsely failed | unseen | bytes/s a node | longest |"
    );
    let (mut failed, mut bytes, mut falsely) = (Points::new(), Points::new(), Points::new());
    for setup in [PINGACK, GOSSIP] {
        let protocol = setup.protocol;
        // Gossip's traffic grows with the square of the group, and so does the time that simulating it takes.
        let most = if protocol == Protocol::Gossip {
            300
        } else {
            usize::MAX
        };
        for (n, crashes) in sizes.iter().filter(|(n, _)| *n <= most) {
            let f = measure(setup, *n, 0.0, 10_000 * MS, *crashes, 7);
            assert_eq!((f.failed.len(), f.unseen), (*crashes, 0));
            point(&mut bytes, protocol, *n as f64, f.bytes_per_s);
            let ms = row(protocol, &n.to_string(), f);
            point(&mut failed, protocol, *n as f64, ms as f64 / 1000.0);
        }
        for loss in losses {
            let f = measure(setup, 100, *loss, 60_000 * MS, 5, 11);
            point(&mut falsely, protocol, loss * 100.0, f.false_suspicions);
            row(protocol, &format!("100, {:.0} % lost", loss * 100.0), f);
        }
    }
    if let Some(folder) = folder {
        for (name, points) in [("failed", failed), ("bytes", bytes), ("false", falsely)] {
            let path = folder.join(format!("membership-{name}.tsv"));
            std::fs::write(&path, points).unwrap_or_else(|e| panic!("writing {}: {e}", path.display()));
        }
    }
}
