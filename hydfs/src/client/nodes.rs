//! The storage nodes as a client sees them: connections, who coordinates which range, and the one retry loop.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use common::backoff::Backoff;
use common::clock::{self, Time};
use common::cluster::Cluster;
use common::ids::{Creation, NodeName};
use common::net::{Identity, Role, dial};

use super::conn::{Answer, Conn};
use super::error::Error;
use super::{Entry, FileRef, Stat};
use crate::ring::{RangeIx, Ring};
use crate::view::NodeIx;
use crate::wire::client::{FileStat, MAX_READ, NodeInfo, NodeStatus, Refusal, Reply, Request};

/// How long one node may take to accept a connection, and to answer a call, before the next one is asked.
const DIAL: Duration = Duration::from_millis(1000);
const ANSWER: Duration = Duration::from_secs(3);
/// How long a coordinator may be missing before reads make do with whatever replica is there.
pub const GRACE: Duration = Duration::from_secs(2);
/// A node that could not be reached is not dialled again for this long.
const SHUN: Duration = Duration::from_millis(100);

#[derive(Default)]
struct NodeSlot {
    conn: Option<Arc<Conn>>,
    unreachable: Option<(Time, String)>,
    /// Hellos in a row that ended because the secrets differ, or seemed to: a daemon that is just being killed looks the same, once.
    refused: u32,
}

pub struct Nodes {
    cluster: Arc<Cluster>,
    me: Identity,
    ring: Ring,
    slots: Vec<tokio::sync::Mutex<NodeSlot>>,
    /// Who coordinated a range when last heard.
    hints: Mutex<HashMap<RangeIx, NodeIx>>,
    local: Option<NodeIx>,
    /// Some storage node has accepted the secret.
    known: AtomicBool,
}

/// A number that no other call in the cluster has.
pub fn random() -> u64 {
    rand::random()
}

impl Nodes {
    pub fn new(cluster: Arc<Cluster>, me: Identity) -> Self {
        let ring = Ring::new(cluster.nodes.iter().map(|n| n.name.as_str()), cluster.replication);
        let slots = cluster.nodes.iter().map(|_| Default::default()).collect();
        let at = |name: &NodeName| cluster.nodes.iter().position(|n| n.name == *name);
        let local = me.node.as_ref().and_then(at).map(|i| NodeIx(i as u16));
        Self {
            ring,
            slots,
            hints: Mutex::default(),
            local,
            known: AtomicBool::new(false),
            me,
            cluster,
        }
    }

    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// The node of that name.
    pub fn node(&self, name: &NodeName) -> Result<NodeIx, Error> {
        let nodes = &self.cluster.nodes;
        let at = nodes.iter().position(|n| n.name == *name);
        at.map(|i| NodeIx(i as u16)).ok_or_else(|| Error::NoSuchNode {
            node: name.clone(),
            have: nodes
                .iter()
                .map(|n| n.name.as_str())
                .collect::<Vec<_>>()
                .join(", "),
        })
    }

    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    pub fn local(&self) -> Option<NodeIx> {
        self.local
    }

    pub fn name(&self, node: NodeIx) -> NodeName {
        self.cluster.nodes[node.0 as usize % self.cluster.nodes.len()]
            .name
            .clone()
    }

    /// All nodes, this one's own first.
    pub fn all(&self) -> Vec<NodeIx> {
        let others = (0..self.cluster.nodes.len() as u16)
            .map(NodeIx)
            .filter(|n| Some(*n) != self.local);
        self.local.into_iter().chain(others).collect()
    }

