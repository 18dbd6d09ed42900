//! Completion: which words there are and what their arguments are is asked of the command line's own grammar, so that a word
//! that is added later is completed too; what jobs, tasks, nodes and files there are is asked of the cluster.

use std::cell::RefCell;
use std::time::Duration;

use clap::{Arg, Command};
use common::clock::{self, Time};
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::{Context, Helper, Highlighter, Hinter, Validator};
use tokio::runtime::Runtime;

use crate::console::{Console, STORE_PATIENCE};
use api::find::ask_all;
use api::wire::{Request, TaskRow};
use job::journal;

/// Tab does not keep anybody waiting.
const WITHIN: Duration = Duration::from_millis(800);
/// What the cluster said is taken for true so long.
const FRESH: Duration = Duration::from_secs(2);
const MOST: usize = 300;
/// Of a job that is started here; `leader --help` explains them.
const LEADER_OPTIONS: [&str; 15] = [
    "--append",
    "--follow",
    "--format",
    "--job",
    "--launcher",
    "--max-restarts",
    "--max-tasks",
    "--on",
    "--op-timeout",
    "--overwrite",
    "--poison",
    "--productions",
    "--scale-stateful",
    "--standbys",
    "--system",
];

/// What there is.
pub trait Known {
    /// Running jobs and those that have a journal.
    fn jobs(&self) -> Vec<String>;
    fn tasks(&self) -> Vec<TaskRow>;
    fn nodes(&self) -> Vec<String>;
    /// HyDFS files whose names begin so.
    fn files(&self, prefix: &str) -> Vec<String>;
}

#[derive(Helper, Highlighter, Hinter, Validator)]
pub struct Completing<K: Known> {
    grammar: Command,
    known: K,
    local: FilenameCompleter,
}

/// What an argument names.
enum Names {
    Local,
    Some(Vec<String>),
}

impl<K: Known> Completing<K> {
    pub fn new(grammar: Command, known: K) -> Self {
        Self {
            grammar,
            known,
            local: FilenameCompleter::new(),
        }
    }

    fn words(&self) -> Vec<String> {
        let words = self.grammar.get_subcommands().filter(|c| !c.is_hide_set());
        let words = words.map(|c| c.get_name().to_owned());
        let mut words: Vec<String> = words.chain(["exit".into(), "help".into()]).collect();
        words.sort();
        words.dedup();
        words
    }

    /// What `last`, after the finished words `before`, may become.
    fn names(&self, before: &[&str], last: &str) -> Names {
        let Some((first, given)) = before.split_first() else {
            return Names::Some(self.words());
        };
        if *first == "help" {
            return Names::Some(self.words());
        }
        let Some(command) = self.grammar.find_subcommand(first) else {
            return Names::Some(vec![]);
        };
        let option = |word: &str| {
            command.get_arguments().find(|arg| {
                let long = arg.get_long().is_some_and(|long| word == format!("--{long}"));
                long || arg.get_short().is_some_and(|short| word == format!("-{short}"))
            })
        };
        let takes_value = |arg: &Arg| arg.get_action().takes_values();
        if let Some(arg) = given
            .last()
            .and_then(|word| option(word))
            .filter(|arg| takes_value(arg))
        {
            return self.values(arg, given);
        }
        if *first == "rainstorm" {
            return match last.chars().next() {
                Some('-') if given.iter().all(|word| word.starts_with('-')) => {
                    Names::Some(LEADER_OPTIONS.map(str::to_owned).to_vec())
                }
                Some('.' | '/') => Names::Local,
                _ => Names::Some(self.known.files("")),
            };
        }
        if last.starts_with('-') {
            let longs = command.get_arguments().filter(|arg| !arg.is_hide_set());
            let longs = longs.filter_map(|arg| arg.get_long());
            return Names::Some(longs.map(|long| format!("--{long}")).collect());
        }
        let (mut at, mut values) = (0, given.iter());
        while let Some(word) = values.next() {
            match option(word) {
                Some(arg) if takes_value(arg) => drop(values.next()),
                _ if word.starts_with('-') => {}
                _ => at += 1,
            }
        }
        let positionals: Vec<&Arg> = command.get_positionals().collect();
        // The last may be given many times.
        let many = |arg: &&Arg| arg.get_num_args().is_some_and(|n| n.max_values() > 1);
        let last = || positionals.last().filter(|arg| many(arg));
        match positionals.get(at).or_else(last) {
            Some(arg) => self.values(arg, given),
            None => Names::Some(vec![]),
        }
    }

