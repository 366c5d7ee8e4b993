//! plan/scope
