//! The control connection to the leader. It lives on a thread of its own, so that neither a busy operator nor a crowded
//! machine loses the lease.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use common::clock::{self, Time};
use common::lateness::{Lateness, patience};
use common::net::{self, Identity, Receiver, Role, Sender};
use common::spawn;
use protocol::control::{Report, ToLeader, ToWorker};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

use super::links::Events;
use super::pulse::{Pulse, Watch};
use super::{End, EngineEvent};

/// What may wait for the leader, beside the newest counters. More says that it takes nothing in.
const MESSAGES: usize = 1024;

/// What the engine uses to speak to the leader.
pub struct Control {
    pub to_leader: ToLeaderSender,
    /// The counters that the next beat carries.
    pub report: watch::Sender<Report>,
    /// The next beat is due at once.
    pub beat_now: Arc<Notify>,
    /// Whether the engine lives: without it no beat is sent.
    pub pulse: Pulse,
    thread: JoinHandle<()>,
}

/// The queue of messages to the leader.
#[derive(Clone)]
pub struct ToLeaderSender(mpsc::Sender<ToLeader>);

impl ToLeaderSender {
    pub fn tell(&self, message: ToLeader) -> Result<(), End> {
        match self.0.try_send(message) {
            Err(TrySendError::Full(_)) => Err(End::LeaderLost(format!(
                "{MESSAGES} messages wait for it, and it takes none"
            ))),
            // That the connection has ended is on its way as an event.
            Ok(()) | Err(TrySendError::Closed(_)) => Ok(()),
        }
    }
}

impl Control {
    /// Sends the counters without waiting for the next beat.
    pub fn report_now(&self, report: Report) {
        self.report.send_replace(report);
        self.beat_now.notify_one();
    }

    /// Waits until what was said has left, for a bounded time: call before the process ends.
    pub async fn drain(self) {
        let Control {
            to_leader,
            report,
            thread,
            ..
        } = self;
        drop((to_leader, report));
        let deadline = clock::now() + Duration::from_secs(1);
        while !thread.is_finished() && clock::now() < deadline {
            clock::sleep_until(clock::now() + Duration::from_millis(2)).await;
        }
    }
}

/// Connects and registers, then keeps the lease. The leader's messages, and the connection's end, become events.
pub async fn connect(
    leader: SocketAddr,
    me: &Identity,
    register: ToLeader,
    lease: Duration,
    events: Events,
) -> Result<Control, net::Error> {
    let (to_leader, outgoing) = mpsc::channel::<ToLeader>(MESSAGES);
    let beat_now = Arc::new(Notify::new());
    let due = beat_now.clone();
    let (report, reports) = watch::channel(Report::default());
    let (tell, connected) = oneshot::channel::<Result<(), net::Error>>();
    let (me, pulse) = (me.clone(), Pulse::default());
    let engine = pulse.clone();
    let thread = spawn::thread("control", async move {
        let dialled = async {
            let mut connection = net::dial(leader, &me, Role::Control).await?;
            connection.tx.send(&register).await?;
            Ok::<_, net::Error>(connection)
        };
        let connection = match dialled.await {
            Ok(connection) => connection,
            Err(error) => {
                let _ = tell.send(Err(error));
                return Ok::<(), net::Error>(());
            }
        };
        let _ = tell.send(Ok(()));
        let speak = speak(connection.tx, outgoing, reports, due, engine, lease);
        let hear = hear(connection.rx, &events, lease);
        let ended: Result<(), net::Error> = tokio::select! { ended = speak => ended, ended = hear => ended };
        if let Err(error) = ended {
            let _ = events.send(EngineEvent::ControlLost(error.to_string())).await;
        }
        Ok(())
    })?;
    connected.await.map_err(|_| net::Error::Closed)??;
    Ok(Control {
        to_leader: ToLeaderSender(to_leader),
        report,
        beat_now,
        pulse,
        thread,
    })
}

/// Sends what there is to say, and a beat six times in a lease for as long as the engine lives.
async fn speak(
    mut tx: Sender,
    mut outgoing: mpsc::Receiver<ToLeader>,
    reports: watch::Receiver<Report>,
    due: Arc<Notify>,
    engine: Pulse,
    lease: Duration,
) -> Result<(), net::Error> {
    let mut beat = tokio::time::interval(lease / 6);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut lateness = Lateness::new(lease / 6);
    let mut watch = Watch::default();
    let mut hangs = false;
    loop {
        tokio::select! {
            message = outgoing.recv() => match message {
                Some(message) => tx.send(&message).await?,
                None => return tx.shutdown().await,
            },
            () = due.notified() => {
                let report = reports.borrow().clone();
                tx.send(&ToLeader::Beat(report)).await?;
            }
            _ = beat.tick() => {
                let now = clock::now();
                lateness.tick(now);
                let lives = watch.lives(now, engine.look(), lease);
                if lives {
                    let late_ms = lateness.worst().as_millis() as u64;
                    let report = Report { late_ms, ..reports.borrow().clone() };
                    tx.send(&ToLeader::Beat(report)).await?;
                } else if !hangs {
                    tracing::error!(lease_ms = lease.as_millis() as u64, "HANGS");
                }
                hangs = !lives;
            }
        }
    }
}

/// Takes in what the leader says, until it has been silent for too long.
async fn hear(mut rx: Receiver, events: &Events, lease: Duration) -> Result<(), net::Error> {
    let every = lease / 12;
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut lateness = Lateness::new(every);
    let mut heard: Time = clock::now();
    let mut leader_late = Duration::ZERO;
    loop {
        tokio::select! {
            biased;
            message = rx.recv::<ToWorker>() => {
                heard = clock::now();
                match message? {
                    Some(ToWorker::Beat { late_ms }) => leader_late = Duration::from_millis(late_ms),
                    Some(message) => {
                        if events.send(EngineEvent::Control(Box::new(message))).await.is_err() {
                            return Ok(());
                        }
                    }
                    None => return Err(net::Error::Closed),
                }
            }
            _ = tick.tick() => {
                let now = clock::now();
                heard = heard + lateness.tick(now);
                if now.since(heard) >= patience(lease, leader_late) {
                    return Err(net::Error::Timeout);
                }
            }
        }
    }
}
