//! Reads a job's output as it grows, and judges each line by the number that it carries: everything once, nothing twice.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hydfs::client::{Client, Error as StoreError};

use super::Kind;
use super::feed::{self, Fed};
use crate::now;

const PIECE: usize = 1024 * 1024;
const WAIT: Duration = Duration::from_millis(200);
/// The output is trimmed in steps of this, and this much of it stays: the leader reads it, too.
const TRIM: u64 = 4 * 1024 * 1024;
const KEPT: u64 = 16 * 1024 * 1024;
/// Every so-manyth line's age is noted.
const AGED: u64 = 1009;
/// Lines that may be ahead of one that has not come.
const WINDOW: u64 = 200_000_000;

/// Which numbers have come, of those that are not known to have come all.
#[derive(Debug, Default)]
pub struct Numbers {
    /// All below this have come.
    low: u64,
    words: VecDeque<u64>,
    pub count: u64,
}

impl Numbers {
    pub fn take(&mut self, number: u64) -> Result<()> {
        ensure!(number >= self.low, "line {number} came twice");
        ensure!(
            number - self.low < WINDOW,
            "line {number} has come, and line {} has not",
            self.missing()
        );
        let at = ((number - self.low) / 64) as usize;
        if at >= self.words.len() {
            self.words.resize(at + 1, 0);
        }
        let bit = 1 << (number % 64);
        ensure!(self.words[at] & bit == 0, "line {number} came twice");
        self.words[at] |= bit;
        self.count += 1;
        while self.words.front() == Some(&u64::MAX) {
            self.words.pop_front();
            self.low += 64;
        }
        Ok(())
    }

    /// The first that has not come.
    pub fn missing(&self) -> u64 {
        self.low
            + self
                .words
                .front()
                .map_or(0, |word| u64::from(word.trailing_ones()))
    }
}

/// What has come out so far.
#[derive(Debug, Default)]
pub struct Seen {
    pub lines: u64,
    /// From being appended to the input to being read from the output, of some lines since the last sample.
    pub ages: Vec<Duration>,
    /// When the last line came.
    pub last: Option<Instant>,
    pub wrong: Option<String>,
}

/// Judges lines of one job.
#[derive(Debug)]
enum Check {
    Numbers(Numbers),
    /// The newest count of each key.
    Counts(BTreeMap<u64, u64>),
}

impl Check {
    fn take(&mut self, line: &[u8]) -> Result<Option<u64>> {
        let text = std::str::from_utf8(line).context("not text")?;
        match self {
            Self::Numbers(numbers) => {
                // The Python program puts its opinion before the line.
                let line = text.rsplit('\t').next().unwrap_or_default();
                let (number, key) = line.split_once(' ').context("no number and key")?;
                let number: u64 = number.parse()?;
                ensure!(
                    key.parse() == Ok(feed::key(number)),
                    "line {number} with another key: {text}"
                );
                numbers.take(number)?;
                Ok(Some(number))
            }
            Self::Counts(counts) => {
                let (key, count) = text.split_once('\t').context("no key and count")?;
                let (key, count): (u64, u64) = (key.parse()?, count.parse()?);
                let last = counts.entry(key).or_default();
                ensure!(
                    count == *last + 1,
                    "key {key} was counted to {count} after {last}"
                );
                *last = count;
                Ok(None)
            }
        }
    }

    /// All numbers below this have come out, as far as that is known.
    fn low(&self, lines: u64) -> u64 {
        match self {
            Self::Numbers(numbers) => numbers.missing(),
            // Which ones is not known: a margin is for the feeder.
            Self::Counts(_) => lines,
        }
    }

    /// At the end: what is not there that was fed.
    fn end(&self, fed: u64) -> Result<()> {
        match self {
            Self::Numbers(numbers) => ensure!(
                numbers.missing() == fed && numbers.count == fed,
                "{} lines of {fed} came; line {} did not",
                numbers.count,
                numbers.missing()
            ),
            Self::Counts(counts) => {
                let mut want: BTreeMap<u64, u64> = BTreeMap::new();
                (0..fed).for_each(|number| *want.entry(feed::key(number)).or_default() += 1);
                for (key, want) in &want {
                    let got = counts.get(key).copied().unwrap_or(0);
                    ensure!(got == *want, "key {key} was counted to {got} of {want}");
                }
                ensure!(
                    want.len() == counts.len(),
                    "{} keys, of {}",
                    counts.len(),
                    want.len()
                );
            }
        }
        Ok(())
    }
}

