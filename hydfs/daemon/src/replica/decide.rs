//! What a take-over concludes from the answers. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::mutant::Mutant;
use crate::store::Memory;
use hydfs::content::{File, FileName, Segment, SegmentId, Stream};
use hydfs::ring::{RangeIx, Ring};
use hydfs::view::{NodeIx, View};

/// What one node remembers about a range.
#[derive(Debug, Clone)]
pub(crate) struct RangeMemory<'a> {
    pub memory: Memory,
    pub installed: Option<&'a View>,
    pub asked: &'a [View],
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing was ever active: the range starts empty.
    Empty,
    /// These installed the newest set, `of`, and together hold all that was ever acknowledged.
    Sources {
        nodes: Vec<NodeIx>,
        of: View,
    },
    Unavailable {
        why: String,
    },
}

/// Who holds all that was ever acknowledged in `range`? `said`: the answers of all nodes alive in `view`, which are a majority.
pub(crate) fn decide(
    ring: &Ring,
    range: RangeIx,
    view: &View,
    said: &BTreeMap<NodeIx, RangeMemory<'_>>,
) -> Verdict {
    let mut sets: Vec<&View> = said
        .values()
        .flat_map(|s| s.installed.into_iter().chain(s.asked))
        .collect();
    sets.sort_by_key(|set| std::cmp::Reverse(set.size()));
    sets.dedup();
    let has = |s: &RangeMemory, set: &View| s.installed.is_some_and(|have| have.size() >= set.size());
    for set in sets {
        let members = ring.replicas(range, set);
        // Does this node's disk go back to when the set was made?
        let remembers = |n: &NodeIx, s: &RangeMemory| {
            s.memory.born <= set.incarnation(*n) || Mutant::NewDisksCount.is_on()
        };
        let never = |n: &NodeIx| said.get(n).is_some_and(|s| !has(s, set) && remembers(n, s));
        if members.iter().any(never) {
            continue;
        }
        let newest = said
            .values()
            .filter(|s| has(s, set))
            .filter_map(|s| s.installed)
            .max_by_key(|v| v.size());
        let list = |nodes: &[NodeIx]| nodes.iter().map(|n| ring.name(*n)).collect::<Vec<_>>().join(", ");
        let names = || list(&members);
        let Some(newest) = newest else {
            return Verdict::Unavailable {
                why: format!("none of {}, which held it, answers", names()),
            };
        };
        // A later set that became active was known to a majority. If those who remember all since this set are a majority too, one of them would
        // have named it. Otherwise it may be known only to nodes that don't answer and to lost disks; unless all answer: then what only lost disks
        // knew is lost.
        let remembering = said.iter().filter(|(n, s)| remembers(n, s)).count();
        if remembering * 2 <= view.nodes() && said.len() < view.nodes() {
            return Verdict::Unavailable {
                why: format!(
                    "{} of {} nodes answer, only {remembering} of them with disks that go back to when {} held it",
                    said.len(),
                    view.nodes(),
                    names()
                ),
            };
        }
        let source = |s: &RangeMemory| {
            s.installed == Some(newest) || (Mutant::ShareOfAll.is_on() && s.installed.is_some())
        };
        let nodes: Vec<NodeIx> = said.iter().filter(|(_, s)| source(s)).map(|(n, _)| *n).collect();
        // Where none is whole, a member that is away may hold more than all of them.
        let mut away = ring.replicas(range, newest);
        away.retain(|n| !said.contains_key(n));
        let whole = |n: &NodeIx| said[n].memory.is_whole(*n, newest) || Mutant::BelieveLosers.is_on();
        if !away.is_empty() && !nodes.iter().any(whole) {
            return Verdict::Unavailable {
                why: format!(
                    "{} may have lost the newest of it with their power, and {} does not answer",
                    list(&nodes),
                    list(&away)
                ),
            };
        }
        return Verdict::Sources {
            nodes,
            of: newest.clone(),
        };
    }
    Verdict::Empty
}

/// What one source holds.
#[derive(Debug)]
pub(crate) struct SourceCopy<'a> {
    /// Nothing that was written under the set is gone; otherwise what is there is good, and what is not there says nothing.
    pub whole: bool,
    pub files: BTreeMap<&'a FileName, &'a File>,
}

impl<'a> SourceCopy<'a> {
    fn file(&self, name: &FileName) -> Option<&'a File> {
        self.files.get(name).copied()
    }
}

