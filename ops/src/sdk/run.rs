//! A program's `main`.

use std::env;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use bytes::BytesMut;

use super::serve::{Ended, Session};
use super::{Body, InProcess, Program};
use crate::foreign::batch::wire;
use crate::foreign::{DESCRIBE, PROTOCOL};

/// Read at once, at most.
const READ_BYTES: usize = 256 << 10;

/// Runs the program: says what it is if RainStorm asks, else works until the end of its input. To be called once, and
/// its result to be `main`'s.
///
/// ```no_run
/// use ops::sdk::{self, Output, Tuple};
///
/// fn main() -> std::process::ExitCode {
///     let word = std::env::args().nth(1).unwrap_or_default();
///     sdk::run(sdk::transform(move |tuple: Tuple<'_>, out: &mut Output<'_>| {
///         out.emit(&[word.as_bytes(), tuple.value].concat());
///     }))
/// }
/// ```
pub fn run<B: Body + Send>(program: Program<B>) -> ExitCode {
    if env::var_os(DESCRIBE).is_some() {
        return code(writeln!(io::stdout(), "{}", program.description()).map_err(|e| e.to_string()));
    }
    match env::var(PROTOCOL).as_deref() {
        Ok("batch") => common::heap::keep_freed_memory(),
        Err(_) => return code(crate::lines::run(&mut InProcess::new(program))),
        Ok(other) => {
            return code(Err(format!(
                "this operator speaks the batch protocol; it was started for `{other}`"
            )));
        }
    }
    let done = streams().map_err(Ended::from).and_then(|(input, output)| {
        let mut session = Session::new(program);
        serve(&mut session, input, output)
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Has been reported in full.
        Err(Ended::Failed(_)) => ExitCode::FAILURE,
        Err(e) => code(Err(e.to_string())),
    }
}

fn code(done: Result<(), String>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

/// Standard input and output, without buffers. What the program prints from here on goes to standard error.
fn streams() -> io::Result<(File, File)> {
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    nix::unistd::dup2_stdout(io::stderr())?;
    Ok((input.into(), output.into()))
}

/// Answers until the end of the input.
pub(super) fn serve<B: Body>(
    session: &mut Session<B>,
    mut input: impl Read,
    mut output: impl Write,
) -> Result<(), Ended> {
    let mut buffer = BytesMut::zeroed(READ_BYTES);
    let mut end = 0;
    loop {
        // What is read is shared with the operator while it works, and written again when nobody has it any more.
        let read = buffer.freeze();
        let mut begin = 0;
        while let Some((message, length)) = wire::frame(&read[begin..end])? {
            session.answer(&read.slice_ref(message), &mut output)?;
            begin += length;
        }
        buffer = read
            .try_into_mut()
            .unwrap_or_else(|kept| BytesMut::from(&kept[..]));
        buffer.copy_within(begin..end, 0);
        end -= begin;
        if end == buffer.len() {
            buffer.resize(2 * end, 0);
        }
        match input.read(&mut buffer[end..]) {
            Ok(0) => return Ok(()),
            Ok(n) => end += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
}
