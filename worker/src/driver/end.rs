//! What ends a process, from what went wrong.

use protocol::control::Failure;

use super::End;
use crate::{source, task};

impl From<ops::operator::Error> for End {
    fn from(error: ops::operator::Error) -> Self {
        End::Failed(error.into())
    }
}

impl From<source::Error> for End {
    fn from(error: source::Error) -> Self {
        let fatal = error.is_final();
        End::Failed(Failure {
            what: error.to_string(),
            key: None,
            unit: None,
            stderr: vec![],
            fatal,
        })
    }
}

impl From<hydfs::client::Error> for End {
    fn from(error: hydfs::client::Error) -> Self {
        match error {
            hydfs::client::Error::Fenced { .. } => End::Fenced(error.to_string()),
            other => End::Failed(Failure {
                // The file that the task wrote is gone, and so is what the job has put out.
                fatal: matches!(
                    other,
                    hydfs::client::Error::Replaced { .. } | hydfs::client::Error::NoSuchFile { .. }
                ),
                what: other.to_string(),
                key: None,
                unit: None,
                stderr: vec![],
            }),
        }
    }
}

impl From<task::Error> for End {
    fn from(error: task::Error) -> Self {
        End::Failed(Failure {
            what: error.to_string(),
            key: None,
            unit: None,
            stderr: vec![],
            fatal: true,
        })
    }
}
