//! The operators that come with RainStorm, the driver of foreign executables, and the SDK for those written in Rust.
//!
//! ```text
//!   Batch --> Operator (builtin/, aggregate/)                      --> Emit
//!   Batch --> foreign::Process --stdin-->  child process (sdk, ...)
//!                              <-stdout--                          --> Emit
//! ```
//! `docs/operators.md` describes all three as users see them.

mod aggregate;
pub mod args;
mod builtin;
mod columns;
pub mod foreign;
mod keys;
pub mod lines;
mod number;
pub mod operator;
mod pattern;
pub mod sdk;

pub use builtin::{about, builtin, kind_of, names, usage};
pub use operator::{Emit, Operator};
