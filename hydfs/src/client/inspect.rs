//! Comparing what the replicas of a file hold: the pure part of `merge` and `fsck`, and asking for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use common::clock;
use tokio::sync::oneshot;

use super::conn::Answer;
use super::error::Error;
use super::nodes::Nodes;
use crate::content::{Segment, SegmentId};
use crate::ring::RangeIx;
use crate::view::NodeIx;
use crate::wire::client::{CopyInfo, Refusal, Reply, Request};

const ANSWER: Duration = Duration::from_secs(5);
/// One step of reading back may wait behind others' reads.
const STEP: Duration = Duration::from_secs(30);
/// Steps under way on all nodes together.
const WINDOW: usize = 32;

/// How a range stands, by its coordinator's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeStand {
    pub coordinator: NodeIx,
    pub members: Vec<NodeIx>,
}

/// What is wrong with one node's copy of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flaw {
    /// It has no such file, or another one of that name.
    Absent,
    /// It misses so many bytes, and knows it.
    Misses(u64),
    /// It holds other bytes than the first.
    Differs(SegmentId),
}

/// What a comparison came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Compared {
    pub flaws: Vec<(NodeIx, Flaw)>,
    /// The open segment is longer on some: the first so many entries are to be compared by their digests.
    pub open: Option<(SegmentId, u64)>,
}

/// Compares the copies of one file; the first is the coordinator's and says what there is.
pub fn compare(copies: &[(NodeIx, Option<&CopyInfo>)]) -> Compared {
    let mut compared = Compared::default();
    let Some((first, lead)) = copies.iter().find_map(|(node, copy)| Some((*node, (*copy)?))) else {
        return compared;
    };
    for (node, copy) in copies {
        let Some(copy) = copy.filter(|c| c.nonce == lead.nonce) else {
            compared.flaws.push((*node, Flaw::Absent));
            continue;
        };
        let missing: u64 = copy
            .segments
            .iter()
            .map(|s| &s.segment)
            .filter(|s| s.missing)
            .map(|s| s.bytes)
            .sum();
        let open_missing = copy
            .segments
            .iter()
            .any(|s| s.segment.missing && s.segment.bytes == 0);
        if missing > 0 || open_missing {
            compared.flaws.push((*node, Flaw::Misses(missing)));
        }
        // What one has trimmed the other is about to.
        let dropped = lead.dropped.max(copy.dropped);
        for theirs in lead.segments.iter().map(|s| &s.segment) {
            let mine = segment(copy, theirs.id);
            let same = mine.is_some_and(|m| m.missing || m.same(theirs));
            if same || theirs.missing || Some(theirs.id) <= dropped {
                continue;
            }
            // Entries under way are on some members before they are on all, and so are segments that are opened and closed for them.
            let growing = match mine {
                Some(mine) => !mine.sealed || !theirs.sealed,
                None => is_ahead(lead, copy, theirs.id),
            };
            if !growing {
                compared.flaws.push((*node, Flaw::Differs(theirs.id)));
            }
        }
        let more = copy
            .segments
            .iter()
            .map(|s| s.segment.id)
            .find(|id| segment(lead, *id).is_none() && Some(*id) > dropped && !is_ahead(copy, lead, *id));
        if let Some(more) = more.filter(|_| *node != first) {
            compared.flaws.push((*node, Flaw::Differs(more)));
        }
    }
    compared.open = growing(copies);
    compared
}

fn segment(copy: &CopyInfo, id: SegmentId) -> Option<&Segment> {
    copy.segments.iter().map(|s| &s.segment).find(|s| s.id == id)
}

/// The newest segment, while entries may come into it.
fn open(copy: &CopyInfo) -> Option<&Segment> {
    copy.segments.last().map(|s| &s.segment).filter(|s| !s.sealed)
}

/// Is segment `id` of the view in which both grow, and further than `behind` has come?
fn is_ahead(ahead: &CopyInfo, behind: &CopyInfo, id: SegmentId) -> bool {
    let newest = behind
        .segments
        .iter()
        .map(|s| s.segment.id)
        .max()
        .max(behind.dropped);
    let in_view = [ahead, behind]
        .into_iter()
        .filter_map(open)
        .any(|s| s.id.is_of_view(id));
    in_view && Some(id) > newest
}

