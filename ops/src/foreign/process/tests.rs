//! Real programs, most of them scripts, good and bad.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::foreign::text::LONGEST_LINE;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::batch::Builder;
use tempfile::TempDir;

use super::*;

const TEXT: Spec = Spec {
    kind: OpKind::Transform,
    protocol: Protocol::Text,
    keys: true,
};
const SOON: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Collect(Vec<(String, String)>);

impl Emit for Collect {
    fn emit(&mut self, key: &[u8], value: &[u8]) {
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        self.0.push((text(key), text(value)));
    }
}

struct Fixture {
    dir: TempDir,
    process: Process,
    stderr: Arc<Mutex<Vec<String>>>,
}

fn write_script(dir: &TempDir, script: &str) -> PathBuf {
    let exe = dir.path().join("op");
    fs::write(&exe, script).unwrap();
    fs::set_permissions(&exe, PermissionsExt::from_mode(0o755)).unwrap();
    exe
}

async fn start(script: &str, op_timeout: Duration) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let exe = write_script(&dir, script);
    let stderr = Arc::new(Mutex::new(vec![]));
    let lines = stderr.clone();
    let env = [
        ("RAINSTORM_TASK".to_owned(), "s1t0".to_owned()),
        ("OUT".to_owned(), dir.path().display().to_string()),
    ];
    let args = ["a b".to_owned()];
    let hand_on = move |l: &str| lines.lock().unwrap().push(l.to_owned());
    let process = Process::start(&exe, &args, &env, &TEXT, None, op_timeout, hand_on)
        .await
        .unwrap();
    Fixture { dir, process, stderr }
}

/// Rules for the `value:` lines. Without `-W interactive` mawk waits for more input than there is; others warn of it.
fn awk(rules: &str) -> String {
    format!("#!/bin/sh\nexec awk -W interactive '!/^value: / {{ next }}\n{rules}' 2>/dev/null\n")
}

/// A shell script that reads key and value into $k and $v, and then does `body` for each tuple.
fn sh(body: &str) -> String {
    format!(
        "#!/bin/sh\nwhile IFS= read -r k && IFS= read -r v; do k=${{k#key: }}; v=${{v#value: }}\n{body}\ndone\n"
    )
}

fn python(body: &str) -> String {
    format!("#!/usr/bin/env python3\nimport sys, os, signal\n{body}\n")
}

fn batch(tuples: &[(&str, &str)]) -> Batch {
    let mut b = Builder::new();
    tuples
        .iter()
        .for_each(|(k, v)| b.push(k.as_bytes(), v.as_bytes()));
    b.take()
}

fn numbered(n: usize) -> Batch {
    let mut b = Builder::new();
    (0..n).for_each(|i| b.push(format!("k{i}").as_bytes(), format!("v{i}").as_bytes()));
    b.take()
}

fn pairs(want: &[(&str, &str)]) -> Vec<(String, String)> {
    want.iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

impl Fixture {
    async fn run(&mut self, batch: &Batch) -> Result<Vec<(String, String)>, Error> {
        let mut out = Collect::default();
        let done = self.process.process(batch, &mut out);
        tokio::time::timeout(SOON, done)
            .await
            .expect("the operator is waited for without bound")?;
        Ok(out.0)
    }

    /// The error of a batch of two tuples, k0 and k1.
    async fn fails(&mut self) -> Error {
        let e = self.run(&numbered(2)).await.unwrap_err();
        let again = self.run(&numbered(1)).await.unwrap_err();
        assert!(again.what.contains("failed before"), "{again}");
        e
    }
}

/// Waits until a process is gone (a zombie of somebody else's counts as gone).
async fn gone(pid: i32) {
    let deadline = clock::now() + SOON;
    loop {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if stat.is_empty() || stat.rsplit(") ").next().is_some_and(|s| s.starts_with('Z')) {
            return;
        }
        assert!(clock::now() < deadline, "process {pid} is still there: {stat}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn every_form_of_answer_in_order() {
    let script = sh("case $v in
        drop) echo filter;;
        own) printf 'forward\\nvalue: %s!\\n' \"$v\";;
        both) printf 'forward\\nkey: %s2\\nvalue: \\n' \"$k\";;
        many) for i in 1 2 3; do printf 'emit\\nkey: %s\\nvalue: %s\\n' $i \"$1 $RAINSTORM_TASK\"; done; printf 'emit\\nvalue: x\\nend\\n';;
        none) echo end;;
        esac");
    let mut f = start(&script, SOON).await;
    let input = [
        ("a", "own"),
        ("b", "drop"),
        ("c", "many"),
        ("d", "none"),
        ("e", "both"),
    ];
    let many = ("1", "a b s1t0");
    let want = [
        ("a", "own!"),
        many,
        ("2", many.1),
        ("3", many.1),
        ("c", "x"),
        ("e2", ""),
    ];
    assert_eq!(f.run(&batch(&input)).await.unwrap(), pairs(&want));
    assert_eq!(f.run(&Batch::empty()).await.unwrap(), vec![]);
    assert_eq!(
        f.run(&batch(&[("z", "own")])).await.unwrap(),
        pairs(&[("z", "own!")])
    );
    f.process.finish().await.unwrap();
}

