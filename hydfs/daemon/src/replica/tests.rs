//! A few nodes with perfect connections: what a request does, step by step.

mod short;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use common::clock::Time;
use common::ids::Epoch;

use super::{Answer, Effect, Input, RangeState, Refused, Replica, Request};
use crate::store::mem::MemStore;
use crate::store::{self, Store};
use hydfs::content::{ClientId, FileName, SegmentId};
use hydfs::ring::Ring;
use hydfs::view::{Incarnation, NodeIx, View};

mod trims;

const A: ClientId = ClientId(1);

struct Group {
    nodes: Vec<Option<Replica<MemStore>>>,
    now: Time,
    replies: Vec<(u64, Result<Answer, Refused>)>,
    /// Messages carried.
    messages: usize,
    repairs: Vec<(NodeIx, Effect)>,
    /// Nothing gets there.
    deaf: BTreeSet<usize>,
}

impl Group {
    fn new(n: usize) -> Self {
        let names: Vec<String> = (0..n).map(|i| format!("n{i}")).collect();
        let ring = Ring::new(names.iter().map(String::as_str), 3);
        let node = |i| {
            Replica::new(
                NodeIx(i as u16),
                ring.clone(),
                MemStore::default(),
                Incarnation(5),
                Time::ZERO,
            )
            .unwrap()
        };
        let nodes = (0..n).map(|i| Some(node(i))).collect();
        let mut group = Self {
            nodes,
            now: Time::ZERO,
            replies: Vec::new(),
            messages: 0,
            repairs: Vec::new(),
            deaf: BTreeSet::new(),
        };
        for a in 0..n {
            for b in (0..n).filter(|b| *b != a) {
                group.input(
                    a,
                    Input::PeerUp {
                        node: NodeIx(b as u16),
                    },
                );
            }
        }
        group.run();
        group
    }

    fn input(&mut self, node: usize, input: Input) {
        let mut inputs = VecDeque::from([(node, input)]);
        while let Some((node, input)) = inputs.pop_front() {
            let Some(replica) = &mut self.nodes[node] else {
                continue;
            };
            let mut out = Vec::new();
            replica.handle(self.now, input, &mut out);
            replica.flush(self.now, &mut out);
            for effect in out {
                match effect {
                    Effect::Send { to, message } => {
                        self.messages += 1;
                        if self.deaf.contains(&(to.0 as usize)) {
                            continue;
                        }
                        inputs.push_back((
                            to.0 as usize,
                            Input::Peer {
                                from: NodeIx(node as u16),
                                message,
                            },
                        ));
                    }
                    Effect::Reply { conn: _, id, result } => self.replies.push((id, result)),
                    Effect::Broken { error } => panic!("node {node} broke: {error}"),
                    repair @ Effect::Repair { .. } => self.repairs.push((NodeIx(node as u16), repair)),
                    Effect::ViewChanged
                    | Effect::RangeChanged { .. }
                    | Effect::Committed { .. }
                    | Effect::Dropped { .. } => {}
                }
            }
        }
    }

    fn run(&mut self) {
        for _ in 0..3 {
            self.now = self.now + Duration::from_millis(1100);
            (0..self.nodes.len()).for_each(|node| self.input(node, Input::Tick));
        }
    }

    fn up(&self) -> impl Iterator<Item = &Replica<MemStore>> {
        self.nodes.iter().flatten()
    }

    fn coordinator(&self, file: &str) -> usize {
        let any = self.up().next().unwrap();
        any.coordinator_of(any.range_of(&name(file))).unwrap().0 as usize
    }

    /// Asks the coordinator; the answer, if it came at once.
    fn ask(&mut self, request: Request) -> Option<Result<Answer, Refused>> {
        let node = self.coordinator(request.file().unwrap().as_str());
        let before = self.replies.len();
        self.input(
            node,
            Input::Client {
                conn: 1,
                id: 1,
                request,
            },
        );
        self.replies.drain(before..).next().map(|(_, result)| result)
    }

