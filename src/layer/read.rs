//! layer/read
