//! source/ignore
