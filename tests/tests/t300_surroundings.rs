//! What a program finds around it: the folder it works in, how many files it may open, text that is no UTF-8, keys that group
//! nothing. (faults.md: trials from public reports)

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use system_tests::jobs::with_end;
use system_tests::{Cluster, PATIENCE, now, wait_for};

/// Writes its name into a file once, and answers each tuple with what is in the file, and whether TMPDIR is where it works.
const NOTEBOOK: &str = r#"#!/bin/sh
[ -e here.tmp ] || echo "$RAINSTORM_TASK" >here.tmp
while read -r key && read -r value; do
  read -r name <here.tmp
  [ "$PWD" = "$TMPDIR" ] && place=own || place=strange
  printf 'forward\nkey: k\nvalue: %s %s %s\n' "$RAINSTORM_TASK" "$name" "$place"
done
"#;

/// What is in the nodes' folders for operators at work.
fn work_folders(cluster: &Cluster) -> Result<String> {
    let found = cluster.oracle("find run/*/data/tasks -mindepth 1 2>/dev/null || true")?;
    Ok(String::from_utf8(found)?)
}

#[test]
fn t300_each_task_has_a_folder_of_its_own_and_nothing_of_it_is_left() -> Result<()> {
    let cluster = Cluster::with_text("127.0.86", 3, 60_000)?;
    cluster.write_operator("notebook.sh", NOTEBOOK)?;
    let stages = ["1", "6", "transform:./notebook.sh", ""];
    let mut job = cluster.start("notes", &with_end(&stages, "out/notes", "true", "2000"))?;
    job.wait_for_output()?;
    let folders = work_folders(&cluster)?;
    ensure!(folders.contains("/tasks/notes/s1t3.1/here.tmp"), "{folders}");
    job.kill_task("s1t3")?;
    job.wait_for_task("s1t3", 2)?;
    wait_for("the killed task's folder to go", PATIENCE, || {
        Ok((!work_folders(&cluster)?.contains("s1t3.1")).then_some(()))
    })?;
    job.release()?;
    job.finish(PATIENCE)?;
    let output = cluster.hydfs(&["cat", "out/notes"])?;
    let is_right = |line: &str| {
        let words: Vec<&str> = line
            .split_once('\t')
            .map_or("", |(_, value)| value)
            .split(' ')
            .collect();
        matches!(words[..], [task, name, "own"] if task == name)
    };
    let wrong = output.lines().find(|line| !is_right(line));
    ensure!(wrong.is_none(), "it read another's file: {wrong:?}");
    ensure!(
        output.lines().count() == 60_000,
        "{} lines",
        output.lines().count()
    );
    let left = work_folders(&cluster)?;
    ensure!(left.trim().is_empty(), "left behind: {left}");
    Ok(())
}

/// The same, after `sh` has carried out `first`.
fn after(first: &str, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{first}; exec \"$@\""), "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        shell.current_dir(folder);
    }
    shell
}

fn run(first: &str, cluster: &Cluster, args: &[&str]) -> Result<(Output, String)> {
    let mut leader = cluster.command("leader");
    leader.args(["--progress", "never"]).args(args);
    let out = after(first, &leader).output()?;
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    Ok((out, said))
}

#[test]
fn t301_a_low_limit_of_open_files_is_raised_or_named() -> Result<()> {
    let cluster = Cluster::with_text("127.0.87", 3, 2_000)?;
    let job = |dest| with_end(&["2", "8", "identity", "", "identity", ""], dest, "true", "0");
    let (out, said) = run("ulimit -Sn 40", &cluster, &job("out/soft"))?;
    ensure!(out.status.success(), "the hard limit lets it: {said}");

    let began = now();
    let (out, said) = run("ulimit -n 40", &cluster, &job("out/hard"))?;
    ensure!(
        out.status.code() == Some(1) && said.contains("open files") && said.contains("ulimit -Hn"),
        "{said}"
    );
    let took = now() - began;
    ensure!(took < PATIENCE / 4, "only after {took:?}");
    ensure!(
        !cluster.hydfs(&["find"])?.contains("out/hard"),
        "something was begun"
    );
    Ok(())
}

#[test]
fn t302_text_that_is_no_utf_8_and_groups_of_one_line_are_said() -> Result<()> {
    let cluster = Cluster::up("127.0.88", 3)?;
    let utf16: Vec<u8> = "\u{feff}foo one\nbar two\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    std::fs::write(cluster.path("wide"), utf16)?;
    std::fs::write(cluster.path("plain"), "\u{feff}a x\nb x\na x\n")?;
    cluster.hydfs(&["create", "wide", "in/wide"])?;
    cluster.hydfs(&["create", "plain", "in/plain"])?;
    let (out, said) = run(
        "true",
        &cluster,
        &[
            "--job", "wide", "1", "1", "grep", "foo", "in", "out/wide", "true", "false",
        ],
    )?;
    ensure!(out.status.success(), "{said}");
    ensure!(
        said.contains("warning: 1 of the source's files")
            && said.contains("in/wide")
            && !said.contains("in/plain"),
        "{said}"
    );
    let lines = cluster.log_lines("job=wide")?;
    let named = lines
        .iter()
        .find(|l| l.contains(" WIDE_TEXT "))
        .context("no event")?;
    ensure!(
        named.contains("file=in/wide") && named.contains("UTF-16"),
        "{named}"
    );

    let grouped = |stages: &[&str], dest: &str| -> Result<String> {
        let args = [stages, &["in/plain", dest, "true", "false"]].concat();
        let (out, said) = run("true", &cluster, &args)?;
        ensure!(out.status.success(), "{said}");
        Ok(said)
    };
    let said = grouped(&["1", "2", "count", "--key word:0"], "out/lone")?;
    ensure!(said.contains("warning: stage 1 (count) groups by"), "{said}");
    let said = grouped(&["2", "2", "identity", "--key word:0", "count", ""], "out/pair")?;
    ensure!(!said.contains("warning"), "{said}");
    Ok(())
}
