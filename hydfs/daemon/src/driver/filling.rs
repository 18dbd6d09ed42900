//! How full the node's disk is, what is made of that, and what is on it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::clock::{self, Time};
use common::cluster::Cluster;
use nix::sys::statvfs::statvfs;

use super::core::Core;
use crate::store::Store;
use hydfs::client::names::is_users;
use hydfs::ring::RangeIx;
use hydfs::view::NodeIx;
use hydfs::wire::client::{Disk, Level, NodeStatus, Stored, Work};

/// How often the disk is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Percent below a mark at which it counts as passed downwards: a disk at the mark is not told of again and again.
const SLACK: u8 = 2;

/// From which percentages on a disk fills, and is short of room.
#[derive(Debug, Clone, Copy)]
struct Marks {
    warn: u8,
    refuse: u8,
}

impl Marks {
    /// Upwards at the mark, downwards well below it.
    fn level(self, before: Level, percent: u8) -> Level {
        let from = |level: Level, mark: u8| match before >= level {
            true => mark.saturating_sub(SLACK),
            false => mark,
        };
        if percent >= from(Level::Short, self.refuse) {
            Level::Short
        } else if percent >= from(Level::Fills, self.warn) {
            Level::Fills
        } else {
            Level::Roomy
        }
    }
}

pub struct Filling {
    data: PathBuf,
    log: PathBuf,
    marks: Marks,
    disk: Disk,
    looked: Option<Time>,
    began: Time,
}

impl Filling {
    pub fn new(cluster: &Cluster, at: NodeIx) -> Self {
        let node = cluster.nodes.get(usize::from(at.0));
        Self {
            data: node.map_or(PathBuf::new(), |node| node.data.clone()),
            log: node.map_or(PathBuf::new(), |node| node.log.clone()),
            marks: Marks {
                warn: cluster.hydfs.warn_percent,
                refuse: cluster.hydfs.refuse_percent,
            },
            disk: Disk::default(),
            looked: None,
            began: clock::now(),
        }
    }

    /// Looks at the disk when it is time to, and logs when it passes a mark. Returns whether the disk is short of room, when
    /// that has changed.
    pub fn look(&mut self, now: Time) -> Option<bool> {
        if self.looked.is_some_and(|last| now.since(last) < LOOK_EVERY) {
            return None;
        }
        self.looked = Some(now);
        let before = self.disk.level;
        // A disk that does not say is taken for what it was.
        let disk = disk(&self.data)?;
        let level = self.marks.level(before, disk.percent());
        self.disk = Disk { level, ..disk };
        if level != before {
            let (percent, free, refuse) = (disk.percent(), disk.free, self.marks.refuse);
            match level {
                Level::Roomy => tracing::info!(percent, free, "DISK_HAS_ROOM"),
                Level::Fills if before == Level::Short => {
                    tracing::info!(percent, free, refuse, "DISK_HAS_ROOM")
                }
                Level::Fills => tracing::warn!(percent, free, refuse, "DISK_FILLS"),
                Level::Short => tracing::warn!(percent, free, refuse, "DISK_SHORT"),
            }
        }
        let is = |level| level == Level::Short;
        (is(level) != is(before)).then_some(is(level))
    }
}

fn disk(folder: &Path) -> Option<Disk> {
    let of = statvfs(folder).ok()?;
    let unit = of.fragment_size();
    let bytes = |blocks: u64| blocks.saturating_mul(unit);
    Some(Disk {
        capacity: bytes(of.blocks()),
        used: bytes(of.blocks().saturating_sub(of.blocks_free())),
        free: bytes(of.blocks_available()),
        level: Level::Roomy,
    })
}

/// Bytes of the files in a folder, not below it.
fn in_folder(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries
        .filter_map(|entry| entry.metadata().ok())
        .filter(|file| file.is_file());
    files.map(|file| file.len()).sum()
}