    fn values(&self, arg: &Arg, given: &[&str]) -> Names {
        let possible = arg.get_possible_values();
        if !possible.is_empty() {
            return Names::Some(possible.iter().map(|v| v.get_name().to_owned()).collect());
        }
        let of = |row: &TaskRow, word: &&str| row.job.as_str() == *word || row.node.as_str() == *word;
        // Those of the job, or on the node, that is named already.
        let tasks = || {
            let tasks = self.known.tasks();
            let some: Vec<TaskRow> = tasks
                .iter()
                .filter(|row| given.iter().any(|w| of(row, w)))
                .cloned()
                .collect();
            if some.is_empty() { tasks } else { some }
        };
        Names::Some(match arg.get_id().as_str() {
            "local" | "file" => return Names::Local,
            "job" => self.known.jobs(),
            "task" => tasks().iter().map(|row| row.task.to_string()).collect(),
            "pid" => tasks()
                .iter()
                .filter_map(|row| row.pid.map(|pid| pid.to_string()))
                .collect(),
            "node" | "of" | "replica" => self.known.nodes(),
            "words" => self.known.nodes(),
            "name" | "prefix" => self.known.files(""),
            _ => vec![],
        })
    }
}

impl<K: Known> Completer for Completing<K> {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let line = &line[..pos];
        let start = line.rfind(char::is_whitespace).map_or(0, |i| i + 1);
        let last = &line[start..];
        let before: Vec<&str> = line[..start].split_whitespace().collect();
        let mut names = match self.names(&before, last) {
            Names::Local => return self.local.complete(line, pos, context),
            Names::Some(names) => names,
        };
        names.retain(|name| name.starts_with(last));
        names.sort();
        names.dedup();
        names.truncate(MOST);
        let only = names.len() == 1;
        let pair = |name: String| Pair {
            replacement: match (only, shell_words::quote(&name)) {
                (true, quoted) => format!("{quoted} "),
                (false, _) => name.clone(),
            },
            display: name,
        };
        Ok((start, names.into_iter().map(pair).collect()))
    }
}

/// The cluster as it is.
pub struct Live<'a> {
    console: &'a Console,
    runtime: &'a Runtime,
    tasks: RefCell<Option<(Time, Vec<TaskRow>)>>,
    files: RefCell<Option<(Time, Vec<String>)>>,
}

impl<'a> Live<'a> {
    pub fn new(console: &'a Console, runtime: &'a Runtime) -> Self {
        Self {
            console,
            runtime,
            tasks: RefCell::default(),
            files: RefCell::default(),
        }
    }
}

/// What was said a moment ago, or what is said now; nothing when that takes too long.
fn fresh<T: Clone>(kept: &RefCell<Option<(Time, Vec<T>)>>, ask: impl FnOnce() -> Vec<T>) -> Vec<T> {
    let now = clock::now();
    if let Some((at, known)) = &*kept.borrow()
        && now.since(*at) < FRESH
    {
        return known.clone();
    }
    let known = ask();
    kept.replace(Some((now, known.clone())));
    known
}

