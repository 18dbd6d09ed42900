//! What clients and storage nodes say to each other.

pub mod client;
