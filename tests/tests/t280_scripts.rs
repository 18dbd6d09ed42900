//! The scripts ask for what is used, not for a program's name, and what could not be tested is counted. (On a machine that has nothing: `tests/fresh.sh`.)

use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use system_tests::root;

/// A folder with all programs of this machine but these, and but those that install: as on a machine where they are missing.
fn programs_without(missing: &[&str]) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    for place in ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"] {
        for entry in std::fs::read_dir(place).into_iter().flatten() {
            let entry = entry?;
            let name = entry.file_name();
            let left_out = |names: &[&str]| names.iter().any(|n| name == **n);
            if !left_out(missing) && !left_out(&["apt-get", "dnf", "pacman", "apk"]) {
                // The same program may be in two places.
                let _ = symlink(entry.path(), folder.path().join(&name));
            }
        }
    }
    Ok(folder)
}

/// A line of shell with the scripts' common part: whether it succeeded, and what it said.
fn shell(path: &Path, line: &str) -> Result<(bool, String)> {
    let out = Command::new("bash")
        .args([
            "-c",
            &format!("set -euo pipefail; . demo/lib.sh; . demo/tally.sh; {line}"),
        ])
        .current_dir(root())
        .env("PATH", path)
        .output()?;
    let said = [out.stdout, out.stderr].concat();
    Ok((out.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

#[test]
fn t281_what_is_missing_is_asked_for_although_a_program_of_that_name_is_there() -> Result<()> {
    let whole = programs_without(&[])?;
    let needs = "need_cc; need_ssh; need_networks; need_python";
    let (well, said) = shell(whole.path(), needs)?;
    ensure!(well && said.is_empty(), "with all that is here: {said}");

    // Python in pieces, a compiler that cannot link, `date` of another kind.
    let cases = [
        ("python3", "*unittest*", "need_python", "unittest"),
        ("cc", "*-x*", "need_cc", "headers"),
        ("date", "*%6N*", "need_ssh", "date"),
    ];
    for (program, refused, need, named) in cases {
        let broken = programs_without(&[program])?;
        let real = whole.path().join(program).canonicalize()?;
        let script = broken.path().join(program);
        let text = format!(
            "#!/bin/sh\ncase \"$*\" in {refused}) exit 1 ;; esac\nexec {} \"$@\"\n",
            real.display()
        );
        std::fs::write(&script, text)?;
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
        let (well, said) = shell(broken.path(), need)?;
        ensure!(
            !well && said.contains(named) && said.contains("; type: "),
            "{program} that does not do its work: {said}"
        );
    }
    for (program, need) in [
        ("ss", "need_networks"),
        ("ip", "need_networks"),
        ("unshare", "need_networks"),
        ("setsid", "need_ssh"),
        ("ssh-keygen", "need_ssh"),
        ("dd", "need_ssh"),
    ] {
        let without = programs_without(&[program])?;
        let (well, said) = shell(without.path(), need)?;
        ensure!(
            !well && said.contains(program) | said.contains("GNU tools") && said.contains("; type: "),
            "without {program}: {said}"
        );
    }
    Ok(())
}

/// All files of the repository that end like this, by git.
fn files(ending: &str) -> Result<Vec<PathBuf>> {
    let out = Command::new("find")
        .args([
            ".", "(", "-name", "target", "-o", "-name", "run", "-o", "-name", ".git", ")", "-prune",
        ])
        .args(["-o", "-name", ending, "-print"])
        .current_dir(root())
        .output()?;
    ensure!(
        out.status.success(),
        "find: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    let list = String::from_utf8_lossy(&out.stdout).into_owned();
    Ok(list.lines().map(|name| root().join(name)).collect())
}

fn word(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

#[test]
fn t282_every_module_and_program_that_tests_and_the_sdk_use_is_asked_for() -> Result<()> {
    let lib = std::fs::read_to_string(root().join("demo/lib.sh"))?;
    let asked = lib
        .split("PYTHON_MODULES='")
        .nth(1)
        .context("the list of modules")?;
    let asked: BTreeSet<String> = asked
        .split('\'')
        .next()
        .unwrap_or_default()
        .split(", ")
        .map(str::to_owned)
        .collect();
    let mut used = BTreeSet::new();
    for ending in ["*.py", "*.sh", "*.rs"] {
        for file in files(ending)? {
            let text = std::fs::read_to_string(&file)?;
            // Scripts within scripts begin a line, or follow `python3 -c '`.
            for line in text.lines().map(|l| l.trim_start()) {
                let line = line.split_once("python3 -c '").map_or(line, |(_, rest)| rest);
                if let Some(list) = line.strip_prefix("import ") {
                    let list = list.split([';', '\\', '"', '\'']).next().unwrap_or_default();
                    used.extend(list.split(',').map(|m| word(m.trim())));
                } else if let Some((module, "import")) = line.strip_prefix("from ").and_then(|rest| {
                    let mut words = rest.split(' ');
                    Some((words.next()?, words.next()?))
                }) {
                    used.insert(word(module));
                }
            }
        }
    }
    // What is ours, what bench/peers/setup.sh installs for the comparison alone, and what is no module.
    let ours: BTreeSet<_> = files("*.py")?
        .iter()
        .filter_map(|file| Some(file.file_stem()?.to_string_lossy().into_owned()))
        .collect();
    used.retain(|m| {
        !m.is_empty() && m != "rainstorm" && !ours.contains(m) && !["pyspark", "typst"].contains(&m.as_str())
    });
    ensure!(used.len() > 20, "only {used:?} are imported");
    let unasked: Vec<_> = used.difference(&asked).collect();
    ensure!(
        unasked.is_empty(),
        "imported somewhere, but not asked for by need_python: {unasked:?}"
    );

    // POSIX has these; the others are named where they are asked for.
    let everywhere = ["sh", "bash", "awk", "sleep", "find"];
    let mut started = BTreeSet::new();
    for file in files("*.rs")? {
        if file
            .components()
            .any(|c| ["tests", "tests.rs"].iter().any(|t| c.as_os_str() == *t))
        {
            let text = std::fs::read_to_string(&file)?;
            started.extend(
                text.split("Command::new(\"")
                    .skip(1)
                    .map(|rest| rest.split('"').next().unwrap_or_default().to_owned()),
            );
        }
    }
    ensure!(
        started.contains("ss") && started.contains("python3"),
        "found only {started:?}"
    );
    for program in started
        .iter()
        .filter(|p| !p.starts_with('/') && !everywhere.contains(&p.as_str()))
    {
        let named = lib
            .split(|c: char| !c.is_alphanumeric() && c != '_' && c != '-')
            .any(|w| w == program);
        ensure!(
            named,
            "tests start {program}, which nothing in demo/lib.sh asks for"
        );
    }
    Ok(())
}

#[test]
fn t283_what_is_skipped_is_counted_and_named_at_the_end() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (said, skipped) = (folder.path().join("said"), folder.path().join("skipped"));
    // A test that is skipped says so where it is counted, not only where nobody sees it.
    let out = Command::new(std::env::current_exe()?)
        .args([
            "--exact",
            "t120_disks::t122_three_nodes_lost_at_once_is_told_with_the_files_name",
        ])
        .env_remove("RAINSTORM_SLOW")
        .env("RAINSTORM_SKIPPED", &skipped)
        .output()?;
    let printed = String::from_utf8_lossy(&out.stdout).into_owned();
    ensure!(out.status.success() && printed.contains("1 passed"), "{printed}");
    std::fs::write(
        &said,
        format!(
            "{printed}\ntest one ... \u{1b}[33mignored\u{1b}[0m, needs a moon\ntest two ... ignored\ntest result: FAILED. 4 passed; 2 failed; 2 ignored; 0 measured\n\
             01-filter        2.1 s  shown: 12 lines\n02-count         3.0 s  FAILED, exit code 1\n"
        ),
    )?;
    let line = format!(
        "tally {0} 1; tally /dev/null 7; tally_skipped {1}; tally_close",
        said.display(),
        skipped.display()
    );
    let (well, told) = shell(Path::new(&std::env::var("PATH")?), &line)?;
    let lines: Vec<&str> = told.lines().collect();
    let named = |name: &str, why: &str| {
        lines
            .iter()
            .any(|l| l.starts_with("skipped: ") && l.contains(name) && l.contains(why))
    };
    ensure!(
        well && named("t122_three", "three quarters of a minute")
            && named("one", "needs a moon")
            && named("two", "no reason"),
        "{told}"
    );
    // 4, the demo, and t122, which only said that it passed; the two, the demo, and the command that named nothing.
    ensure!(lines.last() == Some(&"5 passed, 4 failed, 3 skipped"), "{told}");
    Ok(())
}
