//! How far the change of each stage's routing has come.

use std::collections::BTreeMap;

use crate::plan::Plan;

#[derive(Debug, Default)]
pub(super) struct Rollout {
    /// Up to which version of a stage's routing the stage before may be told.
    released: BTreeMap<u16, u32>,
    /// By stage: the newest version of which was said that all is over.
    settled: BTreeMap<u16, u32>,
    /// What led to the change that is being stored.
    why: String,
}

impl Rollout {
    /// Before the newest change was made, those before it were over.
    pub fn of(plan: &Plan) -> Self {
        let newest = (1..plan.stages.len() as u16).map(|s| (s, plan.version(s).saturating_sub(1)));
        Self {
            released: newest.collect(),
            ..Self::default()
        }
    }

    /// These were over, as the journal has it.
    pub fn take_up(&mut self, settled: BTreeMap<u16, u32>) {
        self.released.extend(&settled);
        self.settled = settled;
    }

    pub fn released(&self, stage: u16) -> u32 {
        self.released.get(&stage).copied().unwrap_or(0)
    }

    pub fn release(&mut self, stage: u16, version: u32) {
        self.released.insert(stage, version);
    }

    /// True once for each version of a stage's.
    pub fn settle(&mut self, stage: u16, version: u32) -> bool {
        let said = self.settled.entry(stage).or_default();
        let is_news = *said < version;
        *said = version.max(*said);
        is_news
    }

    pub fn give_reason(&mut self, why: String) {
        self.why = why;
    }

    pub fn take_reason(&mut self) -> String {
        std::mem::take(&mut self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_is_settled_once_also_after_a_take_over() {
        let mut rollout = Rollout::default();
        assert!(!rollout.settle(1, 0) && rollout.settle(1, 1) && !rollout.settle(1, 1));
        rollout.take_up(BTreeMap::from([(1, 2), (2, 1)]));
        assert_eq!(
            (rollout.released(1), rollout.released(2), rollout.released(3)),
            (2, 1, 0)
        );
        assert!(!rollout.settle(1, 2) && rollout.settle(1, 3));
        rollout.release(1, 3);
        assert_eq!(rollout.released(1), 3);
    }
}
