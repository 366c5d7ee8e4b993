//! dockerfile/lint
