//! An operator on its own, outside any job: the lines of standard input are the tuples `<stdin:1, line>`,
//! `<stdin:2, line>`, ..., output is `key<TAB>value`.

use std::io::{self, BufRead, BufWriter, ErrorKind, Write};

use bytes::Bytes;
use common::output::{Unwritable, reader_has_gone};
use protocol::batch::Builder;

use crate::{Emit, Operator};

/// A line longer than this is split no further, but refused.
const LONGEST_LINE: usize = 1 << 30;

/// Writes tuples; keeps the first error, after which nothing is written.
struct Tsv<W> {
    out: W,
    failed: Option<io::Error>,
}

impl<W: Write> Emit for Tsv<W> {
    fn emit(&mut self, key: &[u8], value: &[u8]) {
        if self.failed.is_none() {
            let parts = [key, b"\t", value, b"\n"];
            self.failed = parts.iter().try_for_each(|p| self.out.write_all(p)).err();
        }
    }
}

impl<W: Write> Tsv<W> {
    /// False: nobody reads on, as behind `| head`.
    fn flush(&mut self) -> Result<bool, String> {
        let done = match self.failed.take() {
            Some(e) => Err(e),
            None => self.out.flush(),
        };
        match done {
            Ok(()) => Ok(true),
            Err(e) if reader_has_gone(&e) => Ok(false),
            Err(e) => Err(Unwritable::from(e).to_string()),
        }
    }
}

/// Runs the operator on standard input, until its end or until nobody reads standard output any more.
pub fn run(operator: &mut dyn Operator) -> Result<(), String> {
    let out = BufWriter::with_capacity(256 << 10, common::shown::stdout());
    let input = io::BufReader::with_capacity(256 << 10, io::stdin().lock());
    run_over(operator, input, out)
}

/// The same with another input and output.
pub fn run_over(operator: &mut dyn Operator, mut input: impl BufRead, out: impl Write) -> Result<(), String> {
    let mut out = Tsv { out, failed: None };
    let (name, mut batch, mut number) = (Bytes::from_static(b"stdin"), Builder::new(), 0);
    let mut partial = vec![];
    loop {
        let chunk = match input.fill_buf() {
            Ok(chunk) => chunk,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(format!("standard input cannot be read: {e}")),
        };
        let at_end = chunk.is_empty();
        let mut push = |line: &[u8]| {
            number += 1;
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            // The numbers follow on: a batch never has to be closed for them.
            let _continues = batch.push_line(&name, number, line);
        };
        let mut rest = chunk;
        while let Some(newline) = memchr::memchr(b'\n', rest) {
            match partial.is_empty() {
                true => push(&rest[..newline]),
                false => {
                    partial.extend_from_slice(&rest[..newline]);
                    push(&partial);
                    partial.clear();
                }
            }
            rest = &rest[newline + 1..];
        }
        partial.extend_from_slice(rest);
        if at_end && !partial.is_empty() {
            push(&partial);
        }
        if partial.len() > LONGEST_LINE {
            return Err(format!(
                "line {} is longer than {} MiB",
                number + 1,
                LONGEST_LINE >> 20
            ));
        }
        let read = chunk.len();
        input.consume(read);
        operator
            .process(&batch.take(), &mut out)
            .map_err(|e| e.to_string())?;
        if at_end {
            operator.finish(&mut out).map_err(|e| e.to_string())?;
        }
        if !out.flush()? || at_end {
            return Ok(());
        }
    }
}
