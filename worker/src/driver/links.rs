//! Data connections: one task per connection moves frames and acknowledgements; every decision is the engine's.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use common::backoff::Backoff;
use common::clock;
use common::ids::{Epoch, JobName, TaskId};
use common::net::door::{self, Guest, Limits};
use common::net::{self, Identity, Role};
use common::spawn;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};

use super::EngineEvent;
use crate::failpoint::{FailPoint, Point};
use crate::task::Input;
use crate::wire::{self, Ack, Open, Opened};

/// What goes out on a connection is at most this long under way before the connection counts as dead. Waiting for a
/// receiver with a full socket is not: that is back-pressure.
const HANDSHAKE: std::time::Duration = std::time::Duration::from_secs(3);

pub type Events = mpsc::Sender<EngineEvent>;

/// What may wait for the engine. Then the connections wait, and with them whoever sends on them.
pub const EVENTS: usize = 1024;

/// A stage has a thousand tasks at most; where processes are replaced, old connections go as new ones come.
const LIMITS: Limits = Limits {
    strangers: 256,
    connections: 8192,
};

/// Accepts data connections until dropped.
pub async fn listen(
    listener: TcpListener,
    me: Arc<Identity>,
    events: Events,
    fail: FailPoint,
) -> std::io::Result<()> {
    door::greet("data", listener, LIMITS, me, move |guest| {
        serve(guest, events.clone(), fail.clone())
    })
    .await
}

/// The receiving side of one connection.
async fn serve(guest: Guest, events: Events, fail: FailPoint) -> Result<(), net::Error> {
    if guest.connection.peer.role != Role::Data {
        guest.refuse(format_args!("its role is {:?}", guest.connection.peer.role));
        return Ok(());
    }
    let connection = guest.number;
    let net::Connection { mut tx, mut rx, .. } = guest.connection;
    let open = tokio::time::timeout(HANDSHAKE, rx.recv::<Open>())
        .await
        .map_err(|_| net::Error::Timeout)??;
    let Some(open) = open else { return Ok(()) };
    let from = open.from;
    let (reply, answer) = oneshot::channel();
    let (ack_tx, mut acks) = watch::channel(None);
    if events
        .send(EngineEvent::SenderConnected {
            connection,
            open,
            reply,
            acks: ack_tx,
        })
        .await
        .is_err()
    {
        return Ok(());
    }
    let Ok(answer) = answer.await else { return Ok(()) };
    tx.send(&answer).await?;
    if let Opened::Refused(_) = answer {
        return Ok(());
    }
    // Acknowledgements leave on their own, never behind data.
    let _writer = spawn::guarded("data_acks", async move {
        while acks.changed().await.is_ok() {
            let upto = *acks.borrow_and_update();
            if let Some(upto) = upto {
                fail.pass(Point::BeforeAck);
                tx.send(&Ack(upto)).await?;
                fail.pass(Point::AfterAck);
            }
        }
        // The engine has closed this connection.
        tx.shutdown().await
    });
    let lost = loop {
        if _writer.is_finished() {
            break "closed here".to_owned();
        }
        match rx.recv_frame().await {
            Ok(Some(frame)) => match wire::decode_data(&frame) {
                Ok(item) => {
                    let input = Input::FrameReceived {
                        connection,
                        from,
                        item,
                    };
                    if events.send(EngineEvent::Task(input)).await.is_err() {
                        return Ok(());
                    }
                }
                Err(error) => break error.to_string(),
            },
            Ok(None) => break "closed by the sender".to_owned(),
            Err(error) => break error.to_string(),
        }
    };
    tracing::debug!(%from, why = lost, "DATA_CLOSED");
    Ok(())
}

