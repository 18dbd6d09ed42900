//! What is done now and then, and how late the ticks come.

use std::time::Duration;

use common::clock::Time;
use common::lateness::Lateness;

/// How often the driver gives a tick.
pub const TICK: Duration = Duration::from_millis(50);
/// How often rates are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A lease holds so many beats.
const BEATS: u32 = 6;

pub(super) struct Pace {
    next_beat: Time,
    next_look: Time,
    /// Of the ticks that the driver gives.
    lateness: Lateness,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            next_beat: Time::ZERO,
            next_look: Time::ZERO,
            lateness: Lateness::new(TICK),
        }
    }
}

impl Pace {
    /// Returns the time in which nobody could be heard here.
    pub fn tick(&mut self, now: Time) -> Duration {
        self.lateness.tick(now)
    }

    /// Is it time to look at the rates?
    pub fn take_look(&mut self, now: Time) -> bool {
        let due = now >= self.next_look;
        if due {
            self.next_look = now + LOOK_EVERY;
        }
        due
    }

    /// Is it time for a beat? With how late, in milliseconds, this leader is.
    pub fn take_beat(&mut self, now: Time, lease: Duration) -> Option<u64> {
        (now >= self.next_beat).then(|| {
            self.next_beat = now + lease / BEATS;
            self.lateness.worst().as_millis() as u64
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_and_beats_keep_their_distances() {
        let mut pace = Pace::default();
        let (mut looks, mut beats) = (0, 0);
        for ms in (0..3_000).step_by(50) {
            let now = Time::from_millis(1000 + ms);
            assert!(pace.tick(now).is_zero());
            looks += u32::from(pace.take_look(now));
            beats += u32::from(pace.take_beat(now, Duration::from_secs(3)).is_some());
        }
        assert_eq!((looks, beats), (30, 6));
    }
}
