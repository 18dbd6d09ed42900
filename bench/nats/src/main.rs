//! The load that `hydfs-load` makes on HyDFS, made on a NATS JetStream stream with three replicas in files.

use std::collections::VecDeque;
use std::error::Error;
use std::future::IntoFuture;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, consumer::pull::OrderedConfig, context::PublishAckFuture, stream};
use bytes::Bytes;
use clap::{Parser, Subcommand};
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A server takes messages of up to 1 MiB unless it is told otherwise.
const PIECE: usize = 512 * 1024;
const PIECES_UNDER_WAY: usize = 16;
/// Bytes per write to a file, as `hydfs get` has them.
const WRITE: usize = 128 * 1024;
const WITHIN: Duration = Duration::from_secs(10);

type Failed = Box<dyn Error + Send + Sync>;

#[derive(Parser)]
struct Args {
    /// nats://HOST:PORT,...
    servers: String,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Stores a file as a stream of its own
    Put { file: PathBuf, stream: String },
    /// Copies it back
    Get { stream: String, file: PathBuf },
    /// Removes a stream
    Rm { stream: String },
    /// Appends records to a stream, each client WINDOW at a time
    Append {
        stream: String,
        #[arg(long, default_value_t = 1)]
        clients: usize,
        #[arg(long, default_value_t = 1)]
        window: usize,
        #[arg(long, default_value_t = 4096)]
        size: usize,
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
    },
}

async fn connect(servers: &str) -> Result<jetstream::Context, Failed> {
    let servers: Vec<&str> = servers.split(',').collect();
    let client = async_nats::connect(servers).await?;
    let mut context = jetstream::new(client);
    context.set_timeout(WITHIN);
    Ok(context)
}

async fn stream(context: &jetstream::Context, name: &str) -> Result<(), Failed> {
    let config = stream::Config {
        name: name.into(),
        subjects: vec![format!("{name}.>")],
        storage: stream::StorageType::File,
        num_replicas: 3,
        ..Default::default()
    };
    context.get_or_create_stream(config).await?;
    Ok(())
}

/// At most so many acknowledgements are awaited at a time.
struct Window {
    most: usize,
    under_way: VecDeque<(Instant, PublishAckFuture)>,
    micros: Vec<u64>,
}

impl Window {
    fn new(most: usize) -> Self {
        Self {
            most,
            under_way: VecDeque::new(),
            micros: Vec::new(),
        }
    }

    async fn send(
        &mut self,
        context: &jetstream::Context,
        subject: &str,
        bytes: Bytes,
    ) -> Result<(), Failed> {
        while self.under_way.len() >= self.most {
            self.take().await?;
        }
        let begun = Instant::now();
        let acknowledged = context.publish(subject.to_owned(), bytes).await?;
        self.under_way.push_back((begun, acknowledged));
        Ok(())
    }

    async fn take(&mut self) -> Result<(), Failed> {
        if let Some((begun, acknowledged)) = self.under_way.pop_front() {
            acknowledged.into_future().await?;
            self.micros.push(begun.elapsed().as_micros() as u64);
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<Vec<u64>, Failed> {
        while !self.under_way.is_empty() {
            self.take().await?;
        }
        Ok(self.micros)
    }
}

async fn put(context: &jetstream::Context, file: &Path, name: &str) -> Result<(), Failed> {
    stream(context, name).await?;
    let mut file = tokio::fs::File::open(file).await?;
    file.set_max_buf_size(PIECE);
    let (subject, mut window) = (format!("{name}.data"), Window::new(PIECES_UNDER_WAY));
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        while piece.len() < PIECE {
            let room = (PIECE - piece.len()) as u64;
            if (&mut file).take(room).read_to_end(&mut piece).await? == 0 {
                break;
            }
        }
        if piece.is_empty() {
            window.finish().await?;
            return Ok(());
        }
        window.send(context, &subject, piece.into()).await?;
    }
}

async fn get(context: &jetstream::Context, name: &str, file: &Path) -> Result<(), Failed> {
    let mut stream = context.get_stream(name).await?;
    let mut left = stream.info().await?.state.messages;
    let consumer = stream.create_consumer(OrderedConfig::default()).await?;
    let mut file = tokio::fs::File::create(file).await?;
    file.set_max_buf_size(WRITE);
    let mut messages = consumer.messages().await?;
    while left > 0 {
        let message = messages.next().await.ok_or("the stream ended early")??;
        file.write_all(&message.payload).await?;
        left -= 1;
    }
    file.flush().await?;
    Ok(())
}

async fn append(
    servers: String,
    name: String,
    client: usize,
    window: usize,
    size: usize,
    until: Instant,
) -> Result<Vec<u64>, Failed> {
    let context = connect(&servers).await?;
    let (subject, mut window) = (format!("{name}.c{client}"), Window::new(window));
    let mut number = 0u64;
    while Instant::now() < until {
        let mut line = format!("c{client} {number:012} ").into_bytes();
        line.resize(size - 1, b'a' + (number % 26) as u8);
        line.push(b'\n');
        window.send(&context, &subject, line.into()).await?;
        number += 1;
    }
    window.finish().await
}

fn quantile(sorted: &[u64], q: f64) -> u64 {
    let at = ((sorted.len() as f64 * q) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or(0)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failed> {
    let Args { servers, what } = Args::parse();
    let context = connect(&servers).await?;
    match what {
        What::Put { file, stream } => put(&context, &file, &stream).await?,
        What::Get { stream, file } => get(&context, &stream, &file).await?,
        What::Rm { stream } => {
            context.delete_stream(stream).await?;
        }
        What::Append {
            stream: name,
            clients,
            window,
            size,
            seconds,
        } => {
            stream(&context, &name).await?;
            let (begun, mut micros) = (Instant::now(), Vec::new());
            let until = begun + Duration::from_secs_f64(seconds);
            let all = (0..clients)
                .map(|c| tokio::spawn(append(servers.clone(), name.clone(), c, window, size, until)));
            for client in all.collect::<Vec<_>>() {
                micros.extend(client.await??);
            }
            let seconds = begun.elapsed().as_secs_f64();
            let mut stream = context.get_stream(&name).await?;
            let stored = stream.info().await?.state.messages;
            if stored != micros.len() as u64 {
                return Err(format!("{} acknowledged, {stored} stored", micros.len()).into());
            }
            micros.sort_unstable();
            let said = serde_json::json!({
                "per_s": micros.len() as f64 / seconds, "p50_us": quantile(&micros, 0.5), "p99_us": quantile(&micros, 0.99),
            });
            println!("{said}");
        }
    }
    Ok(())
}
