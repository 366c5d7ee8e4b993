//! Text → syntax tree. Pure.

pub mod ast;
pub mod flags;
pub mod lines;
pub mod lint;
pub mod parse;
pub mod word;
