//! Processes that die between two steps of the protocol: before and after a log append, a forward, an acknowledgement, an append
//! to the destination. (faults.md: kill at each protocol point)

use anyhow::{Result, ensure};
use system_tests::jobs::{GREP_COUNT, GREP_COUNT_ORACLE, THREE, THREE_ORACLE, with_end};
use system_tests::{Cluster, PATIENCE, Special};

const LINES: u64 = 60_000;

/// A point, and the stages whose tasks come to it in a job of three stages.
const POINTS: [(&str, &str); 8] = [
    ("before-log", "s0 s1 s2 s3"),
    ("after-log", "s0 s1 s2 s3"),
    ("before-forward", "s0 s1 s2"),
    ("after-forward", "s0 s1 s2"),
    ("before-ack", "s1 s2 s3"),
    ("after-ack", "s1 s2 s3"),
    ("before-dest", "s3"),
    ("after-dest", "s3"),
];

/// In the file `points` is what each process is to die of: lines `TASK EPOCH POINT:N`.
const FIRST: &str = r#"
if [ "$program" = worker ]; then
    RAINSTORM_FAIL_POINT=$(awk -v t="$task" -v e="$epoch" '$1 == t && $2 == e { print $3 }' "${0%/*}/../points")
    if [ -n "$RAINSTORM_FAIL_POINT" ]; then export RAINSTORM_FAIL_POINT; else unset RAINSTORM_FAIL_POINT; fi
fi"#;

fn cluster(subnet: &str) -> Result<Cluster> {
    let special = Special {
        first: FIRST.into(),
        ..Special::default()
    };
    let cluster = Cluster::up_with(subnet, 3, special)?;
    cluster.load_text(LINES)?;
    Ok(cluster)
}

/// A job each of whose processes named in `deaths` dies at its point. A process comes to a point only with tuples in flight: it
/// dies with the very record, frame, acknowledgement or output in its hands.
fn run(
    cluster: &Cluster,
    name: &str,
    stages: &[&str],
    oracle: &str,
    rate: &str,
    deaths: &[String],
) -> Result<()> {
    std::fs::write(cluster.path("points"), deaths.concat())?;
    let dest = format!("out/{name}");
    let job = cluster.start(name, &with_end(stages, &dest, "true", rate))?;
    let summary = job.finish(PATIENCE)?;
    ensure!(
        summary["restarts"] == deaths.len(),
        "{} processes were to die at {deaths:?}: {summary}",
        deaths.len()
    );
    for death in deaths {
        let mut words = death.split_whitespace();
        let (task, epoch) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let armed = cluster.log_lines(&format!("FAIL_POINT job={name} task={task} epoch={epoch} "))?;
        let failed = cluster.log_lines(&format!("TASK_FAIL job={name} task={task} epoch={epoch} "))?;
        ensure!(!failed.is_empty(), "{death:?} did not happen: {armed:?}");
    }
    cluster.check(&dest, oracle)?;
    // L
    let said = cluster.command("rainstormctl").args(["verify", name]).output()?;
    ensure!(
        said.status.success(),
        "{}{}",
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr)
    );
    Ok(())
}

/// One task of each stage dies at the point: the first process in the middle of the stream, its replacement the first time that
/// it comes there.
#[test]
fn t101_a_task_of_each_stage_dies_at_each_protocol_point() -> Result<()> {
    let cluster = cluster("127.0.64")?;
    for (point, stages) in POINTS {
        let deaths: Vec<String> = stages
            .split(' ')
            .flat_map(|s| [format!("{s}t1 1 {point}:6\n"), format!("{s}t1 2 {point}:1\n")])
            .collect();
        run(&cluster, point, &THREE, THREE_ORACLE, "60000", &deaths)?;
    }
    Ok(())
}

/// The same where state is kept: the counting task.
#[test]
fn t102_an_aggregate_dies_at_each_protocol_point() -> Result<()> {
    let cluster = cluster("127.0.64.21")?;
    let points = POINTS.iter().map(|(p, _)| *p).filter(|p| !p.ends_with("forward"));
    let deaths: Vec<String> = points
        .enumerate()
        .map(|(n, point)| format!("s2t0 {} {point}:{}\n", n + 1, n % 2 + 2))
        .collect();
    run(
        &cluster,
        "state",
        &GREP_COUNT,
        GREP_COUNT_ORACLE,
        "20000",
        &deaths,
    )
}
