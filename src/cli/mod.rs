//! The command line: the only part that reads arguments, environment and terminal, and the only one that prints.
//!
//! `args` (argv → typed flags) → `request` (flags + environment → plain data) → one file per command. `progress` shows builds,
//! `diagnostic` words errors.

pub mod args;
pub mod environment;
pub mod flags;
pub mod output;
pub mod request;
pub mod values;

pub mod diagnostic;
pub mod human;
pub mod progress;
