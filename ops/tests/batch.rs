//! The batch protocol with real programs, good and bad, of both SDKs and of none.

mod programs;

use std::time::Duration;

use ops::Operator;
use programs::*;
use protocol::batch::{Batch, Builder};

/// What the operator does in this process.
fn inside(operator: &mut dyn Operator, batch: &Batch) -> Pairs {
    let mut out = Collect::default();
    operator.process(batch, &mut out).unwrap();
    out.0
}

fn builtin(line: &str) -> Box<dyn Operator> {
    let mut words = line.split(' ').map(str::to_owned);
    let name = words.next().unwrap();
    ops::builtin(&name, &words.collect::<Vec<_>>()).unwrap()
}

/// Empty, odd and large values, keys of both sorts, and more of them than all pipes hold.
fn batches() -> Vec<Batch> {
    let odd: [&[u8]; 7] = [
        b"",
        b"\0",
        b"a\nb",
        b"\r\n",
        b"\xff\xfe",
        "\u{e9} static".as_bytes(),
        b"static",
    ];
    let odd: Vec<_> = odd.iter().map(|v| (*v, *v)).collect();
    let large = vec![b'x'; 3 << 20];
    let mut lines = Builder::new();
    let file = bytes::Bytes::from_static(b"dir/file");
    for number in 1..100_000 {
        let value = format!("line {number} {}", if number % 30 == 0 { "static" } else { "" });
        assert!(lines.push_line(&file, number, value.as_bytes()));
    }
    let mut skipped = lines.take();
    skipped.skip(17);
    vec![
        batch(&odd),
        Batch::empty(),
        batch(&[(&large, &large), (&b"k".to_vec(), &large)]),
        skipped,
        numbered(3),
    ]
}

#[tokio::test]
async fn programs_of_the_rust_sdk_do_what_is_done_inside() {
    for line in [
        "identity",
        "grep static",
        "split --key value",
        "identity --key word:0",
        "count",
    ] {
        let program = rust(line);
        program.check_description().await;
        let (mut outside, mut inner) = (program.start().await, builtin(line));
        for careful in [false, true] {
            outside.process.set_careful(careful);
            for batch in batches() {
                if careful && batch.len() > 1000 {
                    continue;
                }
                let (got, want) = (outside.run(&batch).await.unwrap(), inside(&mut *inner, &batch));
                assert!(
                    got == want,
                    "{line}: {} outputs, {} wanted",
                    got.len(),
                    want.len()
                );
            }
        }
        outside.process.finish().await.unwrap();
    }
}

#[tokio::test]
async fn programs_of_the_python_sdk_do_what_is_done_inside() {
    for (body, line) in [
        ("@rainstorm.transform\ndef f(value): return value", "identity"),
        (
            "@rainstorm.transform(text=True)\ndef f(key, value): return key, value",
            "identity",
        ),
        (
            "@rainstorm.filter\ndef f(value): return b'static' in value",
            "grep static",
        ),
        (
            "@rainstorm.transform\ndef f(key, value):\n    for w in value.split(): yield w, w",
            "split --key value",
        ),
        (
            "@rainstorm.aggregate(initial=int)\ndef f(n, value_of): return n + 1, b'%d' % (n + 1)",
            "count",
        ),
    ] {
        let program = python(body);
        let (mut outside, mut inner) = (program.start().await, builtin(line));
        for batch in batches() {
            if line.starts_with("split") && batch.len() == 7 {
                // Python takes another view of what white space is.
                continue;
            }
            let (got, want) = (outside.run(&batch).await.unwrap(), inside(&mut *inner, &batch));
            assert!(
                got == want,
                "{body}: {} outputs, {} wanted",
                got.len(),
                want.len()
            );
        }
        outside.process.finish().await.unwrap();
    }
}