/// The segment that the furthest behind are writing, if it is not the same everywhere, and how many of its entries all have.
fn growing(copies: &[(NodeIx, Option<&CopyInfo>)]) -> Option<(SegmentId, u64)> {
    let copies: Vec<&CopyInfo> = copies.iter().filter_map(|(_, c)| *c).collect();
    let view = copies.iter().filter_map(|c| open(c)).find(|s| !s.missing)?.id;
    let of_view = |c: &CopyInfo| -> Option<Segment> {
        let last = c.segments.last().map(|s| s.segment.head())?;
        last.id.is_of_view(view).then_some(last)
    };
    let last: Vec<Option<Segment>> = copies.iter().map(|c| of_view(c)).collect();
    // Who has none has not opened the first, or has dropped all that it had.
    let id = last.iter().flatten().map(|s| s.id).min()?;
    let there: Vec<Option<&Segment>> = copies.iter().map(|c| segment(c, id)).collect();
    let some = there.iter().flatten().next()?;
    let same = last.iter().all(|s| s.as_ref().is_some_and(|s| s.id == id))
        && there.iter().all(|s| s.is_some_and(|s| s.same(some)));
    let entries = there
        .iter()
        .map(|s| s.filter(|s| !s.missing).map_or(0, |s| s.entries));
    (!same).then(|| (id, entries.min().unwrap_or(0)))
}

/// Asks several nodes the same at the same time.
pub async fn ask_each(
    nodes: &Nodes,
    whom: &[NodeIx],
    request: &Request,
) -> Vec<(NodeIx, Result<Answer, Error>)> {
    let mut under_way = Vec::new();
    for node in whom {
        let answer = nodes.conn(*node).await.map(|conn| conn.call(request.clone()));
        under_way.push((*node, answer));
    }
    let mut answers = Vec::new();
    for (node, answer) in under_way {
        let answer = match answer {
            Ok(answer) => take(nodes, node, answer, ANSWER).await,
            Err(error) => Err(error),
        };
        answers.push((node, answer));
    }
    answers
}

async fn take(
    nodes: &Nodes,
    node: NodeIx,
    answer: oneshot::Receiver<Answer>,
    most: Duration,
) -> Result<Answer, Error> {
    let failed = |why: &str| Error::Net {
        node: nodes.name(node),
        why: why.into(),
    };
    match tokio::time::timeout(most, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(failed("the connection was lost")),
        Err(_) => Err(failed("no answer in time")),
    }
}

