//! Runs one job. See [`leader::driver`].

use std::process::ExitCode;
use std::time::Duration;

use common::output::{self, complain};
use leader::cli::{self, Parsed};
use leader::{detach, driver};

fn main() -> ExitCode {
    common::open_files::raise_limit();
    let started_us = common::clock::unix_micros();
    let request = match cli::parse(std::env::args_os()) {
        Ok(Parsed::Request(request)) => *request,
        Ok(Parsed::Print(text)) => {
            let code = if text.use_stderr() { 2 } else { 0 };
            return ExitCode::from(output::code_of("leader", text.print(), code));
        }
        Err(error) => return refuse(&error),
    };
    match request.detach {
        Some(cli::Detach::Starter) => return detach::start(),
        Some(cli::Detach::Leader) => detach::leave_terminal(),
        None => {}
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format_args!("leader: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(driver::run(request, started_us));
    // A write to a standard output that nobody reads may still hang.
    runtime.shutdown_timeout(Duration::from_millis(200));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(driver::Error::Usage(error)) => refuse(&error),
        Err(error) => {
            complain(format_args!("leader: {error}"));
            // A wrong cluster file or node is bad usage as well.
            if matches!(error, driver::Error::Cluster(_)) {
                ExitCode::from(2)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn refuse(error: &cli::Error) -> ExitCode {
    complain(format_args!(
        "leader: {error}\n  an example that works: {}\n  all of it: leader --help",
        error.example()
    ));
    ExitCode::from(2)
}
