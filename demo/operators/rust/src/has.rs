//! A filter in a few lines: passes the values that hold the text given as its argument.

use std::process::ExitCode;

use ops::sdk::{self, Tuple};

fn main() -> ExitCode {
    let Some(text) = std::env::args().nth(1).filter(|text| !text.is_empty()) else {
        eprintln!("has TEXT: which text is to be looked for?");
        return ExitCode::from(2);
    };
    let finder = memchr::memmem::Finder::new(&text).into_owned();
    sdk::run(sdk::filter(move |tuple: Tuple<'_>| finder.find(tuple.value).is_some()).values_only())
}