/// A process is killed after each snapshot; the next takes in what the last ended round left.
#[tokio::test]
async fn state_moves_to_a_new_process() {
    let in_python = python(
        "@rainstorm.aggregate(initial=int)\ndef f(n, value_of): return n + 1, b'%d' % (n + 1)\n\
         @f.at_end\ndef end(key, n): return b'%d' % n",
    );
    for program in [rust("count --emit update"), in_python] {
        let mut inner = builtin("count");
        let (mut live, mut before): (Vec<Vec<u8>>, usize) = (vec![], 0);
        let mut rounds = 0;
        for life in 0..6 {
            let mut outside = program.start().await;
            outside.process.restore(&live.concat()).await.unwrap();
            for step in 0..5 {
                let keys = (0..50).map(|i| (format!("key{}", (i * i + life * 7 + step) % 97), ""));
                let batch = batch(&keys.collect::<Vec<_>>());
                assert_eq!(outside.run(&batch).await.unwrap(), inside(&mut *inner, &batch));
                let (bytes, ended) = outside.process.snapshot(step * 100).await.unwrap();
                live.push(bytes);
                if ended {
                    rounds += 1;
                    live.drain(..before);
                    before = live.len();
                }
            }
        }
        assert!(rounds > 3, "{rounds}");
        // A large one goes back in pieces.
        let mut outside = program.start().await;
        let many: Vec<_> = (0..200_000).map(|i| (format!("many{i}"), "")).collect();
        outside.run(&batch(&many)).await.unwrap();
        let (bytes, ended) = outside.process.snapshot(0).await.unwrap();
        assert!(ended && bytes.len() > 3 << 20, "{}", bytes.len());
        let mut again = program.start().await;
        again.process.restore(&bytes).await.unwrap();
        assert_eq!(
            again.run(&batch(&many[7..8])).await.unwrap(),
            vec![(b"many7".to_vec(), b"2".to_vec())]
        );
    }
}

#[tokio::test]
async fn what_was_held_back_comes_at_the_end() {
    let mut rust = rust("count --emit final").start().await;
    let end = "@rainstorm.aggregate(initial=int)\ndef f(n, value_of): return n + 1, None\n@f.at_end\ndef end(key, n): return b'%d' % n";
    let mut python = python(end).start().await;
    let want: Pairs = [("a", "2"), ("b", "1")].map(|(k, n)| (k.into(), n.into())).into();
    for running in [&mut rust, &mut python] {
        assert_eq!(
            running
                .run(&batch(&[("b", ""), ("a", ""), ("a", "")]))
                .await
                .unwrap(),
            vec![]
        );
        assert_eq!(running.finish_input().await, want);
    }
    rust.process.finish().await.unwrap();
    python.process.finish().await.unwrap();
    let mut text = text("for line in sys.stdin: print('filter')").start().await;
    assert_eq!(text.finish_input().await, vec![]);
    assert!(text.process.restore(b"").await.is_ok() && text.process.restore(b"x").await.is_err());
    assert!(
        text.process
            .snapshot(0)
            .await
            .unwrap_err()
            .what
            .contains("text protocol")
    );
}

#[tokio::test]
async fn an_exception_is_reported_with_its_tuple() {
    let mut f = python("@rainstorm.filter\ndef f(value): return 7 // (value != b'v1234')")
        .start()
        .await;
    let e = f.fails(&numbered(3000)).await;
    assert!(e.what.contains("ZeroDivisionError"), "{e}");
    assert_eq!((e.index, e.key.as_deref()), (Some(1234), Some("k1234")));
    assert!(e.stderr.iter().any(|l| l.contains("in f")), "{:?}", e.stderr);
    let mut f = rust("sum -c 1").start().await;
    let e = f.fails(&batch(&[("a", "x,1"), ("b", "x,two")])).await;
    assert!(e.what.contains("not a number: `two`"), "{e}");
    assert_eq!((e.index, e.key.as_deref()), (Some(1), Some("b")));
    let mut f = rust("count").start().await;
    let e = f.process.restore(b"junk").await.unwrap_err();
    assert!(e.what.contains("cannot be restored"), "{e}");
}

#[tokio::test]
async fn careful_names_the_tuple_of_a_crash_and_of_a_hang() {
    for (what, says) in [
        ("os.kill(0, 9)", "signal: 9"),
        ("time.sleep(1000)", "answered nothing for 6 s"),
    ] {
        let dies = python(&format!(
            "@rainstorm.filter\ndef f(value):\n    if value == b'v77': {what}\n    return 1"
        ));
        let timeout = Duration::from_secs(6);
        let mut f = dies.start_within(timeout).await;
        let e = f.fails(&numbered(3000)).await;
        assert!(e.what.contains(says), "{e}");
        assert_eq!((e.index, e.key), (None, None), "it is one of many");
        let mut f = dies.start_within(timeout).await;
        f.process.set_careful(true);
        let e = f.fails(&numbered(3000)).await;
        assert!(e.what.contains(says), "{e}");
        assert_eq!((e.index, e.key.as_deref()), (Some(77), Some("k77")));
    }
    // Those that read ahead.
    let reads = "while True:\n    frames = os.read(0, 1 << 20)\n    if b'v77' in frames: os.kill(0, 9)\n    \
                 while frames:\n        end = 4 + int.from_bytes(frames[:4], 'big')\n        \
                 passed(count(wire.unpack(frames[4:end])))\n        frames = frames[end:]";
    let mut f = raw(reads).start().await;
    f.process.set_careful(true);
    let e = f.fails(&numbered(100)).await;
    assert_eq!((e.index, e.key.as_deref()), (Some(77), Some("k77")));
    let reads = "while True:\n    text = os.read(0, 1 << 20)\n    if b'v77\\n' in text: os.kill(0, 9)\n    \
                 for _ in range(text.count(b'\\nvalue: ')): print('filter', flush=True)";
    let mut f = text(reads).start().await;
    assert_ne!(f.fails(&numbered(100)).await.index, Some(77));
    let mut f = text(reads).start().await;
    f.process.set_careful(true);
    let e = f.fails(&numbered(100)).await;
    assert_eq!((e.index, e.key.as_deref()), (Some(77), Some("k77")));
}

