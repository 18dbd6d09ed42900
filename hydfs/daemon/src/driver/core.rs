//! The loop that owns the replica.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use common::clock::{self, Time};
use common::cluster::Cluster;
use common::net::Identity;
use common::spawn;
use tokio::net::TcpListener;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::client_conn::{ClientConn, Clients, Session};
use super::clients::FromClient;
use super::filling::Filling;
use super::outbox::Outbox;
use super::peers::Peer;
use super::pending_reads::PendingReads;
use super::range_log::RangeLog;
use super::repair::{self, Repairs};
use super::{Error, accept, membership};
use crate::disk::DiskStore;
use crate::replica::{Answer, Effect, Input, Refused, Replica, Request};
use crate::store::Store;
use crate::wire::fragment;
use crate::wire::peer::{Message, Parts};
use hydfs::content::{ClientId, FileName};
use hydfs::view::NodeIx;
use hydfs::wire::client::{Frame, Refusal, Reply, ToClient};

/// Bytes of requests that are read and not yet handled, in KiB.
const ADMITTED: usize = 64 * 1024;
/// Bytes of entries that not all members have: above the first, clients are not read; below the second, again.
const BACKLOG: (usize, usize) = (64 << 20, 48 << 20);
/// Events handled before what they bring about is carried out.
const BURST: usize = 1024;
/// Bulk reads served between two bursts.
const READS: usize = 4;
const TICK: Duration = Duration::from_millis(100);
/// Ids of the replica's requests with this bit are appends; the rest is the session.
const APPEND: u64 = 1 << 63;

/// What the tasks around the core tell it.
pub enum CoreEvent {
    ClientUp {
        conn: u64,
        out: Outbox,
    },
    Client {
        conn: u64,
        message: FromClient,
        permit: Option<OwnedSemaphorePermit>,
    },
    ClientGone {
        conn: u64,
    },
    /// It has taken what it was sent: reads that wait for that may go on.
    ClientEased {
        conn: u64,
    },
    Peer {
        from: NodeIx,
        message: Message,
        permit: Option<OwnedSemaphorePermit>,
    },
    PeerUp {
        node: NodeIx,
        tx: mpsc::UnboundedSender<Parts>,
    },
    PeerDown {
        node: NodeIx,
    },
    Suspect {
        node: NodeIx,
        why: String,
    },
    Repair(repair::RepairNews),
}

/// The way to the core.
#[derive(Clone)]
pub struct CoreEvents {
    tx: mpsc::UnboundedSender<CoreEvent>,
    admitted: Arc<Semaphore>,
    gate: watch::Receiver<bool>,
}

impl CoreEvents {
    pub fn send(&self, event: CoreEvent) {
        // The core is gone: `closed` says so.
        let _ = self.tx.send(event);
    }

    pub async fn closed(&self) {
        self.tx.closed().await;
    }

    /// Waits until the core can take more from clients.
    pub async fn open_gate(&self) {
        if !*self.gate.borrow() {
            let _ = self.gate.clone().wait_for(|open| *open).await;
        }
    }

    /// Room for a request of `len` bytes, until the permit is dropped.
    pub async fn admit(&self, len: usize) -> Option<OwnedSemaphorePermit> {
        let kib = (len / 1024 + 1).min(ADMITTED) as u32;
        self.admitted.clone().acquire_many_owned(kib).await.ok()
    }
}

pub struct Core {
    pub(super) cluster: Arc<Cluster>,
    pub(super) me: Identity,
    pub(super) at: NodeIx,
    pub(super) replica: Replica<DiskStore>,
    effects: Vec<Effect>,
    events: CoreEvents,
    queue: mpsc::UnboundedReceiver<CoreEvent>,
    gate: watch::Sender<bool>,
    peers: BTreeMap<NodeIx, mpsc::UnboundedSender<Parts>>,
    pub(super) clients: Clients,
    pub(super) reads: PendingReads,
    pub(super) repairs: Repairs,
    pub(super) verified: super::inspect::Marks,
    pub(super) ranges: RangeLog,
    pub(super) filling: Filling,
    /// Appends that clients sent, and their bytes.
    pub(super) appends: (u64, u64),
    broken: Option<crate::store::Error>,
}

