//! How the ranges stand that this node coordinates, for the log.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::clock::Time;
use common::cluster::Cluster;
use common::ids::NodeName;

use crate::replica::RangeState;
use hydfs::ring::RangeIx;
use hydfs::view::NodeIx;

/// How long a range is unavailable before it is logged: a take-over takes some milliseconds, and nobody wants to read that.
const LASTING: Duration = Duration::from_secs(1);
/// A full disk is logged so often.
const FULL_EVERY: Duration = Duration::from_secs(5);

pub struct RangeLog {
    /// Ranges are named by the nodes that end them.
    names: Vec<NodeName>,
    /// Since when a range is not active.
    taking_over: BTreeMap<RangeIx, Time>,
    active: BTreeSet<RangeIx>,
    repairing: BTreeSet<RangeIx>,
    unavailable: BTreeMap<RangeIx, Outage>,
    full_logged: Option<Time>,
}

struct Outage {
    since: Time,
    why: String,
    logged: bool,
}

impl RangeLog {
    pub fn new(cluster: &Cluster) -> Self {
        Self {
            names: cluster.nodes.iter().map(|n| n.name.clone()).collect(),
            taking_over: BTreeMap::new(),
            active: BTreeSet::new(),
            repairing: BTreeSet::new(),
            unavailable: BTreeMap::new(),
            full_logged: None,
        }
    }

    fn name(&self, node: u16) -> &str {
        self.names.get(node as usize).map_or("?", NodeName::as_str)
    }

    /// How many of them have members that miss bytes, and how many are unavailable.
    pub fn troubled(&self) -> (usize, usize) {
        (self.repairing.len(), self.unavailable.len())
    }

    /// The view changed: what others coordinate now is no concern of this node's.
    pub fn keep(&mut self, is_mine: impl Fn(RangeIx) -> bool) {
        self.taking_over.retain(|range, _| is_mine(*range));
        self.unavailable.retain(|range, _| is_mine(*range));
        self.active.retain(|range| is_mine(*range));
        self.repairing.retain(|range| is_mine(*range));
    }

    pub fn note(&mut self, now: Time, range: RangeIx, state: RangeState, files: impl Fn() -> usize) {
        match state {
            RangeState::Unavailable { why } => {
                self.active.remove(&range);
                self.taking_over.entry(range).or_insert(now);
                let before = self.unavailable.remove(&range);
                let outage = Outage {
                    since: before.as_ref().map_or(now, |o| o.since),
                    logged: before.is_some_and(|o| o.logged && o.why == why),
                    why,
                };
                self.unavailable.insert(range, outage);
            }
            RangeState::Installing => {
                self.unavailable.remove(&range);
                self.active.remove(&range);
                self.taking_over.entry(range).or_insert(now);
            }
            RangeState::Active { repairing } => self.note_active(now, range, &repairing, files),
        }
    }

    fn note_active(&mut self, now: Time, range: RangeIx, repairing: &[NodeIx], files: impl Fn() -> usize) {
        self.unavailable.remove(&range);
        let is_new = self.active.insert(range);
        let since = self.taking_over.remove(&range).unwrap_or(now);
        let name = self.name(range.0).to_owned();
        let name = name.as_str();
        if is_new {
            let ms = now.since(since).as_millis() as u64;
            tracing::info!(range = name, ms, files = files(), "TAKEOVER");
        }
        let missing: Vec<String> = repairing.iter().map(|n| self.name(n.0).to_owned()).collect();
        if missing.is_empty() {
            self.repairing.remove(&range);
            tracing::info!(range = name, "ACTIVE");
        } else {
            self.repairing.insert(range);
            tracing::info!(range = name, missing_on = missing.join(","), "REPAIRING");
        }
    }

    /// Logs what has been unavailable for long.
    pub fn log_lasting(&mut self, now: Time) {
        for (range, outage) in &mut self.unavailable {
            if !outage.logged && now.since(outage.since) >= LASTING {
                outage.logged = true;
                let range = self.names.get(range.0 as usize).map_or("?", NodeName::as_str);
                tracing::warn!(range, why = outage.why, "UNAVAILABLE");
            }
        }
    }

    pub fn log_full(&mut self, now: Time, node: NodeIx) {
        if self.full_logged.is_none_or(|last| now.since(last) > FULL_EVERY) {
            self.full_logged = Some(now);
            tracing::warn!(node = self.name(node.0), "FULL");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: RangeIx = RangeIx(0);
    const NOW: Time = Time(1_000_000);

    fn log() -> RangeLog {
        RangeLog {
            names: vec![NodeName::new("n1").unwrap()],
            taking_over: BTreeMap::new(),
            active: BTreeSet::new(),
            repairing: BTreeSet::new(),
            unavailable: BTreeMap::new(),
            full_logged: None,
        }
    }

    fn unavailable(why: &str) -> RangeState {
        RangeState::Unavailable { why: why.into() }
    }

    #[test]
    fn an_outage_is_logged_once_for_each_reason_and_only_if_it_lasts() {
        let mut log = log();
        log.note(NOW, RANGE, unavailable("one"), || 0);
        let logged = |log: &RangeLog| log.unavailable[&RANGE].logged;
        log.log_lasting(NOW + LASTING / 2);
        assert!(!logged(&log));
        log.log_lasting(NOW + LASTING);
        assert!(logged(&log));
        log.note(NOW + LASTING, RANGE, unavailable("one"), || 0);
        assert!(logged(&log), "it was said");
        log.note(NOW + LASTING, RANGE, unavailable("two"), || 0);
        assert!(!logged(&log));
        log.log_lasting(NOW + LASTING);
        assert!(logged(&log), "it has lasted since the first");
    }

    #[test]
    fn a_range_is_taken_over_until_it_is_active() {
        let mut log = log();
        log.note(NOW, RANGE, unavailable("one"), || 0);
        log.note(NOW, RANGE, RangeState::Installing, || 0);
        assert!(log.unavailable.is_empty() && log.taking_over[&RANGE] == NOW);
        let repairing = Vec::new();
        log.note(NOW, RANGE, RangeState::Active { repairing }, || 0);
        assert!(log.taking_over.is_empty() && log.active.contains(&RANGE));
        log.keep(|_| false);
        assert!(log.active.is_empty());
    }
}
