//! OCI data.

pub mod config;
pub mod history;
pub mod json;
pub mod list;
pub mod manifest;
pub mod platform;
pub mod reference;
