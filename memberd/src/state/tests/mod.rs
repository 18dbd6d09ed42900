//! One node against a script, input by input.

use common::cluster::Membership;
use rand::SeedableRng;

use super::*;
use crate::wire::Body;

mod configuration;

const NOW: Time = Time(5_000_000);

fn name(n: &str) -> NodeName {
    NodeName::new(n).unwrap()
}

fn fact(n: &str, incarnation: u64, state: State) -> Fact {
    Fact {
        name: name(n),
        incarnation,
        state,
    }
}

fn members() -> Members {
    let config = Config {
        me: name("me"),
        others: ["a", "b", "c"].map(name).into(),
        incarnation: 100,
        settings: (&Membership::default()).into(),
    };
    Members::new(NOW, config, StdRng::seed_from_u64(1))
}

/// `a` tells that these are alive.
fn hear_of(m: &mut Members, names: &[&str]) {
    let table = Input::Table {
        from: name("a"),
        facts: names.iter().map(|n| fact(n, 1, State::Alive)).collect(),
        configuration: None,
    };
    m.handle(NOW, table);
}

fn tell(from: &str, body: Body, facts: Vec<Fact>) -> Input {
    Input::Datagram {
        from: name(from),
        message: Message {
            to: name("me"),
            body,
            facts,
            stamp: None,
            configuration: None,
        },
    }
}

fn sent(effects: &[Effect]) -> Vec<(&str, &Message)> {
    let sends = effects.iter().filter_map(|e| match e {
        Effect::Send { to, message } => Some((to.as_str(), message)),
        _ => None,
    });
    sends.collect()
}

fn changed(effects: &[Effect]) -> Vec<(&str, u64, State)> {
    let changes = effects.iter().filter_map(|e| match e {
        Effect::Changed { fact, .. } => Some((fact.name.as_str(), fact.incarnation, fact.state)),
        _ => None,
    });
    changes.collect()
}

/// Ticks at each deadline until `end`, and returns all effects with their times.
fn run_until(members: &mut Members, end: Time) -> Vec<(Time, Effect)> {
    let mut all = Vec::new();
    while members.next_deadline() <= end {
        let now = members.next_deadline();
        all.extend(members.handle(now, Input::Tick).into_iter().map(|e| (now, e)));
    }
    all
}

#[test]
fn a_ping_is_acknowledged_with_news_and_with_what_is_thought_of_the_asker() {
    let mut m = members();
    m.handle(
        NOW,
        tell(
            "b",
            Body::Tell,
            vec![fact("b", 7, State::Alive), fact("a", 3, State::Failed)],
        ),
    );
    let effects = m.handle(
        NOW,
        tell("a", Body::Ping { seq: 9 }, vec![fact("a", 2, State::Alive)]),
    );
    let sends = sent(&effects);
    let (to, message) = sends[0];
    assert_eq!(
        (to, &message.body),
        (
            "a",
            &Body::Ack {
                seq: 9,
                about: name("me")
            }
        )
    );
    assert_eq!(message.facts[0], fact("me", 100, State::Alive));
    assert_eq!(
        message.facts[1],
        fact("a", 3, State::Failed),
        "so that it can object"
    );
    assert_eq!(message.facts[2], fact("b", 7, State::Alive));
}

#[test]
fn a_suspected_node_refutes_by_raising_its_incarnation_once() {
    for (state, heard, now_at) in [
        (State::Suspect, 100, 101),
        (State::Failed, 100, 101),
        (State::Left, 100, 101),
        (State::Alive, 250, 251), // a former process of ours, with a clock ahead
        (State::Alive, 100, 100),
        (State::Failed, 99, 100),
    ] {
        let mut m = members();
        m.handle(NOW, tell("a", Body::Tell, vec![fact("a", 1, State::Alive)]));
        let slander = tell("a", Body::Tell, vec![fact("me", heard, state)]);
        let effects = m.handle(NOW, slander.clone());
        assert_eq!(m.incarnation(), now_at, "{state} {heard}");
        assert_eq!(
            sent(&effects).iter().any(|(to, _)| *to == "a"),
            now_at != 100,
            "told at once"
        );
        m.handle(NOW, slander);
        assert_eq!(m.incarnation(), now_at, "the same again is answered already");
    }
}

