//! Rates and latencies for the reports.

use std::collections::BTreeMap;
use std::time::Duration;

use common::clock::Time;

/// Tuples per second over a window that ends now.
#[derive(Debug)]
pub struct Rate {
    window: Duration,
    marks: std::collections::VecDeque<(Time, u64)>,
}

impl Rate {
    pub const SECOND: Duration = Duration::from_secs(1);
    pub const TEN: Duration = Duration::from_secs(10);

    pub fn over(window: Duration) -> Self {
        Self {
            window,
            marks: Default::default(),
        }
    }

    /// Begins anew.
    pub fn forget(&mut self) {
        self.marks.clear();
    }

    /// Notes the counter's value and returns its rate.
    pub fn update(&mut self, now: Time, total: u64) -> f64 {
        self.marks.push_back((now, total));
        while self.marks.len() > 2 && now.since(self.marks[1].0) >= self.window {
            self.marks.pop_front();
        }
        let (since, before) = self.marks[0];
        let seconds = now.since(since).as_secs_f64();
        if seconds > 0.0 {
            total.saturating_sub(before) as f64 / seconds
        } else {
            0.0
        }
    }
}

/// A histogram with buckets 1/16 of a power of two wide: within 6 % of the truth.
#[derive(Debug, Default)]
pub struct Latency(BTreeMap<u64, u64>);

impl Latency {
    pub fn record(&mut self, micros: u64, count: u64) {
        let shift = 64 - (micros | 1).leading_zeros().min(59) - 5;
        let bucket = micros >> shift << shift;
        *self.0.entry(bucket).or_default() += count;
    }

    pub fn counts(&self) -> Vec<(u64, u64)> {
        self.0.iter().map(|(m, c)| (*m, *c)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_counter_has_its_rate() {
        let mut rate = Rate::over(Rate::SECOND);
        let mut last = 0.0;
        for i in 0..50u64 {
            last = rate.update(Time::from_millis(100 * i), 1000 * i);
        }
        assert!((last - 10_000.0).abs() < 1.0, "{last}");
    }

    #[test]
    fn buckets_are_close() {
        let mut latency = Latency::default();
        for micros in [0, 1, 15, 16, 999, 123_456, u64::MAX] {
            latency.record(micros, 1);
            let (bucket, _) = *latency.counts().iter().rfind(|(b, _)| *b <= micros).unwrap();
            assert!(micros - bucket <= micros / 16, "{micros} in {bucket}");
        }
    }
}
