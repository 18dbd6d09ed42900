//! How much is kept of what grows with time.

use std::time::Duration;

use serde::Deserialize;

use crate::size::Size;

/// What becomes of jobs that have ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Jobs {
    /// How long what they keep stays in HyDFS. Their output stays in any case.
    pub keep_ended: Keep,
}

/// How long something is kept: `"7d"`, or `"forever"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Keep {
    For(Duration),
    Forever,
}

impl Default for Keep {
    fn default() -> Self {
        Self::For(Duration::from_secs(7 * 24 * 3600))
    }
}

impl TryFrom<String> for Keep {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "forever" => Ok(Self::Forever),
            _ => humantime::parse_duration(&text).map(Self::For).map_err(|why| {
                format!("`{text}` is not a time such as \"7d\" or \"12h\", nor \"forever\": {why}")
            }),
        }
    }
}

/// How much of each program's log a node keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// A log that has grown so far is renamed, and a new one begun; 0: that is left to others.
    pub max_size: Size,
    /// How many files of one log are kept: the one that grows, and the older ones.
    pub files: usize,
}

impl Log {
    const LEAST_SIZE: Size = Size(4096);
    /// The older ones have at most two digits in their names, which `rainstormctl grep` relies on.
    pub const MOST_FILES: usize = 100;

    pub(super) fn check(&self) -> Result<(), String> {
        if self.max_size != Size(0) && self.max_size < Self::LEAST_SIZE {
            let least = Self::LEAST_SIZE;
            return Err(format!("[log] max_size is 0 (no limit), or at least {least}"));
        }
        if !(2..=Self::MOST_FILES).contains(&self.files) {
            return Err(format!("[log] files is 2 to {}", Self::MOST_FILES));
        }
        Ok(())
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            max_size: Size(64 << 20),
            files: 5,
        }
    }
}