    fn kill(&mut self, node: usize) {
        self.nodes[node] = None;
        for other in 0..self.nodes.len() {
            self.input(
                other,
                Input::PeerDown {
                    node: NodeIx(node as u16),
                },
            );
            self.input(
                other,
                Input::Suspect {
                    node: NodeIx(node as u16),
                },
            );
        }
    }
}

fn name(name: &str) -> FileName {
    FileName::new(name).unwrap()
}

fn create(file: &str, nonce: u64) -> Request {
    Request::Create {
        file: name(file),
        nonce,
    }
}

fn stat(of: Option<u64>) -> Request {
    Request::Stat { file: name("f"), of }
}

fn fence(epoch: u64, nonce: u64) -> Request {
    Request::Fence {
        file: name("f"),
        of: None,
        client: A,
        epoch: Epoch(epoch),
        nonce,
        create: true,
    }
}

fn append(epoch: u64, offset: u64, payload: &'static str) -> Request {
    let (file, payload) = (name("f"), Bytes::from_static(payload.as_bytes()));
    Request::Append {
        file,
        client: A,
        epoch: Epoch(epoch),
        nonce: epoch,
        offset,
        payload,
    }
}

fn fenced(length: u64) -> Option<Result<Answer, Refused>> {
    Some(Ok(Answer::Fenced { length, base: 0 }))
}

fn appended(length: u64) -> Option<Result<Answer, Refused>> {
    Some(Ok(Answer::Appended { length }))
}

fn refused(why: Refused) -> Option<Result<Answer, Refused>> {
    Some(Err(why))
}

#[test]
fn repeats_are_answered_again_and_what_does_not_fit_is_refused() {
    let mut g = Group::new(3);
    assert_eq!(g.ask(append(1, 0, "x")), refused(Refused::NoSuchFile));
    assert_eq!(g.ask(fence(1, 1)), fenced(0));
    assert_eq!(g.ask(append(2, 0, "x")), refused(Refused::NotFenced));
    for _ in 0..2 {
        assert_eq!(g.ask(append(1, 0, "one\n")), appended(4));
    }
    assert_eq!(g.ask(append(1, 9, "x")), refused(Refused::Gap { have: 4 }));
    assert_eq!(g.ask(append(1, 0, "not\n")), refused(Refused::Conflict));
    // A longer retry is trimmed.
    assert_eq!(g.ask(append(1, 0, "one\ntwo\n")), appended(8));
    assert_eq!(g.ask(fence(1, 1)), fenced(8));
    assert_eq!(
        g.ask(fence(1, 2)),
        refused(Refused::FencedOff { epoch: Epoch(1) })
    );
    assert_eq!(g.ask(fence(2, 2)), fenced(8));
    assert_eq!(
        g.ask(append(1, 8, "zombie\n")),
        refused(Refused::FencedOff { epoch: Epoch(2) })
    );
    assert_eq!(g.ask(create("f", 1)), Some(Ok(Answer::Created)));
    assert_eq!(g.ask(create("f", 77)), refused(Refused::Exists));
    let Some(Ok(Answer::Stat(info))) = g.ask(stat(None)) else {
        panic!("no answer")
    };
    assert_eq!(
        (info.length, info.newlines, info.nonce, info.replicas.len()),
        (8, 2, 1, 3)
    );
    for replica in g.up() {
        let known = replica.committed(&name("f")).unwrap();
        assert_eq!((known.length, known.current), (8, true));
        assert_eq!(replica.backlog_bytes(), 0);
    }
    let remove = |nonce| Request::Remove {
        file: name("f"),
        nonce,
    };
    assert_eq!(g.ask(remove(77)), refused(Refused::NoSuchFile));
    assert_eq!(g.ask(remove(1)), Some(Ok(Answer::Removed)));
    assert_eq!(g.ask(stat(None)), refused(Refused::NoSuchFile));
    assert!(g.up().all(|r| r.committed(&name("f")).is_none()));
    // A retry of the removal that comes late does not remove what was made in the meantime.
    assert_eq!(g.ask(create("f", 2)), Some(Ok(Answer::Created)));
    assert_eq!(g.ask(remove(1)), refused(Refused::NoSuchFile));
    assert!(g.up().all(|r| r.committed(&name("f")).is_some()));
    // Nor does who asks for the first file, or wants to write it, get the second.
    assert_eq!(g.ask(stat(Some(1))), refused(Refused::Replaced));
    assert!(matches!(g.ask(stat(Some(2))), Some(Ok(Answer::Stat(_)))));
    let fence_in = |of| Request::Fence {
        file: name("f"),
        of: Some(of),
        client: A,
        epoch: Epoch(9),
        nonce: 9,
        create: false,
    };
    assert_eq!(g.ask(fence_in(1)), refused(Refused::Replaced));
    assert_eq!(g.ask(fence_in(2)), fenced(0));
}

