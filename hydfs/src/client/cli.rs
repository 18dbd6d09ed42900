//! The commands of `hydfs`, which are also words at `rainstormctl`'s prompt.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use common::ids::NodeName;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::{Client, Error};
use crate::ring::token;

/// Transfers shorter than this show no progress bar.
const WORTH_A_BAR: u64 = 8_000_000;

#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Make a HyDFS file from a local one
    Create {
        /// Local file; `-` for standard input
        local: PathBuf,
        name: String,
    },
    /// Copy a HyDFS file to a local one
    Get {
        name: String,
        /// Local file, replaced when the copy is whole; `-` for standard output
        local: PathBuf,
    },
    /// Append a local file to a HyDFS file, as one piece (up to 32 MiB)
    Append {
        /// Local file; `-` for standard input
        local: PathBuf,
        name: String,
    },
    /// Print a file
    Cat { name: String },
    /// Print the end of a file
    Tail {
        name: String,
        /// Go on as the file grows, until interrupted
        #[arg(short)]
        follow: bool,
        /// How many bytes of the end; with -f the default is 0
        #[arg(short = 'c', value_name = "BYTES")]
        bytes: Option<u64>,
    },
    /// Where a file is: its replicas with their places on the ring, the coordinator first
    Ls { name: String },
    /// The files that a node holds copies of
    Liststore {
        /// This node when left out
        #[arg(id = "of", value_name = "NODE")]
        node: Option<NodeName>,
    },
    /// The ring: every storage node with its place, state and incarnation
    #[command(name = "list_mem_ids")]
    ListMemIds,
    /// Size, newlines and copies of a file
    Stat {
        name: String,
        #[arg(long)]
        json: bool,
    },
    /// All files, or those whose names begin with PREFIX
    Find { prefix: Option<String> },
    /// Remove a file
    Rm { name: String },
}

/// Carries `command` out; its data goes to `out`. `here` is the node that this runs on, if any.
pub async fn run<W>(
    client: &Client,
    here: Option<&NodeName>,
    command: Command,
    out: &mut W,
) -> Result<(), Error>
where
    W: AsyncWrite + Unpin,
{
    match command {
        Command::Create { local, name } => {
            super::check_name(&name)?;
            let (input, size) = open(&local).await?;
            let bar = bar(size, "create");
            client.put(input, &name, |n| bar.set_position(n)).await?;
            bar.finish_and_clear();
        }
        Command::Append { local, name } => {
            super::check_name(&name)?;
            let (input, size) = open(&local).await?;
            let bar = bar(size, "append");
            client.append(input, &name, |n| bar.set_position(n)).await?;
            bar.finish_and_clear();
        }
        Command::Get { name, local } if local == Path::new("-") => {
            copy(client, &name, 0..u64::MAX, out, None).await?
        }
        Command::Get { name, local } => get(client, &name, &local).await?,
        Command::Cat { name } => copy(client, &name, 0..u64::MAX, out, None).await?,
        Command::Tail { name, follow, bytes } => tail(client, &name, follow, bytes, out).await?,
        Command::Ls { name } => {
            let stat = client.stat_any(&name).await?;
            let mut text = format!("{name}\t{:016x}\n", token(&name));
            for node in &stat.replicas {
                text.push_str(&format!("{node}\t{:016x}\n", token(node.as_str())));
            }
            write(out, text.as_bytes()).await?;
        }
        Command::Liststore { node } => {
            let why = "name a node: this machine is none of the cluster file's".to_owned();
            let node = node.or_else(|| here.cloned());
            let node = node.ok_or(Error::Local {
                what: "liststore".into(),
                why,
            })?;
            let text: String = client
                .list_store(&node)
                .await?
                .iter()
                .map(|e| format!("{}\t{}\n", e.file, e.len))
                .collect();
            write(out, text.as_bytes()).await?;
        }
        Command::ListMemIds => {
            let lines = client.nodes().await?.into_iter();
            let lines =
                lines.map(|n| format!("{}\t{:016x}\t{}\t{}\n", n.name, n.token, n.state, n.incarnation));
            write(out, lines.collect::<String>().as_bytes()).await?;
        }
        Command::Stat { name, json } => {
            let stat = client.stat_any(&name).await?;
            let replicas: Vec<&str> = stat.replicas.iter().map(NodeName::as_str).collect();
            let text = if json {
                serde_json::json!({
                    "name": stat.file, "len": stat.len, "newlines": stat.newlines,
                    "coordinator": stat.coordinator.as_ref().map(NodeName::as_str), "replicas": replicas,
                    "under_replicated": stat.under_replicated,
                })
                .to_string()
            } else {
                let coordinator = stat.coordinator.as_ref().map_or("none", NodeName::as_str);
                let repair = if stat.under_replicated {
                    " (under-replicated)"
                } else {
                    ""
                };
                format!(
                    "{}\t{} bytes\t{} newlines\tcoordinator {coordinator}\treplicas {}{repair}",
                    stat.file,
                    stat.len,
                    stat.newlines,
                    replicas.join(","),
                )
            };
            write(out, format!("{text}\n").as_bytes()).await?;
        }
        Command::Find { prefix } => {
            let found = client.find(prefix.as_deref().unwrap_or("")).await?;
            let text: String = found.iter().map(|e| format!("{}\t{}\n", e.file, e.len)).collect();
            write(out, text.as_bytes()).await?;
        }
        Command::Rm { name } => client.remove(&name).await?,
    }
    flush(out).await
}

