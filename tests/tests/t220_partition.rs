//! Storage nodes in network namespaces, cut in two: the smaller side acknowledges nothing new, who was replaced stays so, nothing forks, and
//! healing needs no hand. (faults.md: partition between nodes)

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use system_tests::storage::Storage;
use system_tests::wait_for;

const LONG: Duration = Duration::from_secs(60);

/// A process that appends, and what it said.
struct Writer {
    child: Child,
    input: ChildStdin,
    said: Arc<Mutex<Vec<String>>>,
}

impl Writer {
    fn start(storage: &Storage, node: usize, file: &str, epoch: u64) -> Result<Self> {
        let mut command = storage.on(node, Path::new(env!("CARGO_BIN_EXE_writer")));
        command.args([&format!("n{node}"), file, "job", &epoch.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().context("its input")?;
        let out = BufReader::new(child.stdout.take().context("its output")?);
        let said = Arc::new(Mutex::new(Vec::new()));
        let heard = said.clone();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                heard.lock().unwrap().push(line);
            }
        });
        Ok(Self { child, input, said })
    }

    fn append(&mut self, text: &str) -> Result<()> {
        Ok(writeln!(self.input, "{text}")?)
    }

    /// The number behind the last line that begins with this word.
    fn last(&self, word: &str) -> Option<u64> {
        let said = self.said.lock().unwrap();
        let line = said
            .iter()
            .rev()
            .find_map(|l| l.strip_prefix(word)?.strip_prefix(' ').map(str::to_owned));
        line.and_then(|n| n.parse().ok())
    }

    fn wait(&self, word: &str, at_least: u64) -> Result<u64> {
        wait_for(&format!("`{word}` of {at_least}"), LONG, || {
            let said = self.said.lock().unwrap();
            let failed = said.iter().find(|l| l.starts_with("failed")).cloned();
            drop(said);
            ensure!(failed.is_none(), "{failed:?}");
            Ok(self.last(word).filter(|n| *n >= at_least))
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A file that this node coordinates.
fn file_of(storage: &Storage, node: usize) -> Result<String> {
    for i in 0..200 {
        let name = format!("part/{i}");
        storage.hydfs_ok(1, &["create", "/dev/null", &name])?;
        let place = storage.hydfs_ok(1, &["ls", &name])?;
        if place
            .lines()
            .nth(1)
            .is_some_and(|l| l.starts_with(&format!("n{node}\t")))
        {
            return Ok(name);
        }
    }
    anyhow::bail!("no file of n{node}'s")
}

#[test]
fn t221_a_minority_acknowledges_nothing_and_what_was_replaced_stays_so() -> Result<()> {
    let Some(mut storage) = Storage::in_namespaces(5, "")? else {
        return Ok(());
    };
    storage.start_all(true)?;
    let file = file_of(&storage, 1)?;
    let mut old = Writer::start(&storage, 1, &file, 1)?;
    let mut begun = String::new();
    for i in 0..50 {
        old.append(&format!("old {i}"))?;
        begun.push_str(&format!("old {i}\n"));
    }
    old.wait("acked", begun.len() as u64)?;

    // The coordinator with one other on one side, in the middle of appends.
    for i in 0..2000 {
        old.append(&format!("late {i}"))?;
    }
    storage.part(&[1, 2])?;
    let mut new = Writer::start(&storage, 3, &file, 2)?;
    let taken = new.wait("open", begun.len() as u64)?;
    new.append("new 0")?;
    let first = new.wait("acked", taken + 6)?;
    ensure!(
        first == taken + 6,
        "one line was appended, {taken} became {first}"
    );
    // Nothing that the old one was told lies behind what the new one found; nor does the smaller side take anything else.
    for i in 0..20 {
        old.append(&format!("zombie {i}"))?;
    }
    std::fs::write(storage.path("line"), "from the smaller side\n")?;
    let refused = storage.hydfs(1, &["--patience", "3", "append", "line", &file])?;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success(), "a minority has acknowledged an append");
    ensure!(why.contains("majority") || why.contains("unavailable"), "{why}");
    let acked = old.last("acked").unwrap_or(0);
    ensure!(
        acked <= taken,
        "acknowledged {acked} to the old one, the new one found {taken}"
    );
    for i in 1..50 {
        new.append(&format!("new {i}"))?;
    }
    let end = taken + (0..50).map(|i| format!("new {i}\n").len() as u64).sum::<u64>();
    new.wait("acked", end)?;

    storage.part(&[])?;
    wait_for("the old one to be told that it was replaced", LONG, || {
        Ok(old
            .said
            .lock()
            .unwrap()
            .iter()
            .any(|l| l == "fenced")
            .then_some(()))
    })?;
    ensure!(
        old.last("acked").unwrap_or(0) <= taken,
        "acknowledged after it was replaced"
    );
    for node in 1..=5 {
        storage.wait_alive(node, 5)?;
    }
    wait_for("three whole copies", LONG, || {
        let stat = storage.hydfs_ok(1, &["stat", "--json", &file])?;
        Ok(stat
            .replace(' ', "")
            .contains("\"under_replicated\":false")
            .then_some(()))
    })?;
    // One history, the same from everywhere: the old one's lines up to where it was cut off, whole, then the new one's.
    let text = storage.hydfs_ok(1, &["cat", &file])?;
    ensure!(
        text.len() as u64 == end && text.starts_with(&begun),
        "{} bytes, {end} expected",
        text.len()
    );
    let olds: String = (0..2000).map(|i| format!("late {i}\n")).collect();
    let (before, after) = text.split_at(taken as usize);
    ensure!(
        olds.starts_with(&before[begun.len()..]) && !text.contains("zombie"),
        "not the old one's lines"
    );
    let news: String = (0..50).map(|i| format!("new {i}\n")).collect();
    ensure!(after == news, "not the new one's lines: {after}");
    for node in 2..=5 {
        ensure!(
            storage.hydfs_ok(node, &["cat", &file])? == text,
            "n{node} reads something else"
        );
    }
    Ok(())
}
