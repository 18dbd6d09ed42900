//! What the leader should know of a task before its next beat.

use std::time::Duration;

use common::clock::Time;

use super::effect::Effect;

/// A source that has found nothing for so long is idle.
const IDLE_AFTER: Duration = Duration::from_millis(30);
/// A process that has been at it for so long, and has put something out, tells the leader without waiting for the next beat. Not sooner: one
/// that dies right after its first output each time is to be started ever more slowly.
const WORKS_AFTER: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(super) struct Progress {
    began: Time,
    has_output: bool,
    works: bool,
    /// Since when the source has found nothing.
    dry_since: Option<Time>,
    /// What was told last.
    idle: bool,
    done: bool,
    finished: bool,
}

impl Progress {
    pub fn new(began: Time) -> Self {
        Self {
            began,
            has_output: false,
            works: false,
            dry_since: None,
            idle: false,
            done: false,
            finished: false,
        }
    }

    pub fn has_read(&mut self) {
        self.dry_since = None;
    }

    pub fn found_nothing(&mut self, now: Time) {
        self.dry_since.get_or_insert(now);
    }

    pub fn is_idle(&self, now: Time) -> bool {
        self.dry_since.is_some_and(|since| now.since(since) >= IDLE_AFTER)
    }

    pub fn has_put_out(&mut self, tuples: u64, effects: &mut Vec<Effect>) {
        if !std::mem::replace(&mut self.has_output, true) {
            effects.push(Effect::FirstOutput { tuples });
        }
    }

    /// Reports what has changed: a task that works again is no longer one that fails and fails, should it be killed before its next
    /// beat; the rate of a source that is idle goes to others.
    /// `done`: all is put out; `finished`: and it has arrived.
    pub fn tell(&mut self, now: Time, done: bool, finished: bool, effects: &mut Vec<Effect>) {
        let works = self.has_output && now.since(self.began) >= WORKS_AFTER;
        let idle = self.is_idle(now);
        if works != self.works || idle != self.idle {
            effects.push(Effect::Report);
        }
        (self.works, self.idle) = (works, idle);
        if done && !std::mem::replace(&mut self.done, true) {
            effects.push(Effect::NothingFollows);
        }
        if finished && !std::mem::replace(&mut self.finished, true) {
            effects.push(Effect::Finished);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(progress: &mut Progress, ms: u64) -> Vec<Effect> {
        let mut effects = vec![];
        progress.tell(Time::from_millis(ms), false, false, &mut effects);
        effects
    }

    #[test]
    fn a_source_is_idle_when_it_has_found_nothing_for_a_while() {
        let mut progress = Progress::new(Time::from_millis(1000));
        progress.found_nothing(Time::from_millis(1000));
        progress.found_nothing(Time::from_millis(1020));
        assert_eq!(told(&mut progress, 1029), []);
        assert_eq!(told(&mut progress, 1030), [Effect::Report]);
        assert_eq!(told(&mut progress, 1031), []);
        progress.has_read();
        assert_eq!(told(&mut progress, 1032), [Effect::Report]);
    }

    #[test]
    fn a_process_works_once_it_has_put_something_out_and_is_not_new() {
        let mut progress = Progress::new(Time::from_millis(1000));
        assert_eq!(told(&mut progress, 1300), []);
        let mut effects = vec![];
        progress.has_put_out(3, &mut effects);
        progress.has_put_out(4, &mut effects);
        assert_eq!(effects, [Effect::FirstOutput { tuples: 3 }]);
        assert_eq!(told(&mut progress, 1301), [Effect::Report]);
        let mut young = Progress::new(Time::from_millis(1300));
        young.has_put_out(3, &mut effects);
        assert_eq!(told(&mut young, 1301), []);
        assert_eq!(told(&mut young, 1500), [Effect::Report]);
    }
}
