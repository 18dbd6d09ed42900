//! Take-over: the coordinator asks, decides and installs; everybody answers; members install.

use std::collections::{BTreeMap, BTreeSet};

use common::clock::Time;

use super::active::ActiveRange;
use super::decide::{RangeMemory, SourceCopy, Verdict, decide, seal, trim_holes};
use super::follow::FollowState;
use super::view_state::{LeadState, ViewState};
use super::{Effect, Mutant, RESEND, RangeState, Replica, mutant};
use crate::store::{self, Memory, Store};
use crate::wire::peer::{Message, RangeAnswer, RangeInstall};
use hydfs::content::{File, FileName, SegmentId};
use hydfs::ring::{RangeIx, Ring};
use hydfs::view::{NodeIx, View};

/// Asking. All ranges that this node coordinates go together.
pub(super) struct TakeOver {
    ranges: Vec<RangeIx>,
    answers: BTreeMap<NodeIx, (Memory, Vec<RangeAnswer>)>,
    sent: Time,
}

/// Decided; not all members have installed it.
pub(super) struct Installing {
    content: RangeInstall,
    /// Who has, and whether it misses nothing.
    installed: BTreeMap<NodeIx, bool>,
    sent: Time,
}

impl TakeOver {
    /// A node has answered; its first answer counts.
    fn note(&mut self, from: NodeIx, memory: Memory, ranges: Vec<RangeAnswer>) {
        // Otherwise it answers to nothing: it sees another coordinator, which can't be in the same view.
        if ranges.len() == self.ranges.len() {
            self.answers.entry(from).or_insert((memory, ranges));
        }
    }

    /// All have answered: what the members of each range shall hold, or why it can't be known.
    fn conclude(self, ring: &Ring, view: &View) -> Vec<(RangeIx, Result<RangeInstall, String>)> {
        let mut answers: BTreeMap<RangeIx, BTreeMap<NodeIx, (Memory, RangeAnswer)>> = BTreeMap::new();
        for (node, (memory, ranges)) in self.answers {
            for answer in ranges {
                let range = answers.entry(answer.range).or_default();
                range.insert(node, (memory, answer));
            }
        }
        let concluded = |range| Some((range, conclude(ring, range, view, answers.get(&range)?)));
        self.ranges.into_iter().filter_map(concluded).collect()
    }
}

/// What the range's members shall hold, or why it can't be known.
fn conclude(
    ring: &Ring,
    range: RangeIx,
    view: &View,
    answers: &BTreeMap<NodeIx, (Memory, RangeAnswer)>,
) -> Result<RangeInstall, String> {
    let said = answers
        .iter()
        .map(|(n, (memory, a))| {
            (
                *n,
                RangeMemory {
                    memory: *memory,
                    installed: a.installed.as_ref(),
                    asked: &a.asked,
                },
            )
        })
        .collect();
    let (nodes, of) = match decide(ring, range, view, &said) {
        Verdict::Empty => {
            return Ok(RangeInstall {
                range,
                files: Vec::new(),
                holders: Vec::new(),
            });
        }
        Verdict::Unavailable { why } => return Err(why),
        Verdict::Sources { nodes, of } => (nodes, of),
    };
    let copy = |n: &NodeIx| {
        let (memory, answer) = &answers[n];
        SourceCopy {
            whole: memory.is_whole(*n, &of) || Mutant::BelieveLosers.is_on(),
            files: answer.files.iter().map(|(name, file)| (name, file)).collect(),
        }
    };
    let copies: Vec<SourceCopy<'_>> = nodes.iter().map(copy).collect();
    let mut files = seal(&copies, SegmentId::of(&of));
    let answered = answers.values().flat_map(|(_, answer)| &answer.files);
    trim_holes(&mut files, answered, SegmentId::of(&of));
    if Mutant::UnionReturning.is_on() {
        mutant::lengthen(&mut files, answers);
    }
    if Mutant::ReturnTrimmed.is_on() {
        mutant::untrim(&mut files, answers);
    }
    // Who else has some of it comes after those who have the newest.
    let others = answers
        .iter()
        .filter(|(n, (_, a))| !a.files.is_empty() && !nodes.contains(n))
        .map(|(n, _)| *n);
    let holders = nodes.iter().copied().chain(others).collect();
    Ok(RangeInstall {
        range,
        files,
        holders,
    })
}

