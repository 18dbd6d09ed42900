//! Carries out a [`Session`]: finds the coordinator, sends, hears acknowledgements, and starts over when anything breaks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use common::clock::{self, Time};
use common::hold::Hold;
use common::ids::Epoch;
use common::spawn;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::conn::{Answer, Conn, SessionNews};
use super::error::Error;
use super::nodes::{Nodes, Search};
use super::session::Session;
use crate::view::NodeIx;
use crate::wire::client::{Attach, Refusal, Reply, Request, Writer};

/// No acknowledgement for this long while appends are under way: ask others who coordinates the file by now.
const STALL: Duration = Duration::from_millis(700);

/// Whose stream it is.
#[derive(Debug, Clone)]
pub(super) struct StreamKey {
    pub file: String,
    pub client: String,
    pub epoch: Epoch,
    pub nonce: u64,
}

impl StreamKey {
    fn writer(&self) -> Writer {
        Writer {
            client: self.client.clone(),
            epoch: self.epoch,
            nonce: self.nonce,
        }
    }
}

#[derive(Debug, Clone)]
struct Progress {
    acked: u64,
    /// What ended it; everything after fails with it.
    error: Option<Error>,
}

/// What opening a stream found.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opened {
    /// Of the stream.
    pub length: u64,
    /// Of the file.
    pub base: u64,
}

/// How far the file is to be trimmed, and how far it is.
#[derive(Debug, Clone, Copy)]
struct Trim {
    wanted: u64,
    base: u64,
}

struct Shared {
    session: Mutex<Session>,
    trim: Mutex<Trim>,
    /// Something was queued, or is to be trimmed.
    queued: Notify,
}

impl Shared {
    fn session(&self) -> MutexGuard<'_, Session> {
        // No panic happens while it is held, so a poisoned one is as good as any.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trim(&self) -> MutexGuard<'_, Trim> {
        self.trim.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To where the file is still to be trimmed.
    fn trim_due(&self) -> Option<u64> {
        let Trim { wanted, base } = *self.trim();
        (wanted > base).then_some(wanted)
    }

    /// What was wanted is refused: it is wanted no more.
    fn drop_trim(&self) {
        let mut trim = self.trim();
        trim.wanted = trim.base;
    }
}

/// One client's stream in one file, opened for appending by [`super::Client::open_append`]. Appends are sent in order and
/// again after a failure, until they are acknowledged: then all replicas have them. Dropping it gives up on what is not
/// acknowledged.
pub struct Appender {
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
    /// The last length that [`Appender::changed`] returned.
    seen: u64,
    length: u64,
    _task: spawn::Guard,
}

impl Appender {
    pub(super) fn start(nodes: Arc<Nodes>, stream: StreamKey, opened: Opened, patience: Duration) -> Self {
        let Opened { length, base } = opened;
        let session = Mutex::new(Session::new(length));
        let shared = Arc::new(Shared {
            session,
            trim: Mutex::new(Trim { wanted: base, base }),
            queued: Notify::new(),
        });
        let (tell, progress) = watch::channel(Progress {
            acked: length,
            error: None,
        });
        let driver = Driver {
            nodes,
            stream,
            shared: shared.clone(),
            tell,
            patience,
        };
        let task = spawn::guarded("hydfs-append", async move {
            driver.run().await;
            Ok::<(), Error>(())
        });
        Self {
            shared,
            progress,
            seen: length,
            length,
            _task: task,
        }
    }

    /// The stream's length that opening it found, in bytes: what this client's earlier processes have stored.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Queues `bytes` at the stream's next offset; never waits. Up to [`super::MAX_APPEND`] bytes stay one piece. They are
    /// held in memory until acknowledged: the caller bounds how much it queues, by [`Appender::wait_acked`].
    pub fn append(&mut self, bytes: impl Into<Bytes>) {
        self.shared.session().push(bytes.into());
        self.shared.queued.notify_one();
    }

    /// Has the file trimmed to `base`: see [`super::Client::trim`]. Never waits, and asks once for the highest that was wanted until it is done, again
    /// after a failure. It is done under this stream's own fence: a process that was replaced trims nothing any more, and finds out as with an
    /// append. `base` counts the file's bytes; trim only what is acknowledged. A trim beyond that, or for which a disk has no room, is dropped:
    /// see [`Appender::base`].
    pub fn trim(&mut self, base: u64) {
        let mut trim = self.shared.trim();
        trim.wanted = trim.wanted.max(base);
        drop(trim);
        self.shared.queued.notify_one();
    }

