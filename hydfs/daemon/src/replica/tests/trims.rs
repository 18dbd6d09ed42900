//! What a trim does, step by step.

use super::*;
use crate::replica::{Mutant, Writer};
use hydfs::content::{File, SegmentLimits};

const LIMITS: SegmentLimits = SegmentLimits {
    bytes: 12,
    entries: 100,
    dead: 4,
};

fn group(n: usize) -> Group {
    let mut g = Group::new(n);
    for node in &mut g.nodes {
        *node = node.take().map(|replica| replica.with_limits(LIMITS));
    }
    assert_eq!(g.ask(fence(1, 1)), fenced(0));
    g
}

fn trim(base: u64) -> Request {
    trim_by(base, None)
}

fn trim_by(base: u64, epoch: Option<u64>) -> Request {
    let by = epoch.map(|epoch| Writer {
        client: A,
        epoch: Epoch(epoch),
        nonce: epoch,
    });
    let (file, of) = (name("f"), None);
    Request::Trim { file, of, base, by }
}

fn trimmed(base: u64) -> Option<Result<Answer, Refused>> {
    Some(Ok(Answer::Trimmed { base }))
}

fn file(g: &Group, node: NodeIx) -> File {
    let replica = g.nodes[node.0 as usize].as_ref().unwrap();
    let range = replica.range_of(&name("f"));
    replica.store().file(range, &name("f")).unwrap().head()
}

fn members(g: &Group) -> Vec<NodeIx> {
    let any = g.up().next().unwrap();
    any.replicas_of(any.range_of(&name("f"))).to_vec()
}

/// A node that was killed starts again, with this disk.
fn come_back(g: &mut Group, node: NodeIx, store: MemStore) {
    let ring = g.up().next().unwrap().ring().clone();
    let back = Replica::new(node, ring, store, Incarnation(50), g.now).unwrap();
    let back = back.with_limits(LIMITS);
    g.nodes[node.0 as usize] = Some(back);
    for other in (0..g.nodes.len()).filter(|n| *n != node.0 as usize) {
        g.input(other, Input::PeerUp { node });
        let other = NodeIx(other as u16);
        g.input(node.0 as usize, Input::PeerUp { node: other });
    }
    g.run();
}

#[test]
fn only_what_is_committed_is_trimmed_and_only_by_who_may() {
    let mut g = group(3);
    for (i, line) in ["one1\n", "two2\n", "tree\n", "four\n"].into_iter().enumerate() {
        assert_eq!(g.ask(append(1, 5 * i as u64, line)), appended(5 * i as u64 + 5));
    }
    assert_eq!(g.ask(trim(21)), refused(Refused::BeyondEnd { length: 20 }));
    assert_eq!(g.ask(trim(16)), trimmed(16));
    assert_eq!(g.ask(trim(3)), trimmed(16));
    // Members are told of commits a little later.
    g.run();
    let members = members(&g);
    for member in &members {
        let file = file(&g, *member);
        assert_eq!((file.base, file.dropped.bytes, file.length()), (16, 15, 20));
        let replica = g.nodes[member.0 as usize].as_ref().unwrap();
        let known = replica.committed(&name("f")).unwrap();
        assert_eq!((known.base, known.length), (16, 20));
        assert!(
            replica.readable(&name("f"), None, 15).is_err() && replica.readable(&name("f"), None, 16).is_ok()
        );
    }
    // What the first has not got to all is not committed, so nobody may trim it, the first's own client neither.
    g.deaf.insert(members[2].0 as usize);
    assert_eq!(g.ask(append(1, 20, "five\n")), None);
    assert_eq!(g.ask(trim_by(25, Some(1))), None);
    g.deaf.clear();
    g.run();
    let late: Vec<_> = g.replies.drain(..).map(|(_, reply)| reply).collect();
    assert!(late.contains(&Err(Refused::BeyondEnd { length: 20 })), "{late:?}");
    assert_eq!(g.ask(trim_by(17, Some(1))), trimmed(17));
    // A process that was replaced, one that never opened the stream, and another file.
    assert_eq!(
        g.ask(fence(2, 2)),
        Some(Ok(Answer::Fenced { length: 25, base: 17 }))
    );
    assert_eq!(
        g.ask(trim_by(18, Some(1))),
        refused(Refused::FencedOff { epoch: Epoch(2) })
    );
    assert_eq!(g.ask(trim_by(18, Some(3))), refused(Refused::NotFenced));
    let (file, base) = (name("f"), 18);
    let other = Request::Trim {
        file,
        of: Some(7),
        base,
        by: None,
    };
    assert_eq!(g.ask(other), refused(Refused::Replaced));
    assert_eq!(g.ask(trim_by(18, Some(2))), trimmed(18));
    // Repeats of appends are known as such, whatever is left of them.
    assert_eq!(g.ask(trim(25)), trimmed(25));
    assert_eq!(g.ask(append(2, 5, "two2\n")), appended(25));
    assert_eq!(g.ask(append(2, 25, "six\n")), appended(29));
}

