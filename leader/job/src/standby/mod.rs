//! Standby leaders: leaders that wait, on other nodes, in front of the journal's fence.
//!
//! ```text
//!   the leader                               a standby, on another node
//!   keeping.rs   starts, watches, replaces   waiting.rs   watches the leader, takes the job up
//!        |  <-------- wire.rs: beats, both ways ------->  |
//!        +---------------> journal <-- fence -------------+
//! ```
//! The journal's fence decides who has a job. So a standby that is wrong about its leader costs a restart of the tasks, and
//! never a wrong output; two standbys that act at once are harmless as well. Both machines are without I/O; `sim.rs`, beside
//! them, has leaders and standbys die, stop, and be cut off.

mod keeping;
mod mutants;
#[cfg(test)]
mod sim;
mod waiting;
pub mod wire;

pub use keeping::{Standbys, StandbysEffect, StandbysEvent, StandbysInput};
pub use waiting::{JournalFacts, Standby, StandbyEffect, StandbyInput};

use std::time::Duration;

/// How often both machines want a tick.
pub const TICK: Duration = Duration::from_millis(50);
/// A lease holds so many beats.
const BEATS: u32 = 6;