    /// The file's base when the stream was opened, or since it was trimmed by [`Appender::trim`].
    pub fn base(&self) -> u64 {
        self.shared.trim().base
    }

    /// How long small appends are gathered before they go; not at all, unless this is said.
    pub fn hold(&mut self, hold: Hold) {
        self.shared.session().hold(hold);
        self.shared.queued.notify_one();
    }

    /// The stream offset behind all that was queued.
    pub fn queued(&self) -> u64 {
        self.shared.session().queued()
    }

    /// The stream offset up to which all is acknowledged.
    pub fn acked(&self) -> u64 {
        self.progress.borrow().acked
    }

    /// Waits until the stream is acknowledged up to `at_least`; returns how far it is. Cancel-safe.
    pub async fn wait_acked(&mut self, at_least: u64) -> Result<u64, Error> {
        Self::wait(&mut self.progress, at_least).await
    }

    /// Waits until more is acknowledged than the last call returned; returns how far it is. Cancel-safe.
    pub async fn changed(&mut self) -> Result<u64, Error> {
        self.seen = Self::wait(&mut self.progress, self.seen + 1).await?;
        Ok(self.seen)
    }

    async fn wait(progress: &mut watch::Receiver<Progress>, at_least: u64) -> Result<u64, Error> {
        let reached = progress
            .wait_for(|p| p.acked >= at_least || p.error.is_some())
            .await;
        let Ok(reached) = reached else {
            return Err(Error::Local {
                what: "append".into(),
                why: "the runtime is shutting down".into(),
            });
        };
        match &reached.error {
            Some(error) if reached.acked < at_least => Err(error.clone()),
            _ => Ok(reached.acked),
        }
    }
}

struct Driver {
    nodes: Arc<Nodes>,
    stream: StreamKey,
    shared: Arc<Shared>,
    tell: watch::Sender<Progress>,
    patience: Duration,
}

/// Why a connection is not used any more.
enum ConnEnd {
    Lost,
    Refused(Refusal),
    /// Another node says that it coordinates now.
    Moved(NodeIx),
}

