//! What is kept of a run that went wrong.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::recovery::LogTail;
use super::run::Outcome;
use super::scenario::Scenario;
use crate::Cluster;

/// Copies everything that tells of the run into `into/seed-N`, or -N-2 and so on when that is there. Where that is.
pub fn keep(
    into: &Path,
    cluster: &Cluster,
    scenario: &Scenario,
    work: &Path,
    logs: &LogTail,
    outcome: &Outcome,
) -> Result<PathBuf> {
    let folder = unused(into, scenario.seed);
    std::fs::create_dir_all(&folder)?;
    let mut told = format!(
        "{outcome:#?}\n\n{scenario:#?}\n\nleader {:?}\n",
        scenario.args("operator.sh")
    );
    for program in [&["list_tasks"][..], &["status"]] {
        let said = cluster.command("rainstormctl").args(program).output()?;
        told += &format!(
            "\nrainstormctl {}:\n{}{}",
            program.join(" "),
            String::from_utf8_lossy(&said.stdout),
            String::from_utf8_lossy(&said.stderr)
        );
    }
    std::fs::write(folder.join("run.txt"), told)?;
    // Input, expected and got output, the leader's output.
    copy_all(work, &folder)?;
    for end in ["out", "err", "json", "resumed.out", "resumed.err", "resumed.json"] {
        let name = format!("{}.{end}", scenario.job());
        let _ = std::fs::copy(cluster.path(&name), folder.join(name));
    }
    for (node, log, text) in logs.texts()? {
        if !text.is_empty() {
            std::fs::write(folder.join(format!("{node}-{log}")), text)?;
        }
    }
    // The journal, and the tasks' logs and snapshots.
    let prefix = format!("jobs/{}/", scenario.job());
    if let Ok(list) = cluster.hydfs(&["--patience", "3", "find", &prefix]) {
        for name in list.lines().filter_map(|l| l.split('\t').next()) {
            let local = folder.join(format!("hydfs-{}", name.replace('/', "_")));
            let _ = cluster.hydfs(&["--patience", "3", "get", name, &local.to_string_lossy()]);
        }
    }
    Ok(folder)
}

fn unused(into: &Path, seed: u64) -> PathBuf {
    let first = into.join(format!("seed-{seed}"));
    let others = (2..).map(|n| into.join(format!("seed-{seed}-{n}")));
    std::iter::once(first.clone())
        .chain(others)
        .find(|p| !p.exists())
        .unwrap_or(first)
}

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    for entry in std::fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
