//! Hand-made cases. Node n of N, three replicas; a view is written as each node's `(joined, failed)`.

use super::*;
use hydfs::content::{ClientId, Epoch};
use hydfs::ring::Ring;
use hydfs::view::Incarnation;

const RANGE: RangeIx = RangeIx(0);

fn ring(n: usize) -> Ring {
    let names: Vec<String> = (0..n).map(|i| format!("node{i}")).collect();
    Ring::new(names.iter().map(String::as_str), 3)
}

fn view(facts: &[(u64, u64)]) -> View {
    let mut view = View::new(facts.len());
    for (n, (joined, failed)) in facts.iter().enumerate() {
        view.join(NodeIx(n as u16), Incarnation(*joined));
        view.fail(NodeIx(n as u16), Incarnation(*failed));
    }
    view
}

/// Nodes by their place behind the range: `places(n)[0]` coordinates it while all live.
fn places(n: usize) -> Vec<NodeIx> {
    let all = view(&vec![(1, 0); n]);
    let mut places = Vec::new();
    let mut left = all;
    while let Some(first) = ring(n).replicas(RANGE, &left).first().copied() {
        places.push(first);
        left.fail(first, Incarnation(1));
    }
    places
}

/// A view in which the nodes at these places are dead, all under incarnation 1.
fn without(n: usize, dead: &[usize]) -> View {
    let mut view = view(&vec![(1, 0); n]);
    for place in dead {
        view.fail(places(n)[*place], Incarnation(1));
    }
    view
}

/// What the nodes at some places say: born, installed, asked.
type Words<'a> = Vec<(usize, u64, Option<&'a View>, &'a [View])>;

fn verdict(n: usize, view: &View, words: Words<'_>) -> Verdict {
    let places = places(n);
    let said = words.into_iter().map(|(place, born, installed, asked)| {
        (
            places[place],
            RangeMemory {
                memory: Memory {
                    born: Incarnation(born),
                    whole: Incarnation(born),
                },
                installed,
                asked,
            },
        )
    });
    decide(&ring(n), RANGE, view, &said.collect())
}

fn sources(n: usize, nodes: &[usize], of: &View) -> Verdict {
    let mut nodes: Vec<NodeIx> = nodes.iter().map(|place| places(n)[*place]).collect();
    nodes.sort();
    Verdict::Sources {
        nodes,
        of: of.clone(),
    }
}

#[test]
fn where_nobody_was_ever_asked_the_range_is_empty() {
    let all = without(5, &[]);
    assert_eq!(
        verdict(5, &all, (0..5).map(|p| (p, 1, None, &[][..])).collect()),
        Verdict::Empty
    );
    // A majority is enough.
    let some = without(5, &[3, 4]);
    assert_eq!(
        verdict(5, &some, (0..3).map(|p| (p, 1, None, &[][..])).collect()),
        Verdict::Empty
    );
}

#[test]
fn a_set_that_was_asked_for_and_never_installed_is_passed_over() {
    let first = without(5, &[4]);
    let asked = [first.clone()];
    let now = without(5, &[4, 3]);
    let words = (0..3).map(|p| (p, 1, None, &asked[..])).collect();
    assert_eq!(verdict(5, &now, words), Verdict::Empty);
    // Two of its members installed it, the third did not and says so: it never acted, and so what was before it counts.
    let words = vec![
        (0, 1, Some(&first), &[][..]),
        (1, 1, Some(&first), &[]),
        (2, 1, None, &asked),
    ];
    assert_eq!(verdict(5, &now, words), Verdict::Empty);
}

#[test]
fn the_members_that_are_left_hold_everything() {
    let old = without(5, &[]);
    let now = without(5, &[0, 1]);
    let words = vec![(2, 1, Some(&old), &[][..]), (3, 1, None, &[]), (4, 1, None, &[])];
    assert_eq!(verdict(5, &now, words), sources(5, &[2], &old));
}

#[test]
fn without_any_member_it_is_unavailable_never_empty() {
    let old = without(7, &[]);
    let asked = [old.clone()];
    let now = without(7, &[0, 1, 2]);
    let words: Words<'_> = (3..7).map(|p| (p, 1, None, &asked[..])).collect();
    assert!(matches!(verdict(7, &now, words), Verdict::Unavailable { .. }));
}