/// Far slower in sum than the time limit, and not hung.
#[tokio::test]
async fn slow_is_not_hung() {
    let slow = python("@rainstorm.filter\ndef f(value): time.sleep(0.008); return 0");
    let mut f = slow.start_within(Duration::from_secs(4)).await;
    assert_eq!(f.run(&numbered(800)).await.unwrap(), vec![]);
}

#[tokio::test]
async fn what_a_program_prints_goes_to_the_log() {
    let mut f = python(
        "print('hello')\n@rainstorm.filter\ndef f(value): print(value); return sys.stdin.read() == ''",
    )
    .start()
    .await;
    assert_eq!(f.run(&numbered(2)).await.unwrap().len(), 2);
    f.process.finish().await.unwrap();
    assert!(f.stderr.lock().unwrap().iter().any(|l| l.contains("b'v1'")));
    let flood = "@rainstorm.filter\ndef f(value): os.write(2, b'flood flood flood\\n' * 20000); return 1";
    let mut f = python(flood).start().await;
    assert_eq!(f.run(&numbered(200)).await.unwrap().len(), 200);
    assert!(f.stderr.lock().unwrap().len() < 60_000);
}

#[tokio::test]
async fn every_form_of_answer_is_taken() {
    let mut f = raw(
        "r = request()\nassert r[1] is None or count(r) == 1\nsay(0, True, None, None, wire.pack_column([]))\n\
         say(0, True, wire.pack_u32s([0, 0xffffffff]), wire.pack_column([b'own']), wire.pack_column([b'a', b'b']))\n\
         say(0, True, None, wire.pack_column([b'k1', b'k2']), wire.pack_column([b'c', b'd']))\n\
         say(0, False, None, None, wire.pack_column([]))\nrequest()\nsay(0, False, None, None, wire.pack_column([b'e']))\nrequest()",
    )
    .start()
    .await;
    let pair = |k: &str, v: &str| (k.as_bytes().to_vec(), v.as_bytes().to_vec());
    let got = f.run(&batch(&[("t", "")])).await.unwrap();
    assert_eq!(
        got,
        vec![pair("t", "a"), pair("own", "b"), pair("k1", "c"), pair("k2", "d")]
    );
    assert_eq!(f.run(&batch(&[("u", "")])).await.unwrap(), vec![pair("u", "e")]);
    f.process.finish().await.unwrap();
}

#[tokio::test]
async fn keys_that_are_not_wanted_are_not_sent() {
    let mut program = raw(
        "while True:\n    r = request()\n    if r is None: break\n    assert r[1] is None\n    passed(count(r))",
    );
    program.spec.keys = false;
    let mut f = program.start().await;
    let want: Pairs = (0..500)
        .map(|i| (format!("k{i}").into(), format!("v{i}").into()))
        .collect();
    assert_eq!(f.run(&numbered(500)).await.unwrap(), want);
}

