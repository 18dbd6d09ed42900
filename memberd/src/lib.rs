//! Membership: which nodes of the cluster are alive. One daemon per node, SWIM's ping/ack or gossiped heartbeats between
//! them, a stream of changes for the programs of the node. `docs/membership.md` has the protocol in prose.
//!
//! [`client`] is what other programs use; [`state`] is the protocol without any I/O; [`driver`] carries it out.

pub mod client;
pub mod console;
pub mod driver;
mod http;
mod serve;
#[cfg(test)]
mod sim;
pub mod state;
pub mod wire;

pub use state::State;
pub use state::settings::Configuration;
pub use wire::{Member, Update};
