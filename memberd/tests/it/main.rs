//! Members over real sockets, on loopback addresses of their own.

mod driver;
mod http;
mod net;
mod program;

/// Longer than anything here takes, even on a busy machine.
const BOUND: std::time::Duration = std::time::Duration::from_secs(120);
