//! `replace`.

use std::iter::Peekable;

use memchr::memmem::Finder;
use protocol::batch::Batch;
use regex::bytes::{CaptureLocations, Regex, RegexBuilder};

use crate::args::{self, Args};
use crate::keys::Keyer;
use crate::operator::{Emit, Error, InputKeys, Operator};
use crate::pattern::Holding;

/// A piece of the replacement.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    Group(usize),
}

enum What {
    Literal {
        finder: Box<Finder<'static>>,
        text: Vec<u8>,
    },
    Regex {
        regex: Regex,
        pieces: Vec<Piece>,
        found: CaptureLocations,
    },
}

struct Replace {
    what: What,
    keyer: Keyer,
    scratch: Vec<u8>,
}

pub fn build(args: &Args) -> Result<Box<dyn Operator>, args::Error> {
    let (pattern, text) = (args.positional(0), args.positional(1));
    let literal = args.has("-F");
    let what = if literal && !args.has("-i") && !pattern.is_empty() {
        What::Literal {
            finder: Box::new(Finder::new(pattern.as_bytes()).into_owned()),
            text: text.into(),
        }
    } else {
        let escaped = if literal {
            regex::escape(pattern)
        } else {
            pattern.to_owned()
        };
        let regex = RegexBuilder::new(&escaped)
            .case_insensitive(args.has("-i"))
            .build()
            .map_err(|e| {
                let advice = "to replace the text as it stands, use -F";
                args.error(format!(
                    "the pattern `{pattern}` is not a regular expression: {e}; {advice}"
                ))
            })?;
        let pieces = match literal {
            true => vec![Piece::Text(text.into())],
            false => template(text, &regex).map_err(|what| args.error(what))?,
        };
        let plain = regex_syntax::parse(&escaped).ok().filter(|_| !args.has("-i"));
        match (plain.as_ref().map(|h| h.kind()), &pieces[..]) {
            (Some(regex_syntax::hir::HirKind::Literal(l)), [] | [Piece::Text(_)]) => {
                let text = pieces
                    .into_iter()
                    .flat_map(|p| if let Piece::Text(t) = p { t } else { vec![] });
                What::Literal {
                    finder: Box::new(Finder::new(&l.0).into_owned()),
                    text: text.collect(),
                }
            }
            _ => What::Regex {
                found: regex.capture_locations(),
                regex,
                pieces,
            },
        }
    };
    Ok(Box::new(Replace {
        what,
        keyer: Keyer::of(args)?,
        scratch: vec![],
    }))
}

/// Takes TEXT apart: `$1`, `$name`, `${name}`, `$$` for a dollar sign.
fn template(text: &str, regex: &Regex) -> Result<Vec<Piece>, String> {
    let mut pieces = vec![];
    let mut plain = String::new();
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        plain.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(tail) = rest.strip_prefix('$') {
            plain.push('$');
            rest = tail;
            continue;
        }
        let (name, tail) = match rest.strip_prefix('{') {
            Some(braced) => braced
                .split_once('}')
                .ok_or("TEXT has `${` without its `}`; a `$` itself is `$$`")?,
            None => rest.split_at(
                rest.find(|c: char| !c.is_alphanumeric() && c != '_')
                    .unwrap_or(rest.len()),
            ),
        };
        if name.is_empty() {
            plain.push('$');
            continue;
        }
        let group = match name.parse::<usize>() {
            Ok(n) => (n < regex.captures_len()).then_some(n),
            Err(_) => regex.capture_names().position(|g| g == Some(name)),
        };
        let group = group.ok_or_else(|| {
            let hint = "write ${1}a for group 1 and then an `a`, $$ for a dollar sign";
            format!("TEXT refers to the group `{name}`, which PATTERN does not have; {hint}")
        })?;
        if !plain.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut plain).into_bytes()));
        }
        pieces.push(Piece::Group(group));
        rest = tail;
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain.into_bytes()));
    }
    Ok(pieces)
}

