//! How far this node trusts itself (Dadgar, Phillips, Currey: Lifeguard, DSN-W 2018, section IV-A, local health
//! multiplier). A node that is slow, or cut off, sees everybody else as silent; with each sign that the fault may be its
//! own it waits longer for answers, so that it does not accuse others. Unlike in the paper it does not probe less often: so
//! it soon gathers the answers that heal it.

use std::time::Duration;

/// As in the paper.
const MOST: u32 = 8;

#[derive(Debug, Clone, Copy, Default)]
pub struct Health(u32);

impl Health {
    /// A sign that this node itself is the slow one: a stall, a probe to which not even the helpers said anything, an
    /// accusation of this node.
    pub fn worse(&mut self, by: u32) {
        self.0 = (self.0 + by).min(MOST);
    }

    /// A probe was answered in time, or a period went by without a stall.
    pub fn better(&mut self) {
        self.0 = self.0.saturating_sub(1);
    }

    /// 0 is healthy.
    pub fn score(self) -> u32 {
        self.0
    }

    /// `time` made longer.
    pub fn stretch(self, time: Duration) -> Duration {
        time * (self.0 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_is_bounded_and_heals() {
        let mut health = Health::default();
        let second = Duration::from_secs(1);
        assert_eq!(health.stretch(second), second);
        (0..20).for_each(|_| health.worse(3));
        assert_eq!(health.stretch(second), 9 * second);
        (0..MOST).for_each(|_| health.better());
        health.better();
        assert_eq!((health.score(), health.stretch(second)), (0, second));
    }
}
