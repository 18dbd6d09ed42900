//! `--key`: which key an output tuple gets, taken from its own (the output's) value.

use crate::args::{Args, Error};
use crate::columns::{self, Layout, Malformed};
use crate::operator::{Emit, InputKeys};

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    Same,
    Value,
    Word(usize),
    Field(usize),
    Const(Vec<u8>),
}

/// Gives output tuples their keys.
#[derive(Debug, Clone)]
pub struct Keyer {
    rule: Rule,
    layout: Layout,
    scratch: Vec<u8>,
}

impl Keyer {
    pub fn of(args: &Args) -> Result<Self, Error> {
        let rule = match args.value("--key") {
            None | Some("same") => Rule::Same,
            Some("value") => Rule::Value,
            Some(text) => match text.split_once(':') {
                Some(("word", n)) => Rule::Word(args.number("--key word:", n)?),
                Some(("field", n)) => Rule::Field(args.number("--key field:", n)?),
                Some(("const", key)) => Rule::Const(key.as_bytes().to_vec()),
                _ => {
                    let what = "takes same, value, word:N, field:N or const:TEXT";
                    return Err(args.error(format!("`--key` {what}, not `{text}`")));
                }
            },
        };
        Ok(Self {
            rule,
            layout: Layout::of(args)?,
            scratch: vec![],
        })
    }

    /// Whether the input's key is ever looked at: spelling it out costs time.
    pub fn needs_key(&self) -> bool {
        self.rule == Rule::Same
    }

    /// For an operator that does nothing else with keys.
    pub fn input_keys(&self) -> InputKeys {
        match self.needs_key() {
            true => InputKeys::Passed,
            false => InputKeys::Ignored,
        }
    }

    /// A word or field that the value lacks gives the empty key. The value goes on as it is, byte for byte.
    #[inline]
    pub fn emit(&mut self, key: &[u8], value: &[u8], out: &mut dyn Emit) -> Result<(), Malformed> {
        let key = match &self.rule {
            Rule::Same => key,
            Rule::Value => columns::without_mark(value),
            Rule::Word(n) => columns::word(value, *n).unwrap_or_default(),
            Rule::Field(n) => self.layout.get(value, *n, &mut self.scratch)?.unwrap_or_default(),
            Rule::Const(key) => key,
        };
        out.emit(key, value);
        Ok(())
    }
}