#[tokio::test]
async fn awk_and_python_speak_it_and_bytes_pass_untouched() {
    let awk = awk("/Stop/ { print \"forward\\n\" $0; fflush(); next } { print \"filter\"; fflush() }");
    let py = python(
        "read = sys.stdin.buffer.readline\nwhile (k := read()):\n    v = read()\n    sys.stdout.buffer.write(b'forward\\n' + v if b'Stop' in v else b'filter\\n')\n    sys.stdout.flush()",
    );
    let text = python(
        "sys.stdin.reconfigure(newline='\\n')\nfor k in sys.stdin:\n    v = next(sys.stdin)\n    print('forward\\n' + v if 'Stop' in v else 'filter\\n', end='')",
    );
    for script in [&awk, &py, &text] {
        let mut f = start(script, SOON).await;
        let mut b = Builder::new();
        // No NUL: not every awk reads on behind it.
        let value = b"\xff\xfe Stop \t\r";
        b.push(b"k", value);
        b.push(b"l", b"Go");
        let mut out = Raw::default();
        f.process.process(&b.take(), &mut out).await.unwrap();
        assert_eq!(out.0, [(b"k".to_vec(), value.to_vec())]);
    }
}

#[derive(Default)]
struct Raw(Vec<(Vec<u8>, Vec<u8>)>);

impl Emit for Raw {
    fn emit(&mut self, key: &[u8], value: &[u8]) {
        self.0.push((key.to_vec(), value.to_vec()));
    }
}

/// Far more than the pipes hold, in both directions, whatever the order in which the program reads and answers.
#[tokio::test]
async fn full_pipes_do_not_deadlock() {
    let at_once = python("for k in sys.stdin:\n    v = next(sys.stdin)\n    print('forward\\n' + v, end='')");
    // Reads 20,000 tuples before it answers the first.
    let in_the_end = python(
        "lines = [next(sys.stdin) for _ in range(40000)]\nsys.stdout.write(''.join('forward\\n' + v for v in lines[1::2]))\nsys.stdin.read()",
    );
    let value = "x".repeat(300);
    let tuples: Vec<_> = (0..20_000)
        .map(|i| (format!("k{i}"), format!("{value}{i}")))
        .collect();
    let refs: Vec<(&str, &str)> = tuples.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    for script in [at_once, in_the_end] {
        let mut f = start(&script, SOON).await;
        assert!(
            f.run(&batch(&refs)).await.unwrap() == tuples,
            "the tuples do not come back as they were"
        );
    }
}

#[tokio::test]
async fn garbage_is_quoted() {
    let mut f = start(
        &sh("if [ $k = k0 ]; then echo filter; else echo hello there; echo why >&2; fi"),
        SOON,
    )
    .await;
    let e = f.fails().await;
    assert!(
        e.what.contains("`hello there`") && e.what.contains("`filter`, `forward`"),
        "{e}"
    );
    assert_eq!((e.key.as_deref(), e.restart_helps), (Some("k1"), true));
    // Killed at once, it may not have come to saying why.
    assert!(e.stderr.is_empty() || e.stderr == ["why"]);
}

