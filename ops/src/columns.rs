//! Columns of a line: delimited text, with RFC 4180 quoting under `--csv`.
//!
//! A line without quotes is split at the separator and nothing else. Quoting follows the common readers where the
//! RFC is silent: a quote inside an unquoted column is itself; text behind a closing quote belongs to the column; a
//! quote that is never closed takes the rest of the line.

use memchr::memmem::Finder;
use memchr::{memchr, memchr3};

use crate::args::{Args, Error};

#[derive(Debug, Clone)]
enum Separator {
    Byte(u8),
    Text(Box<Finder<'static>>),
}

/// How a line is divided: `-d SEP` and `--csv`.
#[derive(Debug, Clone)]
pub struct Layout {
    separator: Separator,
    csv: bool,
}

impl Layout {
    pub fn new(separator: &[u8], csv: bool) -> Self {
        let separator = match separator {
            [byte] => Separator::Byte(*byte),
            text => Separator::Text(Box::new(Finder::new(text).into_owned())),
        };
        Self { separator, csv }
    }

    pub fn of(args: &Args) -> Result<Self, Error> {
        let separator = match args.value("-d") {
            None => ",",
            Some("\\t") => "\t",
            Some("") => return Err(args.error("`-d` needs a separator; a tab is written `-d '\\t'`")),
            Some(text) => text,
        };
        let csv = args.has("--csv");
        if csv && separator.contains(['"', '\r', '\n']) {
            return Err(args.error(format!("`-d {separator}` cannot separate columns under --csv")));
        }
        Ok(Self::new(separator.as_bytes(), csv))
    }

    pub fn is_csv(&self) -> bool {
        self.csv
    }

    pub fn separator(&self) -> &[u8] {
        match &self.separator {
            Separator::Byte(byte) => std::slice::from_ref(byte),
            Separator::Text(finder) => finder.needle(),
        }
    }

    /// Where the column that begins at `from` ends.
    fn end(&self, line: &[u8], from: usize) -> usize {
        let mut at = from;
        if self.csv && line.get(from) == Some(&b'"') {
            at += 1;
            loop {
                let Some(quote) = memchr(b'"', &line[at..]) else {
                    return line.len();
                };
                at += quote + 1;
                if line.get(at) != Some(&b'"') {
                    break;
                }
                at += 1;
            }
        }
        let found = match &self.separator {
            Separator::Byte(byte) => memchr(*byte, &line[at..]),
            Separator::Text(finder) => finder.find(&line[at..]),
        };
        found.map_or(line.len(), |n| at + n)
    }

    /// Calls `f` with every column as it stands, quotes and all, while `f` says true.
    pub fn each_raw<'a>(&self, line: &'a [u8], mut f: impl FnMut(&'a [u8]) -> bool) {
        let mut from = 0;
        loop {
            let end = self.end(line, from);
            if !f(&line[from..end]) || end == line.len() {
                return;
            }
            from = end + self.separator().len();
        }
    }

    /// Column `n`, without its quotes; `None` when the line has not that many. `scratch` is for quotes inside it.
    pub fn get<'a>(&self, line: &'a [u8], n: usize, scratch: &'a mut Vec<u8>) -> Option<&'a [u8]> {
        let mut from = 0;
        for _ in 0..n {
            let end = self.end(line, from);
            if end == line.len() {
                return None;
            }
            from = end + self.separator().len();
        }
        Some(self.plain(&line[from..self.end(line, from)], scratch))
    }

    /// A raw column without its quotes.
    pub fn plain<'a>(&self, raw: &'a [u8], scratch: &'a mut Vec<u8>) -> &'a [u8] {
        let mut rest = match raw {
            [b'"', body @ ..] if self.csv => body,
            _ => return raw,
        };
        match memchr(b'"', rest) {
            None => return rest,
            Some(quote) if quote + 1 == rest.len() => return &rest[..quote],
            Some(_) => {}
        }
        scratch.clear();
        while let Some(quote) = memchr(b'"', rest) {
            scratch.extend_from_slice(&rest[..quote]);
            rest = &rest[quote + 1..];
            match rest {
                [b'"', tail @ ..] => {
                    scratch.push(b'"');
                    rest = tail;
                }
                _ => break,
            }
        }
        scratch.extend_from_slice(rest);
        scratch
    }

    /// Appends a column to a line, in quotes where it needs them.
    pub fn write(&self, plain: &[u8], out: &mut Vec<u8>) {
        if !self.csv || !self.needs_quotes(plain) {
            out.extend_from_slice(plain);
            return;
        }
        out.push(b'"');
        for part in plain.split_inclusive(|b| *b == b'"') {
            out.extend_from_slice(part);
            if part.last() == Some(&b'"') {
                out.push(b'"');
            }
        }
        out.push(b'"');
    }

    fn needs_quotes(&self, plain: &[u8]) -> bool {
        let separated = match &self.separator {
            Separator::Byte(byte) => memchr(*byte, plain).is_some(),
            Separator::Text(finder) => finder.find(plain).is_some(),
        };
        separated || memchr3(b'"', b'\r', b'\n', plain).is_some()
    }
}

/// Word `n`: words are what runs of ASCII white space separate.
pub fn word(line: &[u8], n: usize) -> Option<&[u8]> {
    words(line).nth(n)
}

pub fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
}
