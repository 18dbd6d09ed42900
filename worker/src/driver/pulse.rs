//! Whether the engine lives. Beats are sent by a thread of their own, so that they come in time however busy the engine or
//! the machine is; that thread must not go on for an engine that hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use common::clock::Time;

/// Less than this much more CPU time, or time waiting for a CPU, is no sign of life.
const LEAST: Duration = Duration::from_millis(1);

/// What the engine says of itself.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<Beats>);

#[derive(Debug, Default)]
struct Beats {
    turns: AtomicU64,
    thread: AtomicI32,
}

impl Pulse {
    /// The engine has gone round its loop once more. Called by its thread.
    pub fn beat(&self) {
        if self.0.turns.fetch_add(1, Ordering::Relaxed) == 0 {
            self.0
                .thread
                .store(nix::unistd::gettid().as_raw(), Ordering::Relaxed);
        }
    }

    /// What can be seen from another thread of this process.
    pub fn look(&self) -> Signs {
        let turns = self.0.turns.load(Ordering::Relaxed);
        let thread = self.0.thread.load(Ordering::Relaxed);
        let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).unwrap_or_default();
        let (ran, waited) = schedstat(&text);
        Signs { turns, ran, waited }
    }
}

/// Time on a CPU, and waiting for one.
fn schedstat(text: &str) -> (Duration, Duration) {
    let mut fields = text.split_ascii_whitespace().map(|f| f.parse().unwrap_or(0));
    let mut next = || Duration::from_nanos(fields.next().unwrap_or(0));
    (next(), next())
}

/// Signs of the engine's life; all only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Signs {
    pub turns: u64,
    /// On a CPU: a long computation is life.
    pub ran: Duration,
    /// Waiting for a CPU: a starved engine is not a dead one.
    pub waited: Duration,
}

/// Tells from looks at an engine whether it hangs.
#[derive(Debug, Default)]
pub struct Watch {
    seen: Signs,
    since: Option<Time>,
}

impl Watch {
    /// False when there has been no sign of life for `most`. An engine that has not begun is not judged.
    pub fn lives(&mut self, now: Time, signs: Signs, most: Duration) -> bool {
        let grew = |before: Duration, after: Duration| after.saturating_sub(before) >= LEAST;
        let news = signs.turns != self.seen.turns
            || grew(self.seen.ran, signs.ran)
            || grew(self.seen.waited, signs.waited);
        if news || signs.turns == 0 || self.since.is_none() {
            (self.seen, self.since) = (signs, Some(now));
        }
        self.since.is_none_or(|since| now.since(since) < most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_secs(3);

    /// How many half seconds it is believed to live when it shows `signs(i)` at the `i`th look.
    fn looks(signs: impl Fn(u64) -> Signs) -> u64 {
        let mut watch = Watch::default();
        (0..100)
            .find(|i| !watch.lives(Time::from_millis(1000 + 500 * i), signs(*i), MOST))
            .unwrap_or(100)
    }

    #[test]
    fn one_that_turns_computes_or_waits_for_a_cpu_lives() {
        let ms = Duration::from_millis;
        assert_eq!(
            looks(|i| Signs {
                turns: i + 1,
                ..Signs::default()
            }),
            100
        );
        assert_eq!(
            looks(|i| Signs {
                turns: 7,
                ran: ms(5 * i),
                ..Signs::default()
            }),
            100
        );
        assert_eq!(
            looks(|i| Signs {
                turns: 7,
                waited: ms(490 * i),
                ..Signs::default()
            }),
            100
        );
        assert_eq!(looks(|_| Signs::default()), 100, "it has not begun");
    }

    #[test]
    fn one_that_does_nothing_of_it_hangs_after_that_time() {
        assert_eq!(
            looks(|_| Signs {
                turns: 7,
                ..Signs::default()
            }),
            6
        );
        // It turned for two seconds.
        assert_eq!(
            looks(|i| Signs {
                turns: 1 + i.min(4),
                ..Signs::default()
            }),
            10
        );
    }

    #[test]
    fn this_very_thread_is_seen_to_run() {
        let pulse = Pulse::default();
        pulse.beat();
        let before = pulse.look();
        let mut sum = 0u64;
        while pulse.look().ran < before.ran + LEAST {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert_eq!(before.turns, 1);
        assert_eq!(
            schedstat("12 34 5\n"),
            (Duration::from_nanos(12), Duration::from_nanos(34))
        );
        assert_eq!(schedstat(""), (Duration::ZERO, Duration::ZERO));
    }
}
