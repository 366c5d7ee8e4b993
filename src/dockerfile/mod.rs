//! Text → syntax tree. Pure.
//!
//! [`lines`] joins continued lines and reads heredoc bodies, [`syntax`] splits a statement into keyword, flags and arguments,
//! `instruction` checks those against the reference, and [`parse`] drives them and collects every error. Words stay as written:
//! [`word`] expands them later. [`lint`] finds what is allowed but unwise.

pub mod ast;
pub mod duration;
pub mod error;
pub mod flags;
pub mod frontend;
pub mod lines;
pub mod lint;
pub mod parse;
pub mod syntax;
pub mod word;

mod instruction;
pub(crate) mod suggest;

pub use self::ast::Dockerfile;
pub use self::error::ParseError;
pub use self::lint::lint;
pub use self::parse::{parse, parse_trigger};
pub use self::suggest::suggest;
