//! How the sources share the input rate: evenly, but what one cannot use the others get, and what was missed for want of
//! knowing is made up for. Pure.

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
/// What is owed is made up for within about this time.
const REPAID_WITHIN: Duration = Duration::from_secs(1);
/// No more than what comes in so long is ever owed: more would be a flood.
const MOST_OWED: Duration = Duration::from_millis(300);

/// A source as it is now.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    pub task: TaskId,
    /// It reads: it runs, and has something left.
    pub reads: bool,
    /// Its files hold nothing more just now.
    pub idle: bool,
    /// Lines per second over the last second.
    pub per_s: f64,
    /// Lines that it has read in the job's life, by a report from `at`.
    pub lines: u64,
    pub at: Time,
}

impl Source {
    fn is_busy(&self) -> bool {
        self.reads && !self.idle
    }

    /// Lines that it has read by `now`, about: since it reported, as many as `grant` (thousandths of a line per second) lets it.
    fn lines_by(&self, now: Time, grant: u64) -> f64 {
        let since = match self.is_busy() {
            true => now.since(self.at).as_secs_f64().min(0.2),
            false => 0.0,
        };
        self.lines as f64 + grant as f64 / 1e3 * since
    }
}

/// By how many lines the sources together are behind the rate (or ahead of it: below 0).
#[derive(Debug, Default)]
struct Debt {
    lines: f64,
    /// When it was worked out last, and the lines read by then.
    last: Option<(Time, f64)>,
    /// Some source had something to read then.
    was_busy: bool,
}

impl Debt {
    fn update(&mut self, now: Time, rate: f64, sources: &[Source], grants: &BTreeMap<TaskId, u64>) {
        let granted = |s: &Source| grants.get(&s.task).copied().unwrap_or(0);
        let read: f64 = sources.iter().map(|s| s.lines_by(now, granted(s))).sum();
        let most = rate * MOST_OWED.as_secs_f64();
        if let Some((at, before)) = self.last.replace((now, read)) {
            self.lines += rate * now.since(at).as_secs_f64() - (read - before);
            // As long as nobody had anything to read, nothing was missed.
            let limit = if self.was_busy { most } else { 0.0 };
            self.lines = self.lines.clamp(-most, limit);
        }
        self.was_busy = sources.iter().any(Source::is_busy);
    }

    /// Lines per second that are to come on top of the rate.
    fn repayment(&self) -> f64 {
        self.lines / REPAID_WITHIN.as_secs_f64()
    }
}

#[derive(Debug, Default)]
pub struct Shares {
    /// Thousandths of a line per second.
    grants: BTreeMap<TaskId, u64>,
    slow_since: BTreeMap<TaskId, Time>,
    debt: Debt,
}

