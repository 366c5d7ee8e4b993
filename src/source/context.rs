//! source/context