/// Reads until `ended` and all that there is was read. What is wrong goes to `seen`.
pub async fn judge(
    client: Client,
    dest: String,
    kind: Kind,
    fed: Arc<Mutex<Fed>>,
    seen: Arc<Mutex<Seen>>,
    ended: impl Fn() -> bool,
) {
    let judged = read(&client, &dest, kind, &fed, &seen, ended).await;
    if let Err(error) = judged {
        seen.lock().expect("nobody panics").wrong = Some(format!("{dest}: {error:#}"));
    }
}

async fn read(
    client: &Client,
    dest: &str,
    kind: Kind,
    fed: &Mutex<Fed>,
    seen: &Mutex<Seen>,
    ended: impl Fn() -> bool,
) -> Result<()> {
    let mut check = match kind {
        Kind::Plain | Kind::Python => Check::Numbers(Numbers::default()),
        Kind::Count => Check::Counts(BTreeMap::new()),
    };
    let (mut at, mut trimmed, mut rest) = (0u64, 0u64, Vec::new());
    loop {
        let last = ended();
        let piece = match client.tail(dest, at, PIECE, WAIT).await {
            Ok(piece) => piece,
            Err(StoreError::NoSuchFile { .. }) if at == 0 => {
                tokio::time::sleep(WAIT).await;
                continue;
            }
            Err(error) => bail!("byte {at}: {error}"),
        };
        if piece.is_empty() && last {
            break;
        }
        at += piece.len() as u64;
        rest.extend_from_slice(&piece);
        let whole = rest.iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
        let (mut ages, mut lines) = (vec![], 0);
        for line in rest[..whole].split_inclusive(|b| *b == b'\n') {
            let number = check.take(&line[..line.len() - 1])?;
            lines += 1;
            if let Some(number) = number.filter(|number| number % AGED == 0)
                && let Some(born) = fed.lock().expect("nobody panics").born(number)
            {
                ages.push(now() - born);
            }
        }
        rest.drain(..whole);
        if lines > 0 {
            let mut seen = seen.lock().expect("nobody panics");
            seen.lines += lines;
            seen.ages.extend(ages);
            seen.last = Some(now());
            let low = check.low(seen.lines);
            fed.lock().expect("nobody panics").seen(low);
        }
        if at >= trimmed + KEPT + TRIM {
            trimmed = at - KEPT;
            client.trim(dest, trimmed).await.context("trimming the output")?;
        }
    }
    ensure!(rest.is_empty(), "a line without an end");
    let fed = fed.lock().expect("nobody panics").stored;
    check.end(fed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_once_in_any_order() {
        let mut numbers = Numbers::default();
        for number in (0..1000u64).map(|n| n ^ 5) {
            numbers.take(number).unwrap();
        }
        assert_eq!((numbers.missing(), numbers.count), (1000, 1000));
        assert!(numbers.take(7).is_err() && numbers.take(999).is_err());
        numbers.take(1001).unwrap();
        assert_eq!(numbers.missing(), 1000);
    }

    #[test]
    fn what_is_missing_or_twice_is_found() {
        let mut check = Check::Numbers(Numbers::default());
        let text = |number| {
            let mut line = vec![];
            feed::line(number, &mut line);
            line.pop();
            line
        };
        [0, 2, 1]
            .iter()
            .for_each(|n| assert!(check.take(&text(*n)).is_ok()));
        assert!(check.end(3).is_ok() && check.end(4).is_err() && check.end(2).is_err());
        assert!(check.take(&text(1)).is_err());
        let mut check = Check::Counts(BTreeMap::new());
        check.take(b"000000\t1").unwrap();
        check.take(b"000000\t2").unwrap();
        assert!(check.end(2).is_ok() && check.end(3).is_err());
        assert!(check.take(b"000000\t2").is_err() && check.take(b"000000\t4").is_err());
    }
}