impl Shares {
    /// The shares that are new. `rate`: lines per second over all; not 0.
    pub fn divide(&mut self, now: Time, rate: u64, sources: &[Source]) -> Vec<(TaskId, u64)> {
        let rate = rate as f64;
        self.debt.update(now, rate, sources, &self.grants);
        let all = 1e3 * (rate + self.debt.repayment());
        let reading: Vec<&Source> = sources.iter().filter(|s| s.reads).collect();
        let busy = reading.iter().filter(|s| !s.idle).count();
        let even = all / busy.max(1) as f64;
        let caps = self.caps(now, even, &reading);
        let open = busy - caps.len();
        let rest = (all - caps.values().sum::<f64>()).max(0.0);
        let mut news = vec![];
        for source in &reading {
            let share = match caps.get(&source.task) {
                // It uses none of it. What comes goes on at once, and is told at once.
                None if source.idle => 1e3 * rate / reading.len() as f64,
                // All are slow: nobody is kept from catching up.
                Some(cap) if open == 0 => cap + rest / busy as f64,
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
        let reads = |task: &TaskId| reading.iter().any(|s| s.task == *task);
        self.grants.retain(|task, _| reads(task));
        self.slow_since.retain(|task, _| reads(task));
        news
    }

    /// What those get that cannot use an even share.
    fn caps(&mut self, now: Time, even: f64, reading: &[&Source]) -> BTreeMap<TaskId, f64> {
        let mut caps = BTreeMap::new();
        for source in reading {
            let grant = self.grants.get(&source.task).copied().unwrap_or(0) as f64;
            let milli = source.per_s * 1e3;
            if source.idle || grant == 0.0 || milli >= SLOW * grant.min(even) {
                self.slow_since.remove(&source.task);
            } else if now.since(*self.slow_since.entry(source.task).or_insert(now)) >= SLOW_FOR {
                caps.insert(source.task, (milli * MORE).max(even * LEAST));
            }
        }
        caps
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
            idle: false,
            per_s,
            lines: 0,
            at: Time::from_millis(1000),
        }
    }

    /// A source that reads what it is granted of what there is, and reports as workers do: ten times a second, and when it
    /// runs dry or no longer is.
    struct Reader {
        task: TaskId,
        granted: f64,
        /// What there is to read now, and lines per second that come.
        there: f64,
        comes: f64,
        read: f64,
        /// Lines read per step of the last second.
        steps: std::collections::VecDeque<f64>,
        dry_for: u32,
        said: Source,
    }

    const STEP_MS: u64 = 10;

    impl Reader {
        fn new(index: u16, there: f64, comes: f64) -> Self {
            Self {
                task: TaskId::new(0, index),
                granted: 0.0,
                there,
                comes,
                read: 0.0,
                steps: [].into(),
                dry_for: 0,
                said: source(index, true, 0.0),
            }
        }

        /// True when there is a report out of turn.
        fn step(&mut self, now: Time) -> bool {
            let seconds = STEP_MS as f64 / 1e3;
            self.there += self.comes * seconds;
            let some = (self.granted / 1e3 * seconds).min(self.there);
            (self.there, self.read) = (self.there - some, self.read + some);
            self.steps.push_back(some);
            if self.steps.len() > 100 {
                self.steps.pop_front();
            }
            self.dry_for = if some < 1.0 { self.dry_for + 1 } else { 0 };
            let idle = self.dry_for >= 3;
            let news = idle != self.said.idle;
            if news || now.0.is_multiple_of(100_000) {
                let second = self.steps.len() as f64 / 100.0;
                self.said = Source {
                    idle,
                    per_s: self.steps.iter().sum::<f64>() / second,
                    lines: self.read as u64,
                    at: now,
                    ..self.said
                };
            }
            news
        }
    }

    /// Lines read by all, per step.
    fn run(
        rate: u64,
        readers: &mut [Reader],
        seconds: u64,
        mut change: impl FnMut(u64, &mut [Reader]),
    ) -> Vec<f64> {
        let mut shares = Shares::default();
        let mut totals = vec![];
        for step in 0..seconds * 1000 / STEP_MS {
            let now = Time::from_millis(1000 + step * STEP_MS);
            change(step * STEP_MS, readers);
            let mut look = (step * STEP_MS).is_multiple_of(100);
            readers.iter_mut().for_each(|r| look |= r.step(now));
            if look {
                let said: Vec<Source> = readers.iter().map(|r| r.said).collect();
                for (task, milli) in shares.divide(now, rate, &said) {
                    for reader in readers.iter_mut().filter(|r| r.task == task) {
                        reader.granted = milli as f64;
                    }
                }
            }
            totals.push(readers.iter().map(|r| r.read).sum());
        }
        totals
    }

    /// The worst deviation from the rate over any five seconds that begin at or after `from_ms`.
    fn worst(totals: &[f64], rate: u64, from_ms: u64) -> f64 {
        let window = (5000 / STEP_MS) as usize;
        let due = rate as f64 * 5.0;
        let windows = totals.windows(window + 1).skip((from_ms / STEP_MS) as usize);
        let off = |w: &[f64]| ((w[window] - w[0]) / due - 1.0).abs();
        windows.map(off).fold(0.0, f64::max)
    }

    #[test]
    fn the_rate_is_kept_over_any_five_seconds_whatever_the_sources_have() {
        const PLENTY: f64 = 1e12;
        let rate = 150_000;
        // Two of three have nothing.
        let mut readers = [
            Reader::new(0, PLENTY, 0.0),
            Reader::new(1, 0.0, 0.0),
            Reader::new(2, 0.0, 0.0),
        ];
        let off = worst(&run(rate, &mut readers, 30, |_, _| {}), rate, 0);
        assert!(off < 0.01, "two are idle: {off}");
        // One has something now and then, one runs out for good, one has plenty.
        let mut readers = [
            Reader::new(0, PLENTY, 0.0),
            Reader::new(1, 0.0, 0.0),
            Reader::new(2, 400_000.0, 0.0),
        ];
        let totals = run(rate, &mut readers, 40, |ms, readers| {
            if ms % 3_700 == 0 {
                readers[1].there += 60_000.0;
            }
        });
        let off = worst(&totals, rate, 0);
        assert!(off < 0.01, "they come and go: {off}");
        // One grows more slowly than its share, which takes a while to be seen and made up for.
        let mut readers = [
            Reader::new(0, PLENTY, 0.0),
            Reader::new(1, 0.0, 20_000.0),
            Reader::new(2, PLENTY, 0.0),
        ];
        let off = worst(&run(rate, &mut readers, 40, |_, _| {}), rate, 6_000);
        assert!(off < 0.01, "one is slow: {off}");
    }

    #[test]
    fn what_nobody_had_is_not_made_up_for() {
        let rate = 100_000;
        let mut readers = [Reader::new(0, 0.0, 0.0), Reader::new(1, 0.0, 0.0)];
        let totals = run(rate, &mut readers, 20, |ms, readers| {
            if ms == 8_000 {
                readers[1].there = 1e12;
            }
        });
        let second = |s: usize| totals[s * 100] - totals[(s - 1) * 100];
        assert!(
            second(7) < 1.0 && second(10) < 1.05 * rate as f64,
            "{}",
            second(10)
        );
        let off = worst(&totals, rate, 8_100);
        assert!(off < 0.01, "{off} {:?}", (8..14).map(second).collect::<Vec<_>>());
    }

    #[test]
    fn what_one_cannot_use_the_others_get() {
        let mut shares = Shares::default();
        let at = |ms: u64| Time::from_millis(1000 + ms);
        let three = |a, b, c| [source(0, true, a), source(1, true, b), source(2, true, c)];
        let grants = |news: Vec<(TaskId, u64)>| news.iter().map(|g| g.1).collect::<Vec<_>>();
        assert_eq!(
            grants(shares.divide(at(0), 900, &three(0.0, 0.0, 0.0))),
            [300_000; 3]
        );
        // One has read all it has, one is being restarted: the last has it all, at once.
        let left = [
            source(0, false, 0.0),
            source(1, true, 300.0),
            source(2, false, 0.0),
        ];
        assert_eq!(grants(shares.divide(at(0), 900, &left)), [900_000]);
        // A restarted one hears its share again.
        shares.forget_one(TaskId::new(0, 1));
        assert_eq!(grants(shares.divide(at(0), 900, &left)), [900_000]);
    }

    #[test]
    fn nobody_is_kept_from_catching_up_when_all_are_slow_and_no_flood_is_owed() {
        let mut shares = Shares::default();
        let both = [source(0, true, 10.0), source(1, true, 0.0)];
        for ms in [0, 100, 2000, 4000, 60_000] {
            shares.divide(Time::from_millis(1 + ms), 1000, &both);
        }
        let sum: u64 = shares.grants.values().sum();
        assert!((1_000_000..=1_300_000).contains(&sum), "{:?}", shares.grants);
    }
}
