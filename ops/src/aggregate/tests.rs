//! Aggregates against naive ones, and stopped and restored against never stopped.

use std::collections::BTreeMap;

use proptest::prelude::*;
use protocol::batch::{Batch, Builder};

use crate::builtin::tests::{Collect, Tuples, op};
use crate::operator::Operator;

type Input = Vec<(String, String)>;

fn batch(tuples: &[(String, String)]) -> Batch {
    let mut b = Builder::new();
    tuples
        .iter()
        .for_each(|(k, v)| b.push(k.as_bytes(), v.as_bytes()));
    b.take()
}

fn feed(op: &mut dyn Operator, batches: &[Input]) -> Tuples {
    let mut out = Collect::default();
    batches
        .iter()
        .for_each(|b| op.process(&batch(b), &mut out).unwrap());
    out.text()
}

fn end(op: &mut dyn Operator) -> Tuples {
    let mut out = Collect::default();
    op.finish(&mut out).unwrap();
    out.text()
}

/// Batches of `<key, "x,number">`.
fn batches() -> impl Strategy<Value = Vec<Input>> {
    let number = prop_oneof![
        (-1000i32..1000).prop_map(i128::from),
        any::<i64>().prop_map(|n| i128::from(n) * 7)
    ];
    let tuple = ("[a-e]{0,2}", number).prop_map(|(k, n)| (k, format!("x,{n}")));
    proptest::collection::vec(proptest::collection::vec(tuple, 0..20), 0..8)
}

/// The running value of `name` over the numbers of one key, the slow way.
fn naive(name: &str, numbers: &[i128]) -> String {
    let (sum, count) = (numbers.iter().sum::<i128>(), numbers.len());
    match name {
        "count" => count.to_string(),
        "sum" => sum.to_string(),
        "avg" if sum % count as i128 == 0 => (sum / count as i128).to_string(),
        "avg" => {
            let mean = sum as f64 / count as f64;
            let many_digits = mean.abs() >= 1e16;
            if many_digits {
                format!("{mean:e}")
            } else {
                mean.to_string()
            }
        }
        "min" => numbers.iter().min().unwrap().to_string(),
        _ => numbers.iter().max().unwrap().to_string(),
    }
}

/// A snapshot file of which only the live part is kept.
#[derive(Default)]
struct SnapshotFile {
    live: Vec<Vec<u8>>,
    /// How many of `live` are from before the round under way.
    before: usize,
}

impl SnapshotFile {
    fn append(&mut self, op: &mut dyn Operator, rewrite: usize) {
        let mut delta = vec![];
        let ended = op.snapshot(rewrite, &mut delta);
        self.live.push(delta);
        if ended {
            self.live.drain(..self.before);
            self.before = self.live.len();
        }
    }
}

/// The keys of a `count`'s delta.
fn keys_in(mut delta: &[u8]) -> Vec<String> {
    let number = |b: &[u8]| u32::from_le_bytes(b[..4].try_into().unwrap()) as usize;
    let mut keys = vec![];
    if !delta.is_empty() {
        let n = number(&delta[2..]);
        delta = &delta[6..];
        for _ in 0..n {
            let length = number(delta);
            keys.push(String::from_utf8(delta[4..4 + length].to_vec()).unwrap());
            delta = &delta[4 + length + 8..];
        }
    }
    assert!(delta.is_empty());
    keys
}

const NAMES: [&str; 5] = ["count", "sum", "avg", "min", "max"];

fn command(name: &str, emit: &str) -> String {
    let column = if name == "count" { "" } else { " -c 1" };
    format!("{name}{column} --emit {emit}")
}

