//! Columns of a line: delimited text, with RFC 4180 quoting under `--csv`.
//!
//! A line without quotes is split at the separator and nothing else. One that is no whole record of the RFC is refused:
//! readers differ in what they make of it, and a line that is a part of a record has other columns than it seems.
//!
//! A byte order mark at a value's beginning is no part of its first column or word: some programs write one before all
//! else, and the first line's key would be another.

use memchr::memmem::Finder;
use memchr::{memchr, memchr3};

use crate::args::{Args, Error};

/// U+FEFF in UTF-8.
const MARK: &[u8] = b"\xEF\xBB\xBF";

/// A line that is no record as RFC 4180 has them. Columns are counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error(
        "the quote that begins column {0} is still open at the line's end; a record with a line break in quotes cannot be \
         read with --csv, since each line is a tuple of its own: take the line breaks out of the columns first"
    )]
    Open(usize),
    #[error(
        "column {0} has text behind its closing quote; --csv reads RFC 4180, where a quote inside quotes is doubled (\"\")"
    )]
    Behind(usize),
    #[error(
        "column {0} holds a quote, but does not begin with one; --csv reads RFC 4180, where such a column is in quotes and \
         the quote inside is doubled (\"\"). Is this line the rest of a record with a line break in quotes? If quotes mean \
         nothing in this file, leave --csv out"
    )]
    Bare(usize),
}

/// A value without its byte order mark.
pub fn without_mark(value: &[u8]) -> &[u8] {
    value.strip_prefix(MARK).unwrap_or(value)
}

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

    fn find(&self, text: &[u8]) -> Option<usize> {
        match &self.separator {
            Separator::Byte(byte) => memchr(*byte, text),
            Separator::Text(finder) => finder.find(text),
        }
    }

    /// Where the column that `rest` begins with ends. `rest` begins in a line that has been checked.
    fn end(&self, rest: &[u8]) -> usize {
        match self.closed(rest) {
            Some(end) => end,
            None => self.find(rest).unwrap_or(rest.len()),
        }
    }

    /// Behind the quote that closes the column that `rest` begins with, if that is in quotes.
    fn closed(&self, rest: &[u8]) -> Option<usize> {
        if !self.is_quoted(rest) {
            return None;
        }
        let mut at = 1;
        loop {
            at += memchr(b'"', &rest[at..])? + 1;
            match rest.get(at) {
                Some(b'"') => at += 1,
                _ => return Some(at),
            }
        }
    }

    fn is_quoted(&self, rest: &[u8]) -> bool {
        self.csv && rest.first() == Some(&b'"')
    }

    /// Refuses, under `--csv`, a line that is no whole record.
    fn check(&self, line: &[u8]) -> Result<(), Malformed> {
        if !self.csv || memchr(b'"', line).is_none() {
            return Ok(());
        }
        let (mut rest, mut column) = (line, 0);
        loop {
            let end = match self.is_quoted(rest) {
                true => self.closed(rest).ok_or(Malformed::Open(column))?,
                false => self.end(rest),
            };
            let behind = &rest[end..];
            if !self.is_quoted(rest) && memchr(b'"', &rest[..end]).is_some() {
                return Err(Malformed::Bare(column));
            }
            match behind.strip_prefix(self.separator()) {
                Some(next) => rest = next,
                None if behind.is_empty() => return Ok(()),
                None => return Err(Malformed::Behind(column)),
            }
            column += 1;
        }
    }

    /// Calls `f` with every column as it stands, quotes and all, while `f` says true.
    pub fn each_raw<'a>(&self, line: &'a [u8], mut f: impl FnMut(&'a [u8]) -> bool) -> Result<(), Malformed> {
        let mut rest = without_mark(line);
        self.check(rest)?;
        loop {
            let (column, behind) = rest.split_at(self.end(rest));
            if !f(column) || behind.is_empty() {
                return Ok(());
            }
            rest = &behind[self.separator().len()..];
        }
    }

    /// Column `n`, without its quotes; `None` when the line has not that many. `scratch` is for quotes inside it.
    pub fn get<'a>(
        &self,
        line: &'a [u8],
        n: usize,
        scratch: &'a mut Vec<u8>,
    ) -> Result<Option<&'a [u8]>, Malformed> {
        let mut rest = without_mark(line);
        self.check(rest)?;
        for _ in 0..n {
            let behind = &rest[self.end(rest)..];
            if behind.is_empty() {
                return Ok(None);
            }
            rest = &behind[self.separator().len()..];
        }
        Ok(Some(self.plain(&rest[..self.end(rest)], scratch)))
    }

    /// A raw column without its quotes.
    pub fn plain<'a>(&self, raw: &'a [u8], scratch: &'a mut Vec<u8>) -> &'a [u8] {
        let mut rest = match raw {
            [b'"', inside @ .., b'"'] if self.csv => inside,
            _ => return raw,
        };
        if memchr(b'"', rest).is_none() {
            return rest;
        }
        scratch.clear();
        // Each is doubled.
        while let Some(quote) = memchr(b'"', rest) {
            scratch.extend_from_slice(&rest[..=quote]);
            rest = rest.get(quote + 2..).unwrap_or_default();
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
        self.find(plain).is_some() || memchr3(b'"', b'\r', b'\n', plain).is_some()
    }
}

/// Word `n`: words are what runs of ASCII white space separate.
pub fn word(line: &[u8], n: usize) -> Option<&[u8]> {
    words(line).nth(n)
}

pub fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    without_mark(line)
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
}
