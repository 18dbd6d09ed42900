//! One client's connection: a reader that decodes and hands over, a writer that gathers.

use bytes::Bytes;
use common::net::frame::decode;
use common::net::{self, Connection, Receiver, Sender};
use common::spawn;
use tokio::sync::OwnedSemaphorePermit;

use super::core::{CoreEvent, CoreEvents};
use super::outbox::{Allowance, OutboxFrames, outbox, weight};
use hydfs::wire::client::{Attach, Request, ToNode};

/// A request with its bytes.
#[derive(Debug)]
pub enum FromClient {
    Call(u64, Request),
    Attach(u32, Attach),
    Detach(u32),
    Append(u32, u64, Bytes),
}

/// Serves until either side ends.
pub async fn serve(number: u64, connection: Connection, events: CoreEvents) {
    let (out, frames, allowance) = outbox();
    events.send(CoreEvent::ClientUp { conn: number, out });
    let core = events.clone();
    let _writer = spawn::guarded("hydfs-client-write", async move {
        write(number, connection.tx, frames, &core)
            .await
            .or_else(unless_lost)
    });
    let closed = events.clone();
    tokio::select! {
        end = read(number, connection.rx, &events, &allowance) => {
            if let Err(error) = end.or_else(unless_lost) {
                tracing::warn!(client = %connection.peer.who, from = %connection.addr, error = %error, "CLIENT_REFUSED");
            }
        }
        () = closed.closed() => {}
    }
    events.send(CoreEvent::ClientGone { conn: number });
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
    events: &CoreEvents,
    allowance: &Allowance,
) -> Result<(), net::Error> {
    loop {
        allowance.wait_taken().await;
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
        if let FromClient::Call(_, request) = &message {
            allowance.begin(weight(request)).await;
        }
        let permit: Option<OwnedSemaphorePermit> = events.admit(frame.len()).await;
        events.send(CoreEvent::Client {
            conn,
            message,
            permit,
        });
    }
}

async fn write(
    conn: u64,
    mut tx: Sender,
    mut frames: OutboxFrames,
    events: &CoreEvents,
) -> Result<(), net::Error> {
    while let Some(frame) = frames.next().await {
        let mut next = Some(frame);
        while let Some(frame) = next {
            tx.feed_parts(&frame.head, std::slice::from_ref(&frame.payload))
                .await?;
            if frames.taken(frame.len()) {
                events.send(CoreEvent::ClientEased { conn });
            }
            next = frames.try_next();
        }
        tx.flush().await?;
    }
    Ok(())
}
