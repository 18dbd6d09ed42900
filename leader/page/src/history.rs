//! Rates over a job's whole life, in a bounded number of points: when they are full, each two become one, and from then on
//! points are twice as far apart. Pure.

use std::collections::BTreeMap;

use common::clock::Time;
use serde::Serialize;

use super::snapshot::Snapshot;

/// An even number: points are joined in twos.
pub const POINTS: usize = 240;
/// How far apart points are at first, seconds.
const FIRST_STEP: f64 = 0.5;

/// `null` in JSON: there was no such task then.
type Series = Vec<Option<u64>>;

/// All series are as long as `at`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct History {
    /// Seconds between points.
    pub step: f64,
    /// When, in seconds since the job began.
    pub at: Vec<f64>,
    /// By stage.
    pub stages: BTreeMap<u16, StageSeries>,
    /// Tuples consumed per second, by task (`s1t0`).
    pub tasks: BTreeMap<String, Series>,
    #[serde(skip)]
    next: Option<Time>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StageSeries {
    #[serde(rename = "in")]
    pub tuples_in: Series,
    #[serde(rename = "out")]
    pub tuples_out: Series,
    /// Bytes.
    pub backlog: Series,
    pub tasks: Series,
}

impl Default for History {
    fn default() -> Self {
        Self {
            step: FIRST_STEP,
            at: vec![],
            stages: BTreeMap::new(),
            tasks: BTreeMap::new(),
            next: None,
        }
    }
}

impl StageSeries {
    fn each(&mut self) -> [&mut Series; 4] {
        [
            &mut self.tuples_in,
            &mut self.tuples_out,
            &mut self.backlog,
            &mut self.tasks,
        ]
    }
}

impl History {
    /// Takes a point, when it is time for one.
    pub fn take(&mut self, now: Time, snapshot: &Snapshot) {
        if self.next.is_some_and(|next| now < next) {
            return;
        }
        if self.at.len() >= POINTS {
            self.halve();
        }
        let step = std::time::Duration::from_secs_f64(self.step);
        // A little early is on time: ticks are not exact.
        self.next = Some(now + step.mul_f64(0.9));
        let before = self.at.len();
        self.at.push((snapshot.job.row.seconds * 10.0).round() / 10.0);
        for stage in &snapshot.job.row.stages {
            let series = self.stages.entry(stage.stage).or_default();
            let values = [
                whole(stage.in_per_s),
                whole(stage.out_per_s),
                stage.backlog_bytes,
                u64::from(stage.tasks),
            ];
            for (series, value) in series.each().into_iter().zip(values) {
                series.resize(before, None);
                series.push(Some(value));
            }
        }
        for task in &snapshot.tasks {
            let series = self.tasks.entry(task.row.task.to_string()).or_default();
            series.resize(before, None);
            series.push(Some(whole(task.row.in_per_s)));
        }
        self.level(before + 1);
    }

    /// Those that had no point this time.
    fn level(&mut self, len: usize) {
        for series in self.all() {
            series.resize(len, None);
        }
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Series> {
        let stages = self.stages.values_mut().flat_map(StageSeries::each);
        stages.chain(self.tasks.values_mut())
    }

    fn halve(&mut self) {
        self.step *= 2.0;
        self.at = self.at.chunks(2).filter_map(|two| two.last().copied()).collect();
        for series in self.all() {
            *series = series.chunks(2).map(mean).collect();
        }
    }
}

fn mean(points: &[Option<u64>]) -> Option<u64> {
    let (sum, n) = points
        .iter()
        .flatten()
        .fold((0u128, 0), |(sum, n), v| (sum + u128::from(*v), n + 1));
    (n > 0).then(|| (sum / n) as u64)
}

fn whole(rate: f64) -> u64 {
    rate.round().max(0.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::tests::sample;
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn a_task_that_comes_and_goes_has_gaps() {
        let (mut history, mut now) = (History::default(), Time::from_millis(1));
        let mut snapshot = sample();
        let all = snapshot.tasks.clone();
        history.take(now, &snapshot);
        snapshot.tasks.truncate(1);
        now = now + Duration::from_millis(100);
        history.take(now, &snapshot);
        assert_eq!(history.at.len(), 1, "not yet time");
        now = now + Duration::from_millis(500);
        history.take(now, &snapshot);
        snapshot.tasks = all;
        let mut late = snapshot.tasks[0].clone();
        late.row.task = common::ids::TaskId::new(1, 9);
        snapshot.tasks.push(late);
        now = now + Duration::from_millis(500);
        history.take(now, &snapshot);
        let series = |task: &str| {
            history.tasks[task]
                .iter()
                .map(Option::is_some)
                .collect::<Vec<_>>()
        };
        assert_eq!(series("s0t0"), [true, true, true]);
        assert_eq!(series("s1t0"), [true, false, true]);
        assert_eq!(series("s1t9"), [false, false, true]);
    }

    proptest! {
        #[test]
        fn points_are_bounded_and_span_the_whole_life(ticks in 1usize..5000) {
            let (mut history, mut now) = (History::default(), Time::from_millis(1));
            let mut snapshot = sample();
            for i in 0..ticks {
                snapshot.job.row.seconds = i as f64 / 2.0;
                history.take(now, &snapshot);
                now = now + Duration::from_millis(500);
            }
            prop_assert!(history.at.len() <= POINTS);
            prop_assert!(history.at.is_sorted());
            prop_assert!(history.at[0] <= history.step);
            let last = (ticks - 1) as f64 / 2.0;
            prop_assert!(last - history.at[history.at.len() - 1] <= history.step);
            let len = history.at.len();
            for series in history.all() {
                prop_assert_eq!(series.len(), len);
                prop_assert!(series.iter().all(Option::is_some));
            }
        }
    }
}