/// The range's content, all sealed: what all whole `sources` (holders of the newest installed set) have, and so at least all that was acknowledged. If
/// none is whole, the most that one of them has.
/// `view` is the first segment that could be opened under that set.
pub(crate) fn seal(sources: &[SourceCopy<'_>], view: SegmentId) -> Vec<(FileName, File)> {
    let whole = || sources.iter().filter(|copy| copy.whole);
    let names: BTreeSet<&FileName> = match whole().next() {
        Some(one) => one.files.keys().copied().collect(),
        None => sources.iter().flat_map(|s| s.files.keys().copied()).collect(),
    };
    let mut sealed = Vec::new();
    for name in names {
        // A file that one of them does not have, or has under another nonce, was just being created or removed.
        let Some(copies) = whole().map(|c| c.file(name)).collect::<Option<Vec<&File>>>() else {
            continue;
        };
        let doubtful = sources.iter().filter(|c| !c.whole).filter_map(|c| c.file(name));
        let Some(nonce) = copies
            .first()
            .copied()
            .or(doubtful.clone().next())
            .map(|f| f.nonce)
        else {
            continue;
        };
        if copies.iter().any(|f| f.nonce != nonce) {
            continue;
        }
        let doubtful: Vec<&File> = doubtful.filter(|f| f.nonce == nonce).collect();
        sealed.push((name.clone(), seal_file(&copies, &doubtful, view)));
    }
    sealed
}

fn seal_file(whole: &[&File], doubtful: &[&File], view: SegmentId) -> File {
    let position = |file: &&&File| file.position(view);
    // What was closed within the view says what it was when it is damaged, too.
    let sound = |file: &&&File| file.segments_of(view).all(|s| !s.missing || s.sealed);
    let all = || whole.iter().chain(doubtful);
    // How much a damaged or doubtful copy still has says nothing about how much there was: more than that, at most.
    let base = whole.iter().filter(sound).min_by_key(position);
    let base = base.or_else(|| doubtful.iter().filter(sound).max_by_key(position));
    let base: &File = match base.or_else(|| all().max_by_key(position)) {
        Some(file) => file,
        None => return File::default(),
    };
    let seal = |s: &Segment| Segment {
        sealed: true,
        missing: false,
        ..s.head()
    };
    let mut file = File {
        segments: base.segments.iter().filter(|s| s.entries > 0).map(seal).collect(),
        streams: base.streams.clone(),
        ..*base
    };
    for (client, theirs) in all().flat_map(|f| &f.streams) {
        let stream = file
            .streams
            .entry(*client)
            .or_insert(Stream { length: 0, ..*theirs });
        if theirs.epoch > stream.epoch {
            (stream.epoch, stream.nonce) = (theirs.epoch, theirs.nonce);
        }
    }
    // What one of them has trimmed it may have dropped: so it is trimmed, whether or not all of them have. Of what is not committed nothing ever is, so
    // this is no more than what they share; only where all have lost their newest may it be more than what is left.
    let trimmed = all().map(|f| f.base).max().unwrap_or(0).min(file.length());
    if Mutant::ForgetBase.is_on() {
        return File { base: 0, ..file };
    }
    file.trim(trimmed, view);
    file.base = trimmed;
    file
}

/// Trims each file past what one of those who answer has trimmed away and none of them has. It had dropped the last copy before anybody else heard of
/// the trim, and is no source now. Its base was no more than what was committed, so the file has at least as much.
pub(crate) fn trim_holes<'a>(
    sealed: &mut [(FileName, File)],
    answers: impl Iterator<Item = &'a (FileName, File)> + Clone,
    view: SegmentId,
) {
    let place = |name: &FileName| sealed.binary_search_by(|(n, _)| n.cmp(name)).ok();
    let ahead = |(name, copy): &&(FileName, File)| {
        let file = place(name).map(|i| &sealed[i].1);
        file.is_some_and(|f| f.nonce == copy.nonce && f.dropped.last < copy.dropped.last)
    };
    let ahead: Vec<&(FileName, File)> = answers.clone().filter(ahead).collect();
    if ahead.is_empty() || Mutant::LeaveHoles.is_on() {
        return;
    }
    let mut copies: BTreeMap<&FileName, Vec<&File>> = BTreeMap::new();
    for (name, _) in &ahead {
        copies.entry(name).or_default();
    }
    for (name, copy) in answers {
        if let Some(copies) = copies.get_mut(name) {
            copies.push(copy);
        }
    }
    for (name, trimmed) in ahead {
        let Ok(place) = sealed.binary_search_by(|(n, _)| n.cmp(name)) else {
            continue;
        };
        let file = &mut sealed[place].1;
        let has = |copy: &&File, want: &Segment| {
            let held = copy.segment(want.id).filter(|s| !s.missing);
            copy.nonce == file.nonce && held.is_some_and(|s| s.entries >= want.entries)
        };
        let gone = |want: &&Segment| Some(want.id) <= trimmed.dropped.last;
        let mut dropped = file.segments.iter().take_while(gone);
        if dropped.any(|want| !copies[name].iter().any(|copy| has(copy, want))) {
            let base = trimmed.base.min(file.length());
            file.trim(base, view);
        }
    }
}

#[cfg(test)]
mod tests;
