//! What grows with time, and what bounds it: logs of programs, ended jobs, disks. (faults.md: weeks under way)

use std::fs::File;
use std::io::Write;

use anyhow::{Result, ensure};
use system_tests::{Cluster, PATIENCE, succeed};

/// Adds to the cluster file. What starts from now on reads it.
fn set(cluster: &Cluster, text: &str) -> Result<()> {
    Ok(File::options()
        .append(true)
        .open(cluster.config())?
        .write_all(text.as_bytes())?)
}

#[test]
fn t311_workers_that_share_a_log_rotate_it_and_lose_no_line() -> Result<()> {
    let cluster = Cluster::with_text("127.0.141", 3, 20_000)?;
    set(&cluster, "\n[log]\nmax_size = \"4KiB\"\nfiles = 100\n")?;
    for n in 0..4 {
        let (name, out) = (format!("many{n}"), format!("out{n}"));
        let job = [
            "2", "12", "grep", "static", "identity", "", "in", &out, "true", "false",
        ];
        cluster.start(&name, &job)?.finish(PATIENCE)?;
        cluster.check(
            &out,
            "awk '/static/ {print \"in/data.txt:\" NR \"\\t\" $0}' data.txt",
        )?;
    }

    let mut rotated = 0;
    for n in 1..=3 {
        for entry in std::fs::read_dir(cluster.path(&format!("run/n{n}/log")))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("worker.log") {
                rotated += usize::from(name != "worker.log");
                let text = std::fs::read_to_string(entry.path())?;
                let torn = text
                    .lines()
                    .find(|l| !l.starts_with("20") || !l.contains(" job=many"));
                ensure!(torn.is_none(), "{name}: {torn:?}");
            }
        }
    }
    ensure!(rotated > 0, "no log was ever full");
    let all: Vec<String> = (1..=2)
        .flat_map(|stage| (0..12).map(move |task| format!("task=s{stage}t{task}")))
        .collect();
    for word in ["TASK_START", "TASK_END"] {
        let mut ctl = cluster.command("rainstormctl");
        let lines = succeed(ctl.args(["grep", &format!(" {word} job=many.*pid=")]))?;
        for (n, task) in (0..4).flat_map(|n| all.iter().map(move |task| (n, task))) {
            let (job, task) = (format!(" job=many{n} "), format!(" {task} "));
            let said = lines
                .lines()
                .filter(|l| l.contains(":worker.log") && l.contains(&job) && l.contains(&task));
            ensure!(said.count() == 1, "{word} of {task} of {job}: {lines}");
        }
    }
    Ok(())
}
