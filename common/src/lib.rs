//! What every RainStorm program shares: identities, the cluster file, framed and authenticated connections,
//! datagrams with a keyed MAC, what an SSH session needs, clock, logging, signals, output, task spawning.
//!
//! Nothing here knows how a component works; a thing that only one crate uses lives in that crate.

pub mod backoff;
pub mod clock;
pub mod cluster;
pub mod exit;
pub mod heap;
pub mod hold;
pub mod http;
pub mod ids;
pub mod lateness;
pub mod memory;
pub mod mutants;
pub mod net;
pub mod open_files;
pub mod orphans;
pub mod output;
pub mod prometheus;
pub mod replacement;
pub mod secret;
pub mod seeds;
pub mod shown;
pub mod signals;
pub mod size;
pub mod spawn;
pub mod ssh;
pub mod telemetry;
pub mod work_folder;
