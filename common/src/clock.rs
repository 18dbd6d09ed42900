//! The only place that asks the clock. Protocol code gets a [`Time`] handed in by its driver.

use std::ops::{Add, Sub};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

/// Monotonic time since this process first asked, in microseconds. Not comparable between processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Time(pub u64);

impl Time {
    pub const ZERO: Time = Time(0);

    pub fn from_millis(ms: u64) -> Self {
        Self(ms * 1000)
    }
    /// How long ago `earlier` was; zero if it lies ahead.
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, d: Duration) -> Time {
        Time(self.0.saturating_add(d.as_micros() as u64))
    }
}

impl Sub<Duration> for Time {
    type Output = Time;
    fn sub(self, d: Duration) -> Time {
        Time(self.0.saturating_sub(d.as_micros() as u64))
    }
}

static START: OnceLock<Instant> = OnceLock::new();

/// Monotonic now: what timeouts and rates are measured with. A changed wall clock does not move it.
#[allow(clippy::disallowed_methods)] // this is the clock
pub fn now() -> Time {
    let start = *START.get_or_init(Instant::now);
    // Starts at one second, so that `now - d` has room in tests and start-up code.
    Time(1_000_000 + start.elapsed().as_micros() as u64)
}

/// Wall clock in microseconds since 1970: for names, log lines and latency stamps, never for timeouts.
#[allow(clippy::disallowed_methods)] // this is the clock
pub fn unix_micros() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_micros() as u64)
}

/// The same moment, for tokio's timers.
pub fn instant(time: Time) -> tokio::time::Instant {
    tokio::time::Instant::now() + time.since(now())
}

/// Sleeps until `deadline` (at once when it has passed).
pub async fn sleep_until(deadline: Time) {
    tokio::time::sleep(deadline.since(now())).await;
}
