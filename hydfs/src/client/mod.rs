//! The client library of HyDFS: what programs use to read and append files.
//!
//! ```text
//! Client --+-- nodes.rs   one connection per storage node, made when first needed; finds coordinators; retries
//!          +-- stream.rs  reads ahead from the nearest replica
//!          +-- appender.rs drives session.rs: what is queued, sent and acknowledged of one client's stream
//!          +-- cached.rs  the same as stream.rs through cache.rs, blocks on the local disk
//!          +-- merge.rs, fsck.rs compare what inspect.rs gets to know of the replicas' copies
//! ```
//! Everything retries by itself through restarts, take-overs and lost connections, for [`Client::with_patience`] long.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use std::sync::Arc;
//!
//! use common::cluster::Cluster;
//! use common::ids::Epoch;
//! use common::net::Identity;
//! use hydfs::client::Client;
//!
//! let cluster = Cluster::find(None)?;
//! let me = Identity {
//!     who: "an example".into(),
//!     node: None,
//!     secret: cluster.secret()?,
//!     security: cluster.security,
//! };
//! let client = Client::new(Arc::new(cluster), me);
//! // A stream of this client in the file; whoever opens it under a later epoch fences this one out.
//! let mut appender = client.open_append("logs/a", "example", Epoch(1), true).await?;
//! appender.append("a line\n");
//! appender.wait_acked(appender.queued()).await?;
//! let mut pieces = client.stream("logs/a", 0..u64::MAX);
//! while let Some(piece) = pieces.next().await {
//!     print!("{}", String::from_utf8_lossy(&piece?));
//! }
//! # Ok(())
//! # }
//! ```

#![deny(missing_docs)]

mod appender;
mod cache;
mod cached;
#[allow(missing_docs)] // each command says in its --help what it does
pub mod cli;
#[allow(missing_docs)] // for the storage node, not for callers
mod conn;
mod error;
mod file_ref;
mod fsck;
mod inspect;
mod merge;
pub mod names;
#[allow(missing_docs)] // for the storage node, not for callers
mod nodes;
mod put;
mod replica;
mod session;
mod stream;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::cluster::Cluster;
use common::ids::{Creation, Epoch, NodeName};
use common::net::Identity;
use common::signals::Stop;

use crate::ring::RangeIx;
use crate::wire::client::{Reply, Request};

pub use crate::content::{ClientId, Span};
pub use crate::wire::client::{Disk, Level, NodeInfo, NodeState, NodeStatus, Stored, StreamInfo, Work};
pub use appender::Appender;
pub use cache::Cache;
pub use cached::CachedStream;
pub use conn::Answer;
pub use error::{Error, MAX_NAME, check_name};
pub use file_ref::FileRef;
pub use fsck::{Finding, Kind, Report};
pub use merge::Merged;
pub use nodes::Nodes;
pub use put::Gather;
pub use stream::ReadStream;

/// The longest append that stays one piece: concurrent appends of others never come between its bytes.
pub const MAX_APPEND: usize = 32 * 1024 * 1024;
/// How long calls keep trying unless told otherwise.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What is known of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stat {
    /// Its name.
    pub file: String,
    /// Which file of that name it is.
    pub creation: Creation,
    /// Bytes before this are gone: see [`Client::trim`].
    pub base: u64,
    /// Where the committed bytes end. Trimming changes no offset.
    pub len: u64,
    /// Newlines in the committed bytes, those that were trimmed included.
    pub newlines: u64,
    /// Who orders its appends; `None` when no majority of the storage nodes is there.
    pub coordinator: Option<NodeName>,
    /// The nodes that hold it, the coordinator first.
    pub replicas: Vec<NodeName>,
    /// Fewer whole copies than the cluster file's replication: repair is under way, or too few nodes live.
    pub under_replicated: bool,
}

/// One line of [`Client::find`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its name.
    pub file: String,
    /// Committed bytes.
    pub len: u64,
    /// Which file of that name it is.
    pub creation: Creation,
}

