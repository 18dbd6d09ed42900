//! Gets of many small files, uniform or by Zipf's law, through a cache of some size, with some appends among them.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use common::clock;
use common::ids::Epoch;
use common::signals::Stop;

use super::quantile;
use crate::client::{Cache, Client, Error};

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Law {
    Uniform,
    /// The i-th most popular file is read in proportion to 1/i.
    Zipf,
}

#[derive(Debug, Clone, clap::Args)]
pub struct Reads {
    /// The files are PREFIX0, PREFIX1, ...
    prefix: String,
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    files: u32,
    /// Bytes of a file
    #[arg(long, default_value_t = 4096)]
    size: u32,
    #[arg(long, default_value_t = 10_000)]
    reads: u64,
    #[arg(long, value_enum, default_value = "uniform")]
    law: Law,
    /// How many of 100 reads are appends of as many bytes as a file instead
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100))]
    appends: u32,
    /// The cache's folder; it begins empty
    #[arg(long, value_name = "FOLDER", requires = "cache_bytes")]
    cache: Option<PathBuf>,
    #[arg(long, value_name = "BYTES")]
    cache_bytes: Option<u64>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same seed, the same reads.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to below 1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Which file next.
struct Choice {
    /// The share of reads that go to the files up to each.
    cumulative: Vec<f64>,
}

impl Choice {
    fn new(files: u32, law: Law) -> Self {
        let weight = |i: u32| match law {
            Law::Uniform => 1.0,
            Law::Zipf => 1.0 / f64::from(i + 1),
        };
        let total: f64 = (0..files).map(weight).sum();
        let mut sum = 0.0;
        let cumulative = (0..files).map(|i| {
            sum += weight(i) / total;
            sum
        });
        Self {
            cumulative: cumulative.collect(),
        }
    }

    fn pick(&self, random: &mut Random) -> usize {
        let share = random.share();
        self.cumulative
            .partition_point(|c| *c <= share)
            .min(self.cumulative.len() - 1)
    }
}

pub(super) async fn run(client: Client, what: Reads) -> Result<serde_json::Value, Error> {
    let name = |i: usize| format!("{}{i}", what.prefix);
    let mut lens = Vec::new();
    for i in 0..what.files as usize {
        match client.stat(&name(i)).await {
            Ok(stat) => lens.push(stat.len),
            Err(Error::NoSuchFile { .. }) => {
                let bytes = vec![b'a' + (i % 26) as u8; what.size as usize];
                lens.push(client.put(&bytes[..], &name(i), &Stop::never(), |_| {}).await?);
            }
            Err(other) => return Err(other),
        }
    }
    let cache = match (&what.cache, what.cache_bytes.filter(|n| *n > 0)) {
        (Some(folder), Some(bytes)) => {
            let opened = std::fs::remove_dir_all(folder).or_else(ignore_missing);
            let opened = opened
                .and_then(|()| Cache::open(folder, bytes))
                .map_err(|e| Error::Local {
                    what: format!("the cache in {}", folder.display()),
                    why: e.to_string(),
                })?;
            Some(Arc::new(opened))
        }
        _ => None,
    };
    let client = match &cache {
        Some(cache) => client.with_cache(cache.clone()),
        None => client,
    };
    let (mut random, choice) = (Random(what.seed), Choice::new(what.files, what.law));
    let (mut micros, mut appended, mut bytes) = (Vec::new(), 0u64, 0);
    let start = clock::now();
    for n in 0..what.reads {
        let i = choice.pick(&mut random);
        if random.share() * 100.0 < f64::from(what.appends) {
            let client_name = format!("load-{}-{}-{n}", std::process::id(), what.seed);
            let mut appender = client
                .open_append(&name(i), &client_name, Epoch(1), false)
                .await?;
            appender.append(Bytes::from(vec![b'+'; what.size as usize]));
            appender.wait_acked(appender.queued()).await?;
            lens[i] += u64::from(what.size);
            appended += 1;
            continue;
        }
        let begun = clock::now();
        let mut stream = client.get(&name(i), 0..u64::MAX).await?;
        let mut len = 0;
        while let Some(piece) = stream.next().await {
            len += piece?.len() as u64;
        }
        // An own append is always seen.
        if len != lens[i] {
            let why = format!("{} bytes came of {}, which were acknowledged", len, lens[i]);
            return Err(Error::Local { what: name(i), why });
        }
        bytes += len;
        micros.push(clock::now().since(begun).as_micros() as u64);
    }
    let seconds = clock::now().since(start).as_secs_f64();
    let mean = micros.iter().sum::<u64>() as f64 / micros.len().max(1) as f64;
    let (hits, misses) = cache.as_ref().map_or((0, 0), |c| c.counts());
    Ok(serde_json::json!({
        "reads": micros.len(), "appends": appended, "bytes": bytes, "seconds": seconds, "mean_us": mean,
        "p50_us": quantile(&mut micros, 0.5), "p99_us": quantile(&mut micros, 0.99),
        "hits": hits, "misses": misses,
    }))
}

fn ignore_missing(error: std::io::Error) -> std::io::Result<()> {
    match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_prefers_the_first_and_uniform_does_not() {
        let share_of_first_ten = |law| {
            let (mut random, choice) = (Random(7), Choice::new(1000, law));
            (0..10_000).filter(|_| choice.pick(&mut random) < 10).count()
        };
        // The sum of 1/i up to 10 is 2.93, up to 1000 it is 7.49.
        assert!((3600..4300).contains(&share_of_first_ten(Law::Zipf)));
        assert!((60..150).contains(&share_of_first_ten(Law::Uniform)));
    }
}