proptest! {
    #[test]
    fn aggregates_are_what_the_slow_way_gives(batches in batches(), which in 0usize..5) {
        let name = NAMES[which];
        let mut seen: BTreeMap<String, Vec<i128>> = BTreeMap::new();
        let (mut updates, mut by_batch): (Tuples, Tuples) = (vec![], vec![]);
        for b in &batches {
            let mut touched: Vec<String> = vec![];
            for (k, v) in b {
                let numbers = seen.entry(k.clone()).or_default();
                numbers.push(v[2..].parse().unwrap());
                updates.push((k.clone(), naive(name, numbers)));
                if !touched.contains(k) {
                    touched.push(k.clone());
                }
            }
            by_batch.extend(touched.iter().map(|k| (k.clone(), naive(name, &seen[k]))));
        }
        let last: Tuples = seen.iter().map(|(k, n)| (k.clone(), naive(name, n))).collect();

        let mut o = op(&command(name, "update"));
        prop_assert_eq!(feed(&mut *o, &batches), updates);
        prop_assert_eq!(end(&mut *o), vec![]);
        let mut o = op(&command(name, "batch"));
        prop_assert_eq!(feed(&mut *o, &batches), by_batch);
        prop_assert_eq!(end(&mut *o), vec![]);
        let mut o = op(&command(name, "final"));
        prop_assert_eq!(feed(&mut *o, &batches), vec![]);
        prop_assert_eq!(end(&mut *o), last);
    }

    /// Snapshots with rounds, of which only what the last ended round left is kept; then a restart.
    #[test]
    fn restored_is_as_good_as_never_stopped(
        batches in batches(), which in 0usize..5, mode in 0usize..3, stop in 0usize..8,
        rewrites in proptest::collection::vec(0usize..150, 8), in_one in any::<bool>()
    ) {
        let line = command(NAMES[which], ["update", "batch", "final"][mode]);
        let stop = stop.min(batches.len());
        let mut kept = op(&line);
        let mut file = SnapshotFile::default();
        for (i, b) in batches[..stop].iter().enumerate() {
            feed(&mut *kept, std::slice::from_ref(b));
            file.append(&mut *kept, rewrites[i]);
        }
        let mut again = op(&line);
        match in_one {
            true => again.restore(&file.live.concat()).unwrap(),
            false => file.live.iter().for_each(|d| again.restore(d).unwrap()),
        }
        let mut nothing = vec![];
        again.snapshot(0, &mut nothing);
        prop_assert_eq!(nothing, Vec::<u8>::new(), "what was restored has not changed since");
        // The new process goes on with the file: its first round holds all of the state again.
        let (mut rest, mut out) = (batches[stop..].to_vec(), vec![]);
        rest.push(vec![]);
        for (i, b) in rest.iter().enumerate() {
            out.extend(feed(&mut *again, std::slice::from_ref(b)));
            file.append(&mut *again, rewrites[i]);
        }
        prop_assert_eq!(out, feed(&mut *kept, &rest));
        let mut third = op(&line);
        third.restore(&file.live.concat()).unwrap();
        let tail = batches.concat();
        prop_assert_eq!(feed(&mut *third, std::slice::from_ref(&tail)), feed(&mut *kept, std::slice::from_ref(&tail)));
        prop_assert_eq!(end(&mut *third), end(&mut *kept));
    }

    /// Against a naive model: which keys a snapshot must and may hold, and when a round ends.
    #[test]
    fn rounds_are_what_the_slow_way_gives(steps in proptest::collection::vec((proptest::collection::vec(0usize..30, 0..6), 0usize..200), 1..40)) {
        let mut o = op("count");
        let (mut all, mut in_round): (Vec<String>, BTreeMap<String, ()>) = (vec![], BTreeMap::new());
        for (keys, rewrite) in steps {
            let keys: Vec<String> = keys.iter().map(|k| format!("key{k}")).collect();
            feed(&mut *o, &[keys.iter().map(|k| (k.clone(), String::new())).collect()]);
            let mut changed: Vec<String> = vec![];
            for key in keys {
                if !changed.contains(&key) {
                    changed.push(key.clone());
                }
                if !all.contains(&key) {
                    all.push(key);
                }
            }
            let mut want = changed.clone();
            in_round.extend(changed.into_iter().map(|k| (k, ())));
            let mut bytes = 0;
            for key in &all {
                if bytes < rewrite && !in_round.contains_key(key) {
                    bytes += 4 + key.len() + 8;
                    in_round.insert(key.clone(), ());
                    want.push(key.clone());
                }
            }
            let mut delta = vec![];
            let ended = o.snapshot(rewrite, &mut delta);
            prop_assert_eq!(keys_in(&delta), want);
            prop_assert_eq!(ended, in_round.len() == all.len());
            if ended {
                in_round.clear();
            }
        }
    }

    /// Keys go to another operator with their state and come back with more of it; what snapshots held of them is passed over.
    #[test]
    fn keys_that_move_are_as_good_as_keys_that_stay(batches in batches(), which in 0usize..5, at in 0usize..8, leaves in "[a-e]", rewrite in 0usize..150) {
        let line = command(NAMES[which], "update");
        let mine = |key: &str| !key.contains(&leaves);
        let (mut kept, mut here, mut there) = (op(&line), op(&line), op(&line));
        let (mut want, mut got): (Tuples, Tuples) = (vec![], vec![]);
        let mut file = SnapshotFile::default();
        let move_keys = |from: &mut dyn Operator, to: &mut dyn Operator| {
            let mut moved = Collect::default();
            from.hand_over(&|key| !mine(std::str::from_utf8(key).unwrap()), &mut moved);
            let mut state = Builder::new();
            moved.0.iter().for_each(|(k, v)| state.push(k, v));
            to.adopt(&state.take()).unwrap();
        };
        for (i, b) in batches.iter().enumerate() {
            want.extend(feed(&mut *kept, std::slice::from_ref(b)));
            if i == at {
                move_keys(&mut *here, &mut *there);
            }
            let (stay, go): (Input, Input) = b.iter().cloned().partition(|(k, _)| i < at || i > at + 1 || mine(k));
            if i == at + 2 {
                move_keys(&mut *there, &mut *here);
            }
            got.extend(feed(&mut *here, &[stay]));
            file.append(&mut *here, rewrite);
            got.extend(feed(&mut *there, &[go]));
        }
        want.sort();
        got.sort();
        prop_assert_eq!(got, want);
        if batches.len() > at + 2 {
            let mut again = op(&line);
            again.restore(&file.live.concat()).unwrap();
            let (mut whole, mut all) = (Collect::default(), Collect::default());
            again.hand_over(&|_| true, &mut whole);
            kept.hand_over(&|_| true, &mut all);
            prop_assert_eq!(whole.0, all.0);
        }
    }

    #[test]
    fn damaged_snapshots_are_refused_not_a_panic(bytes: Vec<u8>, tag in 0usize..5, cut in any::<prop::sample::Index>()) {
        let line = command(NAMES[tag], "final");
        let _ = op(&line).restore(&bytes);
        let mut whole = vec![];
        let mut o = op(&line);
        feed(&mut *o, &[vec![("key".into(), "x,5".into()), ("b".into(), "x,1".into())]]);
        o.snapshot(0, &mut whole);
        let cut = cut.index(whole.len());
        prop_assert_eq!(op(&line).restore(&whole[..cut]).is_ok(), cut == 0);
    }
}

