//! What values mean: whole numbers beyond 64 bits, lines that are no CSV records, byte order marks; and copies of operators that
//! are not what they should be. (faults.md: wrong data with exit code 0)

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use system_tests::{Cluster, succeed};

const LIMIT: Duration = Duration::from_secs(60);

/// Writes a file with Python and puts it into HyDFS as `in/NAME`.
fn make(cluster: &Cluster, name: &str, script: &str) -> Result<()> {
    let text = succeed(Command::new("python3").args(["-c", script]))?;
    std::fs::write(cluster.path(name), text)?;
    cluster.hydfs(&["create", name, &format!("in/{name}")]).map(drop)
}

/// Running values of every key, by Python's integers.
fn running(step: &str) -> String {
    format!(
        r#"python3 -c '
kept = {{}}
for line in open("numbers.txt"):
    key, number = line.rstrip("\n").split(",")
    old, new = kept.get(key), int(number)
    kept[key] = new if old is None else {step}
    print(key + "\t" + str(kept[key]))
'"#
    )
}

#[test]
fn t240_whole_numbers_of_any_size_are_exact_through_kills() -> Result<()> {
    let cluster = Cluster::up("127.0.140", 3)?;
    // Neighbours, which a double cannot tell apart, of either sign.
    make(
        &cluster,
        "numbers.txt",
        r#"
import random
random.seed(240)
for n in range(40000):
    sign = random.choice((1, -1))
    print(f"k{n % 50},{sign * (2 ** random.choice((53, 64, 80)) + random.randrange(-9, 9))}")
"#,
    )?;
    for (op, step) in [
        ("max", "max(old, new)"),
        ("min", "min(old, new)"),
        ("sum", "old + new"),
    ] {
        let dest = format!("out/{op}");
        let stages = ["2", "1", "identity", "--key field:0", op, "-c 1"];
        let mut args = stages.to_vec();
        args.extend(["in/numbers.txt", &dest, "true", "false", "12000"]);
        let mut job = cluster.start(op, &args)?;
        job.wait_for_output()?;
        for epoch in 1..3 {
            let victim = job.kill_task("s2t0")?;
            ensure!(victim.epoch >= epoch);
            job.wait_for_task("s2t0", victim.epoch + 1)?;
        }
        job.finish(LIMIT)?;
        cluster.check(&dest, &running(step))?;
    }
    // Comparisons, and means that are whole.
    let end = ["in/numbers.txt", "out/gt", "true", "false"];
    let filter = ["1", "2", "filter", "-c 1 -gt 18446744073709551615 --key field:1"];
    cluster
        .start("gt", &[&filter[..], &end].concat())?
        .finish(LIMIT)?;
    cluster.check(
        "out/gt",
        r#"python3 -c '
for line in open("numbers.txt"):
    line = line.rstrip("\n")
    if int(line.split(",")[1]) > 2 ** 64 - 1: print(line.split(",")[1] + "\t" + line)
'"#,
    )?;
    make(
        &cluster,
        "pairs.txt",
        "for n in range(1000):\n    for d in (-n, n): print(f\"k{n % 7},{10 ** 30 + n % 7 + d}\")",
    )?;
    let mean = ["2", "2", "identity", "--key field:0", "avg", "-c 1 --emit final"];
    let end = ["in/pairs.txt", "out/avg", "true", "false"];
    cluster.start("avg", &[&mean[..], &end].concat())?.finish(LIMIT)?;
    cluster.check(
        "out/avg",
        r#"python3 -c 'for k in range(7): print(f"k{k}\t{10 ** 30 + k}")'"#,
    )?;
    // A sum beyond 128 bits is no number any more: refused, and with --poison skip that tuple alone is left out.
    make(
        &cluster,
        "wide.txt",
        "for n in (2 ** 127 - 1, 1, -5): print(f\"k,{n}\")",
    )?;
    let sum = ["2", "1", "identity", "--key const:k", "sum", "-c 1"];
    let end = ["in/wide.txt", "out/wide", "true", "false"];
    let said = cluster
        .start("wide", &[&["--max-restarts", "0"], &sum[..], &end].concat())?
        .fail(LIMIT)?;
    let last = said.lines().last().unwrap_or_default();
    ensure!(last.contains("128 bits") && last.contains("`k`"), "{last}");
    let end = ["in/wide.txt", "out/skip", "true", "false"];
    let skip = ["--poison", "skip", "--max-restarts", "0"];
    cluster
        .start("skip", &[&skip, &sum[..], &end].concat())?
        .finish(LIMIT)?;
    cluster.check(
        "out/skip",
        r#"python3 -c 'for n in (2 ** 127 - 1, 2 ** 127 - 6): print(f"k\t{n}")'"#,
    )?;
    let aside = cluster.hydfs(&["cat", "out/skip.poison"])?;
    ensure!(aside.lines().count() == 1 && aside.contains("k,1"), "{aside}");
    Ok(())
}