/// A place where an append began: `newlines_before` newlines lie in the file before byte `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineMark {
    /// The append's first byte in the file.
    pub offset: u64,
    /// Newlines before it.
    pub newlines_before: u64,
}

/// Who appended what to a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Streams {
    /// Bytes before this are gone; of what is wholly before it there are no spans.
    pub base: u64,
    /// Committed bytes of the file.
    pub len: u64,
    /// A part of the spans is not known now: the coordinator's copy is being repaired.
    pub missing: bool,
    /// By client. May hold appends that are under way, and so come to more than `len`. Lengths count what was trimmed, too.
    pub clients: BTreeMap<ClientId, StreamInfo>,
}

impl Streams {
    /// The stream of one client, if it has appended.
    pub fn of(&self, client: &str) -> Option<&StreamInfo> {
        self.clients.get(&ClientId::of(client))
    }

    /// Bytes of all streams.
    pub fn total(&self) -> u64 {
        self.clients.values().map(|s| s.length).sum()
    }
}

/// A client of the cluster's HyDFS. Cheap to clone; clones share their connections. Needs a tokio runtime.
#[derive(Clone)]
pub struct Client {
    nodes: Arc<nodes::Nodes>,
    patience: Duration,
    cache: Option<Arc<Cache>>,
}

impl Client {
    /// `me.node`, when set, is asked first and read from first.
    pub fn new(cluster: Arc<Cluster>, me: Identity) -> Self {
        Self {
            nodes: Arc::new(nodes::Nodes::new(cluster, me)),
            patience: PATIENCE,
            cache: None,
        }
    }

    /// The same client (and connections), with calls that give up after `patience` instead of 30 s.
    pub fn with_patience(&self, patience: Duration) -> Self {
        Self {
            nodes: self.nodes.clone(),
            patience,
            cache: self.cache.clone(),
        }
    }

    /// The same client, whose [`Client::get`] serves from `cache` what it has and keeps there what it gets.
    pub fn with_cache(&self, cache: Arc<Cache>) -> Self {
        Self {
            cache: Some(cache),
            ..self.clone()
        }
    }

    /// The cluster that it speaks to.
    pub fn cluster(&self) -> &Arc<Cluster> {
        self.nodes.cluster()
    }

    /// Makes an empty file. [`Error::Exists`] when there is one already; a retry of the same call is not fooled by its
    /// own first try.
    pub async fn create(&self, file: &str) -> Result<Creation, Error> {
        let nonce = nodes::random();
        self.create_as(file, nonce).await?;
        Ok(Creation(nonce))
    }

    /// The same under a number of the caller's, drawn at random once: also another process that knows it is not fooled by
    /// an earlier try.
    pub async fn create_as(&self, file: &str, nonce: u64) -> Result<(), Error> {
        let request = Request::Create {
            file: file.into(),
            nonce,
        };
        self.ask(file, request).await.map(drop)
    }

    /// What is known of a file. [`Error::NoSuchFile`] is certain: a majority has said so.
    pub async fn stat(&self, file: &str) -> Result<Stat, Error> {
        check_name(file)?;
        match self
            .nodes
            .ask(
                file,
                Request::Stat {
                    file: file.into(),
                    any: false,
                },
                self.patience,
            )
            .await?
        {
            Reply::Stat(stat) => Ok(self.nodes.stat(file, stat)),
            other => Err(self.nodes.unexpected(file, &other)),
        }
    }

    /// Like [`Client::stat`]; when nobody coordinates the file, what the longest replica says that can be reached.
    pub async fn stat_any(&self, file: &str) -> Result<Stat, Error> {
        let patient = self.with_patience(self.patience.min(nodes::GRACE));
        match patient.stat(file).await {
            Err(Error::Unavailable { file, why, tried_for }) => {
                let best = self.nodes.stat_any(&file).await;
                best.ok_or(Error::Unavailable { file, why, tried_for })
            }
            other => other,
        }
    }

