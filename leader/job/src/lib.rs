//! One job: what it is to do, who does it, and what is remembered of it.
//!
//! ```text
//!   plan       what is to run, and how it may change
//!   record     what the journal keeps of it
//!   state      what a journal comes to
//!   journal    keeps it, in HyDFS
//!   ended      how it stands, and when what it keeps may go
//!   forget     removes that
//!   autoscale  when a stage gets a task, or loses one
//!   machine    the running job: a state machine without I/O
//!   standby    leaders that wait for the first one's end
//! ```

pub mod autoscale;
pub mod ended;
pub mod forget;
pub mod journal;
pub mod machine;
pub mod plan;
pub mod record;
pub mod standby;
pub mod state;
