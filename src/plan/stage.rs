//! plan/stage
