//! The program itself, as it is typed.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use common::backoff::Backoff;
use common::clock;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::BOUND;
use crate::net::write_cluster;

/// Killed when the test ends, however it ends.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn memberd(cluster: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_memberd"));
    command
        .args(args)
        .arg("--cluster")
        .arg(cluster)
        .env_remove("RAINSTORM_LOG");
    command
}

fn daemon(cluster: &Path, node: &str) -> Daemon {
    Daemon(
        memberd(cluster, &["--node", node])
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    )
}

/// Tries again until `check` is content, within the bound.
fn eventually<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let start = clock::now();
    let mut backoff = Backoff::quick();
    loop {
        if let Some(done) = check() {
            return done;
        }
        assert!(clock::now().since(start) < BOUND, "{what}: not within {BOUND:?}");
        std::thread::sleep(backoff.delay());
    }
}

fn states(cluster: &Path, node: &str) -> Option<Vec<(String, String)>> {
    let output = memberd(cluster, &["list_mem", "--json", "--node", node])
        .output()
        .unwrap();
    let all: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let text = |v: &serde_json::Value| v.as_str().unwrap().to_owned();
    Some(
        all.as_array()?
            .iter()
            .map(|m| (text(&m["name"]), text(&m["state"])))
            .collect(),
    )
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn runs_answers_leaves_and_explains_itself() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = write_cluster(dir.path(), 70, 2, "auth");
    let _n1 = daemon(&cluster, "n1");
    let mut n2 = daemon(&cluster, "n2");
    let of = |a: &str, b: &str| {
        Some(vec![
            ("n1".to_owned(), a.to_owned()),
            ("n2".to_owned(), b.to_owned()),
        ])
    };
    eventually("both know both", || {
        let both = of("alive", "alive");
        (states(&cluster, "n1") == both && states(&cluster, "n2") == both).then_some(())
    });

    let itself = memberd(&cluster, &["list_self", "--json", "--node", "n2"])
        .output()
        .unwrap();
    let itself: serde_json::Value = serde_json::from_slice(&itself.stdout).unwrap();
    assert_eq!(itself["addr"], "127.0.1.71");
    assert_eq!(itself["id"], format!("n2@{}", itself["incarnation"]));
    let table = memberd(&cluster, &["list_mem", "--node", "n1"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&table.stdout).lines().count(), 3);

    let second = memberd(&cluster, &["--node", "n1"]).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(
        said(&second).contains("127.0.1.70") && said(&second).contains("stop it"),
        "{}",
        said(&second)
    );
    assert_eq!(
        memberd(&cluster, &["--node", "n7"])
            .output()
            .unwrap()
            .status
            .code(),
        Some(2)
    );
    assert_eq!(memberd(&cluster, &[]).output().unwrap().status.code(), Some(2));

    kill(Pid::from_raw(n2.0.id() as i32), Signal::SIGTERM).unwrap();
    let status = eventually("n2 exits", || n2.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    eventually("n1 knows that n2 has left", || {
        (states(&cluster, "n1") == of("alive", "left")).then_some(())
    });
    let asked = memberd(&cluster, &["list_mem", "--node", "n2"]).output().unwrap();
    assert_eq!(asked.status.code(), Some(1));
    assert!(said(&asked).contains("is it running?"), "{}", said(&asked));

    let log = std::fs::read_to_string(dir.path().join("n1/log/memberd.log")).unwrap();
    for event in [
        "INFO START node=n1 incarnation=",
        "INFO JOIN node=n2",
        "INFO LEAVE node=n2",
    ] {
        assert!(log.contains(event), "{event} in {log}");
    }
}
