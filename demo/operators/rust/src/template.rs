//! A transform: log lines to their templates, `disk 3 failed after 12.5 s` to `disk <n> failed after <n> s`.
//!
//! The template becomes the key and the line stays the value, so that a `count` behind it tells which messages there
//! are and how many of each.

use std::process::ExitCode;

use ops::sdk::{self, Output, Result, Transform, Tuple};

#[derive(Default)]
struct Templates {
    /// Used again for each line: nothing is allocated per tuple.
    template: Vec<u8>,
}

impl Transform for Templates {
    fn transform(&mut self, tuple: Tuple<'_>, out: &mut Output<'_>) -> Result {
        self.template.clear();
        let mut in_number = false;
        let mut last = b' ';
        for &byte in tuple.value {
            // Digits that begin a word, and all that hangs on to them: 3, 12.5, 0xff, 10.0.0.7, 11:02:55.
            let begins = byte.is_ascii_digit() && !last.is_ascii_alphanumeric();
            let goes_on = in_number && (byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b':' | b'-'));
            if begins && !in_number {
                self.template.extend_from_slice(b"<n>");
            }
            in_number = begins || goes_on;
            if !in_number {
                self.template.push(byte);
            }
            last = byte;
        }
        out.emit_with_key(&self.template, tuple.value);
        Ok(())
    }
}

fn main() -> ExitCode {
    sdk::run(sdk::transform(Templates::default()).values_only())
}
