//! layer/graft
