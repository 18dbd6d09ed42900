//! The leader's side: which standbys there are, where another is started, and when one is given up. A state machine without
//! I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::clock::Time;
use common::ids::NodeName;
use common::lateness::{Lateness, patience};

use super::mutants::Mutant;
use super::wire::ToStandby;
use super::{BEATS, TICK};
use crate::machine::ConnId;

/// The job's own processes go first: when they have started, or are about to.
const START_AFTER: Duration = Duration::from_secs(1);
/// One that has not registered by then is given up. SSH may take a while.
const REGISTER_WITHIN: Duration = Duration::from_secs(30);
/// A node where a standby was not to be started is used again after this; so no more than a few are tried a minute.
const UNFIT_FOR: Duration = Duration::from_secs(20);
/// The same where one was ready, and died.
const LOST_FOR: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub enum StandbysInput {
    Registered {
        conn: ConnId,
        node: NodeName,
        pid: u32,
    },
    Beat {
        conn: ConnId,
        late_ms: u64,
    },
    Closed {
        conn: ConnId,
    },
    /// It was not started, or ended at once.
    StartFailed {
        node: NodeName,
        why: String,
    },
    NodeFailed(NodeName),
    NodeAlive(NodeName),
    /// The job is over: those that are there are told to end, and no more are started.
    Over {
        why: String,
    },
    Tick,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StandbysEffect {
    Start { node: NodeName },
    Tell { conn: ConnId, message: ToStandby },
    Close { conn: ConnId },
    Event(StandbysEvent),
}

/// What people are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StandbysEvent {
    Starting {
        node: NodeName,
    },
    Ready {
        node: NodeName,
        pid: u32,
    },
    Lost {
        node: NodeName,
        pid: Option<u32>,
        why: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Starting {
        since: Time,
    },
    Linked {
        conn: ConnId,
        pid: u32,
        heard: Time,
        late: Duration,
    },
}

/// The standbys of one job, one a node at most.
pub struct Standbys {
    lease: Duration,
    wanted: usize,
    here: NodeName,
    /// In the cluster file's order.
    nodes: Vec<NodeName>,
    failed: BTreeSet<NodeName>,
    /// By node, so bounded by the cluster.
    standbys: BTreeMap<NodeName, State>,
    /// Where one came to nothing, and until when none is started there.
    unfit: BTreeMap<NodeName, Time>,
    began: Option<Time>,
    lateness: Lateness,
    next_beat: Time,
    over: Option<String>,
}

impl Standbys {
    /// `here`: the leader's own node; `failed`: those of `nodes` that are known to be down.
    pub fn new(
        wanted: u16,
        lease: Duration,
        here: NodeName,
        nodes: Vec<NodeName>,
        failed: BTreeSet<NodeName>,
    ) -> Self {
        Self {
            lease,
            wanted: usize::from(wanted),
            here,
            nodes,
            failed,
            standbys: BTreeMap::new(),
            unfit: BTreeMap::new(),
            began: None,
            lateness: Lateness::new(TICK),
            next_beat: Time::ZERO,
            over: None,
        }
    }

    /// Those that are ready: where they are, and their numbers.
    pub fn ready(&self) -> impl Iterator<Item = (&NodeName, u32)> {
        self.standbys.iter().filter_map(|(node, state)| match state {
            State::Linked { pid, .. } => Some((node, *pid)),
            State::Starting { .. } => None,
        })
    }

    /// None is there, and none is being started.
    pub fn is_empty(&self) -> bool {
        self.standbys.is_empty()
    }

    pub fn handle(&mut self, now: Time, input: StandbysInput, out: &mut Vec<StandbysEffect>) {
        match input {
            StandbysInput::Registered { conn, node, pid } => self.registered(now, conn, node, pid, out),
            StandbysInput::Beat { conn, late_ms } => {
                for state in self.standbys.values_mut() {
                    if let State::Linked {
                        conn: its,
                        heard,
                        late,
                        ..
                    } = state
                        && *its == conn
                    {
                        (*heard, *late) = (now, Duration::from_millis(late_ms));
                    }
                }
            }
            StandbysInput::Closed { conn } => {
                let of = |state: &State| matches!(state, State::Linked { conn: its, .. } if *its == conn);
                let node = self
                    .standbys
                    .iter()
                    .find(|(_, state)| of(state))
                    .map(|(node, _)| node.clone());
                if let Some(node) = node {
                    self.lost(now, &node, "it closed the connection", out);
                }
            }
            StandbysInput::StartFailed { node, why } => {
                if let Some(State::Starting { .. }) = self.standbys.get(&node) {
                    self.lost(now, &node, &why, out);
                }
            }
            StandbysInput::NodeFailed(node) => {
                if self.failed.insert(node.clone()) && self.standbys.contains_key(&node) {
                    self.lost(now, &node, "its node failed", out);
                }
            }
            StandbysInput::NodeAlive(node) => {
                if self.failed.remove(&node) {
                    self.unfit.remove(&node);
                }
            }
            StandbysInput::Over { why } => {
                for state in self.standbys.values() {
                    if let State::Linked { conn, .. } = state {
                        let message = ToStandby::Finish { why: why.clone() };
                        out.push(StandbysEffect::Tell { conn: *conn, message });
                        out.push(StandbysEffect::Close { conn: *conn });
                    }
                }
                self.standbys.clear();
                self.over = Some(why);
            }
            StandbysInput::Tick => self.tick(now, out),
        }
    }

    fn registered(
        &mut self,
        now: Time,
        conn: ConnId,
        node: NodeName,
        pid: u32,
        out: &mut Vec<StandbysEffect>,
    ) {
        let linked = self.ready().filter(|(other, _)| **other != node).count();
        let refusal = match self.standbys.get(&node) {
            _ if self.over.is_some() => self.over.clone(),
            _ if node == self.here => Some("the leader runs on the same node".into()),
            Some(State::Linked { pid: other, .. }) if *other != pid => {
                Some(format!("process {other} is the standby on node {node}"))
            }
            _ if linked >= self.wanted => Some("there are enough standbys".into()),
            _ => None,
        };
        if let Some(why) = refusal {
            let message = ToStandby::Finish { why };
            out.push(StandbysEffect::Tell { conn, message });
            out.push(StandbysEffect::Close { conn });
            return;
        }
        let linked = State::Linked {
            conn,
            pid,
            heard: now,
            late: Duration::ZERO,
        };
        match self.standbys.insert(node.clone(), linked) {
            // It has connected anew before the end of the old connection was heard of.
            Some(State::Linked { conn: old, .. }) => out.push(StandbysEffect::Close { conn: old }),
            _ => out.push(StandbysEffect::Event(StandbysEvent::Ready { node, pid })),
        }
        self.beat(out);
    }

    fn tick(&mut self, now: Time, out: &mut Vec<StandbysEffect>) {
        let missed = self.lateness.tick(now);
        let began = *self.began.get_or_insert(now);
        if self.over.is_some() {
            return;
        }
        let mut lost = vec![];
        for (node, state) in &mut self.standbys {
            match state {
                State::Starting { since } if now.since(*since) >= REGISTER_WITHIN => {
                    lost.push((
                        node.clone(),
                        format!("it did not register within {} s", REGISTER_WITHIN.as_secs()),
                    ));
                }
                State::Starting { .. } => {}
                State::Linked { heard, late, .. } => {
                    *heard = now.min(*heard + missed);
                    let silent = now.since(*heard);
                    if silent >= patience(self.lease, *late) {
                        lost.push((
                            node.clone(),
                            format!("it was silent for {} ms", silent.as_millis()),
                        ));
                    }
                }
            }
        }
        for (node, why) in lost {
            self.lost(now, &node, &why, out);
        }
        if now >= self.next_beat {
            self.next_beat = now + self.lease / BEATS;
            self.beat(out);
        }
        if now.since(began) >= START_AFTER {
            self.start(now, out);
        }
    }

    fn beat(&self, out: &mut Vec<StandbysEffect>) {
        let late_ms = self.lateness.worst().as_millis() as u64;
        let conns = self.standbys.values().filter_map(|state| match state {
            State::Linked { conn, .. } => Some(*conn),
            State::Starting { .. } => None,
        });
        for (rank, conn) in (0..).zip(conns) {
            let message = ToStandby::Beat { late_ms, rank };
            out.push(StandbysEffect::Tell { conn, message });
        }
    }

    fn lost(&mut self, now: Time, node: &NodeName, why: &str, out: &mut Vec<StandbysEffect>) {
        if Mutant::LeaveUnreplaced.is_on() {
            return;
        }
        let Some(state) = self.standbys.remove(node) else {
            return;
        };
        let (pid, wait) = match state {
            State::Linked { conn, pid, .. } => {
                out.push(StandbysEffect::Close { conn });
                (Some(pid), LOST_FOR)
            }
            State::Starting { .. } => (None, UNFIT_FOR),
        };
        self.unfit.insert(node.clone(), now + wait);
        out.push(StandbysEffect::Event(StandbysEvent::Lost {
            node: node.clone(),
            pid,
            why: why.into(),
        }));
        self.start(now, out);
    }

    /// Starts as many as are missing, on nodes that live and have none: the first after the leader's own where none came to
    /// nothing of late.
    fn start(&mut self, now: Time, out: &mut Vec<StandbysEffect>) {
        self.unfit.retain(|_, until| now < *until);
        let own = self.nodes.iter().position(|node| *node == self.here).unwrap_or(0);
        let (before, after) = self.nodes.split_at(own);
        for node in after.iter().chain(before) {
            if self.over.is_some() || self.standbys.len() >= self.wanted {
                return;
            }
            let usable = *node != self.here
                && !self.failed.contains(node)
                && !self.unfit.contains_key(node)
                && !self.standbys.contains_key(node);
            if usable {
                self.standbys.insert(node.clone(), State::Starting { since: now });
                out.push(StandbysEffect::Event(StandbysEvent::Starting {
                    node: node.clone(),
                }));
                out.push(StandbysEffect::Start { node: node.clone() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(n: usize) -> Vec<NodeName> {
        (1..=n).map(|i| NodeName::new(format!("n{i}")).unwrap()).collect()
    }

    struct Leader(Standbys);

    impl Leader {
        fn on_n2(wanted: u16, nodes: usize) -> Self {
            let (all, lease) = (names(nodes), Duration::from_secs(3));
            Self(Standbys::new(wanted, lease, all[1].clone(), all, BTreeSet::new()))
        }

        fn give(&mut self, ms: u64, input: StandbysInput) -> Vec<StandbysEffect> {
            let mut out = vec![];
            self.0.handle(Time::from_millis(1000 + ms), input, &mut out);
            out
        }

        /// Where standbys are started.
        fn starts(&mut self, ms: u64, input: StandbysInput) -> Vec<String> {
            let effects = self.give(ms, input).into_iter();
            let start = |effect| match effect {
                StandbysEffect::Start { node } => Some(node.to_string()),
                _ => None,
            };
            effects.filter_map(start).collect()
        }

        fn register(&mut self, ms: u64, conn: u64, node: &str) -> Vec<StandbysEffect> {
            let (conn, node, pid) = (ConnId(conn), NodeName::new(node).unwrap(), conn as u32);
            self.give(ms, StandbysInput::Registered { conn, node, pid })
        }
    }

    #[test]
    fn they_start_behind_the_leaders_node_a_second_later_and_never_beside_it() {
        let mut leader = Leader::on_n2(2, 3);
        assert!(leader.starts(0, StandbysInput::Tick).is_empty());
        assert_eq!(leader.starts(1000, StandbysInput::Tick), ["n3", "n1"]);
        let mut leader = Leader::on_n2(7, 2);
        leader.starts(0, StandbysInput::Tick);
        assert_eq!(leader.starts(1000, StandbysInput::Tick), ["n1"]);
        let mut leader = Leader::on_n2(0, 2);
        leader.starts(0, StandbysInput::Tick);
        assert!(leader.starts(9000, StandbysInput::Tick).is_empty());
    }

    #[test]
    fn one_that_is_lost_is_replaced_elsewhere_at_once() {
        let mut leader = Leader::on_n2(1, 4);
        leader.starts(0, StandbysInput::Tick);
        assert_eq!(leader.starts(1000, StandbysInput::Tick), ["n3"]);
        leader.register(1100, 7, "n3");
        assert_eq!(
            leader.starts(1200, StandbysInput::Closed { conn: ConnId(7) }),
            ["n4"]
        );
        // That node is lost before it registers; the next one comes to nothing.
        let n4 = NodeName::new("n4").unwrap();
        assert_eq!(leader.starts(1300, StandbysInput::NodeFailed(n4)), ["n1"]);
        let (node, why) = (NodeName::new("n1").unwrap(), "no SSH".into());
        assert!(
            leader
                .starts(1400, StandbysInput::StartFailed { node, why })
                .is_empty()
        );
        assert_eq!(
            leader.starts(3300, StandbysInput::Tick),
            ["n3"],
            "it was well before it died"
        );
    }

    #[test]
    fn a_silent_one_is_given_up_and_one_too_many_sent_away() {
        let mut leader = Leader::on_n2(1, 3);
        leader.starts(0, StandbysInput::Tick);
        leader.starts(1000, StandbysInput::Tick);
        let welcome = leader.register(1100, 7, "n3");
        let ranked = |effect: &StandbysEffect| match effect {
            StandbysEffect::Tell {
                conn,
                message: ToStandby::Beat { rank: 0, .. },
            } => *conn == ConnId(7),
            _ => false,
        };
        assert!(welcome.iter().any(ranked), "{welcome:?}");
        let refused = leader.register(1200, 8, "n1");
        assert!(
            matches!(
                &refused[..],
                [
                    StandbysEffect::Tell {
                        message: ToStandby::Finish { .. },
                        ..
                    },
                    _
                ]
            ),
            "{refused:?}"
        );
        let lost = (1250..6000).step_by(50).find(|ms| {
            let effects = leader.give(*ms, StandbysInput::Tick);
            effects.contains(&StandbysEffect::Close { conn: ConnId(7) })
        });
        assert!(lost.is_some_and(|ms| (4100..4400).contains(&ms)), "{lost:?}");
    }
}
