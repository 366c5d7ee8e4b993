//! The whole file: statements → nodes → stages, and every error of it.

use super::ast::{Dockerfile, Instruction, InstructionKind, Stage};
use super::error::{ErrorKind, ParseError};
use super::instruction::{self, Checked};
use super::lines::{Reader, Statement};
use super::syntax;
use crate::span::{SourceFile, Span};

pub use super::syntax::{Arguments, Node};

/// Parses a file. There is a tree if and only if there are no errors; errors stand in the order of the file.
pub fn parse(source: &SourceFile) -> (Option<Dockerfile>, Vec<ParseError>) {
    let Nodes { nodes, directives, empty_continuations, mut errors } = nodes(source);
    let mut global_args: Vec<Instruction> = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    let mut is_homeless_told = false;
    let mut has_unread_from = false;
    for node in &nodes {
        match instruction::check(node) {
            Ok(Checked::Stage(stage)) => stages.push(*stage),
            Ok(Checked::Instruction(instruction)) => match stages.last_mut() {
                Some(stage) => stage.instructions.push(*instruction),
                None if matches!(instruction.kind, InstructionKind::Arg(_)) => global_args.push(*instruction),
                // Said once, and not of what follows a FROM that is wrong itself.
                None if has_unread_from => {}
                None => {
                    if !std::mem::replace(&mut is_homeless_told, true) {
                        errors.push(ParseError::new(ErrorKind::NoStageYet, instruction.span, source));
                    }
                }
            },
            Err(faults) => {
                has_unread_from |= node.name.is_none_or(|name| name == "FROM");
                errors.extend(faults.into_iter().map(|(kind, span)| at_node(kind, span, node.span, source)));
            }
        }
    }
    if source.text().is_empty() {
        errors.push(ParseError::new(ErrorKind::Empty, Span::default(), source));
    } else if errors.is_empty() && nodes.is_empty() {
        errors.push(ParseError::new(ErrorKind::NoInstructions, Span::default(), source));
    } else if errors.is_empty() && stages.is_empty() {
        errors.push(ParseError::new(ErrorKind::NoStages, Span::default(), source));
    }
    errors.sort_by_key(|e| e.span);
    let file = Dockerfile { directives, global_args, stages, empty_continuations };
    (errors.is_empty().then_some(file), errors)
}

/// Parses a trigger that a base image's config holds. It is a file of its own, with one instruction.
pub fn parse_trigger(source: &SourceFile) -> Result<Instruction, Vec<ParseError>> {
    let Nodes { nodes, mut errors, .. } = nodes(source);
    if errors.is_empty() {
        let [node] = &nodes[..] else {
            return Err(vec![ParseError::new(ErrorKind::TriggerNotSingle, Span::new(0, source.text().len()), source)]);
        };
        match instruction::check(node) {
            Ok(Checked::Instruction(instruction)) => return Ok(*instruction),
            Ok(Checked::Stage(stage)) => errors.push(ParseError::new(ErrorKind::TriggerIsFrom, stage.span, source)),
            Err(faults) => errors.extend(faults.into_iter().map(|(kind, span)| at_node(kind, span, node.span, source))),
        }
    }
    Err(errors)
}

/// The line of an error is that of its instruction, the marked part may stand further down.
fn at_node(kind: ErrorKind, span: Span, node: Span, source: &SourceFile) -> ParseError {
    ParseError { line: source.line_of(node.start), ..ParseError::new(kind, span, source) }
}

/// A file split into nodes.
#[derive(Debug)]
pub struct Nodes {
    /// Those that could be split.
    pub nodes: Vec<Node>,
    /// The header.
    pub directives: super::ast::Directives,
    /// Last lines of statements with an empty line inside.
    pub empty_continuations: Vec<Span>,
    /// Errors of splitting.
    pub errors: Vec<ParseError>,
}

/// Splits a file into nodes.
pub fn nodes(source: &SourceFile) -> Nodes {
    let mut reader = Reader::new(source);
    let (mut nodes, mut errors, mut empty_continuations) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(statement) = reader.statement() {
        empty_continuations.extend(statement.empty_continuation);
        match node(&mut reader, &statement) {
            Ok(node) => nodes.push(node),
            Err((kind, span)) => errors.push(at_node(kind, span, statement.span, source)),
        }
    }
    let (directives, mut all) = reader.finish();
    all.append(&mut errors);
    Nodes { nodes, directives, empty_continuations, errors: all }
}

type Fault = (ErrorKind, Span);

/// One node with its heredocs. Of one whose heredoc does not end nothing else is told: what it lacks may be in there.
fn node(reader: &mut Reader<'_>, statement: &Statement) -> Result<Node, Fault> {
    let mut node = Node::new(statement, reader.escape())?;
    if !node.can_hold_heredocs() {
        return Ok(node);
    }
    for word in syntax::heredoc_words(&node.text).map_err(|e| (e.into(), statement.span))? {
        let Some(body) = reader.body(&word.name, word.chomp) else {
            return Err((ErrorKind::UnterminatedHeredoc { terminator: word.name }, statement.span));
        };
        node.span = node.span.to(body.terminator);
        node.heredocs.push(instruction::heredoc(word, body.text, body.span));
    }
    Ok(node)
}
