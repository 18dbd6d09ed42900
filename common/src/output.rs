//! Standard output and standard error of programs.
//!
//! What cannot be written to standard output is an error of the program, with one exception: a reader that has seen enough (`| head`)
//! is none.

use std::fmt::Display;
use std::io::{self, Write};

use crate::shown;

#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output: {0}")]
pub struct Unwritable(#[from] io::Error);

/// Whether whoever read what is written has gone, having seen enough.
pub fn reader_has_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// What writing to standard output came to.
pub fn judge(written: io::Result<()>) -> Result<(), Unwritable> {
    match written {
        Err(error) if !reader_has_gone(&error) => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes to standard output, all of it before it returns.
pub fn print(text: &str) -> Result<(), Unwritable> {
    let mut out = shown::stdout();
    judge(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// A line on standard error, for people. Where that is closed or full there is nobody to be told.
pub fn complain(line: impl Display) {
    let _ = writeln!(io::stderr(), "{}", shown::text(&line.to_string()));
}

/// The exit code of a program that has only printed something (help, mostly): `code`, if that went well.
pub fn code_of(program: &str, printed: io::Result<()>, code: u8) -> u8 {
    match judge(printed.and_then(|()| io::stdout().flush())) {
        Ok(()) => code,
        Err(error) => {
            complain(format_args!("{program}: {error}"));
            1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reader_that_has_gone_is_no_error() {
        assert!(judge(Ok(())).is_ok());
        assert!(judge(Err(io::ErrorKind::BrokenPipe.into())).is_ok());
        assert!(judge(Err(io::ErrorKind::StorageFull.into())).is_err());
    }
}
