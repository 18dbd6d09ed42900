//! What goes wrong.

use rand::RngExt;
use rand::seq::IteratorRandom;

use super::world::{World, WorldEvent, ms};
use crate::replica::Input;
use crate::store::Store;
use crate::store::mem::MemStore;
use hydfs::view::NodeIx;

pub fn happen(w: &mut World) {
    if w.calm {
        return;
    }
    w.after(20, 500, WorldEvent::Fault);
    if w.now < w.pause_until {
        // Nothing but a loss ends a pause early.
        match w.rng.random_range(0..10) {
            _ if w.stranded.is_some() || w.alone.is_some() => {}
            0..2 => lose(w, lose_disk),
            2 => lose(w, lose_power),
            3..5 => strand(w),
            _ => {}
        }
        return;
    }
    if let Some(node) = w.stranded.take() {
        w.cut.clear();
        lose_disk(w, node);
        return;
    }
    if let Some(node) = w.alone.take() {
        w.cut = (0..w.n)
            .filter(|other| *other != node)
            .flat_map(|other| [(node, other), (other, node)])
            .collect();
        w.log(|| format!("cut: {node} from all"));
        w.notice_cuts();
        // Until it is noticed, and the others have taken over.
        w.pause_until = w.now + ms(w.rng.random_range(700..1500));
        return;
    }
    let n = w.n;
    let (a, b) = (w.rng.random_range(0..n), w.rng.random_range(0..n));
    match w.rng.random_range(0..100) {
        0..14 => {
            let down = n - w.up().count();
            if down < (n - 1) / 2 + 1 {
                w.crash(a);
                // Often it is back before anybody has said a word.
                let back = if w.rng.random_bool(0.4) { 50 } else { 4000 };
                w.after(1, back, WorldEvent::Start { node: a });
            }
        }
        14..30 => {
            let down: Vec<usize> = (0..n).filter(|i| w.nodes[*i].replica.is_none()).collect();
            if let Some(node) = down.into_iter().choose(&mut w.rng) {
                w.start(node);
            }
        }
        30..38 => {
            let side: Vec<bool> = (0..n).map(|_| w.rng.random_bool(0.4)).collect();
            let pairs = (0..n).flat_map(|x| (0..n).map(move |y| (x, y)));
            w.cut = pairs.filter(|(x, y)| side[*x] != side[*y]).collect();
            w.log(|| format!("cut: {side:?}"));
            w.notice_cuts();
        }
        38..46 => {
            if a != b {
                w.cut.insert((a, b));
                w.log(|| format!("cut: nothing from {a} to {b}"));
                w.notice_cuts();
            }
        }
        46..58 => {
            w.cut.clear();
            w.log(|| "cuts healed".into());
        }
        58..66 => {
            if a != b {
                w.disconnect(a, b);
            }
        }
        66..74 => {
            if a != b {
                w.input(
                    a,
                    Input::Suspect {
                        node: NodeIx(b as u16),
                    },
                );
            }
        }
        74..80 => {
            // It dies in the middle of something.
            let writes = w.rng.random_range(0..12);
            if let Some(replica) = &mut w.nodes[a].replica {
                replica.store_mut().break_after = Some(writes);
                w.after(100, 3000, WorldEvent::Start { node: a });
            }
        }
        80..84 => {
            let full = w.rng.random_bool(0.5);
            if let Some(replica) = &mut w.nodes[a].replica {
                replica.store_mut().full = full;
                replica.store_mut().out_of_reserve = w.rng.random_bool(0.3);
            }
            w.log(|| format!("node {a}: disk full: {full}"));
        }
        84..87 => w
            .nodes
            .iter_mut()
            .filter_map(|n| n.replica.as_mut())
            .for_each(|r| r.store_mut().full = false),
        87..90 => lose(w, lose_disk),
        90..92 => lose(w, lose_power),
        92 => leave_alone(w),
        93 => strand(w),
        94..96 => {
            let count = losses(w);
            let nodes: Vec<usize> = (0..n).sample(&mut w.rng, count);
            nodes.into_iter().for_each(|node| flip(w, node));
        }
        96..98 => {
            // A pause, in which all gets whole, so that more can be lost.
            w.cut.clear();
            (0..n).for_each(|node| w.start(node));
            w.pause_until = w.now + ms(2500);
        }
        _ => super::clients::Clients::new_process(w),
    }
}

