//! Text that came from data or from an operator, as it is shown: what a terminal would obey is seen instead.
//!
//! A key, a value or a line on standard error may hold escape sequences that move the cursor, hide what is above, or set the
//! window's title. Messages and logs show them as `\x1b`; standard output does where it is a terminal, and else stays byte
//! for byte.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWrite;

/// Control characters, those that turn the direction of writing around, and separators of lines that few programs know. A tab
/// does no harm.
pub fn is_hidden(c: char) -> bool {
    let turns =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    (c.is_control() && c != '\t') || turns || matches!(c, '\u{2028}' | '\u{2029}')
}

fn put(c: char, out: &mut String) {
    // Writing to a String cannot fail.
    let _ = match (c, u32::from(c)) {
        ('\n', _) => out.write_str("\\n"),
        ('\r', _) => out.write_str("\\r"),
        (_, code @ ..=0xff) => write!(out, "\\x{code:02x}"),
        (_, code) => write!(out, "\\u{{{code:x}}}"),
    };
}

fn shown(text: &str, hidden: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(&hidden) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match hidden(c) {
            true => put(c, &mut out),
            false => out.push(c),
        }
    }
    out.into()
}

/// For one line: a line break is shown as well.
pub fn line(text: &str) -> Cow<'_, str> {
    shown(text, is_hidden)
}

/// For text of several lines.
pub fn text(text: &str) -> Cow<'_, str> {
    shown(text, |c| is_hidden(c) && c != '\n')
}

/// Standard output of a program that prints data or text with data in it.
pub fn stdout() -> Shown<io::Stdout> {
    Shown::new(io::stdout(), io::stdout().is_terminal())
}

/// Bytes on their way to a terminal, with escapes where it would obey; to anything else byte for byte.
#[derive(Debug)]
pub struct Shown<W> {
    inner: W,
    terminal: bool,
    /// The beginning of a character whose end has not come.
    partial: Vec<u8>,
}

impl<W: Write> Shown<W> {
    pub fn new(inner: W, terminal: bool) -> Self {
        Self {
            inner,
            terminal,
            partial: vec![],
        }
    }

    fn show(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.partial.extend_from_slice(bytes);
        let held = std::mem::take(&mut self.partial);
        let mut out = String::with_capacity(held.len());
        let mut rest = &held[..];
        while !rest.is_empty() {
            let (good, bad) = match std::str::from_utf8(rest) {
                Ok(all) => (all.len(), 0),
                Err(e) => match e.error_len() {
                    Some(bad) => (e.valid_up_to(), bad),
                    None => {
                        self.partial = rest[e.valid_up_to()..].to_vec();
                        (e.valid_up_to(), 0)
                    }
                },
            };
            out.push_str(&text(&String::from_utf8_lossy(&rest[..good])));
            // Among bytes that are no UTF-8 are control characters of older terminals.
            for byte in &rest[good..good + bad] {
                let _ = write!(out, "\\x{byte:02x}");
            }
            rest = &rest[good + bad..];
            if bad == 0 {
                break;
            }
        }
        self.inner.write_all(out.as_bytes())
    }
}

impl<W: Write> Write for Shown<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.terminal {
            true => self.show(bytes).map(|()| bytes.len()),
            false => self.inner.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The same for who does not wait: a terminal takes it soon enough.
#[derive(Debug)]
pub enum Stdout {
    Terminal(Shown<io::Stdout>),
    Other(tokio::io::Stdout),
}

impl Stdout {
    #[allow(clippy::new_without_default)] // it is no plain value
    pub fn new() -> Self {
        match io::stdout().is_terminal() {
            true => Self::Terminal(stdout()),
            false => Self::Other(tokio::io::stdout()),
        }
    }
}

impl AsyncWrite for Stdout {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Terminal(out) => Poll::Ready(
                out.write_all(bytes)
                    .and_then(|()| out.flush())
                    .map(|()| bytes.len()),
            ),
            Self::Other(out) => Pin::new(out).poll_write(cx, bytes),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Terminal(out) => Poll::Ready(out.flush()),
            Self::Other(out) => Pin::new(out).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Terminal(out) => Poll::Ready(out.flush()),
            Self::Other(out) => Pin::new(out).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_terminal_would_obey_is_seen() {
        assert_eq!(
            line("a\x1b[2Jb\u{9b}31m\x07\x7f\r\n\0"),
            "a\\x1b[2Jb\\x9b31m\\x07\\x7f\\r\\n\\x00"
        );
        assert_eq!(line("to\u{202e}txt.exe\u{2028}"), "to\\u{202e}txt.exe\\u{2028}");
        assert_eq!(text("a\tb\nc\x1b"), "a\tb\nc\\x1b");
        for plain in ["", "é ß 漢字 🙂", "a\\x1b", "a\tb"] {
            assert!(matches!(line(plain), Cow::Borrowed(same) if same == plain));
        }
    }

    fn printed(terminal: bool, pieces: &[&[u8]]) -> Vec<u8> {
        let mut out = vec![];
        let mut shown = Shown::new(&mut out, terminal);
        pieces.iter().for_each(|piece| shown.write_all(piece).unwrap());
        out
    }

    #[test]
    fn bytes_that_are_no_text_are_seen_as_well() {
        assert_eq!(
            printed(
                true,
                &[b"\x9b1m \xff\n\xc3", b"\xa9 \xe2\x80", b"\xae\x1b]0;x\x07"]
            ),
            "\\x9b1m \\xff\né \\u{202e}\\x1b]0;x\\x07".as_bytes()
        );
    }

    proptest! {
        #[test]
        fn a_pipe_gets_the_very_bytes_and_a_terminal_nothing_to_obey(pieces: Vec<Vec<u8>>) {
            let slices: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(printed(false, &slices), pieces.concat());
            let all = pieces.concat();
            let seen = printed(true, &slices);
            prop_assert_eq!(&seen, &printed(true, &[&all]), "how it is cut does not matter");
            let seen = String::from_utf8(seen).unwrap();
            prop_assert!(!seen.chars().any(|c| is_hidden(c) && c != '\n'), "{:?}", seen);
        }
    }
}
