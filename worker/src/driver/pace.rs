//! The source's pace: a token bucket of lines.

use common::clock::Time;

#[derive(Debug, Default)]
pub struct Pace {
    /// Lines per second; 0: no limit.
    pub per_s: u64,
    tokens: f64,
    at: Time,
}

impl Pace {
    pub fn new(per_s: u64) -> Self {
        Self {
            per_s,
            ..Self::default()
        }
    }

    /// How many lines may be read now.
    pub fn allowed(&mut self, now: Time) -> u64 {
        if self.per_s == 0 {
            return u64::MAX;
        }
        if self.at == Time::ZERO {
            self.at = now;
        }
        let rate = self.per_s as f64;
        // What a stall of up to half a second held back is made up for; more would be a flood.
        let most = (rate / 2.0).max(1.0);
        self.tokens = (self.tokens + rate * now.since(self.at).as_secs_f64()).min(most);
        self.at = now;
        // In steps of 5 ms at least, so that a batch is worth its frame.
        if self.tokens < (rate / 200.0).max(1.0) {
            0
        } else {
            self.tokens as u64
        }
    }

    pub fn took(&mut self, lines: u64) {
        self.tokens -= lines as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_over_seconds_whatever_the_steps() {
        for step in [1u64, 7, 50, 400] {
            let mut pace = Pace::new(1000);
            let mut read = 0;
            for ms in (0..10_000).step_by(step as usize) {
                let some = pace.allowed(Time::from_millis(1 + ms)).min(100_000);
                pace.took(some);
                read += some;
            }
            assert!((9_500..=10_000).contains(&read), "{read} in steps of {step} ms");
        }
    }

    #[test]
    fn a_long_stall_is_not_made_up_for() {
        let mut pace = Pace::new(1000);
        pace.allowed(Time::from_millis(1));
        assert_eq!(pace.allowed(Time::from_millis(60_000)), 500);
    }
}
