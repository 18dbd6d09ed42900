//! The text protocol. Lines end with a newline and nothing else; keys and values are the bytes as they are.
//!
//! ```text
//! to the program     tuple  = "key: " K NL "value: " V NL
//! from the program   answer = "filter" NL                            the tuple is dropped
//!                           | "forward" NL pair                      it is passed on, as the pair says
//!                           | { "emit" NL pair } "end" NL            any number of tuples, none included
//!                    pair   = [ "key: " K NL ] "value: " V NL        no key: the tuple's own
//! ```
//! One answer for each tuple, in order; it may come any time later. The space behind the colon may be missing; only
//! one is taken away. White space behind one of the four words is overlooked, anything else is garbage. `filter` and
//! `forward` mean the same whatever the program's kind.

use memchr::memchr;

use crate::operator::quoted;

/// A longer line than this is not an answer.
pub const LONGEST_LINE: usize = 16 << 20;

/// Appends a tuple. False, and nothing appended, when it cannot be said: the key or the value holds a newline.
#[must_use]
pub fn write_tuple(key: &[u8], value: &[u8], out: &mut Vec<u8>) -> bool {
    if memchr(b'\n', key).is_some() || memchr(b'\n', value).is_some() {
        return false;
    }
    for part in [b"key: ", key, b"\nvalue: ", value, b"\n"] {
        out.extend_from_slice(part);
    }
    true
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// Between answers.
    #[default]
    Idle,
    /// Behind `forward` or `emit`; behind the key, if `Value`.
    Pair {
        emit: bool,
    },
    Value {
        emit: bool,
        keyed: bool,
    },
    /// Behind a pair of `emit`.
    Emitted,
}

/// A line that the grammar has no place for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it answered with the line `{line}`, where {expected} should be")]
pub struct Garbage {
    pub line: String,
    pub expected: &'static str,
}

/// Reads a program's answers.
#[derive(Debug, Default)]
pub struct Answers {
    state: State,
    key: Vec<u8>,
}

impl Answers {
    /// Takes in one line, without its newline. A pair that it completes goes to `pair(key, value)`. True: the answer
    /// is complete.
    #[inline]
    pub fn line(&mut self, line: &[u8], pair: impl FnOnce(Option<&[u8]>, &[u8])) -> Result<bool, Garbage> {
        match self.state {
            State::Idle => self.word(line, "`filter`, `forward`, `emit` or `end`"),
            State::Emitted => match line.trim_ascii_end() {
                b"emit" | b"end" => self.word(line, ""),
                _ => Err(garbage(line, "`emit` or `end`")),
            },
            State::Pair { emit } => {
                if let Some(key) = behind(b"key:", line) {
                    self.key.clear();
                    self.key.extend_from_slice(key);
                    self.state = State::Value { emit, keyed: true };
                    return Ok(false);
                }
                self.value(line, emit, false, "`key: ...` or `value: ...`", pair)
            }
            State::Value { emit, keyed } => self.value(line, emit, keyed, "`value: ...`", pair),
        }
    }

    fn word(&mut self, line: &[u8], expected: &'static str) -> Result<bool, Garbage> {
        self.state = match line.trim_ascii_end() {
            b"filter" => return Ok(true),
            b"end" => {
                self.state = State::Idle;
                return Ok(true);
            }
            b"forward" => State::Pair { emit: false },
            b"emit" => State::Pair { emit: true },
            _ => return Err(garbage(line, expected)),
        };
        Ok(false)
    }

    fn value(
        &mut self,
        line: &[u8],
        emit: bool,
        keyed: bool,
        expected: &'static str,
        pair: impl FnOnce(Option<&[u8]>, &[u8]),
    ) -> Result<bool, Garbage> {
        let value = behind(b"value:", line).ok_or_else(|| garbage(line, expected))?;
        pair(keyed.then_some(&self.key), value);
        self.state = if emit { State::Emitted } else { State::Idle };
        Ok(!emit)
    }
}

fn behind<'a>(name: &[u8], line: &'a [u8]) -> Option<&'a [u8]> {
    let rest = line.strip_prefix(name)?;
    Some(rest.strip_prefix(b" ").unwrap_or(rest))
}

fn garbage(line: &[u8], expected: &'static str) -> Garbage {
    Garbage {
        line: quoted(line),
        expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Pairs = Vec<(Option<String>, String)>;

    /// The pairs of each answer.
    fn read(text: &str) -> Result<Vec<Pairs>, Garbage> {
        let mut answers = Answers::default();
        let (mut all, mut pairs) = (vec![], vec![]);
        let text_of = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
        for line in text.lines() {
            if answers.line(line.as_bytes(), |k, v| pairs.push((k.map(text_of), text_of(v))))? {
                all.push(std::mem::take(&mut pairs));
            }
        }
        Ok(all)
    }

    fn pair(key: Option<&str>, value: &str) -> (Option<String>, String) {
        (key.map(str::to_owned), value.to_owned())
    }

    #[test]
    fn every_form_of_answer() {
        let got = read(
            "filter\nforward\nkey: k\nvalue: v\nforward\nvalue:  w \nend\nemit\nvalue:x\nemit\nkey:\nvalue: \nend\nfilter \n",
        );
        let want: Vec<Pairs> = vec![
            vec![],
            vec![pair(Some("k"), "v")],
            vec![pair(None, " w ")],
            vec![],
            vec![pair(None, "x"), pair(Some(""), "")],
            vec![],
        ];
        assert_eq!(got.unwrap(), want);
    }

    #[test]
    fn what_has_no_place_is_garbage() {
        for (text, expected) in [
            ("hello", "`filter`, `forward`, `emit` or `end`"),
            ("", "`filter`, `forward`, `emit` or `end`"),
            ("value: x", "`filter`, `forward`, `emit` or `end`"),
            ("Filter", "`filter`, `forward`, `emit` or `end`"),
            ("forward\nfilter", "`key: ...` or `value: ...`"),
            ("forward\nkey: a\nkey: b", "`value: ...`"),
            ("emit\nvalue: a\nfilter", "`emit` or `end`"),
            ("emit\nvalue: a\nforward", "`emit` or `end`"),
        ] {
            let text = if text.is_empty() { "\n" } else { text };
            assert_eq!(read(text).unwrap_err().expected, expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_forwarded_comes_back(tuples: Vec<(Vec<u8>, Vec<u8>)>) {
            let mut answers = Answers::default();
            for (key, value) in tuples {
                let mut text = b"forward\n".to_vec();
                let sayable = !key.contains(&b'\n') && !value.contains(&b'\n');
                prop_assert_eq!(write_tuple(&key, &value, &mut text), sayable);
                if !sayable {
                    prop_assert_eq!(text, b"forward\n");
                    continue;
                }
                let mut got = None;
                let body = text.strip_suffix(b"\n").unwrap();
                let ends: Vec<bool> = body.split(|b| *b == b'\n').map(|line| {
                    answers.line(line, |k, v| got = Some((k.unwrap().to_vec(), v.to_vec()))).unwrap()
                }).collect();
                prop_assert_eq!(ends, [false, false, true]);
                prop_assert_eq!(got, Some((key, value)));
            }
        }

        #[test]
        fn no_line_panics(lines: Vec<Vec<u8>>) {
            let mut answers = Answers::default();
            for line in &lines {
                let _ = answers.line(line, |_, _| {});
            }
        }
    }
}