#[test]
fn silence_leads_to_indirect_probes_then_suspicion_then_failure() {
    let mut m = members();
    hear_of(&mut m, &["a", "b", "c"]);
    let effects = run_until(&mut m, NOW + Duration::from_millis(1600));
    let first = |what: &dyn Fn(&Effect) -> bool| {
        effects
            .iter()
            .find(|(_, e)| what(e))
            .map(|(at, _)| at.since(NOW).as_millis())
    };
    let asked = |e: &Effect| matches!(e, Effect::Send { message, .. } if matches!(message.body, Body::PingReq { .. }));
    let becomes = |s: State| move |e: &Effect| matches!(e, Effect::Changed { fact, .. } if fact.state == s);
    assert_eq!(first(&asked), Some(100), "ping_timeout_ms");
    assert_eq!(
        first(&becomes(State::Suspect)),
        Some(300),
        "three times ping_timeout_ms"
    );
    assert_eq!(first(&becomes(State::Failed)), Some(1300), "and suspicion_ms");
}

#[test]
fn an_answer_direct_or_relayed_spares_the_target() {
    let mut m = members();
    m.handle(
        NOW,
        Input::Table {
            from: name("a"),
            facts: vec![fact("a", 1, State::Alive), fact("b", 1, State::Alive)],
            configuration: None,
        },
    );
    for step in 0..40 {
        let now = m.next_deadline();
        for effect in m.handle(now, Input::Tick) {
            match effect {
                Effect::Send { to, message } => match message.body {
                    Body::Ping { seq } if step % 2 == 0 => {
                        m.handle(
                            now,
                            tell(
                                to.as_str(),
                                Body::Ack {
                                    seq,
                                    about: to.clone(),
                                },
                                vec![],
                            ),
                        );
                    }
                    Body::PingReq { seq, target } => {
                        m.handle(now, tell(to.as_str(), Body::Ack { seq, about: target }, vec![]));
                    }
                    _ => {}
                },
                Effect::Changed { fact, .. } => panic!("{fact:?}"),
                _ => {}
            }
        }
    }
}

#[test]
fn an_answer_about_somebody_else_does_not_count() {
    let mut m = members();
    m.handle(
        NOW,
        Input::Table {
            from: name("a"),
            facts: vec![fact("a", 1, State::Alive)],
            configuration: None,
        },
    );
    let mut accused = false;
    for _ in 0..20 {
        let now = m.next_deadline();
        for effect in m.handle(now, Input::Tick) {
            match effect {
                Effect::Send {
                    message:
                        Message {
                            body: Body::Ping { seq },
                            ..
                        },
                    ..
                } => {
                    m.handle(
                        now,
                        tell(
                            "b",
                            Body::Ack {
                                seq,
                                about: name("b"),
                            },
                            vec![],
                        ),
                    );
                }
                Effect::Changed { fact, .. } => accused |= fact.state == State::Suspect,
                _ => {}
            }
        }
    }
    assert!(accused);
}

#[test]
fn a_request_is_relayed_and_only_the_targets_own_answer_goes_back() {
    let mut m = members();
    let effects = m.handle(
        NOW,
        tell(
            "a",
            Body::PingReq {
                seq: 5,
                target: name("c"),
            },
            vec![],
        ),
    );
    let ours = match &sent(&effects)[..] {
        [
            (
                "c",
                Message {
                    body: Body::Ping { seq },
                    ..
                },
            ),
        ] => *seq,
        other => panic!("{other:?}"),
    };
    let forged = m.handle(
        NOW,
        tell(
            "b",
            Body::Ack {
                seq: ours,
                about: name("c"),
            },
            vec![],
        ),
    );
    assert!(sent(&forged).is_empty());
    let effects = m.handle(
        NOW,
        tell(
            "c",
            Body::Ack {
                seq: ours,
                about: name("c"),
            },
            vec![],
        ),
    );
    let sends = sent(&effects);
    assert_eq!(
        (sends[0].0, &sends[0].1.body),
        (
            "a",
            &Body::Ack {
                seq: 5,
                about: name("c")
            }
        )
    );
    let unknown = m.handle(
        NOW,
        tell(
            "a",
            Body::PingReq {
                seq: 5,
                target: name("elsewhere"),
            },
            vec![],
        ),
    );
    assert!(
        sent(&unknown).is_empty(),
        "nobody outside of the cluster file is pinged"
    );
}

#[test]
fn strangers_own_names_and_misdirected_datagrams_are_refused_whole() {
    let poison = vec![fact("a", 1, State::Failed)];
    let mut wrong_receiver = tell("a", Body::Ping { seq: 1 }, poison.clone());
    if let Input::Datagram { message, .. } = &mut wrong_receiver {
        message.to = name("b");
    }
    for (input, refusal) in [
        (
            tell("stranger", Body::Ping { seq: 1 }, poison.clone()),
            Refusal::Stranger,
        ),
        (
            tell("me", Body::Ping { seq: 1 }, poison.clone()),
            Refusal::OwnName,
        ),
        (wrong_receiver, Refusal::Misdirected),
        (
            Input::Table {
                from: name("stranger"),
                facts: poison,
                configuration: None,
            },
            Refusal::Stranger,
        ),
    ] {
        let mut m = members();
        let effects = m.handle(NOW, input);
        assert!(
            matches!(&effects[..], [Effect::Refused { why, .. }] if *why == refusal),
            "{effects:?}"
        );
        assert_eq!(m.table().len(), 1);
    }
}