    pub fn hint(&self, range: RangeIx) -> Option<NodeIx> {
        self.hints
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&range)
            .copied()
    }

    pub fn set_hint(&self, range: RangeIx, node: Option<NodeIx>) {
        let mut hints = self.hints.lock().unwrap_or_else(PoisonError::into_inner);
        match node.filter(|n| (n.0 as usize) < self.cluster.nodes.len()) {
            Some(node) => hints.insert(range, node),
            None => hints.remove(&range),
        };
    }

    /// The connection to `node`, made now when there is none.
    pub async fn conn(&self, node: NodeIx) -> Result<Arc<Conn>, Error> {
        let mut slot = self.slots[node.0 as usize].lock().await;
        if let Some(conn) = slot.conn.as_ref().filter(|c| !c.is_closed()) {
            return Ok(conn.clone());
        }
        slot.conn = None;
        let refused = |slot: &NodeSlot| {
            (slot.refused >= 2 && !self.known.load(Ordering::Relaxed)).then(|| Error::Secret {
                node: self.name(node),
                secret_file: self.cluster.secret_file.display().to_string(),
            })
        };
        if let Some(error) = refused(&slot) {
            return Err(error);
        }
        if let Some((since, why)) = &slot.unreachable
            && clock::now().since(*since) < SHUN
        {
            return Err(Error::Net {
                node: self.name(node),
                why: why.clone(),
            });
        }
        let addr = self.cluster.nodes[node.0 as usize].at(self.cluster.ports.hydfs);
        let why = match tokio::time::timeout(DIAL, dial(addr, &self.me, Role::HydfsClient)).await {
            Ok(Ok(connection)) => {
                let conn = Arc::new(Conn::start(connection));
                *slot = NodeSlot {
                    conn: Some(conn.clone()),
                    ..NodeSlot::default()
                };
                self.known.store(true, Ordering::Relaxed);
                return Ok(conn);
            }
            Ok(Err(error)) => {
                slot.refused = match error {
                    common::net::Error::Secret => slot.refused + 1,
                    _ => 0,
                };
                error.to_string()
            }
            Err(_) => format!("no answer from {addr} within {DIAL:?}"),
        };
        slot.unreachable = Some((clock::now(), why.clone()));
        if let Some(error) = refused(&slot) {
            return Err(error);
        }
        Err(Error::Net {
            node: self.name(node),
            why,
        })
    }

    /// One call to one node, once.
    pub async fn call(&self, node: NodeIx, request: Request, most: Duration) -> Result<Answer, Error> {
        let conn = self.conn(node).await?;
        let failed = |why: &str| Error::Net {
            node: self.name(node),
            why: why.into(),
        };
        match tokio::time::timeout(most, conn.call(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(failed("the connection was lost")),
            Err(_) => Err(failed("no answer in time")),
        }
    }

    pub async fn ask(&self, file: &str, request: Request, patience: Duration) -> Result<Reply, Error> {
        self.ask_range(self.ring.range_of(file), file, request, patience)
            .await
    }

    /// Asks the range's coordinator, whoever that is by now. What only a coordinator can say comes back; the rest is retried
    /// until `patience` is over.
    pub async fn ask_range(
        &self,
        range: RangeIx,
        file: &str,
        request: Request,
        patience: Duration,
    ) -> Result<Reply, Error> {
        match self.answer(range, file, request, patience, ANSWER).await? {
            Answer::Reply(reply) => Ok(reply),
            Answer::Data { .. } | Answer::Entries { .. } => Err(Error::Local {
                what: file.into(),
                why: "bytes came where none were asked for".into(),
            }),
        }
    }

    async fn answer(
        &self,
        range: RangeIx,
        file: &str,
        request: Request,
        patience: Duration,
        most: Duration,
    ) -> Result<Answer, Error> {
        let mut search = Search::new(self, range, file, patience);
        // Whether an earlier try may have been carried out though its answer did not come.
        let mut tried = false;
        loop {
            let node = search.node();
            let removal = matches!(request, Request::Remove { .. });
            match self.call(node, request.clone(), most).await {
                Ok(Answer::Reply(Reply::Refused(Refusal::NoSuchFile))) if removal && tried => {
                    return Ok(Answer::Reply(Reply::Done));
                }
                Ok(Answer::Reply(Reply::Refused(refusal))) => {
                    tried |= matches!(refusal, Refusal::Again | Refusal::Unavailable { .. });
                    search.refused(node, refusal).await?;
                }
                // That was refused for want of such a file, and looked into: it is there.
                Ok(Answer::Reply(Reply::Stat(_))) if !matches!(request, Request::Stat { .. }) => {
                    search.refused(node, Refusal::Again).await?;
                }
                Ok(answer) => {
                    self.set_hint(range, Some(node));
                    return Ok(answer);
                }
                Err(error) => {
                    tried = true;
                    search.failed(error).await?;
                }
            }
        }
    }

    pub async fn tail(
        &self,
        FileRef { name: file, of }: FileRef<'_>,
        offset: u64,
        max: usize,
        wait: Duration,
        patience: Duration,
    ) -> Result<Bytes, Error> {
        let (start, range) = (clock::now(), self.ring.range_of(file));
        let max = max.min(MAX_READ) as u32;
        loop {
            // Asked anew every few seconds, so that a coordinator that fell silent is noticed.
            let left = wait.saturating_sub(clock::now().since(start));
            let poll = left.min(ANSWER);
            let request = Request::Tail {
                file: file.into(),
                of,
                offset,
                max,
                wait_ms: poll.as_millis() as u32,
            };
            match self.answer(range, file, request, patience, poll + ANSWER).await? {
                Answer::Data { bytes, .. } if bytes.is_empty() && left > poll => {}
                Answer::Data { bytes, .. } => return Ok(bytes),
                Answer::Reply(other) => return Err(self.unexpected(file, &other)),
                Answer::Entries { .. } => return Ok(Bytes::new()),
            }
        }
    }

    pub fn stat(&self, file: &str, stat: FileStat) -> Stat {
        Stat {
            file: file.into(),
            creation: Creation(stat.nonce),
            base: stat.base,
            len: stat.len,
            newlines: stat.newlines,
            coordinator: stat.coordinator.map(|n| self.name(n)),
            replicas: stat.replicas.into_iter().map(|n| self.name(n)).collect(),
            under_replicated: stat.under_replicated,
        }
    }

    /// The longest that anybody who can be reached knows of.
    pub async fn stat_any(&self, file: &str) -> Option<Stat> {
        let mut best: Option<FileStat> = None;
        for node in self.all() {
            let request = Request::Stat {
                file: file.into(),
                any: true,
            };
            if let Ok(Answer::Reply(Reply::Stat(stat))) = self.call(node, request, ANSWER).await
                && best.as_ref().is_none_or(|b| b.len < stat.len)
            {
                best = Some(FileStat {
                    coordinator: None,
                    under_replicated: true,
                    ..stat
                });
            }
        }
        best.map(|stat| self.stat(file, stat))
    }

    /// The ring as the first node that answers sees it.
    pub async fn ring_info(&self, patience: Duration) -> Result<Vec<NodeInfo>, Error> {
        let (start, mut backoff) = (clock::now(), Backoff::quick());
        loop {
            let mut last = None;
            for node in self.all() {
                match self.call(node, Request::Ring, ANSWER).await {
                    Ok(Answer::Reply(Reply::Ring { nodes })) => return Ok(nodes),
                    Ok(_) => {}
                    Err(error @ Error::Secret { .. }) => return Err(error),
                    Err(error) => last = Some(error),
                }
            }
            let tried_for = clock::now().since(start);
            if tried_for >= patience {
                let why = last.map_or("no storage node answers".to_owned(), |e| e.to_string());
                return Err(Error::Unavailable {
                    file: "the ring".into(),
                    why,
                    tried_for,
                });
            }
            tokio::time::sleep(backoff.delay()).await;
        }
    }

    pub async fn list_store(&self, name: &NodeName) -> Result<Vec<Entry>, Error> {
        let node = self.node(name)?;
        let mut all: Vec<Entry> = vec![];
        loop {
            let after = all.last().map_or(String::new(), |e| e.file.clone());
            match self.call(node, Request::ListStore { after }, ANSWER).await? {
                Answer::Reply(Reply::Files { files, more }) => {
                    let done = !more || files.is_empty();
                    all.extend(
                        files
                            .into_iter()
                            .map(|(file, len, creation)| Entry { file, len, creation }),
                    );
                    if done {
                        return Ok(all);
                    }
                }
                _ => {
                    return Err(Error::Net {
                        node: name.clone(),
                        why: "it answered something else".into(),
                    });
                }
            }
        }
    }

    /// How a node stands, by itself.
    pub async fn status(&self, name: &NodeName) -> Result<NodeStatus, Error> {
        match self.call(self.node(name)?, Request::NodeStatus, ANSWER).await? {
            Answer::Reply(Reply::NodeStatus(status)) => Ok(*status),
            _ => Err(Error::Net {
                node: name.clone(),
                why: "it answered something else".into(),
            }),
        }
    }

    pub fn unexpected(&self, what: &str, reply: &Reply) -> Error {
        Error::Local {
            what: what.into(),
            why: format!("a storage node answered something else than asked: {reply:?}"),
        }
    }

    /// The error that a refusal is in the end.
    pub fn refusal(&self, file: &str, refusal: Refusal, tried_for: Duration) -> Error {
        let file = file.to_owned();
        let unavailable = |file, why: &str| Error::Unavailable {
            file,
            why: why.into(),
            tried_for,
        };
        match refusal {
            Refusal::NoSuchFile => Error::NoSuchFile { file },
            Refusal::Replaced => Error::Replaced { file },
            Refusal::Exists => Error::Exists { file },
            Refusal::Fenced { epoch } => Error::Fenced {
                file,
                client: "this client".into(),
                epoch,
            },
            Refusal::Full { node } => Error::Full {
                file,
                node: self.name(node),
            },
            Refusal::Short { node } => Error::Short {
                file,
                node: self.name(node),
                percent: self.cluster().hydfs.refuse_percent,
            },
            Refusal::Damaged { offset, why } => Error::Damaged { file, offset, why },
            Refusal::Trimmed { base } => Error::Trimmed { file, base },
            // Who asked knows how far.
            Refusal::BeyondEnd { len } => Error::BeyondEnd { file, base: len, len },
            Refusal::Invalid { why } => Error::Local { what: file, why },
            Refusal::InvalidName { .. } => Error::InvalidName {
                file,
                why: "the storage node refuses it",
            },
            Refusal::Gap { length } => unavailable(
                file,
                &format!("the stored stream ends at {length}, before what was acknowledged"),
            ),
            Refusal::Unavailable { why } => Error::Unavailable { file, why, tried_for },
            Refusal::NotHere => unavailable(file, "no reachable node has a copy"),
            Refusal::NotCoordinator { .. } | Refusal::Again => {
                unavailable(file, "no storage node coordinates it")
            }
        }
    }
}

