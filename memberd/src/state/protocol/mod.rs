//! How failures are looked for. One file per way; each asks the group to accuse, and leaves the rest to it.

mod gossip;
mod pingack;

use common::clock::Time;
use common::cluster::Protocol;
use common::ids::NodeName;

use super::group::Group;
use crate::wire::Body;
use gossip::Gossip;
use pingack::PingAck;

/// Both ways with their state. One of them is in force and looks for failures; but each answers what is asked of it, and
/// takes in what it is told, whatever is in force: while a switch spreads, the group is of two minds.
pub(super) struct Running {
    in_force: Protocol,
    pingack: PingAck,
    gossip: Gossip,
}

impl Running {
    pub(super) fn new(now: Time, in_force: Protocol) -> Self {
        Self {
            in_force,
            pingack: PingAck::new(now),
            gossip: Gossip::new(now),
        }
    }

    /// Goes over to what the group has agreed on.
    pub(super) fn follow(&mut self, now: Time, group: &mut Group) {
        let agreed = group.settings().protocol;
        if agreed == self.in_force {
            return;
        }
        self.in_force = agreed;
        match agreed {
            Protocol::PingAck => self.pingack.forgive(now),
            Protocol::Gossip => self.gossip.begin(now),
        }
    }

    pub(super) fn next_deadline(&self) -> Time {
        let relays = self.pingack.relays_deadline();
        match self.in_force {
            Protocol::PingAck => self.pingack.next_deadline().min(relays),
            Protocol::Gossip => self.gossip.next_deadline().min(relays),
        }
    }

    pub(super) fn tick(&mut self, now: Time, group: &mut Group) {
        self.pingack.tick_relays(now, group);
        match self.in_force {
            Protocol::PingAck => self.pingack.tick(now, group),
            Protocol::Gossip => self.gossip.tick(now, group),
        }
    }

    pub(super) fn on(&mut self, now: Time, from: &NodeName, body: Body, group: &mut Group) {
        match body {
            Body::Beats { base, beats } => self.gossip.hear(now, base, beats, group),
            body => self.pingack.on(now, from, body, group),
        }
    }

    pub(super) fn forgive(&mut self, now: Time, late: std::time::Duration) {
        self.pingack.forgive(now);
        self.gossip.forgive(now, late);
    }
}
