//! Disks that are full, and more nodes lost than there are copies. (faults.md: disk full; a third before repair)

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use system_tests::disks::{self, Tmpfs};
use system_tests::job::held;
use system_tests::jobs::{GREP_COUNT, GREP_COUNT_ORACLE, with_end};
use system_tests::{Cluster, PATIENCE, Special, now, skip, wait_for, write_text};

/// Of each node's data folder.
const DISK_MB: u32 = 48;

/// The disks of all nodes fill up under a running job; later there is room again.
#[test]
fn t121_the_disks_are_full_until_there_is_room_again() -> Result<()> {
    if let Err(why) = disks::is_possible() {
        skip(format_args!("no small disk can be mounted here: {why}"));
        return Ok(());
    }
    let special = Special {
        prepare: Some(Box::new(|run| {
            let mounts = (1..=3).map(|n| Tmpfs::mount(&run.join(format!("n{n}/data")), DISK_MB));
            mounts
                .map(|m| m.map(|m| Box::new(m) as Box<dyn Send + Sync>))
                .collect()
        })),
        ..Special::default()
    };
    let cluster = Cluster::up_with("127.0.65.31", 3, special)?;
    cluster.load_text(400_000)?;
    let fillers: Vec<_> = (1..=3)
        .map(|n| cluster.path(&format!("run/n{n}/data/filler")))
        .collect();
    let mut job = cluster.start_alone(
        "full",
        &with_end(&["1", "2", "identity", ""], "out/full", "true", &held(400_000)),
    )?;
    job.wait_for_output()?;
    // Somebody else takes what is free.
    for filler in &fillers {
        let file = std::fs::File::create(filler)?;
        let mut chunk = 1 << 20;
        let mut at = 0;
        while chunk >= 4096 {
            use std::os::unix::fs::FileExt;
            match file.write_all_at(&vec![0; chunk], at) {
                Ok(()) => at += chunk as u64,
                Err(_) => chunk /= 4,
            }
        }
        ensure!(at > 1 << 20, "the disk of {} was full before", filler.display());
    }
    let full = now();
    ensure!(job.is_running()?, "the job was over when the disks were full");
    let before = job.printed()?;
    // Appends must not be said to be there: what is printed is what is stored.
    let stalled = wait_for("the output to stop", PATIENCE, || {
        let printed = job.printed()?;
        std::thread::sleep(Duration::from_millis(500));
        Ok((!job.is_running()? || job.printed()? == printed).then_some(printed))
    })?;
    eprintln!("{before} lines were out when the disks were full, {stalled} in all before it stopped");
    let says = |what: &str| -> Result<Vec<String>> {
        let mut found = vec![];
        for n in 1..=3 {
            let log = std::fs::read_to_string(cluster.path(&format!("run/n{n}/log/hydfsd.log")))?;
            found.extend(log.lines().filter(|l| l.contains(what)).map(str::to_owned));
        }
        Ok(found)
    };
    let told = wait_for("a storage node to say that its disk is full", PATIENCE, || {
        let told = [says("FULL")?, says("No space left")?].concat();
        Ok((!told.is_empty()).then_some(told))
    })?;
    eprintln!("{}", told[0]);
    ensure!(!told.iter().any(|l| l.contains("panicked")), "{told:#?}");
    for filler in &fillers {
        std::fs::remove_file(filler)?;
    }
    eprintln!("room again {:?} later", now() - full);
    if job.is_running()? {
        job.release()?;
    }
    let status = job.wait_for_end(PATIENCE)?;
    if !status.success() {
        // It may give up, if it says why; what was acknowledged must be there then, and it can be resumed.
        let said = job.said();
        ensure!(
            status.code() == Some(1) && said.contains("full"),
            "{status}: {said}"
        );
        cluster.wait_until_gone("full", PATIENCE)?;
        let mut again = cluster.resume("full", "n1")?;
        again.wait_for_output()?;
        again.release()?;
        again.finish(PATIENCE)?;
    }
    cluster.wait_until_gone("full", PATIENCE)?;
    cluster.check(
        "out/full",
        r#"awk '{ print "in/data.txt:" NR "\t" $0 }' data.txt"#,
    )
}

/// All three nodes that have one of the job's files are lost at once, with more than half of all nodes left. There may be loss:
/// it must be said, with the file's name, in bounded time.
#[test]
fn t122_three_nodes_lost_at_once_is_told_with_the_files_name() -> Result<()> {
    if std::env::var_os("RAINSTORM_SLOW").is_none() {
        skip(
            "takes three quarters of a minute, most of it a storage call's patience; RAINSTORM_SLOW=1 runs it",
        );
        return Ok(());
    }
    let cluster = Cluster::up("127.0.65.41", 7)?;
    write_text(&cluster.path("data.txt"), 400_000, 7)?;
    // An input none of whose copies is on the leader's own node.
    let mut found = None;
    for n in 0..20 {
        let name = format!("lost{n}/data.txt");
        cluster.hydfs(&["create", "data.txt", &name])?;
        let said = cluster.hydfs(&["stat", &name])?;
        let replicas = said
            .rsplit_once("replicas ")
            .context("replicas")?
            .1
            .trim()
            .to_owned();
        let nodes: BTreeSet<&str> = replicas.split(',').collect();
        if nodes.len() == 3 && !nodes.contains("n1") {
            found = Some((name, replicas));
            break;
        }
        cluster.hydfs(&["rm", &name])?;
    }
    let (name, replicas) = found.context("no file away from n1")?;
    let nodes: Vec<&str> = replicas.split(',').collect();
    let source = name.split('/').next().unwrap_or_default();
    // A storage call has half a minute's patience of its own; only after that is it a failure, and here the first one counts.
    let mut args = vec!["--max-restarts", "0"];
    args.extend(GREP_COUNT);
    let rate = held(400_000);
    args.extend([source, "out/lost", "true", "false", &rate]);
    let mut job = cluster.start_alone("lost", &args)?;
    job.wait_for_output()?;
    cluster.kill_nodes(&nodes)?;
    let struck = now();
    ensure!(job.is_running()?, "the job was over when the nodes were killed");
    let status = job.wait_for_end(PATIENCE)?;
    let said = job.said();
    eprintln!(
        "{status} after {:?}: {}",
        now() - struck,
        said.lines().last().unwrap_or_default()
    );
    ensure!(
        status.code() == Some(1),
        "three nodes with all copies of {name} are lost, and the job ends with {status}: {said}"
    );
    let last = said.lines().last().unwrap_or_default();
    let lost = |file: &str| last.contains(file);
    ensure!(
        lost(&name) || lost("out/lost") || lost("jobs/lost/"),
        "the last line names no file: {last}"
    );
    cluster.wait_until_gone("lost", PATIENCE)?;
    // The files' own command says it, too.
    let out = cluster
        .command("hydfs")
        .args(["--patience", "3", "get", &name, "got"])
        .output()?;
    let get = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(
        !out.status.success() && get.contains(&name),
        "{}: {get}",
        out.status
    );
    // They come back with what they had: the job can be resumed, and is exact.
    nodes
        .iter()
        .try_for_each(|node| cluster.script(&["start-node", node]).map(drop))?;
    let mut again = cluster.resume("lost", "n1")?;
    again.wait_for_output()?;
    again.release()?;
    again.finish(PATIENCE)?;
    cluster.check("out/lost", GREP_COUNT_ORACLE)
}
