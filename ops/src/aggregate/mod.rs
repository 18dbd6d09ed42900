//! `count`, `sum`, `avg`, `min`, `max`: a running value per key.

mod accumulators;
pub(crate) mod table;

use protocol::batch::Batch;

use crate::args::{self, Args};
use crate::columns::{Layout, Malformed};
use crate::keys::Keyer;
use crate::number::Number;
use crate::operator::{self, Emit, Error, Operator};
use accumulators::{Accumulator, Average, Count, Maximum, Minimum, Sum};
use table::Table;

/// When running values go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// With every input tuple.
    Update,
    /// The last value of each key in a batch, in the order in which the batch first has them.
    Batch,
    /// Once, at the end of the input, keys in order.
    Final,
}

struct Aggregate<A> {
    table: Table<A>,
    /// `None`: the value is not looked at (`count`).
    column: Option<usize>,
    when: When,
    layout: Layout,
    keyer: Keyer,
    /// Entries that the batch at hand touched, first touch first.
    touched: Vec<u32>,
    scratch: Vec<u8>,
    value: Vec<u8>,
}

pub fn build_count(args: &Args) -> Result<Box<dyn Operator>, args::Error> {
    build::<Count>(args, None)
}
pub fn build_sum(args: &Args) -> Result<Box<dyn Operator>, args::Error> {
    build::<Sum>(args, Some(args.column()?))
}
pub fn build_avg(args: &Args) -> Result<Box<dyn Operator>, args::Error> {
    build::<Average>(args, Some(args.column()?))
}
pub fn build_min(args: &Args) -> Result<Box<dyn Operator>, args::Error> {
    build::<Minimum>(args, Some(args.column()?))
}
pub fn build_max(args: &Args) -> Result<Box<dyn Operator>, args::Error> {
    build::<Maximum>(args, Some(args.column()?))
}

fn build<A: Accumulator + 'static>(
    args: &Args,
    column: Option<usize>,
) -> Result<Box<dyn Operator>, args::Error> {
    let when = match args.value("--emit") {
        None | Some("update") => When::Update,
        Some("batch") => When::Batch,
        Some("final") => When::Final,
        Some(other) => {
            return Err(args.error(format!("`--emit` takes update, batch or final, not `{other}`")));
        }
    };
    Ok(Box::new(Aggregate::<A> {
        table: Table::default(),
        column,
        when,
        layout: Layout::of(args)?,
        keyer: Keyer::of(args)?,
        touched: vec![],
        scratch: vec![],
        value: vec![],
    }))
}

impl<A: Accumulator> Operator for Aggregate<A> {
    fn process(&mut self, batch: &Batch, out: &mut dyn Emit) -> Result<(), Error> {
        let Self {
            table,
            column,
            when,
            layout,
            keyer,
            touched,
            scratch,
            value,
        } = self;
        touched.clear();
        table.next_batch();
        let mut index = 0;
        batch.try_for_each(|key, line| {
            let poison = |what: String| Error::poison(what, index, key);
            let number = match column {
                None => Number::Int(1),
                Some(column) => {
                    let text = layout
                        .get(line, *column, scratch)
                        .map_err(|e| poison(e.to_string()))?;
                    text.and_then(Number::parse)
                        .ok_or_else(|| poison(not_a_number(*column, text)))?
                }
            };
            let touch = table.touch(key);
            touch.state.add(number).map_err(|e| poison(e.to_string()))?;
            match when {
                When::Update => {
                    value.clear();
                    touch.state.write(value);
                    keyer.emit(key, value, out).map_err(|e| poison(e.to_string()))?;
                }
                When::Batch if touch.first_in_batch => touched.push(touch.entry),
                When::Batch | When::Final => {}
            }
            index += 1;
            Ok(())
        })?;
        for entry in touched.drain(..) {
            let (key, accumulator) = table.get(entry);
            value.clear();
            accumulator.write(value);
            keyer.emit(key, value, out).map_err(no_number_is_refused)?;
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut dyn Emit) -> Result<(), Error> {
        if self.when == When::Final {
            for (key, accumulator) in self.table.sorted() {
                self.value.clear();
                accumulator.write(&mut self.value);
                let emitted = self.keyer.emit(key, &self.value, out);
                emitted.map_err(no_number_is_refused)?;
            }
        }
        Ok(())
    }

    fn snapshot(&mut self, rewrite: usize, out: &mut Vec<u8>) -> bool {
        let Ok(round_ended) = self.table.snapshot(rewrite, out);
        round_ended
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), Error> {
        self.table
            .restore(snapshot)
            .map_err(|e| Error::fatal(format!("the snapshot cannot be restored: {e}")))
    }

    fn hand_over(&mut self, leaves: &dyn Fn(&[u8]) -> bool, out: &mut dyn Emit) {
        for (key, accumulator) in self.table.take_out(leaves) {
            self.value.clear();
            let Ok(()) = table::save_one(&accumulator, &mut self.value);
            out.emit(&key, &self.value);
        }
    }

    fn adopt(&mut self, state: &Batch) -> Result<(), Error> {
        self.table.next_batch();
        state.try_for_each(|key, saved| {
            *self.table.touch(key).state = table::load_one(saved)
                .map_err(|e| Error::fatal(format!("a key's state cannot be taken in: {e}")))?;
            Ok(())
        })
    }

    fn state_bytes(&self) -> usize {
        self.table.bytes()
    }
}

fn not_a_number(column: usize, text: Option<&[u8]>) -> String {
    match text {
        Some(text) => format!("column {column} is not a number: `{}`", operator::quoted(text)),
        None => format!("the value has no column {column}"),
    }
}

/// A number has no quotes that could be wrong.
fn no_number_is_refused(e: Malformed) -> Error {
    Error::fatal(format!("an aggregate's value is refused: {e}"))
}

#[cfg(test)]
mod tests;