#[test]
fn nodes_that_do_not_coordinate_say_who_does() {
    let mut g = Group::new(3);
    let coordinator = g.coordinator("f");
    let other = (coordinator + 1) % 3;
    g.input(
        other,
        Input::Client {
            conn: 1,
            id: 9,
            request: create("f", 1),
        },
    );
    let coordinator = Some(NodeIx(coordinator as u16));
    assert_eq!(g.replies, [(9, Err(Refused::NotCoordinator { coordinator }))]);
}

#[test]
fn a_minority_refuses_and_still_knows_what_was_committed() {
    let mut g = Group::new(3);
    assert_eq!(g.ask(fence(1, 1)), fenced(0));
    assert_eq!(g.ask(append(1, 0, "kept\n")), appended(5));
    let coordinator = g.coordinator("f");
    let others: Vec<usize> = (0..3).filter(|n| *n != coordinator).collect();
    g.kill(others[0]);
    assert_eq!(g.ask(append(1, 5, "two\n")), appended(9));
    g.kill(others[1]);
    assert!(matches!(
        g.ask(append(1, 9, "alone\n")),
        Some(Err(Refused::Unavailable { .. }))
    ));
    let known = g.nodes[coordinator]
        .as_ref()
        .unwrap()
        .committed(&name("f"))
        .unwrap();
    assert_eq!((known.length, known.current), (9, false));
}

#[test]
fn a_full_disk_stops_acknowledging_and_goes_on_when_there_is_room() {
    let mut g = Group::new(3);
    assert_eq!(g.ask(fence(1, 1)), fenced(0));
    let coordinator = g.coordinator("f");
    let member = (coordinator + 1) % 3;
    let full = |g: &mut Group, node: usize, full| g.nodes[node].as_mut().unwrap().store_mut().full = full;

    full(&mut g, coordinator, true);
    let node = NodeIx(coordinator as u16);
    assert_eq!(g.ask(append(1, 0, "one\n")), refused(Refused::Full { node }));
    full(&mut g, coordinator, false);
    full(&mut g, member, true);
    let node = NodeIx(member as u16);
    for _ in 0..2 {
        assert_eq!(g.ask(append(1, 0, "one\n")), refused(Refused::Full { node }));
    }
    g.run();
    assert_eq!(
        g.nodes[coordinator]
            .as_ref()
            .unwrap()
            .committed(&name("f"))
            .unwrap()
            .length,
        0
    );
    full(&mut g, member, false);
    g.run();
    assert_eq!(g.ask(append(1, 0, "one\n")), appended(4));
    assert!(g.up().all(|r| r.committed(&name("f")).unwrap().length == 4));
}

#[test]
fn taking_over_ten_thousand_files_takes_few_messages_and_one_pass() {
    const FILES: usize = 10_000;
    let mut g = Group::new(4);
    for i in 0..FILES {
        assert_eq!(g.ask(create(&format!("dir/{i}"), 1)), Some(Ok(Answer::Created)));
    }
    g.messages = 0;
    let began = common::clock::now();
    g.kill(0);
    let took = common::clock::now().since(began);
    println!("{took:?}, {} messages", g.messages);
    // Four ranges among three nodes: what they say does not grow with the files.
    assert!(g.messages < 200, "{} messages", g.messages);
    // With room for a slow machine; it takes a small part of this.
    assert!(took < Duration::from_secs(3), "{took:?}");
    for i in (0..FILES).step_by(997) {
        assert_eq!(g.ask(create(&format!("dir/{i}"), 1)), Some(Ok(Answer::Created)));
    }
    let held: usize = g
        .up()
        .map(|r| {
            r.ring()
                .ranges()
                .map(|range| r.store().files(range).count())
                .sum::<usize>()
        })
        .sum();
    assert_eq!(held, 3 * FILES);
}

