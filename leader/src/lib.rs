//! The leader of a job, and the operator's console.
//!
//! ```text
//!   cli --> operators, plan (pure) --> driver --+-- job        state machine: who runs, who is replaced
//!                                               +-- launcher   starts worker processes, over SSH or here
//!                                               +-- console, progress, summary, journal
//!   verify: the log checker
//!   http: the leader's page, JSON and metrics
//!   ctl: rainstormctl, and what it says to a running leader (ctl/wire.rs)
//! ```

pub mod autoscale;
pub mod cli;
pub mod console;
pub mod ctl;
pub mod driver;
pub mod http;
pub mod job;
pub mod journal;
pub mod launcher;
pub mod operators;
pub mod plan;
pub mod progress;
pub mod summary;
pub mod verify;
