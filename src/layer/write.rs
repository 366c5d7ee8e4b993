//! layer/write