#[test]
fn a_returning_member_of_an_old_set_is_no_source() {
    // 0, 1, 2 acted; without 0 the set 1, 2, 3 did; 0 is back.
    let (old, newer) = (without(5, &[]), without(5, &[0]));
    let mut now = newer.clone();
    now.join(places(5)[0], Incarnation(2));
    let asked = [newer.clone()];
    let words = vec![
        (0, 1, Some(&old), &[][..]),
        (1, 1, Some(&newer), &[]),
        (2, 1, Some(&newer), &[]),
        (3, 1, Some(&newer), &[]),
        (4, 1, None, &asked),
    ];
    assert_eq!(verdict(5, &now, words), sources(5, &[1, 2, 3], &newer));
    // Of the newer set nobody answers; but one who was asked for it remembers: the old one's member must not go on alone.
    [1, 2]
        .iter()
        .for_each(|p| assert!(now.fail(places(5)[*p], Incarnation(1))));
    assert!(now.fail(places(5)[3], Incarnation(1)) && now.join(places(5)[3], Incarnation(9)));
    let words = vec![
        (0, 1, Some(&old), &[][..]),
        (3, 9, None, &[]),
        (4, 1, None, &asked),
    ];
    assert!(matches!(verdict(5, &now, words), Verdict::Unavailable { .. }));
}

#[test]
fn of_a_set_that_did_not_come_to_act_the_holders_still_have_the_newest() {
    // 1 installed the newer set, 2 did not: the newer set never acted. But what 1 holds was sealed from all there was.
    let (old, newer) = (without(5, &[]), without(5, &[0]));
    let asked = [newer.clone()];
    let now = without(5, &[0, 3]);
    let words = vec![
        (1, 1, Some(&newer), &[][..]),
        (2, 1, Some(&old), &asked),
        (4, 1, None, &asked),
    ];
    assert_eq!(verdict(5, &now, words), sources(5, &[1], &newer));
}

#[test]
fn a_new_disk_proves_nothing() {
    // 0, 1, 2 acted. 1 lost its disk and is back at once: it did install the set, though it can't know.
    let old = without(5, &[]);
    let mut now = old.clone();
    assert!(now.join(places(5)[1], Incarnation(2)));
    let words = |absent: &[usize]| -> Words<'_> {
        let all = [
            (0, 1, Some(&old), &[][..]),
            (1, 2, None, &[]),
            (2, 1, Some(&old), &[]),
            (3, 1, None, &[]),
            (4, 1, None, &[]),
        ];
        all.into_iter().filter(|(p, ..)| !absent.contains(p)).collect()
    };
    assert_eq!(verdict(5, &now, words(&[])), sources(5, &[0, 2], &old));
    // With 0 and 4 dead, only 2 and 3 remember all. A set of 0, 1 and 4 may have acted.
    assert!(now.fail(places(5)[0], Incarnation(1)) && now.fail(places(5)[4], Incarnation(1)));
    assert!(matches!(
        verdict(5, &now, words(&[0, 4])),
        Verdict::Unavailable { .. }
    ));
    // With 0 dead, three of five remember.
    assert!(now.join(places(5)[4], Incarnation(2)));
    assert_eq!(verdict(5, &now, words(&[0])), sources(5, &[2], &old));
}

#[test]
fn of_three_nodes_two_that_lost_their_disks_and_one_that_did_not_go_on() {
    let old = without(3, &[]);
    let mut now = old.clone();
    assert!(now.join(places(3)[0], Incarnation(2)) && now.join(places(3)[1], Incarnation(2)));
    let words = vec![(0, 2, None, &[][..]), (1, 2, None, &[]), (2, 1, Some(&old), &[])];
    assert_eq!(verdict(3, &now, words), sources(3, &[2], &old));
}

#[test]
fn where_all_may_have_lost_the_newest_the_one_that_is_away_is_waited_for() {
    let all = view(&[(1, 0); 5]);
    let places = places(5);
    let decide_with = |lost: &[usize], new: &[usize], away: &[usize]| {
        let mut now = without(5, away);
        for place in lost.iter().chain(new) {
            now.join(places[*place], Incarnation(2));
        }
        let said = |place: usize| RangeMemory {
            memory: Memory {
                born: Incarnation(if new.contains(&place) { 2 } else { 1 }),
                whole: Incarnation(if lost.contains(&place) || new.contains(&place) {
                    2
                } else {
                    1
                }),
            },
            installed: (place < 3 && !new.contains(&place)).then_some(&all),
            asked: &[],
        };
        let here = (0..5).filter(|place| !away.contains(place));
        let said = here.map(|place| (places[place], said(place))).collect();
        decide(&ring(5), RANGE, &now, &said)
    };
    assert!(matches!(decide_with(&[0, 1], &[], &[]), Verdict::Sources { .. }));
    assert!(matches!(decide_with(&[0], &[], &[2]), Verdict::Sources { .. }));
    assert!(matches!(
        decide_with(&[0, 1, 2], &[], &[]),
        Verdict::Sources { .. }
    ));
    assert!(matches!(
        decide_with(&[0, 1], &[], &[2]),
        Verdict::Unavailable { .. }
    ));
    // The way out: it comes with an empty disk, and nobody has more than the others.
    assert!(matches!(decide_with(&[0, 1], &[2], &[]), Verdict::Sources { .. }));
}

