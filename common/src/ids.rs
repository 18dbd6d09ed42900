//! Newtypes for every identity. All print as users see them in logs and on the command line.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What is wrong with a name or an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{what} `{text}` is not valid: {why}")]
    Invalid {
        what: &'static str,
        text: String,
        why: &'static str,
    },
}

fn check_name(what: &'static str, text: &str) -> Result<(), Error> {
    let invalid = |why| {
        Err(Error::Invalid {
            what,
            text: text.chars().take(80).collect(),
            why,
        })
    };
    if text.is_empty() {
        return invalid("it is empty");
    }
    if text.len() > 64 {
        return invalid("it is longer than 64 bytes");
    }
    if !text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        || !text.starts_with(|first: char| first.is_ascii_alphanumeric())
    {
        // A first `-` would make it an option wherever it is a word on a command line.
        return invalid("use letters, digits, `-`, `_` and `.`, beginning with a letter or digit");
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            pub fn new(text: impl Into<String>) -> Result<Self, Error> {
                let text = text.into();
                check_name($what, &text)?;
                Ok(Self(text))
            }
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl TryFrom<String> for $type {
            type Error = Error;
            fn try_from(text: String) -> Result<Self, Error> {
                Self::new(text)
            }
        }
        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }
        impl FromStr for $type {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self, Error> {
                Self::new(text)
            }
        }
    };
}

name!(
    /// A node of the cluster file, such as `n1`.
    NodeName,
    "node name"
);
name!(
    /// A job; also the folder `jobs/<job>/` in HyDFS.
    JobName,
    "job name"
);

/// Which of the files that a HyDFS name has had: drawn at random by whoever creates one. A name that is removed and created
/// again is another file, under another number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Creation(pub u64);

impl fmt::Display for Creation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A task's identity, `s1t2`: stage 1, task 2. The source is stage 0. Outlives the task's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TaskId {
    pub stage: u16,
    pub index: u16,
}

impl TaskId {
    pub fn new(stage: u16, index: u16) -> Self {
        Self { stage, index }
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("s{}t{}", self.stage, self.index))
    }
}

impl FromStr for TaskId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let parts = text.strip_prefix('s').and_then(|rest| rest.split_once('t'));
        if let Some((stage, index)) = parts
            && let (Ok(stage), Ok(index)) = (stage.parse(), index.parse())
        {
            return Ok(Self { stage, index });
        }
        Err(Error::Invalid {
            what: "task id",
            text: text.chars().take(80).collect(),
            why: "it looks like `s1t2`: stage 1, task 2",
        })
    }
}

impl TryFrom<String> for TaskId {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<TaskId> for String {
    fn from(task: TaskId) -> String {
        task.to_string()
    }
}

/// Which process of an identity: 1 for the first, higher for each that replaces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn task_id_round_trips(stage: u16, index: u16) {
            let task = TaskId::new(stage, index);
            prop_assert_eq!(task.to_string().parse::<TaskId>().unwrap(), task);
        }
    }

    #[test]
    fn names_that_could_leave_a_folder_are_refused() {
        for bad in ["", "..", ".x", "a/b", "a b", "a\0b", &"x".repeat(65)] {
            assert!(NodeName::new(bad).is_err(), "{bad:?}");
        }
        for good in ["1", "a-", "n1.rack_2", &"x".repeat(64)] {
            assert!(JobName::new(good).is_ok(), "{good:?}");
        }
        // Options, where they are words on a command line.
        for bad in ["-x", "--", "-", "_x"] {
            let error = JobName::new(bad).unwrap_err().to_string();
            assert!(error.contains("beginning with a letter or digit"), "{error}");
        }
        assert!("1t2".parse::<TaskId>().is_err());
        assert!("s1x2".parse::<TaskId>().is_err());
    }
}
