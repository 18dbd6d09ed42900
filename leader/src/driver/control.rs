//! The control port: who connects is a worker or a standby, which register first, or a console, which asks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::ids::{Epoch, JobName, NodeName, TaskId};
use common::net::door::{self, Guest, Limits};
use common::net::{self, Connection, Identity, Role};
use protocol::control::{ToLeader, ToWorker};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use api::wire;
use job::machine::ConnId;
use job::standby::wire::{FromStandby, ToStandby};

/// A job has a thousand tasks a stage at most, and processes of a task that was replaced go soon.
const LIMITS: Limits = Limits {
    strangers: 256,
    connections: 65_536,
};
/// What was said and not yet heard. Connections wait for room: nothing that is on its way depends on them.
pub const HEARD: usize = 4096;
/// Messages to one worker that it has not taken. A start of all tasks sends each a word of each neighbour, of which there are
/// a thousand a stage at most.
const TOLD: usize = 16_384;
const REGISTER_WITHIN: Duration = Duration::from_secs(5);
/// Beats to one standby that it has not taken. More says that it takes nothing.
const BEATS: usize = 64;

/// What the control port hears.
pub enum ControlEvent {
    Registered {
        conn: ConnId,
        task: TaskId,
        epoch: Epoch,
        pid: u32,
        addr: SocketAddr,
        out: mpsc::Sender<ToWorker>,
    },
    Message {
        conn: ConnId,
        message: ToLeader,
    },
    Closed {
        conn: ConnId,
    },
    StandbyRegistered {
        conn: ConnId,
        node: NodeName,
        pid: u32,
        out: mpsc::Sender<ToStandby>,
    },
    StandbyBeat {
        conn: ConnId,
        late_ms: u64,
    },
    Asked {
        request: wire::Request,
        reply: oneshot::Sender<wire::Reply>,
    },
}

pub type Tell = mpsc::Sender<ControlEvent>;

/// Accepts until dropped.
pub async fn listen(listener: TcpListener, me: Identity, job: JobName, tell: Tell) -> std::io::Result<()> {
    door::greet("control", listener, LIMITS, Arc::new(me), move |guest| {
        serve(guest, job.clone(), tell.clone())
    })
    .await
}

async fn serve(guest: Guest, job: JobName, tell: Tell) -> Result<(), net::Error> {
    match guest.connection.peer.role {
        Role::Control => worker(guest.connection, &job, ConnId(guest.number), tell).await,
        Role::Standby => standby(guest.connection, &job, ConnId(guest.number), tell).await,
        Role::Console => console(guest.connection, tell).await,
        role => {
            guest.refuse(format_args!("a leader does not serve {role:?}"));
            Ok(())
        }
    }
}

async fn worker(
    mut connection: Connection,
    job: &JobName,
    conn: ConnId,
    tell: Tell,
) -> Result<(), net::Error> {
    let first = tokio::time::timeout(REGISTER_WITHIN, connection.rx.recv::<ToLeader>()).await;
    let Some(ToLeader::Register {
        job: theirs,
        task,
        epoch,
        pid,
        data_addr,
        ..
    }) = first.map_err(|_| net::Error::Timeout)??
    else {
        return Err(net::Error::Closed);
    };
    if theirs != *job {
        let why = format!("this is the leader of job {job}, not of {theirs}");
        return connection.tx.send(&ToWorker::Refused { why }).await;
    }
    let (out, queue) = mpsc::channel(TOLD);
    let registered = ControlEvent::Registered {
        conn,
        task,
        epoch,
        pid,
        addr: data_addr,
        out,
    };
    let _ = tell.send(registered).await;
    let Connection { tx, rx, .. } = connection;
    let end = tokio::select! {
        end = read(rx, &tell, |message| ControlEvent::Message { conn, message }) => end,
        end = write(tx, queue) => end,
    };
    let _ = tell.send(ControlEvent::Closed { conn }).await;
    unless_gone(end)
}

/// A process that was killed is not worth a line: the job's own events tell of it.
fn unless_gone(end: Result<(), net::Error>) -> Result<(), net::Error> {
    match end {
        Err(net::Error::Io(_) | net::Error::Closed) => Ok(()),
        other => other,
    }
}

async fn standby(
    mut connection: Connection,
    job: &JobName,
    conn: ConnId,
    tell: Tell,
) -> Result<(), net::Error> {
    let first = tokio::time::timeout(REGISTER_WITHIN, connection.rx.recv::<FromStandby>()).await;
    let Some(FromStandby::Register { job: its, node, pid }) = first.map_err(|_| net::Error::Timeout)?? else {
        return Err(net::Error::Closed);
    };
    if its != *job {
        return connection.tx.send(&ToStandby::OtherJob).await;
    }
    let (out, queue) = mpsc::channel(BEATS);
    let _ = tell
        .send(ControlEvent::StandbyRegistered { conn, node, pid, out })
        .await;
    let Connection { tx, rx, .. } = connection;
    let beat = |said| match said {
        FromStandby::Beat { late_ms } => ControlEvent::StandbyBeat { conn, late_ms },
        FromStandby::Register { .. } => ControlEvent::StandbyBeat { conn, late_ms: 0 },
    };
    let end = tokio::select! {
        end = read(rx, &tell, beat) => end,
        end = write(tx, queue) => end,
    };
    let _ = tell.send(ControlEvent::Closed { conn }).await;
    unless_gone(end)
}

