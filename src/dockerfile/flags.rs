//! dockerfile/flags