#[test]
fn a_returning_node_drops_what_was_trimmed_while_it_was_away() {
    let mut g = group(4);
    for i in 0..4 {
        assert_eq!(g.ask(append(1, 5 * i, "line\n")), appended(5 * i + 5));
    }
    let away = members(&g)[1];
    let store = g.nodes[away.0 as usize].take().unwrap().into_store();
    let range = g.up().next().unwrap().range_of(&name("f"));
    g.kill(away.0 as usize);
    g.repairs.clear();
    assert_eq!(g.ask(trim(20)), trimmed(20));
    assert_eq!(g.ask(append(1, 20, "more\n")), appended(25));
    assert_eq!(store.file(range, &name("f")).unwrap().base, 0);
    come_back(&mut g, away, store);
    assert_eq!(members(&g)[1], away);
    let file = file(&g, away);
    assert_eq!(
        (file.base, file.dropped.bytes, file.length(), file.segments.len()),
        (20, 20, 25, 1)
    );
    // It misses what came meanwhile, and nothing that was trimmed.
    let wanted = g
        .repairs
        .iter()
        .filter(|(node, _)| *node == away)
        .map(|(_, effect)| effect);
    assert!(wanted.clone().count() > 0);
    for effect in wanted {
        assert!(
            matches!(effect, Effect::Repair { segment, .. } if segment.bytes == 5),
            "{effect:?}"
        );
    }
}

#[test]
fn a_trim_that_not_all_have_is_kept_by_a_take_over() {
    let mut g = group(4);
    for i in 0..4 {
        assert_eq!(g.ask(append(1, 5 * i, "line\n")), appended(5 * i + 5));
    }
    // The coordinator has it, and who takes over after it; not the third.
    let members = members(&g);
    g.deaf.insert(members[2].0 as usize);
    assert_eq!(g.ask(trim(20)), None);
    assert_eq!(file(&g, members[2]).base, 0);
    g.deaf.clear();
    g.kill(members[0].0 as usize);
    g.run();
    for member in &members[1..] {
        assert_eq!((file(&g, *member).base, file(&g, *member).length()), (20, 20));
    }
    assert_eq!(g.ask(trim(1)), trimmed(20));
    assert_eq!(g.ask(append(1, 20, "more\n")), appended(25));
}

/// The coordinator drops the last copy of what is trimmed before anybody else has heard of the trim; then it is cut off, and comes back.
fn lose_the_last_copy() -> (Group, NodeIx) {
    let mut g = group(7);
    for i in 0..4 {
        assert_eq!(g.ask(append(1, 5 * i, "line\n")), appended(5 * i + 5));
    }
    let before = members(&g);
    g.kill(before[1].0 as usize);
    g.kill(before[2].0 as usize);
    let (only, now) = (before[0], members(&g));
    assert!(
        now[0] == only
            && now[1..]
                .iter()
                .all(|n| file(&g, *n).segments.iter().all(|s| s.missing))
    );
    g.deaf.extend(now[1..].iter().map(|n| n.0 as usize));
    assert_eq!(g.ask(trim(16)), None);
    assert_eq!(file(&g, only).dropped.bytes, 15);
    g.deaf.clear();
    let store = g.nodes[only.0 as usize].take().unwrap().into_store();
    g.kill(only.0 as usize);
    g.run();
    assert_eq!((file(&g, now[1]).base, file(&g, now[1]).length()), (0, 20));
    come_back(&mut g, only, store);
    assert_eq!(members(&g)[0], only);
    (g, only)
}

