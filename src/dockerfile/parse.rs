//! dockerfile/parse
