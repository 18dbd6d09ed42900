//! `rainstormctl`: the operator's console.
//!
//! ```text
//!   args --> run --+--> prompt --+--> console --> jobs, rates, history, forget, log, verify, members, kill, grep, top
//!                  +-------------+
//!                  +--> serve: the node's page, /api, /metrics; what has to go goes
//! ```

mod args;
mod attach;
mod console;
mod files;
mod forget;
mod grep;
mod history;
mod jobs;
mod kill;
mod log;
mod members;
mod outcome;
mod prompt;
mod rates;
mod serve;
mod show;
mod top;
mod verify;

use launcher::host;
use tokio::runtime::Runtime;

use args::ConsoleCommand;
pub use args::{Args, parse};
use console::{Console, carry_out, tell};
use outcome::{Done, Error};

/// Carries out the word, or all words at the prompt; returns the exit code.
pub fn run(args: Args, runtime: &Runtime) -> u8 {
    if let Some(ConsoleCommand::Host { node, .. }) = args.word {
        // It needs nothing of the cluster file: its orders say all.
        return tell(
            host::begin()
                .and_then(|()| runtime.block_on(host::serve(node, tokio::io::stdin(), tokio::io::stdout())))
                .map(|()| Done::default())
                .map_err(Error::from),
        );
    }
    if let Some(ConsoleCommand::Serve { node }) = args.word {
        return tell(serve::run(args.cluster.as_deref(), node, runtime).map(|()| Done::default()));
    }
    let console = match Console::new(args.cluster.as_deref()) {
        Ok(console) => console,
        Err(error) => return tell(Err(error)),
    };
    match args.word {
        Some(word) => carry_out(&console, runtime, word),
        None => prompt::run(&console, runtime),
    }
}
