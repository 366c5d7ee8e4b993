//! The tree of a template and a value → text.

use super::function::{self, Context};
use super::tree::{Branch, Command, Node, Operand, Pipeline, Term};
use super::value::Value;
use super::{TemplateError, line_of};

/// Fills the nodes. `context` says how functions are called.
pub(super) fn run(nodes: &[Node], text: &str, data: &Value, context: Context) -> Result<String, TemplateError> {
    let mut machine = Machine { text, variables: vec![("$".into(), data.clone())], out: String::new(), context };
    machine.nodes(nodes, data)?;
    Ok(machine.out)
}

/// How a list of nodes was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

struct Machine<'a> {
    text: &'a str,
    variables: Vec<(String, Value)>,
    out: String,
    context: Context,
}

impl Machine<'_> {
    fn failed(&self, operand: &Operand, detail: impl Into<String>) -> TemplateError {
        self.failed_at(operand.at, &operand.source, detail)
    }

    fn failed_at(&self, at: usize, source: &str, detail: impl Into<String>) -> TemplateError {
        let start = self.text[..at].rfind('\n').map_or(0, |n| n + 1);
        TemplateError::Run { name: "", line: line_of(self.text, at), column: at - start, source_text: source.into(), detail: detail.into() }
    }

    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, TemplateError> {
        for node in nodes {
            let flow = match node {
                Node::Text(text) => {
                    self.out.push_str(text);
                    Flow::Next
                }
                Node::Action(pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    if pipeline.variables.is_empty() {
                        self.out.push_str(&if value == Value::Nil { "<no value>".into() } else { value.shown() });
                    }
                    Flow::Next
                }
                Node::If(branch) => self.scoped(|machine| {
                    let value = machine.pipeline(&branch.pipeline, dot)?;
                    machine.nodes(if value.is_true() { &branch.body } else { &branch.otherwise }, dot)
                })?,
                Node::With(branch) => self.scoped(|machine| {
                    let value = machine.pipeline(&branch.pipeline, dot)?;
                    if value.is_true() { machine.nodes(&branch.body, &value) } else { machine.nodes(&branch.otherwise, dot) }
                })?,
                Node::Range(branch) => self.scoped(|machine| machine.range(branch, dot))?,
                Node::Break => Flow::Break,
                Node::Continue => Flow::Continue,
            };
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    /// Runs something whose variables end with it.
    fn scoped<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, TemplateError>) -> Result<T, TemplateError> {
        let scope = self.variables.len();
        let done = work(self);
        self.variables.truncate(scope);
        done
    }

    fn range(&mut self, branch: &Branch, dot: &Value) -> Result<Flow, TemplateError> {
        let pipeline = &branch.pipeline;
        let value = self.commands(pipeline, dot)?;
        let elements: Vec<(Value, Value)> = match value {
            Value::Nil => Vec::new(),
            Value::List(list) => list.unwrap_or_default().into_iter().enumerate().map(|(n, v)| (Value::Int(n as i64), v)).collect(),
            Value::Map(map) => map.unwrap_or_default().into_iter().map(|(key, v)| (Value::Text(key), v)).collect(),
            Value::Struct(record) if record.type_name.is_empty() => {
                let mut pairs: Vec<_> = record.fields.into_iter().map(|field| (field.key, field.value)).collect();
                pairs.sort_by_key(|(key, _)| *key);
                pairs.into_iter().map(|(key, v)| (Value::text(key), v)).collect()
            }
            Value::Int(count) => (0..count).map(|n| (Value::Int(n), Value::Int(n))).collect(),
            other => {
                let operand = &pipeline.commands[0].operands[0];
                return Err(self.failed(operand, format!("range can't iterate over {}", other.shown())));
            }
        };
        if elements.is_empty() {
            return self.nodes(&branch.otherwise, dot);
        }
        for (key, value) in elements {
            let flow = self.scoped(|machine| {
                let given = match pipeline.variables.len() {
                    0 => vec![],
                    1 => vec![value.clone()],
                    _ => vec![key, value.clone()],
                };
                for (name, value) in pipeline.variables.iter().zip(given) {
                    machine.set(name, value, pipeline.assigns);
                }
                machine.nodes(&branch.body, &value)
            })?;
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::Next)
    }

    fn set(&mut self, name: &str, value: Value, assigns: bool) {
        match self.variables.iter_mut().rev().find(|(known, _)| assigns && known == name) {
            Some((_, old)) => *old = value,
            None => self.variables.push((name.to_owned(), value)),
        }
    }

    /// The value of a pipeline; its variables take it.
    fn pipeline(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let value = self.commands(pipeline, dot)?;
        for name in &pipeline.variables {
            self.set(name, value.clone(), pipeline.assigns);
        }
        Ok(value)
    }

    fn commands(&mut self, pipeline: &Pipeline, dot: &Value) -> Result<Value, TemplateError> {
        let mut last = None;
        for command in &pipeline.commands {
            last = Some(self.command(command, dot, last)?);
        }
        Ok(last.unwrap_or_default())
    }

    fn command(&mut self, command: &Command, dot: &Value, last: Option<Value>) -> Result<Value, TemplateError> {
        let (first, rest) = command.operands.split_first().expect("a command has a word");
        let Term::Function(name) = &first.term else {
            if !rest.is_empty() || last.is_some() {
                let name = first.fields.last().unwrap_or(&first.source);
                return Err(self.failed(first, format!("{name} has arguments but cannot be invoked as function")));
            }
            if matches!(first.term, Term::Nil) {
                return Err(self.failed(first, "nil is not a command"));
            }
            return self.operand(first, dot);
        };
        let value = match name.as_str() {
            "and" | "or" => self.short_circuit(name == "or", rest, dot, last, first)?,
            name => {
                let mut arguments = Vec::new();
                for operand in rest {
                    arguments.push(self.operand(operand, dot)?);
                }
                arguments.extend(last);
                self.call(name, &arguments, first, &command.source)?
            }
        };
        self.fields(value, first)
    }

    fn call(&self, name: &str, arguments: &[Value], operand: &Operand, source: &str) -> Result<Value, TemplateError> {
        let context = self.context;
        // Go shows the whole call where the function failed, and its name where the call is wrong.
        function::call(name, arguments, context).map_err(|detail| {
            let is_inside = detail.starts_with("error calling");
            self.failed_at(operand.at, if is_inside { source } else { &operand.source }, detail)
        })
    }

    /// `and`, `or`: what comes after the deciding argument is not looked at.
    fn short_circuit(
        &mut self,
        wanted: bool,
        rest: &[Operand],
        dot: &Value,
        last: Option<Value>,
        operand: &Operand,
    ) -> Result<Value, TemplateError> {
        let mut found = None;
        for operand in rest {
            let value = self.operand(operand, dot)?;
            if value.is_true() == wanted {
                return Ok(value);
            }
            found = Some(value);
        }
        let word = if wanted { "or" } else { "and" };
        last.or(found).ok_or_else(|| self.failed(operand, format!("wrong number of args for {word}: want at least 1 got 0")))
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, TemplateError> {
        let value = match &operand.term {
            Term::Dot => dot.clone(),
            Term::Variable(name) => {
                self.variables.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone()).unwrap_or_default()
            }
            Term::Function(name) => self.call(name, &[], operand, &operand.source)?,
            Term::Literal(value) => value.clone(),
            Term::Nil => Value::Nil,
            Term::Pipeline(pipeline) => self.scoped(|machine| machine.pipeline(pipeline, dot))?,
        };
        self.fields(value, operand)
    }

    fn fields(&self, mut value: Value, operand: &Operand) -> Result<Value, TemplateError> {
        // Go points at the field that does not fit.
        let mut at = operand.at + operand.source.len() - operand.fields.iter().map(|name| name.len() + 1).sum::<usize>();
        for name in &operand.fields {
            let failed = |detail: String| self.failed_at(at, &operand.source, detail);
            value = match &value {
                Value::Struct(record) => match record.get(name) {
                    Some(value) => value.clone(),
                    None if record.type_name.is_empty() => {
                        return Err(failed(format!("map has no entry for key {name:?}")));
                    }
                    None => return Err(failed(format!("can't evaluate field {name} in type {}", record.type_name))),
                },
                Value::Map(map) => map.as_ref().and_then(|map| map.get(name)).cloned().unwrap_or_default(),
                Value::Nil => return Err(failed(format!("nil data; no entry for key {name:?}"))),
                other => return Err(failed(format!("can't evaluate field {name} in type {}", other.type_name()))),
            };
            at += name.len() + 1;
        }
        Ok(value)
    }
}