#[tokio::test]
async fn answers_that_nobody_asked_for_are_an_error() {
    // Those of the last tuple in a batch may arrive when the batch is done: then the next one finds them.
    for script in [
        "#!/bin/sh\nyes filter\n",
        &sh("echo filter; echo filter; echo filter"),
    ] {
        let mut f = start(script, SOON).await;
        let deadline = clock::now() + SOON;
        // How many batches are done before, the machine's load decides: a program that gets no time has not said too much yet.
        let e = loop {
            if let Err(e) = f.run(&numbered(2)).await {
                break e;
            }
            assert!(clock::now() < deadline, "nobody notices");
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        assert!(e.what.contains("`filter`"), "{e}");
    }
}

#[tokio::test]
async fn a_program_that_exits_is_reported_with_its_last_words() {
    let script =
        sh("if [ $k = k1 ]; then for i in $(seq 30); do echo \"woe $i\" >&2; done; exit 3; fi; echo filter");
    let mut f = start(&script, SOON).await;
    let e = f.fails().await;
    assert!(e.what.contains("exit status: 3"), "{e}");
    assert_eq!(e.key.as_deref(), Some("k1"));
    let want: Vec<String> = (11..=30).map(|i| format!("woe {i}")).collect();
    assert_eq!(e.stderr, want);
    assert_eq!(f.stderr.lock().unwrap().len(), 30);
}

#[tokio::test]
async fn a_program_that_exits_between_batches_is_reported_at_the_next() {
    let mut f = start("#!/bin/sh\nread k; read v; echo filter\n", SOON).await;
    assert_eq!(f.run(&numbered(1)).await.unwrap(), vec![]);
    let e = f.fails().await;
    assert!(e.what.contains("exit status: 0"), "{e}");
    assert_eq!(e.key.as_deref(), Some("k0"));
}

#[tokio::test]
async fn a_program_that_closes_its_streams_is_reported() {
    let mut f = start(&python("os.close(1)\nsignal.pause()"), SOON).await;
    let e = f.fails().await;
    assert!(e.what.contains("closed its standard output"), "{e}");
    // Answers one tuple when its input is closed already.
    let mut f = start(
        &python("os.read(0, 100)\nos.close(0)\nos.write(1, b'filter\\n')\nsignal.pause()"),
        SOON,
    )
    .await;
    f.run(&numbered(1)).await.unwrap();
    let e = f.fails().await;
    assert!(e.what.contains("closed its standard input"), "{e}");
}

#[tokio::test]
async fn a_hang_is_ended_and_names_the_tuple() {
    let script = sh("if [ $k = k1 ]; then echo thinking >&2; sleep 1000; fi; echo filter");
    let mut f = start(&script, Duration::from_secs(4)).await;
    let pid = f.process.pid().unwrap();
    let e = f.fails().await;
    assert!(e.what.contains("answered nothing for 4 s"), "{e}");
    assert_eq!(
        (e.key.as_deref(), e.stderr),
        (Some("k1"), vec!["thinking".to_owned()])
    );
    gone(pid as i32).await;
}

/// Slower than the timeout in sum, not with any tuple.
#[tokio::test]
async fn slow_is_not_hung() {
    let mut f = start(&sh("sleep 0.4; echo filter"), Duration::from_secs(4)).await;
    assert_eq!(f.run(&numbered(12)).await.unwrap(), vec![]);
}

#[tokio::test]
async fn a_flood_on_stderr_does_not_block() {
    let script = python(
        "for k in sys.stdin:\n    v = next(sys.stdin)\n    os.write(2, b'flood flood flood\\n' * 20000)\n    print('filter')",
    );
    let mut f = start(&script, SOON).await;
    assert_eq!(f.run(&numbered(200)).await.unwrap(), vec![]);
    assert!(
        f.stderr.lock().unwrap().len() < 30_000,
        "{} lines were handed on",
        f.stderr.lock().unwrap().len()
    );
}

#[tokio::test]
async fn a_killed_child_is_reported_and_its_children_go_with_it() {
    let script = sh(
        "if [ $k = k1 ]; then sleep 1000 & echo $! > $OUT/sleeper.new; mv $OUT/sleeper.new $OUT/sleeper; kill -9 $$; fi; echo filter",
    );
    let mut f = start(&script, SOON).await;
    let e = f.fails().await;
    assert!(e.what.contains("signal: 9"), "{e}");
    assert_eq!(e.key.as_deref(), Some("k1"));
    let sleeper = fs::read_to_string(f.dir.path().join("sleeper"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    gone(sleeper).await;
}

#[tokio::test]
async fn dropped_it_is_killed_with_all_it_started() {
    let script = sh("sleep 1000 & echo forward; echo value: $!");
    let mut f = start(&script, SOON).await;
    let out = f.run(&numbered(1)).await.unwrap();
    let (sleeper, pid) = (out[0].1.parse::<i32>().unwrap(), f.process.pid().unwrap() as i32);
    kill(Pid::from_raw(sleeper), None::<Signal>).expect("the sleeper runs before");
    drop(f);
    gone(sleeper).await;
    gone(pid).await;
}

/// Runs in a process of its own, which the next test kills.
#[tokio::test]
#[ignore = "is started by another test"]
async fn a_worker_that_is_killed() {
    let Some(dir) = std::env::var_os("OPS_TEST_DIR") else {
        return;
    };
    let exe = PathBuf::from(dir).join("op");
    let _process = Process::start(&exe, &[], &[], &TEXT, None, SOON, |_| {})
        .await
        .unwrap();
    // A bound, should the other test be gone.
    tokio::time::sleep(SOON).await;
}

#[tokio::test]
async fn a_worker_killed_with_sigkill_takes_a_program_along_that_does_not_read() {
    let dir = tempfile::tempdir().unwrap();
    write_script(
        &dir,
        "#!/bin/sh\ncd ${0%/*}\necho $$ > pid.new\nmv pid.new pid\nexec sleep 1000 2>/dev/null >&2\n",
    );
    let mut worker = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "--ignored",
            "foreign::process::tests::a_worker_that_is_killed",
        ])
        .env("OPS_TEST_DIR", dir.path())
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let deadline = clock::now() + SOON;
    let pid = loop {
        if let Ok(text) = fs::read_to_string(dir.path().join("pid")) {
            break text.trim().parse::<i32>().unwrap();
        }
        assert!(clock::now() < deadline, "the operator does not start");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    kill(Pid::from_raw(pid), None::<Signal>).expect("it runs before");
    worker.kill().await.unwrap();
    gone(pid).await;
}

#[tokio::test]
async fn a_newline_in_a_tuple_is_poison_and_harms_nothing_else() {
    let mut f = start(&sh("echo forward; echo \"value: $v\""), SOON).await;
    for bad in [("k2", "a\nb"), ("k\n2", "a")] {
        let e = f.run(&batch(&[("k1", "v"), bad])).await.unwrap_err();
        assert!(e.what.contains("newline"), "{e}");
        assert_eq!(e.key, Some(bad.0.replace('\n', "\\n")));
    }
    assert_eq!(
        f.run(&batch(&[("k1", "v")])).await.unwrap(),
        pairs(&[("k1", "v")])
    );
}

#[tokio::test]
async fn an_endless_line_takes_bounded_memory() {
    let mut f = start(&python("while True:\n    os.write(1, b'x' * 1000000)"), SOON).await;
    // Its bytes are there before a batch is, or after: an error either way.
    let e = f.fails().await;
    assert!(
        e.what.contains("longer than 16 MiB") || e.what.contains("`xxx"),
        "{e}"
    );
    assert!(f.process.pipes.buffer_capacity() < 3 * LONGEST_LINE);
    let body = "sys.stdin.readline()\nwhile True:\n    os.write(1, b'x' * 1000000)";
    let mut f = start(&python(body), SOON).await;
    let e = f.fails().await;
    assert!(e.what.contains("longer than 16 MiB"), "{e}");
}

#[tokio::test]
async fn given_up_in_the_middle_it_answers_no_more() {
    let mut f = start(&sh("sleep 1000"), SOON).await;
    let (b, mut out) = (numbered(1), Collect::default());
    let cut = tokio::time::timeout(Duration::from_millis(50), f.process.process(&b, &mut out)).await;
    assert!(cut.is_err());
    let e = f.run(&b).await.unwrap_err();
    assert!(e.what.contains("in the middle of a batch"), "{e}");
}

#[tokio::test]
async fn at_the_end_it_may_not_have_more_to_say() {
    let mut f = start(&(sh("echo filter") + "echo total 7\n"), SOON).await;
    f.run(&numbered(2)).await.unwrap();
    let e = f.process.finish().await.unwrap_err();
    assert!(e.what.contains("`total 7`"), "{e}");
    // One that does not want to end is killed.
    let f = start("#!/bin/sh\nexec sleep 1000\n", Duration::from_millis(100)).await;
    let pid = f.process.pid().unwrap() as i32;
    tokio::time::timeout(SOON, f.process.finish())
        .await
        .unwrap()
        .unwrap();
    gone(pid).await;
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let exe = write_script(&dir, "#!/nonexistent/interpreter\n");
    let start = async |exe: &Path| {
        Process::start(exe, &[], &[], &TEXT, None, SOON, |_| {})
            .await
            .unwrap_err()
    };
    assert!(start(&exe).await.what.contains("interpreter"));
    fs::set_permissions(&exe, PermissionsExt::from_mode(0o644)).unwrap();
    assert!(start(&exe).await.what.contains("chmod +x"));
    let e = start(&dir.path().join("none")).await;
    assert!(
        e.what.contains("path of an executable") && !e.restart_helps,
        "{e}"
    );
}

/// Not an assertion about speed, which a busy machine would break: run with --nocapture to see it.
#[tokio::test]
async fn throughput_is_shown() {
    let trivial = [
        (
            "python, print",
            python("for k in sys.stdin:\n    v = next(sys.stdin)\n    print('filter')"),
        ),
        (
            "python, flush",
            python("for k in sys.stdin:\n    v = next(sys.stdin)\n    print('filter', flush=True)"),
        ),
        ("awk, fflush", awk("{ print \"filter\"; fflush() }")),
    ];
    let batches: Vec<Batch> = (0..10).map(|_| numbered(5000)).collect();
    for (name, script) in trivial {
        let mut f = start(&script, SOON).await;
        f.run(&numbered(10)).await.unwrap();
        let begin = clock::now();
        for b in &batches {
            f.run(b).await.unwrap();
        }
        let seconds = clock::now().since(begin).as_secs_f64();
        println!("{name}: {:.0} tuples/s", 50_000.0 / seconds);
    }
}
