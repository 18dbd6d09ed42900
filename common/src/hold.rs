//! Pacing of small appends.

use std::time::Duration;

/// How long small appends are gathered before they go: `times` what the last one took, at most `most`. Where appends are slow because there are many,
/// there are fewer of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    pub times: u32,
    pub most: Duration,
}

impl Hold {
    pub const NONE: Hold = Hold {
        times: 0,
        most: Duration::ZERO,
    };

    /// `took`: the last append.
    pub fn after(self, took: Duration) -> Duration {
        (took * self.times).min(self.most)
    }
}
