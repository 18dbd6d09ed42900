//! What is asked of a program and how it answers, without the pipes between: a state machine for each question of each
//! protocol. `pipes.rs` carries it out.

use common::clock::Time;

use crate::operator::Emit;

/// One question, until it is answered.
pub trait Dialogue {
    /// What is to be written next, in two pieces, so that what lies elsewhere need not be copied; both empty: nothing,
    /// for now.
    fn unwritten(&mut self) -> [&[u8]; 2];

    /// So many bytes of it have been written.
    fn wrote(&mut self, n: usize);

    /// Takes what is complete from the front of what has been read, and says how many bytes that was: more than none
    /// means that the program gets on. The error says what the program did, beginning with it.
    fn read(&mut self, now: Time, input: &[u8], out: &mut dyn Emit) -> Result<usize, String>;

    fn is_answered(&self) -> bool;

    /// So many answers are due that it is no use to look at each as it comes.
    fn many_are_due(&self) -> bool {
        false
    }

    /// The tuple that the program is at, or has stumbled over, where that is known: its number in the batch, and its
    /// key, which is appended.
    fn stuck_at(&self, key: &mut Vec<u8>) -> Option<usize>;

    /// What to do about a program that says nothing for too long.
    fn advice(&self) -> &'static str;
}
