//! `identity`.

use protocol::batch::Batch;

use crate::args::{self, Args};
use crate::keys::Keyer;
use crate::operator::{Emit, Error, InputKeys, Operator};

struct Identity {
    keyer: Keyer,
}

pub fn build(args: &Args) -> Result<Box<dyn Operator>, args::Error> {
    Ok(Box::new(Identity {
        keyer: Keyer::of(args)?,
    }))
}

impl Operator for Identity {
    fn process(&mut self, batch: &Batch, out: &mut dyn Emit) -> Result<(), Error> {
        if self.keyer.needs_key() {
            batch.for_each(|key, value| out.emit(key, value));
            return Ok(());
        }
        batch.try_for_each_value(|i, value| {
            let emitted = self.keyer.emit(b"", value, out);
            emitted.map_err(|e| Error::refused(e, batch, i))
        })
    }

    fn input_keys(&self) -> InputKeys {
        self.keyer.input_keys()
    }
}