/// Whom a [`dial`]ler connects as and to.
pub struct Dial {
    pub output: usize,
    pub job: JobName,
    pub from: TaskId,
    pub epoch: Epoch,
    pub to: TaskId,
    pub me: Arc<Identity>,
    /// Where the receiver's newest process listens.
    pub addr: watch::Receiver<Option<(Epoch, SocketAddr)>>,
    /// The oldest unit that can be sent; asked at each handshake.
    pub oldest: watch::Receiver<u64>,
    pub fail_point: FailPoint,
}

/// Keeps one output connected until dropped: redials when the connection ends or the receiver moves.
pub fn dial(mut dial: Dial, events: Events) -> spawn::Guard {
    spawn::guarded("data_out", async move {
        let mut backoff = Backoff::new(
            std::time::Duration::from_millis(5),
            std::time::Duration::from_millis(200),
        );
        loop {
            let target = *dial.addr.borrow_and_update();
            if let Some((_, addr)) = target {
                let mut moved = dial.addr.clone();
                let ended = tokio::select! {
                    ended = converse(&mut dial, addr, &events, &mut backoff) => ended,
                    _ = changed(&mut moved) => Ok(()),
                };
                let output = dial.output;
                if events.send(EngineEvent::ReceiverLost { output }).await.is_err() {
                    return Ok::<(), net::Error>(());
                }
                if let Err(error) = ended {
                    tracing::debug!(to = %dial.to, %error, "DATA_LOST");
                }
            }
            let wait = clock::sleep_until(clock::now() + backoff.delay());
            tokio::select! {
                () = wait, if target.is_some() => {}
                gone = dial.addr.changed() => {
                    backoff.reset();
                    if gone.is_err() { return Ok(()); }
                }
            }
        }
    })
}

async fn changed(moved: &mut watch::Receiver<Option<(Epoch, SocketAddr)>>) {
    if moved.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The sending side of one connection, from handshake to its end.
async fn converse(
    dial: &mut Dial,
    addr: SocketAddr,
    events: &Events,
    backoff: &mut Backoff,
) -> Result<(), net::Error> {
    let net::Connection { mut tx, mut rx, .. } = net::dial(addr, &dial.me, Role::Data).await?;
    let oldest = *dial.oldest.borrow();
    let open = Open {
        job: dial.job.clone(),
        from: dial.from,
        epoch: dial.epoch,
        to: dial.to,
        oldest,
    };
    tx.send(&open).await?;
    let answer = tokio::time::timeout(HANDSHAKE, rx.recv::<Opened>())
        .await
        .map_err(|_| net::Error::Timeout)??;
    let (output, standing) = match answer.ok_or(net::Error::Closed)? {
        Opened::From(standing) => (dial.output, standing),
        Opened::Refused(why) => {
            let refused = Input::ReceiverRefused { to: dial.to, why };
            let _ = events.send(EngineEvent::Task(refused)).await;
            return Ok(());
        }
    };
    backoff.reset();
    // Holds no more than the output does, which shares the frames: `Outputs::are_full` bounds both.
    let (frame_tx, mut frames) = mpsc::unbounded_channel::<Bytes>();
    if events
        .send(EngineEvent::ReceiverConnected {
            output,
            standing,
            frames: frame_tx,
        })
        .await
        .is_err()
    {
        return Ok(());
    }
    let fail = dial.fail_point.clone();
    let write = async {
        while let Some(frame) = frames.recv().await {
            fail.pass(Point::BeforeForward);
            tx.feed_frame(frame).await?;
            while let Ok(frame) = frames.try_recv() {
                tx.feed_frame(frame).await?;
            }
            tx.flush().await?;
            fail.pass(Point::AfterForward);
        }
        Ok::<(), net::Error>(())
    };
    let read = async {
        while let Some(Ack(upto)) = rx.recv().await? {
            let input = Input::ReceiverAcknowledged { output, upto };
            let _ = events.send(EngineEvent::Task(input)).await;
        }
        Ok::<(), net::Error>(())
    };
    tokio::select! { done = write => done, done = read => done }
}
