//! Patterns, matched against a whole batch at once where possible.
//!
//! The values of a batch lie end to end, so a literal is looked for in all of them in one pass. A regular expression
//! that cannot match without some literal is tried only on the values that hold it (after ripgrep's "inner literals").

use memchr::memmem::Finder;
use protocol::batch::Batch;
use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::hir::{Hir, HirKind};

use crate::args::{Args, Error};

/// A shorter literal than this is found in most values anyway.
const SHORTEST_REQUIRED: usize = 2;

#[derive(Debug)]
pub enum Matcher {
    /// The empty literal: in every value.
    Always,
    Literal(Box<Finder<'static>>),
    Regex {
        regex: Regex,
        /// Every match holds this literal.
        required: Option<Box<Finder<'static>>>,
    },
}

impl Matcher {
    pub fn new(pattern: &str, literal: bool, ignore_case: bool) -> Result<Self, regex::Error> {
        if literal && !ignore_case {
            return Ok(Self::literal(pattern.as_bytes()));
        }
        let escaped;
        let pattern = match literal {
            true => {
                escaped = regex::escape(pattern);
                &escaped
            }
            false => pattern,
        };
        let regex = RegexBuilder::new(pattern).case_insensitive(ignore_case).build()?;
        let hir = regex_syntax::ParserBuilder::new()
            .utf8(false)
            .case_insensitive(ignore_case)
            .build()
            .parse(pattern);
        Ok(match hir.as_ref().map(Hir::kind) {
            Ok(HirKind::Literal(all)) => Self::literal(&all.0),
            Ok(HirKind::Empty) => Self::Always,
            Ok(_) => Self::Regex {
                regex,
                required: hir.ok().and_then(|h| required(&h)),
            },
            Err(_) => Self::Regex {
                regex,
                required: None,
            },
        })
    }

    /// The pattern of a command line: the positional `i`, under `-F` and `-i`.
    pub fn of(args: &Args, i: usize) -> Result<Self, Error> {
        let pattern = args.positional(i);
        Self::new(pattern, args.has("-F"), args.has("-i")).map_err(|e| {
            let advice = "to look for the text as it stands, use -F";
            args.error(format!(
                "the pattern `{pattern}` is not a regular expression: {e}; {advice}"
            ))
        })
    }

    pub fn literal(text: &[u8]) -> Self {
        match text {
            [] => Self::Always,
            text => Self::Literal(Box::new(Finder::new(text).into_owned())),
        }
    }

    /// Calls `f` with the number of every value that matches, in order.
    pub fn each<E>(&self, batch: &Batch, mut f: impl FnMut(usize) -> Result<(), E>) -> Result<(), E> {
        match self {
            Self::Always => (0..batch.len()).try_for_each(f),
            Self::Literal(finder) => Holding::new(batch, finder).try_for_each(f),
            Self::Regex {
                regex,
                required: Some(finder),
            } => Holding::new(batch, finder)
                .filter(|i| regex.is_match(batch.value(*i)))
                .try_for_each(f),
            Self::Regex {
                regex,
                required: None,
            } => batch.try_for_each_value(|i, value| if regex.is_match(value) { f(i) } else { Ok(()) }),
        }
    }
}

/// The longest literal that is part of every match.
fn required(hir: &Hir) -> Option<Box<Finder<'static>>> {
    fn longest(hir: &Hir) -> Option<&[u8]> {
        match hir.kind() {
            HirKind::Literal(literal) => Some(&literal.0),
            HirKind::Capture(group) => longest(&group.sub),
            HirKind::Repetition(repeated) if repeated.min > 0 => longest(&repeated.sub),
            HirKind::Concat(parts) => parts.iter().filter_map(longest).max_by_key(|l| l.len()),
            _ => None,
        }
    }
    let literal = longest(hir).filter(|l| l.len() >= SHORTEST_REQUIRED)?;
    Some(Box::new(Finder::new(literal).into_owned()))
}

/// The numbers of the values that hold a literal (not empty), in order.
pub struct Holding<'a> {
    batch: &'a Batch,
    finder: &'a Finder<'static>,
    joined: &'a [u8],
    /// The next value to look at, and where to search on.
    value: usize,
    at: usize,
}

