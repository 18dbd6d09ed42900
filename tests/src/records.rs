//! The records that `hydfs-load append` writes, and what must be true of a file of them.

use std::collections::BTreeMap;
use std::io::BufRead;

use anyhow::{Result, ensure};
use serde::Deserialize;

/// Bytes of a record.
pub const SIZE: usize = 1024;

/// What `hydfs-load append` says of its one client.
#[derive(Debug, Deserialize)]
pub struct Said {
    pub acked: Vec<usize>,
    pub errors: Vec<String>,
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
