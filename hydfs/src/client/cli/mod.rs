//! The commands of `hydfs`, which are also words at `rainstormctl`'s prompt.

mod check;
pub mod df;
mod many;
mod multiappend;
mod out;
mod regular;
mod transfer;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;
use common::ids::NodeName;
use common::signals::Stop;
use tokio::io::AsyncWrite;

use super::names::{Deed, check_users};
use super::{Client, Error};
use crate::ring::token;
pub use multiappend::Launcher;
use out::Out;

/// For the names that the system keeps.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct System {
    /// Allow names that RainStorm keeps for itself: under jobs/ and ops/, and *.poison
    #[arg(long)]
    system: bool,
}

#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Make a HyDFS file from a local one
    #[command(long_about = "Make a HyDFS file from a local one.\n\n\
        The file is made whole or not at all: when the input fails, or Ctrl-C or SIGTERM comes, it is removed (a second Ctrl-C ends at once).\n\n\
        With -r, symbolic links to files are taken for the files. Those to folders, and those that lead nowhere, are left out and named; the rest \
        is made all the same, and the exit code is 1.")]
    Create {
        /// Make a file of each file in the folder LOCAL, named NAME/...; many at a time
        #[arg(short = 'r', long)]
        recursive: bool,
        #[command(flatten)]
        system: System,
        /// Local file; `-` for standard input
        local: PathBuf,
        name: String,
    },
    /// Copy a HyDFS file to a local one
    Get {
        name: String,
        /// Local file, replaced when the copy is whole, or a folder; `-` for standard output
        local: PathBuf,
    },
    /// Append a local file to a HyDFS file, as one piece (up to 32 MiB); from a pipe, line by line as they come
    #[command(long_about = "Append a local file to a HyDFS file.\n\n\
        A file goes as one piece, with nothing of others between its bytes; longer ones in pieces of up to 32 MiB, each of whole lines. What comes \
        from a pipe goes in pieces of whole lines, each at most --linger after it came; what there is at the end, or at Ctrl-C or SIGTERM, goes \
        as it is.\n\n\
        Example: tail -F app.log | hydfs append - logs/app.log")]
    Append {
        /// How long lines from a pipe may wait for more, such as 100ms; a long one keeps up to 32 MiB together
        #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = humantime::parse_duration)]
        linger: Duration,
        #[command(flatten)]
        system: System,
        /// Say READY when the file was found, and begin at the first line of standard input: for multiappend
        #[arg(long, hide = true)]
        gate: bool,
        /// Local file; `-` for standard input
        local: PathBuf,
        name: String,
    },
    /// Make all replicas of a file the same, prove it, and say in how long
    #[command(
        long_about = "Make all replicas of a file the same, prove it, and say in how long.\n\n\
        Everything acknowledged is on all replicas in one order already, so this waits for copies that are under repair, compares \
        the replicas' digests, and has them read back what was not read back since their daemons started. A copy with flipped bits is \
        repaired from another."
    )]
    Merge { name: String },
    /// Where a file is: its replicas with their places on the ring, the coordinator first
    Ls { name: String },
    /// The files that a node holds copies of
    Liststore {
        /// This node when left out
        #[arg(id = "of", value_name = "NODE")]
        node: Option<NodeName>,
    },
    /// Copy one node's own copy of a file, and no other's, to a local file
    Getfromreplica {
        #[arg(id = "replica", value_name = "NODE")]
        node: NodeName,
        name: String,
        /// Local file, replaced when the copy is whole, or a folder; `-` for standard output
        local: PathBuf,
    },
    /// The ring: every storage node with its place, state and incarnation
    #[command(name = "list_mem_ids")]
    ListMemIds,
    /// Append to one file from several nodes at once: multiappend NAME NODE... LOCAL...
    #[command(long_about = "Append to one file from several nodes at once.\n\n\
        As many NODEs as LOCALs: the first node appends the first file, and so on; or one LOCAL, which every node appends. On each node a \
        `hydfs append` is started over SSH, as the cluster file says how; when all are connected they begin at the same time. A \
        LOCAL is a file of this machine, sent over, unless --there says that it is on its node. Each append is one piece (up to 32 MiB). \
        If some node cannot be reached, nothing is appended.\n\n\
        Example: hydfs multiappend log n1 n2 one.txt two.txt")]
    Multiappend {
        /// LOCAL is a path on its node
        #[arg(long)]
        there: bool,
        /// How the appends are started; `local`: as processes of this machine, where there is no sshd
        #[arg(long, value_name = "HOW", default_value = "ssh")]
        launcher: Launcher,
        #[command(flatten)]
        system: System,
        name: String,
        #[arg(required = true, num_args = 2.., value_name = "NODE... LOCAL")]
        words: Vec<String>,
    },
    /// Make N files at once from local ones
    #[command(long_about = "Make N files at once from local ones.\n\n\
        The i-th file is a copy of the i-th LOCAL, beginning again with the first when there are fewer LOCALs than N. With as many LOCALs as \
        N the files are named as the local ones, without their folders; with fewer each gets its number behind: x.txt.1, x.txt.2, ... \
        --prefix puts something before the names. None of the names may exist.\n\n\
        Examples: hydfs multicreate 2 a.txt b.txt              a.txt and b.txt\n          \
        hydfs multicreate 100 --prefix copies/ a.txt    copies/a.txt.1 to copies/a.txt.100")]
    Multicreate {
        /// Before each name, such as `in/`
        #[arg(long, value_name = "TEXT", default_value = "")]
        prefix: String,
        #[command(flatten)]
        system: System,
        #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        n: u32,
        #[arg(required = true)]
        local: Vec<PathBuf>,
    },
    /// Print a file
    Cat { name: String },
    /// Print the last lines of a file
    Tail {
        name: String,
        /// Go on as the file grows, until interrupted
        #[arg(short)]
        follow: bool,
        /// How many lines
        #[arg(short = 'n', value_name = "LINES", default_value_t = 10)]
        lines: u64,
        /// How many bytes, instead of lines
        #[arg(short = 'c', value_name = "BYTES", conflicts_with = "lines")]
        bytes: Option<u64>,
    },
    /// Size, newlines and copies of a file
    Stat {
        name: String,
        #[arg(long)]
        json: bool,
    },
    /// All files, or those whose names begin with PREFIX
    Find { prefix: Option<String> },
    /// Trim a file: its bytes before OFFSET are gone for good, and their room is free
    #[command(
        long_about = "Trim a file: its bytes before OFFSET are gone for good, on all replicas, and their room is free again.\n\n\
        Offsets stay what they were: the file begins at OFFSET from then on. `cat` and `get` begin there, too, and say so. What is not stored yet \
        cannot be trimmed. Prints the byte that the file begins at now; it may have been trimmed further before.\n\n\
        Example: hydfs trim logs/app.log 1000000"
    )]
    Trim {
        #[command(flatten)]
        system: System,
        name: String,
        offset: u64,
    },
    /// Remove a file
    Rm {
        #[command(flatten)]
        system: System,
        name: String,
    },
    /// How full each node's disk is, and what takes the room
    #[command(long_about = "How full each node's disk is, and what takes the room.\n\n\
        USED, FREE and USE% are those of the disk that the node's data folder is on, whatever else is there. The columns behind them are bytes of \
        the node's own copies: users' files; jobs' logs, snapshots and journals, and operators that were shipped (JOBS); the programs' logs, and \
        the node's copies of operators (NODE). Exit code 0 when all nodes answered, else 1.")]
    Df {
        /// All figures, for scripts
        #[arg(long)]
        json: bool,
    },
    /// Look at every copy of every file; names those that are under-replicated, damaged or unavailable (exit code 1)
    #[command(long_about = "Look at every copy of every file.\n\n\
        Prints a line for each file that has fewer whole copies than it should, a damaged copy, or a range that is unavailable: what is wrong, \
        the file, where. Damaged copies are repaired from others at once. Exit code 0 when all is well, 1 when something is not.")]
    Fsck {
        /// Only files whose names begin so
        prefix: Option<String>,
        /// Compare what the nodes know of their copies, without reading the bytes back
        #[arg(long)]
        quick: bool,
    },
}

