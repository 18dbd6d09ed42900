//! The operator's console. See [`rainstormctl`].

use std::process::ExitCode;

use common::output::{self, complain};

fn main() -> ExitCode {
    common::open_files::raise_limit();
    let args = match rainstormctl::parse(std::env::args_os()) {
        Ok(args) => args,
        Err(text) => {
            let code = text.exit_code() as u8;
            return ExitCode::from(output::code_of("rainstormctl", text.print(), code));
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format_args!("rainstormctl: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = rainstormctl::run(args, &runtime);
    // A read of standard input that waits is not waited for.
    runtime.shutdown_background();
    ExitCode::from(code)
}
