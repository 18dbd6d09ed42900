//! Carries out what the state machine wants: the UDP socket, timers, table exchanges, the log. One task owns the state
//! machine; connections ask it through a `DriverHandle`.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::clock::{self, Time};
use common::cluster::{self, Cluster};
use common::ids::NodeName;
use common::net::datagram::{Opener, Sealer};
use common::net::{self, Identity, Role};
use common::spawn;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::console::{self, Console};
use crate::state::settings::{self, Configuration};
use crate::state::{Config, Counts, Effect, Fact, Input, Members, State};
use crate::wire::{self, Member, TableExchange};
use crate::{http, serve};

/// Datagrams handled before timers get their turn.
const BURST: usize = 64;
/// Changes that a slow subscriber may lag behind before it is sent a snapshot instead.
const CHANGES: usize = 1024;
/// For each side's table, once the hello is through.
pub(crate) const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(3);
/// Table exchanges under way at once.
const MAX_EXCHANGES: usize = 16;
/// A stranger is logged this often, with a count.
const STRANGER_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {kind} {addr}: {source}; {advice}")]
    Listen {
        kind: &'static str,
        addr: SocketAddr,
        source: std::io::Error,
        advice: String,
    },
    #[error(transparent)]
    Cluster(#[from] cluster::Error),
    #[error("memberd cannot go on: {0}; start it again")]
    Lost(#[from] spawn::Lost),
}

pub(crate) enum DriverCommand {
    List(oneshot::Sender<Vec<Member>>),
    Subscribe(oneshot::Sender<(Vec<Member>, broadcast::Receiver<Member>)>),
    /// A table that came over TCP. `answer`: where to send ours; `None` when it is itself an answer.
    Table {
        from: NodeName,
        table: TableExchange,
        answer: Option<oneshot::Sender<TableExchange>>,
    },
    Leave(oneshot::Sender<()>),
    Configuration(oneshot::Sender<Configuration>),
    Change(
        Vec<(String, String)>,
        oneshot::Sender<Result<Configuration, settings::Error>>,
    ),
    Metrics(oneshot::Sender<Metrics>),
}

/// What `GET /metrics` tells.
pub(crate) struct Metrics {
    pub members: Vec<Member>,
    pub counts: Counts,
    pub traffic: Traffic,
    pub configuration: Configuration,
}

/// Since the start. Bytes are those of the datagrams, without IP's and UDP's headers (28 for IPv4).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Traffic {
    pub sent: u64,
    pub sent_bytes: u64,
    pub received: u64,
    pub received_bytes: u64,
    pub refused: u64,
    pub exchanges: u64,
}

/// How connections reach the task that owns the state.
#[derive(Clone)]
pub(crate) struct DriverHandle(mpsc::Sender<DriverCommand>);

impl DriverHandle {
    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> DriverCommand,
    ) -> Result<T, net::Error> {
        let (tx, rx) = oneshot::channel();
        self.0.send(command(tx)).await.map_err(|_| net::Error::Closed)?;
        rx.await.map_err(|_| net::Error::Closed)
    }
    pub(crate) async fn list(&self) -> Result<Vec<Member>, net::Error> {
        self.ask(DriverCommand::List).await
    }
    pub(crate) async fn subscribe(&self) -> Result<(Vec<Member>, broadcast::Receiver<Member>), net::Error> {
        self.ask(DriverCommand::Subscribe).await
    }
    pub(crate) async fn exchange(
        &self,
        from: NodeName,
        table: TableExchange,
    ) -> Result<TableExchange, net::Error> {
        self.ask(|answer| DriverCommand::Table {
            from,
            table,
            answer: Some(answer),
        })
        .await
    }
    pub(crate) async fn leave(&self) -> Result<(), net::Error> {
        self.ask(DriverCommand::Leave).await
    }
    pub(crate) async fn configuration(&self) -> Result<Configuration, net::Error> {
        self.ask(DriverCommand::Configuration).await
    }
    pub(crate) async fn change(
        &self,
        changes: Vec<(String, String)>,
    ) -> Result<Result<Configuration, settings::Error>, net::Error> {
        self.ask(|answer| DriverCommand::Change(changes, answer)).await
    }
    pub(crate) async fn metrics(&self) -> Result<Metrics, net::Error> {
        self.ask(DriverCommand::Metrics).await
    }
}

