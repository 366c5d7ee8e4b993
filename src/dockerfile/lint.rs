//! x

use super::ast::Dockerfile;
use crate::plan::graph::Warning;
use crate::span::SourceFile;

/// x
pub fn lint(_file: &Dockerfile, _source: &SourceFile) -> Vec<Warning> {
    Vec::new()
}
