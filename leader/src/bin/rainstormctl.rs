//! The operator's console. See [`leader::ctl`].

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = leader::ctl::Args::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("rainstormctl: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(leader::ctl::run(args));
    // A read of standard input that waits is not waited for.
    runtime.shutdown_background();
    match done {
        Ok(done) => {
            if !done.text.is_empty() {
                // A reader that has gone has seen what it wanted.
                let _ = writeln!(std::io::stdout(), "{}", done.text);
            }
            if let Some(complaint) = done.complaint {
                eprintln!("rainstormctl: {complaint}");
            }
            ExitCode::from(done.code)
        }
        Err(error) => {
            eprintln!("rainstormctl: {error}");
            ExitCode::from(error.code())
        }
    }
}
