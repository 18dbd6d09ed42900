//! Clients that append records one behind the other, and say how many were acknowledged.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use common::clock::{self, Time};
use common::ids::Epoch;
use common::spawn;
use tokio::sync::oneshot;

use super::quantile;
use crate::client::{Client, Error};

/// An append that waits out two take-overs is no failure.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, clap::Args)]
pub struct Appends {
    /// The HyDFS file; it must be there
    file: String,
    /// The clients' names begin so; with one client this is its name
    #[arg(long, default_value = "c")]
    name: String,
    #[arg(long, default_value_t = 1)]
    clients: u32,
    /// Bytes of a record
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(64..=16_777_216))]
    size: u32,
    /// How many records each client appends [default: as many as it can]
    #[arg(long)]
    count: Option<u64>,
    /// For how long
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Records that a client has under way; 1 waits for each
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    window: u32,
}

/// A record. The oracle of the tests makes it again by this description.
pub fn record(client: &str, number: u64, size: usize) -> Vec<u8> {
    let mut line = format!("{client} {number:012} ").into_bytes();
    let begin = line.len();
    let letters = (begin..size.saturating_sub(1)).map(|at| b'a' + ((number as usize + at) % 26) as u8);
    line.extend(letters);
    line.push(b'\n');
    line
}

#[derive(Debug, Default)]
struct Done {
    acked: u64,
    micros: Vec<u64>,
    error: Option<String>,
}

pub(super) async fn run(client: impl Fn() -> Client, what: Appends) -> Result<serde_json::Value, Error> {
    client().stat(&what.file).await?;
    let start = clock::now();
    let mut clients = Vec::new();
    for i in 0..what.clients {
        let name = match what.clients {
            1 => what.name.clone(),
            _ => format!("{}{i}", what.name),
        };
        let (client, what) = (client().with_patience(PATIENCE), what.clone());
        let (tell, done) = oneshot::channel();
        let until = start + Duration::from_secs_f64(what.seconds);
        let task = spawn::guarded("load-append", async move {
            let _ = tell.send(append(&client, &what, name, until).await);
            Ok::<(), std::convert::Infallible>(())
        });
        clients.push((task, done));
    }
    let (mut all, mut acked, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for (_task, done) in clients {
        let done = done.await.unwrap_or_default();
        acked.push(done.acked);
        all.extend(done.micros);
        errors.extend(done.error);
    }
    let seconds = clock::now().since(start).as_secs_f64();
    let total: u64 = acked.iter().sum();
    Ok(serde_json::json!({
        "clients": what.clients, "size": what.size, "window": what.window, "seconds": seconds,
        "acked": acked, "per_s": total as f64 / seconds, "bytes_per_s": total as f64 * f64::from(what.size) / seconds,
        "p50_us": quantile(&mut all, 0.5), "p99_us": quantile(&mut all, 0.99), "max_us": quantile(&mut all, 1.0),
        "errors": errors,
    }))
}

/// Says how far it came, whatever ended it.
async fn append(client: &Client, what: &Appends, name: String, until: Time) -> Done {
    let mut done = Done::default();
    if let Err(error) = try_append(client, what, name, until, &mut done).await {
        done.error = Some(error.to_string());
    }
    done
}

async fn try_append(
    client: &Client,
    what: &Appends,
    name: String,
    until: Time,
    done: &mut Done,
) -> Result<(), Error> {
    let mut appender = client.open_append(&what.file, &name, Epoch(1), false).await?;
    let base = appender.length();
    let size = u64::from(what.size);
    let mut under_way: VecDeque<Time> = VecDeque::new();
    let mut sent = 0;
    loop {
        let more = clock::now() < until && what.count.is_none_or(|most| sent < most);
        if more && under_way.len() < what.window as usize {
            let record = record(&name, sent, what.size as usize);
            under_way.push_back(clock::now());
            appender.append(Bytes::from(record));
            sent += 1;
            continue;
        }
        if under_way.is_empty() {
            return Ok(());
        }
        let acked = (appender.wait_acked(base + (done.acked + 1) * size).await? - base) / size;
        let now = clock::now();
        for begun in under_way.drain(..(acked - done.acked) as usize) {
            done.micros.push(now.since(begun).as_micros() as u64);
        }
        done.acked = acked;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_a_line_of_its_size_that_says_whose_it_is() {
        let line = record("c7", 42, 64);
        assert_eq!(line.len(), 64);
        assert!(line.starts_with(b"c7 000000000042 ") && line.ends_with(b"\n"));
        assert!(!line[..63].contains(&b'\n') && line != record("c7", 43, 64));
    }
}
