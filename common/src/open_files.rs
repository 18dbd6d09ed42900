//! How many files a program may have open.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// More helps nobody, and some programs go through all numbers up to the limit when they start.
const ENOUGH: u64 = 65_536;

/// Stores and channels hold many files and connections open; the common soft limit of 1024 is from another age. Raises it as far as
/// the hard one lets us. To be called first of all.
pub fn raise_limit() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    let wanted = hard.min(ENOUGH);
    if wanted > soft {
        // Who may not goes on with what there is.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard);
    }
}

/// How many there may be, as far as the system says.
pub fn limit() -> Option<u64> {
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_follows_the_hard_one() {
        let limits = || getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let (soft, hard) = limits();
        setrlimit(Resource::RLIMIT_NOFILE, soft.min(256), hard).unwrap();
        raise_limit();
        assert_eq!(limits(), (hard.min(ENOUGH), hard));
    }
}
