//! What a running leader says of its job, and how it is found and asked; its output as it grows. The console asks, the page shows, the leader answers.

pub mod find;
pub mod latency;
pub mod output;
pub mod submit;
pub mod wire;
