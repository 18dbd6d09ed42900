//! The leader's standbys: what [`Standbys`] decides is carried out here.

use std::collections::BTreeMap;
use std::time::Duration;

use common::clock;
use job::machine::ConnId;
use job::standby::wire::ToStandby;
use job::standby::{Standbys, StandbysEffect, StandbysEvent, StandbysInput};
use tokio::sync::mpsc;

use super::run::Run;

/// How long standbys have to go when they are told to.
const GO_WITHIN: Duration = Duration::from_secs(3);

/// The standbys, and the connections to them.
pub(super) struct StandbyLinks {
    pub machine: Standbys,
    conns: BTreeMap<ConnId, mpsc::Sender<ToStandby>>,
}

impl StandbyLinks {
    pub fn new(machine: Standbys) -> Self {
        Self {
            machine,
            conns: BTreeMap::new(),
        }
    }

    pub fn add(&mut self, conn: ConnId, out: mpsc::Sender<ToStandby>) {
        self.conns.insert(conn, out);
    }

    pub fn remove(&mut self, conn: ConnId) {
        self.conns.remove(&conn);
    }

    /// The job is over, and the journal has it: the standbys are told to end, and waited for, within bounds.
    pub async fn end(mut self, why: &str) {
        let (mut effects, why) = (vec![], why.into());
        self.machine
            .handle(clock::now(), StandbysInput::Over { why }, &mut effects);
        for effect in effects {
            if let StandbysEffect::Tell { conn, message } = effect
                && let Some(out) = self.conns.get(&conn)
            {
                // One that takes nothing finds out by itself.
                let _ = out.try_send(message);
            }
        }
        let gone = async {
            for out in self.conns.values() {
                out.closed().await;
            }
        };
        if tokio::time::timeout(GO_WITHIN, gone).await.is_err() {
            tracing::warn!("STANDBY_CLOSE_FAILED");
        }
    }
}

impl Run {
    pub(super) fn give_standbys(&mut self, input: StandbysInput) {
        let mut effects = vec![];
        self.standbys.machine.handle(clock::now(), input, &mut effects);
        for effect in effects {
            match effect {
                StandbysEffect::Start { node } => self.start_standby(node.as_str()),
                StandbysEffect::Tell { conn, message } => {
                    // One that takes nothing loses its connection, and is replaced.
                    if self
                        .standbys
                        .conns
                        .get(&conn)
                        .is_some_and(|out| out.try_send(message).is_err())
                    {
                        self.standbys.conns.remove(&conn);
                    }
                }
                StandbysEffect::Close { conn } => self.standbys.remove(conn),
                StandbysEffect::Event(event) => tell(&event),
            }
        }
    }

    fn start_standby(&mut self, node: &str) {
        let (cluster, job) = (&self.base.cluster, &self.job);
        // Nodes come from the cluster file.
        if let Ok(node) = cluster.node(node) {
            let kind = self.base.request.launcher.name();
            let name = &job.plan().job;
            let order =
                launcher::standby_order(cluster, node, name, self.addr, job.base(), kind, &self.own_folder);
            self.launcher.stand_by(order);
        }
    }
}

fn tell(event: &StandbysEvent) {
    match event {
        StandbysEvent::Starting { node } => tracing::info!(node = %node, "STANDBY_START"),
        StandbysEvent::Ready { node, pid } => tracing::info!(node = %node, pid, "STANDBY_READY"),
        StandbysEvent::Lost { node, pid, why } => {
            let pid = pid.map_or("-".into(), |p| p.to_string());
            tracing::warn!(node = %node, pid, why, "STANDBY_LOST");
        }
    }
}
