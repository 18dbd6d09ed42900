//! The records that `hydfs-load append` writes, and what must be true of a file of them.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// Bytes of a record.
pub const SIZE: usize = 1024;

/// What `hydfs-load append` says of its one client.
#[derive(Debug, Deserialize)]
struct Said {
    acked: Vec<usize>,
    errors: Vec<String>,
}

/// A client that appends records to a file, eight under way; it ends with the test.
pub struct Load(Option<Child>);

impl Load {
    /// `hydfs_load` is that program, told about its cluster; the client's name is `c` and its number.
    pub fn start(mut hydfs_load: Command, file: &str, client: usize, seconds: u64) -> Result<Self> {
        let (name, size, seconds) = (format!("c{client}"), SIZE.to_string(), seconds.to_string());
        hydfs_load
            .args(["append", file, "--window", "8", "--name", &name])
            .args(["--size", &size, "--seconds", &seconds]);
        let child = hydfs_load.stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Self(Some(child.spawn()?)))
    }

    pub fn has_ended(&mut self) -> Result<bool> {
        match &mut self.0 {
            Some(child) => Ok(child.try_wait()?.is_some()),
            None => Ok(true),
        }
    }

    /// Waits for its end, which must be a good one: how many of its records were acknowledged.
    pub fn finish(mut self) -> Result<usize> {
        let out = self.0.take().context("it ends once")?.wait_with_output()?;
        let complaint = String::from_utf8_lossy(&out.stderr).into_owned();
        let said: Said = serde_json::from_slice(&out.stdout).with_context(|| complaint.clone())?;
        ensure!(
            said.errors.is_empty() && out.status.success(),
            "{:?} {complaint}",
            said.errors
        );
        said.acked
            .first()
            .copied()
            .context("it says nothing of its client")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The file holds the records of clients `c0`, `c1`, ..., each client's from the first on, whole, in order, none twice, and at least those
/// acknowledged.
pub fn judge(mut file: impl BufRead, acked: &[usize]) -> Result<()> {
    let mut next: BTreeMap<String, usize> = BTreeMap::new();
    let mut line = Vec::new();
    while file.read_until(b'\n', &mut line)? > 0 {
        let text = std::str::from_utf8(&line)?;
        let mut words = text.split(' ');
        let (client, number) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let expected = next.entry(client.to_owned()).or_default();
        ensure!(
            described(client, *expected).as_bytes() == line,
            "after {expected} records of {client} comes {client} {number}: {text:.80}"
        );
        *expected += 1;
        line.clear();
    }
    for (c, acked) in acked.iter().enumerate() {
        let there = next.get(&format!("c{c}")).copied().unwrap_or(0);
        ensure!(
            there >= *acked && *acked > 0,
            "client c{c}: {acked} acknowledged, {there} there"
        );
    }
    ensure!(next.len() == acked.len(), "records of {} clients", next.len());
    Ok(())
}

/// A record as `hydfs-load` writes it, made from its description.
pub fn described(client: &str, number: usize) -> String {
    let mut line = format!("{client} {number:012} ");
    while line.len() < SIZE - 1 {
        line.push(char::from(b'a' + ((number + line.len()) % 26) as u8));
    }
    line.push('\n');
    line
}
