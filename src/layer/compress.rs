//! layer/compress