// --- what is sealed -----------------------------------------------------------------------------------------------

const CLIENT: ClientId = ClientId(7);
const OPEN: SegmentId = SegmentId(10);

fn name(name: &str) -> FileName {
    FileName::new(name).unwrap()
}

/// A file with one sealed segment and `entries` in the open one; every other entry is a fence with a higher epoch.
fn file(nonce: u64, entries: u64) -> File {
    let mut file = File::new(nonce);
    let append = |file: &mut File, id: SegmentId| {
        let have = file.streams.get(&CLIENT).copied().unwrap_or_default();
        let entry = file.next_append(
            id,
            CLIENT,
            have.epoch,
            have.length,
            b"line\n",
            xxhash_rust::xxh3::xxh3_64(b"line\n"),
        );
        file.apply(id, entry);
    };
    append(&mut file, SegmentId(1));
    for i in 0..entries {
        if i % 2 == 0 {
            append(&mut file, OPEN);
        } else {
            let fence = file.next_fence(OPEN, CLIENT, Epoch(i), i * 100);
            file.apply(OPEN, fence);
        }
    }
    file
}

fn sealed(copies: &[&[(&str, &File)]]) -> BTreeMap<FileName, File> {
    sealed_of(copies, &[])
}

/// `whole` copies and others that may have lost the newest.
fn sealed_of(whole: &[&[(&str, &File)]], others: &[&[(&str, &File)]]) -> BTreeMap<FileName, File> {
    let copies = whole.iter().chain(others);
    let named: Vec<BTreeMap<FileName, &File>> = copies
        .map(|files| files.iter().map(|(n, f)| (name(n), *f)).collect())
        .collect();
    let mut copies: Vec<SourceCopy<'_>> = Vec::new();
    for files in &named {
        copies.push(SourceCopy {
            whole: copies.len() < whole.len(),
            files: files.iter().map(|(n, f)| (n, *f)).collect(),
        });
    }
    seal(&copies, OPEN).into_iter().collect()
}

#[test]
fn the_shortest_copy_is_sealed_and_the_highest_fence_kept() {
    let (short, long) = (file(1, 3), file(1, 6));
    let all = sealed(&[&[("f", &long)], &[("f", &short)]]);
    let f = &all[&name("f")];
    assert_eq!(
        f.segments
            .iter()
            .map(|s| (s.id, s.entries, s.sealed))
            .collect::<Vec<_>>(),
        [(SegmentId(1), 1, true), (OPEN, 3, true)]
    );
    let stream = f.streams[&CLIENT];
    assert_eq!((stream.epoch, stream.nonce, stream.length), (Epoch(5), 500, 15));
    // Both make themselves that file: the long one by cutting.
    for mut copy in [short.clone(), long.clone()] {
        copy.install(f);
        assert!(!copy.misses() && copy.length() == 15 && copy.streams == f.streams);
    }
    // One that has nothing of the open segment: it is empty, and so it is no segment.
    let all = sealed(&[&[("f", &long)], &[("f", &file(1, 0))]]);
    assert_eq!(all[&name("f")].segments.len(), 1);
}

#[test]
fn a_file_that_is_not_everywhere_was_being_made_or_removed() {
    let (old, new) = (file(1, 2), file(2, 2));
    assert!(sealed(&[&[("f", &old)], &[]]).is_empty());
    assert!(sealed(&[&[("f", &old)], &[("f", &new)]]).is_empty());
    assert_eq!(
        sealed(&[&[("f", &old), ("g", &new)], &[("f", &old), ("g", &new)]]).len(),
        2
    );
}

