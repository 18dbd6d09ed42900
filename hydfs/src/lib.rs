//! HyDFS as its clients see it: replicated append-only files on a consistent-hash ring. `docs/hydfs-client.md` tells how to use
//! it, `docs/hydfs.md` how it works. The storage node is a crate of its own, `hydfsd`, built on this one.
//!
//! ```text
//!   client     the library and its command line      content   files, segments, entries
//!   load       what loads a cluster                  ring      which nodes have which files
//!   wire       what clients and nodes say            view      which nodes are there
//! ```

pub mod client;
pub mod content;
pub mod load;
pub mod ring;
pub mod view;
pub mod wire;

/// Bytes per write to a file. Longer ones make the kernel take pages in groups so large that there is none in use a moment ago to be
/// had: on a virtual machine that gives free memory back to its host 1 MiB a write went at 0.3 GB/s, 128 KiB at 2 GB/s.
pub const WRITE: usize = 128 * 1024;
