//! `rainstorm-op` as users run it; the oracles are grep, sed, awk and sort.

use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const EXE: &str = env!("CARGO_BIN_EXE_rainstorm-op");

fn pipe(mut command: Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        // A program that has seen enough closes its input.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

fn op(args: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(EXE);
    command.args(args);
    pipe(command, input)
}

fn stdout(args: &[&str], input: &[u8]) -> String {
    let output = op(args, input);
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn shell(script: &str, input: &[u8]) -> String {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).env("LC_ALL", "C");
    let output = pipe(command, input);
    String::from_utf8(output.stdout).unwrap()
}

/// Lines of words and numbers, more than one read takes, some of them ending in CR LF, the last without a newline.
fn input() -> Vec<u8> {
    let words = ["alpha", "beta", "gamma", "delta", "error"];
    let mut text = String::new();
    for i in 0..40_000usize {
        let (a, b) = (words[i * 7919 % 5], words[i * i % 5]);
        text.push_str(&format!("{a},{},{b} {i}", i * 31 % 1009));
        text.push_str(if i % 10 == 3 { "\r\n" } else { "\n" });
    }
    text.push_str("error,7,last");
    text.into_bytes()
}

const NO_CR: &str = "tr -d '\\r' | ";

#[test]
fn against_the_shells_tools() {
    let input = input();
    let n_tab = "awk '{print \"stdin:\" NR \"\\t\" $0}'";
    for (args, script) in [
        (&["identity"][..], n_tab.to_owned()),
        (
            &["grep", "error,[0-9]*5,"][..],
            format!("{n_tab} | grep -E '\terror,[0-9]*5,|[^\t]*,error,[0-9]*5,'"),
        ),
        (
            &["grep", "-v", "-F", "error"][..],
            format!("{n_tab} | grep -v error"),
        ),
        (
            &["grep", "-iF", "ERROR", "--key", "const:x"][..],
            "grep error | sed 's/^/x\t/'".to_owned(),
        ),
        (
            &["replace", "(\\w+),(\\d+)", "$2:$1", "--key", "const:x"][..],
            "awk 1 | sed -E 's/([a-z]+),([0-9]+)/\\2:\\1/g; s/^/x\t/'".to_owned(),
        ),
        (
            &["filter", "-c", "1", "-gt", "900", "--key", "field:0"][..],
            "awk -F, '$2 > 900 {print $1 \"\t\" $0}'".to_owned(),
        ),
        (
            &["project", "-c", "1,0", "--key", "const:x"][..],
            "awk -F, '{print \"x\t\" $2 \",\" $1}'".to_owned(),
        ),
        (
            &["split", "--key", "value"][..],
            "awk '{for (i = 1; i <= NF; i++) print $i \"\t\" $i}'".to_owned(),
        ),
    ] {
        let (ours, theirs) = (stdout(args, &input), shell(&format!("{NO_CR} {script}"), &input));
        assert!(!theirs.is_empty(), "{script}");
        assert!(
            ours == theirs,
            "{args:?}: {} bytes, {} wanted",
            ours.len(),
            theirs.len()
        );
    }
}

/// The second operator gets the lines that the first made: its keys are `stdin:N`, so `const` groups them all.
#[test]
fn aggregates_against_awk() {
    let input = input();
    let count = stdout(&["count", "--emit", "final"], &input);
    assert_eq!(count.lines().count(), 40_001);
    assert!(count.lines().all(|l| l.ends_with("\t1")));
    assert_eq!(
        stdout(&["sum", "-c", "1"], b"a,1\nb,2\n"),
        "stdin:1\t1\nstdin:2\t2\n"
    );
    let e = op(&["sum", "-c", "1"], b"a,1\nb,two\n");
    assert_eq!(e.status.code(), Some(1));
    let text = String::from_utf8(e.stderr).unwrap();
    assert!(text.contains("`two`") && text.contains("`stdin:2`"), "{text}");
}

#[test]
fn usage_help_and_links() {
    let bad = op(&["grep"], b"");
    assert_eq!(bad.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("example: grep"));
    assert_eq!(op(&["nosuch"], b"").status.code(), Some(2));
    assert_eq!(op(&[], b"").status.code(), Some(2));
    let help = stdout(&["--help"], b"");
    for name in ops::names() {
        assert!(help.lines().any(|l| l.starts_with(&format!("{name} "))), "{name}");
        assert!(stdout(&[name, "--help"], b"").contains(ops::usage(name).unwrap()));
    }
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("grep");
    symlink(Path::new(EXE), &link).unwrap();
    let mut command = Command::new(&link);
    command.arg("b");
    assert_eq!(pipe(command, b"a\nb\n").stdout, b"stdin:2\tb\n");
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let script = format!("yes | {{ '{EXE}' identity; echo status $? >&2; }} 2>&1 | head -2; true");
    assert_eq!(shell(&script, b""), "stdin:1\ty\nstdin:2\ty\n");
}
