//! The operators that come with RainStorm, and the drivers of foreign executables.
//!
//! ```text
//!   Batch --> Operator (builtin/, aggregate/)            --> Emit
//!   Batch --> foreign::Process --stdin-->  child process
//!                              <-stdout--  (text protocol) --> Emit
//! ```
//! `docs/operators.md` describes both as users see them.

mod aggregate;
pub mod args;
mod builtin;
mod columns;
pub mod foreign;
mod keys;
mod number;
pub mod operator;
mod pattern;

pub use builtin::{about, builtin, kind_of, names, usage};
pub use operator::{Emit, Operator};
