//! What an operator puts out: collected in columns, sent when there is enough of it.

use std::cell::Cell;
use std::io::{self, Write};

use crate::foreign::batch::wire::{Answer, Builder, OWN_KEY};

/// More than this goes out before the batch is done.
const FRAME_BYTES: usize = 1 << 20;

/// Memory that is used again for each answer.
#[derive(Debug, Default)]
pub(super) struct Columns {
    origins: Vec<u8>,
    keys: Builder,
    values: Builder,
    passes: Vec<u8>,
    frame: Vec<u8>,
}

/// Takes an operator's output tuples, in order.
pub struct Output<'a> {
    columns: &'a mut Columns,
    to: &'a mut dyn Write,
    current: &'a Cell<usize>,
    /// Between batches, there is no tuple whose key an output could take: it takes this one.
    end_key: Option<Vec<u8>>,
    /// Each output so far is the only one of its tuple, and no tuple was left out.
    one_to_one: bool,
    /// It is only said which tuples pass.
    passing: bool,
    sent: usize,
    failed: Option<io::Error>,
}

impl<'a> Output<'a> {
    pub(super) fn new(columns: &'a mut Columns, to: &'a mut dyn Write, current: &'a Cell<usize>) -> Self {
        columns.clear();
        Self {
            columns,
            to,
            current,
            end_key: None,
            one_to_one: true,
            passing: false,
            sent: 0,
            failed: None,
        }
    }

    /// A tuple with the key of the tuple at hand (at the end of the input: of the state at hand).
    #[inline]
    pub fn emit(&mut self, value: &[u8]) {
        self.emit_of(self.current.get(), value);
    }

    /// A tuple with the key of tuple `origin` of the batch.
    #[inline]
    pub(super) fn emit_of(&mut self, origin: usize, value: &[u8]) {
        let Columns {
            origins,
            keys,
            values,
            ..
        } = &mut *self.columns;
        match &self.end_key {
            None => {
                self.one_to_one &= origin == self.sent + values.len();
                origins.extend_from_slice(&(origin as u32).to_le_bytes());
            }
            Some(key) => {
                origins.extend_from_slice(&OWN_KEY.to_le_bytes());
                keys.push(key);
            }
        }
        values.push(value);
        self.full();
    }

    /// A tuple with a key of its own.
    #[inline]
    pub fn emit_with_key(&mut self, key: &[u8], value: &[u8]) {
        self.columns.origins.extend_from_slice(&OWN_KEY.to_le_bytes());
        self.columns.keys.push(key);
        self.columns.values.push(value);
        self.full();
    }

    /// For a filter: one byte for each of the `n` tuples, to be set to 1 where it passes.
    pub(super) fn passes(&mut self, n: usize) -> &mut [u8] {
        self.passing = true;
        self.columns.passes.resize(n, 0);
        &mut self.columns.passes
    }

    pub(super) fn at_end(&mut self, key: &[u8]) {
        let end_key = self.end_key.get_or_insert_default();
        end_key.clear();
        end_key.extend_from_slice(key);
    }

    #[inline]
    fn full(&mut self) {
        if self.columns.values.bytes() + self.columns.keys.bytes() > FRAME_BYTES {
            self.send(true);
        }
    }

    #[cold]
    fn send(&mut self, more: bool) {
        let Columns {
            origins,
            keys,
            values,
            passes,
            frame,
        } = &mut *self.columns;
        let answer = if self.passing {
            Answer::Passed(passes)
        } else {
            // Their number says which they are.
            let implied = keys.len() == values.len() || (keys.is_empty() && self.one_to_one);
            Answer::Outputs {
                more,
                origins: (!implied).then_some(origins),
                keys: (!keys.is_empty()).then(|| keys.column()),
                values: values.column(),
            }
        };
        self.sent += values.len();
        frame.clear();
        answer.write(frame);
        if self.failed.is_none() {
            self.failed = self.to.write_all(frame).err();
        }
        self.columns.clear();
    }

    /// Sends the rest of the answer.
    pub(super) fn done(mut self) -> io::Result<()> {
        self.send(false);
        self.failed.map_or(Ok(()), Err)
    }
}

impl Columns {
    fn clear(&mut self) {
        self.origins.clear();
        self.keys.clear();
        self.values.clear();
        self.passes.clear();
    }
}
