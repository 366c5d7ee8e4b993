//! source/archive
