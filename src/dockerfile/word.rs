//! dockerfile/word
