//! A standby: when it believes that its leader is gone, and what it makes sure of before it leads. A state machine without
//! I/O.
//!
//! ```text
//!            connected              closed                  nobody listens, or silent for a lease
//!   Dialling ---------> Linked ----------------> Dialling ----------------------+
//!      ^                                                                        v
//!      |                           the journal cannot be read or fenced     Due (by rank)
//!      +-------------------------------------------------------------------+    |
//!                                                                          |    v
//!                             Leading <--- Fencing <---- goes on --- Reading the journal
//!                                             |                                 |
//!                                             +--> Over <-- ended, or another leader has it
//! ```

use std::time::Duration;

use common::clock::Time;
use common::ids::{Epoch, NodeName};
use common::lateness::{Lateness, patience};

use super::mutants::Mutant;
use super::wire::ToStandby;
use super::{BEATS, TICK};
use crate::record::Record;
use crate::state::JobState;

/// How much later each standby acts than the one before it: as long as reading and fencing a journal takes, and some more.
const RANK_WAIT: Duration = Duration::from_millis(700);
/// How often a leader that does not answer is dialled.
const DIAL_EVERY: Duration = Duration::from_millis(200);
/// After a try to take the job up that failed: long enough to find a leader that is well.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// How long it is tried to take the job up, while storage does not answer. Then somebody has to look.
const GIVE_UP_AFTER: Duration = Duration::from_secs(120);

/// What a standby must know of a journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JournalFacts {
    /// The block of epochs of the newest leader.
    pub base: Epoch,
    /// Where that leader runs; `None`: it is the first.
    pub leader: Option<(NodeName, u32)>,
    /// The job has ended, well or not, and nobody has taken it up since.
    pub ended: bool,
}

impl JournalFacts {
    /// A journal without a plan is no job's: nothing is to be taken up.
    pub fn of(records: &[Record]) -> Self {
        match JobState::of(records) {
            Some(state) => Self {
                base: state.base,
                leader: state.leader,
                ended: state.ended.is_some(),
            },
            None => Self {
                ended: true,
                ..Self::default()
            },
        }
    }
}