/// The search for a range's coordinator: where to ask next, and when to give up.
pub struct Search<'a> {
    nodes: &'a Nodes,
    range: RangeIx,
    file: String,
    patience: Duration,
    start: Time,
    backoff: Backoff,
    order: Vec<NodeIx>,
    turn: usize,
    /// Redirections followed since somebody was asked in turn: two nodes may each think it is the other.
    hops: u32,
    last: Option<Error>,
}

impl<'a> Search<'a> {
    pub fn new(nodes: &'a Nodes, range: RangeIx, file: &str, patience: Duration) -> Self {
        Self {
            nodes,
            range,
            file: file.into(),
            patience,
            start: clock::now(),
            backoff: Backoff::quick(),
            order: nodes.all(),
            turn: 0,
            hops: 0,
            last: None,
        }
    }

    /// Something went right: all patience is there again.
    pub fn reset(&mut self) {
        self.start = clock::now();
        self.backoff.reset();
        self.hops = 0;
        self.last = None;
    }

    /// Whom to ask.
    pub fn node(&self) -> NodeIx {
        self.nodes
            .hint(self.range)
            .unwrap_or_else(|| self.order[self.turn % self.order.len()])
    }

    /// `node` refused. Returns when it is time to ask again; fails when asking again does not help.
    pub async fn refused(&mut self, node: NodeIx, refusal: Refusal) -> Result<(), Error> {
        let tried_for = clock::now().since(self.start);
        match refusal {
            Refusal::NotCoordinator {
                coordinator: Some(other),
            } if other != node && self.hops < 3 => {
                self.hops += 1;
                self.nodes.set_hint(self.range, Some(other));
                Ok(())
            }
            Refusal::NotCoordinator { .. } | Refusal::NotHere | Refusal::Unavailable { .. } => {
                self.last = Some(self.nodes.refusal(&self.file, refusal, tried_for));
                self.next_in_turn();
                self.pause().await
            }
            // That node is the one to ask, only not now.
            Refusal::Again | Refusal::Full { .. } => {
                self.last = Some(self.nodes.refusal(&self.file, refusal, tried_for));
                self.pause().await
            }
            fatal => Err(self.nodes.refusal(&self.file, fatal, tried_for)),
        }
    }

