//! The six jobs in renoir, one process of those that share the work: renoir-peer JOB FILE OUT [LINES_PER_SECOND].
//!
//! Which process this is and where the others are is in renoir's own variables, NOIR_HOST_ID and NOIR_CONFIG. Standard
//! output says `first NS` and `last NS`, the times (of 1970) of the first line read and of the last one written.

use std::fs::File;
use std::hash::Hasher;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use memchr::memmem;
use renoir::prelude::*;

static FIRST: AtomicU64 = AtomicU64::new(0);
static LAST: AtomicU64 = AtomicU64::new(0);
static FILES: AtomicU64 = AtomicU64::new(0);

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_nanos() as u64
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = wyhash::WyHash::with_seed(1);
    hasher.write(bytes);
    hasher.finish()
}

/// Notes when the first line came; holds a task back to its part of the rate.
#[derive(Clone)]
struct Pace {
    lines: u64,
    per_second: u64,
    began: Option<Instant>,
}

impl Pace {
    fn line(&mut self) {
        let began = *self.began.get_or_insert_with(|| {
            let _ = FIRST.compare_exchange(0, now(), Ordering::Relaxed, Ordering::Relaxed);
            Instant::now()
        });
        self.lines += 1;
        if self.per_second > 0 && self.lines.is_multiple_of(64) {
            let due = Duration::from_nanos(self.lines * 1_000_000_000 / self.per_second);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
    }
}

/// A task's own output file. Each clone makes one of its own, at its first line.
struct Sink {
    folder: PathBuf,
    host: String,
    paced: bool,
    file: Option<BufWriter<File>>,
    flushed: Instant,
}

impl Clone for Sink {
    fn clone(&self) -> Self {
        Sink { folder: self.folder.clone(), host: self.host.clone(), paced: self.paced, file: None, flushed: self.flushed }
    }
}

impl Sink {
    fn line(&mut self, parts: &[&[u8]]) {
        let file = self.file.get_or_insert_with(|| {
            let name = format!("part-{}-{}", self.host, FILES.fetch_add(1, Ordering::Relaxed));
            BufWriter::with_capacity(1 << 16, File::create(self.folder.join(name)).expect("the output folder is there"))
        });
        for part in parts {
            file.write_all(part).expect("the disk has room");
        }
        file.write_all(b"\n").expect("the disk has room");
        // A slow job's output would stay in the buffer, and nobody could see whether it goes on.
        if self.paced && self.flushed.elapsed() > Duration::from_millis(20) {
            file.flush().expect("the disk has room");
            self.flushed = Instant::now();
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some(mut file) = self.file.take() {
            file.flush().expect("the disk has room");
            LAST.fetch_max(now(), Ordering::Relaxed);
        }
    }
}

fn bare(line: &str) -> &str {
    line.strip_suffix('\n').unwrap_or(line)
}

fn column(line: &str, n: usize) -> &str {
    bare(line).split('|').nth(n).unwrap_or("")
}

fn first_word(line: &str) -> &str {
    line.split_ascii_whitespace().next().unwrap_or("")
}

fn has_static(line: &str) -> bool {
    memmem::find(line.as_bytes(), b"static").is_some()
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, job, file, out, rest @ ..] = &args[..] else {
        eprintln!("usage: renoir-peer T0|T1|T2|C0|C1|C2 FILE OUT [LINES_PER_SECOND]");
        std::process::exit(2);
    };
    let rate: u64 = rest.first().map_or(0, |text| text.parse().expect("a number of lines per second"));
    let host = std::env::var("NOIR_HOST_ID").expect("NOIR_HOST_ID says which process this is");
    let config = RuntimeConfig::remote("").expect("NOIR_CONFIG holds the hosts");
    let tasks = match &config {
        RuntimeConfig::Remote(remote) => remote.hosts.iter().map(|host| host.num_cores).sum(),
        RuntimeConfig::Local(_) => 1,
    };
    let mut sink = Sink { folder: out.into(), host, paced: rate > 0, file: None, flushed: Instant::now() };
    let mut pace = Pace { lines: 0, per_second: rate.div_ceil(tasks), began: None };

    let env = StreamContext::new(config);
    let source = env.stream_file(file).batch_mode(BatchMode::fixed(1024)).inspect(move |_| pace.line());
    let whole = |line: &String| hash(line.as_bytes());
    match job.as_str() {
        "T0" | "C0" => source
            .map(|line| line)
            .repartition_by(Replication::Unlimited, whole)
            .map(|line| line)
            .for_each(move |line| sink.line(&[bare(&line).as_bytes()])),
        "T1" => source
            .filter(|line| has_static(line))
            .repartition_by(Replication::Unlimited, whole)
            .map(|line| line.replace("static", "STATIC"))
            .for_each(move |line| sink.line(&[bare(&line).as_bytes()])),
        "C1" => source
            .filter(|line| column(line, 14) == "AIR")
            .repartition_by(Replication::Unlimited, whole)
            .map(|line| {
                let columns: Vec<&str> = bare(&line).split('|').collect();
                [columns[0], columns[1], columns[5]].join("|")
            })
            .for_each(move |line| sink.line(&[line.as_bytes()])),
        "T2" => source
            .filter(|line| has_static(line))
            .map(|line| first_word(&line).to_owned())
            .group_by(|word| word.clone())
            .rich_map(counter())
            .for_each(move |(key, n)| sink.line(&[key.as_bytes(), b"\t", n.to_string().as_bytes()])),
        "C2" => source
            .filter(|line| column(line, 8) == "R")
            .map(|line| column(&line, 2).to_owned())
            .group_by(|key| key.clone())
            .rich_map(counter())
            .for_each(move |(key, n)| sink.line(&[key.as_bytes(), b"\t", n.to_string().as_bytes()])),
        other => {
            eprintln!("there is no job {other}");
            std::process::exit(2);
        }
    }
    env.execute_blocking();
    println!("first {}", FIRST.load(Ordering::Relaxed));
    println!("last {}", LAST.load(Ordering::Relaxed));
}

/// The running count of one key: each key has a clone of its own.
fn counter() -> impl FnMut((&String, String)) -> u64 + Clone + Send + 'static {
    let mut n = 0;
    move |_| {
        n += 1;
        n
    }
}