/// When all is whole, two copies of anything may be lost at once; of a cluster of three, that acts with two, one.
fn losses(w: &mut World) -> usize {
    if w.unsettled().is_some() || super::oracle::scrub(w) > 0 {
        return 0;
    }
    if w.n >= 4 { w.rng.random_range(1..=2) } else { 1 }
}

/// Nodes lose something, all at once.
fn lose(w: &mut World, what: fn(&mut World, usize)) {
    let count = losses(w);
    let nodes: Vec<usize> = (0..w.n).sample(&mut w.rng, count);
    nodes.into_iter().for_each(|node| what(w, node));
}

fn lose_disk(w: &mut World, node: usize) {
    w.crash(node);
    w.nodes[node].disk = Some(MemStore::default());
    w.lost += 1;
    w.pause_until = w.now;
    w.log(|| format!("node {node} loses its disk"));
    w.after(1, 3000, WorldEvent::Start { node });
}

/// The newest of what it wrote never got to its disk.
fn lose_power(w: &mut World, node: usize) {
    w.crash(node);
    let Some(mut disk) = w.nodes[node].disk.take() else {
        return;
    };
    disk.lose_newest(|most| w.rng.random_range(0..=most));
    w.nodes[node].disk = Some(disk);
    w.lost += 1;
    w.pause_until = w.now;
    w.log(|| format!("node {node} loses power"));
    w.after(1, 3000, WorldEvent::Start { node });
}

/// All members of a range but its coordinator are cut off, in the middle of appends; it goes on with others, and then it loses its disk, and the
/// members are there again. What was acknowledged before is on theirs.
fn strand(w: &mut World) {
    if w.n < 5 || losses(w) == 0 {
        return;
    }
    let Some(range) = w.ring.ranges().collect::<Vec<_>>().into_iter().choose(&mut w.rng) else {
        return;
    };
    let Some((_, first)) = w.up().next() else { return };
    let set: Vec<usize> = first.replicas_of(range).iter().map(|n| n.0 as usize).collect();
    for node in &mut w.nodes {
        if let Some(replica) = &mut node.replica {
            replica.store_mut().break_after = None;
            replica.store_mut().full = false;
        }
    }
    let far = |node: &usize| set[1..].contains(node);
    let pairs = (0..w.n).flat_map(|x| (0..w.n).map(move |y| (x, y)));
    w.cut = pairs.filter(|(x, y)| far(x) != far(y)).collect();
    w.log(|| format!("cut: {:?} from their coordinator {}", &set[1..], set[0]));
    w.notice_cuts();
    w.stranded = Some(set[0]);
    // Long enough for a take-over, often not for the repair behind it.
    w.pause_until = w.now + ms(w.rng.random_range(100..1200));
}

/// All members of a range but its coordinator lose their disks, and repair takes long; in the middle of it the coordinator is cut off.
fn leave_alone(w: &mut World) {
    if w.n < 5 || losses(w) < 2 {
        return;
    }
    let Some(range) = w.ring.ranges().collect::<Vec<_>>().into_iter().choose(&mut w.rng) else {
        return;
    };
    let Some((_, first)) = w.up().next() else { return };
    let set: Vec<usize> = first.replicas_of(range).iter().map(|n| n.0 as usize).collect();
    w.slow_until = w.now + ms(5000);
    set[1..].iter().for_each(|node| lose_disk(w, *node));
    w.alone = Some(set[0]);
    w.pause_until = w.now + ms(w.rng.random_range(300..1500));
}

/// A bit of a segment flips: one copy of it is lost.
fn flip(w: &mut World, node: usize) {
    let Some(replica) = w.nodes[node].replica.as_mut() else {
        return;
    };
    let mut whole = Vec::new();
    for range in w.ring.ranges() {
        for (name, file) in replica.store().files(range) {
            let there = file.segments.iter().filter(|s| !s.missing && s.bytes > 0);
            whole.extend(there.map(|s| (range, name.clone(), s.id, s.bytes)));
        }
    }
    if let Some((range, name, segment, bytes)) = whole.into_iter().choose(&mut w.rng) {
        let at = w.rng.random_range(0..bytes as usize);
        if replica.store_mut().flip(range, &name, segment, at) {
            w.lost += 1;
            w.log(|| format!("node {node}: a bit of {name} flips"));
        }
    }
}

/// Nothing goes wrong any more.
pub fn heal(w: &mut World) {
    w.calm = true;
    w.cut.clear();
    for node in 0..w.n {
        if let Some(replica) = &mut w.nodes[node].replica {
            replica.store_mut().full = false;
            replica.store_mut().break_after = None;
        }
        w.start(node);
    }
}
