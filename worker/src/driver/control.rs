//! The control connection to the leader. It lives in a task of its own, so that a busy operator does not lose the lease.

use std::net::SocketAddr;
use std::time::Duration;

use common::control::{Report, ToLeader, ToWorker};
use common::net::{self, Identity, Role};
use common::{clock, spawn};
use tokio::sync::{mpsc, watch};

use super::Event;
use super::links::Events;

/// What the engine uses to speak to the leader.
pub struct Control {
    pub to_leader: mpsc::UnboundedSender<ToLeader>,
    /// The counters that the next beat carries.
    pub report: watch::Sender<Report>,
    guard: spawn::Guard,
}

impl Control {
    /// Waits until what was said has left, for a bounded time: call before the process ends.
    pub async fn drain(self) {
        let Control {
            to_leader,
            report,
            guard,
        } = self;
        drop((to_leader, report));
        let deadline = clock::now() + Duration::from_secs(1);
        while !guard.is_finished() && clock::now() < deadline {
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
    let net::Connection { mut tx, mut rx, .. } = net::dial(leader, me, Role::Control).await?;
    tx.send(&register).await?;
    let (to_leader, mut outgoing) = mpsc::unbounded_channel::<ToLeader>();
    let (report, reports) = watch::channel(Report::default());
    let guard = spawn::guarded("control", async move {
        let speak = async {
            let mut beat = tokio::time::interval(lease / 6);
            loop {
                tokio::select! {
                    message = outgoing.recv() => match message {
                        Some(message) => tx.send(&message).await?,
                        None => return tx.shutdown().await,
                    },
                    _ = beat.tick() => {
                        let report = reports.borrow().clone();
                        tx.send(&ToLeader::Beat(report)).await?;
                    }
                }
            }
        };
        let hear = async {
            loop {
                let message = tokio::time::timeout(lease, rx.recv::<ToWorker>()).await;
                match message.map_err(|_| net::Error::Timeout)?? {
                    Some(ToWorker::Beat) => {}
                    Some(message) => {
                        if events.send(Event::Control(Box::new(message))).is_err() {
                            return Ok(());
                        }
                    }
                    None => return Err(net::Error::Closed),
                }
            }
        };
        let ended: Result<(), net::Error> = tokio::select! { ended = speak => ended, ended = hear => ended };
        if let Err(error) = ended {
            let _ = events.send(Event::ControlLost(error.to_string()));
        }
        Ok::<(), net::Error>(())
    });
    Ok(Control {
        to_leader,
        report,
        guard,
    })
}
