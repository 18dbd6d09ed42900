//! Which names are the system's own.

use super::error::Error;

/// What a user wants to do to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// To make it, or to append to it.
    Write,
    /// To remove it.
    Remove,
    /// To have a job read it. Looking at a file (`cat`, `get`) is always allowed.
    Feed,
}

/// Folders that hold what jobs keep (plans, logs, states) and the executables that were shipped for them.
const OWN: [&str; 2] = ["jobs", "ops"];
/// Ends the name of the file where a job sets tuples aside. What it says is the user's, to read and to remove; only jobs write it.
const POISON: &str = ".poison";

/// Whether a user may do that to a file of that name: one that the system keeps is refused.
pub fn check_users(name: &str, deed: Deed) -> Result<(), Error> {
    let refused = |what| {
        Err(Error::Reserved {
            file: name.to_owned(),
            what,
        })
    };
    let first = name.split('/').next().unwrap_or(name);
    if OWN.contains(&first) {
        return refused("names under `jobs/` and `ops/` are RainStorm's own");
    }
    if deed == Deed::Write && name.ends_with(POISON) {
        return refused("jobs set tuples aside under names that end in `.poison`");
    }
    Ok(())
}

/// Whether users make such a file, or a job its destination; the rest is what jobs need to go on.
pub fn is_users(name: &str) -> bool {
    check_users(name, Deed::Write).is_ok()
}

/// Where a job with that destination sets tuples aside.
pub fn poison_file(dest: &str) -> String {
    format!("{dest}{POISON}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_keeps_is_refused_and_nothing_else() {
        use Deed::{Feed, Remove, Write};
        for (name, refused) in [
            ("jobs/j/s1t0.log", &[Write, Remove, Feed][..]),
            ("jobs/j/journal", &[Write, Remove, Feed]),
            ("jobs/mine", &[Write, Remove, Feed]),
            ("jobs", &[Write, Remove, Feed]),
            ("ops/abc", &[Write, Remove, Feed]),
            ("ops", &[Write, Remove, Feed]),
            ("out.poison", &[Write]),
            ("a/out.poison", &[Write]),
            ("jobs.txt", &[]),
            ("my/jobs/a", &[]),
            ("opsx/a", &[]),
            ("Jobs/a", &[]),
            ("poison", &[]),
            ("out.poison/a", &[]),
        ] {
            for deed in [Write, Remove, Feed] {
                assert_eq!(
                    check_users(name, deed).is_err(),
                    refused.contains(&deed),
                    "{deed:?} {name}"
                );
            }
        }
        assert!(check_users(&poison_file("x"), Write).is_err_and(|e| e.code() == 2));
    }
}
