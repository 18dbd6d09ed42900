//! The job's protocol: what the leader and its workers say to each other, the tuple batches that workers and operators
//! exchange, who owns which keys, and the records of a task's log.
//!
//! | module | what | stored or sent |
//! |---|---|---|
//! | [`control`] | plan, beats, routing, failures | between leader and worker |
//! | [`batch`] | tuples by columns | between workers, and to operators |
//! | [`groups`] | which task owns which key | worked out alike everywhere |
//! | [`task_log`] | order records, checkpoints | a task's log in HyDFS |

pub mod batch;
pub mod control;
pub mod groups;
pub mod task_log;
