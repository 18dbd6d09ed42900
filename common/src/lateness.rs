//! How late the own timers fire: what tells a peer that is silent from one that nobody could hear.
//!
//! Whoever waits for signs of life ticks at a fixed pace. A tick that comes late says that this process had no chance to hear
//! anything in between (a busy machine, a stopped process), so that time does not count against the peer. And peers are told
//! how late ticks have come of late, so that they are patient with a node that is overloaded. The idea is the local health of
//! Lifeguard (Dadgar, Phillips, Currey: Lifeguard: Local Health Awareness for More Accurate Failure Detection, 2018).

use std::time::Duration;

use crate::clock::Time;

/// Lateness is remembered for between one and two of these.
const PERIOD: Duration = Duration::from_secs(5);
/// Timers are never exact: less is not late.
const SLACK: Duration = Duration::from_millis(50);
/// A peer that says that it is late by so much gets this many times as much more time.
const FACTOR: u32 = 4;
/// The most that a lease is ever stretched to, in leases.
const MOST_LEASES: u32 = 10;

#[derive(Debug, Clone)]
pub struct Lateness {
    every: Duration,
    due: Option<Time>,
    /// The worst of this period and of the one before.
    worst: [Duration; 2],
    period: Time,
}

impl Lateness {
    /// Of ticks that are to come `every` so often.
    pub fn new(every: Duration) -> Self {
        Self {
            every,
            due: None,
            worst: [Duration::ZERO; 2],
            period: Time::ZERO,
        }
    }

    /// A tick. Returns by how much it is late: so long, nothing could be heard.
    pub fn tick(&mut self, now: Time) -> Duration {
        let late = self.due.map_or(Duration::ZERO, |due| now.since(due));
        let late = if late < SLACK { Duration::ZERO } else { late };
        self.due = Some(now + self.every);
        if now.since(self.period) >= PERIOD {
            self.worst = [Duration::ZERO, self.worst[0]];
            self.period = now;
        }
        self.worst[0] = self.worst[0].max(late);
        late
    }

    /// The latest that a tick was in the last seconds.
    pub fn worst(&self) -> Duration {
        self.worst[0].max(self.worst[1])
    }
}

/// How long a peer may be silent that has a lease of `lease` and says that its own ticks are late by up to `late`.
pub fn patience(lease: Duration, late: Duration) -> Duration {
    (lease + late * FACTOR).min(lease * MOST_LEASES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_millis(500);
    const LEASE: Duration = Duration::from_secs(3);

    #[test]
    fn only_what_is_really_late_counts_and_is_forgotten_after_a_while() {
        let mut ticks = Lateness::new(EVERY);
        let at = Time::from_millis;
        assert_eq!(ticks.tick(at(10_000)), Duration::ZERO, "the first is never late");
        assert_eq!(ticks.tick(at(10_520)), Duration::ZERO);
        assert_eq!(ticks.tick(at(13_020)), Duration::from_secs(2));
        assert_eq!(ticks.worst(), Duration::from_secs(2));
        for ms in (13_520..18_000).step_by(500) {
            assert_eq!(ticks.tick(at(ms)), Duration::ZERO);
            assert_eq!(ticks.worst(), Duration::from_secs(2));
        }
        for ms in (18_020..25_000).step_by(500) {
            ticks.tick(at(ms));
        }
        assert_eq!(ticks.worst(), Duration::ZERO);
    }

    #[test]
    fn a_healthy_peer_has_its_lease_and_no_more_and_none_is_waited_for_without_end() {
        assert_eq!(patience(LEASE, Duration::ZERO), LEASE);
        assert_eq!(patience(LEASE, Duration::from_secs(1)), Duration::from_secs(7));
        assert_eq!(patience(LEASE, Duration::from_secs(60)), LEASE * 10);
    }
}