impl<'a> Holding<'a> {
    pub fn new(batch: &'a Batch, finder: &'a Finder<'static>) -> Self {
        debug_assert!(!finder.needle().is_empty());
        Self {
            batch,
            finder,
            joined: batch.values_joined(),
            value: 0,
            at: 0,
        }
    }
}

impl Iterator for Holding<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        loop {
            let found = self.at + self.finder.find(&self.joined[self.at..])?;
            self.value = self.batch.value_with(self.value, found);
            let end = self.batch.value_end(self.value);
            // Whether this one lies in the value or runs over its end, nothing more of the value is of interest: a
            // later one would run over as well.
            self.at = end;
            if found + self.finder.needle().len() <= end {
                self.value += 1;
                return Some(self.value - 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use protocol::batch::Builder;

    fn hits(matcher: &Matcher, values: &[Vec<u8>]) -> Vec<usize> {
        let mut b = Builder::new();
        values.iter().for_each(|v| b.push(b"k", v));
        let mut out = vec![];
        let done: Result<(), std::convert::Infallible> = matcher.each(&b.take(), |i| {
            out.push(i);
            Ok(())
        });
        done.unwrap();
        out
    }

    #[test]
    fn plain_patterns_become_literals_and_others_keep_what_they_require() {
        let required = |p: &str, i: bool| match Matcher::new(p, false, i).unwrap() {
            Matcher::Always => "always".to_owned(),
            Matcher::Literal(f) => format!("literal {}", String::from_utf8_lossy(f.needle())),
            Matcher::Regex {
                required: Some(f), ..
            } => String::from_utf8_lossy(f.needle()).into_owned(),
            Matcher::Regex { .. } => "any".to_owned(),
        };
        assert_eq!(required("abc", false), "literal abc");
        assert_eq!(required(r"a\.c", false), "literal a.c");
        assert_eq!(required("", false), "always");
        assert_eq!(required("^ab.*(error: )+x?$", false), "error: ");
        assert_eq!(required("foo|bar", false), "any");
        assert_eq!(required("(foo)?", false), "any");
        assert_eq!(required("abc", true), "any");
        assert!(Matcher::new("(", false, false).is_err());
        assert!(Matcher::new("(", true, true).is_ok());
    }

    proptest! {
        // A small alphabet, so that literals repeat, overlap and lie across the borders of values.
        #[test]
        fn literals_are_found_where_contains_finds_them(values in proptest::collection::vec("[ab]{0,6}", 0..30), needle in "[ab]{0,4}") {
            let raw: Vec<Vec<u8>> = values.iter().map(|v| v.clone().into_bytes()).collect();
            let want: Vec<usize> = (0..values.len()).filter(|i| values[*i].contains(&needle)).collect();
            prop_assert_eq!(hits(&Matcher::new(&needle, true, false).unwrap(), &raw), want.clone());
            prop_assert_eq!(hits(&Matcher::new(&needle, false, false).unwrap(), &raw), want);
        }

        #[test]
        fn required_literals_drop_no_match(values in proptest::collection::vec("[abc]{0,8}", 0..30), which in 0usize..6) {
            let pattern = ["^ab.*c$", "(ab)+c", "a(bc|ca)*ab", r"\bab", "ab[^a]+ba", "(?:cab){2}"][which];
            let alone = Regex::new(pattern).unwrap();
            let raw: Vec<Vec<u8>> = values.iter().map(|v| v.clone().into_bytes()).collect();
            let want: Vec<usize> = (0..raw.len()).filter(|i| alone.is_match(&raw[*i])).collect();
            prop_assert_eq!(hits(&Matcher::new(pattern, false, false).unwrap(), &raw), want);
        }

        #[test]
        fn case_is_ignored_on_request(values in proptest::collection::vec("[aAbB]{0,5}", 0..20), needle in "[aAbB]{1,3}") {
            let raw: Vec<Vec<u8>> = values.iter().map(|v| v.clone().into_bytes()).collect();
            let low = needle.to_lowercase();
            let want: Vec<usize> = (0..raw.len()).filter(|i| values[*i].to_lowercase().contains(&low)).collect();
            prop_assert_eq!(hits(&Matcher::new(&needle, true, true).unwrap(), &raw), want);
        }
    }
}
