//! Clients' connections, as the core has them.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::outbox::{Outbox, weight};
use super::pending_reads::PendingRead;
use hydfs::content::{ClientId, FileName};
use hydfs::wire::client::{Attach, Frame, Refusal, Request, ToClient};

/// Append sessions of one connection.
const SESSIONS: usize = 16_384;

pub struct ClientConn {
    out: Outbox,
    sessions: HashMap<u32, Session>,
    /// What calls count that do not count one, until they are answered.
    heavy: HashMap<u64, usize>,
    /// Bulk reads that wait until the client has taken what it was sent.
    parked: VecDeque<PendingRead>,
}

/// Whose appends come under a session's number.
pub struct Session {
    pub file: FileName,
    pub client: ClientId,
    pub attach: Attach,
}

impl ClientConn {
    fn new(out: Outbox) -> Self {
        Self {
            out,
            sessions: HashMap::new(),
            heavy: HashMap::new(),
            parked: VecDeque::new(),
        }
    }

    fn attach(&mut self, number: u32, session: Session) -> Result<(), Refusal> {
        if self.sessions.len() >= SESSIONS && !self.sessions.contains_key(&number) {
            return Err(Refusal::Invalid {
                why: format!("a connection has {SESSIONS} append sessions at most"),
            });
        }
        self.sessions.insert(number, session);
        Ok(())
    }

    pub fn begin(&mut self, call: u64, request: &Request) {
        let weight = weight(request);
        if weight > 1 {
            self.heavy.insert(call, weight);
        }
    }

    fn answered(&mut self, call: u64) {
        let weight = self.heavy.remove(&call).unwrap_or(1);
        self.out.answered(weight);
    }

    /// Gives the read back if it can be served now; otherwise it waits here.
    pub fn admit(&mut self, read: PendingRead) -> Option<PendingRead> {
        if self.out.is_full() {
            self.parked.push_back(read);
            return None;
        }
        Some(read)
    }

    pub fn unpark(&mut self) -> VecDeque<PendingRead> {
        std::mem::take(&mut self.parked)
    }
}

/// All clients, and what this burst acknowledged.
#[derive(Default)]
pub struct Clients {
    connections: HashMap<u64, ClientConn>,
    /// By connection and session.
    acked: BTreeMap<(u64, u32), u64>,
}

impl Clients {
    pub fn add(&mut self, conn: u64, out: Outbox) {
        self.connections.insert(conn, ClientConn::new(out));
    }

    pub fn remove(&mut self, conn: u64) {
        self.connections.remove(&conn);
    }

    pub fn count(&self) -> usize {
        self.connections.len()
    }

    pub fn get_mut(&mut self, conn: u64) -> Option<&mut ClientConn> {
        self.connections.get_mut(&conn)
    }

    pub fn session(&self, conn: u64, session: u32) -> Option<&Session> {
        self.connections.get(&conn)?.sessions.get(&session)
    }

    pub fn attach(&mut self, conn: u64, number: u32, session: Session) {
        let client = self.connections.get_mut(&conn);
        if let Some(Err(refusal)) = client.map(|c| c.attach(number, session)) {
            self.send(conn, Frame::to_client(&ToClient::Dropped(number, refusal)));
        }
    }

    pub fn detach(&mut self, conn: u64, session: u32) {
        if let Some(client) = self.connections.get_mut(&conn) {
            client.sessions.remove(&session);
        }
    }

    /// The session's stream is acknowledged up to `length`: that is told with the burst.
    pub fn note_acked(&mut self, conn: u64, session: u32, length: u64) {
        if self.session(conn, session).is_some() {
            let acked = self.acked.entry((conn, session)).or_default();
            *acked = length.max(*acked);
        }
    }

    /// Nothing of the session is heard any more. What it was acknowledged is told first.
    pub fn drop_session(&mut self, conn: u64, session: u32, refusal: Refusal) {
        let client = self.connections.get_mut(&conn);
        if client.and_then(|c| c.sessions.remove(&session)).is_none() {
            return;
        }
        if let Some(length) = self.acked.remove(&(conn, session)) {
            self.send(conn, Frame::to_client(&ToClient::Acked(session, length)));
        }
        self.send(conn, Frame::to_client(&ToClient::Dropped(session, refusal)));
    }

    pub fn send_acks(&mut self) {
        for ((conn, session), length) in std::mem::take(&mut self.acked) {
            self.send(conn, Frame::to_client(&ToClient::Acked(session, length)));
        }
    }

    /// The one answer to a call.
    pub fn answer(&mut self, conn: u64, call: u64, frame: Result<Frame, common::net::Error>) {
        if let Some(client) = self.connections.get_mut(&conn) {
            client.answered(call);
        }
        self.send(conn, frame);
    }

    fn send(&self, conn: u64, frame: Result<Frame, common::net::Error>) {
        match (self.connections.get(&conn), frame) {
            (Some(client), Ok(frame)) => client.out.send(frame),
            (None, _) => {}
            (_, Err(error)) => tracing::error!(error = %error, "ENCODE_FAILED"),
        }
    }
}

#[cfg(test)]
mod tests {
    use common::ids::Epoch;
    use common::net::frame::decode;

    use super::*;
    use crate::driver::outbox::{OutboxFrames, outbox};

    fn clients() -> (Clients, OutboxFrames) {
        let (out, frames, _) = outbox();
        let mut clients = Clients::default();
        clients.add(1, out);
        (clients, frames)
    }

    fn session() -> Session {
        let attach = Attach {
            file: "f".into(),
            client: "c".into(),
            epoch: Epoch(1),
            nonce: 1,
        };
        let (file, client) = (FileName::new("f").unwrap(), ClientId(1));
        Session { file, client, attach }
    }

    fn told(frames: &mut OutboxFrames) -> Vec<String> {
        let all = std::iter::from_fn(|| frames.try_next());
        let told = all.map(|frame| format!("{:?}", decode::<ToClient>(&frame.head).unwrap()));
        told.collect()
    }

    #[test]
    fn acknowledgements_of_a_burst_are_told_once_and_before_the_end_of_the_session() {
        let (mut clients, mut frames) = clients();
        for number in [1, 2] {
            clients.attach(1, number, session());
            clients.note_acked(1, number, 5);
            clients.note_acked(1, number, 3);
        }
        clients.note_acked(1, 9, 7);
        clients.drop_session(1, 1, Refusal::Again);
        clients.send_acks();
        clients.send_acks();
        assert_eq!(
            told(&mut frames),
            ["Acked(1, 5)", "Dropped(1, Again)", "Acked(2, 5)"]
        );
    }

    #[test]
    fn a_connection_has_a_limit_of_sessions() {
        let (mut clients, mut frames) = clients();
        for number in 0..SESSIONS as u32 {
            clients.attach(1, number, session());
        }
        clients.attach(1, 0, session());
        assert!(told(&mut frames).is_empty());
        clients.attach(1, SESSIONS as u32, session());
        assert!(told(&mut frames)[0].starts_with(&format!("Dropped({SESSIONS}, Invalid")));
        clients.detach(1, 0);
        clients.attach(1, SESSIONS as u32, session());
        assert!(told(&mut frames).is_empty() && clients.session(1, SESSIONS as u32).is_some());
    }
}
