//! Tokens → the tree of a template.

use super::TemplateError;
use super::function;
use super::token::{Kind, Token, tokens};
use super::value::Value;

/// A piece of a template.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Text(String),
    Action(Pipeline),
    If(Branch),
    With(Branch),
    Range(Branch),
    Break,
    Continue,
}

/// `{{if …}} … {{else}} … {{end}}` and its like.
#[derive(Clone, Debug)]
pub(super) struct Branch {
    pub(super) pipeline: Pipeline,
    pub(super) body: Vec<Node>,
    pub(super) otherwise: Vec<Node>,
}

/// `$a, $b := x | f y`
#[derive(Clone, Debug)]
pub(super) struct Pipeline {
    /// Variables that take its value.
    pub(super) variables: Vec<String>,
    /// Whether they exist already (`=`).
    pub(super) assigns: bool,
    /// The commands; each gets the value of the one before it as its last argument.
    pub(super) commands: Vec<Command>,
}

/// A value, or a function with its arguments.
#[derive(Clone, Debug)]
pub(super) struct Command {
    pub(super) operands: Vec<Operand>,
    /// As it was written.
    pub(super) source: String,
}

/// One word of a command.
#[derive(Clone, Debug)]
pub(super) struct Operand {
    pub(super) term: Term,
    /// `.A.B` behind it.
    pub(super) fields: Vec<String>,
    /// As it was written.
    pub(super) source: String,
    /// Where it stands, in bytes.
    pub(super) at: usize,
}

/// What an operand begins with.
#[derive(Clone, Debug)]
pub(super) enum Term {
    Dot,
    Variable(String),
    Function(String),
    Literal(Value),
    Nil,
    Pipeline(Box<Pipeline>),
}

/// Reads a template.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, TemplateError> {
    let mut parser = Parser { text, tokens: tokens(text)?, at: 0, variables: vec!["$".into()], loops: 0 };
    let (nodes, end) = parser.nodes()?;
    match end {
        Ended::Text => Ok(nodes),
        Ended::Branch => Err(parser.wrong("unexpected {{end}}")),
        Ended::Else => Err(parser.wrong("unexpected {{else}}")),
    }
}

