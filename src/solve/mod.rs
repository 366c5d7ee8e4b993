//! Graph → layers.

pub mod event;
