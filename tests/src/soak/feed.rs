//! The input: numbered lines of one length, appended at a rate to a few files in turn. What is read by everybody is trimmed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use common::ids::Epoch;
use hydfs::client::{Appender, Client};

use crate::now;

/// `NUMBER KEY\n`, both padded.
pub const LINE: usize = 20;
/// Files of one job's input: one for each source task.
pub const FILES: usize = 3;
/// Lines go in pieces, so often.
const PIECE_EVERY: Duration = Duration::from_millis(50);
/// Each key has about so many lines before the next one comes, up to so many keys.
const LINES_PER_KEY: u64 = 2000;
const KEYS: u64 = 20_000;
/// Not acknowledged by storage: then the feeder waits.
const UNDER_WAY: u64 = 32 * 1024 * 1024;
/// A file is trimmed in steps of this.
const TRIM: u64 = 4 * 1024 * 1024;
/// Lines whose output is known stay this long, for sources that begin again at their checkpoint.
const MARGIN: Duration = Duration::from_secs(60);

/// Lines that were appended at once.
#[derive(Debug, Clone, Copy)]
struct Piece {
    first: u64,
    file: usize,
    /// Where they end in the file.
    end: u64,
    at: Instant,
}

/// What was fed, for the judge.
#[derive(Debug, Default)]
pub struct Fed {
    /// Lines appended so far: their numbers are below this.
    pub lines: u64,
    /// Those that storage has acknowledged.
    pub stored: u64,
    pieces: VecDeque<Piece>,
    /// Of each file: what may go.
    dead: [u64; FILES],
}

/// Which key the line has. Keys become more; any of those that there are by then may come.
pub fn key(number: u64) -> u64 {
    let keys = (number / LINES_PER_KEY + 1).min(KEYS);
    // SplitMix64's finalizer: no pattern that routing by hash could follow.
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (z ^ (z >> 27)) % keys
}

pub fn line(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("{number:012} {:06}\n", key(number)).as_bytes());
}

pub fn file(job: &str, n: usize) -> String {
    format!("soak/{job}/{n}")
}

impl Fed {
    /// When the line was appended, if that is still known.
    pub fn born(&self, number: u64) -> Option<Instant> {
        let after = self.pieces.partition_point(|p| p.first <= number);
        self.pieces.get(after.checked_sub(1)?).map(|p| p.at)
    }

    /// All lines below `number` have come out.
    pub fn seen(&mut self, number: u64) {
        while let [first, second, ..] = self.pieces.make_contiguous()
            && second.first <= number
            && now().duration_since(first.at) > MARGIN
        {
            self.dead[first.file] = first.end;
            self.pieces.pop_front();
        }
    }
}

/// Makes the files and feeds them until `until` says so. Then what is under way is stored.
pub async fn feed(
    client: Client,
    job: &str,
    rate: u64,
    fed: Arc<Mutex<Fed>>,
    until: impl Fn() -> bool,
) -> Result<()> {
    let mut files: Vec<Appender> = vec![];
    for n in 0..FILES {
        let name = file(job, n);
        files.push(
            client
                .open_append(&name, "feeder", Epoch(1), true)
                .await
                .context(name)?,
        );
    }
    let (mut trimmed, mut turn, began) = ([0u64; FILES], 0, now());
    let mut skipped = Duration::ZERO;
    while !until() {
        tokio::time::sleep(PIECE_EVERY).await;
        let owed = (now() - began).saturating_sub(skipped).as_micros() as u64 * rate / 1_000_000;
        let under_way: u64 = files.iter().map(|f| f.queued() - f.acked()).sum();
        let first = fed.lock().expect("the judge lives").lines;
        if under_way > UNDER_WAY {
            // Storage is slow: what is not fed now is not made up for.
            skipped += PIECE_EVERY;
        } else if owed > first {
            let mut text = Vec::with_capacity((owed - first) as usize * LINE);
            (first..owed).for_each(|number| line(number, &mut text));
            files[turn].append(text);
            let end = files[turn].queued();
            let mut fed = fed.lock().expect("the judge lives");
            fed.lines = owed;
            fed.pieces.push_back(Piece {
                first,
                file: turn,
                end,
                at: now(),
            });
            turn = (turn + 1) % FILES;
        }
        let dead = fed.lock().expect("the judge lives").dead;
        for n in 0..FILES {
            if dead[n] >= trimmed[n] + TRIM {
                trimmed[n] = dead[n];
                files[n].trim(dead[n]);
            }
        }
    }
    for file in &mut files {
        file.wait_acked(file.queued()).await?;
    }
    let mut fed = fed.lock().expect("the judge lives");
    fed.stored = fed.lines;
    Ok(())
}
