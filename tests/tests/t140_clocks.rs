//! A node's wall clock is set while a job runs. (faults.md: clock set forward or back an hour)

use anyhow::{Result, ensure};
use system_tests::chaos::recovery::time_of_day;
use system_tests::job::held;
use system_tests::jobs::{GREP_COUNT, GREP_COUNT_ORACLE, with_end};
use system_tests::network::build;
use system_tests::{Cluster, Job, PATIENCE, Special, wait_for};

/// The wall clock of every process that has this loaded is off by the seconds that the file $RAINSTORM_TEST_CLOCK holds, from the
/// moment on that it is there.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long offset(void)
{
	static const char *path;
	long seconds = 0;
	if (!path) path = getenv("RAINSTORM_TEST_CLOCK");
	FILE *f = path ? fopen(path, "re") : NULL;
	if (!f) return 0;
	if (fscanf(f, "%ld", &seconds) != 1) seconds = 0;
	fclose(f);
	return seconds;
}

int clock_gettime(clockid_t id, struct timespec *t)
{
	static int (*real)(clockid_t, struct timespec *);
	if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
	int done = real(id, t);
	if (!done && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) t->tv_sec += offset();
	return done;
}

int gettimeofday(struct timeval *t, void *zone)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	t->tv_sec = now.tv_sec, t->tv_usec = now.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *t)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	if (t) *t = now.tv_sec;
	return now.tv_sec;
}
"#;

/// Three nodes; n2's daemons and workers have a wall clock of their own.
fn cluster(subnet: &str, lines: u64) -> Result<(Cluster, tempfile::TempDir)> {
    let folder = tempfile::tempdir()?;
    let shim = build(folder.path(), "clock.c", SHIM, &["-shared", "-fPIC", "-ldl"])?;
    let special = Special {
        first: format!(
            "if [ \"$node\" = n2 ] && [ $program != sshd ]; then export LD_PRELOAD={} RAINSTORM_TEST_CLOCK={}; fi",
            shim.display(),
            folder.path().join("offset").display()
        ),
        ..Special::default()
    };
    let cluster = Cluster::up_with(subnet, 3, special)?;
    cluster.load_text(lines)?;
    Ok((cluster, folder))
}

fn set(folder: &tempfile::TempDir, seconds: i64) -> Result<()> {
    // By renaming: nobody may read half a number.
    let new = folder.path().join("new");
    std::fs::write(&new, seconds.to_string())?;
    Ok(std::fs::rename(new, folder.path().join("offset"))?)
}

/// How far n2's daemons' and workers' logs are ahead of this clock, in hours: that the shim took hold.
fn hours_off(cluster: &Cluster, log: &str) -> Result<Option<u64>> {
    let text = std::fs::read_to_string(cluster.path(&format!("run/n2/log/{log}"))).unwrap_or_default();
    let at = text.lines().last().and_then(|l| l.get(11..19)).and_then(|t| {
        let mut parts = t.split(':').map(|p| p.parse::<u64>());
        Some(parts.next()?.ok()? * 3600 + parts.next()?.ok()? * 60 + parts.next()?.ok()?)
    });
    let now = time_of_day() / 1_000_000;
    Ok(at.map(|at| (at + 86_400 + 1800 - now) / 3600 % 24))
}

/// The job goes on for at least that much output.
fn goes_on(job: &mut Job<'_>, lines: usize) -> Result<()> {
    let before = job.printed()?;
    wait_for("more output", PATIENCE, || {
        ensure!(job.is_running()?, "the job is over: {}", job.said());
        Ok((job.printed()? > before + lines).then_some(()))
    })
}

#[test]
fn t141_a_nodes_clock_jumps_an_hour_ahead_and_back_again() -> Result<()> {
    let (cluster, folder) = cluster("127.0.65", 420_000)?;
    let mut job = cluster.start(
        "clock",
        &with_end(&GREP_COUNT, "out/clock", "true", &held(420_000)),
    )?;
    job.wait_for_output()?;
    let there = cluster.tasks("clock")?.iter().filter(|t| t.node == "n2").count();
    ensure!(there > 0, "no task on n2");
    for (seconds, hours) in [(3600, 1), (-3600, 23), (0, 0)] {
        set(&folder, seconds)?;
        // A RATE line comes every 5 s from each worker; it tells what the clock of its process says.
        goes_on(&mut job, 400)?;
        if seconds != 0 {
            wait_for("the clock to be seen", PATIENCE, || {
                Ok((hours_off(&cluster, "worker.log")? == Some(hours)).then_some(()))
            })?;
        }
        ensure!(
            job.is_running()?,
            "the job was over when the clock was set to {seconds} s"
        );
    }
    job.release()?;
    let summary = job.finish(PATIENCE)?;
    ensure!(summary["restarts"] == 0, "somebody timed out: {summary}");
    // M: nobody was called failed because of it.
    for n in 1..=3 {
        let log = std::fs::read_to_string(cluster.path(&format!("run/n{n}/log/memberd.log")))?;
        let failed: Vec<&str> = log.lines().filter(|l| l.contains(" FAILED ")).collect();
        ensure!(failed.is_empty(), "n{n}: {failed:?}");
    }
    let latency = summary["latency_ms"]["max"].as_f64().unwrap_or(0.0);
    eprintln!("the greatest latency is said to be {latency} ms: the difference of two nodes' clocks");
    cluster.check("out/clock", GREP_COUNT_ORACLE)
}

/// A node that starts again with its clock an hour back must not be taken for an older process of itself.
#[test]
fn t142_a_node_starts_again_with_its_clock_an_hour_back() -> Result<()> {
    let (cluster, folder) = cluster("127.0.65.21", 250_000)?;
    let mut job = cluster.start("back", &with_end(&GREP_COUNT, "out/back", "true", &held(250_000)))?;
    job.wait_for_output()?;
    set(&folder, -3600)?;
    cluster.kill_nodes(&["n2"])?;
    ensure!(job.is_running()?, "the job was over when the node was killed");
    cluster.script(&["start-node", "n2"])?;
    job.release()?;
    job.finish(PATIENCE)?;
    cluster.check("out/back", GREP_COUNT_ORACLE)?;
    ensure!(
        hours_off(&cluster, "memberd.log")? == Some(23),
        "the clock was not set"
    );
    // It works as before: a job has tasks there.
    let mut next = cluster.start("next", &with_end(&GREP_COUNT, "out/next", "true", &held(250_000)))?;
    next.wait_for_output()?;
    let there = cluster.tasks("next")?.iter().filter(|t| t.node == "n2").count();
    ensure!(there > 0, "n2 is not used any more");
    next.release()?;
    next.finish(PATIENCE)?;
    cluster.check("out/next", GREP_COUNT_ORACLE)
}