impl Installing {
    /// The members that miss nothing, once all have installed.
    fn whole_members(&self, members: &[NodeIx]) -> Option<BTreeSet<NodeIx>> {
        let all = members.iter().all(|n| self.installed.contains_key(n));
        let whole = self
            .installed
            .iter()
            .filter(|(_, whole)| **whole)
            .map(|(n, _)| *n);
        all.then(|| whole.collect())
    }
}

impl ViewState {
    /// Sends again what `node` (or everybody) has not answered.
    pub fn ask_again(&mut self, now: Time, me: NodeIx, node: Option<NodeIx>, out: &mut Vec<Effect>) {
        let to = |n: &NodeIx| *n != me && node.is_none_or(|only| only == *n);
        let is_due = |sent: Time| node.is_some() || now.since(sent) >= RESEND;
        if let Some(takeover) = self.takeover.as_mut().filter(|t| is_due(t.sent)) {
            if node.is_none() {
                takeover.sent = now;
            }
            let silent = |n: &NodeIx| to(n) && !takeover.answers.contains_key(n);
            for to in self.view.alive().filter(silent) {
                let message = Message::Ask {
                    view: self.view.clone(),
                    ranges: takeover.ranges.clone(),
                };
                out.push(Effect::Send { to, message });
            }
        }
        let mut installs: BTreeMap<NodeIx, Vec<RangeInstall>> = BTreeMap::new();
        for (range, lead) in &mut self.leads {
            let LeadState::Installing(installing) = lead else {
                continue;
            };
            if !is_due(installing.sent) {
                continue;
            }
            if node.is_none() {
                installing.sent = now;
            }
            let set = self.sets.get(range).into_iter().flatten();
            for n in set.filter(|n| to(n) && !installing.installed.contains_key(n)) {
                installs.entry(*n).or_default().push(installing.content.clone());
            }
        }
        self.send_installs(installs, out);
    }

    fn send_installs(&self, installs: BTreeMap<NodeIx, Vec<RangeInstall>>, out: &mut Vec<Effect>) {
        for (to, ranges) in installs {
            let view = self.view.clone();
            let message = Message::Install { view, ranges };
            out.push(Effect::Send { to, message });
        }
    }

    /// Has `me`, the coordinator, its own copy of the range as decided?
    pub fn has_installed(&self, me: NodeIx, range: RangeIx) -> bool {
        match self.leads.get(&range) {
            Some(LeadState::Active(_)) => true,
            Some(LeadState::Installing(installing)) => installing.installed.contains_key(&me),
            Some(LeadState::Waiting { .. }) | None => false,
        }
    }

    /// Tells these which ranges are active, and whether copies outside their sets are still needed.
    pub fn announce_active(&self, to: BTreeSet<NodeIx>, out: &mut Vec<Effect>) {
        let settled = |(range, active): (RangeIx, &ActiveRange)| (range, active.repairing().is_empty());
        let ranges: Vec<(RangeIx, bool)> = self.active().map(settled).collect();
        if ranges.is_empty() {
            return;
        }
        for to in to {
            let (view, ranges) = (self.id, ranges.clone());
            let message = Message::Active { view, ranges };
            out.push(Effect::Send { to, message });
        }
    }
}

