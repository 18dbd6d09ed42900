//! Rates and latencies for the reports.

use std::collections::BTreeMap;
use std::time::Duration;

use common::clock::Time;
use protocol::task_log::Cut;

/// How often the counters for the leader's beat are made anew.
pub const REPORT_EVERY: Duration = Duration::from_millis(100);
/// How often a RATE line is logged.
const RATE_EVERY: Duration = Duration::from_secs(5);

/// What is measured for the leader's beats.
pub struct Meter {
    /// Of the last second and of the last ten, what came in and what went out.
    rates: [Rate; 4],
    latency: Latency,
    last_durable_us: u64,
    reported: Time,
    logged: Time,
}

impl Meter {
    pub fn new(now: Time) -> Self {
        Self {
            rates: [Rate::SECOND, Rate::TEN, Rate::SECOND, Rate::TEN].map(Rate::over),
            latency: Latency::default(),
            last_durable_us: 0,
            reported: Time::ZERO,
            logged: now,
        }
    }

    /// Are the counters to be made anew?
    pub fn is_due(&self, now: Time) -> bool {
        now.since(self.reported) >= REPORT_EVERY
    }

    /// They have been: is it time to log them?
    pub fn logs(&mut self, now: Time) -> bool {
        self.reported = now;
        let due = now.since(self.logged) >= RATE_EVERY;
        if due {
            self.logged = now;
        }
        due
    }

    /// Tuples are durable in the destination.
    pub fn delivered(&mut self, now_us: u64, tuples: u64, born_us: u64) {
        self.last_durable_us = now_us;
        self.latency.record(now_us.saturating_sub(born_us), tuples);
    }

    pub fn last_durable_us(&self) -> u64 {
        self.last_durable_us
    }

    pub fn latency(&self) -> Vec<(u64, u64)> {
        self.latency.counts()
    }

    /// Tuples per second, in the order of the report; `anew`: forgets what came before.
    pub fn rates(&mut self, now: Time, cut: &Cut, anew: bool) -> [f64; 4] {
        if anew {
            self.rates.iter_mut().for_each(Rate::forget);
        }
        let totals = [cut.tuples_in, cut.tuples_in, cut.tuples_out, cut.tuples_out];
        let mut rates = self.rates.iter_mut().zip(totals);
        std::array::from_fn(|_| rates.next().map_or(0.0, |(rate, total)| rate.update(now, total)))
    }
}

/// Tuples per second over a window that ends now.
#[derive(Debug)]
struct Rate {
    window: Duration,
    marks: std::collections::VecDeque<(Time, u64)>,
}

impl Rate {
    const SECOND: Duration = Duration::from_secs(1);
    const TEN: Duration = Duration::from_secs(10);

    fn over(window: Duration) -> Self {
        Self {
            window,
            marks: Default::default(),
        }
    }

    /// Begins anew.
    fn forget(&mut self) {
        self.marks.clear();
    }

    /// Notes the counter's value and returns its rate.
    fn update(&mut self, now: Time, total: u64) -> f64 {
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
struct Latency(BTreeMap<u64, u64>);

impl Latency {
    fn record(&mut self, micros: u64, count: u64) {
        let shift = 64 - (micros | 1).leading_zeros().min(59) - 5;
        let bucket = micros >> shift << shift;
        *self.0.entry(bucket).or_default() += count;
    }

    fn counts(&self) -> Vec<(u64, u64)> {
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