impl Driver {
    async fn run(self) {
        let nodes = self.nodes.clone();
        let range = nodes.ring().range_of(&self.stream.file);
        'work: loop {
            // Patience counts from when something waits to be stored.
            while self.idle() {
                self.shared.queued.notified().await;
            }
            let mut search = Search::new(&nodes, range, &self.stream.file, self.patience);
            let error = loop {
                let node = search.node();
                let done_before = self.done();
                let end = match self.nodes.conn(node).await {
                    Ok(conn) => self.attached(&conn, node).await,
                    Err(error) => match search.failed(error).await {
                        Ok(()) => continue,
                        Err(error) => break error,
                    },
                };
                self.shared.session().disconnected();
                let moved_on = self.done() != done_before;
                if self.idle() {
                    continue 'work;
                }
                if moved_on {
                    search.reset();
                }
                let searched = match end {
                    ConnEnd::Lost => {
                        let why = "the connection was lost".into();
                        search
                            .failed(Error::Net {
                                node: self.nodes.name(node),
                                why,
                            })
                            .await
                    }
                    ConnEnd::Refused(refusal) => {
                        // What it acknowledged lies below what it says that it has: go on from there.
                        let refusal = match refusal {
                            Refusal::Gap { length } if length >= self.shared.session().acked() => {
                                Refusal::Again
                            }
                            other => other,
                        };
                        search.refused(node, refusal).await
                    }
                    ConnEnd::Moved(other) => {
                        self.nodes.set_hint(range, Some(other));
                        Ok(())
                    }
                };
                if let Err(error) = searched {
                    break error;
                }
            };
            let error = match error {
                Error::Fenced { file, epoch, .. } => Error::Fenced {
                    file,
                    client: self.stream.client.clone(),
                    epoch,
                },
                other => other,
            };
            self.tell.send_modify(|p| p.error = Some(error));
            return;
        }
    }

    fn idle(&self) -> bool {
        let session = self.shared.session();
        session.queued() == session.acked() && self.shared.trim_due().is_none()
    }

    /// How far it is, with appends and with trimming.
    fn done(&self) -> (u64, u64) {
        (self.shared.session().acked(), self.shared.trim().base)
    }

    fn call_trim(&self, conn: &Conn) -> Option<oneshot::Receiver<Answer>> {
        let base = self.shared.trim_due()?;
        Some(conn.call(Request::Trim {
            file: self.stream.file.clone(),
            of: None,
            base,
            by: Some(self.stream.writer()),
        }))
    }

    /// Sends over one connection until it is of no more use.
    async fn attached(&self, conn: &Arc<Conn>, node: NodeIx) -> ConnEnd {
        let StreamKey {
            file,
            client,
            epoch,
            nonce,
        } = self.stream.clone();
        let Some((session, mut heard)) = conn.attach(Attach {
            file,
            client,
            epoch,
            nonce,
        }) else {
            return ConnEnd::Lost;
        };
        let _detach = Detach { conn, session };
        let mut progressed = clock::now();
        let mut trimming: Option<oneshot::Receiver<Answer>> = None;
        loop {
            if !self.send_ready(conn, session) {
                return ConnEnd::Lost;
            }
            trimming = trimming.or_else(|| self.call_trim(conn));
            let (under_way, held) = {
                let session = self.shared.session();
                (session.under_way() || trimming.is_some(), session.deadline())
            };
            tokio::select! {
                biased;
                news = heard.recv() => {
                    progressed = clock::now();
                    match news {
                        Some(SessionNews::Acked(length)) => self.acknowledge(length, &mut heard),
                        Some(SessionNews::Dropped(refusal)) => return ConnEnd::Refused(refusal),
                        None => return ConnEnd::Lost,
                    }
                }
                answer = answered(&mut trimming) => {
                    progressed = clock::now();
                    trimming = None;
                    match answer {
                        Some(Answer::Reply(Reply::Trimmed { base })) => self.shared.trim().base = base,
                        // A trim is housekeeping: appends do not end with it.
                        Some(Answer::Reply(Reply::Refused(Refusal::BeyondEnd { .. } | Refusal::Full { .. }))) => {
                            self.shared.drop_trim();
                        }
                        Some(Answer::Reply(Reply::Refused(refusal))) => return ConnEnd::Refused(refusal),
                        _ => return ConnEnd::Lost,
                    }
                }
                () = self.shared.queued.notified() => {
                    if !under_way {
                        progressed = clock::now();
                    }
                }
                () = clock::sleep_until(held.unwrap_or(Time::ZERO)), if held.is_some() => {}
                moved = self.stalled(node, progressed), if under_way => match moved {
                    Some(other) => return ConnEnd::Moved(other),
                    None if clock::now().since(progressed) >= self.patience => return ConnEnd::Lost,
                    None => {}
                },
            }
        }
    }

    fn send_ready(&self, conn: &Conn, session: u32) -> bool {
        let mut state = self.shared.session();
        let now = clock::now();
        while let Some((offset, bytes)) = state.next_to_send(now) {
            if !conn.append(session, offset, bytes) {
                return false;
            }
        }
        true
    }

    fn acknowledge(&self, mut length: u64, heard: &mut mpsc::UnboundedReceiver<SessionNews>) {
        // Only the last of several acknowledgements counts; a refusal behind them is not lost, the session ends anyway.
        while !heard.is_empty() {
            match heard.try_recv() {
                Ok(SessionNews::Acked(more)) => length = length.max(more),
                _ => break,
            }
        }
        let mut state = self.shared.session();
        if state.acknowledge(clock::now(), length) {
            let acked = state.acked();
            drop(state);
            self.tell.send_modify(|p| p.acked = acked);
        }
    }

    /// Waits until an acknowledgement is overdue, then asks the other nodes who coordinates. `None`: nobody else, so far.
    async fn stalled(&self, node: NodeIx, progressed: Time) -> Option<NodeIx> {
        let waited = clock::now().since(progressed).as_micros();
        // Again after each further STALL.
        let rounds = (waited / STALL.as_micros() + 1) as u32;
        clock::sleep_until(progressed + STALL * rounds).await;
        let range = self.nodes.ring().range_of(&self.stream.file);
        for other in self.nodes.all().into_iter().filter(|n| *n != node) {
            if let Ok(Answer::Reply(Reply::Coordinator { node: Some(says) })) =
                self.nodes.call(other, Request::Locate { range }, STALL).await
                && says != node
            {
                return Some(says);
            }
        }
        None
    }
}

/// The answer to a call, if there is one under way; `None`: none will come.
async fn answered(call: &mut Option<oneshot::Receiver<Answer>>) -> Option<Answer> {
    match call {
        Some(answer) => answer.await.ok(),
        None => std::future::pending().await,
    }
}

struct Detach<'a> {
    conn: &'a Conn,
    session: u32,
}

impl Drop for Detach<'_> {
    fn drop(&mut self) {
        self.conn.detach(self.session);
    }
}