/// How a range stands; `Err`: why it is unavailable. Asks for up to `patience`, since a take-over is soon over.
pub async fn range_state(
    nodes: &Arc<Nodes>,
    range: RangeIx,
    patience: Duration,
) -> Result<Result<RangeStand, String>, Error> {
    let start = clock::now();
    loop {
        let mut why = "no storage node coordinates it".to_owned();
        for (node, answer) in ask_each(nodes, &nodes.all(), &Request::RangeState { range }).await {
            match answer {
                Ok(Answer::Reply(Reply::Range {
                    coordinator: Some(says),
                    members,
                    unavailable,
                    ..
                })) if says == node => match unavailable {
                    None => {
                        return Ok(Ok(RangeStand {
                            coordinator: node,
                            members,
                        }));
                    }
                    Some(reason) => why = reason,
                },
                Err(error @ Error::Secret { .. }) => return Err(error),
                _ => {}
            }
        }
        if clock::now().since(start) >= patience {
            return Ok(Err(why));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// One node's copies of a range's files.
pub async fn copies(
    nodes: &Nodes,
    node: NodeIx,
    range: RangeIx,
    prefix: &str,
) -> Result<Vec<CopyInfo>, Error> {
    let mut all: Vec<CopyInfo> = Vec::new();
    loop {
        let request = Request::Copies {
            range,
            prefix: prefix.into(),
            after: all.last().map_or(String::new(), |c| c.file.clone()),
            exact: false,
        };
        match nodes.call(node, request, ANSWER).await? {
            Answer::Reply(Reply::Copies { copies, more }) => {
                let done = !more || copies.is_empty();
                all.extend(copies);
                if done {
                    return Ok(all);
                }
            }
            Answer::Reply(other) => return Err(nodes.unexpected(prefix, &other)),
            _ => return Ok(all),
        }
    }
}

/// Every one of `nodes`' copies of one file.
pub async fn copies_of(
    nodes: &Nodes,
    whom: &[NodeIx],
    file: &str,
) -> Vec<(NodeIx, Result<Option<CopyInfo>, Error>)> {
    let request = Request::Copies {
        range: nodes.ring().range_of(file),
        prefix: file.into(),
        after: String::new(),
        exact: true,
    };
    let copy = |answer| match answer {
        Answer::Reply(Reply::Copies { copies, .. }) => Ok(copies.into_iter().next()),
        Answer::Reply(other) => Err(nodes.unexpected(file, &other)),
        _ => Ok(None),
    };
    let answers = ask_each(nodes, whom, &request).await.into_iter();
    answers
        .map(|(node, answer)| (node, answer.and_then(copy)))
        .collect()
}

/// Do all have the same first `entries` entries in the open segment? `None`: not to be said now. Else who differs from the first.
pub async fn same_beginning(
    nodes: &Nodes,
    whom: &[NodeIx],
    (file, nonce): (&str, u64),
    (segment, entries): (SegmentId, u64),
) -> Option<Vec<NodeIx>> {
    if entries == 0 {
        return Some(vec![]);
    }
    let request = Request::Prefix {
        file: file.into(),
        nonce,
        segment,
        entries,
    };
    let mut digests = Vec::new();
    for (node, answer) in ask_each(nodes, whom, &request).await {
        let Ok(Answer::Reply(Reply::Prefix { digest, .. })) = answer else {
            return None;
        };
        digests.push((node, digest));
    }
    let first = digests.first()?.1;
    Some(
        digests
            .into_iter()
            .filter(|(_, d)| *d != first)
            .map(|(n, _)| n)
            .collect(),
    )
}

/// A segment of one node's copy, to be read back there.
#[derive(Debug, Clone)]
pub struct InspectJob {
    pub node: NodeIx,
    pub file: String,
    pub nonce: u64,
    pub segment: SegmentId,
    pub at: u64,
    pub entries: u64,
}

/// What reading back came to, where it did not end well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unread {
    Damaged {
        offset: u64,
        why: String,
    },
    /// It is not there (any more): dropped, or missing.
    Gone,
    Unreachable(String),
}

/// What of a copy is to be read back: all, or only what was not since the node started.
pub fn jobs(node: NodeIx, copy: &CopyInfo, all: bool) -> impl Iterator<Item = InspectJob> {
    let todo = copy.segments.iter().filter(|s| !s.segment.missing);
    todo.filter_map(move |s| {
        let at = if all { 0 } else { s.verified };
        (at < s.segment.entries).then(|| InspectJob {
            node,
            file: copy.file.clone(),
            nonce: copy.nonce,
            segment: s.segment.id,
            at,
            entries: s.segment.entries,
        })
    })
}

/// Has the nodes read the jobs' entries against their checksums, many at a time; tells `found` what did not end well.
pub async fn read_back(nodes: &Nodes, jobs: Vec<InspectJob>, mut found: impl FnMut(&InspectJob, Unread)) {
    let mut todo: VecDeque<InspectJob> = jobs.into();
    let mut under_way: VecDeque<(InspectJob, oneshot::Receiver<Answer>)> = VecDeque::new();
    loop {
        while under_way.len() < WINDOW
            && let Some(job) = todo.pop_front()
        {
            let request = Request::Verify {
                file: job.file.clone(),
                nonce: job.nonce,
                segment: job.segment,
                at: job.at,
            };
            match nodes.conn(job.node).await {
                Ok(conn) => under_way.push_back((job, conn.call(request))),
                Err(error) => found(&job, Unread::Unreachable(error.to_string())),
            }
        }
        let Some((job, answer)) = under_way.pop_front() else {
            return;
        };
        match take(nodes, job.node, answer, STEP).await {
            Ok(Answer::Reply(Reply::Verified { next })) if next > job.at && next < job.entries => {
                todo.push_front(InspectJob { at: next, ..job });
            }
            Ok(Answer::Reply(Reply::Verified { .. })) => {}
            Ok(Answer::Reply(Reply::Refused(Refusal::Damaged { offset, why }))) => {
                found(&job, Unread::Damaged { offset, why });
            }
            Ok(_) => found(&job, Unread::Gone),
            Err(error) => found(&job, Unread::Unreachable(error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::client::SegmentInfo;

    fn segment(id: u128, entries: u64, sealed: bool) -> Segment {
        Segment {
            entries,
            bytes: entries * 10,
            digest: entries * 7 + id as u64,
            sealed,
            ..Segment::open(SegmentId(id))
        }
    }

    fn copy(segments: &[Segment]) -> CopyInfo {
        let segments = segments.iter().map(|s| SegmentInfo {
            segment: s.clone(),
            verified: 1,
        });
        CopyInfo {
            file: "f".into(),
            nonce: 5,
            committed: 0,
            dropped: None,
            segments: segments.collect(),
        }
    }

    fn with(copies: &[CopyInfo]) -> Compared {
        let copies: Vec<_> = copies
            .iter()
            .enumerate()
            .map(|(i, c)| (NodeIx(i as u16), Some(c)))
            .collect();
        compare(&copies)
    }

    #[test]
    fn equal_copies_are_equal_and_an_open_segment_may_be_longer_on_some() {
        let (sealed, open) = (segment(1, 3, true), segment(2, 4, false));
        let equal = copy(&[sealed.clone(), open]);
        assert_eq!(
            with(&[equal.clone(), equal.clone(), equal.clone()]),
            Compared::default()
        );
        let longer = copy(&[sealed.clone(), segment(2, 6, false)]);
        let compared = with(&[longer, equal.clone(), equal.clone()]);
        assert_eq!((compared.flaws, compared.open), (vec![], Some((SegmentId(2), 4))));
        // It was just opened, and is not on all.
        let compared = with(&[equal, copy(&[sealed])]);
        assert_eq!((compared.flaws, compared.open), (vec![], Some((SegmentId(2), 0))));
    }

    #[test]
    fn segments_that_were_closed_or_dropped_a_moment_ago_are_no_flaws() {
        let part = |part, entries, sealed| Segment {
            id: SegmentId(2).with_part(part),
            ..segment(2, entries, sealed)
        };
        let old = segment(1, 3, true);
        let ahead = copy(&[old.clone(), part(0, 9, true), part(1, 5, true), part(2, 1, false)]);
        for (behind, common) in [
            (copy(std::slice::from_ref(&old)), None),
            (copy(&[old.clone(), part(0, 4, false)]), Some((SegmentId(2), 4))),
            (copy(&[old.clone(), part(0, 9, true)]), Some((SegmentId(2), 9))),
        ] {
            for pair in [[ahead.clone(), behind.clone()], [behind.clone(), ahead.clone()]] {
                let compared = with(&pair);
                assert_eq!(compared.flaws, vec![], "{behind:?}");
                assert!(common.is_none() || compared.open == common);
            }
        }
        // One has dropped what the other is about to.
        let trimmed = CopyInfo {
            dropped: Some(SegmentId(2).with_part(1)),
            ..copy(&[part(2, 1, false)])
        };
        assert_eq!(with(&[ahead.clone(), trimmed.clone()]).flaws, vec![]);
        assert_eq!(with(&[trimmed, ahead.clone()]).flaws, vec![]);
        // What lacks a segment in between, or has another one, is a flaw.
        let gap = copy(&[old.clone(), part(0, 9, true), part(2, 1, false)]);
        assert_eq!(with(&[ahead.clone(), gap]).flaws.len(), 1);
        let other = copy(&[old, part(0, 8, true), part(1, 5, true), part(2, 1, false)]);
        assert_eq!(with(&[ahead, other]).flaws.len(), 1);
    }

    #[test]
    fn flaws_are_named() {
        let good = copy(&[segment(1, 3, true), segment(2, 4, false)]);
        let missing = Segment {
            missing: true,
            ..segment(1, 3, true)
        };
        let flaws = |other: &CopyInfo| with(&[good.clone(), other.clone()]).flaws;
        let second = NodeIx(1);
        assert_eq!(
            flaws(&copy(&[missing, segment(2, 4, false)])),
            [(second, Flaw::Misses(30))]
        );
        let other = copy(&[segment(1, 2, true), segment(2, 4, false)]);
        assert_eq!(flaws(&other), [(second, Flaw::Differs(SegmentId(1)))]);
        let other = copy(&[segment(2, 4, false)]);
        assert_eq!(flaws(&other), [(second, Flaw::Differs(SegmentId(1)))]);
        let more = copy(&[segment(0, 1, true), segment(1, 3, true), segment(2, 4, false)]);
        assert_eq!(flaws(&more), [(second, Flaw::Differs(SegmentId(0)))]);
        let another = CopyInfo {
            nonce: 6,
            ..good.clone()
        };
        assert_eq!(flaws(&another), [(second, Flaw::Absent)]);
        let none = compare(&[(NodeIx(0), Some(&good)), (second, None)]);
        assert_eq!(none.flaws, [(second, Flaw::Absent)]);
    }

    #[test]
    fn only_what_was_not_read_back_is_to_be_read() {
        let copy = copy(&[segment(1, 1, true), segment(2, 4, false)]);
        let some: Vec<(u128, u64)> = jobs(NodeIx(0), &copy, false)
            .map(|j| (j.segment.0, j.at))
            .collect();
        assert_eq!(some, [(2, 1)]);
        assert_eq!(jobs(NodeIx(0), &copy, true).count(), 2);
    }
}
