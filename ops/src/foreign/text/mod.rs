//! The text protocol: `grammar.rs` has the lines, `dialogue.rs` the questions made of them.

mod dialogue;
mod grammar;

pub use dialogue::Text;
pub use grammar::{Answers, Garbage, LONGEST_LINE, write_tuple};
