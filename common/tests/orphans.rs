//! In a process of its own: it adopts, and what it did not start it kills.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use common::orphans;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Ways in which a program may leave a helper behind. Each helper writes its number.
const WAYS: [&str; 4] = [
    "sh -c 'echo $$ > helper; exec sleep 600' &",
    "setsid sh -c 'echo $$ > helper; exec sleep 600' &",
    "nohup sh -c 'echo $$ > helper; exec sleep 600' > /dev/null 2>&1 &",
    r#"(setsid sh -c 'sh -c "echo \$\$ > helper; exec env -i sleep 600" &' &) &"#,
];

fn run(script: &str, folder: &std::path::Path) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(folder);
    command.env(orphans::MARK, orphans::new_mark());
    // A helper that is not ended must not hold the streams of who runs this test.
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.process_group(0);
    command.spawn().unwrap()
}

fn runs(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z")
}

fn helper(folder: &std::path::Path) -> i32 {
    loop {
        let text = std::fs::read_to_string(folder.join("helper")).unwrap_or_default();
        match text.trim().parse() {
            Ok(pid) => return pid,
            Err(_) => std::thread::yield_now(),
        }
    }
}

/// One test, since all tests of a file share a process.
#[test]
fn what_a_program_leaves_behind_is_ended_and_nothing_else() {
    orphans::adopt().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut other = run("exec sleep 600", folder.path());
    let _other = orphans::own(other.id());
    for way in WAYS {
        let _ = std::fs::remove_file(folder.path().join("helper"));
        let mut child = run(
            &format!("{way}\nwhile [ ! -s helper ]; do :; done"),
            folder.path(),
        );
        let own = orphans::own(child.id());
        let helper = helper(folder.path());
        child.wait().unwrap();
        assert!(runs(helper), "{way}: it ended by itself");
        orphans::end(Some(own.pid()), None);
        assert!(!runs(helper), "{way}");
        assert!(
            runs(other.id() as i32),
            "{way}: a child of this process was killed"
        );
    }
    // Killed in the midst: what it leaves comes when it is dead.
    let _ = std::fs::remove_file(folder.path().join("helper"));
    let mut child = run(&format!("{}\nexec sleep 600", WAYS[1]), folder.path());
    let own = orphans::own(child.id());
    let left = helper(folder.path());
    kill(own.pid(), Signal::SIGKILL).unwrap();
    orphans::end(Some(own.pid()), None);
    assert!(!runs(left));
    child.wait().unwrap();
    // One that ends by itself while nobody looks for orphans is reaped.
    let _ = std::fs::remove_file(folder.path().join("helper"));
    let mut child = run(
        "setsid sh -c 'echo $$ > helper; sleep 0.1' &\nwhile [ ! -s helper ]; do :; done",
        folder.path(),
    );
    let _own = orphans::own(child.id());
    let left = helper(folder.path());
    child.wait().unwrap();
    while std::path::Path::new(&format!("/proc/{left}")).exists() {
        orphans::reap();
        std::thread::yield_now();
    }
    kill(Pid::from_raw(other.id() as i32), Signal::SIGKILL).unwrap();
    other.wait().unwrap();
}