#[test]
fn a_trim_that_drops_the_last_copy_leaves_no_hole() {
    let (mut g, only) = lose_the_last_copy();
    for member in &members(&g) {
        let file = file(&g, *member);
        assert_eq!((file.base, file.dropped.bytes, file.length()), (16, 15, 20));
        assert_eq!(file.misses(), *member != only);
    }
    assert_eq!(g.ask(append(1, 20, "more\n")), appended(25));
    // Without the step what nobody has is wanted for ever.
    let _left_out = Mutant::LeaveHoles.turn_on();
    let (g, _) = lose_the_last_copy();
    for member in &members(&g) {
        let file = file(&g, *member);
        assert!(file.base == 0 && file.segments[0].missing, "{file:?}");
    }
}

/// What is committed of one file says nothing of another that has its name now.
#[test]
fn what_was_committed_of_a_removed_file_is_not_trimmed_of_its_successor() {
    let mut g = group(3);
    for i in 0..4 {
        assert_eq!(g.ask(append(1, 5 * i, "line\n")), appended(5 * i + 5));
    }
    let members = members(&g);
    g.deaf.insert(members[2].0 as usize);
    let (nonce, file_name) = (file(&g, members[0]).nonce, name("f"));
    let remove = Request::Remove {
        file: file_name,
        nonce,
    };
    assert_eq!(g.ask(remove), None);
    assert_eq!(g.ask(fence(2, 2)), None);
    assert_eq!(g.ask(append(2, 0, "new\n")), None);
    assert_eq!(g.ask(trim(15)), None);
    assert_eq!((file(&g, members[0]).base, file(&g, members[0]).length()), (0, 4));
    g.deaf.clear();
    g.run();
    let late: Vec<_> = g.replies.drain(..).map(|(_, reply)| reply).collect();
    assert!(late.contains(&Err(Refused::BeyondEnd { length: 0 })), "{late:?}");
    assert_eq!(g.ask(trim(4)), trimmed(4));
}

/// A trim needs an active range, and no range would be active again.
#[test]
fn a_full_disk_takes_part_in_a_take_over_and_then_trims() {
    let mut g = group(4);
    for i in 0..4 {
        assert_eq!(g.ask(append(1, 5 * i, "line\n")), appended(5 * i + 5));
    }
    let members = members(&g);
    for member in &members[..2] {
        g.nodes[member.0 as usize].as_mut().unwrap().store_mut().full = true;
    }
    g.kill(members[2].0 as usize);
    g.run();
    let node = members[0];
    assert_eq!(g.ask(append(1, 20, "full\n")), refused(Refused::Full { node }));
    assert_eq!(g.ask(trim(15)), trimmed(15));
    assert_eq!(file(&g, node).dropped.bytes, 15);
}

/// A trim makes room, so it does not wait behind an append that needs some.
#[test]
fn a_full_member_trims_ahead_of_what_it_has_no_room_for() {
    let mut g = group(3);
    for i in 0..4 {
        assert_eq!(g.ask(append(1, 5 * i, "line\n")), appended(5 * i + 5));
    }
    let members = members(&g);
    let full = |g: &mut Group, node: NodeIx, full| {
        g.nodes[node.0 as usize].as_mut().unwrap().store_mut().full = full;
    };
    full(&mut g, members[1], true);
    let node = members[1];
    assert_eq!(g.ask(append(1, 20, "full\n")), refused(Refused::Full { node }));
    assert_eq!(g.ask(append(1, 20, "full\n")), refused(Refused::Full { node }));
    assert_eq!(g.ask(trim(15)), None, "acknowledged when all before it is");
    g.run();
    assert_eq!((file(&g, node).base, file(&g, node).dropped.bytes), (15, 15));
    // Also the coordinator's own disk.
    full(&mut g, members[0], true);
    assert_eq!(g.ask(trim(16)), None);
    g.run();
    assert_eq!(file(&g, node).base, 16);
    full(&mut g, members[0], false);
    full(&mut g, members[1], false);
    g.run();
    assert_eq!(g.ask(trim(16)), trimmed(16));
    assert_eq!(g.ask(append(1, 25, "room\n")), appended(30));
}
