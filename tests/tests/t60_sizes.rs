//! The longest lines and very many files: byte-exact, or refused with the file and line. (faults.md: lines of 16 MiB; 10,000 tiny files)

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use system_tests::procs::resident;
use system_tests::{Cluster, PATIENCE, now};

const LONGEST: usize = 16 << 20;

#[test]
fn t61_lines_of_16_mib_pass_and_much_longer_ones_are_refused_by_file_and_line() -> Result<()> {
    let cluster = Cluster::up("127.0.56", 3)?;
    // Neither all the same byte nor text: a piece out of place shows.
    let long = |seed: u8| {
        (0..LONGEST)
            .map(|i| ((i / 4096) as u8 ^ (i as u8) ^ seed) | 0x80)
            .collect::<Vec<u8>>()
    };
    let mut text = b"first\n".to_vec();
    for seed in 0..2 {
        text.extend(long(seed));
        text.extend(format!("\nbetween {seed}\n").bytes());
    }
    std::fs::write(cluster.path("long"), &text)?;
    cluster.hydfs(&["create", "long", "long/long"])?;
    let mut job = cluster.start(
        "long",
        &[
            "2",
            "2",
            "identity",
            "",
            "replace",
            "-F first FIRST",
            "long",
            "out/long",
            "true",
            "false",
        ],
    )?;
    // Kill while such a line is in flight.
    let victim = job.kill_task("s1t0")?;
    job.wait_for_task("s1t0", victim.epoch + 1)?;
    job.finish(PATIENCE)?;
    cluster.check(
        "out/long",
        r#"awk '{ sub(/first/, "FIRST"); print "long/long:" NR "\t" $0 }' long"#,
    )?;
    // Through a foreign operator.
    cluster.write_operator(
        "same.py",
        "#!/usr/bin/env python3\nimport sys\ni, o = sys.stdin.buffer, sys.stdout.buffer\nfor line in i:\n    o.write(b'forward\\n' + i.readline()); o.flush()\n",
    )?;
    let args = [
        "1",
        "1",
        "transform:./same.py",
        "",
        "long",
        "out/foreign",
        "true",
        "false",
    ];
    let foreign = cluster.start("foreign", &args)?;
    // The answer's line is longer than the line by `value: `: either is right, but not a hang and not a wrong byte.
    match foreign.finish(PATIENCE) {
        Ok(_) => cluster.check("out/foreign", r#"awk '{ print "long/long:" NR "\t" $0 }' long"#)?,
        Err(error) => {
            let said = format!("{error:#}");
            ensure!(said.contains("16 MiB") && said.contains("long/long:2"), "{said}");
        }
    }
    // Longer ones: as they are, or no.
    for (name, len) in [("more", LONGEST + 1), ("much-more", 80 << 20)] {
        std::fs::write(
            cluster.path(name),
            [b"ok\nok\n", &vec![b'x'; len][..], b"\nok\n"].concat(),
        )?;
        let file = format!("{name}/{name}");
        cluster.hydfs(&["create", name, &file])?;
        let dest = format!("out/{name}");
        let mut job = cluster.start(name, &["1", "1", "identity", "", name, &dest, "true", "false"])?;
        let status = job.wait_for_end(PATIENCE)?;
        if status.success() {
            let oracle = format!(r#"awk '{{ print "{file}:" NR "\t" $0 }}' {name}"#);
            cluster.check(&dest, &oracle)?;
            continue;
        }
        let said = job.said();
        let last = said.lines().last().unwrap_or_default();
        ensure!(
            status.code() == Some(1)
                && last.contains(&file)
                && last.contains("line 3")
                && last.contains("16 MiB"),
            "{status}; the last line does not say which: {last}"
        );
        cluster.wait_until_gone(name, PATIENCE)?;
    }
    Ok(())
}

#[test]
fn t62_very_many_tiny_files() -> Result<()> {
    // Loading one costs 5 ms: RAINSTORM_TINY_FILES=10000 when there is time.
    let files = std::env::var("RAINSTORM_TINY_FILES").map_or(Ok(2000), |n| n.parse::<usize>())?;
    let cluster = Cluster::up("127.0.56.21", 3)?;
    let folder = cluster.path("tiny");
    std::fs::create_dir(&folder)?;
    let mut oracle = std::fs::File::create(cluster.path("expected"))?;
    for n in 0..files {
        // Empty, one line, one without a newline, three lines.
        let lines = n % 4;
        let text: String = (0..lines).map(|l| format!("static {n} {l}\n")).collect();
        let text = if lines == 2 {
            text.trim_end().to_owned()
        } else {
            text
        };
        std::fs::write(folder.join(format!("f{n}")), &text)?;
        for (l, line) in text.lines().enumerate() {
            writeln!(oracle, "tiny/f{n}:{}\t{line}", l + 1)?;
        }
    }
    let began = now();
    // Many at once: loading is not what is tested.
    let bin = cluster
        .command("hydfs")
        .get_program()
        .to_string_lossy()
        .into_owned();
    cluster.oracle(&format!(
        "cd tiny && ls | RAINSTORM_CLUSTER={} xargs -P 8 -I N {bin} create N tiny/N >/dev/null",
        cluster.config().display()
    ))?;
    let loaded = now() - began;
    let mut job = cluster.start(
        "tiny",
        &["1", "3", "identity", "", "tiny", "out/tiny", "true", "false"],
    )?;
    let mut peak = 0;
    while job.is_running()? {
        peak = peak.max(job.leader().and_then(|pid| resident(pid as i32)).unwrap_or(0));
        std::thread::sleep(Duration::from_millis(20));
    }
    let summary = job.finish(PATIENCE)?;
    let startup = summary["startup_seconds"].as_f64().context("startup_seconds")?;
    let seconds = summary["seconds"].as_f64().context("seconds")?;
    eprintln!(
        "{files} files: loaded in {loaded:?}, {startup} s to start, {seconds} s to run, leader {} MB",
        peak >> 20
    );
    ensure!(summary["lines_in"] == files / 4 * 6, "{summary}");
    cluster.check("out/tiny", "cat expected")
}
