//! Programs of the SDK, in this process: by messages, and through an operator's interface.

use proptest::prelude::*;
use protocol::batch::Batch;

use super::*;
use crate::builtin::tests::{Collect, Tuples as Pairs, lines, op};
use crate::operator::Operator;

fn run(operator: &mut dyn Operator, batch: &Batch) -> std::result::Result<Pairs, crate::operator::Error> {
    let mut out = Collect::default();
    operator.process(batch, &mut out)?;
    Ok(out.text())
}

fn end(operator: &mut dyn Operator) -> Pairs {
    let mut out = Collect::default();
    operator.finish(&mut out).unwrap();
    out.text()
}

fn pairs(want: &[(&str, &str)]) -> Pairs {
    want.iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

/// The longest value and how many there were.
#[derive(Default)]
struct Longest;

impl Aggregate for Longest {
    type State = (u64, String);

    fn update(&mut self, state: &mut Self::State, tuple: Tuple<'_>, out: &mut Output<'_>) -> Result {
        let text = std::str::from_utf8(tuple.value)?;
        state.0 += 1;
        if text.len() > state.1.len() {
            state.1 = text.to_owned();
            out.emit(tuple.value);
        }
        Ok(())
    }

    fn at_end(&mut self, _: &[u8], state: &Self::State, out: &mut Output<'_>) -> Result {
        out.emit(format!("{} {}", state.0, state.1).as_bytes());
        Ok(())
    }
}

#[test]
fn closures_of_each_kind() {
    let mut f = InProcess::new(filter(|t: Tuple<'_>| t.value.starts_with(b"a")).values_only());
    assert_eq!(
        run(&mut f, &lines(&["ab", "b", "a"])).unwrap(),
        pairs(&[("f:1", "ab"), ("f:3", "a")])
    );
    assert_eq!(end(&mut f), vec![]);

    let mut t = InProcess::new(transform(|t: Tuple<'_>, out: &mut Output<'_>| match t.value {
        b"twice" => (0..2).for_each(|_| out.emit(b"x")),
        b"none" => {}
        b"key" => out.emit_with_key(t.key, b"own"),
        other => out.emit(other),
    }));
    let got = run(&mut t, &lines(&["v", "twice", "none", "key", "w"])).unwrap();
    let want = [
        ("f:1", "v"),
        ("f:2", "x"),
        ("f:2", "x"),
        ("f:4", "own"),
        ("f:5", "w"),
    ];
    assert_eq!(got, pairs(&want));

    let mut a = InProcess::new(aggregate(|n: &mut u64, _: Tuple<'_>, out: &mut Output<'_>| {
        *n += 1;
        out.emit(n.to_string().as_bytes());
    }));
    let twice = lines(&["", "", ""]);
    run(&mut a, &twice).unwrap();
    assert_eq!(
        run(&mut a, &twice).unwrap(),
        pairs(&[("f:1", "2"), ("f:2", "2"), ("f:3", "2")])
    );
}

#[test]
fn descriptions() {
    let say = |d: Description| d.to_string();
    assert_eq!(
        say(filter(|_: Tuple<'_>| true)
            .values_only()
            .not_deterministic()
            .description()),
        "rainstorm-operator/1 kind=filter protocol=batch snapshot=yes deterministic=no keys=no"
    );
    assert_eq!(
        say(aggregate_with(Longest).values_only().description()),
        "rainstorm-operator/1 kind=aggregate protocol=batch snapshot=yes deterministic=yes keys=yes"
    );
}

#[test]
fn errors_and_panics_name_the_tuple() {
    let values = ["1", "2", "x", "4"];
    let number = |t: Tuple<'_>| std::str::from_utf8(t.value).unwrap().parse::<u32>();
    let e = run(
        &mut InProcess::new(filter(move |t: Tuple<'_>| number(t).map(|n| n > 1))),
        &lines(&values),
    )
    .unwrap_err();
    assert_eq!((e.index, e.key.as_deref()), (Some(2), Some("f:3")));
    assert!(e.what.contains("invalid digit"), "{e}");
    let mut t = InProcess::new(transform(move |t: Tuple<'_>, out: &mut Output<'_>| {
        out.emit(if number(t).is_ok() {
            b"ok"
        } else {
            panic!("no number in {}", t.value.len())
        });
    }));
    let e = run(&mut t, &lines(&values)).unwrap_err();
    assert_eq!(e.index, Some(2));
    assert!(e.what.contains("no number in 1"), "{e}");
    let e = run(&mut InProcess::new(aggregate_with(Longest)), &{
        let mut b = protocol::batch::Builder::new();
        b.push(b"k", b"fine");
        b.push(b"k", b"\xff");
        b.take()
    });
    assert_eq!(e.unwrap_err().index, Some(1));
}

#[test]
fn a_builtin_is_the_same_as_a_program() {
    let input = lines(&["a b", "c", "b a"]);
    for line in [
        "identity",
        "grep a",
        "split --key value",
        "count --key const:x",
        "count --emit final",
    ] {
        let name = line.split(' ').next().unwrap();
        let kind = crate::kind_of(name).unwrap();
        let mut program = InProcess::new(builtin(op(line), kind));
        let mut plain = op(line);
        assert_eq!(run(&mut program, &input), run(&mut *plain, &input), "{line}");
        assert_eq!(end(&mut program), end(&mut *plain), "{line}");
    }
    let e = run(
        &mut InProcess::new(builtin(op("sum -c 1"), OpKind::Aggregate)),
        &lines(&["a,1", "b"]),
    )
    .unwrap_err();
    assert_eq!((e.index, e.key.as_deref()), (Some(1), Some("f:2")));
}

proptest! {
    /// Outputs in every mixture of own and taken keys arrive as they were emitted, in as many frames as they need.
    #[test]
    fn outputs_arrive_as_emitted(plan in prop::collection::vec(prop::collection::vec((any::<bool>(), 0usize..5), 0..4), 1..60), large: bool) {
        let pad = "x".repeat(if large { 40_000 } else { 0 });
        let values: Vec<String> = plan.iter().map(|outs| outs.iter().map(|(own, n)| format!("{own}/{n} ")).collect()).collect();
        let mut want = vec![];
        for (i, outs) in plan.iter().enumerate() {
            for (own, n) in outs {
                want.push((if *own { format!("own{n}") } else { format!("f:{}", i + 1) }, format!("{n}{pad}")));
            }
        }
        let mut t = InProcess::new(transform(|t: Tuple<'_>, out: &mut Output<'_>| {
            for word in std::str::from_utf8(t.value)?.split_ascii_whitespace() {
                let (own, n) = word.split_once('/').ok_or("no /")?;
                let value = format!("{n}{pad}");
                match own == "true" {
                    true => out.emit_with_key(format!("own{n}").as_bytes(), value.as_bytes()),
                    false => out.emit(value.as_bytes()),
                }
            }
            Result::Ok(())
        }).values_only());
        prop_assert_eq!(run(&mut t, &lines(&values)).unwrap(), want);
    }

    /// A program's rolling snapshots, restored into a new one, are as good as never stopping.
    #[test]
    fn restored_is_as_good_as_never_stopped(
        steps in prop::collection::vec((prop::collection::vec((0u8..12, "[a-z]{0,9}"), 0..8), 0usize..120), 1..20)
    ) {
        let mut kept = InProcess::new(aggregate_with(Longest));
        let (mut live, mut before): (Vec<Vec<u8>>, usize) = (vec![], 0);
        for (tuples, rewrite) in &steps {
            let mut b = protocol::batch::Builder::new();
            tuples.iter().for_each(|(k, v)| b.push(&[b'a' + k], v.as_bytes()));
            run(&mut kept, &b.take()).unwrap();
            let mut bytes = vec![];
            let ended = kept.snapshot(*rewrite, &mut bytes);
            live.push(bytes);
            if ended {
                live.drain(..before);
                before = live.len();
            }
        }
        let mut again = InProcess::new(aggregate_with(Longest));
        again.restore(&live.concat()).unwrap();
        prop_assert_eq!(end(&mut again), end(&mut kept));
    }

    #[test]
    fn no_message_panics(message: Vec<u8>, bytes: Vec<u8>) {
        let mut s = serve::Session::new(aggregate_with(Longest));
        let _ = s.answer(&message.into(), &mut vec![]);
        let mut out = vec![];
        let _ = run::serve(&mut s, &bytes[..], &mut out);
    }
}

#[test]
fn a_state_that_cannot_be_saved_is_an_error() {
    // Maps must say their length before.
    #[derive(Default, serde::Deserialize)]
    struct Odd;
    impl serde::Serialize for Odd {
        fn serialize<S: serde::Serializer>(&self, _: S) -> std::result::Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("odd"))
        }
    }
    let mut s = serve::Session::new(aggregate(|_: &mut Odd, _: Tuple<'_>, _: &mut Output<'_>| {}));
    let mut ask = |request: crate::foreign::batch::wire::Request<'_>| {
        let (mut frame, mut answers) = (vec![], vec![]);
        request.write(&mut frame);
        s.answer(&bytes::Bytes::from(frame).slice(4..), &mut answers)
    };
    use crate::foreign::batch::wire::{Builder, Request};
    let mut column = Builder::default();
    column.push(b"k");
    let (keys, values) = (Some(column.column()), column.column());
    ask(Request::Batch { keys, values }).unwrap();
    let e = ask(Request::Snapshot { rewrite: 0 }).unwrap_err().to_string();
    assert!(e.contains("cannot be saved: odd"), "{e}");
    let e = ask(Request::Restore {
        more: false,
        bytes: b"junk",
    })
    .unwrap_err()
    .to_string();
    assert!(e.contains("cannot be restored"), "{e}");
}
