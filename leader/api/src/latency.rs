//! How long tuples take.

use std::collections::BTreeMap;

use serde::Serialize;

/// Source-read to durable output, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Latency {
    /// From microseconds to how many tuples.
    pub fn of(histogram: &BTreeMap<u64, u64>) -> Option<Self> {
        let total: u64 = histogram.values().sum();
        let max = *histogram.iter().rev().find(|(_, n)| **n > 0)?.0;
        let at = |percent: u64| {
            let rank = (total * percent).div_ceil(100).max(1);
            let mut seen = 0;
            let reached = histogram.iter().find(|(_, n)| {
                seen += **n;
                seen >= rank
            });
            reached.map_or(0, |(us, _)| *us) as f64 / 1e3
        };
        Some(Self {
            p50: at(50),
            p99: at(99),
            max: max as f64 / 1e3,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_tuples_not_of_buckets() {
        let histogram = BTreeMap::from([(1_000, 98), (5_000, 1), (90_000, 1), (100_000, 0)]);
        assert_eq!(
            Latency::of(&histogram),
            Some(Latency {
                p50: 1.0,
                p99: 5.0,
                max: 90.0
            })
        );
        assert_eq!(Latency::of(&BTreeMap::new()), None);
    }
}