    /// A node could not be asked.
    pub async fn failed(&mut self, error: Error) -> Result<(), Error> {
        // Patience does not help.
        if matches!(error, Error::Secret { .. }) {
            return Err(error);
        }
        if !matches!(self.last, Some(Error::Unavailable { .. })) {
            self.last = Some(error);
        }
        self.next_in_turn();
        // The others may well be there: ask each at once.
        if self.turn.is_multiple_of(self.order.len()) {
            self.pause().await
        } else {
            self.check()
        }
    }

    fn next_in_turn(&mut self) {
        self.nodes.set_hint(self.range, None);
        self.turn += 1;
        self.hops = 0;
    }

    async fn pause(&mut self) -> Result<(), Error> {
        self.check()?;
        tokio::time::sleep(self.backoff.delay().min(Duration::from_millis(100))).await;
        Ok(())
    }

    fn check(&mut self) -> Result<(), Error> {
        let tried_for = clock::now().since(self.start);
        if tried_for < self.patience {
            return Ok(());
        }
        Err(match self.last.take() {
            Some(full @ Error::Full { .. }) => full,
            Some(Error::Unavailable { file, why, .. }) => Error::Unavailable { file, why, tried_for },
            Some(other) => Error::Unavailable {
                file: self.file.clone(),
                why: other.to_string(),
                tried_for,
            },
            None => Error::Unavailable {
                file: self.file.clone(),
                why: "no storage node answered in time".into(),
                tried_for,
            },
        })
    }
}
