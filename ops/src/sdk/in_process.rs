//! A program of the SDK as an operator in this process: the same messages, without a process and pipes between. For
//! running it by hand, for tests, and to measure what the process costs.

use std::time::Duration;

use bytes::Bytes;
use common::clock::Time;
use protocol::batch::Batch;

use super::serve::{Ended, Session};
use super::{Body, Program};
use crate::foreign::batch::{Call, Frames, wire};
use crate::foreign::dialogue::Dialogue;
use crate::operator::{Emit, Error, Nowhere, Operator};

/// A program as an [`Operator`].
pub struct InProcess<B> {
    session: Session<B>,
    frames: Frames,
    answers: Vec<u8>,
}

impl<B: Body> InProcess<B> {
    /// Nothing limits the time that it may take.
    pub fn new(program: Program<B>) -> Self {
        Self {
            frames: Frames::new(program.description().keys, Duration::MAX),
            session: Session::new(program),
            answers: vec![],
        }
    }
}

/// Runs the program over the lines of `input`, as if by hand, and gives back what it would print: `key<TAB>value` for each
/// output, with the keys `stdin:1`, `stdin:2`, ... where it keeps its tuples' keys. For tests.
///
/// # Errors
/// The operator's, with the tuple's key; an output that is not UTF-8.
///
/// ```
/// use ops::sdk::{self, Tuple};
///
/// let long = sdk::filter(|tuple: Tuple<'_>| tuple.value.len() > 3);
/// assert_eq!(sdk::on_lines(long, "one\nthree\n")?, "stdin:2\tthree\n");
/// # Ok::<(), sdk::Error>(())
/// ```
pub fn on_lines<B: Body + Send>(program: Program<B>, input: &str) -> super::Result<String> {
    let mut out = vec![];
    crate::lines::run_over(&mut InProcess::new(program), input.as_bytes(), &mut out)?;
    Ok(String::from_utf8(out)?)
}

fn exchange<B: Body>(
    session: &mut Session<B>,
    answers: &mut Vec<u8>,
    dialogue: &mut dyn Dialogue,
    out: &mut dyn Emit,
) -> Result<(), Error> {
    while !dialogue.is_answered() {
        let question = Bytes::from(dialogue.unwritten().concat());
        answers.clear();
        let done = match wire::frame(&question) {
            Ok(Some((message, _))) => session.answer(&question.slice_ref(message), answers),
            Ok(None) => Err(Ended::Failed("a question is no whole frame".to_owned())),
            Err(e) => Err(e.into()),
        };
        dialogue.wrote(question.len());
        let taken = dialogue.read(Time::ZERO, answers, out);
        let what = match (taken, done) {
            (Err(what), _) => what,
            (Ok(_), Err(e)) => e.to_string(),
            (Ok(_), Ok(())) => continue,
        };
        let mut key = vec![];
        return Err(match dialogue.stuck_at(&mut key) {
            Some(index) => Error::poison(what, index, &key),
            None => Error::failed(what),
        });
    }
    Ok(())
}

impl<B: Body> InProcess<B> {
    fn call(&mut self, call: &mut Call, out: &mut dyn Emit) -> Result<(), Error> {
        exchange(&mut self.session, &mut self.answers, call, out)
    }
}

impl<B: Body + Send> Operator for InProcess<B> {
    fn process(&mut self, batch: &Batch, out: &mut dyn Emit) -> Result<(), Error> {
        let Self {
            session,
            frames,
            answers,
        } = self;
        exchange(session, answers, &mut frames.ask(batch, Time::ZERO)?, out)
    }

    fn finish(&mut self, out: &mut dyn Emit) -> Result<(), Error> {
        self.call(&mut Call::finish(), out)
    }

    /// A state that cannot be saved ends no round and is in no snapshot; a process of its own would end here.
    fn snapshot(&mut self, rewrite: usize, out: &mut Vec<u8>) -> bool {
        let mut call = Call::snapshot(rewrite);
        match self.call(&mut call, &mut Nowhere) {
            Ok(()) => {
                out.extend_from_slice(&call.snapshot);
                call.round_ended
            }
            Err(_) => false,
        }
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), Error> {
        self.call(&mut Call::restore(snapshot, false), &mut Nowhere)
    }
}