impl Core {
    pub fn new(cluster: Arc<Cluster>, me: Identity, at: NodeIx, replica: Replica<DiskStore>) -> Self {
        let (tx, queue) = mpsc::unbounded_channel();
        let (gate, open) = watch::channel(true);
        let events = CoreEvents {
            tx,
            admitted: Arc::new(Semaphore::new(ADMITTED)),
            gate: open,
        };
        let filling = Filling::new(&cluster, at);
        Self {
            ranges: RangeLog::new(&cluster),
            repairs: Repairs::new(cluster.clone(), me.clone(), events.clone()),
            cluster,
            me,
            at,
            replica,
            effects: Vec::new(),
            events,
            queue,
            gate,
            peers: BTreeMap::new(),
            clients: Clients::default(),
            reads: PendingReads::default(),
            verified: Default::default(),
            filling,
            appends: (0, 0),
            broken: None,
        }
    }

    pub async fn run(mut self, listener: TcpListener, stop: impl Future<Output = ()>) -> Result<(), Error> {
        let mut vitals = self.start_tasks(listener);
        let (mut ticked, mut armed) = (clock::now(), Time::ZERO);
        let timer = tokio::time::sleep(TICK);
        tokio::pin!(stop, timer);
        loop {
            let due = self
                .replica
                .deadline()
                .unwrap_or(ticked + TICK)
                .min(ticked + TICK);
            if due != armed {
                armed = due;
                timer.as_mut().reset(clock::instant(due));
            }
            let busy = self.reads.are_due();
            tokio::select! {
                biased;
                () = &mut stop => break,
                lost = vitals.lost() => return Err(lost.into()),
                () = &mut timer => {
                    armed = Time::ZERO;
                    let now = clock::now();
                    if now >= ticked + TICK {
                        ticked = now;
                        self.tick();
                    }
                }
                event = self.queue.recv() => {
                    if let Some(event) = event {
                        self.event(event);
                    }
                }
                // Sockets get their turn between two rounds of bulk reads.
                () = tokio::task::yield_now(), if busy => {}
            }
            for _ in 0..BURST {
                let Ok(event) = self.queue.try_recv() else { break };
                self.event(event);
            }
            self.carry_out();
            for _ in 0..READS {
                let Some(read) = self.reads.next() else { break };
                self.serve_read(read);
            }
            if let Some(error) = self.broken.take() {
                tracing::error!(error = %error, "BROKEN");
                return Err(error.into());
            }
            self.set_gate();
        }
        self.carry_out();
        tracing::info!("STOP");
        Ok(())
    }

    fn start_tasks(&self, listener: TcpListener) -> spawn::Vitals {
        let names: Vec<_> = self.cluster.nodes.iter().map(|n| n.name.clone()).collect();
        let came: Vec<Arc<Notify>> = names.iter().map(|_| Arc::default()).collect();
        let door = accept::accept(
            listener,
            self.me.clone(),
            names,
            came.clone(),
            self.events.clone(),
        );
        let mut vitals = spawn::Vitals::default();
        vitals.spawn("hydfs-accept", door);
        if let Some(node) = self.me.node.clone() {
            let follow = membership::follow(self.cluster.clone(), self.me.clone(), node, self.events.clone());
            vitals.spawn("hydfs-membership", follow);
        }
        for (i, node) in self
            .cluster
            .nodes
            .iter()
            .enumerate()
            .filter(|(i, _)| *i != self.at.0 as usize)
        {
            let peer = Peer {
                node: NodeIx(i as u16),
                addr: node.at(self.cluster.ports.hydfs),
                me: self.me.clone(),
                timeout: Duration::from_millis(self.cluster.hydfs.peer_timeout_ms.max(100)),
                events: self.events.clone(),
                came: came[i].clone(),
            };
            vitals.spawn("hydfs-peer", peer.keep());
        }
        vitals
    }