#[derive(Debug, Clone)]
pub enum StandbyInput {
    /// The connection is there, and the standby has registered.
    Connected,
    /// Nobody listens at the leader's address.
    Refused,
    /// The leader could not be reached, and nobody knows why.
    Unreachable,
    Heard(ToStandby),
    /// The connection has ended.
    Closed,
    /// What membership says of the leader's node.
    NodeFailed,
    NodeAlive,
    /// The journal as it is, asked for by [`StandbyEffect::Read`].
    Read(JournalFacts),
    /// The journal is fenced, and this is in it: asked for by [`StandbyEffect::Fence`].
    Fenced(JournalFacts),
    /// The journal could be neither read nor fenced.
    Failed,
    Tick,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StandbyEffect {
    Dial,
    /// The connection is of no use any more.
    Hang,
    Beat {
        late_ms: u64,
    },
    Read,
    Fence,
    /// The journal is this one's: it leads the job from here.
    Lead {
        why: String,
        /// Nothing answered at the leader's address: its node is to be taken for failed, which membership may not have found yet.
        node_silent: bool,
    },
    End {
        why: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Dialling { again: Option<Time> },
    Linked,
    Due { at: Time },
    Reading,
    Fencing,
    Leading,
    Over,
}

pub struct Standby {
    lease: Duration,
    /// The newest leader's block of epochs when this standby was started: another one means another leader.
    base: Epoch,
    rank: u16,
    state: State,
    heard: Time,
    /// How late the leader said that it is.
    leader_late: Duration,
    node_failed: bool,
    /// When it was last dialled, the leader's node said that nobody listens: a process alone that was killed leaves its node as it was.
    node_answers: bool,
    lateness: Lateness,
    next_beat: Time,
    /// Since when, and why, the leader is taken for gone.
    gone: Option<(Time, String)>,
    /// The job is not tried to be taken up before.
    not_before: Time,
}

impl Standby {
    /// `base`: of the leader that started it.
    pub fn new(now: Time, lease: Duration, base: Epoch) -> Self {
        Self {
            lease,
            base,
            rank: 0,
            state: State::Dialling { again: Some(now) },
            heard: now,
            leader_late: Duration::ZERO,
            node_failed: false,
            node_answers: false,
            lateness: Lateness::new(TICK),
            next_beat: now,
            gone: None,
            not_before: now,
        }
    }

    /// Since when the leader is taken for gone.
    pub fn gone_since(&self) -> Option<Time> {
        self.gone.as_ref().map(|(at, _)| *at)
    }

    /// When the leader last gave a sign of life.
    pub fn heard_at(&self) -> Time {
        self.heard
    }

    pub fn handle(&mut self, now: Time, input: StandbyInput, out: &mut Vec<StandbyEffect>) {
        if matches!(self.state, State::Over | State::Leading) {
            return;
        }
        match &input {
            StandbyInput::Refused => self.node_answers = true,
            StandbyInput::Connected | StandbyInput::Unreachable => self.node_answers = false,
            _ => {}
        }
        match input {
            StandbyInput::Connected => {
                if let State::Dialling { .. } | State::Due { .. } = self.state {
                    self.state = State::Linked;
                    self.next_beat = now;
                    self.heard(now);
                }
            }
            StandbyInput::Refused => self.take_for_gone(now, || "nobody listens at its address".into()),
            StandbyInput::Unreachable => {
                if let State::Dialling { again: again @ None } = &mut self.state {
                    *again = Some(now + DIAL_EVERY);
                }
            }
            StandbyInput::Heard(ToStandby::Beat { late_ms, rank }) => {
                self.leader_late = Duration::from_millis(late_ms);
                self.rank = rank;
                self.heard(now);
            }
            StandbyInput::Heard(ToStandby::Finish { why }) => self.end(why, out),
            StandbyInput::Heard(ToStandby::OtherJob) => {
                if self.state == State::Linked {
                    self.state = State::Dialling { again: None };
                }
                self.take_for_gone(now, || "another job's leader has its address".into());
            }
            StandbyInput::Closed => {
                if self.state == State::Linked {
                    self.state = State::Dialling { again: Some(now) };
                    self.dial(now, out);
                }
            }
            StandbyInput::NodeFailed => self.node_failed = true,
            StandbyInput::NodeAlive => self.node_failed = false,
            StandbyInput::Read(facts) => {
                if self.state == State::Reading && self.goes_on(&facts, out) {
                    if Mutant::SkipFence.is_on() {
                        return self.lead(out);
                    }
                    self.state = State::Fencing;
                    out.push(StandbyEffect::Fence);
                }
            }
            StandbyInput::Fenced(facts) => {
                // Whoever led before can write no more. What another has done in between was done before the fence.
                if self.state == State::Fencing && self.has_not_ended(&facts, out) {
                    self.lead(out);
                }
            }
            StandbyInput::Failed => {
                if matches!(self.state, State::Reading | State::Fencing) {
                    let since = self.gone_since().unwrap_or(now);
                    if now.since(since) >= GIVE_UP_AFTER {
                        let seconds = GIVE_UP_AFTER.as_secs();
                        let why = format!("its journal could not be read or fenced for {seconds} s");
                        return self.end(why, out);
                    }
                    // Perhaps it is this node that is cut off, and the leader is well.
                    self.not_before = now + TRY_AGAIN;
                    self.state = State::Dialling { again: Some(now) };
                }
            }
            StandbyInput::Tick => self.tick(now, out),
        }
    }

    fn heard(&mut self, now: Time) {
        self.heard = now;
        if self.state == State::Linked {
            self.gone = None;
        }
    }

    fn tick(&mut self, now: Time, out: &mut Vec<StandbyEffect>) {
        // Nothing could be heard in that time.
        self.heard = now.min(self.heard + self.lateness.tick(now));
        if self.state == State::Linked && now >= self.next_beat {
            self.next_beat = now + self.lease / BEATS;
            let late_ms = self.lateness.worst().as_millis() as u64;
            out.push(StandbyEffect::Beat { late_ms });
        }
        match self.state {
            State::Dialling { .. } | State::Linked
                if now >= self.not_before && !Mutant::WaitForClose.is_on() =>
            {
                let silent = now.since(self.heard);
                // Membership alone may be wrong: a leader that is heard is there.
                let accused = self.node_failed && silent >= self.lease / 3;
                if accused || silent >= patience(self.lease, self.leader_late) {
                    if self.state == State::Linked {
                        self.state = State::Dialling { again: None };
                        out.push(StandbyEffect::Hang);
                    }
                    let node = if accused { ", and its node failed" } else { "" };
                    self.take_for_gone(now, || format!("silent for {} ms{node}", silent.as_millis()));
                }
            }
            _ => {}
        }
        match self.state {
            State::Due { at } if now >= at => {
                self.state = State::Reading;
                out.push(StandbyEffect::Read);
            }
            State::Dialling { .. } => self.dial(now, out),
            _ => {}
        }
    }

    fn dial(&mut self, now: Time, out: &mut Vec<StandbyEffect>) {
        if let State::Dialling { again } = &mut self.state
            && again.is_some_and(|at| now >= at)
        {
            *again = None;
            out.push(StandbyEffect::Dial);
        }
    }

    fn take_for_gone(&mut self, now: Time, why: impl FnOnce() -> String) {
        if !matches!(self.state, State::Dialling { .. }) {
            return;
        }
        self.gone.get_or_insert_with(|| (now, why()));
        let wait = match Mutant::ForgetRank.is_on() {
            true => Duration::ZERO,
            false => RANK_WAIT * u32::from(self.rank),
        };
        self.state = State::Due {
            at: self.not_before.max(now + wait),
        };
    }

    /// Nobody else has taken the job up, and there is something to take up.
    fn goes_on(&mut self, facts: &JournalFacts, out: &mut Vec<StandbyEffect>) -> bool {
        if facts.base > self.base && !Mutant::IgnoreSuccessor.is_on() {
            let by = facts
                .leader
                .as_ref()
                .map_or("another leader".into(), |(node, pid)| {
                    format!("the leader on node {node}, process {pid}")
                });
            self.end(format!("the job was taken up by {by}"), out);
            return false;
        }
        self.has_not_ended(facts, out)
    }

    fn has_not_ended(&mut self, facts: &JournalFacts, out: &mut Vec<StandbyEffect>) -> bool {
        if facts.ended && !Mutant::TakeUpEnded.is_on() {
            self.end("the job has ended".into(), out);
            return false;
        }
        true
    }

    fn lead(&mut self, out: &mut Vec<StandbyEffect>) {
        self.state = State::Leading;
        let why = self.gone.take().map_or(String::new(), |(_, why)| why);
        let node_silent = !self.node_answers;
        out.push(StandbyEffect::Lead { why, node_silent });
    }

    fn end(&mut self, why: String, out: &mut Vec<StandbyEffect>) {
        self.state = State::Over;
        out.push(StandbyEffect::End { why });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(3);

    fn at(ms: u64) -> Time {
        Time::from_millis(1000 + ms)
    }

    fn give(standby: &mut Standby, ms: u64, input: StandbyInput) -> Vec<StandbyEffect> {
        let mut out = vec![];
        standby.handle(at(ms), input, &mut out);
        out.retain(|effect| !matches!(effect, StandbyEffect::Beat { .. }));
        out
    }

    fn beat(rank: u16) -> StandbyInput {
        StandbyInput::Heard(ToStandby::Beat { late_ms: 0, rank })
    }

    fn linked(rank: u16) -> Standby {
        let mut standby = Standby::new(at(0), LEASE, Epoch(0));
        assert_eq!(give(&mut standby, 0, StandbyInput::Tick), [StandbyEffect::Dial]);
        assert_eq!(give(&mut standby, 1, StandbyInput::Connected), []);
        assert_eq!(give(&mut standby, 2, beat(rank)), []);
        standby
    }

    #[test]
    fn a_leader_that_died_is_followed_at_once_by_the_first_and_later_by_the_second() {
        for (rank, due) in [(0, 50), (1, 750)] {
            let mut standby = linked(rank);
            assert_eq!(
                give(&mut standby, 10, StandbyInput::Closed),
                [StandbyEffect::Dial]
            );
            assert_eq!(give(&mut standby, 11, StandbyInput::Refused), []);
            for ms in (50..due).step_by(50) {
                assert_eq!(give(&mut standby, ms, StandbyInput::Tick), [], "{ms}");
            }
            assert_eq!(give(&mut standby, due, StandbyInput::Tick), [StandbyEffect::Read]);
            let facts = JournalFacts::default();
            let read = give(&mut standby, due + 1, StandbyInput::Read(facts.clone()));
            assert_eq!(read, [StandbyEffect::Fence]);
            let lead = give(&mut standby, due + 2, StandbyInput::Fenced(facts));
            let (why, node_silent) = ("nobody listens at its address".into(), false);
            assert_eq!(lead, [StandbyEffect::Lead { why, node_silent }]);
        }
    }

    #[test]
    fn a_connection_that_broke_alone_is_made_anew() {
        let mut standby = linked(0);
        assert_eq!(
            give(&mut standby, 10, StandbyInput::Closed),
            [StandbyEffect::Dial]
        );
        assert_eq!(give(&mut standby, 11, StandbyInput::Connected), []);
        for ms in (50..10_000).step_by(50) {
            give(&mut standby, ms, beat(0));
            assert_eq!(give(&mut standby, ms, StandbyInput::Tick), [], "{ms}");
        }
    }

    /// Membership alone accuses nobody; with a third of a lease of silence it does.
    #[test]
    fn silence_counts_after_a_lease_and_sooner_when_the_node_is_said_to_have_failed() {
        for (accused, from, to) in [(false, 3000, 3100), (true, 1000, 1100)] {
            let mut standby = linked(0);
            if accused {
                give(&mut standby, 3, StandbyInput::NodeFailed);
            }
            let read = (50..5000).step_by(50).find(|ms| {
                let effects = give(&mut standby, *ms, StandbyInput::Tick);
                effects.contains(&StandbyEffect::Read)
            });
            assert!(
                read.is_some_and(|ms| (from..=to).contains(&ms)),
                "{accused}: {read:?}"
            );
        }
    }

    /// A pulled plug closes no connection, and refuses none.
    #[test]
    fn the_node_of_a_leader_that_only_fell_silent_is_taken_for_failed() {
        let mut standby = linked(0);
        let read = (50..5000).step_by(50).find(|ms| {
            let effects = give(&mut standby, *ms, StandbyInput::Tick);
            effects.contains(&StandbyEffect::Read)
        });
        let ms = read.expect("it is silent");
        let facts = JournalFacts::default();
        give(&mut standby, ms, StandbyInput::Read(facts.clone()));
        let lead = give(&mut standby, ms, StandbyInput::Fenced(facts));
        assert!(
            matches!(
                &lead[..],
                [StandbyEffect::Lead {
                    node_silent: true,
                    ..
                }]
            ),
            "{lead:?}"
        );
    }

    #[test]
    fn a_job_that_has_ended_or_another_leads_is_left_alone() {
        let other = JournalFacts {
            base: Epoch(1000),
            leader: Some((NodeName::new("n3").unwrap(), 7)),
            ended: false,
        };
        let ended = JournalFacts {
            ended: true,
            ..JournalFacts::default()
        };
        for (facts, says) in [(other, "node n3, process 7"), (ended, "has ended")] {
            let mut standby = linked(0);
            give(&mut standby, 10, StandbyInput::Closed);
            give(&mut standby, 11, StandbyInput::Refused);
            assert_eq!(give(&mut standby, 50, StandbyInput::Tick), [StandbyEffect::Read]);
            let end = give(&mut standby, 51, StandbyInput::Read(facts));
            assert!(
                matches!(&end[..], [StandbyEffect::End { why }] if why.contains(says)),
                "{end:?}"
            );
            assert_eq!(give(&mut standby, 100, StandbyInput::Tick), []);
        }
    }

    #[test]
    fn while_storage_is_away_it_is_tried_again_and_the_leader_dialled() {
        let mut standby = linked(0);
        give(&mut standby, 10, StandbyInput::Closed);
        give(&mut standby, 11, StandbyInput::Refused);
        assert_eq!(give(&mut standby, 50, StandbyInput::Tick), [StandbyEffect::Read]);
        assert_eq!(give(&mut standby, 60, StandbyInput::Failed), []);
        assert_eq!(give(&mut standby, 100, StandbyInput::Tick), [StandbyEffect::Dial]);
        // It was this node that was cut off.
        give(&mut standby, 101, StandbyInput::Connected);
        give(&mut standby, 102, beat(0));
        assert_eq!(standby.gone_since(), None);
    }
}