#[tokio::test]
async fn wrong_answers_are_explained() {
    let one = |answer: &str| format!("r = request()\n{answer}\nrequest()");
    for (body, says) in [
        (
            "print('hello world', flush=True)\ntime.sleep(100)".to_owned(),
            "`hello world",
        ),
        (
            one("os.write(1, b'\\xff\\xff\\xff\\xff')"),
            "length would be 4294967295",
        ),
        (one("os.write(1, b'\\0\\0\\0\\3abc')"), "an array should be there"),
        (
            one("os.write(1, b'\\0\\0\\0\\6\\x92\\1\\xc6\\xff\\xff\\xff')"),
            "bin",
        ),
        (one("say(9)"), "no message has this type"),
        (one("passed(2)"), "of 2 tuples"),
        (one("say(1, b'\\2')"), "0 or 1"),
        (one("say(2, False, True, b'')"), "answered a snapshot"),
        (one("say(3)"), "has restored"),
        (
            one("say(0, False, wire.pack_u32s([1]), None, wire.pack_column([b'']))"),
            "no tuple of the batch",
        ),
        (
            one("say(0, False, wire.pack_u32s([]), None, wire.pack_column([b'']))"),
            "as many origins",
        ),
        (
            one("say(0, False, None, None, wire.pack_column([b'', b'']))"),
            "more outputs without keys",
        ),
        (
            one("say(0, False, None, wire.pack_column([]), wire.pack_column([b'']))"),
            "as many keys",
        ),
        (
            one("say(0, False, None, None, (b'\\2\\0\\0\\0', b'a'))"),
            "does not end with its data",
        ),
        (
            one("say(0, True, None, None, wire.pack_column([b'']))\npassed(1)"),
            "begun with outputs",
        ),
        (one("passed(1)\npassed(1)"), ""),
        (one("say(4, None, 'too bad')"), "the operator says: too bad"),
        (one("say(4, 99, 'too bad')"), "the operator says: too bad"),
        ("request()\nsys.exit(3)".to_owned(), "exit status: 3"),
        ("sys.exit(3)".to_owned(), "exit status: 3"),
        ("os.kill(0, 9)".to_owned(), "signal: 9"),
        (
            "os.close(1)\nsignal.pause()".to_owned(),
            "closed its standard output",
        ),
        (
            one("os.write(1, b'\\0\\0\\1\\0ab')\nos.close(1)\nsignal.pause()"),
            "closed its standard output",
        ),
        ("os.close(0)\nsource.detach()\nsignal.pause()".to_owned(), ""),
    ] {
        // Where any error will do, one of them is the time limit. The others have the time that Python takes to start on a busy machine.
        let limit = if says.is_empty() {
            Duration::from_secs(4)
        } else {
            SOON
        };
        let mut f = raw(&body).start_within(limit).await;
        // The first frame holds one tuple. What comes behind the answer is noticed then or with the next.
        let noticed = async {
            loop {
                if let Err(e) = f.run(&numbered(1)).await {
                    break e;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let noticed = tokio::time::timeout(SOON, noticed).await;
        let e = noticed.unwrap_or_else(|_| panic!("{body}: nobody notices"));
        assert!(e.what.contains(says), "{body}: {e}");
        assert!(f.run(&numbered(1)).await.is_err());
    }
}

#[tokio::test]
async fn an_answer_before_its_batch_is_no_answer() {
    // Both in one write. If they come late, the first looks like an answer.
    let twice = "os.write(1, 2 * wire.frame(wire.PASSED, b'\\1'))\nsignal.pause()";
    let e = raw(twice).start().await.fails(&numbered(1)).await;
    assert!(
        e.what.contains("cannot have read") || e.what.contains("answered all"),
        "{e}"
    );
}

/// Frames that never end, and one that ends far away.
#[tokio::test]
async fn a_flood_of_output_takes_bounded_memory() {
    let endless =
        raw("request()\nos.write(1, b'\\3\\xff\\xff\\xff')\nwhile True: os.write(1, b'x' * 1000000)");
    let e = endless.start().await.fails(&numbered(1)).await;
    assert!(e.what.contains("no message"), "{e}");
    let mut f = raw("request()\nwhile True: say(2, True, False, b'x' * 50000000)")
        .start()
        .await;
    let e = f.process.snapshot(0).await.unwrap_err();
    assert!(e.what.contains("larger than 256 MiB"), "{e}");
}

#[tokio::test]
async fn a_tuple_that_fits_no_frame_is_poison_and_harms_nothing() {
    let mut f = rust("count").start().await;
    let huge = vec![0; 65 << 20];
    let e = f
        .run(&batch(&[(&b"k1"[..], &b"v"[..]), (b"k2", &huge)]))
        .await
        .unwrap_err();
    assert_eq!((e.index, e.key.as_deref()), (Some(1), Some("k2")));
    assert_eq!(f.run(&numbered(1)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn at_the_end_it_may_not_have_more_to_say() {
    let mut f = raw("while request(): passed(1)\npassed(1)").start().await;
    f.run(&numbered(1)).await.unwrap();
    let e = f.process.finish().await.unwrap_err();
    assert!(e.what.contains("answers no tuple"), "{e}");
}