#[test]
fn t241_lines_that_are_no_records_are_refused_and_a_byte_order_mark_is_no_data() -> Result<()> {
    let cluster = Cluster::up("127.0.140.21", 3)?;
    let text = "\u{feff}name,city\nada,\"London\"\nbob,\"New\nYork\",x\ncyd,\"Ro\"me\ndan,Oslo\n";
    std::fs::write(cluster.path("people.csv"), text)?;
    cluster.hydfs(&["create", "people.csv", "in/people.csv"])?;
    let stages = ["1", "1", "identity", "--csv --key field:0"];
    let end = |dest: &'static str| ["in/people.csv", dest, "true", "false"];
    let said = cluster
        .start(
            "refused",
            &[&["--max-restarts", "0"], &stages[..], &end("out/refused")].concat(),
        )?
        .fail(LIMIT)?;
    let last = said.lines().last().unwrap_or_default();
    let says = ["column 1", "still open at the line's end", "in/people.csv:3"];
    ensure!(says.iter().all(|s| last.contains(s)), "{last}");

    let skip = ["--poison", "skip", "--max-restarts", "0"];
    cluster
        .start("skip", &[&skip, &stages[..], &end("out/skip")].concat())?
        .finish(LIMIT)?;
    // The value is as it was, the key without the mark.
    cluster.check("out/skip", "awk -F, 'NR==1||NR==2||NR==6 { key=$1; sub(/^\\357\\273\\277/, \"\", key); print key \"\\t\" $0 }' people.csv")?;
    let aside = cluster.hydfs(&["cat", "out/skip.poison"])?;
    let missing: Vec<_> = ["bob,\"New", "York\",x", "cyd,\"Ro\"me"]
        .into_iter()
        .filter(|line| !aside.contains(line))
        .collect();
    ensure!(
        missing.is_empty() && aside.lines().count() == 3,
        "{missing:?}: {aside}"
    );
    // Who does not ask for columns in quotes gets the bytes.
    let plain = [
        "1",
        "1",
        "grep",
        ".",
        "in/people.csv",
        "out/plain",
        "true",
        "false",
    ];
    cluster
        .start("plain", &[&["--format", "value"], &plain[..]].concat())?
        .finish(LIMIT)?;
    cluster.check("out/plain", "cat people.csv")
}

const LOUD: &str = "#!/usr/bin/env python3
import sys
sys.stdin.reconfigure(newline=\"\\n\")
for line in sys.stdin:
    value = next(sys.stdin)[7:-1]
    print(\"forward\\nvalue: \" + value + \"!\", flush=True)
";

#[test]
fn t242_copies_of_an_operator_are_checked_and_replaced() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let cluster = Cluster::with_text("127.0.140.31", 3, 2000)?;
    cluster.write_operator("loud.py", LOUD)?;
    let run = |name: &str| -> Result<()> {
        let dest = format!("out/{name}");
        let stages = ["1", "3", "transform:./loud.py", "", "in", &dest, "true", "false"];
        cluster.start(name, &stages)?.finish(LIMIT)?;
        cluster.check(&dest, r#"awk '{ print "in/data.txt:" NR "\t" $0 "!" }' data.txt"#)
    };
    run("first")?;
    let copies = || -> Result<Vec<std::path::PathBuf>> {
        let mut found = vec![];
        for n in 1..=3 {
            let folder = cluster.path(&format!("run/n{n}/data/operators"));
            for entry in std::fs::read_dir(folder).into_iter().flatten() {
                found.push(entry?.path());
            }
        }
        Ok(found)
    };
    // Changed so that it still runs; cut short; not executable; no file at all.
    for (round, name) in ["changed", "cut", "mode"].into_iter().enumerate() {
        let found = copies()?;
        ensure!(!found.is_empty(), "no copy was kept");
        for copy in &found {
            match round {
                0 => std::fs::write(copy, LOUD.replace("+ \"!", "+ \"?"))?,
                1 => std::fs::write(copy, &LOUD.as_bytes()[..LOUD.len() / 2])?,
                _ => std::fs::set_permissions(copy, std::fs::Permissions::from_mode(0o600))?,
            }
        }
        run(name)?;
    }
    let replaced = cluster.log_lines("OPERATOR_COPY_REPLACED")?;
    ensure!(
        !replaced.is_empty(),
        "nothing was replaced: no task ran where a copy was changed"
    );

    // The file in HyDFS from which copies come: another content of the same length under its name.
    let name = format!(
        "ops/{}",
        copies()?
            .first()
            .and_then(|c| c.file_name()?.to_str())
            .context("a copy")?
    );
    std::fs::write(cluster.path("other.py"), LOUD.replace("+ \"!", "+ \"?"))?;
    for words in [vec!["rm", &name], vec!["create", "other.py", &name]] {
        let done = cluster.command("hydfs").args(&words).output()?;
        if !done.status.success() {
            // Names of the system's own may have to be asked for.
            succeed(cluster.command("hydfs").args(&words).arg("--system"))?;
        }
    }
    for copy in copies()? {
        std::fs::remove_file(copy)?;
    }
    run("elsewhere")
}