impl Operator for Replace {
    fn process(&mut self, batch: &Batch, out: &mut dyn Emit) -> Result<(), Error> {
        let Self { what, keyer, scratch } = self;
        match what {
            What::Literal { finder, text } => {
                let mut holding: Peekable<_> = Holding::new(batch, finder).peekable();
                let mut i = 0;
                batch.try_for_each(|key, value| {
                    let emitted = match holding.next_if_eq(&i) {
                        None => keyer.emit(key, value, out),
                        Some(_) => {
                            scratch.clear();
                            let mut from = 0;
                            for at in finder.find_iter(value) {
                                scratch.extend_from_slice(&value[from..at]);
                                scratch.extend_from_slice(text);
                                from = at + finder.needle().len();
                            }
                            scratch.extend_from_slice(&value[from..]);
                            keyer.emit(key, scratch, out)
                        }
                    };
                    i += 1;
                    emitted.map_err(|e| Error::poison(e.to_string(), i - 1, key))
                })
            }
            What::Regex { regex, pieces, found } => {
                let mut i = 0;
                batch.try_for_each(|key, value| {
                    let emitted = match replaced(regex, pieces, found, value, scratch) {
                        true => keyer.emit(key, scratch, out),
                        false => keyer.emit(key, value, out),
                    };
                    i += 1;
                    emitted.map_err(|e| Error::poison(e.to_string(), i - 1, key))
                })
            }
        }
    }

    fn input_keys(&self) -> InputKeys {
        self.keyer.input_keys()
    }
}

/// Writes `value` with all matches replaced to `out`; false, and nothing written, when there is none.
fn replaced(
    regex: &Regex,
    pieces: &[Piece],
    found: &mut CaptureLocations,
    value: &[u8],
    out: &mut Vec<u8>,
) -> bool {
    let groups = pieces.iter().any(|p| matches!(p, Piece::Group(_)));
    out.clear();
    let mut from = 0;
    let mut put = |span: (usize, usize), found: Option<&CaptureLocations>| {
        out.extend_from_slice(&value[from..span.0]);
        for piece in pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text),
                Piece::Group(n) => {
                    if let Some((a, b)) = found.and_then(|f| f.get(*n)) {
                        out.extend_from_slice(&value[a..b]);
                    }
                }
            }
        }
        from = span.1;
    };
    let mut any = false;
    if !groups {
        for m in regex.find_iter(value) {
            any = true;
            put((m.start(), m.end()), None);
        }
    } else {
        let mut at = 0;
        let mut last_end = None;
        while at <= value.len() {
            let Some(m) = regex.captures_read_at(found, value, at) else {
                break;
            };
            let span = (m.start(), m.end());
            // As find_iter does it: an empty match right behind the last one does not count.
            if span.0 == span.1 && last_end == Some(span.1) {
                at = span.1 + 1;
                continue;
            }
            any = true;
            put(span, Some(found));
            at = span.1;
            last_end = Some(span.1);
        }
    }
    if any {
        out.extend_from_slice(&value[from..]);
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ours(pattern: &str, text: &str, value: &[u8]) -> Vec<u8> {
        let regex = Regex::new(pattern).unwrap();
        let mut out = vec![];
        let pieces = template(text, &regex).unwrap();
        match replaced(&regex, &pieces, &mut regex.capture_locations(), value, &mut out) {
            true => out,
            false => value.to_vec(),
        }
    }

    proptest! {
        // The crate's own replace_all, which allocates, is the reference.
        #[test]
        fn groups_expand_as_in_replace_all(value in "[ab1é]{0,12}", which in 0usize..5) {
            let (pattern, text) = [("(a)(b)?", "<$2$1>"), ("a*", "-$0-"), ("(?P<x>b+)|1", "${x}z$$"), ("", "$0|"), ("b", "c")][which];
            let want = Regex::new(pattern).unwrap().replace_all(value.as_bytes(), text.as_bytes()).into_owned();
            prop_assert_eq!(ours(pattern, text, value.as_bytes()), want);
        }
    }

    #[test]
    fn a_group_that_is_not_there_is_named() {
        let regex = Regex::new("(a)").unwrap();
        assert!(template("$1a", &regex).unwrap_err().contains("`1a`"));
        assert!(template("$2", &regex).unwrap_err().contains("`2`"));
        assert!(template("${1", &regex).is_err());
        assert_eq!(template("5$", &regex).unwrap(), [Piece::Text(b"5$".to_vec())]);
    }
}