async fn read<T: DeserializeOwned>(
    mut rx: net::Receiver,
    tell: &Tell,
    event: impl Fn(T) -> ControlEvent,
) -> Result<(), net::Error> {
    while let Some(message) = rx.recv().await? {
        let _ = tell.send(event(message)).await;
    }
    Ok(())
}

/// Ends when the sender is dropped and all is sent.
async fn write<T: Serialize>(mut tx: net::Sender, mut queue: mpsc::Receiver<T>) -> Result<(), net::Error> {
    while let Some(message) = queue.recv().await {
        tx.send(&message).await?;
    }
    tx.shutdown().await
}

async fn console(mut connection: Connection, tell: Tell) -> Result<(), net::Error> {
    while let Some(request) = connection.rx.recv().await? {
        let (reply, answer) = oneshot::channel();
        let _ = tell.send(ControlEvent::Asked { request, reply }).await;
        let Ok(reply) = answer.await else { break };
        connection.tx.send(&reply).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::cluster::Security;
    use common::secret::Secret;
    use common::spawn;

    fn me(secret: &str) -> Identity {
        let secret = Secret::from_text(secret.as_bytes());
        Identity {
            who: "test".into(),
            node: None,
            secret,
            security: Security::Auth,
        }
    }

    async fn start() -> (SocketAddr, mpsc::Receiver<ControlEvent>, spawn::Guard) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (tell, heard) = mpsc::channel(HEARD);
        (
            addr,
            heard,
            spawn::guarded(
                "control",
                listen(listener, me("the right secret"), JobName::new("j").unwrap(), tell),
            ),
        )
    }

    fn register(job: &str) -> ToLeader {
        ToLeader::Register {
            job: JobName::new(job).unwrap(),
            task: TaskId::new(1, 0),
            epoch: Epoch(2),
            node: NodeName::new("n1").unwrap(),
            pid: 7,
            data_addr: "127.0.0.1:9".parse().unwrap(),
        }
    }

    async fn next(heard: &mut mpsc::Receiver<ControlEvent>) -> ControlEvent {
        tokio::time::timeout(Duration::from_secs(20), heard.recv())
            .await
            .expect("in time")
            .expect("something")
    }

    #[tokio::test]
    async fn a_worker_registers_talks_and_goes() {
        let (addr, mut heard, _guard) = start().await;
        let mut worker = net::dial(addr, &me("the right secret"), Role::Control)
            .await
            .unwrap();
        worker.tx.send(&register("j")).await.unwrap();
        let ControlEvent::Registered {
            conn,
            task,
            epoch,
            pid: 7,
            out,
            ..
        } = next(&mut heard).await
        else {
            panic!()
        };
        assert_eq!((task, epoch), (TaskId::new(1, 0), Epoch(2)));
        out.try_send(ToWorker::Beat { late_ms: 3 }).unwrap();
        assert_eq!(
            worker.rx.recv::<ToWorker>().await.unwrap(),
            Some(ToWorker::Beat { late_ms: 3 })
        );
        worker.tx.send(&ToLeader::Started { replayed: 3 }).await.unwrap();
        let ControlEvent::Message {
            message: ToLeader::Started { replayed: 3 },
            conn: same,
        } = next(&mut heard).await
        else {
            panic!()
        };
        assert_eq!(conn, same);
        drop(worker);
        assert!(matches!(next(&mut heard).await, ControlEvent::Closed { conn: c } if c == conn));
    }

    #[tokio::test]
    async fn closing_sends_what_is_queued_first() {
        let (addr, mut heard, _guard) = start().await;
        let mut worker = net::dial(addr, &me("the right secret"), Role::Control)
            .await
            .unwrap();
        worker.tx.send(&register("j")).await.unwrap();
        let ControlEvent::Registered { out, .. } = next(&mut heard).await else {
            panic!()
        };
        out.try_send(ToWorker::Finish).unwrap();
        drop(out);
        assert_eq!(
            worker.rx.recv::<ToWorker>().await.unwrap(),
            Some(ToWorker::Finish)
        );
        assert_eq!(worker.rx.recv::<ToWorker>().await.unwrap(), None);
    }

    #[tokio::test]
    async fn workers_of_other_jobs_and_strangers_are_refused() {
        let (addr, mut heard, _guard) = start().await;
        let mut worker = net::dial(addr, &me("the right secret"), Role::Control)
            .await
            .unwrap();
        worker.tx.send(&register("other")).await.unwrap();
        assert!(matches!(
            worker.rx.recv::<ToWorker>().await.unwrap(),
            Some(ToWorker::Refused { .. })
        ));
        assert!(
            net::dial(addr, &me("a wrong secret"), Role::Control)
                .await
                .is_err()
        );
        let mut console = net::dial(addr, &me("the right secret"), Role::Console)
            .await
            .unwrap();
        console.tx.send(&wire::Request::List).await.unwrap();
        let ControlEvent::Asked {
            request: wire::Request::List,
            reply,
        } = next(&mut heard).await
        else {
            panic!("the first to be heard")
        };
        reply.send(wire::Reply::Tasks(vec![])).unwrap();
        assert_eq!(
            console.rx.recv::<wire::Reply>().await.unwrap(),
            Some(wire::Reply::Tasks(vec![]))
        );
    }
}