#[test]
fn a_member_that_misses_a_segment_is_told_where_to_get_it() {
    let mut g = Group::new(4);
    assert_eq!(g.ask(fence(1, 1)), fenced(0));
    assert_eq!(g.ask(append(1, 0, "bytes\n")), appended(6));
    let old = g
        .up()
        .next()
        .unwrap()
        .replicas_of(g.up().next().unwrap().range_of(&name("f")))
        .to_vec();
    g.kill(old[1].0 as usize);
    let (
        at,
        Effect::Repair {
            file,
            segment,
            from,
            range,
            ..
        },
    ) = g.repairs.pop().unwrap()
    else {
        panic!("no repair")
    };
    assert_eq!((file.as_str(), segment.bytes, segment.entries), ("f", 6, 2));
    assert!(!old.contains(&at) && from[..2].iter().all(|n| [old[0], old[2]].contains(n)));
    let coordinator = g.coordinator("f");
    let state = |g: &Group| g.nodes[coordinator].as_ref().unwrap().state_of(range).unwrap();
    assert_eq!(state(&g), RangeState::Active { repairing: vec![at] });
    let source = g.nodes[from[0].0 as usize].as_ref().unwrap().store();
    let entries = source
        .file(range, &file)
        .unwrap()
        .segment(segment.id)
        .unwrap()
        .index
        .clone();
    let bytes = source.read(range, &file, segment.id, 0, segment.bytes).unwrap();
    let store = g.nodes[at.0 as usize].as_mut().unwrap().store_mut();
    let put = store
        .put_segment(range, &file, segment.id, 0, &entries, &bytes)
        .unwrap();
    assert_eq!(put, store::Put::Done);
    g.input(at.0 as usize, Input::Repaired { range, file, segment });
    assert_eq!(
        state(&g),
        RangeState::Active {
            repairing: Vec::new()
        }
    );
}

/// The pieces of a connection that ended are lost: a coordinator gets what it waits for when the peer has a connection to it again.
#[test]
fn a_restarted_coordinator_need_not_wait_for_a_timeout() {
    let mut g = Group::new(3);
    assert_eq!(g.ask(fence(1, 1)), fenced(0));
    let c = g.coordinator("f");
    let store = g.nodes[c].take().unwrap().into_store();
    let ring = g.up().next().unwrap().ring().clone();
    let node = Replica::new(NodeIx(c as u16), ring, store, Incarnation(50), g.now).unwrap();
    g.nodes[c] = Some(node);
    // It dials first; the others have no connection to it yet.
    let others: Vec<usize> = (0..3).filter(|n| *n != c).collect();
    g.deaf.insert(c);
    for other in &others {
        g.input(
            c,
            Input::PeerUp {
                node: NodeIx(*other as u16),
            },
        );
    }
    assert_eq!(g.ask(append(1, 0, "x")).map(|r| r.is_err()), Some(true));
    g.deaf.clear();
    for other in &others {
        g.input(
            *other,
            Input::PeerUp {
                node: NodeIx(c as u16),
            },
        );
    }
    assert_eq!(g.ask(append(1, 0, "x")), appended(1), "without a tick");
}

