//! A node whose disk has little room left: what is refused, and what goes on.

use super::*;

#[test]
fn users_make_no_new_files_where_a_replica_is_short_of_room_and_all_else_goes_on() {
    let mut g = Group::new(3);
    let created = Some(Ok(Answer::Created));
    assert_eq!(g.ask(create("f", 1)), created);
    // One that does not coordinate the file tells it to the one that does.
    let short = (g.coordinator("f") + 1) % 3;
    let refused = Some(Err(Refused::Short {
        node: NodeIx(short as u16),
    }));
    g.input(short, Input::Short(true));
    for file in ["a", "b", "c", "d"] {
        assert_eq!(g.ask(create(file, 1)), refused, "{file}");
    }
    // What was done before, what a job needs to go on, and what makes room.
    assert_eq!(g.ask(create("f", 1)), created);
    assert_eq!(g.ask(create("f", 2)), Some(Err(Refused::Exists)));
    assert!(matches!(g.ask(fence(1, 1)), Some(Ok(Answer::Fenced { .. }))));
    assert_eq!(g.ask(create("jobs/j/s1t0.log", 1)), created);
    assert_eq!(g.ask(create("out.poison", 1)), created);
    let file = name("f");
    assert_eq!(
        g.ask(Request::Remove { file, nonce: 1 }),
        Some(Ok(Answer::Removed))
    );
    g.input(short, Input::Short(false));
    assert_eq!(g.ask(create("a", 1)), created);
}

#[test]
fn who_connects_anew_is_told_again_and_who_is_gone_counts_no_more() {
    let mut g = Group::new(3);
    let leader = g.coordinator("f");
    let short = (leader + 1) % 3;
    let at = |node: usize| NodeIx(node as u16);
    g.input(short, Input::Short(true));
    g.input(leader, Input::PeerDown { node: at(short) });
    assert!(!g.nodes[leader].as_ref().unwrap().short.contains(&at(short)));
    g.input(short, Input::PeerUp { node: at(leader) });
    assert_eq!(
        g.ask(create("f", 1)),
        Some(Err(Refused::Short { node: at(short) }))
    );
}