impl<S: Store> Replica<S> {
    /// The view is new.
    pub(super) fn begin_takeover(&mut self, now: Time, out: &mut Vec<Effect>) -> Result<(), store::Error> {
        let ranges = self.current.coordinated_by(self.me);
        if ranges.is_empty() {
            return Ok(());
        }
        let majority = self.current.view.has_majority() || Mutant::NoMajority.is_on();
        let why = if majority {
            "its replicas are being found".to_owned()
        } else {
            format!(
                "{} of {} storage nodes are there, no majority",
                self.current.view.alive().count(),
                self.current.view.nodes()
            )
        };
        for range in &ranges {
            let lead = LeadState::Waiting { why: why.clone() };
            self.current.set_lead(*range, lead, out);
        }
        if !majority {
            return Ok(());
        }
        let ask = Message::Ask {
            view: self.current.view.clone(),
            ranges: ranges.clone(),
        };
        for to in self.current.view.alive().filter(|n| *n != self.me) {
            out.push(Effect::Send {
                to,
                message: ask.clone(),
            });
        }
        self.current.takeover = Some(TakeOver {
            ranges,
            answers: BTreeMap::new(),
            sent: now,
        });
        self.own_part_again(now, out)
    }

    /// This node's own answer and own installations, if they are still to be made (its disk was full, or it is the first time).
    pub(super) fn own_part_again(&mut self, now: Time, out: &mut Vec<Effect>) -> Result<(), store::Error> {
        let asking = self
            .current
            .takeover
            .as_ref()
            .filter(|t| !t.answers.contains_key(&self.me));
        if let Some(ranges) = asking.map(|t| t.ranges.clone())
            && let Message::Answer {
                view: _,
                memory,
                ranges,
            } = self.answer(self.me, &ranges)?
        {
            self.answered(now, self.me, memory, ranges, out)?;
        }
        let mine = |(range, lead): (&RangeIx, &LeadState)| match lead {
            LeadState::Installing(i) if !i.installed.contains_key(&self.me) => Some(*range),
            _ => None,
        };
        let todo: Vec<RangeIx> = self.current.leads.iter().filter_map(mine).collect();
        todo.into_iter()
            .try_for_each(|range| self.install_here(now, range, out))?;
        let active: Vec<RangeIx> = self.current.active().map(|(range, _)| range).collect();
        self.remember_active(&active)
    }

    /// What this node says when it is asked. It has learned the view, so it refuses older ones from now on; and it remembers having been asked.
    pub(super) fn answer(&mut self, from: NodeIx, ranges: &[RangeIx]) -> Result<Message, store::Error> {
        let (mut said, mut remember) = (Vec::new(), Vec::new());
        for range in ranges
            .iter()
            .copied()
            .filter(|range| self.current.leader(*range) == Some(from))
        {
            let mut facts = self.store.range(range);
            // Asked again, it gives the same answer.
            let before = facts.asked.iter().filter(|set| **set != self.current.view);
            let (installed, asked) = (facts.installed.clone(), before.cloned().collect());
            if facts.installed.as_ref() != Some(&self.current.view)
                && !facts.asked.contains(&self.current.view)
            {
                facts.asked.push(self.current.view.clone());
                remember.push((range, facts));
            }
            let files = installed
                .as_ref()
                .map_or_else(Vec::new, |set| self.held(range, set));
            said.push(RangeAnswer {
                range,
                installed,
                asked,
                files,
            });
        }
        if !remember.is_empty() && !Mutant::ForgetAsked.is_on() {
            self.store.set_ranges(remember)?;
        }
        Ok(Message::Answer {
            view: self.current.view.clone(),
            memory: self.memory(),
            ranges: said,
        })
    }

    /// What this node holds of a range, installed in `set`. As the coordinator that led the set it knows what was ever committed, and so
    /// acknowledged: the rest need not be sealed in, to be lost with the only copy of it.
    fn held(&self, range: RangeIx, set: &View) -> Vec<(FileName, File)> {
        let view = SegmentId::of(set);
        let files = self.store.files(range);
        let known = self.floors.get(&range).filter(|known| known.knows_all_of(view));
        let Some(known) = known.filter(|_| !Mutant::SealAll.is_on()) else {
            return files.map(|(name, file)| (name.clone(), file.head())).collect();
        };
        let committed = |(name, file): (&FileName, &File)| {
            let floor = known.get(name).filter(|floor| floor.nonce == file.nonce)?;
            Some((name.clone(), file.head_up_to(view, floor.to)))
        };
        files.filter_map(committed).collect()
    }