#[test]
fn facts_about_unknown_names_and_absurd_incarnations_are_skipped() {
    let mut m = members();
    let facts = vec![
        fact("elsewhere", 1, State::Alive),
        fact("a", MAX_INCARNATION + 1, State::Failed),
        fact("me", u64::MAX, State::Failed),
        fact("b", 1, State::Alive),
    ];
    let effects = m.handle(NOW, tell("b", Body::Tell, facts));
    assert_eq!(changed(&effects), [("b", 1, State::Alive)]);
    assert_eq!(m.incarnation(), 100);
}

#[test]
fn a_late_timer_accuses_nobody() {
    let mut m = members();
    m.handle(
        NOW,
        Input::Table {
            from: name("a"),
            facts: vec![fact("a", 1, State::Alive), fact("b", 1, State::Suspect)],
            configuration: None,
        },
    );
    m.handle(NOW, Input::Tick);
    let late = NOW + Duration::from_secs(10);
    let effects = m.handle(late, Input::Tick);
    assert!(effects.iter().any(|e| matches!(e, Effect::Stalled { .. })));
    assert_eq!(changed(&effects), []);
    // And in time again, it does.
    let effects = run_until(&mut m, late + Duration::from_secs(3));
    let failed = |n: &str| {
        effects.iter().any(|(_, e)| matches!(e, Effect::Changed { fact, .. } if fact.name.as_str() == n && fact.state == State::Failed))
    };
    assert!(failed("a") && failed("b"));
}

#[test]
fn leaving_tells_all_several_times_and_does_not_listen_to_objections() {
    let mut m = members();
    let mut effects = m.handle(NOW, Input::Leave);
    assert_eq!(changed(&effects), [("me", 100, State::Left)]);
    effects.extend(m.handle(NOW, tell("a", Body::Tell, vec![fact("me", 100, State::Suspect)])));
    let bound = NOW + Duration::from_secs(1);
    effects.extend(run_until(&mut m, bound).into_iter().map(|(_, e)| e));
    assert!(m.is_gone());
    assert_eq!(m.incarnation(), 100);
    for other in ["a", "b", "c"] {
        let goodbyes = sent(&effects)
            .iter()
            .filter(|(to, m)| *to == other && m.facts[0].state == State::Left)
            .count();
        assert!(goodbyes >= 4, "{other} heard {goodbyes}");
    }
}

#[test]
fn the_absent_are_called_again_and_again() {
    let mut m = members();
    m.handle(
        NOW,
        Input::Table {
            from: name("a"),
            facts: vec![fact("c", 1, State::Failed), fact("b", 1, State::Left)],
            configuration: None,
        },
    );
    let effects = run_until(&mut m, NOW + Duration::from_secs(30));
    let calls = |n: &str| {
        effects.iter().filter(|(_, e)| matches!(e, Effect::Send { to, message } if to.as_str() == n && matches!(message.body, Body::Ping { .. }))).count()
    };
    assert!(
        calls("a") >= 20 && calls("c") >= 20,
        "unknown {}, failed {}",
        calls("a"),
        calls("c")
    );
    assert_eq!(calls("b"), 0, "who has left comes back by itself");
}

#[test]
fn whoever_tells_old_stories_is_corrected() {
    let mut m = members();
    m.handle(
        NOW,
        tell(
            "a",
            Body::Tell,
            vec![fact("b", 7, State::Left), fact("c", 5, State::Alive)],
        ),
    );
    let corrects = |m: &mut Members, heard: Fact, what: &Fact| {
        let effects = m.handle(NOW, tell("a", Body::Tell, vec![heard]));
        let told = sent(&effects)
            .iter()
            .any(|(to, message)| *to == "a" && message.facts.contains(what));
        assert_eq!(changed(&effects), []);
        told
    };
    // Their news has been sent so often that it no longer goes along by itself.
    for seq in 0..20 {
        m.handle(NOW, tell("a", Body::Ping { seq }, vec![]));
    }
    assert!(corrects(
        &mut m,
        fact("b", 7, State::Failed),
        &fact("b", 7, State::Left)
    ));
    assert!(corrects(
        &mut m,
        fact("c", 4, State::Suspect),
        &fact("c", 5, State::Alive)
    ));
    assert!(
        !corrects(&mut m, fact("c", 5, State::Alive), &fact("c", 5, State::Alive)),
        "the same is no old story"
    );
}
