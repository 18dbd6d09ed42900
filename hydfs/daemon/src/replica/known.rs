//! How far each file may be read here: what is known to be on all members. It only grows, whatever the view.

use std::collections::{BTreeMap, VecDeque};

use crate::store::Store;
use hydfs::content::{FileName, SegmentId};
use hydfs::ring::RangeIx;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CommitFloor {
    pub nonce: u64,
    pub base: u64,
    pub length: u64,
    /// The newest segment of this view that has a committed entry, and how many it has.
    pub to: Option<(SegmentId, u64)>,
}

/// What an entry does to a file's length, or base, once all members have it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LengthChange {
    Created {
        nonce: u64,
    },
    Removed,
    None,
    Grown {
        length: u64,
        /// The segment that has the entry, and its entries up to that.
        to: (SegmentId, u64),
    },
    Trimmed {
        base: u64,
    },
}

/// Changes in the range's order, waiting to be committed.
#[derive(Debug, Default)]
pub(crate) struct PendingCommits(VecDeque<(u64, FileName, LengthChange)>);

impl PendingCommits {
    pub fn push(&mut self, seq: u64, file: FileName, change: LengthChange) {
        self.0.push_back((seq, file, change));
    }

    fn take(&mut self, commit: u64) -> Option<(FileName, LengthChange)> {
        let ready = self.0.front().is_some_and(|(seq, ..)| *seq <= commit);
        let (_, file, change) = if ready { self.0.pop_front() } else { None }?;
        Some((file, change))
    }
}

/// One range's.
#[derive(Debug, Default)]
pub(crate) struct CommitFloors {
    files: BTreeMap<FileName, CommitFloor>,
    /// The first segment that could be opened when this node last led the range to being active: as long as it lives it knows what of that view's
    /// is committed.
    led: Option<SegmentId>,
}

impl CommitFloors {
    pub fn get(&self, file: &FileName) -> Option<CommitFloor> {
        self.files.get(file).copied()
    }

    pub fn files(&self) -> &BTreeMap<FileName, CommitFloor> {
        &self.files
    }

    /// This node led the range to being active in the view whose first segment is `view`.
    pub fn lead(&mut self, view: SegmentId) {
        self.led = Some(view);
    }

    /// Does this node know all that was ever committed in this view's segments?
    pub fn knows_all_of(&self, view: SegmentId) -> bool {
        self.led == Some(view)
    }

    /// The range is active in the view whose first segment is `view`: everything sealed before is committed. There may be later segments, after an
    /// installation that was interrupted: what these hold some later take-over may leave out.
    pub fn fill(&mut self, store: &impl Store, range: RangeIx, view: SegmentId) {
        let sealed = |file: &hydfs::content::File| {
            let before = file.segments.iter().filter(|s| s.id < view);
            file.dropped.bytes + before.map(|s| s.bytes).sum::<u64>()
        };
        self.files = store
            .files(range)
            .map(|(name, file)| {
                (
                    name.clone(),
                    CommitFloor {
                        nonce: file.nonce,
                        base: file.base,
                        length: sealed(file),
                        to: None,
                    },
                )
            })
            .collect();
    }

    /// What a restarted node still knows: what was sealed before the set that it knows to have been active. Of the bases it has some may not have
    /// been committed.
    pub fn recover(store: &impl Store, range: RangeIx) -> Self {
        let mut floors = Self::default();
        let facts = store.range(range);
        if let Some(active) = facts
            .active
            .filter(|active| facts.installed.as_ref() == Some(active))
        {
            floors.fill(store, range, SegmentId::of(&active));
            floors.files.values_mut().for_each(|floor| floor.base = 0);
        }
        floors
    }

    /// Everything up to `commit` is on all members. Adds the files whose length changed to `grown`.
    pub fn commit(&mut self, pending: &mut PendingCommits, commit: u64, grown: &mut BTreeMap<FileName, u64>) {
        while let Some((file, change)) = pending.take(commit) {
            match change {
                LengthChange::Created { nonce } => {
                    self.files.insert(
                        file,
                        CommitFloor {
                            nonce,
                            base: 0,
                            length: 0,
                            to: None,
                        },
                    );
                }
                LengthChange::Removed => {
                    grown.remove(&file);
                    self.files.remove(&file);
                }
                LengthChange::None => {}
                LengthChange::Grown { length, to } => {
                    if let Some(floor) = self.files.get_mut(&file) {
                        floor.length = length;
                        floor.to = Some(to);
                    }
                    grown.insert(file, length);
                }
                LengthChange::Trimmed { base } => {
                    if let Some(floor) = self.files.get_mut(&file) {
                        floor.base = floor.base.max(base);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::mem::MemStore;
    use hydfs::content::{ClientId, File};
    use hydfs::view::{Incarnation, NodeIx, View};

    /// A node whose disk broke while it installed a later set still knows what it knew, and no more.
    #[test]
    fn an_interrupted_installation_commits_nothing() {
        let (range, name, client) = (RangeIx(0), FileName::new("f").unwrap(), ClientId(1));
        let view = |joined| {
            let mut view = View::new(3);
            view.join(NodeIx(0), Incarnation(joined));
            view
        };
        let [before, active, later] = [1, 5, 9].map(view);
        let mut target = File::new(7);
        for set in [&before, &active, &later] {
            let length = target.length();
            let entry = target.next_append(
                SegmentId::of(set),
                client,
                Default::default(),
                length,
                b"line\n",
                0,
            );
            target.apply(SegmentId::of(set), entry);
        }
        target.segments.iter_mut().for_each(|s| s.sealed = true);
        let mut store = MemStore::default();
        store.install(range, &active, &[]).unwrap();
        let mut facts = store.range(range);
        facts.active = Some(active.clone());
        store.set_ranges(vec![(range, facts)]).unwrap();
        store.break_after = Some(2);
        assert!(store.install(range, &later, &[(name.clone(), target)]).is_err());
        assert_eq!(store.range(range).installed, Some(active));
        assert_eq!(store.file(range, &name).unwrap().length(), 15);
        let known = CommitFloors::recover(&store, range);
        assert_eq!(
            known.get(&name).map(|floor| (floor.length, floor.base)),
            Some((5, 0))
        );
    }
}