/// A daemon with its ports bound and not yet running. Dropping [`Driver::run`]'s future is a crash: nobody is told.
pub struct Driver {
    cluster: Arc<Cluster>,
    me: NodeName,
    identity: Identity,
    udp: UdpSocket,
    tcp: Option<TcpListener>,
    members: Members,
    sealer: Sealer,
    boot: u64,
    opener: Opener,
    commands: mpsc::Receiver<DriverCommand>,
    handle: DriverHandle,
    changes: broadcast::Sender<Member>,
    exchanges: Vec<spawn::Guard>,
    refusals: Refusals,
    http: Option<http::Admin>,
    traffic: Traffic,
}

impl Driver {
    pub async fn bind(cluster: Arc<Cluster>, name: &NodeName) -> Result<Self, Error> {
        let node = cluster.node(name.as_str())?.clone();
        let secret = cluster.secret()?;
        let (udp_addr, tcp_addr) = (
            node.at(cluster.ports.membership),
            node.at(cluster.ports.introducer),
        );
        let udp = UdpSocket::bind(udp_addr)
            .await
            .map_err(|e| cannot_listen("udp", udp_addr, e))?;
        let tcp = TcpListener::bind(tcp_addr)
            .await
            .map_err(|e| cannot_listen("tcp", tcp_addr, e))?;

        let http = http::Admin::bind(&cluster, &node, &secret).await;
        let incarnation = clock::unix_micros() / 1000;
        let config = Config {
            me: node.name.clone(),
            others: cluster
                .nodes
                .iter()
                .map(|n| n.name.clone())
                .filter(|n| n != &node.name)
                .collect(),
            incarnation,
            settings: (&cluster.membership).into(),
        };
        let (tx, commands) = mpsc::channel(64);
        Ok(Self {
            identity: Identity {
                who: format!("memberd {}", std::process::id()),
                node: Some(node.name.clone()),
                secret: secret.clone(),
                security: cluster.security,
            },
            udp,
            tcp: Some(tcp),
            members: Members::new(clock::now(), config, StdRng::seed_from_u64(rand::random())),
            sealer: Sealer::new(&secret, node.name.clone(), incarnation),
            boot: incarnation,
            opener: Opener::new(&secret),
            commands,
            handle: DriverHandle(tx),
            changes: broadcast::channel(CHANGES).0,
            exchanges: Vec::new(),
            refusals: Refusals::default(),
            http,
            traffic: Traffic::default(),
            me: node.name,
            cluster,
        })
    }

