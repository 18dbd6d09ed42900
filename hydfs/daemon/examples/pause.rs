//! How long appends stand still: one client per range appends without a break, each append waiting for its acknowledgement, while somebody kills
//! and starts storage daemons. Prints each pause as it ends and the longest per range. `bench/takeover.sh` uses it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use common::clock;
use common::cluster::Cluster;
use common::ids::Epoch;
use common::net::Identity;
use hydfs::client::Client;
use hydfs::ring::Ring;
use tokio::task::JoinSet;

/// Pauses shorter than this are not printed.
const WORTH_A_LINE: Duration = Duration::from_millis(100);
/// Files made at a time.
const AT_ONCE: usize = 64;

#[derive(Parser)]
struct Args {
    #[arg(long)]
    cluster: Option<PathBuf>,
    /// Make so many files before, each with one append
    #[arg(long, default_value_t = 0)]
    files: usize,
    /// Append for so long
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Bytes per append
    #[arg(long, default_value_t = 100)]
    bytes: usize,
    /// So many appends of a client are under way at a time
    #[arg(long, default_value_t = 1)]
    window: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let cluster = Arc::new(Cluster::find(args.cluster.as_deref())?);
    let me = Identity {
        who: format!("pause {}", std::process::id()),
        node: None,
        secret: cluster.secret()?,
        security: cluster.security,
    };
    let client = Client::new(cluster.clone(), me);
    let mut made = JoinSet::new();
    for i in 0..args.files {
        if made.len() >= AT_ONCE {
            made.join_next().await.context("nothing runs")???;
        }
        let client = client.clone();
        made.spawn(async move {
            let mut file = client
                .open_append(&format!("fill/{i}"), "pause", Epoch(1), true)
                .await?;
            file.append(vec![b'x'; 100]);
            file.wait_acked(file.queued()).await?;
            anyhow::Ok(())
        });
    }
    while let Some(done) = made.join_next().await {
        done??;
    }
    println!("{} files", args.files);

    let names: Vec<String> = cluster.nodes.iter().map(|n| n.name.to_string()).collect();
    let ring = Ring::new(names.iter().map(String::as_str), cluster.replication);
    let begun = clock::now();
    let mut clients = JoinSet::new();
    for range in ring.ranges() {
        let mut tries = (0..).map(|i| format!("pause/{}/{i}", std::process::id()));
        let file = tries
            .find(|f| ring.range_of(f) == range)
            .context("a file of each range")?;
        let (client, name) = (client.clone(), names[range.0 as usize].clone());
        let (end, bytes, window) = (
            begun + Duration::from_secs(args.seconds),
            args.bytes,
            args.window as u64,
        );
        clients.spawn(async move {
            let mut file = client.open_append(&file, "pause", Epoch(1), true).await?;
            let (mut last, mut longest, mut appends) = (clock::now(), Duration::ZERO, 0u64);
            while last < end {
                file.append(vec![b'x'; bytes]);
                appends += 1;
                file.wait_acked(file.queued().saturating_sub((window - 1) * bytes as u64))
                    .await?;
                let now = clock::now();
                let pause = now.since(last);
                if pause >= WORTH_A_LINE {
                    println!(
                        "pause range={name} at_s={:.3} ms={}",
                        last.since(begun).as_secs_f64(),
                        pause.as_millis()
                    );
                }
                (last, longest) = (now, longest.max(pause));
            }
            anyhow::Ok((name, appends, longest))
        });
    }
    let (mut total, mut worst) = (0, Duration::ZERO);
    while let Some(done) = clients.join_next().await {
        let (name, appends, longest) = done??;
        println!(
            "range={name} appends={appends} longest_ms={}",
            longest.as_millis()
        );
        (total, worst) = (total + appends, worst.max(longest));
    }
    println!("total appends={total} longest_ms={}", worst.as_millis());
    Ok(())
}
