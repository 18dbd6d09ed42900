//! How the sources share the input rate: evenly, but what one cannot use the others get. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use common::clock::Time;
use common::ids::TaskId;

/// A source below this part of its share for so long cannot use it.
const SLOW: f64 = 0.9;
const SLOW_FOR: Duration = Duration::from_millis(1500);
/// It gets a little more than it uses, so that it shows when it can use more.
const MORE: f64 = 1.1;
/// And never less than this part of an even share.
const LEAST: f64 = 0.05;

/// A source as it is now.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    pub task: TaskId,
    /// It reads: it runs, and has something left.
    pub reads: bool,
    /// Lines per second over the last second.
    pub per_s: f64,
}

#[derive(Debug, Default)]
pub struct Shares {
    /// Thousandths of a line per second.
    grants: BTreeMap<TaskId, u64>,
    slow_since: BTreeMap<TaskId, Time>,
}

impl Shares {
    /// The shares that are new. `rate`: lines per second over all; not 0.
    pub fn divide(&mut self, now: Time, rate: u64, sources: &[Source]) -> Vec<(TaskId, u64)> {
        let all = rate.saturating_mul(1000) as f64;
        let reading: Vec<&Source> = sources.iter().filter(|s| s.reads).collect();
        let even = all / reading.len().max(1) as f64;
        let mut caps: BTreeMap<TaskId, f64> = BTreeMap::new();
        for source in &reading {
            let grant = self.grants.get(&source.task).copied().unwrap_or(0) as f64;
            let milli = source.per_s * 1e3;
            if grant == 0.0 || milli >= SLOW * grant.min(even) {
                self.slow_since.remove(&source.task);
            } else if now.since(*self.slow_since.entry(source.task).or_insert(now)) >= SLOW_FOR {
                caps.insert(source.task, (milli * MORE).max(even * LEAST));
            }
        }
        let open = reading.len() - caps.len();
        let capped: f64 = caps.values().sum();
        let rest = (all - capped).max(0.0);
        let mut news = vec![];
        for source in &reading {
            let share = match caps.get(&source.task) {
                // All are slow: nobody is kept from catching up.
                Some(cap) if open == 0 => cap + rest / reading.len() as f64,
                Some(cap) => *cap,
                None => rest / open as f64,
            };
            let grant = (share as u64).max(1);
            let had = self.grants.insert(source.task, grant).unwrap_or(0);
            if had.abs_diff(grant) > had / 1000 {
                news.push((source.task, grant));
            } else {
                self.grants.insert(source.task, had);
            }
        }
        self.grants
            .retain(|task, _| reading.iter().any(|s| s.task == *task));
        self.slow_since
            .retain(|task, _| reading.iter().any(|s| s.task == *task));
        news
    }

    /// Nothing is limited any more, or everything is to be said again.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// A new process has heard nothing yet.
    pub fn forget_one(&mut self, task: TaskId) {
        self.grants.remove(&task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(index: u16, reads: bool, per_s: f64) -> Source {
        Source {
            task: TaskId::new(0, index),
            reads,
            per_s,
        }
    }

    #[test]
    fn what_one_cannot_use_the_others_get_and_all_that_is_granted_is_the_rate() {
        let mut shares = Shares::default();
        let at = |ms: u64| Time::from_millis(1000 + ms);
        let three = |a, b, c| [source(0, true, a), source(1, true, b), source(2, true, c)];
        let grants = |news: Vec<(TaskId, u64)>| news.iter().map(|g| g.1).collect::<Vec<_>>();
        assert_eq!(
            grants(shares.divide(at(0), 900, &three(0.0, 0.0, 0.0))),
            [300_000; 3]
        );
        // The third manages 100: after a while the others have 395 each.
        assert!(
            shares
                .divide(at(100), 900, &three(300.0, 300.0, 100.0))
                .is_empty()
        );
        let news = grants(shares.divide(at(1700), 900, &three(300.0, 300.0, 100.0)));
        assert_eq!(news, [395_000, 395_000, 110_000]);
        // It could do more all the time.
        let mut last = news;
        for step in 0..30 {
            let third = shares.grants[&TaskId::new(0, 2)] as f64 / 1e3;
            let news = grants(shares.divide(at(1800 + 100 * step), 900, &three(395.0, 395.0, third)));
            last = if news.is_empty() { last } else { news };
        }
        assert_eq!(last, [300_000; 3]);
        // One has read all it has, one is being restarted: the last has it all, at once.
        let left = [
            source(0, false, 0.0),
            source(1, true, 300.0),
            source(2, false, 0.0),
        ];
        assert_eq!(grants(shares.divide(at(9000), 900, &left)), [900_000]);
        assert_eq!(
            grants(shares.divide(at(9100), 1800, &three(0.0, 900.0, 0.0))),
            [600_000; 3]
        );
    }

    #[test]
    fn nobody_is_kept_from_catching_up_when_all_are_slow() {
        let mut shares = Shares::default();
        let both = [source(0, true, 10.0), source(1, true, 0.0)];
        for ms in [0, 100, 2000, 4000] {
            shares.divide(Time::from_millis(1 + ms), 1000, &both);
        }
        let sum: u64 = shares.grants.values().sum();
        assert!((999_000..=1_000_000).contains(&sum), "{:?}", shares.grants);
    }
}