/// Adds what the node holds of a file.
fn count(stored: &mut Stored, name: &str, bytes: u64) {
    stored.files += 1;
    let of_jobs = name.strip_prefix("jobs/").and_then(|name| name.rsplit_once('/'));
    let kind = match of_jobs.map(|(_, last)| last) {
        Some("journal") => &mut stored.journals,
        Some(last) if last.ends_with(".snap") => &mut stored.snapshots,
        Some(_) => &mut stored.logs,
        None if is_users(name) || !name.starts_with("ops/") => &mut stored.users,
        None => &mut stored.operators,
    };
    *kind += bytes;
}

impl Core {
    /// Goes over all files that the node holds: for somebody who looks now and then.
    pub(super) fn status(&self) -> NodeStatus {
        let mut stored = Stored {
            operator_copies: in_folder(&self.filling.data.join("operators")),
            program_logs: in_folder(&self.filling.log),
            ..Stored::default()
        };
        let (store, ranges) = (self.replica.store(), self.cluster.nodes.len() as u16);
        for (name, file) in (0..ranges).flat_map(|range| store.files(RangeIx(range))) {
            let held = file.segments.iter().filter(|s| !s.missing).map(|s| s.bytes).sum();
            count(&mut stored, name.as_str(), held);
        }
        let (under_replicated, unavailable) = self.ranges.troubled();
        let coordinated =
            (0..ranges).filter(|range| self.replica.coordinator_of(RangeIx(*range)) == Some(self.at));
        NodeStatus {
            disk: self.filling.disk,
            stored,
            work: Work {
                appends: self.appends.0,
                append_bytes: self.appends.1,
                missing_segments: self.replica.missing() as u64,
                repaired_segments: self.repairs.all.0,
                repaired_bytes: self.repairs.all.1,
                ranges: coordinated.count() as u64,
                under_replicated_ranges: under_replicated as u64,
                unavailable_ranges: unavailable as u64,
                backlog_bytes: self.replica.backlog_bytes() as u64,
                clients: self.clients.count() as u64,
                resident_bytes: common::memory::resident_bytes().unwrap_or(0),
                uptime_s: clock::now().since(self.filling.began).as_secs(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_passed_upwards_at_once_and_downwards_well_below_it() {
        let marks = Marks { warn: 85, refuse: 92 };
        let mut level = Level::Roomy;
        let mut seen = vec![];
        for percent in [84, 85, 84, 83, 82, 91, 92, 91, 90, 89, 83, 82, 100, 0] {
            level = marks.level(level, percent);
            seen.push(level);
        }
        use Level::{Fills, Roomy, Short};
        #[rustfmt::skip] // as the percentages above
        assert_eq!(seen, [Roomy, Fills, Fills, Fills, Roomy, Fills, Short, Short, Short, Fills, Fills, Roomy, Short, Roomy]);
    }

    #[test]
    fn what_is_stored_is_told_apart_by_name() {
        let mut stored = Stored::default();
        for (name, bytes) in [
            ("in/a", 1),
            ("jobs.txt", 2),
            ("out.poison", 4),
            ("jobs/j/journal", 10),
            ("jobs/j/s1t0.log", 100),
            ("jobs/j/s1t0.snap", 1000),
            ("ops/abc", 10_000),
        ] {
            count(&mut stored, name, bytes);
        }
        let wanted = Stored {
            files: 7,
            users: 7,
            journals: 10,
            logs: 100,
            snapshots: 1000,
            operators: 10_000,
            ..Stored::default()
        };
        assert_eq!(stored, wanted);
    }

    #[test]
    fn the_disk_says_how_it_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let disk = disk(dir.path()).unwrap();
        assert!(disk.capacity >= disk.used && disk.capacity >= disk.free && disk.percent() <= 100);
        assert_eq!(super::disk(&dir.path().join("nothing")), None);
        let of = |used, free| Disk { used, free, ..disk }.percent();
        // Rounded up, as df(1) does: the last of it is never hidden.
        assert_eq!(
            (of(0, 0), of(0, 9), of(1, 999), of(85, 15), of(9, 0)),
            (0, 0, 1, 85, 100)
        );
    }
}
