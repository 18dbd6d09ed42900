//! A client's connection, as the core has it.

use std::collections::{HashMap, VecDeque};

use super::outbox::{Outbox, weight};
use super::serve::Later;
use crate::content::{ClientId, FileName};
use crate::wire::client::{Attach, Refusal, Request};

/// Append sessions of one connection.
const SESSIONS: usize = 16_384;

pub struct ClientConn {
    pub out: Outbox,
    pub sessions: HashMap<u32, Session>,
    /// What calls count that do not count one, until they are answered.
    heavy: HashMap<u64, usize>,
    /// Bulk reads that wait until the client has taken what it was sent.
    parked: VecDeque<Later>,
}

/// Whose appends come under a session's number.
pub struct Session {
    pub file: FileName,
    pub client: ClientId,
    pub attach: Attach,
}

impl ClientConn {
    pub fn new(out: Outbox) -> Self {
        Self {
            out,
            sessions: HashMap::new(),
            heavy: HashMap::new(),
            parked: VecDeque::new(),
        }
    }

    pub fn attach(&mut self, number: u32, session: Session) -> Result<(), Refusal> {
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

    pub fn answered(&mut self, call: u64) {
        let weight = self.heavy.remove(&call).unwrap_or(1);
        self.out.answered(weight);
    }

    /// Gives the read back if it can be served now; otherwise it waits here.
    pub fn admit(&mut self, read: Later) -> Option<Later> {
        if self.out.is_full() {
            self.parked.push_back(read);
            return None;
        }
        Some(read)
    }

    pub fn unpark(&mut self) -> VecDeque<Later> {
        std::mem::take(&mut self.parked)
    }
}
