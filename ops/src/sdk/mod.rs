//! For operators written in Rust: one call in `main`, and the program is an operator of RainStorm that speaks the batch
//! protocol, saves its state where it has some, and says at which tuple it failed.
//!
//! ```no_run
//! use ops::sdk::{self, Tuple};
//!
//! fn main() -> std::process::ExitCode {
//!     sdk::run(sdk::filter(|tuple: Tuple<'_>| tuple.value.len() > 80).values_only())
//! }
//! ```
//! - [`filter`], [`transform`]: from a closure, or from a type of yours that is a [`Filter`] or [`Transform`]
//! - [`aggregate()`]: from a closure that gets the key's state; [`aggregate_with`]: from a type that is an [`Aggregate`],
//!   which may have a word at the end of the input, too
//!
//! A closure's result may be a `Result`: an error (as a panic) ends the program and is reported with the tuple. What it
//! prints on standard output goes to standard error, and so to the task's log. Its arguments are those after the
//! executable in the job. Run by hand, it takes the lines of standard input for tuples and prints `key<TAB>value`.
//!
//! The same input must give the same output, whatever process it is in and however it is divided into batches; a
//! program that cannot promise that says so: [`Program::not_deterministic`].
//!
//! [`on_lines`] tries a program out, in a test or an example:
//!
//! ```
//! use ops::sdk::{self, Output, Tuple};
//!
//! let shout = sdk::transform(|tuple: Tuple<'_>, out: &mut Output<'_>| {
//!     out.emit(&tuple.value.to_ascii_uppercase());
//! });
//! assert_eq!(sdk::on_lines(shout, "one\ntwo\n")?, "stdin:1\tONE\nstdin:2\tTWO\n");
//! # Ok::<(), sdk::Error>(())
//! ```
#![deny(missing_docs)]

mod aggregate;
mod builtin;
mod in_process;
mod output;
mod run;
mod serve;
mod stateless;
mod tuples;

pub use aggregate::{Aggregate, aggregate, aggregate_with};
pub use builtin::builtin;
pub use in_process::{InProcess, on_lines};
pub use output::Output;
pub use run::run;
pub use stateless::{Filter, Transform, filter, transform};
pub use tuples::{Tuple, Tuples};

use protocol::control::{OpKind, Protocol};

use crate::foreign::Description;

/// Whatever an operator of yours may fail with.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// What an operator of yours gives back.
pub type Result<T = ()> = std::result::Result<T, Error>;

/// What a closure may give back: a value, or a `Result` with it.
pub trait IntoResult<T> {
    /// A value alone is a success.
    ///
    /// # Errors
    /// The closure's own.
    fn into_result(self) -> Result<T>;
}

impl IntoResult<bool> for bool {
    fn into_result(self) -> Result<bool> {
        Ok(self)
    }
}

impl IntoResult<()> for () {
    fn into_result(self) -> Result {
        Ok(())
    }
}

impl<T, E: Into<Error>> IntoResult<T> for std::result::Result<T, E> {
    fn into_result(self) -> Result<T> {
        self.map_err(Into::into)
    }
}

/// An operator of some kind, as the rest of the SDK sees it. An error of any of its methods ends the program and is reported.
pub trait Body {
    /// Whether it filters, transforms or keeps state.
    fn kind(&self) -> OpKind;

    /// Its state can be saved (or it has none).
    fn has_snapshots(&self) -> bool {
        true
    }

    /// Takes in a batch. The tuple last looked at is the one that an error is about.
    fn batch(&mut self, tuples: &Tuples<'_>, out: &mut Output<'_>) -> Result;

    /// The input has ended.
    fn finish(&mut self, _out: &mut Output<'_>) -> Result {
        Ok(())
    }

    /// Appends what of its state has changed since the last one, as [`crate::Operator::snapshot`] does.
    fn snapshot(&mut self, _rewrite: usize, _out: &mut Vec<u8>) -> Result<bool> {
        Ok(true)
    }

    /// Takes in snapshots, one after the other, in the order in which they were made. They come before the first batch.
    fn restore(&mut self, snapshot: &[u8]) -> Result {
        match snapshot.is_empty() {
            true => Ok(()),
            false => Err("this operator keeps no state, but was given a snapshot to restore".into()),
        }
    }
}

/// An operator with what must be known of it; made by [`filter`], [`transform`], [`aggregate()`].
pub struct Program<B> {
    body: B,
    keys: bool,
    deterministic: bool,
}

impl<B: Body> Program<B> {
    /// One that looks at keys, and whose output depends on its input alone.
    pub fn new(body: B) -> Self {
        Self {
            body,
            keys: true,
            deterministic: true,
        }
    }

    /// It does not look at the tuples' keys: they are not sent, and are empty. (What it puts out may still take its
    /// tuple's key.) An aggregate gets them in any case.
    pub fn values_only(mut self) -> Self {
        self.keys = self.body.kind() == OpKind::Aggregate;
        self
    }

    /// Its output does not depend on its input alone (random numbers, the time, a server): what it puts out is logged
    /// before it leaves, and not asked for again.
    pub fn not_deterministic(mut self) -> Self {
        self.deterministic = false;
        self
    }

    /// What it says of itself when RainStorm asks, before a job is planned.
    ///
    /// ```
    /// use ops::sdk::{self, Tuple};
    ///
    /// let long = sdk::filter(|tuple: Tuple<'_>| tuple.value.len() > 80).values_only();
    /// let said = long.description().to_string();
    /// assert_eq!(said, "rainstorm-operator/1 kind=filter protocol=batch snapshot=yes deterministic=yes keys=no");
    /// ```
    pub fn description(&self) -> Description {
        Description {
            kind: self.body.kind(),
            protocol: Protocol::Batch,
            snapshot: self.body.has_snapshots(),
            deterministic: self.deterministic,
            keys: self.keys,
        }
    }
}

#[cfg(test)]
mod tests;