    /// The connection to `node` is new: it may not have got the answer.
    pub(super) fn answer_again(&mut self, node: NodeIx, out: &mut Vec<Effect>) -> Result<(), store::Error> {
        let Some(ranges) = self.current.answered_to.get(&node).cloned() else {
            return Ok(());
        };
        let settled = |range: &RangeIx| self.store.range(*range).active.as_ref() == Some(&self.current.view);
        if !ranges.iter().all(settled) {
            let message = self.answer(node, &ranges)?;
            out.push(Effect::Send { to: node, message });
        }
        Ok(())
    }

    pub(super) fn answered(
        &mut self,
        now: Time,
        from: NodeIx,
        memory: Memory,
        ranges: Vec<RangeAnswer>,
        out: &mut Vec<Effect>,
    ) -> Result<(), store::Error> {
        let Some(takeover) = &mut self.current.takeover else {
            return Ok(());
        };
        takeover.note(from, memory, ranges);
        let answers = &takeover.answers;
        if !self.current.view.alive().all(|n| answers.contains_key(&n)) {
            return Ok(());
        }
        let Some(takeover) = self.current.takeover.take() else {
            return Ok(());
        };
        let mut installs: BTreeMap<NodeIx, Vec<RangeInstall>> = BTreeMap::new();
        for (range, concluded) in takeover.conclude(&self.ring, &self.current.view) {
            let lead = match concluded {
                Err(why) => LeadState::Waiting { why },
                Ok(content) => {
                    let members = self.current.members(range).iter();
                    for n in members.filter(|n| **n != self.me) {
                        installs.entry(*n).or_default().push(content.clone());
                    }
                    LeadState::Installing(Installing {
                        content,
                        installed: BTreeMap::new(),
                        sent: now,
                    })
                }
            };
            self.current.set_lead(range, lead, out);
        }
        self.current.send_installs(installs, out);
        self.own_part_again(now, out)
    }

    /// A member is told what to hold.
    pub(super) fn install(
        &mut self,
        from: NodeIx,
        ranges: Vec<RangeInstall>,
        out: &mut Vec<Effect>,
    ) -> Result<(), store::Error> {
        let mut installed = Vec::new();
        let mut done = Ok(());
        for install in ranges {
            let range = install.range;
            if self.current.leader(range) != Some(from) || !self.current.members(range).contains(&self.me) {
                continue;
            }
            if !self.current.follows.contains_key(&range) {
                done = self.hold(&install, out);
                if done.is_err() {
                    break;
                }
                self.current.follows.insert(range, FollowState::new());
            }
            installed.push((range, self.repairs.is_whole(range)));
        }
        if !installed.is_empty() {
            let message = Message::Installed {
                view: self.current.id,
                ranges: installed,
            };
            out.push(Effect::Send { to: from, message });
        }
        done
    }

    /// Writes a decision down.
    fn hold(&mut self, install: &RangeInstall, out: &mut Vec<Effect>) -> Result<(), store::Error> {
        let range = install.range;
        let dropped = self.store.install(range, &self.current.view, &install.files)?;
        if dropped > 0 {
            out.push(Effect::Dropped {
                range,
                files: dropped,
                surplus: false,
            });
        }
        let mut from = install.holders.clone();
        from.extend(self.current.members(range));
        let mut seen = BTreeSet::from([self.me]);
        from.retain(|n| seen.insert(*n));
        self.repairs.want(&self.store, range, from);
        Ok(())
    }

    fn install_here(&mut self, now: Time, range: RangeIx, out: &mut Vec<Effect>) -> Result<(), store::Error> {
        let Some(LeadState::Installing(i)) = self.current.leads.get(&range) else {
            return Ok(());
        };
        let content = i.content.clone();
        self.hold(&content, out)?;
        self.installed(now, self.me, range, self.repairs.is_whole(range), out)
    }

