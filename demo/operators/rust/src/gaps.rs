//! An aggregate: how far apart the tuples of a key are, for values that begin with a number (a time, a position).
//!
//! Puts out the gap whenever it is larger than any before of that key, and at the end `largest gap, tuples` of each.
//! A value that begins with no number is an error, which names the tuple.

use std::process::ExitCode;

use ops::sdk::{self, Aggregate, Output, Result, Tuple};
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
struct Gap {
    last: Option<u64>,
    largest: u64,
    tuples: u64,
}

struct Gaps;

impl Aggregate for Gaps {
    type State = Gap;

    fn update(&mut self, gap: &mut Gap, tuple: Tuple<'_>, out: &mut Output<'_>) -> Result {
        let text = String::from_utf8_lossy(tuple.value);
        let digits = text.trim_start().split(|c: char| !c.is_ascii_digit()).next();
        let at: u64 = digits
            .unwrap_or_default()
            .parse()
            .map_err(|e| format!("`{text}` begins with no number: {e}"))?;
        gap.tuples += 1;
        if let Some(last) = gap.last.replace(at) {
            let apart = at.abs_diff(last);
            if apart > gap.largest {
                gap.largest = apart;
                out.emit(apart.to_string().as_bytes());
            }
        }
        Ok(())
    }

    fn at_end(&mut self, _key: &[u8], gap: &Gap, out: &mut Output<'_>) -> Result {
        out.emit(format!("{} {}", gap.largest, gap.tuples).as_bytes());
        Ok(())
    }
}

fn main() -> ExitCode {
    sdk::run(sdk::aggregate_with(Gaps))
}
