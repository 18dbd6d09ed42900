//! What a take-over concludes from the answers. Pure.

use std::collections::BTreeMap;

use super::mutant::Mutant;
use crate::content::{File, FileName, Segment, SegmentId, Stream};
use crate::ring::{RangeIx, Ring};
use crate::view::{Incarnation, NodeIx, View};

/// What one node remembers about a range.
#[derive(Debug, Clone)]
pub(crate) struct Said<'a> {
    /// The incarnation its disk was first used under.
    pub born: Incarnation,
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
    said: &BTreeMap<NodeIx, Said<'_>>,
    mutant: Mutant,
) -> Verdict {
    let mut sets: Vec<&View> = said
        .values()
        .flat_map(|s| s.installed.into_iter().chain(s.asked))
        .collect();
    sets.sort_by_key(|set| std::cmp::Reverse(set.size()));
    sets.dedup();
    let has = |s: &Said, set: &View| s.installed.is_some_and(|have| have.size() >= set.size());
    for set in sets {
        let members = ring.replicas(range, set);
        // Does this node's disk go back to when the set was made?
        let remembers =
            |n: &NodeIx, s: &Said| s.born <= set.incarnation(*n) || mutant == Mutant::NewDisksCount;
        let never = |n: &NodeIx| said.get(n).is_some_and(|s| !has(s, set) && remembers(n, s));
        if members.iter().any(never) {
            continue;
        }
        let newest = said
            .values()
            .filter(|s| has(s, set))
            .filter_map(|s| s.installed)
            .max_by_key(|v| v.size());
        let names = || {
            members
                .iter()
                .map(|n| ring.name(*n))
                .collect::<Vec<_>>()
                .join(", ")
        };
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
        let source =
            |s: &Said| s.installed == Some(newest) || (mutant == Mutant::ShareOfAll && s.installed.is_some());
        let nodes = said.iter().filter(|(_, s)| source(s)).map(|(n, _)| *n).collect();
        return Verdict::Sources {
            nodes,
            of: newest.clone(),
        };
    }
    Verdict::Empty
}

/// The range's content, all sealed: what all `sources` (holders of the newest installed set) have, and so at least all that was acknowledged.
/// `open` is the segment that was open under that set.
pub(crate) fn seal(sources: &[&BTreeMap<&FileName, &File>], open: SegmentId) -> Vec<(FileName, File)> {
    let Some((first, others)) = sources.split_first() else {
        return Vec::new();
    };
    let mut sealed = Vec::new();
    for (name, file) in first.iter() {
        // A file that one of them does not have, or has under another nonce, was just being created or removed.
        let copies: Option<Vec<&File>> = others.iter().map(|s| s.get(name).copied()).collect();
        let Some(mut copies) = copies.filter(|c| c.iter().all(|f| f.nonce == file.nonce)) else {
            continue;
        };
        copies.push(file);
        sealed.push(((*name).clone(), seal_file(&copies, open)));
    }
    sealed
}

fn seal_file(copies: &[&File], open: SegmentId) -> File {
    let entries = |file: &File| file.segment(open).map_or(0, |s| s.entries);
    let damaged = |file: &File| file.segment(open).is_some_and(|s| s.missing);
    // How much a damaged copy still has says nothing about how much there was.
    let shortest = copies.iter().filter(|f| !damaged(f)).min_by_key(|f| entries(f));
    let base: &File = match shortest.or_else(|| copies.iter().max_by_key(|f| entries(f))) {
        Some(file) => file,
        None => return File::default(),
    };
    let seal = |s: &Segment| Segment {
        sealed: true,
        missing: false,
        ..s.head()
    };
    let segments = base.segments.iter().filter(|s| s.entries > 0).map(seal).collect();
    let mut streams = base.streams.clone();
    for (client, theirs) in copies.iter().flat_map(|f| &f.streams) {
        let stream = streams.entry(*client).or_insert(Stream { length: 0, ..*theirs });
        if theirs.epoch > stream.epoch {
            (stream.epoch, stream.nonce) = (theirs.epoch, theirs.nonce);
        }
    }
    File {
        nonce: base.nonce,
        segments,
        streams,
    }
}

#[cfg(test)]
mod tests;
