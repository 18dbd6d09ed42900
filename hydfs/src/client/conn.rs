//! One connection to one storage node: calls with answers in any order, and append sessions.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use common::net::frame::decode;
use common::net::{self, Connection, Receiver, Sender};
use common::spawn;
use tokio::sync::{mpsc, oneshot};

use crate::content::EntryMeta;
use crate::wire::client::{Attach, Frame, Refusal, Reply, Request, ToClient, ToNode};

/// What a call came back with.
#[derive(Debug, Clone)]
pub enum Answer {
    Reply(Reply),
    Data { offset: u64, bytes: Bytes },
    Entries { entries: Vec<EntryMeta>, payload: Bytes },
}

/// What an append session hears.
#[derive(Debug)]
pub enum SessionNews {
    Acked(u64),
    Dropped(Refusal),
}

#[derive(Default)]
struct Shared {
    closed: AtomicBool,
    calls: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    sessions: Mutex<HashMap<u32, mpsc::UnboundedSender<SessionNews>>>,
}

/// No panic happens while these locks are held, so a poisoned one is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Whoever waits for an answer hears that none will come: their senders are dropped.
    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        lock(&self.calls).clear();
        lock(&self.sessions).clear();
    }
}

pub struct Conn {
    out: mpsc::UnboundedSender<Frame>,
    shared: Arc<Shared>,
    next_call: AtomicU64,
    next_session: AtomicU32,
    _tasks: [spawn::Guard; 2],
}

impl Conn {
    pub fn start(connection: Connection) -> Self {
        let shared = Arc::new(Shared::default());
        let (out, queue) = mpsc::unbounded_channel();
        let (reader, writer) = (shared.clone(), shared.clone());
        let read = async move {
            let end = read(connection.rx, &reader).await;
            reader.close();
            end.or_else(unless_lost)
        };
        let write = async move {
            let end = write(connection.tx, queue).await;
            writer.close();
            end.or_else(unless_lost)
        };
        let tasks = [
            spawn::guarded("hydfs-client-read", read),
            spawn::guarded("hydfs-client-write", write),
        ];
        Self {
            out,
            shared,
            next_call: AtomicU64::new(1),
            next_session: AtomicU32::new(1),
            _tasks: tasks,
        }
    }

    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }

    /// Sends the request now; the answer comes later, or the receiver fails when the connection is lost.
    pub fn call(&self, request: Request) -> oneshot::Receiver<Answer> {
        let (answer, receiver) = oneshot::channel();
        let id = self.next_call.fetch_add(1, Ordering::Relaxed);
        let Ok(frame) = Frame::to_node(&ToNode::Call(id, request)) else {
            return receiver;
        };
        lock(&self.shared.calls).insert(id, answer);
        // Closed between the check in `send` and here: nobody would ever answer.
        if !self.send(frame) {
            lock(&self.shared.calls).remove(&id);
        }
        receiver
    }

    /// Begins a session. What it hears ends when the connection does.
    pub fn attach(&self, attach: Attach) -> Option<(u32, mpsc::UnboundedReceiver<SessionNews>)> {
        let (tell, heard) = mpsc::unbounded_channel();
        let session = self.next_session.fetch_add(1, Ordering::Relaxed);
        let frame = Frame::to_node(&ToNode::Attach(session, attach)).ok()?;
        lock(&self.shared.sessions).insert(session, tell);
        if !self.send(frame) {
            lock(&self.shared.sessions).remove(&session);
            return None;
        }
        Some((session, heard))
    }

    pub fn append(&self, session: u32, offset: u64, bytes: Bytes) -> bool {
        Frame::append(session, offset, bytes).is_ok_and(|frame| self.send(frame))
    }

    pub fn detach(&self, session: u32) {
        if lock(&self.shared.sessions).remove(&session).is_some()
            && let Ok(frame) = Frame::to_node(&ToNode::Detach(session))
        {
            self.send(frame);
        }
    }

    fn send(&self, frame: Frame) -> bool {
        self.out.send(frame).is_ok() && !self.is_closed()
    }
}

/// A lost connection is everyday: callers retry. Anything else is worth a line in the log.
fn unless_lost(error: net::Error) -> Result<(), net::Error> {
    match error {
        net::Error::Closed | net::Error::Io(_) => Ok(()),
        other => Err(other),
    }
}

async fn write(mut tx: Sender, mut queue: mpsc::UnboundedReceiver<Frame>) -> Result<(), net::Error> {
    while let Some(frame) = queue.recv().await {
        tx.feed_parts(&frame.head, std::slice::from_ref(&frame.payload))
            .await?;
        while let Ok(frame) = queue.try_recv() {
            tx.feed_parts(&frame.head, std::slice::from_ref(&frame.payload))
                .await?;
        }
        tx.flush().await?;
    }
    Ok(())
}

async fn read(mut rx: Receiver, shared: &Shared) -> Result<(), net::Error> {
    while let Some(frame) = rx.recv_frame().await? {
        match decode::<ToClient>(&frame)? {
            ToClient::Reply(call, reply) => answer(shared, call, Answer::Reply(reply)),
            ToClient::Data(call, offset, _, bytes) => {
                answer(
                    shared,
                    call,
                    Answer::Data {
                        offset,
                        bytes: frame.slice_ref(bytes),
                    },
                );
            }
            ToClient::Entries(call, entries, payload) => {
                answer(
                    shared,
                    call,
                    Answer::Entries {
                        entries,
                        payload: frame.slice_ref(payload),
                    },
                );
            }
            ToClient::Acked(session, length) => {
                if let Some(tell) = lock(&shared.sessions).get(&session) {
                    let _ = tell.send(SessionNews::Acked(length));
                }
            }
            ToClient::Dropped(session, refusal) => {
                if let Some(tell) = lock(&shared.sessions).remove(&session) {
                    let _ = tell.send(SessionNews::Dropped(refusal));
                }
            }
        }
    }
    Ok(())
}

fn answer(shared: &Shared, call: u64, answer: Answer) {
    // Nobody waits any more after a time-out.
    if let Some(waiting) = lock(&shared.calls).remove(&call) {
        let _ = waiting.send(answer);
    }
}
