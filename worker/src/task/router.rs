//! Where an operator's outputs go: by the key's hash to the next stage's tasks, or all into the destination.

use bytes::Bytes;
use common::batch::key_hash;
use common::control::Format;

use super::Config;
use super::output::Output;

pub struct Router<'a> {
    outputs: &'a mut [Output],
    /// Which of the outputs the routing in force chooses from, in its order.
    active: &'a [usize],
    tuples_out: &'a mut u64,
    pos: u64,
    born_us: u64,
    format: Format,
    batch_bytes: usize,
}

impl<'a> Router<'a> {
    pub(super) fn new(
        outputs: &'a mut [Output],
        active: &'a [usize],
        tuples_out: &'a mut u64,
        pos: u64,
        born_us: u64,
        config: &Config,
    ) -> Self {
        Self {
            outputs,
            active,
            tuples_out,
            pos,
            born_us,
            format: config.format,
            batch_bytes: config.batch_bytes,
        }
    }

    /// A line from the source: partitioned by its number.
    pub fn emit_line(&mut self, file: &Bytes, number: u64, value: &[u8], spelled: bool) {
        let n = self.active.len() as u64;
        let output = &mut self.outputs[self.active[(number % n) as usize]];
        output.emit_line(file, number, value, spelled, self.pos, self.born_us);
        *self.tuples_out += 1;
        if output.open_bytes() >= self.batch_bytes {
            output.close(self.pos);
        }
    }
}

impl ops::Emit for Router<'_> {
    fn emit(&mut self, key: &[u8], value: &[u8]) {
        // Spares a single output the hash.
        let index = match self.active {
            [only] => *only,
            many => many[(key_hash(key) % many.len() as u64) as usize],
        };
        let output = &mut self.outputs[index];
        output.emit(key, value, self.format, self.born_us);
        *self.tuples_out += 1;
        if output.open_bytes() >= self.batch_bytes {
            output.close(self.pos);
        }
    }
}