    fn set_gate(&mut self) {
        let backlog = self.replica.backlog_bytes();
        let open = *self.gate.borrow();
        if (open && backlog > BACKLOG.0) || (!open && backlog < BACKLOG.1) {
            self.gate.send_replace(!open);
        }
    }

    fn tick(&mut self) {
        self.input(Input::Tick);
        if let Some(short) = self.filling.look(clock::now()) {
            self.input(Input::Short(short));
        }
        self.serve_overdue();
        self.ranges.log_lasting(clock::now());
    }

    pub(super) fn input(&mut self, input: Input) {
        self.replica.handle(clock::now(), input, &mut self.effects);
    }

    fn event(&mut self, event: CoreEvent) {
        match event {
            CoreEvent::ClientUp { conn, out } => {
                self.clients.add(conn, out);
            }
            CoreEvent::Client {
                conn,
                message,
                permit,
            } => {
                self.client_says(conn, message);
                drop(permit);
            }
            CoreEvent::ClientGone { conn } => {
                self.clients.remove(conn);
                self.reads.gone(conn);
                self.input(Input::ClientGone { conn });
            }
            CoreEvent::ClientEased { conn } => {
                let parked = self.clients.get_mut(conn).map(ClientConn::unpark);
                self.reads.extend(parked.into_iter().flatten());
            }
            CoreEvent::Peer {
                from,
                message,
                permit,
            } => {
                self.input(Input::Peer { from, message });
                drop(permit);
            }
            CoreEvent::PeerUp { node, tx } => {
                self.peers.insert(node, tx);
                self.input(Input::PeerUp { node });
            }
            CoreEvent::PeerDown { node } => {
                self.peers.remove(&node);
                self.input(Input::PeerDown { node });
            }
            CoreEvent::Suspect { node, why } => {
                if self.replica.view().is_alive(node) {
                    tracing::warn!(node = %self.name(node), why, "SUSPECT");
                }
                self.input(Input::Suspect { node });
            }
            CoreEvent::Repair(news) => self.repair_news(news),
        }
    }

    fn client_says(&mut self, conn: u64, message: FromClient) {
        match message {
            FromClient::Call(id, request) if id & APPEND == 0 => {
                if let Some(client) = self.clients.get_mut(conn) {
                    client.begin(id, &request);
                }
                self.call(conn, id, request);
            }
            FromClient::Call(id, _) => self.refuse(
                conn,
                id,
                Refusal::Invalid {
                    why: "a call's number is too high".into(),
                },
            ),
            FromClient::Attach(session, attach) => {
                let Ok(file) = FileName::new(&attach.file) else {
                    return;
                };
                let client = ClientId::of(&attach.client);
                self.clients
                    .attach(conn, session, Session { file, client, attach });
            }
            FromClient::Detach(session) => self.clients.detach(conn, session),
            FromClient::Append(session, offset, payload) => {
                // A session that was dropped, or never was, is heard no more.
                let known = self.clients.session(conn, session);
                let Some(Session { file, client, attach }) = known else {
                    return;
                };
                self.appends = (self.appends.0 + 1, self.appends.1 + payload.len() as u64);
                let request = Request::Append {
                    file: file.clone(),
                    client: *client,
                    epoch: attach.epoch,
                    nonce: attach.nonce,
                    offset,
                    payload,
                };
                self.input(Input::Client {
                    conn,
                    id: APPEND | u64::from(session),
                    request,
                });
            }
        }
    }

