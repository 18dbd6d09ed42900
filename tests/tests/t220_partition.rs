//! Storage nodes in network namespaces, cut in two, or in one direction: the smaller side acknowledges nothing new, who was replaced stays
//! so, nothing forks, and healing needs no hand. (faults.md: partition between nodes; one-way loss)

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use system_tests::records::{Load, SIZE, judge};
use system_tests::storage::Storage;
use system_tests::{PATIENCE, now, wait_for};

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
        wait_for(&format!("`{word}` of {at_least}"), PATIENCE, || {
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
    wait_for("the old one to be told that it was replaced", PATIENCE, || {
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
    wait_for("three whole copies", PATIENCE, || {
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

/// What is sent from one to the other of each pair is lost, one set of pairs after the other, while a client on each node
/// appends: it goes on each time, and in the end all that was acknowledged is there.
#[test]
fn t222_one_way_loss_between_storage_nodes() -> Result<()> {
    let Some(mut storage) = Storage::in_namespaces(5, "")? else {
        return Ok(());
    };
    storage.start_all(true)?;
    let file = file_of(&storage, 1)?;
    let place = storage.hydfs_ok(1, &["ls", &file])?;
    let replicas: Vec<usize> = place
        .lines()
        .skip(1)
        .filter_map(|l| l.strip_prefix('n')?.split('\t').next()?.parse().ok())
        .collect();
    let &[first, second, third] = replicas.as_slice() else {
        anyhow::bail!("not three replicas: {place}");
    };
    let outside = (1..=5).find(|n| !replicas.contains(n)).context("five nodes")?;
    let others = || (1..=5).filter(|n| *n != first);
    let losses: [Vec<(usize, usize)>; 5] = [
        vec![(second, first)],
        vec![(first, second)],
        vec![(second, first), (first, third)],
        others().map(|n| (first, n)).collect(),
        others().map(|n| (n, first)).collect(),
    ];
    let clients: Vec<Load> = (0..5)
        .map(|c| Load::start(storage.on(c + 1, Path::new("hydfs-load")), &file, c, 45))
        .collect::<Result<_>>()?;
    let length = || -> Result<u64> {
        let stat = storage.hydfs(outside, &["--patience", "2", "stat", &file, "--json"])?;
        let stat: serde_json::Value = serde_json::from_slice(&stat.stdout).unwrap_or_default();
        Ok(stat["len"].as_u64().unwrap_or(0))
    };
    wait_for(
        "the first appends",
        PATIENCE,
        || Ok((length()? > 0).then_some(())),
    )?;
    for pairs in &losses {
        for (from, to) in pairs {
            storage.lose(*from, *to)?;
        }
        let begun = now();
        wait_for("what was on its way to get there", Duration::from_secs(3), || {
            Ok((now() - begun > Duration::from_secs(1)).then_some(()))
        })?;
        let (mut reached, mut steps) = (length()?, 0);
        wait_for(
            &format!("appends to go on without {pairs:?}"),
            Duration::from_secs(12),
            || {
                let here = length()?;
                if here > reached + 100 * SIZE as u64 {
                    (reached, steps) = (here, steps + 1);
                }
                Ok((steps == 3).then_some(()))
            },
        )
        .with_context(|| format!("n{first} says: {}", storage.log(first)))?;
        eprintln!("{pairs:?} lost: went on within {:?}", now() - begun);
        for (from, to) in pairs {
            storage.lose_no_more(*from, *to)?;
        }
        for node in 1..=5 {
            storage.wait_alive(node, 5)?;
        }
    }
    let acked: Vec<usize> = clients.into_iter().map(Load::finish).collect::<Result<_>>()?;
    for node in 1..=5 {
        storage.wait_alive(node, 5)?;
    }
    wait_for("three whole copies, the same", PATIENCE, || {
        let said = storage.hydfs(outside, &["merge", &file])?;
        Ok(String::from_utf8_lossy(&said.stdout)
            .contains("3 replicas identical")
            .then_some(()))
    })?;
    storage.hydfs_ok(outside, &["get", &file, "got"])?;
    judge(&std::fs::read(storage.path("got"))?[..], &acked)
}
