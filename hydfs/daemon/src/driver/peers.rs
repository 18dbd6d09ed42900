//! The other storage nodes. Messages to a peer go over the one connection that we made to it; what it sends comes over the one that it
//! made to us. An empty frame asks for a sign of life and is answered by another.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::backoff::Backoff;
use common::clock::{self, Time};
use common::net::{self, Connection, Identity, Role};
use tokio::sync::{Notify, Semaphore, mpsc};

use super::clients::unless_lost;
use super::core::{CoreEvent, CoreEvents};
use crate::wire::fragment::Assembler;
use crate::wire::peer::{Message, Parts};
use hydfs::view::NodeIx;

const DIAL: Duration = Duration::from_secs(1);
/// Bytes of one peer's messages that are read and not yet handled, in KiB: more than a peer has under way, so that a busy node still
/// answers signs of life. A longer message has it all.
const INBOX: usize = 256 * 1024;
/// A peer's machine that refuses connections for this long runs no storage daemon.
const REFUSED: Duration = Duration::from_millis(200);

/// One peer, and how long it may be silent.
pub struct Peer {
    pub node: NodeIx,
    pub addr: SocketAddr,
    pub me: Identity,
    pub timeout: Duration,
    pub events: CoreEvents,
    /// It has dialled us: it is there.
    pub came: Arc<Notify>,
}

impl Peer {
    /// Keeps a connection to the peer up, and tells when it cannot.
    pub async fn keep(self) -> Result<(), Infallible> {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_millis(200));
        let mut heard = clock::now();
        loop {
            let why = match self.dial().await {
                Ok(connection) => {
                    backoff.reset();
                    let (tx, queue) = mpsc::unbounded_channel();
                    self.events.send(CoreEvent::PeerUp { node: self.node, tx });
                    let end = self.talk(connection, queue, &mut heard).await;
                    self.events.send(CoreEvent::PeerDown { node: self.node });
                    end.or_else(unless_lost).err()
                }
                Err(error) => Some(error),
            };
            let silent = clock::now().since(heard);
            let refused = matches!(&why, Some(net::Error::Connect { source, .. }) if gone(source));
            if (refused && silent >= REFUSED) || silent >= self.timeout {
                let why = why.map_or("silent".to_owned(), |e| e.to_string());
                self.events.send(CoreEvent::Suspect { node: self.node, why });
            }
            let came = self.came.notified();
            if tokio::time::timeout(backoff.delay(), came).await.is_ok() {
                backoff.reset();
            }
        }
    }

    async fn dial(&self) -> Result<Connection, net::Error> {
        let dial = net::dial(self.addr, &self.me, Role::HydfsPeer);
        tokio::time::timeout(DIAL, dial)
            .await
            .map_err(|_| net::Error::Timeout)?
    }

    async fn talk(
        &self,
        connection: Connection,
        mut queue: mpsc::UnboundedReceiver<Parts>,
        heard: &mut Time,
    ) -> Result<(), net::Error> {
        let Connection { mut tx, mut rx, .. } = connection;
        *heard = clock::now();
        let ask_every = self.timeout / 4;
        let (alive, mut sign) = tokio::sync::watch::channel(clock::now());
        let write = async {
            let mut asked = clock::now();
            loop {
                let wait = tokio::time::timeout(ask_every, queue.recv()).await;
                match wait {
                    Ok(Some(frame)) => {
                        tx.feed_parts(&frame.head, &frame.payloads).await?;
                        while let Ok(frame) = queue.try_recv() {
                            tx.feed_parts(&frame.head, &frame.payloads).await?;
                        }
                    }
                    // The core has no use for this connection any more.
                    Ok(None) => return Ok::<(), net::Error>(()),
                    Err(_) => {}
                }
                if clock::now().since(asked) >= ask_every {
                    asked = clock::now();
                    tx.feed_frame(Bytes::new()).await?;
                }
                tx.flush().await?;
            }
        };
        let read = async {
            while rx.recv_frame().await?.is_some() {
                alive.send_replace(clock::now());
            }
            Ok(())
        };
        let silence = async {
            loop {
                let last = *sign.borrow_and_update();
                if clock::now().since(last) >= self.timeout {
                    return;
                }
                clock::sleep_until(last + self.timeout).await;
            }
        };
        let end = tokio::select! {
            end = write => end,
            end = read => end,
            () = silence => Ok(()),
        };
        let silent = clock::now().since(*alive.borrow()) >= self.timeout;
        *heard = if silent { *alive.borrow() } else { clock::now() };
        end
    }
}

/// There is a machine, and nobody listens.
fn gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
    )
}

/// Reads what a peer that dialled us sends.
pub async fn serve(from: NodeIx, connection: Connection, events: CoreEvents) {
    let Connection {
        mut tx, mut rx, addr, ..
    } = connection;
    let mut assembler = Assembler::default();
    let room = Arc::new(Semaphore::new(INBOX));
    let read = async {
        while let Some(frame) = rx.recv_frame().await? {
            if frame.is_empty() {
                tx.feed_frame(Bytes::new()).await?;
                tx.flush().await?;
                continue;
            }
            let mut len = 0;
            let message = match assembler.take(frame) {
                Ok(Some(whole)) => {
                    len = whole.len();
                    Message::decode(&whole)
                }
                Ok(None) => continue,
                Err(error) => Err(error),
            };
            match message {
                Ok(message) => {
                    let kib = (len / 1024 + 1).min(INBOX) as u32;
                    let permit = room.clone().acquire_many_owned(kib).await.ok();
                    events.send(CoreEvent::Peer {
                        from,
                        message,
                        permit,
                    });
                }
                Err(error) => {
                    tracing::warn!(from = %addr, error = %error, "PEER_REFUSED");
                    break;
                }
            }
        }
        Ok(())
    };
    tokio::select! {
        end = read => {
            if let Err(error) = end.or_else(unless_lost) {
                tracing::warn!(from = %addr, error = %error, "PEER_REFUSED");
            }
        }
        () = events.closed() => {}
    }
}
