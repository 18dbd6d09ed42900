//! The source's pace: a token bucket of lines.

use std::time::Duration;

use common::clock::Time;

/// Fewer lines than come in so long are not read for themselves, so that a batch is worth its frame.
const STEP: Duration = Duration::from_millis(5);
/// What a stall of so long held back is made up for; more would be a flood.
const STALL: f64 = 0.5;

#[derive(Debug, Default)]
pub struct Pace {
    /// Lines per second; 0: no limit.
    per_s: f64,
    tokens: f64,
    at: Time,
}

impl Pace {
    /// `milli`: thousandths of a line per second; 0: no limit.
    pub fn new(milli: u64) -> Self {
        Self {
            per_s: milli as f64 / 1e3,
            ..Self::default()
        }
    }

    /// Another rate from now on. What was earned at the old one stays.
    pub fn set(&mut self, now: Time, milli: u64) {
        self.earn(now);
        self.per_s = milli as f64 / 1e3;
        // What a faster rate could make up for would be a flood for a slower one.
        self.tokens = self.tokens.min(self.most());
        if self.at == Time::ZERO || milli == 0 {
            (self.at, self.tokens) = (Time::ZERO, 0.0);
        }
    }

    pub fn is_limited(&self) -> bool {
        self.per_s > 0.0
    }

    fn most(&self) -> f64 {
        (self.per_s * STALL).max(1.0)
    }

    fn earn(&mut self, now: Time) {
        if self.at != Time::ZERO {
            let earned = self.per_s * now.since(self.at).as_secs_f64();
            self.tokens = (self.tokens + earned).min(self.most());
            self.at = now;
        }
    }

    /// How many lines may be read now.
    pub fn allowed(&mut self, now: Time) -> u64 {
        if self.per_s == 0.0 {
            return u64::MAX;
        }
        if self.at == Time::ZERO {
            self.at = now;
        }
        self.earn(now);
        match self.tokens < self.step() {
            true => 0,
            false => self.tokens as u64,
        }
    }

    fn step(&self) -> f64 {
        (self.per_s * STEP.as_secs_f64()).max(1.0)
    }

    /// There was nothing to read: what was earned meanwhile is not saved up, since others get it.
    pub fn rest(&mut self) {
        self.tokens = self.tokens.min(self.step());
    }

    pub fn took(&mut self, lines: u64) {
        self.tokens -= lines as f64;
    }

    /// When lines may be read again, if there is a limit.
    pub fn next(&self, now: Time) -> Option<Time> {
        if self.per_s == 0.0 {
            return None;
        }
        let missing = (self.step() - self.tokens) / self.per_s;
        // Rates change: a slow one must not be waited for longer than that.
        Some(now + Duration::from_secs_f64(missing.clamp(0.0005, 0.1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pace: &mut Pace, from_ms: u64, to_ms: u64, step: u64) -> u64 {
        let mut read = 0;
        for ms in (from_ms..to_ms).step_by(step as usize) {
            let some = pace.allowed(Time::from_millis(1 + ms)).min(100_000);
            pace.took(some);
            read += some;
        }
        read
    }

    #[test]
    fn a_rate_is_kept_over_seconds_whatever_the_steps() {
        for step in [1u64, 7, 50, 400] {
            let read = read(&mut Pace::new(1_000_000), 0, 10_000, step);
            assert!((9_500..=10_000).contains(&read), "{read} in steps of {step} ms");
        }
    }

    #[test]
    fn less_than_one_a_second_is_a_rate_too() {
        let read = read(&mut Pace::new(500), 0, 20_001, 10);
        assert_eq!(read, 10);
    }

    #[test]
    fn a_new_rate_holds_from_where_it_was_set() {
        let mut pace = Pace::new(1_000_000);
        let before = read(&mut pace, 0, 5_000, 10);
        pace.set(Time::from_millis(5_000), 100_000);
        let after = read(&mut pace, 5_000, 10_000, 10);
        assert!(
            (4_980..=5_000).contains(&before) && (490..=515).contains(&after),
            "{before} {after}"
        );
        pace.set(Time::from_millis(10_000), 0);
        assert_eq!(pace.allowed(Time::from_millis(10_001)), u64::MAX);
        pace.set(Time::from_millis(20_000), 1_000_000);
        assert!(read(&mut pace, 20_000, 20_100, 1) <= 100);
    }

    #[test]
    fn nothing_is_saved_up_where_there_is_nothing_to_read() {
        let mut pace = Pace::new(1_000_000);
        pace.allowed(Time::from_millis(1));
        for ms in 1..400 {
            pace.allowed(Time::from_millis(ms));
            pace.rest();
        }
        assert!(pace.allowed(Time::from_millis(400)) <= 6);
    }

    #[test]
    fn a_long_stall_is_not_made_up_for() {
        let mut pace = Pace::new(1_000_000);
        pace.allowed(Time::from_millis(1));
        assert_eq!(pace.allowed(Time::from_millis(60_000)), 500);
    }
}