#[test]
fn a_member_whose_open_segment_is_damaged_takes_nothing_more_before_it_is_sealed() {
    let mut g = Group::new(5);
    assert_eq!(g.ask(fence(1, 1)), fenced(0));
    assert_eq!(g.ask(append(1, 0, "one\n")), appended(4));
    let range = g.up().next().unwrap().range_of(&name("f"));
    let members = g.up().next().unwrap().replicas_of(range).to_vec();
    let segment = SegmentId::of(g.up().next().unwrap().view());
    for member in [members[1], members[0]] {
        let node = member.0 as usize;
        let before = g.nodes[node].as_ref().unwrap().view().clone();
        let open = SegmentId::of(&before);
        assert_eq!(g.ask(append(1, 4, "two\n")), appended(8));
        g.input(
            node,
            Input::Damaged {
                range,
                file: name("f"),
                segment: open,
            },
        );
        let replica = g.nodes[node].as_ref().unwrap();
        assert!(
            replica.view().failed_since(member, before.incarnation(member))
                && replica.view().is_alive(member)
        );
        assert!(replica.missing() > 0, "what is damaged is wanted");
        assert_eq!(g.ask(append(1, 8, "three\n")), appended(14));
        let file = g.nodes[node]
            .as_ref()
            .unwrap()
            .store()
            .file(range, &name("f"))
            .unwrap();
        assert!(file.segment(open).unwrap().sealed);
        assert!(!file.segments.last().unwrap().missing);
        if node == members[0].0 as usize {
            break;
        }
        assert_ne!(segment, SegmentId::of(replica_view(&g)));
        assert_eq!(g.ask(append(1, 0, "one\ntwo\nthree\n")), appended(14));
        // Once more, with the coordinator.
        g = Group::new(5);
        assert_eq!(g.ask(fence(1, 1)), fenced(0));
        assert_eq!(g.ask(append(1, 0, "one\n")), appended(4));
    }
}

fn replica_view(g: &Group) -> &View {
    g.up().next().unwrap().view()
}

#[test]
fn a_coordinator_seals_only_what_it_knows_to_be_committed() {
    let mut g = Group::new(5);
    assert_eq!(g.ask(fence(1, 1)), fenced(0));
    assert_eq!(g.ask(append(1, 0, "kept\n")), appended(5));
    let c = g.coordinator("f");
    let range = g.up().next().unwrap().range_of(&name("f"));
    let open = SegmentId::of(replica_view(&g));
    let members = g.up().next().unwrap().replicas_of(range).to_vec();
    // The other members hear nothing of this one.
    g.deaf.extend(members[1..].iter().map(|n| n.0 as usize));
    assert_eq!(g.ask(append(1, 5, "alone\n")), None);
    for far in &members[1..] {
        g.input(c, Input::Suspect { node: *far });
    }
    g.run();
    let file = g.nodes[c]
        .as_ref()
        .unwrap()
        .store()
        .file(range, &name("f"))
        .unwrap();
    assert_eq!(file.segment(open).unwrap().bytes, 5);
    assert_eq!(g.ask(append(1, 5, "again\n")), appended(11));
}

/// What a member says does not get to its coordinator: the set goes on without it, and it comes back when it is connected again.
#[test]
fn a_node_that_another_does_not_hear_stays_away_until_it_is_heard() {
    let mut g = Group::new(5);
    assert_eq!(g.ask(fence(1, 1)), fenced(0));
    let coordinator = g.coordinator("f");
    let member = g
        .up()
        .next()
        .unwrap()
        .replicas_of(g.up().next().unwrap().range_of(&name("f")))[1];
    let (from, to) = (member.0 as usize, NodeIx(coordinator as u16));
    g.input(from, Input::PeerDown { node: to });
    g.input(coordinator, Input::Suspect { node: member });
    g.run();
    assert!(g.up().all(|replica| !replica.view().is_alive(member)));
    assert_eq!(g.ask(append(1, 0, "x")), appended(1));
    // It has no say meanwhile.
    g.input(from, Input::Suspect { node: to });
    g.run();
    assert!(g.up().all(|replica| replica.view().is_alive(to)));
    g.input(from, Input::PeerUp { node: to });
    g.run();
    assert!(g.up().all(|replica| replica.view().is_alive(member)));
    assert_eq!(g.ask(append(1, 1, "x")), appended(2));
}
