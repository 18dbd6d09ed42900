//! `split`: a line to its words.

use protocol::batch::Batch;

use crate::args::{self, Args};
use crate::columns::words;
use crate::keys::Keyer;
use crate::operator::{Emit, Error, InputKeys, Operator};

struct Split {
    keyer: Keyer,
}

pub fn build(args: &Args) -> Result<Box<dyn Operator>, args::Error> {
    Ok(Box::new(Split {
        keyer: Keyer::of(args)?,
    }))
}

impl Operator for Split {
    fn process(&mut self, batch: &Batch, out: &mut dyn Emit) -> Result<(), Error> {
        let keyer = &mut self.keyer;
        let mut index = 0;
        batch.try_for_each(|key, value| {
            let emitted = words(value).try_for_each(|word| keyer.emit(key, word, out));
            index += 1;
            emitted.map_err(|e| Error::poison(e.to_string(), index - 1, key))
        })
    }

    fn input_keys(&self) -> InputKeys {
        self.keyer.input_keys()
    }
}
