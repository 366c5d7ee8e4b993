//! OCI data.

pub mod config;
pub mod history;
pub mod platform;
pub mod reference;