#[test]
fn a_delta_holds_only_what_changed() {
    let mut o = op("count");
    let many: Input = (0..1000).map(|i| (format!("key{i}"), String::new())).collect();
    feed(&mut *o, &[many]);
    let (mut first, mut second, mut third) = (vec![], vec![], vec![]);
    o.snapshot(0, &mut first);
    feed(&mut *o, &[vec![("key7".into(), String::new())]]);
    o.snapshot(0, &mut second);
    o.snapshot(0, &mut third);
    assert!(
        first.len() > 10_000 && second.len() < 50,
        "{} {}",
        first.len(),
        second.len()
    );
    assert!(third.is_empty());
    assert!(o.state_bytes() > 6000);
}

#[test]
fn another_operators_snapshot_is_refused() {
    let mut snapshot = vec![];
    let mut o = op("count");
    feed(&mut *o, &[vec![("k".into(), String::new())]]);
    o.snapshot(0, &mut snapshot);
    let e = op("sum -c 0").restore(&snapshot).unwrap_err();
    assert!(e.what.contains("another operator") && !e.restart_helps, "{e}");
    snapshot[0] = 9;
    assert!(
        op("count")
            .restore(&snapshot)
            .unwrap_err()
            .what
            .contains("version 9")
    );
}

#[test]
fn what_is_no_number_names_its_tuple() {
    for (value, says) in [
        ("x,abc", "column 1 is not a number: `abc`"),
        ("x", "no column 1"),
        ("x,", "not a number: ``"),
    ] {
        let mut o = op("sum -c 1");
        let e = o
            .process(
                &batch(&[("k8".into(), "x,1".into()), ("k9".into(), value.into())]),
                &mut Collect::default(),
            )
            .unwrap_err();
        assert!(e.what.contains(says), "{e}");
        assert_eq!((e.key.as_deref(), e.index), (Some("k9"), Some(1)));
        assert!(e.restart_helps && e.to_string().contains("`k9`"));
    }
}

