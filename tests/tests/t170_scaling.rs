//! Stages gain and lose tasks while tasks are killed: the output is exact. (faults.md: scaling up and down while tasks are
//! killed) [`common::seeds`] says how to run more seeds, or one again.

use anyhow::{Result, ensure};
use common::seeds::Seeds;
use system_tests::{Cluster, PATIENCE, succeed, wait_for};

/// A job that is scaled, and what awk makes of its input.
struct Flow {
    stages: &'static [&'static str],
    options: &'static [&'static str],
    oracle: &'static str,
    /// What is to be scaled up and down: any stage, or this one.
    scaled: &'static str,
}

/// Lines with `static`, counted by their first word; and the same passed on by two stateless stages.
const STATELESS: [Flow; 2] = [
    Flow {
        stages: &["2", "1", "grep", "--key word:0 static", "count", ""],
        options: &[],
        oracle: r#"awk '/static/ { print $1 "\t" ++n[$1] }' data.txt"#,
        scaled: " stage=",
    },
    Flow {
        stages: &[
            "2",
            "1",
            "grep",
            "--key const:k static",
            "replace",
            "static STATIC",
        ],
        options: &[],
        oracle: r#"awk '/static/ { gsub(/static/, "STATIC"); print "k\t" $0 }' data.txt"#,
        scaled: " stage=",
    },
];
/// All lines counted: by a dozen first words; by the second words, which are numbers in a sixth of the lines, so tens of
/// thousands of keys; the same once at the end, with a stage behind it; and each line by itself, right behind the source.
const STATEFUL: [Flow; 4] = [
    Flow {
        stages: &["2", "1", "grep", "--key word:0 .", "count", ""],
        options: &["--scale-stateful"],
        oracle: r#"awk '{ print $1 "\t" ++n[$1] }' data.txt"#,
        scaled: " stage=2 ",
    },
    Flow {
        stages: &["2", "1", "grep", "--key word:1 .", "count", ""],
        options: &["--scale-stateful"],
        oracle: r#"awk '{ print $2 "\t" ++n[$2] }' data.txt"#,
        scaled: " stage=2 ",
    },
    Flow {
        stages: &[
            "3",
            "1",
            "grep",
            "--key word:1 .",
            "count",
            "--emit final",
            "identity",
            "",
        ],
        options: &["--scale-stateful"],
        oracle: r#"awk '{ ++n[$2] } END { for (key in n) print key "\t" n[key] }' data.txt"#,
        scaled: " stage=2 ",
    },
    Flow {
        stages: &["1", "1", "count", ""],
        options: &["--scale-stateful"],
        oracle: r#"awk '{ print "in/data.txt:" NR "\t1" }' data.txt"#,
        scaled: " stage=1 ",
    },
];
const SLOW: u64 = 3_000;
const FAST: u64 = 18_000;

/// splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n.max(1)
    }
}

/// One job: rates up and down, a kill at a moment of the seed's choice after each change begins.
fn run(cluster: &Cluster, flow: &Flow, name: &str, seed: u64) -> Result<()> {
    let mut random = Random(seed);
    let (dest, slow) = (format!("out/{name}"), SLOW.to_string());
    let mut args = flow.stages.to_vec();
    args.extend(["in", &dest, "true", "true", &slow, "4000", "8000"]);
    let options = ["--max-tasks", "4", "--console", "none"];
    let args = [&options[..], flow.options, &args].concat();
    let mut job = cluster.start(name, &args)?;
    wait_for("the first tuples", PATIENCE, || {
        let tasks = cluster.tasks(name)?;
        Ok(
            (tasks.len() > flow.stages.len() / 2 - 1 && tasks.iter().all(|t| t.state == "running"))
                .then_some(()),
        )
    })?;
    let mut kills = 0;
    for round in 0..4 {
        let rate = if round % 2 == 0 { FAST } else { SLOW };
        succeed(
            cluster
                .command("rainstormctl")
                .args(["set_rate", name, &rate.to_string()]),
        )?;
        let (word, least) = if rate == FAST {
            ("SCALE_UP", round / 2 + 1)
        } else {
            ("SCALE_DOWN", round / 2 + 1)
        };
        wait_for(word, PATIENCE, || {
            let seen = cluster.log_lines(word)?;
            let mine = seen
                .iter()
                .filter(|l| l.contains(&format!("job={name} ")) && l.contains(flow.scaled))
                .count();
            Ok((mine >= least).then_some(()))
        })?;
        for _ in 0..1 + random.below(3) {
            wait_for("a task to kill", PATIENCE, || {
                let tasks = cluster.tasks(name)?;
                let alive: Vec<_> = tasks
                    .iter()
                    .filter(|t| t.pid.is_some() && t.state != "retired")
                    .collect();
                let Some(victim) = alive.get(random.below(alive.len() as u64) as usize) else {
                    return Ok(None);
                };
                // It may have ended by itself just now: then another one.
                let (node, pid) = (victim.node.clone(), victim.pid.unwrap_or(0).to_string());
                let killed = cluster
                    .command("rainstormctl")
                    .args(["kill_task", &node, &pid])
                    .output()?;
                Ok(killed.status.success().then_some(()))
            })?;
            kills += 1;
        }
    }
    succeed(cluster.command("rainstormctl").args(["set_rate", name, "0"]))?;
    let status = job.wait_for_end(PATIENCE)?;
    ensure!(
        status.success(),
        "seed {seed}: the job failed with {status}: {}",
        job.said()
    );
    let summary = job.summary()?;
    ensure!(kills >= 4, "seed {seed}: only {kills} kills");
    ensure!(
        summary["scale_events"].as_u64() >= Some(4) && summary["restarts"].as_u64() >= Some(2),
        "seed {seed}: {summary}"
    );
    cluster.check(&dest, flow.oracle)?;
    succeed(cluster.command("rainstormctl").args(["verify", name]))?;
    cluster.wait_until_gone(name, PATIENCE)?;
    println!(
        "seed {seed}: {kills} kills, {} changes, {} restarts",
        summary["scale_events"], summary["restarts"]
    );
    Ok(())
}