#[test]
fn a_damaged_copy_does_not_say_how_long_it_was() {
    let (whole, mut damaged) = (file(1, 5), file(1, 2));
    damaged.segment_mut(OPEN).unwrap().lose();
    let all = sealed(&[&[("f", &damaged)], &[("f", &whole)]]);
    assert_eq!(all[&name("f")].segments[1].entries, 5);
    damaged.install(&all[&name("f")]);
    assert!(damaged.segments[1].missing && damaged.segments[1].entries == 5);
}

#[test]
fn what_may_have_lost_the_newest_is_believed_in_what_it_has_only() {
    let (short, middle, long) = (file(1, 2), file(1, 4), file(1, 6));
    let entries = |all: &BTreeMap<FileName, File>| all[&name("f")].segments[1].entries;
    assert_eq!(
        entries(&sealed_of(
            &[&[("f", &long)], &[("f", &middle)]],
            &[&[("f", &short)]]
        )),
        4
    );
    assert_eq!(
        entries(&sealed_of(&[], &[&[("f", &short)], &[("f", &long)], &[]])),
        6
    );
    // Neither does it say that a file was removed, nor that one is there.
    assert_eq!(entries(&sealed_of(&[&[("f", &long)]], &[&[]])), 6);
    assert!(sealed_of(&[&[]], &[&[("f", &long)]]).is_empty());
    // A damaged copy is worth less than one that is short.
    let mut damaged = file(1, 5);
    damaged.segment_mut(OPEN).unwrap().lose();
    assert_eq!(entries(&sealed_of(&[&[("f", &damaged)]], &[&[("f", &short)]])), 2);
}

/// A copy of a file whose entries of five bytes were put into parts of so many; trimmed to `base`.
fn parts(counts: &[u64], base: u64) -> File {
    let mut file = File::new(1);
    for (part, count) in counts.iter().enumerate() {
        for _ in 0..*count {
            let id = OPEN.with_part(part as u32);
            let have = file.streams.get(&CLIENT).copied().unwrap_or_default();
            let entry = file.next_append(id, CLIENT, have.epoch, have.length, b"line\n", 0);
            file.apply(id, entry);
        }
    }
    let next = file.position(OPEN).0;
    file.trim(base, OPEN.with_part(next));
    file
}

#[test]
fn who_is_in_an_earlier_part_is_the_shorter_one() {
    // More entries, in an earlier part.
    let (short, long) = (parts(&[4, 3], 0), parts(&[4, 6, 1], 0));
    for copies in [[&short, &long], [&long, &short]] {
        let all = sealed(&[&[("f", copies[0])], &[("f", copies[1])]]);
        assert_eq!(all[&name("f")].length(), 35);
        // If nothing is sure, it is the one that has more.
        let all = sealed_of(&[], &[&[("f", copies[0])], &[("f", copies[1])]]);
        assert_eq!(all[&name("f")].length(), 55);
    }
    // What was closed and is damaged still says how long it was, what was open does not.
    let mut damaged = long.clone();
    damaged.segments[1].lose();
    let all = sealed(&[&[("f", &damaged)], &[("f", &long)]]);
    let f = &all[&name("f")];
    assert_eq!((f.length(), f.misses()), (55, false));
}

#[test]
fn the_highest_base_is_kept_and_nothing_below_it() {
    // The longer one has a trim that the shorter one has not got, and has dropped what lies below.
    let (short, long) = (parts(&[4, 3], 0), parts(&[4, 6, 1], 25));
    assert_eq!((long.dropped.bytes, long.segments.len()), (20, 2));
    let all = sealed(&[&[("f", &long)], &[("f", &short)]]);
    let f = &all[&name("f")];
    assert_eq!((f.base, f.dropped.bytes, f.length()), (25, 20, 35));
    for copy in [&long, &short] {
        let mut copy = (*copy).clone();
        copy.install(f);
        assert!(!copy.misses() && copy.length() == 35 && copy.dropped == f.dropped);
    }
    // Also if all of it that is left is a part that the other has not opened.
    let (short, long) = (parts(&[4], 0), parts(&[4, 1], 20));
    let all = sealed(&[&[("f", &long)], &[("f", &short)]]);
    let f = &all[&name("f")];
    assert_eq!((f.base, f.length(), f.segments.len()), (20, 20, 0));
    // Where all may have lost their newest, a base may lie behind what is left.
    let mut lost = parts(&[4], 0);
    lost.base = 99;
    let all = sealed_of(&[], &[&[("f", &lost)]]);
    assert_eq!((all[&name("f")].base, all[&name("f")].length()), (20, 20));
}