    /// Whether there is a file of that name, as certain as [`Client::stat`].
    pub async fn exists(&self, file: &str) -> Result<bool, Error> {
        match self.stat(file).await {
            Ok(_) => Ok(true),
            Err(Error::NoSuchFile { .. }) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// All files whose names start with `prefix` (any text, `""` for all), sorted by name. [`Error::Unavailable`] when the
    /// files of any range cannot be known.
    pub async fn find(&self, prefix: &str) -> Result<Vec<Entry>, Error> {
        let mut found = BTreeMap::new();
        for range in self.nodes.ring().ranges() {
            self.find_in(range, prefix, &mut found).await?;
        }
        let entry = |(file, (len, creation))| Entry { file, len, creation };
        Ok(found.into_iter().map(entry).collect())
    }

    async fn find_in(
        &self,
        range: RangeIx,
        prefix: &str,
        found: &mut BTreeMap<String, (u64, Creation)>,
    ) -> Result<(), Error> {
        let mut after = String::new();
        loop {
            let request = Request::Find {
                range,
                prefix: prefix.into(),
                after: after.clone(),
            };
            match self
                .nodes
                .ask_range(range, prefix, request, self.patience)
                .await?
            {
                Reply::Files { files, more } => {
                    if let Some((last, ..)) = files.last() {
                        after.clone_from(last);
                    }
                    let done = !more || files.is_empty();
                    found.extend(files.into_iter().map(|(file, len, of)| (file, (len, of))));
                    if done {
                        return Ok(());
                    }
                }
                other => return Err(self.nodes.unexpected(prefix, &other)),
            }
        }
    }

    /// One mark per append that the file was made of, in order: where it can be split without counting lines again. The first is the file's base
    /// (0 unless it was trimmed).
    pub async fn index(&self, file: impl Into<FileRef<'_>>) -> Result<Vec<LineMark>, Error> {
        let FileRef { name: file, of } = file.into();
        check_name(file)?;
        let mut marks: Vec<LineMark> = vec![];
        loop {
            let from = marks.len() as u64;
            match self
                .nodes
                .ask(
                    file,
                    Request::Index {
                        file: file.into(),
                        of,
                        from,
                    },
                    self.patience,
                )
                .await?
            {
                Reply::Marks { marks: some, more } => {
                    let done = !more || some.is_empty();
                    marks.extend(some.into_iter().map(|(offset, newlines_before)| LineMark {
                        offset,
                        newlines_before,
                    }));
                    if done {
                        return Ok(marks);
                    }
                }
                other => return Err(self.nodes.unexpected(file, &other)),
            }
        }
    }

    /// Each client's stream in the file, with the processes (epochs) that wrote it. Fences nobody.
    pub async fn streams(&self, file: impl Into<FileRef<'_>>) -> Result<Streams, Error> {
        let FileRef { name: file, of } = file.into();
        let mut all = Streams::default();
        loop {
            let after = all.clients.last_key_value().map(|(id, _)| *id);
            let request = Request::Streams {
                file: file.into(),
                of,
                after,
            };
            match self.ask(file, request).await? {
                Reply::Streams {
                    base,
                    len,
                    missing,
                    streams,
                    more,
                } => {
                    let done = !more || streams.is_empty();
                    (all.base, all.len, all.missing) = (base, len, all.missing || missing);
                    all.clients.extend(streams.into_iter().map(|s| (s.client, s)));
                    if done {
                        return Ok(all);
                    }
                }
                other => return Err(self.nodes.unexpected(file, &other)),
            }
        }
    }

    /// Committed bytes from `offset`, as many as there are up to `len`; empty at (or behind) the end. [`Error::Trimmed`] below the file's base.
    pub async fn read(&self, file: impl Into<FileRef<'_>>, offset: u64, len: usize) -> Result<Bytes, Error> {
        let mut stream = self.stream(file, offset..offset.saturating_add(len as u64));
        let Some(first) = stream.next().await else {
            return Ok(Bytes::new());
        };
        let first = first?;
        let Some(second) = stream.next().await else {
            return Ok(first);
        };
        let mut all = Vec::with_capacity(len.min(2 * stream::PIECE as usize));
        all.extend_from_slice(&first);
        all.extend_from_slice(&second?);
        while let Some(more) = stream.next().await {
            all.extend_from_slice(&more?);
        }
        Ok(all.into())
    }

    /// The bytes of `range` that were committed when this was called, in pieces of up to 1 MiB, read ahead by a few.
    /// `0..u64::MAX` for the whole file, if it was never trimmed: what begins below the base is [`Error::Trimmed`]. A replica on this node is preferred; a damaged or vanished one is passed over.
    /// All pieces are of one file: when it is removed meanwhile the stream ends with [`Error::NoSuchFile`], or, when another
    /// was made under its name, [`Error::Replaced`].
    pub fn stream<'a>(&self, file: impl Into<FileRef<'a>>, range: Range<u64>) -> ReadStream {
        ReadStream::start(self.nodes.clone(), file.into(), range, self.patience, None)
    }

    /// Like [`Client::stream`], through the cache if this client has one. What was acknowledged before the call is in it.
    pub async fn get(&self, file: &str, range: Range<u64>) -> Result<CachedStream, Error> {
        CachedStream::open(self, file, range).await
    }

    /// Gives `sink` the pieces of the copy on `node`, with the length of all; from no other node. Returns which bytes of the file they were: those
    /// from its base on.
    pub async fn get_from_replica(
        &self,
        node: &NodeName,
        file: &str,
        sink: impl AsyncFnMut(Bytes, u64) -> Result<(), Error>,
    ) -> Result<Range<u64>, Error> {
        replica::read(self, node, file, sink).await
    }

    /// Returns when all replicas hold the same bytes, compared and read back; copies that are not right are repaired first.
    pub async fn merge(&self, file: &str) -> Result<Merged, Error> {
        merge::merge(self, file).await
    }

    /// Looks at all copies of all files whose names begin with `prefix`. `quick`: does not read the bytes back.
    pub async fn fsck(&self, prefix: &str, quick: bool) -> Result<Report, Error> {
        fsck::fsck(self, prefix, quick).await
    }

    /// Up to `max` committed bytes from `offset` as soon as there are any; empty when there are none within `wait`. [`Error::Trimmed`] below the
    /// file's base.
    pub async fn tail(
        &self,
        file: impl Into<FileRef<'_>>,
        offset: u64,
        max: usize,
        wait: Duration,
    ) -> Result<Bytes, Error> {
        let file = file.into();
        check_name(file.name)?;
        self.nodes.tail(file, offset, max, wait, self.patience).await
    }

    /// Trims a file: its bytes below `base` are gone, on all replicas and for good, and the room that they took is free again. Offsets stay what
    /// they were, and so do clients' streams. Returns the file's base now: more than `base` when it was trimmed further before. A repeat does no
    /// harm. [`Error::BeyondEnd`] when so many bytes are not committed.
    pub async fn trim(&self, file: impl Into<FileRef<'_>>, base: u64) -> Result<u64, Error> {
        let FileRef { name: file, of } = file.into();
        let request = Request::Trim {
            file: file.into(),
            of,
            base,
            by: None,
        };
        match self.ask(file, request).await {
            Ok(Reply::Trimmed { base }) => Ok(base),
            Ok(other) => Err(self.nodes.unexpected(file, &other)),
            Err(Error::BeyondEnd { file, len, .. }) => Err(Error::BeyondEnd { file, base, len }),
            Err(other) => Err(other),
        }
    }

    /// Removes the file that has the name now. One that is made in its place meanwhile stays.
    pub async fn remove(&self, file: &str) -> Result<(), Error> {
        // Which one: a retry must not remove one that was made in its place.
        let which = Request::Stat {
            file: file.into(),
            any: false,
        };
        let nonce = match self.ask(file, which).await? {
            Reply::Stat(stat) => stat.nonce,
            other => return Err(self.nodes.unexpected(file, &other)),
        };
        self.remove_made(file, nonce).await
    }

    /// Removes the file that was made under this number, and no other of that name.
    pub async fn remove_made(&self, file: &str, nonce: u64) -> Result<(), Error> {
        let request = Request::Remove {
            file: file.into(),
            nonce,
        };
        self.ask(file, request).await.map(drop)
    }

    /// Makes `file` and appends all that `local` yields, in pieces of 1 MiB, several under way at a time. `progress` is told
    /// how many bytes are acknowledged so far. Returns the length. When it fails or is asked to stop, what was made is removed.
    pub async fn put<R>(
        &self,
        local: R,
        file: &str,
        stop: &Stop,
        progress: impl FnMut(u64),
    ) -> Result<u64, Error>
    where
        R: tokio::io::AsyncRead + Unpin,
    {
        put::make(self, local, file, stop, progress).await
    }

    /// Appends all that `local` yields to a file that exists, in pieces of up to [`MAX_APPEND`] bytes, with nothing of others
    /// between the bytes of one.
    pub async fn append<R>(
        &self,
        local: R,
        file: &str,
        gather: Gather,
        stop: &Stop,
        progress: impl FnMut(u64),
    ) -> Result<u64, Error>
    where
        R: tokio::io::AsyncRead + Unpin,
    {
        put::append(self, local, file, gather, stop, progress).await
    }

    /// Opens `client`'s stream in `file` for this process, which is its `epoch`th (with `create`: makes the file when it is
    /// not there). From then on every process with a lower epoch, and any other with the same, is [`Error::Fenced`].
    pub async fn open_append(
        &self,
        file: impl Into<FileRef<'_>>,
        client: &str,
        epoch: Epoch,
        create: bool,
    ) -> Result<Appender, Error> {
        let FileRef { name: file, of } = file.into();
        check_name(file)?;
        let nonce = nodes::random();
        let fence = Request::Fence {
            file: file.into(),
            of,
            client: client.into(),
            epoch,
            nonce,
        };
        let mut made = !create;
        let (length, base) = loop {
            match self.nodes.ask(file, fence.clone(), self.patience).await {
                Ok(Reply::Fenced { length, base }) => break (length, base),
                Ok(other) => return Err(self.nodes.unexpected(file, &other)),
                Err(Error::NoSuchFile { .. }) if !made => {
                    made = true;
                    match self.create(file).await {
                        Ok(_) | Err(Error::Exists { .. }) => {}
                        Err(other) => return Err(other),
                    }
                }
                Err(other) => return Err(other),
            }
        };
        let stream = appender::StreamKey {
            file: file.into(),
            client: client.into(),
            epoch,
            nonce,
        };
        let opened = appender::Opened { length, base };
        Ok(Appender::start(self.nodes.clone(), stream, opened, self.patience))
    }

    /// Every storage node with its place on the ring and its state, clockwise.
    pub async fn nodes(&self) -> Result<Vec<NodeInfo>, Error> {
        self.nodes.ring_info(self.patience).await
    }

    /// How a node stands: its disk, what is on it, what it does. Only that node is asked.
    pub async fn status(&self, node: &NodeName) -> Result<NodeStatus, Error> {
        self.nodes.status(node).await
    }

    /// The files that one node holds a copy of, sorted by name, with the bytes it holds.
    pub async fn list_store(&self, node: &NodeName) -> Result<Vec<Entry>, Error> {
        self.nodes.list_store(node).await
    }

    /// Makes calls go to the file's coordinator until one answers.
    async fn ask(&self, file: &str, request: Request) -> Result<Reply, Error> {
        check_name(file)?;
        self.nodes.ask(file, request, self.patience).await
    }
}