impl Known for Live<'_> {
    fn jobs(&self) -> Vec<String> {
        let running = self.tasks().into_iter().map(|row| row.job.to_string());
        let kept = self
            .files("jobs/")
            .into_iter()
            .filter_map(|file| Some(journal::job_of(&file)?.to_string()));
        running.chain(kept).collect()
    }

    fn tasks(&self) -> Vec<TaskRow> {
        fresh(&self.tasks, || {
            let ask = ask_all(&self.console.cluster, &self.console.me, Request::List);
            let asked = self
                .runtime
                .block_on(async { tokio::time::timeout(WITHIN, ask).await });
            asked.unwrap_or_default().tasks()
        })
    }

    fn nodes(&self) -> Vec<String> {
        self.console
            .cluster
            .nodes
            .iter()
            .map(|n| n.name.to_string())
            .collect()
    }

    fn files(&self, prefix: &str) -> Vec<String> {
        let all = fresh(&self.files, || {
            let client = self.console.store().with_patience(STORE_PATIENCE.min(WITHIN));
            let found = self
                .runtime
                .block_on(async { tokio::time::timeout(WITHIN, client.find("")).await });
            match found {
                Ok(Ok(found)) => found.into_iter().map(|e| e.file).collect(),
                _ => vec![],
            }
        });
        all.into_iter().filter(|file| file.starts_with(prefix)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::wire::Kind;
    use clap::CommandFactory;
    use common::ids::{Epoch, JobName, NodeName, TaskId};
    use rustyline::history::DefaultHistory;

    struct Fixed;

    impl Known for Fixed {
        fn jobs(&self) -> Vec<String> {
            vec!["alpha".into(), "beta".into()]
        }
        fn tasks(&self) -> Vec<TaskRow> {
            let row = |job: &str, node: &str, index, pid| TaskRow {
                job: JobName::new(job).unwrap(),
                task: TaskId::new(1, index),
                stage: 1,
                node: NodeName::new(node).unwrap(),
                pid: Some(pid),
                op: "grep".into(),
                kind: Kind::Filter,
                epoch: Epoch(1),
                state: "running".into(),
                log: String::new(),
                in_per_s: 0.0,
            };
            vec![row("alpha", "n1", 0, 71), row("beta", "n2", 1, 72)]
        }
        fn nodes(&self) -> Vec<String> {
            vec!["n1".into(), "n2".into()]
        }
        fn files(&self, _: &str) -> Vec<String> {
            vec!["in/a".into(), "in/b c".into(), "out".into()]
        }
    }

    fn complete(line: &str) -> Vec<String> {
        let completing = Completing::new(super::super::Line::command(), Fixed);
        let history = DefaultHistory::new();
        let (_, pairs) = completing
            .complete(line, line.len(), &Context::new(&history))
            .unwrap();
        pairs.into_iter().map(|pair| pair.replacement).collect()
    }

    #[test]
    fn words_jobs_tasks_nodes_and_files_are_completed() {
        assert_eq!(complete("list_t"), ["list_tasks "]);
        assert!(complete("").contains(&"create".to_owned()));
        assert!(!complete("").contains(&"host".to_owned()), "it is hidden");
        assert_eq!(complete("help ver"), ["verify "]);
        assert_eq!(complete("status "), ["alpha", "beta"]);
        assert_eq!(complete("status --j"), ["--json "]);
        assert_eq!(complete("log beta "), ["s1t1 "]);
        assert_eq!(complete("log --json alpha "), ["s1t0 "]);
        assert_eq!(complete("kill_task "), ["n1", "n2"]);
        assert_eq!(complete("kill_task n1 "), ["71 "]);
        assert_eq!(complete("list_mem --node n"), ["n1", "n2"]);
        assert_eq!(complete("cat o"), ["out "]);
        assert_eq!(complete("cat in/b"), ["'in/b c' "]);
        assert!(complete("nonsense ").is_empty());
        assert_eq!(complete("rainstorm --fol"), ["--follow "]);
        assert_eq!(complete("rainstorm 1 1 identity '' o"), ["out "]);
        assert_eq!(complete("stop a"), ["alpha "]);
        assert_eq!(complete("attach --from-start be"), ["beta "]);
        assert!(complete("verify alpha ").is_empty());
    }
}
