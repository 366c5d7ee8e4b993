//! shale: a Dockerfile-to-OCI compiler. This is the code map; ARCHITECTURE.md tells the same at length.
//!
//! The pipeline, in reading order: `dockerfile` (text → tree) → `plan` (tree + base configs → graph) → `solve` (graph →
//! layers, through the cache) → `execute` (what a miss does) → `export`. The store is the crate `shale_cache`.

mod scoped;
pub mod span;
mod threads;

pub mod dockerfile;
pub mod plan;

pub mod layer;
pub mod oci;
pub mod source;
pub mod tree;

pub mod execute;
pub mod solve;

pub mod sandbox;
pub mod worker;

pub mod export;
pub mod image;

pub mod cli;
pub mod pipeline;
