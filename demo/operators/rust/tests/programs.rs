//! The operators as RainStorm runs them, and by hand.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ops::Emit;
use ops::foreign::{DESCRIBE_WITHIN, Process, Spec, describe};
use ops::operator::Error;
use protocol::batch::{Batch, Builder};

const TEMPLATE: &str = env!("CARGO_BIN_EXE_template");
const GAPS: &str = env!("CARGO_BIN_EXE_gaps");
const HAS: &str = env!("CARGO_BIN_EXE_has");

type Pairs = Vec<(String, String)>;

#[derive(Default)]
struct Collect(Pairs);

impl Emit for Collect {
    fn emit(&mut self, key: &[u8], value: &[u8]) {
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        self.0.push((text(key), text(value)));
    }
}

/// Asks the program what it is, and starts it so.
async fn start(exe: &str, args: &[&str]) -> Process {
    let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
    let d = describe(Path::new(exe), &args, DESCRIBE_WITHIN, |_| {})
        .await
        .unwrap()
        .unwrap();
    let spec = Spec {
        kind: d.kind,
        protocol: d.protocol,
        keys: d.keys,
    };
    Process::start(
        Path::new(exe),
        &args,
        &[],
        &spec,
        None,
        Duration::from_secs(120),
        |_| {},
    )
    .await
    .unwrap()
}

async fn run(process: &mut Process, batch: &Batch) -> Result<Pairs, Error> {
    let mut out = Collect::default();
    process.process(batch, &mut out).await?;
    Ok(out.0)
}

fn batch(tuples: &[(&str, &str)]) -> Batch {
    let mut b = Builder::new();
    tuples
        .iter()
        .for_each(|(k, v)| b.push(k.as_bytes(), v.as_bytes()));
    b.take()
}

fn pairs(want: &[(&str, &str)]) -> Pairs {
    want.iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

#[tokio::test]
async fn templates() {
    let mut template = start(TEMPLATE, &[]).await;
    for (line, want) in [
        ("disk 3 failed after 12.5 s", "disk <n> failed after <n> s"),
        ("10.0.0.7:22 closed at 11:02:55", "<n> closed at <n>"),
        ("sda1 is 0xff", "sda1 is <n>"),
        ("sda12 as utf16", "sda12 as utf16"),
        ("", ""),
        ("42", "<n>"),
    ] {
        let got = run(&mut template, &batch(&[("k", line)])).await.unwrap();
        assert_eq!(got, pairs(&[(want, line)]));
    }
    template.finish().await.unwrap();
}

#[tokio::test]
async fn gaps_go_on_in_a_new_process_and_name_what_they_cannot_read() {
    let mut gaps = start(GAPS, &[]).await;
    let first = batch(&[("a", "10 x"), ("b", "7"), ("a", "15"), ("a", "16")]);
    assert_eq!(run(&mut gaps, &first).await.unwrap(), pairs(&[("a", "5")]));
    let (snapshot, round_ended) = gaps.snapshot(0).await.unwrap();
    assert!(round_ended);
    drop(gaps);

    let mut gaps = start(GAPS, &[]).await;
    gaps.restore(&snapshot).await.unwrap();
    let second = batch(&[("a", "20"), ("a", "30"), ("b", "8")]);
    assert_eq!(
        run(&mut gaps, &second).await.unwrap(),
        pairs(&[("a", "10"), ("b", "1")])
    );
    let mut out = Collect::default();
    gaps.finish_input(&mut out).await.unwrap();
    assert_eq!(out.0, pairs(&[("a", "10 5"), ("b", "1 2")]));

    let e = run(&mut gaps, &batch(&[("a", "31"), ("b", "soon")]))
        .await
        .unwrap_err();
    assert!(e.what.contains("`soon` begins with no number"), "{e}");
    assert_eq!((e.index, e.key.as_deref()), (Some(1), Some("b")));
}

#[tokio::test]
async fn has_takes_an_argument_and_works_by_hand() {
    let mut has = start(HAS, &["two words"]).await;
    let lines = batch(&[("1", "not two"), ("2", "the two words")]);
    assert_eq!(
        run(&mut has, &lines).await.unwrap(),
        pairs(&[("2", "the two words")])
    );
    has.finish().await.unwrap();

    let e = describe(Path::new(HAS), &[], DESCRIBE_WITHIN, |_| {}).await;
    assert!(
        e.is_err() || e.unwrap().is_none(),
        "without its argument it says nothing"
    );

    let mut by_hand = Command::new(HAS)
        .arg("b")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    by_hand.stdin.take().unwrap().write_all(b"a\nb\nabc").unwrap();
    let said = by_hand.wait_with_output().unwrap();
    assert_eq!(
        String::from_utf8(said.stdout).unwrap(),
        "stdin:2\tb\nstdin:3\tabc\n"
    );
    assert!(said.status.success());
}
