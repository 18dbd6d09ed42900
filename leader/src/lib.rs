//! The leader of a job.
//!
//! ```text
//!   cli --> operators --> driver --+-- job::machine    who runs, who is replaced: a state machine
//!                                  +-- job::journal    what a successor must know
//!                                  +-- launcher        starts worker processes, over SSH or here
//!                                  +-- page            what a browser and Prometheus see
//!                                  +-- printer, progress, summary
//!   detach   a job that goes on without who started it
//! ```

pub mod cli;
pub mod detach;
pub mod driver;
pub mod operators;
pub mod printer;
pub mod progress;
pub mod summary;
