//! Reading a file ahead of need, from whichever replica is nearest and whole.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::clock;
use common::ids::Creation;
use common::spawn;
use tokio::sync::{mpsc, oneshot};

use super::FileRef;
use super::conn::{Answer, Conn};
use super::error::{Error, check_name};
use super::nodes::{GRACE, Nodes, Search};
use crate::view::NodeIx;
use crate::wire::client::{FileStat, MAX_READ, Refusal, Reply, Request};

/// Bytes per request.
pub const PIECE: u64 = MAX_READ as u64;
/// Requests under way; as many pieces again wait to be taken.
const AHEAD: usize = 4;
const ANSWER: Duration = Duration::from_secs(3);

/// The bytes of a file, piece by piece. [`ReadStream::next`] is cancel-safe.
pub struct ReadStream {
    pieces: mpsc::Receiver<Result<Bytes, Error>>,
    _task: spawn::Guard,
}

impl ReadStream {
    /// `known`: what was just found out of the file, if anything.
    pub(super) fn start(
        nodes: Arc<Nodes>,
        file: FileRef<'_>,
        range: Range<u64>,
        patience: Duration,
        known: Option<FileStat>,
    ) -> Self {
        let (file, of) = (file.name.to_owned(), file.of);
        let (out, pieces) = mpsc::channel(AHEAD);
        let task = spawn::guarded("hydfs-read", async move {
            let mut reader = Reader {
                nodes,
                file,
                of,
                patience,
                out,
            };
            if let Err(error) = reader.run(range, known).await {
                // The receiver may be gone: then nobody wants to know.
                let _ = reader.out.send(Err(error)).await;
            }
            Ok::<(), Error>(())
        });
        Self { pieces, _task: task }
    }

    /// The next piece; `None` at the end. After an error nothing more comes.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        self.pieces.recv().await
    }
}

/// What is committed now; when nobody coordinates the file, what the longest replica has.
pub(super) async fn size(nodes: &Nodes, file: &str, patience: Duration) -> Result<FileStat, Error> {
    let request = |any| Request::Stat {
        file: file.to_owned(),
        any,
    };
    let quick = patience.min(GRACE);
    let error = match nodes.ask(file, request(false), quick).await {
        Ok(Reply::Stat(stat)) => return Ok(stat),
        Ok(other) => return Err(nodes.unexpected(file, &other)),
        Err(error @ Error::Unavailable { .. }) => error,
        Err(other) => return Err(other),
    };
    let mut best: Option<FileStat> = None;
    for node in nodes.all() {
        if let Ok(Answer::Reply(Reply::Stat(stat))) = nodes.call(node, request(true), ANSWER).await
            && best.as_ref().is_none_or(|b| b.len < stat.len)
        {
            best = Some(stat);
        }
    }
    match best {
        Some(stat) => Ok(stat),
        None if patience > quick => match nodes.ask(file, request(false), patience - quick).await? {
            Reply::Stat(stat) => Ok(stat),
            other => Err(nodes.unexpected(file, &other)),
        },
        None => Err(error),
    }
}

struct Reader {
    nodes: Arc<Nodes>,
    file: String,
    /// Which file of that name; known before the first piece is asked for.
    of: Option<Creation>,
    patience: Duration,
    out: mpsc::Sender<Result<Bytes, Error>>,
}

/// A request under way.
struct Under {
    offset: u64,
    len: u64,
    answer: oneshot::Receiver<Answer>,
}

impl Reader {
    async fn run(&mut self, range: Range<u64>, known: Option<FileStat>) -> Result<(), Error> {
        check_name(&self.file)?;
        if range.is_empty() {
            return Ok(());
        }
        let stat = match known {
            Some(stat) => stat,
            None => size(&self.nodes, &self.file, self.patience).await?,
        };
        let is = Creation(stat.nonce);
        if *self.of.get_or_insert(is) != is {
            return Err(Error::Replaced {
                file: self.file.clone(),
            });
        }
        if range.start < stat.base {
            return Err(Error::Trimmed {
                file: self.file.clone(),
                base: stat.base,
            });
        }
        let end = range.end.min(stat.len);
        let mut at = range.start;
        let mut sources = self.sources(&stat);
        while at < end {
            match sources.pop_front() {
                Some(node) => at = self.read_from(node, at, end).await?,
                // Nobody had all of it: one careful piece from the coordinator or anybody, then from all again.
                None => {
                    at = self.read_somewhere(at, end).await?;
                    sources = self.sources(&stat);
                }
            }
        }
        Ok(())
    }

