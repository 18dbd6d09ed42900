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

pub struct InProcess<B> {
    session: Session<B>,
    frames: Frames,
    answers: Vec<u8>,
}

impl<B: Body> InProcess<B> {
    pub fn new(program: Program<B>) -> Self {
        Self {
            frames: Frames::new(program.description().keys, Duration::MAX),
            session: Session::new(program),
            answers: vec![],
        }
    }
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