    /// Flushes the replica and does what it says, in order.
    fn carry_out(&mut self) {
        loop {
            self.replica.flush(clock::now(), &mut self.effects);
            if self.effects.is_empty() {
                break;
            }
            for effect in std::mem::take(&mut self.effects) {
                self.effect(effect);
            }
            self.clients.send_acks();
            if self.broken.is_some() {
                break;
            }
        }
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::Send { to, message } => self.send(to, &message),
            Effect::Reply { conn, id, result } if id & APPEND != 0 => {
                self.append_reply(conn, id as u32, result)
            }
            Effect::Reply { conn, id, result } => self.reply_from_replica(conn, id, result),
            Effect::Repair {
                range,
                file,
                nonce,
                segment,
                from,
            } => {
                self.repairs.start(repair::RepairJob {
                    range,
                    file,
                    nonce,
                    segment,
                    from,
                });
            }
            Effect::ViewChanged => {
                let (replica, me) = (&self.replica, Some(self.at));
                self.ranges.keep(|range| replica.coordinator_of(range) == me);
                let view = self.replica.view();
                let alive: Vec<&str> = view.alive().map(|n| self.name(n)).collect();
                tracing::info!(alive = alive.join(","), size = %view.size(), "VIEW");
            }
            Effect::RangeChanged { range, state } => {
                let store = self.replica.store();
                self.ranges
                    .note(clock::now(), range, state, || store.files(range).count());
            }
            Effect::Committed { file, length, .. } => self.committed(&file, length),
            Effect::Dropped {
                range,
                files,
                surplus,
            } => {
                tracing::info!(range = self.name(NodeIx(range.0)), files, surplus, "DROP");
            }
            Effect::Broken { error } => self.broken = Some(error),
        }
    }

    pub(super) fn name(&self, node: NodeIx) -> &str {
        self.cluster
            .nodes
            .get(node.0 as usize)
            .map_or("?", |n| n.name.as_str())
    }

    fn send(&mut self, to: NodeIx, message: &Message) {
        let Some(tx) = self.peers.get(&to) else { return };
        match message.encode().and_then(fragment::frames) {
            // A connection that has just ended: PeerUp brings it again.
            Ok(frames) => frames.into_iter().for_each(|frame| drop(tx.send(frame))),
            Err(error) => tracing::error!(to = self.name(to), error = %error, "ENCODE_FAILED"),
        }
    }

    fn append_reply(&mut self, conn: u64, session: u32, result: Result<Answer, Refused>) {
        match result {
            Ok(Answer::Appended { length }) => self.clients.note_acked(conn, session, length),
            Ok(_) => {}
            Err(refused) => {
                let refusal = self.refusal(refused);
                self.clients.drop_session(conn, session, refusal);
            }
        }
    }

    pub(super) fn refusal(&mut self, refused: Refused) -> Refusal {
        match refused {
            Refused::NotCoordinator { coordinator } => Refusal::NotCoordinator { coordinator },
            Refused::Unavailable { why } => Refusal::Unavailable { why },
            Refused::NoSuchFile => Refusal::NoSuchFile,
            // A stream that is not open here is one of another file of that name.
            Refused::Replaced | Refused::NotFenced => Refusal::Replaced,
            Refused::Exists => Refusal::Exists,
            Refused::FencedOff { epoch } => Refusal::Fenced { epoch },
            Refused::Gap { have } => Refusal::Gap { length: have },
            Refused::BeyondEnd { length } => Refusal::BeyondEnd { len: length },
            Refused::Short { node } => Refusal::Short { node },
            Refused::Full { node } => {
                self.ranges.log_full(clock::now(), node);
                Refusal::Full { node }
            }
            other @ (Refused::Conflict | Refused::TooLong { .. }) => Refusal::Invalid {
                why: other.to_string(),
            },
        }
    }

    pub(super) fn refuse(&mut self, conn: u64, id: u64, refusal: Refusal) {
        self.reply(conn, id, Reply::Refused(refusal));
    }

    pub(super) fn reply(&mut self, conn: u64, id: u64, reply: Reply) {
        self.clients
            .answer(conn, id, Frame::to_client(&ToClient::Reply(id, reply)));
    }
}
