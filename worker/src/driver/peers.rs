//! The connections to other tasks: the outputs' own, which follow the next stage's routing, and those that senders have opened.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use common::ids::{Epoch, TaskId};
use common::net::Identity;
use common::spawn;
use protocol::control::{Peer, Route};
use tokio::sync::{mpsc, oneshot, watch};

use super::engine::Engine;
use super::links::{self, Events};
use super::operator::Runner;
use crate::task::{ConnectionId, Refusal};
use crate::wire::{Opened, Standing};

/// A receiver: where it is, and the connection to it.
pub struct OutLink {
    pub output: usize,
    to: TaskId,
    addr: watch::Sender<Option<(Epoch, SocketAddr)>>,
    pub oldest: watch::Sender<u64>,
    pub frames: Option<mpsc::UnboundedSender<Bytes>>,
    _dialer: spawn::Guard,
}

/// Counts what goes through.
struct Counted<'a, E>(&'a mut E, &'a mut u64);

impl<E: ops::Emit> ops::Emit for Counted<'_, E> {
    fn emit(&mut self, key: &[u8], value: &[u8]) {
        *self.1 += 1;
        self.0.emit(key, value);
    }
}

/// What it takes to connect, and what is known of receivers.
pub struct Dialer {
    me: Arc<Identity>,
    events: Events,
    /// Where receivers are, those that nothing is routed to yet among them.
    peers: BTreeMap<TaskId, (Epoch, SocketAddr)>,
    gone: BTreeSet<TaskId>,
}

impl Dialer {
    pub fn new(me: Arc<Identity>, events: Events) -> Self {
        Self {
            me,
            events,
            peers: BTreeMap::new(),
            gone: BTreeSet::new(),
        }
    }
}

/// The connections that senders have opened.
#[derive(Default)]
pub(super) struct Doors {
    /// Whom to answer. Somebody who has gone meanwhile need not be told.
    asked: BTreeMap<ConnectionId, oneshot::Sender<Opened>>,
    /// What acknowledgements go to. Dropping it closes the connection.
    acks: BTreeMap<ConnectionId, watch::Sender<Option<u64>>>,
}

impl Doors {
    pub fn open(
        &mut self,
        connection: ConnectionId,
        reply: oneshot::Sender<Opened>,
        acks: watch::Sender<Option<u64>>,
    ) {
        self.asked.insert(connection, reply);
        self.acks.insert(connection, acks);
    }

    fn answer(&mut self, connection: ConnectionId, answer: Opened) {
        if let Some(reply) = self.asked.remove(&connection) {
            let _ = reply.send(answer);
        }
    }

    pub fn accept(&mut self, connection: ConnectionId, standing: Standing) {
        self.answer(connection, Opened::From(standing));
    }

    pub fn refuse(&mut self, connection: ConnectionId, why: String) {
        self.answer(connection, Opened::Refused(why));
        self.close(connection);
    }

    /// The newest acknowledgement is all that counts.
    pub fn acknowledge(&mut self, connection: ConnectionId, upto: u64) {
        if let Some(acks) = self.acks.get(&connection) {
            acks.send_replace(Some(upto));
        }
    }

    pub fn close(&mut self, connection: ConnectionId) {
        self.acks.remove(&connection);
    }
}

impl Engine {
    /// A connection for each receiver that has none.
    pub fn link_up(&mut self) {
        let receivers: Vec<(usize, TaskId)> = self.task.receivers().collect();
        for (output, to) in receivers {
            if self.links.iter().any(|l| l.output == output) || self.dialer.gone.contains(&to) {
                continue;
            }
            let (addr, addr_rx) = watch::channel(self.dialer.peers.get(&to).copied());
            let (oldest, oldest_rx) = watch::channel(self.task.oldest(output));
            let dial = links::Dial {
                output,
                job: self.plan.job.clone(),
                from: self.plan.task,
                epoch: self.plan.epoch,
                to,
                me: self.dialer.me.clone(),
                addr: addr_rx,
                oldest: oldest_rx,
                fail_point: self.fail_point.clone(),
            };
            self.links.push(OutLink {
                output,
                to,
                addr,
                oldest,
                frames: None,
                _dialer: links::dial(dial, self.dialer.events.clone()),
            });
        }
    }

    pub(super) fn link(&mut self, output: usize) -> Option<&mut OutLink> {
        self.links.iter_mut().find(|l| l.output == output)
    }

    /// Where receivers' processes are.
    pub(super) fn meet(&mut self, peers: Vec<Peer>) {
        for peer in peers {
            let at = (peer.epoch, peer.addr);
            let news = |known: Option<&(Epoch, SocketAddr)>| {
                known.is_none_or(|(epoch, addr)| {
                    peer.epoch > *epoch || (peer.epoch == *epoch && *addr != peer.addr)
                })
            };
            if news(self.dialer.peers.get(&peer.task)) {
                self.dialer.peers.insert(peer.task, at);
            }
            if let Some(link) = self.links.iter().find(|l| l.to == peer.task) {
                link.addr.send_if_modified(|addr| {
                    let news = news(addr.as_ref());
                    if news {
                        *addr = Some(at);
                    }
                    news
                });
            }
        }
    }

    /// Nobody needs to be connected to it any more.
    pub(super) fn part(&mut self, with: TaskId) {
        self.dialer.gone.insert(with);
        self.links.retain(|l| l.to != with);
    }

    pub(super) fn refuse(&mut self, connection: ConnectionId, from: TaskId, epoch: Epoch, refusal: Refusal) {
        match &refusal {
            Refusal::OlderEpoch { newest, .. } => {
                tracing::warn!(%from, %epoch, %newest, "FENCED_SENDER");
            }
            Refusal::Lost(error) => tracing::error!(%from, %error, "DATA_LOST"),
            Refusal::OtherTask { .. } => {}
        }
        self.doors.refuse(connection, refusal.to_string());
    }

    /// The keys that are others' by this version of the stage's own routing go to them, with their state.
    pub(super) fn hand_over(&mut self, version: u32, to: &[TaskId]) {
        let mut keys = 0u64;
        if let Some(Runner::Builtin(op)) = &mut self.runner {
            let leaving = self.task.leaving();
            op.hand_over(&leaving, &mut Counted(&mut self.task.handover(), &mut keys));
        }
        let names: Vec<String> = to.iter().map(TaskId::to_string).collect();
        tracing::info!(version, to = names.join(","), keys, "HAND_OVER");
    }

    /// Outputs go by this version from here on.
    pub(super) fn rerouted(&mut self, route: Route) {
        let Route { version, tasks } = route;
        let to: Vec<String> = tasks.iter().map(TaskId::to_string).collect();
        tracing::info!(version, to = to.join(","), "ROUTE");
        self.link_up();
    }
}