#[test]
fn a_sum_that_would_not_be_exact_is_refused_with_its_tuple() {
    let top = i128::MAX.to_string();
    for (command, values, says) in [
        ("sum -c 0", [top.as_str(), "1"], "128 bits"),
        ("avg -c 0", ["-1", &format!("-{}", "9".repeat(39))], "128 bits"),
        ("sum -c 0", ["1e308", "1e308"], "double"),
    ] {
        let input: Input = values.iter().map(|v| ("k".to_owned(), (*v).to_owned())).collect();
        let e = op(command)
            .process(&batch(&input), &mut Collect::default())
            .unwrap_err();
        assert!(e.what.contains(says) && e.restart_helps, "{command}: {e}");
        assert_eq!((e.key.as_deref(), e.index), (Some("k"), Some(1)));
    }
}

/// Written by programs that knew nothing of whole numbers beyond 64 bits.
#[test]
fn snapshots_of_version_1_are_read() {
    let int = |n: i64| [&[0], &n.to_le_bytes()[..]].concat();
    let float = |f: f64| [&[1], &f.to_bits().to_le_bytes()[..]].concat();
    let average = [float(2.5), 2u64.to_le_bytes().to_vec()].concat();
    for (name, tag, state, want) in [
        ("sum", b's', int(i64::MAX), "9223372036854775808"),
        ("sum", b's', float(0.5), "1.5"),
        ("max", b'>', int(-7), "1"),
        ("min", b'<', float(0.25), "0.25"),
        ("avg", b'a', average, (3.5f64 / 3.0).to_string().as_str()),
        ("count", b'c', 41u64.to_le_bytes().to_vec(), "42"),
    ] {
        let delta = [&[1, tag, 1, 0, 0, 0, 1, 0, 0, 0, b'k'], &state[..]].concat();
        let mut o = op(&command(name, "update"));
        o.restore(&delta).unwrap();
        let out = feed(&mut *o, &[vec![("k".into(), "x,1".into())]]);
        assert_eq!(out, [("k".to_owned(), want.to_owned())], "{name}");
    }
}

#[test]
fn fractions_and_the_outputs_key() {
    let input = |vs: &[&str]| {
        vec![
            vs.iter()
                .map(|v| ("k".to_owned(), (*v).to_owned()))
                .collect::<Input>(),
        ]
    };
    let last = |line: &str, vs: &[&str]| feed(&mut *op(line), &input(vs)).pop().unwrap();
    assert_eq!(last("sum -c 0", &["0.1", "0.2"]).1, (0.1f64 + 0.2).to_string());
    assert_eq!(last("avg -c 0", &["1", "2"]).1, "1.5");
    assert_eq!(last("max -c 0", &["2", "10", "9.5"]).1, "10");
    assert_eq!(last("min -c 0 --csv", &["\"2\"", " -3 "]).1, "-3");
    assert_eq!(
        last("sum -c 0", &["9223372036854775807", "1"]).1,
        "9223372036854775808"
    );
    let close = [
        "18446744073709551613",
        "18446744073709551615",
        "18446744073709551614",
    ];
    assert_eq!(last("max -c 0", &close).1, close[1]);
    assert_eq!(last("min -c 0", &close).1, close[0]);
    assert_eq!(last("sum -c 0", &close).1, "55340232221128654842");
    assert_eq!(last("avg -c 0", &close).1, close[2]);
    assert_eq!(
        last("avg -c 0", &["18446744073709551615", "0.5"]).1,
        "9.223372036854776e18"
    );
    let longest = "9".repeat(5000);
    assert_eq!(last("max -c 0", &["1e308", &longest]).1, longest);
    assert_eq!(
        last("count --key const:all", &["", ""]),
        ("all".to_owned(), "2".to_owned())
    );
    assert_eq!(
        last("count --key value", &["", ""]),
        ("2".to_owned(), "2".to_owned())
    );
}
