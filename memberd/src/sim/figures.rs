//! Figures of larger groups, for `docs/membership.md`: `cargo test -p memberd --release figures -- --ignored --nocapture`
//! prints the tables and draws the plots. The small ones run with the other tests.

use std::time::Duration;

use common::cluster::Protocol;
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
    let mut world = World::new(setup, seed, n, None, false);
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

/// Everybody's whole table is news at once: the worst that a datagram can be asked to hold.
#[test]
fn a_thousand_nodes_datagrams_are_within_their_bound() {
    use crate::state::{Config, Effect, Fact, Input, Members};
    use rand::SeedableRng;
    for setup in [PINGACK, GOSSIP] {
        let world = World::new(setup, 1, 1000, None, false);
        let long = |i: usize| common::ids::NodeName::new(format!("{i:064}")).unwrap();
        let now = common::clock::Time::from_millis(1000);
        let config = Config {
            me: long(0),
            others: (1..1000).map(long).collect(),
            incarnation: 1 << 50,
            settings: world.settings.clone(),
            mutant: None,
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

#[test]
#[ignore = "takes minutes, and writes to docs/plots"]
fn figures() {
    let (mut times, mut traffic, mut falsely) = (Vec::new(), Vec::new(), Vec::new());
    for protocol in [Protocol::PingAck, Protocol::Gossip] {
        let setup = Setup {
            protocol,
            suspicion: true,
        };
        println!(
            "| {protocol} | nodes | first suspected p50/max | failed at all p50/max | false suspicions per node and minute | bytes/s and node | longest |"
        );
        let (mut detected, mut bytes) = (Vec::new(), Vec::new());
        for (n, crashes) in [(10, 9), (30, 20), (100, 10), (300, 6), (1000, 3)] {
            let f = measure(setup, n, 0.0, 10_000 * MS, crashes, 7);
            let (s, d) = (quantiles(f.suspected), quantiles(f.failed));
            println!(
                "| {protocol} | {n} | {}/{} | {}/{} | {:.2} | {:.0} | {} | unseen {}",
                s.0, s.2, d.0, d.2, f.false_suspicions, f.bytes_per_s, f.longest, f.unseen
            );
            detected.push((n as f64, d.0 as f64 / 1000.0));
            bytes.push((n as f64, f.bytes_per_s));
        }
        let mut at_loss = Vec::new();
        for loss in [0.0, 0.05, 0.1, 0.2, 0.3] {
            let f = measure(setup, 100, loss, 60_000 * MS, 5, 11);
            let (s, d) = (quantiles(f.suspected), quantiles(f.failed));
            println!(
                "| {protocol} | 100, {:.0} % lost | {}/{} | {}/{} | {:.2}, failures {} | {:.0} | {} |",
                loss * 100.0,
                s.0,
                s.2,
                d.0,
                d.2,
                f.false_suspicions,
                f.false_failures,
                f.bytes_per_s,
                f.longest
            );
            at_loss.push((loss * 100.0, f.false_suspicions));
        }
        times.push((protocol, detected));
        traffic.push((protocol, bytes));
        falsely.push((protocol, at_loss));
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/plots");
    std::fs::create_dir_all(folder).unwrap();
    plot(
        &format!("{folder}/membership-failed.svg"),
        "Crash to failed at all (simulated)",
        "nodes",
        "seconds, median",
        &times,
    );
    plot(
        &format!("{folder}/membership-bytes.svg"),
        "Traffic of a quiet group (simulated)",
        "nodes",
        "bytes/s sent per node",
        &traffic,
    );
    plot(
        &format!("{folder}/membership-false.svg"),
        "False suspicions, 100 nodes (simulated)",
        "datagrams lost, %",
        "per node and minute",
        &falsely,
    );
}

fn plot(path: &str, title: &str, x: &str, y: &str, lines: &[(Protocol, Vec<(f64, f64)>)]) {
    use plotters::prelude::*;
    let points = || lines.iter().flat_map(|(_, l)| l.iter());
    let most = |of: fn(&(f64, f64)) -> f64| points().map(of).fold(0.0, f64::max) * 1.05 + 0.01;
    let root = SVGBackend::new(path, (640, 400)).into_drawing_area();
    root.fill(&WHITE).unwrap();
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..most(|p| p.0), 0.0..most(|p| p.1))
        .unwrap();
    chart.configure_mesh().x_desc(x).y_desc(y).draw().unwrap();
    for ((protocol, line), colour) in lines.iter().zip([BLUE, RED]) {
        let drawn = LineSeries::new(line.iter().copied(), colour.stroke_width(2));
        chart
            .draw_series(drawn)
            .unwrap()
            .label(protocol.to_string())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour));
    }
    chart
        .configure_series_labels()
        .border_style(BLACK)
        .draw()
        .unwrap();
    root.present().unwrap();
}
