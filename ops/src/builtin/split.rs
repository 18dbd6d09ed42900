//! `split`: a line to its words.

use common::batch::Batch;

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
        let mut each = |key: &[u8], value: &[u8]| words(value).for_each(|word| keyer.emit(key, word, out));
        batch.for_each(&mut each);
        Ok(())
    }

    fn input_keys(&self) -> InputKeys {
        self.keyer.input_keys()
    }
}