    /// This node's own replica first, the coordinator last: it has enough to do.
    fn sources(&self, stat: &FileStat) -> VecDeque<NodeIx> {
        let mut sources: Vec<NodeIx> = stat.replicas.clone();
        sources.sort_by_key(|n| (Some(*n) != self.nodes.local(), Some(*n) == stat.coordinator));
        sources.into()
    }

    fn request(&self, offset: u64, len: u64, any: bool) -> Request {
        Request::Read {
            file: self.file.clone(),
            of: self.of,
            offset,
            len: len as u32,
            any,
        }
    }

    /// Reads from one node until it has no more of `at..end`; returns how far it came.
    async fn read_from(&self, node: NodeIx, mut at: u64, end: u64) -> Result<u64, Error> {
        let Ok(conn) = self.nodes.conn(node).await else {
            return Ok(at);
        };
        let mut under: VecDeque<Under> = VecDeque::new();
        let mut asked = at;
        loop {
            while under.len() < AHEAD && asked < end {
                under.push_back(self.start(&conn, asked, end));
                asked += under.back().map_or(0, |u| u.len);
            }
            let Some(Under { offset, len, answer }) = under.pop_front() else {
                return Ok(at);
            };
            let Ok(Ok(Answer::Data { offset: from, bytes })) = tokio::time::timeout(ANSWER, answer).await
            else {
                return Ok(at);
            };
            if from != offset || bytes.is_empty() || bytes.len() as u64 > len {
                return Ok(at);
            }
            at += bytes.len() as u64;
            let whole = bytes.len() as u64 == len;
            self.give(bytes).await?;
            if !whole {
                return Ok(at);
            }
        }
    }

    fn start(&self, conn: &Conn, offset: u64, end: u64) -> Under {
        let len = (end - offset).min(PIECE);
        Under {
            offset,
            len,
            answer: conn.call(self.request(offset, len, true)),
        }
    }

    /// Tries everybody, the coordinator first, until one has a piece of what is at `at`, or patience is over.
    async fn read_somewhere(&self, at: u64, end: u64) -> Result<u64, Error> {
        let len = (end - at).min(PIECE);
        let range = self.nodes.ring().range_of(&self.file);
        let start = clock::now();
        let mut search = Search::new(&self.nodes, range, &self.file, self.patience);
        let mut damaged = None;
        loop {
            let node = search.node();
            let refusal = match self.nodes.call(node, self.request(at, len, false), ANSWER).await {
                Ok(Answer::Data { offset, bytes }) if offset == at && !bytes.is_empty() => {
                    let next = at + bytes.len() as u64;
                    self.give(bytes).await?;
                    return Ok(next);
                }
                // Not what was asked for; or a Stat: what was not there is there.
                Ok(Answer::Data { .. } | Answer::Reply(Reply::Stat(_))) => Ok(Refusal::Again),
                Ok(Answer::Reply(Reply::Refused(refusal))) => Ok(refusal),
                Ok(Answer::Reply(other)) => return Err(self.nodes.unexpected(&self.file, &other)),
                Ok(Answer::Entries { .. }) => Ok(Refusal::Again),
                Err(error) => Err(error),
            };
            for other in self.nodes.all() {
                match self.nodes.call(other, self.request(at, len, true), ANSWER).await {
                    Ok(Answer::Data { offset, bytes }) if offset == at && !bytes.is_empty() => {
                        let next = at + bytes.len() as u64;
                        self.give(bytes).await?;
                        return Ok(next);
                    }
                    Ok(Answer::Reply(Reply::Refused(Refusal::Damaged { offset, why }))) => {
                        damaged = Some((offset, why))
                    }
                    _ => {}
                }
            }
            // Nobody has an undamaged copy. One may come back, or be repaired; not for ever.
            if let Some((offset, why)) = damaged.take()
                && clock::now().since(start) > GRACE
            {
                return Err(Error::Damaged {
                    file: self.file.clone(),
                    offset,
                    why,
                });
            }
            match refusal {
                Ok(Refusal::Damaged { .. }) => search.refused(node, Refusal::Again).await?,
                Ok(refusal) => search.refused(node, refusal).await?,
                Err(error) => search.failed(error).await?,
            }
        }
    }

    async fn give(&self, bytes: Bytes) -> Result<(), Error> {
        // The stream was dropped: an error ends this task, and nobody hears of it.
        let gone = |_| Error::Local {
            what: self.file.clone(),
            why: "nobody reads the stream".into(),
        };
        self.out.send(Ok(bytes)).await.map_err(gone)
    }
}
