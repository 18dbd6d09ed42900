//! Foreign executables: any program that reads tuples on standard input and answers on standard output.
//!
//! - `text.rs`: the text protocol, as a state machine over lines
//! - `process.rs`: the program as a child, fed with batches
//! - `child.rs`: how a program is started so that nothing of it is left behind
//! - `stderr.rs`: what it says on standard error
//! - `describe.rs`: asking a program what it is

mod child;
mod describe;
mod process;
mod stderr;
pub mod text;

pub use describe::{Description, describe};
pub use process::Process;
