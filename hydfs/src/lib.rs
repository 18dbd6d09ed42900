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

/// Bytes per write to a file. Longer ones make the kernel take pages in groups so large that there is none in use a moment ago to be
/// had: on a virtual machine that gives free memory back to its host 1 MiB a write went at 0.3 GB/s, 128 KiB at 2 GB/s.
const WRITE: usize = 128 * 1024;
