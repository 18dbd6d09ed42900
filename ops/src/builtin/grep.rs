//! `grep`.

use protocol::batch::Batch;

use crate::args::{self, Args};
use crate::keys::Keyer;
use crate::operator::{Emit, Error, InputKeys, Operator};
use crate::pattern::Matcher;

struct Grep {
    matcher: Matcher,
    invert: bool,
    keyer: Keyer,
    key: Vec<u8>,
}

pub fn build(args: &Args) -> Result<Box<dyn Operator>, args::Error> {
    let matcher = Matcher::of(args, 0)?;
    Ok(Box::new(Grep {
        matcher,
        invert: args.has("-v"),
        keyer: Keyer::of(args)?,
        key: vec![],
    }))
}

impl Operator for Grep {
    fn process(&mut self, batch: &Batch, out: &mut dyn Emit) -> Result<(), Error> {
        let Self {
            matcher,
            invert,
            keyer,
            key,
        } = self;
        each_selected(matcher, *invert, batch, |i| {
            key.clear();
            if keyer.needs_key() {
                batch.key_into(i, key);
            }
            keyer
                .emit(key, batch.value(i), out)
                .map_err(|e| Error::refused(e, batch, i))
        })
    }

    fn input_keys(&self) -> InputKeys {
        self.keyer.input_keys()
    }
}

/// The values that match; inverted, the others. In order.
pub fn each_selected<E>(
    matcher: &Matcher,
    invert: bool,
    batch: &Batch,
    mut f: impl FnMut(usize) -> Result<(), E>,
) -> Result<(), E> {
    if !invert {
        return matcher.each(batch, f);
    }
    let mut next = 0;
    matcher.each(batch, |i| {
        (next..i).try_for_each(&mut f)?;
        next = i + 1;
        Ok(())
    })?;
    (next..batch.len()).try_for_each(f)
}