impl Command {
    /// Refuses names that are not for users.
    fn check(&self) -> Result<(), Error> {
        let (system, name, deed) = match self {
            Self::Create { system, name, .. }
            | Self::Append { system, name, .. }
            | Self::Multiappend { system, name, .. } => (system, name, Deed::Write),
            Self::Rm { system, name } | Self::Trim { system, name, .. } => (system, name, Deed::Remove),
            // Those that `multicreate` makes are checked when they are known.
            _ => return Ok(()),
        };
        match system.system {
            true => Ok(()),
            false => check_users(name, deed),
        }
    }

    /// Has something to tidy up or to finish when it is stopped. Others are given up where they stand, which leaves nothing behind.
    fn minds_a_stop(&self) -> bool {
        matches!(
            self,
            Self::Create { .. } | Self::Multicreate { .. } | Self::Append { .. }
        )
    }
}

/// Carries `command` out; its data go to `out`. `here` is the node that this runs on, if any. Asked to stop, it ends with
/// [`Error::Stopped`].
pub async fn run(
    client: &Client,
    here: Option<&NodeName>,
    command: Command,
    stop: &Stop,
    out: &mut (impl AsyncWrite + Unpin),
) -> Result<(), Error> {
    command.check()?;
    let mut out = Out::new(out);
    let done = if command.minds_a_stop() {
        carry_out(client, here, command, stop, &mut out).await
    } else {
        transfer::unless(stop, carry_out(client, here, command, stop, &mut out)).await
    };
    // What was found out before it failed is told all the same.
    let flushed = out.flush().await;
    done.and(flushed)
}

