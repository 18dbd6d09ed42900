//! An operator that comes with RainStorm, as a program that speaks the batch protocol.

use bytes::Bytes;
use protocol::batch::Batch;
use protocol::control::OpKind;

use super::{Body, Output, Program, Result, Tuples};
use crate::operator::{Emit, InputKeys, Operator};

/// The body of such a program; see [`builtin`].
pub struct Builtin {
    operator: Box<dyn Operator>,
    kind: OpKind,
    numbers: Numbers,
}

/// An operator that comes with RainStorm as a program; `kind` is what [`crate::kind_of`] says of it.
pub fn builtin(operator: Box<dyn Operator>, kind: OpKind) -> Program<Builtin> {
    let keys = operator.input_keys();
    let program = Program::new(Builtin {
        operator,
        kind,
        numbers: Numbers::default(),
    });
    match keys {
        InputKeys::Read => program,
        InputKeys::Passed | InputKeys::Ignored => program.values_only(),
    }
}

/// Keys for tuples whose own are not sent: their numbers in the batch, 4 bytes little-endian each, as a column.
#[derive(Default)]
struct Numbers {
    ends: Bytes,
    data: Bytes,
}

impl Numbers {
    fn column(&mut self, n: usize) -> (Bytes, Bytes) {
        if self.data.len() < 4 * n {
            let n = n as u32;
            self.data = (0..n).flat_map(u32::to_le_bytes).collect();
            self.ends = (1..=n).flat_map(|i| (4 * i).to_le_bytes()).collect();
        }
        (self.ends.slice(..4 * n), self.data.slice(..4 * n))
    }
}

impl Emit for Output<'_> {
    fn emit(&mut self, key: &[u8], value: &[u8]) {
        self.emit_with_key(key, value);
    }
}

/// Keys are the numbers of tuples.
struct OfTuples<'a, 'b>(&'a mut Output<'b>);

impl Emit for OfTuples<'_, '_> {
    fn emit(&mut self, key: &[u8], value: &[u8]) {
        match key.try_into() {
            Ok(number) => self.0.emit_of(u32::from_le_bytes(number) as usize, value),
            Err(_) => self.0.emit_with_key(key, value),
        }
    }
}

impl Body for Builtin {
    fn kind(&self) -> OpKind {
        self.kind
    }

    fn batch(&mut self, tuples: &Tuples<'_>, out: &mut Output<'_>) -> Result {
        let (keys, values) = tuples.columns();
        let keys = keys.unwrap_or_else(|| self.numbers.column(tuples.len()));
        let batch = Batch::from_columns(keys, values)?;
        let done = match self.operator.input_keys() {
            InputKeys::Passed => self.operator.process(&batch, &mut OfTuples(out)),
            InputKeys::Read | InputKeys::Ignored => self.operator.process(&batch, out),
        };
        done.map_err(|e| {
            if let Some(index) = e.index {
                tuples.get(index);
            }
            e.what.into()
        })
    }

    fn finish(&mut self, out: &mut Output<'_>) -> Result {
        Ok(self.operator.finish(out)?)
    }

    fn snapshot(&mut self, rewrite: usize, out: &mut Vec<u8>) -> Result<bool> {
        Ok(self.operator.snapshot(rewrite, out))
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result {
        Ok(self.operator.restore(snapshot)?)
    }
}
