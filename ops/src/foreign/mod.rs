//! Foreign executables: any program that reads tuples on standard input and answers on standard output.
//!
//! ```text
//! Process  --question-->  text/   lines        Dialogue  --bytes-->  Pipes  --stdin--->  the program
//!                         batch/  frames                             (one loop for both) <--stdout--
//! ```
//! - `process.rs`: what the worker calls
//! - `pipes.rs`: the program's streams, time limits and end; the loop that carries a dialogue out
//! - `dialogue.rs`: what a protocol must say of a question; `text/`, `batch/`: the two protocols
//! - `runnable.rs`: why a file cannot be run
//! - `child.rs`: how a program is started so that nothing of it is left behind
//! - `stderr.rs`: what it says on standard error
//! - `describe.rs`: asking a program what it is

pub mod batch;
mod child;
mod describe;
pub(crate) mod dialogue;
mod pipes;
mod process;
mod runnable;
mod stderr;
pub mod text;

pub use describe::{DESCRIBE, DESCRIBE_WITHIN, Description, MAGIC, describe};
pub use process::{PROTOCOL, Process, Spec};
pub use runnable::{Unrunnable, check as check_runnable};
