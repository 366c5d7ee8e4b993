//! Syntax tree and base configs → graph. Pure.

pub mod graph;
pub mod image_config;
pub mod scope;
pub mod stage;
