//! The one retry policy: exponential, capped, with a deadline kept by the caller.

use std::time::Duration;

/// Waits `first`, then twice as long each time, up to `most`.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
    first: Duration,
    most: Duration,
}

impl Backoff {
    pub fn new(first: Duration, most: Duration) -> Self {
        Self {
            next: first,
            first,
            most,
        }
    }
    /// For something on the same cluster that is expected back soon: 10 ms up to 500 ms.
    pub fn quick() -> Self {
        Self::new(Duration::from_millis(10), Duration::from_millis(500))
    }
    /// How long to wait before the next try.
    pub fn delay(&mut self) -> Duration {
        let delay = self.next;
        self.next = (self.next * 2).min(self.most);
        delay
    }
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_cap_and_starts_over() {
        let mut b = Backoff::new(Duration::from_millis(10), Duration::from_millis(35));
        let seen: Vec<u64> = (0..4).map(|_| b.delay().as_millis() as u64).collect();
        assert_eq!(seen, [10, 20, 35, 35]);
        b.reset();
        assert_eq!(b.delay().as_millis(), 10);
    }
}
