//! What can be changed while the group runs: the protocol, suspicion, numbers; and what gossip and local health do then.

use super::*;

fn change(m: &mut Members, key: &str, value: &str) -> Vec<Effect> {
    m.change(NOW, &[(key.into(), value.into())]).unwrap()
}

fn configurations(effects: &[Effect]) -> Vec<(&str, u64)> {
    let with = sent(effects)
        .into_iter()
        .filter_map(|(to, m)| Some((to, m.configuration.as_ref()?.version)));
    with.collect()
}

#[test]
fn a_change_is_told_at_once_and_whoever_shows_an_older_stamp_is_told() {
    let mut m = members();
    hear_of(&mut m, &["a", "b", "c"]);
    let effects = change(&mut m, "protocol", "gossip");
    assert!(
        effects
            .iter()
            .any(|e| matches!(e, Effect::Configured { configuration, .. } if configuration.version == 1))
    );
    assert_eq!(configurations(&effects).len(), 3, "to three others at once");
    assert!(
        change(&mut m, "protocol", "gossip").is_empty(),
        "what is so already is no change"
    );
    // Long after it was news.
    for seq in 0..40 {
        m.handle(NOW, tell("a", Body::Ping { seq }, vec![]));
    }
    let effects = m.handle(NOW, tell("b", Body::Tell, vec![]));
    assert_eq!(configurations(&effects), [("b", 1)], "it has none");
    let stamped = |m: &mut Members, stamp: Option<settings::Stamp>| {
        let mut input = tell("b", Body::Tell, vec![]);
        if let Input::Datagram { message, .. } = &mut input {
            message.stamp = stamp;
        }
        m.handle(NOW, input)
    };
    let ours = m.shared_configuration().unwrap().stamp();
    assert!(stamped(&mut m, Some(ours)).is_empty(), "the same");
    let newer = settings::Stamp { version: 2, ..ours };
    let effects = stamped(&mut m, Some(newer));
    assert_eq!(sent(&effects).len(), 1, "our stamp asks for it");
    assert_eq!(configurations(&effects), [], "and ours is of no use");
    let other = settings::Stamp {
        digest: ours.digest ^ 1,
        ..ours
    };
    assert_eq!(
        configurations(&stamped(&mut m, Some(other))),
        [("b", 1)],
        "a tie: both must see both"
    );
}

#[test]
fn the_greater_configuration_wins_and_impossible_ones_are_refused() {
    let mut m = members();
    let hear = |m: &mut Members, version, by: &str, change: &dyn Fn(&mut settings::Settings)| {
        let mut settings = settings::Settings::from(&Membership::default());
        change(&mut settings);
        let mut input = tell("a", Body::Tell, vec![]);
        if let Input::Datagram { message, .. } = &mut input {
            message.configuration = Some(Configuration {
                version,
                by: name(by),
                settings,
            });
        }
        let effects = m.handle(NOW, input);
        let refused = effects.iter().any(|e| matches!(e, Effect::Refused { .. }));
        (
            m.configuration().version,
            m.configuration().by.to_string(),
            refused,
        )
    };
    let is = |version: u64, by: &str, refused: bool| (version, by.to_owned(), refused);
    assert_eq!(
        hear(&mut m, 0, "b", &|s| s.fanout = 9),
        is(0, "me", false),
        "a cluster file's"
    );
    assert_eq!(hear(&mut m, 2, "b", &|_| ()), is(2, "b", false));
    assert_eq!(hear(&mut m, 1, "c", &|_| ()), is(2, "b", false));
    assert_eq!(hear(&mut m, 2, "a", &|_| ()), is(2, "b", false));
    assert_eq!(hear(&mut m, 2, "c", &|_| ()), is(2, "c", false));
    assert_eq!(hear(&mut m, 3, "b", &|s| s.period_ms = 0), is(2, "c", true));
    assert_eq!(hear(&mut m, 3, "b", &|s| s.fail_ms = 1), is(2, "c", true));
    assert_eq!(hear(&mut m, u64::MAX, "b", &|_| ()), is(2, "c", true));
}

#[test]
fn heartbeats_keep_a_member_and_their_end_accuses_it() {
    let mut m = members();
    change(&mut m, "protocol", "gossip");
    hear_of(&mut m, &["a", "b"]);
    let mut suspect = std::collections::BTreeMap::new();
    let mut beats_sent = 0;
    while m.next_deadline() < NOW + Duration::from_secs(4) {
        let now = m.next_deadline();
        // b's number is passed on by a for two seconds, and then stays the same.
        let b = now.min(NOW + Duration::from_secs(2)).0;
        let beats = vec![(name("a"), now.0), (name("b"), b), (name("stranger"), now.0)];
        let mut effects = m.handle(now, tell("a", Body::Beats { base: 0, beats }, vec![]));
        effects.extend(m.handle(now, Input::Tick));
        for (_, message) in sent(&effects) {
            assert!(
                !matches!(message.body, Body::Ping { .. }) || message.to == name("c"),
                "only the absent are pinged"
            );
            beats_sent +=
                matches!(&message.body, Body::Beats { beats, .. } if beats[0].0 == name("me")) as u32;
        }
        for (who, _, state) in changed(&effects) {
            suspect
                .entry((who.to_owned(), state))
                .or_insert(now.since(NOW).as_millis());
        }
    }
    assert!(beats_sent >= 2 * 15, "{beats_sent}");
    let at = |who: &str, state| suspect.get(&(who.to_owned(), state)).copied();
    assert_eq!(at("a", State::Suspect), None);
    let b = at("b", State::Suspect).expect("b is accused");
    assert!((2900..3200).contains(&b), "{b}");
    assert_eq!(at("b", State::Failed), None, "it may still refute");
}

#[test]
fn without_suspicion_the_accused_has_failed() {
    let mut m = members();
    change(&mut m, "suspicion", "disabled");
    m.handle(
        NOW,
        Input::Table {
            from: name("a"),
            facts: vec![fact("a", 1, State::Alive), fact("b", 1, State::Alive)],
            configuration: None,
        },
    );
    let effects = m.handle(NOW, tell("a", Body::Tell, vec![fact("b", 1, State::Failed)]));
    assert_eq!(
        changed(&effects),
        [("b", 1, State::Failed)],
        "others' word is enough"
    );
    let effects = run_until(&mut m, NOW + Duration::from_secs(1));
    let states: Vec<_> = effects
        .iter()
        .flat_map(|(_, e)| {
            changed(std::slice::from_ref(e))
                .into_iter()
                .map(|c| c.2)
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(states, [State::Failed], "a, which does not answer, at once");
}

#[test]
fn silent_helpers_make_a_prober_doubt_itself_and_nacks_do_not() {
    for (nacks, health) in [(true, 0), (false, 1)] {
        let mut m = members();
        hear_of(&mut m, &["a", "b"]);
        let mut probed = None;
        while m.counts().accusations == 0 {
            let now = m.next_deadline();
            assert!(now < NOW + Duration::from_secs(3));
            let effects = m.handle(now, Input::Tick);
            for (to, message) in sent(&effects) {
                match &message.body {
                    Body::Ping { .. } if to != "c" => probed = probed.or(Some(to.to_owned())),
                    Body::PingReq { seq, .. } if nacks => {
                        m.handle(now, tell(to, Body::Nack { seq: *seq }, vec![]));
                    }
                    _ => {}
                }
            }
        }
        assert!(probed.is_some());
        assert_eq!(m.counts().health.min(1), health, "nacks: {nacks}");
    }
}
