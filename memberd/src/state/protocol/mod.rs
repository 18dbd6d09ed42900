//! How failures are looked for. One file per way; each asks the group to accuse, and leaves the rest to it.

mod pingack;

use common::clock::Time;
use common::ids::NodeName;
use serde::{Deserialize, Serialize};

use super::group::Group;
use crate::wire::Body;
use pingack::PingAck;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// SWIM: a direct probe, then indirect ones.
    PingAck,
}

/// The protocol in force, with its state.
pub(super) enum Running {
    PingAck(PingAck),
}

impl Running {
    pub(super) fn new(now: Time, protocol: Protocol) -> Self {
        match protocol {
            Protocol::PingAck => Running::PingAck(PingAck::new(now)),
        }
    }
    pub(super) fn next_deadline(&self) -> Time {
        match self {
            Running::PingAck(p) => p.next_deadline(),
        }
    }
    pub(super) fn tick(&mut self, now: Time, group: &mut Group) {
        match self {
            Running::PingAck(p) => p.tick(now, group),
        }
    }
    pub(super) fn on(&mut self, now: Time, from: &NodeName, body: Body, group: &mut Group) {
        match self {
            Running::PingAck(p) => p.on(now, from, body, group),
        }
    }
    pub(super) fn forgive(&mut self, now: Time) {
        match self {
            Running::PingAck(p) => p.forgive(now),
        }
    }
}