    /// A member of a range that this node coordinates has installed; or tells whether it misses something.
    pub(super) fn installed(
        &mut self,
        now: Time,
        from: NodeIx,
        range: RangeIx,
        whole: bool,
        out: &mut Vec<Effect>,
    ) -> Result<(), store::Error> {
        let members = self.current.members(range).to_vec();
        if !members.contains(&from) {
            return Ok(());
        }
        match self.current.leads.get_mut(&range) {
            Some(LeadState::Installing(installing)) => {
                installing.installed.insert(from, whole);
                if let Some(whole) = installing.whole_members(&members) {
                    let active = ActiveRange::new(self.me, &members, whole, now);
                    return self.activate(range, active, out);
                }
            }
            Some(LeadState::Active(active)) => {
                if active.set_whole(from, whole) {
                    let state = RangeState::Active {
                        repairing: active.repairing(),
                    };
                    out.push(Effect::RangeChanged { range, state });
                    self.flush.announce_to(self.peers());
                }
            }
            Some(LeadState::Waiting { .. }) | None => {}
        }
        Ok(())
    }

    /// All members have installed.
    fn activate(
        &mut self,
        range: RangeIx,
        active: ActiveRange,
        out: &mut Vec<Effect>,
    ) -> Result<(), store::Error> {
        self.current
            .set_lead(range, LeadState::Active(Box::new(active)), out);
        self.fill_floors(range);
        let view = self.current.first_segment();
        self.floors.entry(range).or_default().lead(view);
        self.remember_active(&[range])?;
        self.flush.announce_to(self.peers());
        Ok(())
    }

    /// The range has just become active, as far as this node, a member, knows: what is sealed may be read.
    pub(super) fn fill_floors(&mut self, range: RangeIx) {
        let view = self.current.first_segment();
        self.floors
            .entry(range)
            .or_default()
            .fill(&self.store, range, view);
    }

    /// These ranges are active in this view: sets before it need not be remembered. That can wait for room on the disk.
    pub(super) fn remember_active(&mut self, ranges: &[RangeIx]) -> Result<(), store::Error> {
        let mut remember = Vec::new();
        for range in ranges {
            let mut facts = self.store.range(*range);
            if facts.active.as_ref() != Some(&self.current.view) {
                facts.active = Some(self.current.view.clone());
                facts.asked.retain(|set| set.size() >= self.current.view.size());
                remember.push((*range, facts));
            }
        }
        if remember.is_empty() {
            return Ok(());
        }
        match self.store.set_ranges(remember) {
            Err(store::Error::Full) => Ok(()),
            done => done,
        }
    }

    pub(super) fn heard_active(
        &mut self,
        from: NodeIx,
        ranges: &[(RangeIx, bool)],
        out: &mut Vec<Effect>,
    ) -> Result<(), store::Error> {
        let ranges = ranges
            .iter()
            .filter(|(range, _)| self.current.leader(*range) == Some(from));
        let mut news = Vec::new();
        for (range, settled) in ranges.copied().collect::<Vec<_>>() {
            if let Some(follow) = self.current.follows.get_mut(&range) {
                follow.settled = settled;
                news.push(range);
                if !std::mem::replace(&mut follow.active, true) {
                    self.fill_floors(range);
                    self.flush.stir(range);
                }
            } else if !self.current.members(range).contains(&self.me) {
                news.push(range);
                // Files without an installed set are what an interrupted installation left.
                let files = self.store.files(range).count();
                let settled = settled || Mutant::DropEarly.is_on();
                if settled && (files > 0 || self.store.range(range).installed.is_some()) {
                    self.store.drop_range(range)?;
                    self.floors.remove(&range);
                    self.repairs.forget(range);
                    out.push(Effect::Dropped {
                        range,
                        files,
                        surplus: true,
                    });
                }
            }
        }
        self.remember_active(&news)
    }
}
