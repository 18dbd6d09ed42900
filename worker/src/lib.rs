//! A task's process: one operator of one stage, under an identity.
//!
//! `task` is the exactly-once protocol without I/O; `driver` moves the bytes; `source` splits files into lines.

pub mod driver;
pub mod failpoint;
pub mod source;
pub mod task;
pub mod wire;