fn local(path: &Path, what: &str, error: std::io::Error) -> Error {
    Error::Local {
        what: format!("cannot {what} {}", path.display()),
        why: error.to_string(),
    }
}

/// A reader and, where it is known, how much it will yield.
async fn open(path: &Path) -> Result<(Box<dyn AsyncRead + Unpin + Send>, Option<u64>), Error> {
    if path == Path::new("-") {
        return Ok((Box::new(tokio::io::stdin()), None));
    }
    let mut file = tokio::fs::File::open(path)
        .await
        .map_err(|e| local(path, "read", e))?;
    let meta = file.metadata().await.map_err(|e| local(path, "read", e))?;
    if meta.is_dir() {
        return Err(local(
            path,
            "read",
            std::io::Error::other("it is a folder; name a file"),
        ));
    }
    file.set_max_buf_size(1024 * 1024);
    Ok((Box::new(file), meta.is_file().then_some(meta.len())))
}

fn bar(size: Option<u64>, what: &'static str) -> ProgressBar {
    let worth = size.is_none_or(|n| n > WORTH_A_BAR) && std::io::stderr().is_terminal();
    if !worth {
        return ProgressBar::hidden();
    }
    let template = match size {
        Some(_) => "{msg} {bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        None => "{msg} {spinner} {bytes} {bytes_per_sec}",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = size.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    bar.with_style(style).with_message(what)
}

async fn copy<W: AsyncWrite + Unpin>(
    client: &Client,
    name: &str,
    range: std::ops::Range<u64>,
    out: &mut W,
    bar: Option<&ProgressBar>,
) -> Result<(), Error> {
    let mut stream = client.stream(name, range);
    while let Some(piece) = stream.next().await {
        let piece = piece?;
        write(out, &piece).await?;
        if let Some(bar) = bar {
            bar.inc(piece.len() as u64);
        }
    }
    flush(out).await
}

/// Writes beside the target and renames: a target that is there is whole.
async fn get(client: &Client, name: &str, target: &Path) -> Result<(), Error> {
    let size = client.stat_any(name).await?.len;
    let mut part = target.as_os_str().to_owned();
    part.push(format!(".{}.part", std::process::id()));
    let part = PathBuf::from(part);
    let mut file = tokio::fs::File::create(&part)
        .await
        .map_err(|e| local(&part, "write", e))?;
    file.set_max_buf_size(1024 * 1024);
    let bar = bar(Some(size), "get");
    let copied = copy(client, name, 0..u64::MAX, &mut file, Some(&bar)).await;
    bar.finish_and_clear();
    let renamed = match copied {
        Ok(()) => tokio::fs::rename(&part, target)
            .await
            .map_err(|e| local(target, "write", e)),
        Err(error) => Err(error),
    };
    if renamed.is_err() {
        let _ = tokio::fs::remove_file(&part).await;
    }
    renamed
}

async fn tail<W: AsyncWrite + Unpin>(
    client: &Client,
    name: &str,
    follow: bool,
    bytes: Option<u64>,
    out: &mut W,
) -> Result<(), Error> {
    let len = client.stat(name).await?.len;
    let back = bytes.unwrap_or(if follow { 0 } else { 4096 });
    let mut at = len.saturating_sub(back);
    copy(client, name, at..len, out, None).await?;
    at = len;
    if !follow {
        return Ok(());
    }
    loop {
        let more = client
            .tail(
                name,
                at,
                super::stream::PIECE as usize,
                std::time::Duration::from_secs(60),
            )
            .await?;
        write(out, &more).await?;
        flush(out).await?;
        at += more.len() as u64;
    }
}

fn unwritable(error: std::io::Error) -> Error {
    Error::Local {
        what: "the output cannot be written".into(),
        why: error.to_string(),
    }
}

async fn write<W: AsyncWrite + Unpin>(out: &mut W, bytes: &[u8]) -> Result<(), Error> {
    out.write_all(bytes).await.map_err(unwritable)
}

async fn flush<W: AsyncWrite + Unpin>(out: &mut W) -> Result<(), Error> {
    out.flush().await.map_err(unwritable)
}
