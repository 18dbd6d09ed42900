//! What storage nodes say to each other.

pub mod fragment;
pub mod peer;
