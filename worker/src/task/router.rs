//! Where an operator's outputs go: by the key's hash to the next stage's tasks, or all into the destination.

use bytes::Bytes;
use protocol::batch::key_hash;
use protocol::control::Format;
use protocol::groups::Owners;

use super::Config;
use super::output::{self, Output};

pub struct Router<'a> {
    outputs: &'a mut [Output],
    /// Which of the outputs the routing in force chooses from, in its order.
    active: &'a [usize],
    /// Who owns which key groups, where the next stage's state moves with its routing.
    owners: Option<&'a Owners>,
    tuples_out: &'a mut u64,
    /// Of these, how many the destination's format cannot say.
    lossy: &'a mut u64,
    pos: u64,
    born_us: u64,
    format: Format,
    batch_bytes: usize,
    scratch: Vec<u8>,
}

impl<'a> Router<'a> {
    pub(super) fn new(
        outputs: &'a mut [Output],
        active: &'a [usize],
        owners: Option<&'a Owners>,
        tuples_out: &'a mut u64,
        lossy: &'a mut u64,
        pos: u64,
        born_us: u64,
        config: &Config,
    ) -> Self {
        Self {
            outputs,
            active,
            owners,
            tuples_out,
            lossy,
            pos,
            born_us,
            format: config.format,
            batch_bytes: config.batch_bytes,
            scratch: Vec::new(),
        }
    }

    /// A line from the source: partitioned by its number, or by its key's group.
    pub fn emit_line(&mut self, file: &Bytes, number: u64, value: &[u8], spelled: bool) {
        let at = match self.owners {
            Some(owners) => {
                self.scratch.clear();
                output::line_key(file, number, &mut self.scratch);
                owners.at_key(&self.scratch)
            }
            None => (number % self.active.len() as u64) as usize,
        };
        let output = &mut self.outputs[self.active[at]];
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
        let index = match (self.active, self.owners) {
            ([only], _) => *only,
            (many, Some(owners)) => many[owners.at_key(key)],
            (many, None) => many[(key_hash(key) % many.len() as u64) as usize],
        };
        let output = &mut self.outputs[index];
        let faithful = output.emit(key, value, self.format, self.born_us);
        *self.lossy += u64::from(!faithful);
        *self.tuples_out += 1;
        if output.open_bytes() >= self.batch_bytes {
            output.close(self.pos);
        }
    }
}