/// What a list of nodes ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Text,
    Branch,
    /// The parser stands behind the word.
    Else,
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    at: usize,
    /// The variables in scope.
    variables: Vec<String>,
    /// How many `range` are open.
    loops: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Kind> {
        self.tokens.get(self.at).map(|token| &token.kind)
    }

    fn place(&self) -> usize {
        self.tokens.get(self.at).map_or(self.text.len(), |token| token.start)
    }

    fn wrong(&self, detail: impl Into<String>) -> TemplateError {
        TemplateError::parse(self.text, self.place(), detail)
    }

    fn unexpected(&self, within: &str) -> TemplateError {
        match self.tokens.get(self.at) {
            None => self.wrong("unexpected EOF"),
            Some(token) => self.wrong(format!("unexpected {:?} in {within}", &self.text[token.start..token.end])),
        }
    }

    fn takes(&mut self, kind: &Kind) -> bool {
        let is = self.peek() == Some(kind);
        self.at += usize::from(is);
        is
    }

    fn skip_space(&mut self) {
        while self.takes(&Kind::Space) {}
    }

    fn close(&mut self, within: &str) -> Result<(), TemplateError> {
        self.skip_space();
        if self.takes(&Kind::Close) { Ok(()) } else { Err(self.unexpected(within)) }
    }

    /// Everything up to an `end`, an `else` or the end of the text.
    fn nodes(&mut self) -> Result<(Vec<Node>, Ended), TemplateError> {
        let mut nodes = Vec::new();
        loop {
            match self.peek() {
                None => return Ok((nodes, Ended::Text)),
                Some(Kind::Text(text)) => {
                    nodes.push(Node::Text(text.clone()));
                    self.at += 1;
                }
                Some(_) => {
                    let start = self.at;
                    self.at += 1;
                    self.skip_space();
                    let word = if let Some(Kind::Word(word)) = self.peek() { word.clone() } else { String::new() };
                    match word.as_str() {
                        "end" => {
                            self.at += 1;
                            self.close("end")?;
                            return Ok((nodes, Ended::Branch));
                        }
                        "else" => {
                            self.at += 1;
                            return Ok((nodes, Ended::Else));
                        }
                        "break" | "continue" => {
                            if self.loops == 0 {
                                return Err(self.wrong(format!("{{{{{word}}}}} outside {{{{range}}}}")));
                            }
                            self.at += 1;
                            self.close(&word)?;
                            nodes.push(if word == "break" { Node::Break } else { Node::Continue });
                        }
                        "define" | "block" | "template" => return Err(self.wrong(format!("{{{{{word}}}}} is not supported"))),
                        "if" | "with" | "range" => {
                            self.at += 1;
                            nodes.push(self.branch(&word, start)?);
                        }
                        _ => {
                            nodes.push(Node::Action(self.pipeline("command")?));
                            self.close("command")?;
                        }
                    }
                }
            }
        }
    }

    fn branch(&mut self, word: &str, start: usize) -> Result<Node, TemplateError> {
        let scope = self.variables.len();
        let pipeline = self.pipeline(word)?;
        self.close(word)?;
        self.loops += usize::from(word == "range");
        let (body, end) = self.nodes()?;
        self.loops -= usize::from(word == "range");
        let otherwise = match end {
            Ended::Branch => Vec::new(),
            Ended::Text => return Err(self.unclosed(start)),
            Ended::Else => self.otherwise(word, start)?,
        };
        self.variables.truncate(scope);
        let branch = Branch { pipeline, body, otherwise };
        Ok(match word {
            "if" => Node::If(branch),
            "with" => Node::With(branch),
            _ => Node::Range(branch),
        })
    }

    /// What stands behind `else`: more words of the same kind (`else if`), or nodes up to the `end`.
    fn otherwise(&mut self, word: &str, start: usize) -> Result<Vec<Node>, TemplateError> {
        self.skip_space();
        if word != "range" && self.takes(&Kind::Word(word.into())) {
            // Its `end` is the `end` of the whole.
            return Ok(vec![self.branch(word, start)?]);
        }
        self.close("else")?;
        match self.nodes()? {
            (nodes, Ended::Branch) => Ok(nodes),
            (_, Ended::Else) => Err(self.wrong("expected end; found {{else}}")),
            (_, Ended::Text) => Err(self.unclosed(start)),
        }
    }

    fn unclosed(&self, start: usize) -> TemplateError {
        let place = self.tokens.get(start).map_or(0, |token| token.start);
        TemplateError::parse(self.text, place.max(self.text.len()), "unexpected EOF")
    }

    fn pipeline(&mut self, within: &str) -> Result<Pipeline, TemplateError> {
        self.skip_space();
        let (variables, assigns) = self.declaration(within);
        let mut commands = vec![self.command(within)?];
        loop {
            self.skip_space();
            if !self.takes(&Kind::Pipe) {
                break;
            }
            self.skip_space();
            commands.push(self.command(within)?);
        }
        let is_value = |command: &Command| !matches!(command.operands[0].term, Term::Function(_)) && command.operands[0].fields.is_empty();
        if let Some(value) = commands[1..].iter().find(|command| is_value(command)) {
            return Err(TemplateError::parse(self.text, value.operands[0].at, "non executable command in pipeline stage 2"));
        }
        if !assigns {
            self.variables.extend(variables.iter().cloned());
        }
        Ok(Pipeline { variables, assigns, commands })
    }

    /// `$x :=`, `$k, $v :=`, `$x =`; nothing where a variable is only used.
    fn declaration(&mut self, within: &str) -> (Vec<String>, bool) {
        let start = self.at;
        let mut names = Vec::new();
        while let Some(Kind::Variable(name)) = self.peek() {
            names.push(name.clone());
            self.at += 1;
            self.skip_space();
            if self.takes(&Kind::Declare) {
                self.skip_space();
                return (names, false);
            }
            if self.takes(&Kind::Assign) {
                self.skip_space();
                return (names, true);
            }
            if names.len() > 1 || within != "range" || !self.takes(&Kind::Comma) {
                break;
            }
            self.skip_space();
        }
        self.at = start;
        (Vec::new(), false)
    }

    fn command(&mut self, within: &str) -> Result<Command, TemplateError> {
        let mut operands = Vec::new();
        loop {
            match self.peek() {
                None => return Err(TemplateError::parse(self.text, self.text.len(), "unclosed action")),
                Some(Kind::Close | Kind::RightParen | Kind::Pipe) => break,
                Some(Kind::Space) => self.skip_space(),
                Some(_) => {
                    operands.push(self.operand(within)?);
                    if !matches!(self.peek(), Some(Kind::Space | Kind::Close | Kind::RightParen | Kind::Pipe)) {
                        return Err(self.unexpected("operand"));
                    }
                }
            }
        }
        let (Some(first), Some(last)) = (operands.first(), operands.last()) else {
            return Err(self.wrong(format!("missing value for {within}")));
        };
        let source = self.text[first.at..last.at + last.source.len()].to_owned();
        Ok(Command { operands, source })
    }

    fn operand(&mut self, within: &str) -> Result<Operand, TemplateError> {
        let start = self.place();
        let mut fields = Vec::new();
        let kind = self.peek().cloned();
        self.at += 1;
        let term = match kind {
            Some(Kind::Dot) => Term::Dot,
            Some(Kind::Field(name)) => {
                fields.push(name);
                Term::Dot
            }
            Some(Kind::Variable(name)) if self.variables.contains(&name) => Term::Variable(name),
            Some(Kind::Variable(name)) => return Err(TemplateError::parse(self.text, start, format!("undefined variable {name:?}"))),
            Some(Kind::Word(name)) if function::exists(&name) => Term::Function(name),
            Some(Kind::Word(name)) => return Err(TemplateError::parse(self.text, start, format!("function {name:?} not defined"))),
            Some(Kind::Literal(value)) => Term::Literal(value),
            Some(Kind::Nil) => Term::Nil,
            Some(Kind::LeftParen) => {
                let pipeline = self.pipeline("parenthesized pipeline")?;
                self.skip_space();
                if !self.takes(&Kind::RightParen) {
                    return Err(self.wrong("unclosed left paren"));
                }
                Term::Pipeline(Box::new(pipeline))
            }
            _ => {
                self.at -= 1;
                return Err(self.unexpected(within));
            }
        };
        while let Some(Kind::Field(name)) = self.peek() {
            fields.push(name.clone());
            self.at += 1;
        }
        let end = self.tokens[self.at - 1].end;
        Ok(Operand { term, fields, source: self.text[start..end].to_owned(), at: start })
    }
}
