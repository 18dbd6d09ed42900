//! What everything takes at one moment.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use hydfs::client::{Client, Error as StoreError};

use crate::Cluster;
use crate::procs::{Process, all, resident};

/// What a program's processes take.
#[derive(Debug, Clone, Copy, Default)]
pub struct Taken {
    pub processes: u64,
    /// Resident memory of the largest, bytes.
    pub most: u64,
    /// Descriptors of the one with the most.
    pub descriptors: u64,
}

#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// What HyDFS keeps of the jobs, by kind (the name's end), in bytes, before copies.
    pub kept: BTreeMap<String, u64>,
    /// What was ever written to the tasks' logs.
    pub logged: u64,
    /// All data folders, in bytes on the disk.
    pub disk: u64,
    /// By program.
    pub taken: BTreeMap<String, Taken>,
}

const PROGRAMS: [&str; 5] = ["memberd", "hydfsd", "leader", "worker", "rainstormctl"];

impl Sample {
    pub async fn take(cluster: &Cluster, client: &Client, jobs: &[String]) -> Result<Self> {
        let mut sample = Self::default();
        for job in jobs {
            for entry in client.find(&format!("jobs/{job}/")).await? {
                let stat = match client.stat(&entry.file).await {
                    Ok(stat) => stat,
                    Err(StoreError::NoSuchFile { .. }) => continue,
                    Err(error) => return Err(error.into()),
                };
                let kind = entry.file.rsplit(['.', '/']).next().unwrap_or_default();
                *sample.kept.entry(kind.into()).or_default() += stat.len - stat.base;
                if kind == "log" {
                    sample.logged += stat.len;
                }
            }
        }
        for n in 1..=cluster.nodes() {
            sample.disk += on_disk(&cluster.path(&format!("run/n{n}/data")));
        }
        let (config, folder) = (cluster.config(), cluster.path(""));
        let ours = |p: &Process| {
            p.args.iter().any(|a| Path::new(a) == config)
                || p.variable("RAINSTORM_CLUSTER")
                    .is_some_and(|at| Path::new(&at).starts_with(&folder))
        };
        for process in all()?.iter().filter(|p| ours(p)) {
            let name = process
                .args
                .first()
                .and_then(|a| a.rsplit('/').next())
                .unwrap_or_default();
            let name = match PROGRAMS.contains(&name) {
                true => name,
                false if process.variable("RAINSTORM_TASK").is_some() => "operator",
                false => continue,
            };
            let taken = sample.taken.entry(name.into()).or_default();
            taken.processes += 1;
            taken.most = taken.most.max(resident(process.pid).unwrap_or(0));
            let open = std::fs::read_dir(format!("/proc/{}/fd", process.pid)).map_or(0, Iterator::count);
            taken.descriptors = taken.descriptors.max(open as u64);
        }
        Ok(sample)
    }

    pub fn kept(&self, kind: &str) -> u64 {
        self.kept.get(kind).copied().unwrap_or(0)
    }
}

/// Bytes that the folder's files take. What goes away meanwhile does not count.
fn on_disk(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => on_disk(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}
