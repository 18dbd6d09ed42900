//! A client of HyDFS for tests: opens a stream and appends each line of its standard input. Tells on standard output what is acknowledged:
//! `open LENGTH`, `acked LENGTH`, and at last `fenced` or `failed WHY`.
//!
//! `writer NODE FILE CLIENT EPOCH`

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use common::cluster::Cluster;
use common::ids::Epoch;
use common::net::Identity;
use hydfs::client::{Client, Error};
use tokio::io::{AsyncBufReadExt, BufReader};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [node, file, client, epoch] = &args[..] else {
        anyhow::bail!("writer NODE FILE CLIENT EPOCH");
    };
    let cluster = Arc::new(Cluster::find(None)?);
    let me = Identity {
        who: format!("writer {}", std::process::id()),
        node: Some(cluster.node(node)?.name.clone()),
        secret: cluster.secret()?,
        security: cluster.security,
    };
    let epoch = Epoch(epoch.parse().context("the epoch")?);
    let hydfs = Client::new(cluster, me).with_patience(Duration::from_secs(120));
    let mut stream = match hydfs.open_append(file, client, epoch, true).await {
        Ok(stream) => stream,
        Err(error) => return told(&error),
    };
    println!("open {}", stream.length());
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            line = lines.next_line() => match line? {
                Some(line) => stream.append(line.into_bytes().into_iter().chain([b'\n']).collect::<Vec<u8>>()),
                None => break,
            },
            acked = stream.changed() => match acked {
                Ok(acked) => println!("acked {acked}"),
                Err(error) => return told(&error),
            },
        }
    }
    match stream.wait_acked(stream.queued()).await {
        Ok(acked) => println!("acked {acked}"),
        Err(error) => told(&error)?,
    }
    Ok(())
}

fn told(error: &Error) -> Result<()> {
    match error {
        Error::Fenced { .. } => println!("fenced"),
        other => println!("failed {other}"),
    }
    Ok(())
}