    /// Runs until `stop` completes or a client asks to leave; then says goodbye to the others and returns.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), Error> {
        tracing::info!(
            node = %self.me,
            incarnation = self.members.incarnation(),
            pid = std::process::id(),
            cluster = %self.cluster.path.display(),
            "START"
        );
        let mut vitals = spawn::Vitals::default();
        let node = self.cluster.node(self.me.as_str())?.clone();
        let console = Console::of(&node);
        let mut console_kept = Some(spawn::guarded(
            "console",
            console::keep(self.cluster.clone(), node),
        ));
        if let Some(tcp) = self.tcp.take() {
            let (cluster, me) = (self.cluster.clone(), self.identity.clone());
            vitals.spawn(
                "introducer",
                serve::accept(tcp, cluster, me, self.handle.clone(), console.clone()),
            );
        }
        let _admin = self
            .http
            .take()
            .map(|http| spawn::guarded("http", http.serve(self.handle.clone(), console)));
        tokio::pin!(stop);
        let mut stopping = false;
        while !self.members.is_gone() {
            let deadline = self.members.next_deadline();
            tokio::select! {
                // An error shows again, and is logged, when reading.
                _ = self.udp.readable() => self.read_datagrams(),
                Some(command) = self.commands.recv() => self.obey(command),
                () = clock::sleep_until(deadline) => {}
                lost = vitals.lost() => return Err(lost.into()),
                () = &mut stop, if !stopping => {
                    stopping = true;
                    // It is not started again meanwhile.
                    drop(console_kept.take());
                    self.handle_input(Input::Leave);
                }
            }
            if clock::now() >= self.members.next_deadline() {
                self.handle_input(Input::Tick);
            }
        }
        tracing::info!(node = %self.me, "STOP");
        Ok(())
    }

    fn read_datagrams(&mut self) {
        let mut buffer = [0; wire::MAX_DATAGRAM + 1];
        for _ in 0..BURST {
            let (len, addr) = match self.udp.try_recv_from(&mut buffer) {
                Ok(got) => got,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return,
                // Left over from a datagram that could not be delivered; reading has cleared it.
                Err(e) => return tracing::debug!(error = %e, "RECEIVE_ERROR"),
            };
            self.traffic.received += 1;
            self.traffic.received_bytes += len as u64;
            let opened = self.opener.open(&buffer[..len]);
            let decoded = match opened {
                Ok((from, payload)) => wire::Message::decode(payload)
                    .map(|m| (from, m))
                    .map_err(|e| e.to_string()),
                Err(e) => Err(e.to_string()),
            };
            match decoded {
                Ok((from, message)) => self.handle_input(Input::Datagram { from, message }),
                Err(why) => {
                    self.traffic.refused += 1;
                    self.refusals.note(&addr.ip().to_string(), &why);
                }
            }
        }
    }

    fn obey(&mut self, command: DriverCommand) {
        // An asker that has gone away is no concern of ours.
        match command {
            DriverCommand::List(answer) => drop(answer.send(self.listed())),
            DriverCommand::Subscribe(answer) => drop(answer.send((self.listed(), self.changes.subscribe()))),
            DriverCommand::Table { from, table, answer } => {
                let TableExchange { facts, configuration } = table;
                self.handle_input(Input::Table {
                    from,
                    facts,
                    configuration,
                });
                if let Some(answer) = answer {
                    drop(answer.send(self.table()));
                }
            }
            DriverCommand::Configuration(answer) => drop(answer.send(self.members.configuration().clone())),
            DriverCommand::Change(changes, answer) => {
                let changed = self.members.change(clock::now(), &changes);
                let changed = changed.map(|effects| {
                    self.carry_out(effects);
                    self.members.configuration().clone()
                });
                drop(answer.send(changed));
            }
            DriverCommand::Metrics(answer) => {
                let metrics = Metrics {
                    members: self.listed(),
                    counts: self.members.counts(),
                    traffic: self.traffic,
                    configuration: self.members.configuration().clone(),
                };
                drop(answer.send(metrics));
            }
            DriverCommand::Leave(answer) => {
                self.handle_input(Input::Leave);
                let _ = answer.send(());
            }
        }
    }

    fn handle_input(&mut self, input: Input) {
        let effects = self.members.handle(clock::now(), input);
        let boot = self.members.boot();
        if boot != self.boot {
            // A former process of this node had a clock ahead of ours: until now, the others refused our datagrams.
            self.sealer = Sealer::new(&self.identity.secret, self.me.clone(), boot);
            self.boot = boot;
        }
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { to, message } => self.send(&to, &message),
                Effect::Exchange { with } => self.exchange(with),
                Effect::Changed { fact, before } => {
                    log_change(&self.me, &fact, before.as_ref());
                    // No receivers: nobody has subscribed.
                    let _ = self.member(&fact).map(|m| self.changes.send(m));
                }
                Effect::Configured {
                    configuration,
                    before,
                } => {
                    let (version, by) = (configuration.version, &configuration.by);
                    let (is, was) = (&configuration.settings, &before.settings);
                    tracing::info!(
                        node = %self.me, version, by = %by, protocol = %is.protocol,
                        suspicion = is.suspicion_word(), suspicion_ms = is.suspicion_ms,
                        was = %was.protocol, was_suspicion = was.suspicion_word(),
                        "SWITCH"
                    );
                }
                // Shorter ones are daily bread on a busy machine.
                Effect::Stalled { late } if late < self.members.configuration().settings.period() => {
                    tracing::debug!(node = %self.me, late_ms = late.as_millis() as u64, "STALL");
                }
                Effect::Stalled { late } => {
                    tracing::warn!(node = %self.me, late_ms = late.as_millis() as u64, "STALL");
                }
                Effect::Refused { from, why } => self.refusals.note(from.as_str(), &why.to_string()),
            }
        }
    }

    fn send(&mut self, to: &NodeName, message: &wire::Message) {
        let Ok(node) = self.cluster.node(to.as_str()) else {
            return;
        };
        match message.encode() {
            Ok(payload) => {
                let sealed = self.sealer.seal(&payload);
                self.traffic.sent += 1;
                self.traffic.sent_bytes += sealed.len() as u64;
                // A full socket buffer or an unreachable net is a lost datagram: the protocol is made for those.
                if let Err(e) = self
                    .udp
                    .try_send_to(&sealed, node.at(self.cluster.ports.membership))
                {
                    tracing::debug!(to = %to, error = %e, "SEND_ERROR");
                }
            }
            Err(e) => tracing::error!(to = %to, error = %e, "ENCODE_ERROR"),
        }
    }

    fn exchange(&mut self, with: NodeName) {
        self.exchanges.retain(|e| !e.is_finished());
        if self.exchanges.len() >= MAX_EXCHANGES {
            return;
        }
        let Ok(node) = self.cluster.node(with.as_str()) else {
            return;
        };
        let addr = node.at(self.cluster.ports.introducer);
        self.traffic.exchanges += 1;
        let table = self.table();
        let (me, handle) = (self.identity.clone(), self.handle.clone());
        self.exchanges.push(spawn::guarded("exchange", async move {
            // A node that is down does not answer: that is no error of this daemon.
            match exchange_with(addr, &me, table).await {
                Ok(table) => {
                    let _ = handle
                        .0
                        .send(DriverCommand::Table {
                            from: with,
                            table,
                            answer: None,
                        })
                        .await;
                }
                Err(error) => tracing::debug!(with = %with, error = %error, "EXCHANGE_FAIL"),
            }
            Ok::<(), Error>(())
        }));
    }

    fn table(&self) -> TableExchange {
        TableExchange {
            facts: self.members.table(),
            configuration: self.members.shared_configuration(),
        }
    }

    fn listed(&self) -> Vec<Member> {
        self.members
            .listed(clock::now())
            .iter()
            .filter_map(|f| self.member(f))
            .collect()
    }

    fn member(&self, fact: &Fact) -> Option<Member> {
        let addr = self.cluster.node(fact.name.as_str()).ok()?.addr;
        Some(Member {
            name: fact.name.clone(),
            addr,
            incarnation: fact.incarnation,
            state: fact.state,
        })
    }
}

