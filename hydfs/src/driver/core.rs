//! The loop that owns the replica.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use common::clock::{self, Time};
use common::cluster::Cluster;
use common::net::Identity;
use common::spawn;
use tokio::net::TcpListener;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::client_conn::{ClientConn, Session};
use super::clients::FromClient;
use super::outbox::Outbox;
use super::peers::Peer;
use super::repair::{self, Repairs};
use super::serve::{Later, Waiting};
use super::{Error, accept, membership};
use crate::content::{ClientId, FileName};
use crate::disk::DiskStore;
use crate::replica::{Answer, Effect, Input, RangeState, Refused, Replica, Request};
use crate::ring::RangeIx;
use crate::store::Store;
use crate::view::NodeIx;
use crate::wire::client::{Frame, Refusal, Reply, ToClient};
use crate::wire::fragment;
use crate::wire::peer::{Message, Parts};

/// Bytes of requests that are read and not yet handled, in KiB.
const ADMITTED: usize = 64 * 1024;
/// Bytes of entries that not all members have: above the first, clients are not read; below the second, again.
const BACKLOG: (usize, usize) = (64 << 20, 48 << 20);
/// Events handled before what they bring about is carried out.
const BURST: usize = 1024;
/// Bulk reads served between two bursts.
const READS: usize = 4;
const TICK: Duration = Duration::from_millis(100);
/// How long a range is unavailable before it is logged.
const LASTING: Duration = Duration::from_secs(1);
/// Ids of the replica's requests with this bit are appends; the rest is the session.
const APPEND: u64 = 1 << 63;

/// What the tasks around the core tell it.
pub enum Event {
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
    Repair(repair::News),
}

/// The way to the core.
#[derive(Clone)]
pub struct Events {
    tx: mpsc::UnboundedSender<Event>,
    admitted: Arc<Semaphore>,
    gate: watch::Receiver<bool>,
}

impl Events {
    pub fn send(&self, event: Event) {
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
    events: Events,
    queue: mpsc::UnboundedReceiver<Event>,
    gate: watch::Sender<bool>,
    peers: BTreeMap<NodeIx, mpsc::UnboundedSender<Parts>>,
    pub(super) clients: HashMap<u64, ClientConn>,
    /// Acknowledgements of this burst, by connection and session.
    acked: BTreeMap<(u64, u32), u64>,
    /// Bulk reads that wait for their turn.
    pub(super) later: VecDeque<Later>,
    pub(super) waiting: Waiting,
    pub(super) repairs: Repairs,
    pub(super) verified: super::inspect::Marks,
    /// Since when a range that this node coordinates is not active.
    taking_over: BTreeMap<RangeIx, Time>,
    active: BTreeSet<RangeIx>,
    /// Ranges that this node coordinates and that are unavailable: since when, why, and whether that was logged.
    unavailable: BTreeMap<RangeIx, (Time, String, bool)>,
    full_logged: Option<Time>,
    broken: Option<crate::store::Error>,
}

impl Core {
    pub fn new(cluster: Arc<Cluster>, me: Identity, at: NodeIx, replica: Replica<DiskStore>) -> Self {
        let (tx, queue) = mpsc::unbounded_channel();
        let (gate, open) = watch::channel(true);
        let events = Events {
            tx,
            admitted: Arc::new(Semaphore::new(ADMITTED)),
            gate: open,
        };
        Self {
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
            clients: HashMap::new(),
            acked: BTreeMap::new(),
            later: VecDeque::new(),
            waiting: Waiting::default(),
            verified: Default::default(),
            taking_over: BTreeMap::new(),
            active: BTreeSet::new(),
            unavailable: BTreeMap::new(),
            full_logged: None,
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
            let busy = !self.later.is_empty();
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
                let Some(later) = self.later.pop_front() else {
                    break;
                };
                self.serve_later(later);
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
        self.serve_overdue();
        self.log_unavailable();
    }

    /// A take-over makes a range unavailable for some milliseconds, and nobody wants to read that; what lasts is another matter.
    fn log_unavailable(&mut self) {
        let now = clock::now();
        for (range, (since, why, logged)) in &mut self.unavailable {
            if !*logged
                && now.since(*since) >= LASTING
                && self.replica.coordinator_of(*range) == Some(self.at)
            {
                *logged = true;
                let range = self
                    .cluster
                    .nodes
                    .get(range.0 as usize)
                    .map_or("?", |n| n.name.as_str());
                tracing::warn!(range, why, "UNAVAILABLE");
            }
        }
    }

    pub(super) fn input(&mut self, input: Input) {
        self.replica.handle(clock::now(), input, &mut self.effects);
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::ClientUp { conn, out } => {
                self.clients.insert(conn, ClientConn::new(out));
            }
            Event::Client {
                conn,
                message,
                permit,
            } => {
                self.client_says(conn, message);
                drop(permit);
            }
            Event::ClientGone { conn } => {
                self.clients.remove(&conn);
                self.waiting.gone(conn);
                self.input(Input::ClientGone { conn });
            }
            Event::ClientEased { conn } => {
                let parked = self.clients.get_mut(&conn).map(ClientConn::unpark);
                self.later.extend(parked.into_iter().flatten());
            }
            Event::Peer {
                from,
                message,
                permit,
            } => {
                self.input(Input::Peer { from, message });
                drop(permit);
            }
            Event::PeerUp { node, tx } => {
                self.peers.insert(node, tx);
                self.input(Input::PeerUp { node });
            }
            Event::PeerDown { node } => {
                self.peers.remove(&node);
                self.input(Input::PeerDown { node });
            }
            Event::Suspect { node, why } => {
                if self.replica.view().is_alive(node) {
                    tracing::warn!(node = %self.name(node), why, "SUSPECT");
                }
                self.input(Input::Suspect { node });
            }
            Event::Repair(news) => self.repair_news(news),
        }
    }

