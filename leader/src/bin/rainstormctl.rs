//! The operator's console. See [`leader::ctl`].

use std::process::ExitCode;

fn main() -> ExitCode {
    let args = leader::ctl::parse(std::env::args_os());
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("rainstormctl: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = leader::ctl::run(args, &runtime);
    // A read of standard input that waits is not waited for.
    runtime.shutdown_background();
    ExitCode::from(code)
}
