//! One door, one framing, one hello, one datagram seal for every connection of every program.

pub mod datagram;
pub mod door;
pub mod frame;
pub mod hello;

pub use frame::{Receiver, Sender};
pub use hello::{Connection, Hello, Identity, Role, accept, dial};

/// What can go wrong on a connection. `Display` says what happened and, where it helps, what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot connect to {addr}: {source}")]
    Connect {
        addr: std::net::SocketAddr,
        source: std::io::Error,
    },
    #[error(
        "the other side is not a RainStorm program of this version (it sent {got:?}); run the same build on all nodes, and check the port"
    )]
    Magic { got: [u8; 6] },
    #[error(
        "the cluster secret does not match, or the other side is a stranger; give all nodes and commands the same secret file"
    )]
    Secret,
    #[error("no answer to the hello within {} s: the other side is stopped, overloaded, or another program", hello::TIMEOUT.as_secs())]
    Timeout,
    #[error("a frame of {len} bytes is over the limit of {most}")]
    TooLong { len: usize, most: usize },
    #[error("a frame could not be decoded: {0}")]
    Decode(#[from] rmp_serde::decode::Error),
    #[error("a message could not be encoded: {0}")]
    Encode(#[from] rmp_serde::encode::Error),
    #[error("an encrypted frame cannot be opened: it was altered on its way")]
    Damaged,
    #[error("the connection was closed")]
    Closed,
    #[error("connection lost: {0}")]
    Io(#[from] std::io::Error),
}
