//! Which seeds a simulation runs: as many as it says itself, or what the environment asks for.
//!
//! ```text
//! RAINSTORM_SEED=7                    that one alone; the job's and the members' simulation tell what happens in it
//! RAINSTORM_SEEDS=100000              so many, from 0 on
//! RAINSTORM_SEED=7 RAINSTORM_SEEDS=9  so many, from that one on
//! ```

use std::ops::Range;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seeds {
    pub range: Range<u64>,
    /// One was asked for, to see what happens in it. It says little about how often something happens.
    pub told: bool,
}

impl Seeds {
    /// `usual`: where nobody asks for others.
    ///
    /// # Panics
    /// If a variable is there and is no number: another run than the one asked for would be taken for it.
    pub fn from_env(usual: Range<u64>) -> Self {
        let number = |name: &str| {
            let text = std::env::var(name).ok()?;
            match text.parse() {
                Ok(number) => Some(number),
                Err(_) => panic!("{name} must be a number, not `{text}`"),
            }
        };
        Self::asked(usual, number("RAINSTORM_SEED"), number("RAINSTORM_SEEDS"))
    }

    fn asked(usual: Range<u64>, first: Option<u64>, count: Option<u64>) -> Self {
        let told = first.is_some() && count.is_none();
        let count = count.unwrap_or(if told { 1 } else { usual.end - usual.start });
        let first = first.unwrap_or(usual.start);
        Self {
            range: first..first + count,
            told,
        }
    }

    pub fn count(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// What to type to see `seed` again.
pub fn again(seed: u64, package: &str, test: &str) -> String {
    format!("again: RAINSTORM_SEED={seed} cargo test -p {package} {test} -- --nocapture")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_is_told_and_several_are_not() {
        let seeds = |range, told| Seeds { range, told };
        assert_eq!(Seeds::asked(5..25, None, None), seeds(5..25, false));
        assert_eq!(Seeds::asked(5..25, Some(7), None), seeds(7..8, true));
        assert_eq!(Seeds::asked(5..25, None, Some(3)), seeds(5..8, false));
        assert_eq!(Seeds::asked(5..25, Some(7), Some(1)), seeds(7..8, false));
        assert_eq!(seeds(7..9, false).count(), 2);
    }
}