    fn client_says(&mut self, conn: u64, message: FromClient) {
        match message {
            FromClient::Call(id, request) if id & APPEND == 0 => {
                if let Some(client) = self.clients.get_mut(&conn) {
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
                let opened = Session { file, client, attach };
                let refused = self
                    .clients
                    .get_mut(&conn)
                    .and_then(|c| c.attach(session, opened).err());
                if let Some(refusal) = refused {
                    self.frame(conn, Frame::to_client(&ToClient::Dropped(session, refusal)));
                }
            }
            FromClient::Detach(session) => {
                if let Some(client_conn) = self.clients.get_mut(&conn) {
                    client_conn.sessions.remove(&session);
                }
            }
            FromClient::Append(session, offset, payload) => {
                // A session that was dropped, or never was, is heard no more.
                let known = self.clients.get(&conn).and_then(|c| c.sessions.get(&session));
                let Some(Session { file, client, attach }) = known else {
                    return;
                };
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
            self.send_acks();
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
                self.repairs.start(repair::Job {
                    range,
                    file,
                    nonce,
                    segment,
                    from,
                });
            }
            Effect::ViewChanged => {
                // What others coordinate now is no concern of this node's.
                let (replica, me) = (&self.replica, Some(self.at));
                self.taking_over
                    .retain(|range, _| replica.coordinator_of(*range) == me);
                self.unavailable
                    .retain(|range, _| replica.coordinator_of(*range) == me);
                self.active.retain(|range| replica.coordinator_of(*range) == me);
                let view = self.replica.view();
                let alive: Vec<&str> = view.alive().map(|n| self.name(n)).collect();
                tracing::info!(alive = alive.join(","), size = %view.size(), "VIEW");
            }
            Effect::RangeChanged { range, state } => self.range_changed(range, state),
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

    fn frame(&self, conn: u64, frame: Result<Frame, common::net::Error>) {
        match (self.clients.get(&conn), frame) {
            (Some(client), Ok(frame)) => client.out.send(frame),
            (None, _) => {}
            (_, Err(error)) => tracing::error!(error = %error, "ENCODE_FAILED"),
        }
    }

    fn append_reply(&mut self, conn: u64, session: u32, result: Result<Answer, Refused>) {
        let Some(sessions) = self.clients.get_mut(&conn).map(|c| &mut c.sessions) else {
            return;
        };
        match result {
            Ok(Answer::Appended { length }) if sessions.contains_key(&session) => {
                let acked = self.acked.entry((conn, session)).or_default();
                *acked = length.max(*acked);
            }
            Ok(_) => {}
            Err(refused) => {
                if sessions.remove(&session).is_some() {
                    if let Some(length) = self.acked.remove(&(conn, session)) {
                        self.frame(conn, Frame::to_client(&ToClient::Acked(session, length)));
                    }
                    let refusal = self.refusal(refused);
                    self.frame(conn, Frame::to_client(&ToClient::Dropped(session, refusal)));
                }
            }
        }
    }

    fn send_acks(&mut self) {
        for ((conn, session), length) in std::mem::take(&mut self.acked) {
            self.frame(conn, Frame::to_client(&ToClient::Acked(session, length)));
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
            Refused::Full { node } => {
                let now = clock::now();
                if self
                    .full_logged
                    .is_none_or(|last| now.since(last) > Duration::from_secs(5))
                {
                    self.full_logged = Some(now);
                    tracing::warn!(node = self.name(node), "FULL");
                }
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
        self.answer(conn, id, Frame::to_client(&ToClient::Reply(id, reply)));
    }

    /// The one answer to a call.
    pub(super) fn answer(&mut self, conn: u64, call: u64, frame: Result<Frame, common::net::Error>) {
        if let Some(client) = self.clients.get_mut(&conn) {
            client.answered(call);
        }
        self.frame(conn, frame);
    }

    fn range_changed(&mut self, range: RangeIx, state: RangeState) {
        let name = self.name(NodeIx(range.0)).to_owned();
        let now = clock::now();
        match state {
            RangeState::Unavailable { why } => {
                self.active.remove(&range);
                self.taking_over.entry(range).or_insert(now);
                let (since, logged) = self
                    .unavailable
                    .remove(&range)
                    .map_or((now, None), |(t, w, l)| (t, Some((w, l))));
                let logged = logged.is_some_and(|(before, logged)| logged && before == why);
                self.unavailable.insert(range, (since, why, logged));
            }
            RangeState::Installing => {
                self.unavailable.remove(&range);
                self.active.remove(&range);
                self.taking_over.entry(range).or_insert(now);
            }
            RangeState::Active { repairing } => {
                self.unavailable.remove(&range);
                if self.active.insert(range) {
                    let since = self.taking_over.remove(&range).unwrap_or(now);
                    let files = self.replica.store().files(range).count();
                    tracing::info!(
                        range = name,
                        ms = now.since(since).as_millis() as u64,
                        files,
                        "TAKEOVER"
                    );
                }
                let repairing: Vec<&str> = repairing.iter().map(|n| self.name(*n)).collect();
                if repairing.is_empty() {
                    tracing::info!(range = name, "ACTIVE");
                } else {
                    tracing::info!(range = name, missing_on = repairing.join(","), "REPAIRING");
                }
            }
        }
    }
}
