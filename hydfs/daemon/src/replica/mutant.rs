//! Steps of the replica's protocol that the simulation leaves out, to see that its oracles notice.

use std::collections::BTreeMap;

use crate::store::Memory;
use crate::wire::peer::RangeAnswer;
use hydfs::content::{File, FileName, Segment};
use hydfs::view::NodeIx;

common::mutants! {
    pub(crate) enum Mutant {
        /// Two of three acknowledge.
        TwoAcks,
        /// A minority takes over.
        NoMajority,
        /// Nobody remembers for which sets it was asked.
        ForgetAsked,
        /// The open segment is sealed at what all holders share, those of older sets included.
        ShareOfAll,
        /// What a coordinator knows not to be committed is sealed in all the same.
        SealAll,
        /// Old epochs may append.
        Fence,
        /// A returning node's own longer segments count.
        UnionReturning,
        /// A new disk proves as much as an old one.
        NewDisksCount,
        /// A disk that may have lost the newest is believed about how much there was.
        BelieveLosers,
        /// A surplus copy is dropped as soon as the new set is active, whether or not that has fetched everything.
        DropEarly,
        /// What only the coordinator has may be trimmed.
        TrimUncommitted,
        /// A take-over forgets the base.
        ForgetBase,
        /// A returning node's copy from before a trim counts.
        ReturnTrimmed,
        /// What only a node had that has trimmed it, and is no source, stays part of the file.
        LeaveHoles,
        /// A process that was replaced may trim.
        UnfencedTrim,
        /// A lookup is answered by whoever believes to coordinate, without a probe to the members.
        Unprobed,
    }
}

/// [`Mutant::UnionReturning`]: whoever has more of a segment is believed.
pub(super) fn lengthen(files: &mut [(FileName, File)], answers: &BTreeMap<NodeIx, (Memory, RangeAnswer)>) {
    for (name, file) in files {
        let nonce = file.nonce;
        let copies = answers
            .values()
            .flat_map(|(_, a)| &a.files)
            .filter(|(n, f)| n == name && f.nonce == nonce);
        for (_, copy) in copies {
            for theirs in copy.segments.iter().filter(|s| !s.missing) {
                match file.segment_mut(theirs.id) {
                    Some(mine) if theirs.entries > mine.entries => {
                        *mine = Segment {
                            sealed: true,
                            ..theirs.head()
                        };
                        for (client, stream) in &copy.streams {
                            let mine = file.streams.entry(*client).or_default();
                            mine.length = mine.length.max(stream.length);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

/// [`Mutant::ReturnTrimmed`]: whoever was away during a trim still has what the others have dropped.
pub(super) fn untrim(files: &mut [(FileName, File)], answers: &BTreeMap<NodeIx, (Memory, RangeAnswer)>) {
    for (name, file) in files {
        let nonce = file.nonce;
        let copies = answers
            .values()
            .flat_map(|(_, a)| &a.files)
            .filter(|(n, f)| n == name && f.nonce == nonce);
        for (_, copy) in copies {
            let last = file.dropped.last;
            if copy.dropped.last >= last {
                continue;
            }
            let gone = copy.segments.iter().filter(|s| Some(s.id) <= last);
            let mut segments: Vec<_> = gone
                .map(|s| Segment {
                    sealed: true,
                    ..s.head()
                })
                .collect();
            segments.append(&mut file.segments);
            (file.base, file.dropped, file.segments) = (copy.base, copy.dropped, segments);
        }
    }
}
