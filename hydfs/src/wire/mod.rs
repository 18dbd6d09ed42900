//! What goes over HyDFS's connections.

pub mod client;
pub mod fragment;
pub mod peer;
