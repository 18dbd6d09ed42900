//! HyDFS's storage node. `docs/hydfs.md` is the design.
//!
//! ```text
//!   driver     sockets, timers, repairs               store     what a replica asks of its disk
//!   replica    the protocol, without I/O              disk      a store in files
//!   sim        its simulation                         wire      what nodes say to each other
//! ```

pub mod disk;
pub mod driver;
pub mod replica;
#[cfg(test)]
mod sim;
pub mod store;
pub mod wire;
