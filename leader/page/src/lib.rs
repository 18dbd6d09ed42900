//! What others may see of a running job over HTTP: a page, JSON and Prometheus metrics. Nothing can be changed through it.
//!
//! ```text
//!   driver --- snapshot, twice a second ---> Dashboard --- watch ---> serve: /, /api/..., /metrics
//!   log    --- every line (telemetry tap) --> Events  --- watch --->        /api/stream (server-sent events)
//! ```
//! The job comes first: the driver hands over what it has and never waits; who does not read fast enough is dropped; how many
//! may be connected is bounded; an error here is a line in the log.

mod dashboard;
mod events;
mod history;
mod metrics;
mod page;
mod serve;
mod snapshot;
mod state;

pub use dashboard::Dashboard;
pub use events::Events;
pub use snapshot::{JobView, Outcome, Snapshot, TaskView};
