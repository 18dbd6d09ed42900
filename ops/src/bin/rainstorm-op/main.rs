//! `rainstorm-op`: runs an operator that comes with RainStorm on its own, from standard input to standard output.
//!
//! Lines are the tuples `<stdin:1, line>`, `<stdin:2, line>`, ...; output is `key<TAB>value`. Started under an
//! operator's name (a link `grep -> rainstorm-op`), it is that operator.

use std::io::{self, BufRead, BufWriter, ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

use bytes::Bytes;
use common::batch::Builder;
use ops::{Emit, Operator};

/// A line longer than this is split no further, but refused.
const LONGEST_LINE: usize = 1 << 30;

fn main() -> ExitCode {
    let mut args = std::env::args_os().map(|a| a.to_string_lossy().into_owned());
    let own_name = args.next().unwrap_or_default();
    let linked = Path::new(&own_name)
        .file_name()
        .and_then(|n| n.to_str())
        .filter(|n| ops::kind_of(n).is_some());
    let mut args: Vec<String> = args.collect();
    let name = match linked {
        Some(name) => name.to_owned(),
        None if args.is_empty() => {
            eprint!("{}", help());
            return ExitCode::from(2);
        }
        None => args.remove(0),
    };
    if linked.is_none() && matches!(name.as_str(), "--help" | "-h" | "help") {
        return print(&help());
    }
    if linked.is_none() && matches!(name.as_str(), "--version" | "-V") {
        return print(concat!("rainstorm-op ", env!("CARGO_PKG_VERSION"), "\n"));
    }
    if args.first().is_some_and(|a| a == "--help")
        && let (Some(usage), Some((about, example))) = (ops::usage(&name), ops::about(&name))
    {
        return print(&format!(
            "{name}: {about}\nusage:   {usage}\nexample: {example}\n{KEYS}"
        ));
    }
    let mut operator = match ops::builtin(&name, &args) {
        Ok(operator) => operator,
        Err(e) => {
            eprintln!("rainstorm-op: {e}");
            return ExitCode::from(2);
        }
    };
    match run(&mut *operator) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("rainstorm-op: {name}: {e}");
            ExitCode::from(1)
        }
    }
}

const KEYS: &str = "\n\
--key KEY  the output's key: same (the input's, the default), value, word:N, field:N, const:TEXT\n\
-d SEP     what separates columns and fields (default a comma; '\\t' is a tab)\n\
--csv      columns may be quoted (RFC 4180)\n\
Words, fields and columns are counted from 0.\n";

fn help() -> String {
    let mut text =
        "rainstorm-op OPERATOR [ARGS]: runs an operator on the lines of standard input\n\n".to_owned();
    for name in ops::names() {
        if let (Some(usage), Some((about, example))) = (ops::usage(name), ops::about(name)) {
            text.push_str(&format!("{usage}\n    {about}\n    example: {example}\n"));
        }
    }
    text + KEYS
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(1),
    }
}

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
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
            Err(e) => Err(format!("standard output cannot be written: {e}")),
        }
    }
}

fn run(operator: &mut dyn Operator) -> Result<(), String> {
    let mut out = Tsv {
        out: BufWriter::with_capacity(256 << 10, io::stdout().lock()),
        failed: None,
    };
    let mut input = io::BufReader::with_capacity(256 << 10, io::stdin().lock());
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
