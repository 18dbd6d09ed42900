//! What a running leader says of its job, and how it is found and asked. The console asks, the page shows, the leader answers.

pub mod find;
pub mod latency;
pub mod wire;