#[test]
fn t171_stages_are_scaled_while_tasks_are_killed() -> Result<()> {
    let cluster = Cluster::with_text("127.0.66.101", 3, 500_000)?;
    Seeds::from_env(0..2).range.try_for_each(|seed| {
        let flow = &STATELESS[(seed % 2) as usize];
        run(&cluster, flow, &format!("scaled{seed}"), seed)
    })
}

/// Each key's counts are 1, 2, 3, ... each once, however often its state moved and whoever was killed meanwhile.
#[test]
fn t172_state_moves_between_tasks_while_tasks_are_killed() -> Result<()> {
    let cluster = Cluster::with_text("127.0.48.101", 3, 500_000)?;
    Seeds::from_env(0..4).range.try_for_each(|seed| {
        let flow = &STATEFUL[(seed % 4) as usize];
        let name = format!("moved{seed}");
        run(&cluster, flow, &name, seed)?;
        let moved = cluster.log_lines("HAND_OVER")?;
        let keys = |line: &String| {
            line.split(" keys=")
                .nth(1)
                .and_then(|n| n.split(' ').next()?.parse::<u64>().ok())
        };
        let mine = moved.iter().filter(|l| l.contains(&format!("job={name} ")));
        let keys: u64 = mine.filter_map(keys).sum();
        ensure!(keys > 0, "seed {seed}: no key was handed over: {moved:?}");
        println!("seed {seed}: {keys} keys were handed over");
        Ok(())
    })
}

/// The leader dies as a change begins, and another takes it to its end.
#[test]
fn t173_state_that_moves_arrives_although_the_leader_dies() -> Result<()> {
    let cluster = Cluster::with_text("127.0.48.121", 3, 400_000)?;
    let flow = &STATEFUL[1];
    let mut args = vec!["--scale-stateful", "--max-tasks", "4", "--console", "none"];
    args.extend(flow.stages);
    args.extend(["in", "out/taken", "true", "true", "18000", "4000", "8000"]);
    let mut job = cluster.start_alone("taken", &args)?;
    for (node, changes) in [("n2", 1), ("n3", 2)] {
        wait_for("a change of the stage that counts", PATIENCE, || {
            let lines = cluster.log_lines("SCALE_UP")?;
            let mine = lines.iter().filter(|l| l.contains(flow.scaled)).count();
            Ok((mine >= changes).then_some(()))
        })?;
        job.kill_leader()?;
        job = cluster.resume("taken", node)?;
    }
    wait_for("the state to have moved", PATIENCE, || {
        let lines = cluster.log_lines("HAND_OVER")?;
        let to_new = |l: &&String| l.contains(" version=2 ") && l.contains("to=s2t2");
        Ok((lines.iter().filter(to_new).count() >= 2).then_some(()))
    })?;
    succeed(cluster.command("rainstormctl").args(["set_rate", "taken", "0"]))?;
    let status = job.wait_for_end(PATIENCE)?;
    ensure!(status.success(), "the job failed with {status}: {}", job.said());
    cluster.check("out/taken", flow.oracle)?;
    succeed(cluster.command("rainstormctl").args(["verify", "taken"]))?;
    cluster.wait_until_gone("taken", PATIENCE)
}
