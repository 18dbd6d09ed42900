//! Named places where a test has the process die as by `kill -9`: between the steps of the protocol whose order matters.
//!
//! They are in every build and do nothing unless the environment names one, so that what a test kills is the very program that
//! is shipped, and no second build of it is needed. Whoever can set the environment of a process can kill it anyway.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// `POINT:N`: the process dies when it comes to the point for the N-th time.
pub const VARIABLE: &str = "RAINSTORM_FAIL_POINT";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// Order records are about to be handed to HyDFS.
    BeforeLog,
    /// HyDFS has said that order records are on all replicas; nothing that waits for that has left yet.
    AfterLog,
    /// Frames are about to be written to a receiver.
    BeforeForward,
    /// They are written.
    AfterForward,
    /// An acknowledgement is about to be written to a sender.
    BeforeAck,
    /// It is written.
    AfterAck,
    /// Output is about to be handed to HyDFS for the destination.
    BeforeDest,
    /// HyDFS has said that output is in the destination; the task has not noted that yet.
    AfterDest,
}

impl Point {
    const ALL: [(&str, Point); 8] = [
        ("before-log", Point::BeforeLog),
        ("after-log", Point::AfterLog),
        ("before-forward", Point::BeforeForward),
        ("after-forward", Point::AfterForward),
        ("before-ack", Point::BeforeAck),
        ("after-ack", Point::AfterAck),
        ("before-dest", Point::BeforeDest),
        ("after-dest", Point::AfterDest),
    ];
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("{VARIABLE} is `{0}`, must be POINT:N, such as after-log:3")]
    Shape(String),
    #[error("{VARIABLE} names the point `{0}`; there are {1}")]
    Unknown(String, String),
}

/// What a process is to die of; nothing by default.
#[derive(Debug, Clone, Default)]
pub struct FailPoint(Option<Arc<Armed>>);

#[derive(Debug)]
struct Armed {
    point: Point,
    at: u64,
    passed: AtomicU64,
}

impl FailPoint {
    /// `text`: the variable's value, if it is set.
    pub fn parse(text: Option<&str>) -> Result<Self, Error> {
        let Some(text) = text else { return Ok(Self(None)) };
        let shape = || Error::Shape(text.into());
        let (name, at) = text.split_once(':').ok_or_else(shape)?;
        let at = at.parse().map_err(|_| shape())?;
        match Point::ALL.iter().find(|(known, _)| *known == name) {
            Some((_, point)) if at > 0 => Ok(Self(Some(Arc::new(Armed {
                point: *point,
                at,
                passed: AtomicU64::new(0),
            })))),
            Some(_) => Err(shape()),
            None => Err(Error::Unknown(
                name.into(),
                Point::ALL.map(|(known, _)| known).join(", "),
            )),
        }
    }

    /// The process is at the point. Does not return if this is where it dies.
    pub fn pass(&self, point: Point) {
        if self.is_due(point) {
            // SIGKILL to oneself is delivered before the call returns: no buffer is flushed, nothing is said.
            let _ = kill(Pid::this(), Signal::SIGKILL);
        }
    }

    fn is_due(&self, point: Point) -> bool {
        match &self.0 {
            Some(armed) if armed.point == point => {
                armed.passed.fetch_add(1, Ordering::Relaxed) + 1 == armed.at
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_point_is_due_once_and_no_other_is() {
        for (name, point) in Point::ALL {
            let armed = FailPoint::parse(Some(&format!("{name}:3"))).unwrap();
            let other = if point == Point::AfterLog {
                Point::BeforeLog
            } else {
                Point::AfterLog
            };
            // Clones count together: connections have their own.
            let due: Vec<bool> = (0..5).map(|_| armed.clone().is_due(point)).collect();
            assert_eq!(due, [false, false, true, false, false]);
            assert!(!(0..5).any(|_| armed.is_due(other)));
        }
        assert!(!FailPoint::parse(None).unwrap().is_due(Point::AfterAck));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in [
            "",
            "after-log",
            "after-log:",
            "after-log:0",
            "after-log:-1",
            "after-log:x",
        ] {
            assert_eq!(
                FailPoint::parse(Some(text)).err(),
                Some(Error::Shape(text.into()))
            );
        }
        assert!(matches!(
            FailPoint::parse(Some("during-log:1")),
            Err(Error::Unknown(..))
        ));
    }
}
