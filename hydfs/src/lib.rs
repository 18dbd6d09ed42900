//! HyDFS: replicated append-only files on a consistent-hash ring. `docs/hydfs.md` is the design.

pub mod client;
pub mod content;
pub mod disk;
pub mod driver;
pub mod load;
pub mod replica;
pub mod ring;
#[cfg(test)]
mod sim;
pub mod store;
pub mod view;
pub mod wire;