async fn exchange_with(
    addr: SocketAddr,
    me: &Identity,
    table: TableExchange,
) -> Result<TableExchange, net::Error> {
    let mut connection = net::dial(addr, me, Role::Join).await?;
    let swap = async {
        connection.tx.send(&table).await?;
        connection.rx.recv().await?.ok_or(net::Error::Closed)
    };
    tokio::time::timeout(EXCHANGE_TIMEOUT, swap)
        .await
        .map_err(|_| net::Error::Timeout)?
}

fn cannot_listen(kind: &'static str, addr: SocketAddr, source: std::io::Error) -> Error {
    let advice = match source.kind() {
        std::io::ErrorKind::AddrInUse => format!(
            "another program has this port, most likely a memberd of the same node: find it with `ss -lnp | grep :{}` and stop it, or change [ports] in the cluster file",
            addr.port()
        ),
        std::io::ErrorKind::AddrNotAvailable => {
            "this machine does not have that address: check --node and the node's addr in the cluster file"
                .into()
        }
        std::io::ErrorKind::PermissionDenied => {
            "ports below 1024 need privileges: change [ports] in the cluster file".into()
        }
        _ => "check the node's addr and [ports] in the cluster file".into(),
    };
    Error::Listen {
        kind,
        addr,
        source,
        advice,
    }
}

fn log_change(me: &NodeName, fact: &Fact, before: Option<&Fact>) {
    let (node, incarnation) = (&fact.name, fact.incarnation);
    let was = before.map_or("unknown".to_owned(), |b| b.state.to_string());
    match (fact.state, before.map(|b| b.state)) {
        (State::Alive, _) if node == me => tracing::warn!(%node, incarnation, "REFUTE"),
        (State::Alive, None | Some(State::Left)) => tracing::info!(%node, incarnation, was, "JOIN"),
        (State::Alive, _) => tracing::info!(%node, incarnation, was, "ALIVE"),
        (State::Suspect, _) => tracing::info!(%node, incarnation, was, "SUSPECT"),
        (State::Failed, _) => tracing::info!(%node, incarnation, was, "FAIL"),
        (State::Left, _) => tracing::info!(%node, incarnation, was, "LEAVE"),
    }
}

/// Logs the first refused datagram of a source at once and the others as a count: a flood must not fill the disk.
#[derive(Default)]
struct Refusals(BTreeMap<String, (Time, u64)>);

impl Refusals {
    /// Sources that are told apart; made-up ones share the last place.
    const MOST: usize = 64;

    fn note(&mut self, from: &str, why: &str) {
        let known = self.0.contains_key(from) || self.0.len() < Self::MOST;
        let key = if known { from } else { "others" };
        let now = clock::now();
        let (last, count) = self.0.entry(key.to_owned()).or_insert((Time::ZERO, 0));
        *count += 1;
        if *last == Time::ZERO || now.since(*last) >= STRANGER_EVERY {
            tracing::warn!(from = key, count = *count, why, "STRANGER");
            (*last, *count) = (now, 0);
        }
    }
}
