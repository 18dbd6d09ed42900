//! When a stage gets one task more, or one fewer: decided from what its tasks measure, without I/O.
//!
//! Rates are smoothed; a crossing must last; after a change of a stage nothing is decided for it until its effect can be
//! seen. More than the rate counts the backlog: a stage that is slowed down by its own operator takes in little *because* it
//! needs company. A task that alone has too much would keep it whatever came beside it (a hot key): it is named instead.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use common::clock::Time;
use common::ids::TaskId;

use crate::plan::Scaling;

/// How long the smoothing remembers: what was measured so long ago counts 1/e.
const MEMORY: f64 = 0.8;
/// A crossing must last so long, upwards and downwards.
const UP_AFTER: Duration = Duration::from_millis(1000);
const DOWN_AFTER: Duration = Duration::from_millis(1500);
/// After a change of a stage: until rates show what came of it.
const COOLDOWN: Duration = Duration::from_millis(3000);
/// Seconds of work at the present rate that wait: a stage with so much cannot follow.
const BEHIND: f64 = 1.0;
/// A stage with more than this waiting is not made smaller.
const CAUGHT_UP: f64 = 0.25;
/// Backlogs below this are batches on their way, whatever the rate.
const FEW: f64 = 2000.0;
/// A task with so many times the others' mean is hot ...
const HOT: f64 = 2.5;
/// ... and is named again after so long.
const NAME_AGAIN: Duration = Duration::from_secs(60);
/// How much of the upper mark the tasks that are left may come to after one has gone: else it would come back.
const ROOM: f64 = 0.9;

/// What a stage's tasks measure.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    pub stage: u16,
    /// It may be scaled at all.
    pub scales: bool,
    /// All its tasks run.
    pub steady: bool,
    pub scaling: Scaling,
    /// Each task's input, tuples per second, and what it has received and not consumed.
    pub tasks: Vec<(TaskId, f64, u64)>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    Scale {
        stage: u16,
        up: bool,
        /// What was measured.
        per_task: f64,
    },
    /// More tasks would not help: this one has too much, and the others have not.
    Hot { task: TaskId, per_s: f64, others: f64 },
}

#[derive(Debug, Default)]
struct Stage {
    seen: Option<Time>,
    /// Smoothed rate and backlog by task.
    tasks: BTreeMap<TaskId, (f64, f64)>,
    /// Since when it has been above, and below.
    above: Option<Time>,
    below: Option<Time>,
    quiet_until: Time,
    named: Option<(TaskId, Time)>,
}

/// What the decisions depend on beside the present loads.
#[derive(Debug, Default)]
pub struct Autoscaler {
    stages: BTreeMap<u16, Stage>,
}

enum Want {
    More,
    Fewer,
    Hot(TaskId, f64, f64),
    Nothing,
}

impl Autoscaler {
    /// Takes the loads in; says what to do now. `free`: a change can be made. At most one stage changes at a time.
    pub fn decide(&mut self, now: Time, loads: &[Load], free: bool) -> Vec<Decision> {
        let mut decisions = vec![];
        let mut free = free;
        for load in loads.iter().filter(|l| l.scales && !l.tasks.is_empty()) {
            let stage = self.stages.entry(load.stage).or_default();
            if !load.steady {
                // A task that is being replaced measures nothing, and what it catches up with is no load.
                (stage.above, stage.below) = (None, None);
                stage.quiet_until = stage.quiet_until.max(now + COOLDOWN / 2);
                stage.seen = None;
                continue;
            }
            stage.smooth(now, load);
            let want = stage.want(load);
            let since = |mark: &mut Option<Time>, holds: bool| match holds {
                true => now.since(*mark.get_or_insert(now)),
                false => {
                    *mark = None;
                    Duration::ZERO
                }
            };
            let above = since(&mut stage.above, matches!(want, Want::More | Want::Hot(..)));
            let below = since(&mut stage.below, matches!(want, Want::Fewer));
            if now < stage.quiet_until {
                continue;
            }
            let up = match want {
                Want::More if above >= UP_AFTER => true,
                Want::Fewer if below >= DOWN_AFTER => false,
                Want::Hot(task, per_s, others) if above >= UP_AFTER => {
                    let again = |(named, at): (TaskId, Time)| named != task || now.since(at) >= NAME_AGAIN;
                    if stage.named.is_none_or(again) {
                        stage.named = Some((task, now));
                        decisions.push(Decision::Hot { task, per_s, others });
                    }
                    continue;
                }
                _ => continue,
            };
            if !free {
                continue;
            }
            free = false;
            let per_task = stage.total() / stage.tasks.len() as f64;
            (stage.above, stage.below, stage.seen) = (None, None, None);
            stage.quiet_until = now + COOLDOWN;
            decisions.push(Decision::Scale {
                stage: load.stage,
                up,
                per_task,
            });
        }
        decisions
    }
}

impl Stage {
    fn smooth(&mut self, now: Time, load: &Load) {
        let new = match self.seen {
            Some(seen) => 1.0 - (-now.since(seen).as_secs_f64() / MEMORY).exp(),
            None => 1.0,
        };
        self.seen = Some(now);
        self.tasks
            .retain(|id, _| load.tasks.iter().any(|(t, ..)| t == id));
        for (id, per_s, waiting) in &load.tasks {
            let (rate, backlog) = self.tasks.entry(*id).or_insert((*per_s, *waiting as f64));
            *rate += (per_s - *rate) * new;
            *backlog += (*waiting as f64 - *backlog) * new;
        }
    }

    fn total(&self) -> f64 {
        self.tasks.values().map(|(rate, _)| rate).sum()
    }

    fn want(&self, load: &Load) -> Want {
        let n = self.tasks.len() as f64;
        let (low, high) = (load.scaling.low as f64, load.scaling.high as f64);
        let mean = self.total() / n;
        // Seconds that a task's backlog takes it.
        let lag = |(rate, backlog): &(f64, f64)| match *backlog > FEW.max(high * 0.1) {
            true => backlog / rate.max(1.0),
            false => 0.0,
        };
        let lags = self.tasks.values().map(lag);
        let (behind, worst) = (lags.clone().sum::<f64>() / n, lags.fold(0.0, f64::max));
        if mean > high || behind > BEHIND {
            if let Some((task, rate, others)) = self.hot(high, mean > high) {
                return Want::Hot(task, rate, others);
            }
            return match load.tasks.len() < usize::from(load.scaling.most) {
                true => Want::More,
                false => Want::Nothing,
            };
        }
        let fits = n > 1.0 && self.total() / (n - 1.0) < high * ROOM;
        match mean < low && worst < CAUGHT_UP && fits {
            true => Want::Fewer,
            false => Want::Nothing,
        }
    }

    /// The one task that has too much while the others have not.
    fn hot(&self, high: f64, by_rate: bool) -> Option<(TaskId, f64, f64)> {
        let others = self.tasks.len().checked_sub(1).filter(|n| *n > 0)? as f64;
        let weight = |(rate, backlog): &(f64, f64)| if by_rate { *rate } else { rate + backlog };
        let (task, top) = self
            .tasks
            .iter()
            .max_by(|a, b| weight(a.1).total_cmp(&weight(b.1)))?;
        let all: f64 = self.tasks.values().map(weight).sum();
        let mean = (all - weight(top)) / others;
        let rest = (self.total() - top.0) / others;
        let calm = rest <= high && weight(top) > HOT * mean.max(1.0);
        calm.then_some((*task, top.0, rest))
    }
}
