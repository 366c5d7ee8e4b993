//! source/registry