async fn carry_out(
    client: &Client,
    here: Option<&NodeName>,
    command: Command,
    stop: &Stop,
    out: &mut Out<'_>,
) -> Result<(), Error> {
    match command {
        Command::Create {
            recursive: true,
            local,
            name,
            system,
        } => many::create_tree(client, &local, &name, system.system, stop, out).await?,
        Command::Create { local, name, .. } => transfer::create(client, &local, &name, stop).await?,
        Command::Append {
            local,
            name,
            gate,
            linger,
            ..
        } => transfer::append(client, &local, &name, gate, linger, stop, out).await?,
        Command::Get { name, local } => transfer::get(client, &name, &local, out).await?,
        Command::Getfromreplica { node, name, local } => {
            transfer::get_from_replica(client, &node, &name, &local, out).await?;
        }
        Command::Cat { name } => transfer::get(client, &name, Path::new("-"), out).await?,
        Command::Tail {
            name,
            follow,
            lines,
            bytes,
        } => transfer::tail(client, &name, follow, lines, bytes, out).await?,
        Command::Merge { name } => check::merge(client, &name, out).await?,
        Command::Fsck { prefix, quick } => {
            check::fsck(client, prefix.as_deref().unwrap_or(""), quick, out).await?;
        }
        Command::Multiappend {
            there,
            launcher,
            name,
            words,
            system,
        } => {
            let options = multiappend::Options {
                there,
                launcher,
                system: system.system,
            };
            multiappend::run(client, &name, words, options, out).await?;
        }
        Command::Multicreate {
            n,
            local,
            prefix,
            system,
        } => {
            many::multicreate(client, n as usize, &local, &prefix, system.system, stop, out).await?;
        }
        Command::Ls { name } => {
            let stat = client.stat_any(&name).await?;
            let mut text = format!("{name}\t{:016x}\n", token(&name));
            for node in &stat.replicas {
                text.push_str(&format!("{node}\t{:016x}\n", token(node.as_str())));
            }
            out.write(text.as_bytes()).await?;
        }
        Command::Liststore { node } => {
            let why = "liststore: name a node; this machine is none of the cluster file's".to_owned();
            let node = node.or_else(|| here.cloned()).ok_or(Error::Usage(why))?;
            let files = client.list_store(&node).await?;
            let text: String = files.iter().map(|e| format!("{}\t{}\n", e.file, e.len)).collect();
            out.write(text.as_bytes()).await?;
        }
        Command::ListMemIds => {
            let lines = client.nodes().await?.into_iter();
            let lines =
                lines.map(|n| format!("{}\t{:016x}\t{}\t{}\n", n.name, n.token, n.state, n.incarnation));
            out.write(lines.collect::<String>().as_bytes()).await?;
        }
        Command::Stat { name, json } => check::stat(client, &name, json, out).await?,
        Command::Df { json } => df::df(client, json, out).await?,
        Command::Find { prefix } => {
            let found = client.find(prefix.as_deref().unwrap_or("")).await?;
            let text: String = found.iter().map(|e| format!("{}\t{}\n", e.file, e.len)).collect();
            out.write(text.as_bytes()).await?;
        }
        Command::Trim { name, offset, .. } => {
            let base = client.trim(&name, offset).await?;
            out.write(format!("{name}\t{base}\n").as_bytes()).await?;
        }
        Command::Rm { name, .. } => client.remove(&name).await?,
    }
    Ok(())
}

fn local(path: &Path, what: &str, error: std::io::Error) -> Error {
    Error::Local {
        what: format!("cannot {what} {}", path.display()),
        why: error.to_string(),
    }
}
