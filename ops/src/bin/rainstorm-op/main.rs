//! `rainstorm-op`: runs an operator that comes with RainStorm on its own, from standard input to standard output.
//!
//! Lines are the tuples `<stdin:1, line>`, `<stdin:2, line>`, ...; output is `key<TAB>value`. Started under an
//! operator's name (a link `grep -> rainstorm-op`), it is that operator. Started by RainStorm as a foreign executable it
//! speaks the batch protocol: a way to see what that costs.

mod bench;

use std::path::Path;
use std::process::ExitCode;

use common::output::{self, complain};
use ops::foreign;

fn main() -> ExitCode {
    let mut args = std::env::args_os().map(|a| a.to_string_lossy().into_owned());
    let own_name = args.next().unwrap_or_default();
    let linked = Path::new(&own_name)
        .file_name()
        .and_then(|n| n.to_str())
        .filter(|n| ops::kind_of(n).is_some());
    let mut args: Vec<String> = args.collect();
    let name = match linked {
        Some(name) => name.to_owned(),
        None if args.is_empty() => {
            eprint!("{}", help());
            return ExitCode::from(2);
        }
        None => args.remove(0),
    };
    if linked.is_none() && matches!(name.as_str(), "--help" | "-h" | "help") {
        return print(&help());
    }
    if linked.is_none() && matches!(name.as_str(), "--version" | "-V") {
        return print(concat!("rainstorm-op ", env!("CARGO_PKG_VERSION"), "\n"));
    }
    if args.first().is_some_and(|a| a == "--help")
        && let (Some(usage), Some((about, example))) = (ops::usage(&name), ops::about(&name))
    {
        return print(&format!(
            "{name}: {about}\nusage:   {usage}\nexample: {example}\n{KEYS}"
        ));
    }
    if linked.is_none() && name == "bench-foreign" {
        return bench::main(&args);
    }
    let mut operator = match ops::builtin(&name, &args) {
        Ok(operator) => operator,
        Err(e) => {
            common::output::complain(format!("rainstorm-op: {e}"));
            return ExitCode::from(2);
        }
    };
    let asked = [foreign::DESCRIBE, foreign::PROTOCOL];
    if let Some(kind) = ops::kind_of(&name)
        && asked.iter().any(|name| std::env::var_os(name).is_some())
    {
        let program = ops::sdk::builtin(operator, kind);
        // As a process it is given other batches than the task has.
        let by_batch = args.windows(2).any(|w| w == ["--emit", "batch"]);
        return ops::sdk::run(match by_batch || args.iter().any(|a| a == "--emit=batch") {
            true => program.not_deterministic(),
            false => program,
        });
    }
    match ops::lines::run(&mut *operator) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            common::output::complain(format!("rainstorm-op: {name}: {e}"));
            ExitCode::from(1)
        }
    }
}

const KEYS: &str = "\n\
--key KEY  the output's key: same (the input's, the default), value, word:N, field:N, const:TEXT\n\
-d SEP     what separates columns and fields (default a comma; '\\t' is a tab)\n\
--csv      columns may be quoted (RFC 4180)\n\
Words, fields and columns are counted from 0.\n";

fn help() -> String {
    let mut text =
        "rainstorm-op OPERATOR [ARGS]: runs an operator on the lines of standard input\n\n".to_owned();
    for name in ops::names() {
        if let (Some(usage), Some((about, example))) = (ops::usage(name), ops::about(name)) {
            text.push_str(&format!("{usage}\n    {about}\n    example: {example}\n"));
        }
    }
    text + KEYS + "\n" + bench::USAGE
}

fn print(text: &str) -> ExitCode {
    match output::print(text) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(format_args!("rainstorm-op: {error}"));
            ExitCode::from(1)
        }
    }
}
