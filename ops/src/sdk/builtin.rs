//! An operator that comes with RainStorm, as a program that speaks the batch protocol.

use common::batch::Builder;
use common::control::OpKind;

use super::{Body, Output, Program, Result, Tuples};
use crate::operator::{Emit, Operator};

pub struct Builtin {
    operator: Box<dyn Operator>,
    kind: OpKind,
    batch: Builder,
}

pub fn builtin(operator: Box<dyn Operator>, kind: OpKind) -> Program<Builtin> {
    Program::new(Builtin {
        operator,
        kind,
        batch: Builder::new(),
    })
}

impl Emit for Output<'_> {
    fn emit(&mut self, key: &[u8], value: &[u8]) {
        self.emit_with_key(key, value);
    }
}

impl Body for Builtin {
    fn kind(&self) -> OpKind {
        self.kind
    }

    fn batch(&mut self, tuples: &Tuples<'_>, out: &mut Output<'_>) -> Result {
        for tuple in tuples.iter() {
            self.batch.push(tuple.key, tuple.value);
        }
        self.operator.process(&self.batch.take(), out).map_err(|e| {
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
