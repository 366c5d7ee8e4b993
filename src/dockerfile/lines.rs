//! dockerfile/lines
