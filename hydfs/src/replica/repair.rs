//! Which sealed segments this node misses, and getting them.

use std::collections::BTreeMap;

use common::clock::Time;

use super::{Effect, RESEND, Replica};
use crate::content::{FileName, Segment, SegmentId};
use crate::ring::RangeIx;
use crate::store::{self, Store};
use crate::view::NodeIx;
use crate::wire::peer::Message;

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

impl<S: Store> Replica<S> {
    pub(super) fn start_repairs(&mut self, now: Time, out: &mut Vec<Effect>) {
        if !std::mem::take(&mut self.repairs.look) {
            return;
        }
        self.prune(out);
        let Repairs {
            holders,
            wanted,
            under_way,
            ..
        } = &mut self.repairs;
        for (range, wanted) in wanted {
            let Some(from) = holders.get(range).filter(|from| !from.is_empty()) else {
                continue;
            };
            for ((file, id), state) in wanted {
                if *under_way >= MOST {
                    return;
                }
                let State::Waiting { until } = *state else {
                    continue;
                };
                if until > now {
                    continue;
                }
                let held = self.store.file(*range, file);
                let Some((nonce, segment)) =
                    held.and_then(|held| Some((held.nonce, held.segment(*id)?.head())))
                else {
                    continue;
                };
                let (range, file, from) = (*range, file.clone(), from.clone());
                out.push(Effect::Repair {
                    range,
                    file,
                    nonce,
                    segment,
                    from,
                });
                *state = State::UnderWay;
                *under_way += 1;
            }
        }
    }

    /// Forgets what is not missing any more: repaired, or its file was removed.
    fn prune(&mut self, out: &mut Vec<Effect>) {
        let mut whole = Vec::new();
        for (range, wanted) in &mut self.repairs.wanted {
            wanted.retain(|(name, id), _| {
                self.store
                    .file(*range, name)
                    .and_then(|f| f.segment(*id))
                    .is_some_and(|s| s.missing)
            });
            if wanted.is_empty() {
                whole.push(*range);
            }
        }
        for range in whole {
            self.repairs.wanted.remove(&range);
            self.say_whole(range, true, out);
        }
        self.repairs.recount();
        self.repairs.look = false;
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
        let installed = self.store.range(range).installed.as_ref() == Some(&self.view);
        if installed && segment == SegmentId::of(&self.view) {
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
        let Some(leader) = self.leader(range) else { return };
        if leader == self.me {
            // What is not installed yet says so when it is.
            if !self.has_installed(range) {
                return;
            }
            let done = self.installed(self.nudged, self.me, range, whole, out);
            self.check(done, out);
        } else if self.follows.contains_key(&range) {
            let message = Message::Installed {
                view: self.view_id,
                ranges: vec![(range, whole)],
            };
            out.push(Effect::Send { to: leader, message });
        }
    }
}
