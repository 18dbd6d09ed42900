//! Which sealed segments this node misses, and getting them.

use std::collections::BTreeMap;

use common::clock::Time;

use super::{Effect, RESEND, Replica};
use crate::store::{self, Store};
use crate::wire::peer::Message;
use hydfs::content::{FileName, Segment, SegmentId};
use hydfs::ring::RangeIx;
use hydfs::view::NodeIx;

/// Copied at the same time.
const MOST: usize = 8;

type Key = (RangeIx, FileName, SegmentId);

#[derive(Debug, Default)]
pub(super) struct Repairs {
    /// Who may have it.
    holders: BTreeMap<RangeIx, Vec<NodeIx>>,
    wanted: BTreeMap<RangeIx, BTreeMap<(FileName, SegmentId), State>>,
    under_way: usize,
    /// There may be something to start.
    pub look: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting { until: Time },
    UnderWay,
}

impl Repairs {
    /// The range was just installed here: this is what it misses.
    pub fn want(&mut self, store: &impl Store, range: RangeIx, holders: Vec<NodeIx>) {
        self.holders.insert(range, holders);
        let before = self.wanted.remove(&range).unwrap_or_default();
        let mut wanted = BTreeMap::new();
        for (name, file) in store.files(range) {
            for segment in file.segments.iter().filter(|s| s.missing && s.sealed) {
                let key = (name.clone(), segment.id);
                let state = before
                    .get(&key)
                    .copied()
                    .unwrap_or(State::Waiting { until: Time::ZERO });
                wanted.insert(key, state);
            }
        }
        if !wanted.is_empty() {
            self.wanted.insert(range, wanted);
        }
        self.recount();
    }

    fn recount(&mut self) {
        self.look = true;
        let states = self.wanted.values().flat_map(BTreeMap::values);
        self.under_way = states.filter(|s| **s == State::UnderWay).count();
    }

    /// The view changed: who has what is to be found out anew. What is under way goes on.
    pub fn pause(&mut self) {
        self.holders.clear();
    }

    /// This node has no part in the range any more.
    pub fn forget(&mut self, range: RangeIx) {
        self.holders.remove(&range);
        self.wanted.remove(&range);
        self.recount();
    }

    pub fn is_whole(&self, range: RangeIx) -> bool {
        !self.wanted.contains_key(&range)
    }

    pub fn len(&self) -> usize {
        self.wanted.values().map(BTreeMap::len).sum()
    }

    pub fn failed(&mut self, now: Time, (range, file, segment): &Key) {
        self.set(*range, file, *segment, State::Waiting { until: now + RESEND });
    }

    fn set(&mut self, range: RangeIx, file: &FileName, segment: SegmentId, to: State) {
        let slot = self
            .wanted
            .get_mut(&range)
            .and_then(|w| w.get_mut(&(file.clone(), segment)));
        if let Some(slot) = slot {
            *slot = to;
        }
        self.recount();
    }
}

impl Repairs {
    /// Forgets what is not missing any more: repaired, or its file was removed. Returns the ranges that have come to miss nothing.
    fn prune(&mut self, store: &impl Store) -> Vec<RangeIx> {
        let is_missing = |range, (name, id): &(FileName, SegmentId)| {
            let held = store.file(range, name).and_then(|f| f.segment(*id));
            held.is_some_and(|s| s.missing)
        };
        let mut whole = Vec::new();
        self.wanted.retain(|range, wanted| {
            wanted.retain(|key, _| is_missing(*range, key));
            if wanted.is_empty() {
                whole.push(*range);
            }
            !wanted.is_empty()
        });
        self.recount();
        self.look = false;
        whole
    }

    /// Begins with as many as may be under way at a time.
    fn start(&mut self, store: &impl Store, now: Time, out: &mut Vec<Effect>) {
        for (range, wanted) in &mut self.wanted {
            let Some(from) = self.holders.get(range).filter(|from| !from.is_empty()) else {
                continue;
            };
            for ((file, id), state) in wanted {
                if self.under_way >= MOST {
                    return;
                }
                if !matches!(state, State::Waiting { until } if *until <= now) {
                    continue;
                }
                let held = store.file(*range, file);
                let Some((nonce, segment)) =
                    held.and_then(|held| Some((held.nonce, held.segment(*id)?.head())))
                else {
                    continue;
                };
                out.push(Effect::Repair {
                    range: *range,
                    file: file.clone(),
                    nonce,
                    segment,
                    from: from.clone(),
                });
                *state = State::UnderWay;
                self.under_way += 1;
            }
        }
    }
}

impl<S: Store> Replica<S> {
    pub(super) fn start_repairs(&mut self, now: Time, out: &mut Vec<Effect>) {
        if !std::mem::take(&mut self.repairs.look) {
            return;
        }
        for range in self.repairs.prune(&self.store) {
            self.say_whole(range, true, out);
        }
        self.repairs.start(&self.store, now, out);
    }

