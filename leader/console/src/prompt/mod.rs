//! `rainstormctl` started bare: the same words, one line each, until the input ends. On a terminal with a line editor that
//! remembers and completes.

mod complete;

use std::ffi::OsString;
use std::io::{self, BufRead, IsTerminal};
use std::path::PathBuf;

use clap::{CommandFactory, Parser};
use common::output::{self, complain};
use common::signals::{self, Stopper};
use rustyline::config::{BellStyle, CompletionType};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor};
use tokio::runtime::Runtime;

use crate::args::{ConsoleCommand, as_meant};
use crate::console::{self, Console, tell};
use complete::{Completing, Live};

const PROMPT: &str = "rainstorm> ";
const REMEMBERED: usize = 1000;
/// Bad usage.
const USAGE: u8 = 2;
/// Interrupted, as shells have it.
const INTERRUPTED: u8 = 130;
/// Codes above it are of words that a signal has stopped.
const STOPPED: u8 = 128;

const MORE_HELP: &str = "\
`help WORD` says more of a word. Tab completes words, jobs, tasks, nodes and files; the up key and Ctrl-R find earlier
lines; Ctrl-C stops what runs; exit, quit or Ctrl-D ends.";

/// One line.
#[derive(Debug, Parser)]
#[command(
    no_binary_name = true,
    name = "rainstormctl",
    override_usage = "WORD [ARGUMENTS]",
    after_help = MORE_HELP
)]
struct Line {
    #[command(subcommand)]
    word: ConsoleCommand,
}

/// What a line asks for.
enum PromptInput {
    Nothing,
    Exit,
    Command(Box<ConsoleCommand>),
    /// Said already.
    Refused(u8),
}

/// Reads words until the input ends; returns the exit code of the last one that failed, else 0.
pub fn run(console: &Console, runtime: &Runtime) -> u8 {
    match io::stdin().is_terminal() && io::stdout().is_terminal() {
        true => on_terminal(console, runtime),
        false => from_input(console, runtime),
    }
}

fn parse(line: &str) -> PromptInput {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return PromptInput::Nothing;
    }
    let words = match shell_words::split(line) {
        Ok(words) => words,
        Err(error) => {
            complain(format_args!("rainstormctl: {error}: {line}"));
            return PromptInput::Refused(USAGE);
        }
    };
    if let [only] = words.as_slice()
        && (only == "exit" || only == "quit")
    {
        return PromptInput::Exit;
    }
    let words = as_meant(words.into_iter().map(OsString::from).collect(), 0);
    match Line::try_parse_from(words) {
        Ok(line) => PromptInput::Command(Box::new(line.word)),
        Err(error) => {
            let code = if error.use_stderr() { USAGE } else { 0 };
            match output::code_of("rainstormctl", error.print(), code) {
                0 => PromptInput::Nothing,
                code => PromptInput::Refused(code),
            }
        }
    }
}

/// A script: nothing but the words' own output.
fn from_input(console: &Console, runtime: &Runtime) -> u8 {
    let mut code = 0;
    for line in io::stdin().lock().lines() {
        let line = match line {
            Ok(line) => line,
            Err(error) => {
                complain(format_args!("rainstormctl: standard input: {error}"));
                return USAGE;
            }
        };
        let failed = match parse(&line) {
            PromptInput::Nothing => 0,
            PromptInput::Exit => break,
            PromptInput::Refused(failed) => failed,
            // It would take the lines that follow for its data.
            PromptInput::Command(word) if word.reads_standard_input() => {
                eprintln!(
                    "rainstormctl: `{}`: `-` is where these lines come from; name a file",
                    line.trim()
                );
                USAGE
            }
            PromptInput::Command(word) => {
                let code = console::carry_out(console, runtime, *word);
                // A script that was stopped does not go on with its next line.
                if code > STOPPED {
                    return code;
                }
                code
            }
        };
        code = if failed == 0 { code } else { failed };
    }
    code
}

fn on_terminal(console: &Console, runtime: &Runtime) -> u8 {
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .bell_style(BellStyle::None)
        .auto_add_history(true)
        .max_history_size(REMEMBERED)
        .and_then(|builder| builder.history_ignore_dups(true))
        .map(|builder| builder.history_ignore_space(true).build());
    let editor = config.and_then(Editor::<Completing<Live<'_>>, FileHistory>::with_config);
    let mut editor = match editor {
        Ok(editor) => editor,
        Err(error) => {
            complain(format_args!("rainstormctl: {error}"));
            return USAGE;
        }
    };
    editor.set_helper(Some(Completing::new(
        Line::command(),
        Live::new(console, runtime),
    )));
    let remembered = history_file();
    if let Some(file) = &remembered {
        // None yet.
        let _ = editor.load_history(file);
    }
    let hello = format!(
        "RainStorm, {} nodes of {}; `help` lists the words\n",
        console.cluster.nodes.len(),
        console.cluster.path.display()
    );
    if let Err(error) = output::print(&hello) {
        return tell(Err(error.into()));
    }
    let mut code = 0;
    loop {
        let line = match editor.readline(PROMPT) {
            Ok(line) => line,
            // The line is given up.
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => {
                complain(format_args!("rainstormctl: {error}"));
                break;
            }
        };
        if let Some(file) = &remembered {
            // A session that is killed later keeps what it has.
            let _ = editor.append_history(file);
        }
        let failed = match parse(&line) {
            PromptInput::Nothing => 0,
            PromptInput::Exit => break,
            PromptInput::Refused(failed) => failed,
            PromptInput::Command(word) => carry_out(console, runtime, *word),
        };
        code = if failed == 0 { code } else { failed };
    }
    code
}

/// Until it is done, or Ctrl-C: what leaves nothing behind is given up at once, and the rest at the second.
fn carry_out(console: &Console, runtime: &Runtime, word: ConsoleCommand) -> u8 {
    let tidies = matches!(word, ConsoleCommand::Store(_));
    let done = runtime.block_on(async {
        let (stopper, stop) = Stopper::new();
        let mut done = std::pin::pin!(console.carry_out(word, &stop));
        tokio::select! {
            done = &mut done => return Some(done),
            _ = tokio::signal::ctrl_c() => stopper.ask(signals::Asked::Interrupt),
        }
        if !tidies {
            return None;
        }
        tokio::select! {
            done = done => Some(done),
            _ = tokio::signal::ctrl_c() => None,
        }
    });
    match done {
        Some(done) => tell(done),
        None => {
            complain("");
            INTERRUPTED
        }
    }
}

/// Where lines are remembered, as the XDG folders have it; its folder is made.
fn history_file() -> Option<PathBuf> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")))?;
    let folder = state.join("rainstorm");
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder.join("history"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_words_comments_or_mistakes() {
        Line::command().debug_assert();
        assert!(matches!(parse("  "), PromptInput::Nothing));
        assert!(matches!(parse("# list_tasks"), PromptInput::Nothing));
        assert!(matches!(parse("exit"), PromptInput::Exit));
        assert!(matches!(parse("list_tasks j --json"), PromptInput::Command(_)));
        assert!(matches!(parse("grep -c 'a b'"), PromptInput::Command(_)));
        assert!(matches!(parse("grep 'a b"), PromptInput::Refused(USAGE)));
        assert!(matches!(parse("lst_tasks"), PromptInput::Refused(USAGE)));
        let reads = |line: &str| match parse(line) {
            PromptInput::Command(word) => word.reads_standard_input(),
            _ => panic!("{line}"),
        };
        assert!(reads("create - x") && reads("append - x"));
        assert!(!reads("get x -") && !reads("create a x") && !reads("grep -"));
    }
}
