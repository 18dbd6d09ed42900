//! One client's connection: a reader that decodes and hands over, a writer that gathers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use common::net::frame::decode;
use common::net::{self, Connection, Receiver, Sender};
use common::spawn;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};

use super::core::{Event, Events};
use crate::wire::client::{Attach, Frame, Request, ToNode};

/// Answers that a client has not taken: with more than this its requests wait.
const UNTAKEN: usize = 16 * 1024 * 1024;

/// A request with its bytes.
#[derive(Debug)]
pub enum FromClient {
    Call(u64, Request),
    Attach(u32, Attach),
    Detach(u32),
    Append(u32, u64, Bytes),
}

/// What is to be written to one client.
#[derive(Clone)]
pub struct Outbox {
    frames: mpsc::UnboundedSender<Frame>,
    untaken: Arc<AtomicUsize>,
}

impl Outbox {
    pub fn send(&self, frame: Frame) {
        self.untaken.fetch_add(frame.len(), Ordering::Relaxed);
        // The writer is gone: the reader will say so.
        let _ = self.frames.send(frame);
    }
}

/// Serves until either side ends.
pub async fn serve(number: u64, connection: Connection, events: Events) {
    let (frames, queue) = mpsc::unbounded_channel();
    let untaken = Arc::new(AtomicUsize::new(0));
    let taken = Arc::new(Notify::new());
    let out = Outbox {
        frames,
        untaken: untaken.clone(),
    };
    events.send(Event::ClientUp { conn: number, out });
    let (count, told) = (untaken.clone(), taken.clone());
    let _writer = spawn::guarded("hydfs-client-write", async move {
        let end = write(connection.tx, queue, &count, &told).await;
        // The reader must not wait for a writer that is gone.
        count.store(0, Ordering::Relaxed);
        told.notify_one();
        end.or_else(unless_lost)
    });
    let closed = events.clone();
    tokio::select! {
        end = read(number, connection.rx, &events, &untaken, &taken) => {
            if let Err(error) = end.or_else(unless_lost) {
                tracing::warn!(client = %connection.peer.who, from = %connection.addr, error = %error, "CLIENT_REFUSED");
            }
        }
        () = closed.closed() => {}
    }
    events.send(Event::ClientGone { conn: number });
}

/// A lost connection is everyday.
pub fn unless_lost(error: net::Error) -> Result<(), net::Error> {
    match error {
        net::Error::Closed | net::Error::Io(_) => Ok(()),
        other => Err(other),
    }
}

async fn read(
    conn: u64,
    mut rx: Receiver,
    events: &Events,
    untaken: &AtomicUsize,
    taken: &Notify,
) -> Result<(), net::Error> {
    loop {
        while untaken.load(Ordering::Relaxed) > UNTAKEN {
            taken.notified().await;
        }
        events.open_gate().await;
        let Some(frame) = rx.recv_frame().await? else {
            return Ok(());
        };
        let message = match decode::<ToNode>(&frame)? {
            ToNode::Call(id, request) => FromClient::Call(id, request),
            ToNode::Attach(session, attach) => FromClient::Attach(session, attach),
            ToNode::Detach(session) => FromClient::Detach(session),
            ToNode::Append(session, offset, bytes) => {
                FromClient::Append(session, offset, frame.slice_ref(bytes))
            }
        };
        let permit: Option<OwnedSemaphorePermit> = events.admit(frame.len()).await;
        events.send(Event::Client {
            conn,
            message,
            permit,
        });
    }
}

async fn write(
    mut tx: Sender,
    mut queue: mpsc::UnboundedReceiver<Frame>,
    untaken: &AtomicUsize,
    taken: &Notify,
) -> Result<(), net::Error> {
    while let Some(frame) = queue.recv().await {
        let mut next = Some(frame);
        while let Some(frame) = next {
            let len = frame.len();
            tx.feed_parts(&frame.head, std::slice::from_ref(&frame.payload))
                .await?;
            untaken.fetch_sub(len.min(untaken.load(Ordering::Relaxed)), Ordering::Relaxed);
            next = queue.try_recv().ok();
        }
        tx.flush().await?;
        taken.notify_one();
    }
    Ok(())
}