    /// If it is missing still (it was wanted anew, as something else, in the meantime), it is tried again.
    pub(super) fn repaired(&mut self, range: RangeIx, file: &FileName, segment: &Segment) {
        self.repairs
            .set(range, file, segment.id, State::Waiting { until: Time::ZERO });
    }

    pub(super) fn damaged(
        &mut self,
        range: RangeIx,
        file: FileName,
        segment: SegmentId,
        out: &mut Vec<Effect>,
    ) -> Result<(), store::Error> {
        let held = self
            .store
            .file(range, &file)
            .and_then(|held| held.segment(segment));
        let Some(sealed) = held.filter(|s| !s.missing).map(|s| s.sealed) else {
            return Ok(());
        };
        self.store.set_missing(range, &file, segment)?;
        let installed = self.store.range(range).installed.as_ref() == Some(&self.current.view);
        if installed && !sealed && segment.is_of_view(self.current.first_segment()) {
            // It can't be added to any more: the others must not count on this node until it is sealed and repaired.
            return self.rejoin(out);
        }
        // A copy outside the set is never repaired: it goes away.
        if sealed && self.replicas_of(range).contains(&self.me) {
            let state = State::Waiting { until: Time::ZERO };
            self.repairs
                .wanted
                .entry(range)
                .or_default()
                .insert((file, segment), state);
            self.repairs.look = true;
            self.say_whole(range, false, out);
        }
        Ok(())
    }

    fn say_whole(&mut self, range: RangeIx, whole: bool, out: &mut Vec<Effect>) {
        let Some(leader) = self.current.leader(range) else {
            return;
        };
        if leader == self.me {
            // What is not installed yet says so when it is.
            if !self.current.has_installed(self.me, range) {
                return;
            }
            let done = self.installed(self.nudged, self.me, range, whole, out);
            self.check(done, out);
        } else if self.current.follows.contains_key(&range) {
            let message = Message::Installed {
                view: self.current.id,
                ranges: vec![(range, whole)],
            };
            out.push(Effect::Send { to: leader, message });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::mem::MemStore;
    use hydfs::content::File;
    use hydfs::view::{Incarnation, View};

    const RANGE: RangeIx = RangeIx(0);

    /// A store that misses one sealed segment of each of so many files.
    fn store(files: usize) -> MemStore {
        let mut set = View::new(3);
        assert!(set.join(NodeIx(0), Incarnation(1)));
        let segment = Segment {
            entries: 1,
            sealed: true,
            ..Segment::open(SegmentId(1))
        };
        let file = File {
            nonce: 1,
            segments: vec![segment],
            ..File::default()
        };
        let named = |i| (FileName::new(format!("f{i:02}")).unwrap(), file.clone());
        let mut store = MemStore::default();
        store
            .install(RANGE, &set, &(0..files).map(named).collect::<Vec<_>>())
            .unwrap();
        store
    }

    fn begun(repairs: &mut Repairs, store: &MemStore, now: Time) -> Vec<FileName> {
        let mut out = Vec::new();
        repairs.start(store, now, &mut out);
        let repair = |effect| match effect {
            Effect::Repair { file, .. } => file,
            other => panic!("{other:?}"),
        };
        out.into_iter().map(repair).collect()
    }

    #[test]
    fn a_few_are_under_way_at_a_time_and_a_failed_one_is_tried_again_later() {
        let (store, mut repairs) = (store(MOST + 1), Repairs::default());
        repairs.want(&store, RANGE, vec![NodeIx(1)]);
        assert_eq!((repairs.len(), repairs.is_whole(RANGE)), (MOST + 1, false));
        let now = Time::from_millis(5000);
        let first = begun(&mut repairs, &store, now);
        assert_eq!(first.len(), MOST);
        repairs.failed(now, &(RANGE, first[0].clone(), SegmentId(1)));
        assert_eq!(
            begun(&mut repairs, &store, now).len(),
            1,
            "the one that had no turn yet"
        );
        repairs.failed(now, &(RANGE, first[1].clone(), SegmentId(1)));
        assert_eq!(begun(&mut repairs, &store, now + RESEND), [first[0].clone()]);
    }

    #[test]
    fn nothing_is_fetched_before_it_is_known_who_has_it() {
        let (store, mut repairs) = (store(1), Repairs::default());
        repairs.want(&store, RANGE, vec![NodeIx(1)]);
        repairs.pause();
        assert!(begun(&mut repairs, &store, Time::ZERO).is_empty());
    }

    #[test]
    fn what_was_removed_is_wanted_no_more() {
        let (mut store, mut repairs) = (store(1), Repairs::default());
        repairs.want(&store, RANGE, vec![NodeIx(1)]);
        assert!(repairs.prune(&store).is_empty());
        store.remove(RANGE, &FileName::new("f00").unwrap()).unwrap();
        assert_eq!(repairs.prune(&store), [RANGE]);
        assert!(repairs.is_whole(RANGE));
    }
}
