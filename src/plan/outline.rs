//! What a target takes from whoever builds it: `--call=outline`. Collected while lowering.

use std::collections::{BTreeMap, BTreeSet};

use super::scope::GlobalScope;
use super::stages::{Source, StageTable};
use crate::dockerfile::ast::Stage;
use crate::span::Span;

/// Arguments, secrets and agents of a target, each in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// The stage's name, empty if it has none.
    pub name: String,
    /// The comment that describes the stage.
    pub description: String,
    /// Build arguments that have an effect on the target.
    pub args: Vec<OutlineArg>,
    /// `RUN --mount=type=secret`
    pub secrets: Vec<OutlineMount>,
    /// `RUN --mount=type=ssh`
    pub ssh: Vec<OutlineMount>,
}

/// One build argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlineArg {
    /// Its name.
    pub name: String,
    /// The comment that describes it.
    pub description: String,
    /// The value that it has in this build; empty if none.
    pub value: String,
    /// The `ARG`.
    pub span: Span,
}

/// Something that is lent to a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlineMount {
    /// Its id.
    pub id: String,
    /// Whether the step fails without it.
    pub required: bool,
    /// The `RUN`.
    pub span: Span,
}

/// What one stage asks for itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// Names of all arguments that it looks at, declared there or not.
    pub(crate) used: BTreeSet<String>,
    /// Its own declarations, but those that only repeat a global one.
    pub(crate) declared: BTreeMap<String, OutlineArg>,
    pub(crate) secrets: Vec<OutlineMount>,
    pub(crate) ssh: Vec<OutlineMount>,
}

/// The rest of the comment line that begins with a name.
pub fn description(comments: &[String], name: &str) -> String {
    let rest = |line: &String| Some(line.strip_prefix(name)?.strip_prefix(' ')?.to_owned());
    if name.is_empty() { String::new() } else { comments.iter().find_map(rest).unwrap_or_default() }
}

/// The name of a stage as it is looked up, empty if it has none.
pub fn stage_name(stage: &Stage) -> String {
    stage.name.as_ref().map(|name| name.node.to_lowercase()).unwrap_or_default()
}

/// Puts together what the target and the stages below it ask for. What several ask for counts where the target's own chain has it.
pub(crate) fn of_target(table: &StageTable<'_>, asked: &BTreeMap<usize, Asked>) -> Outline {
    let stage = table.entries[table.target].stage;
    let mut gather = Gather { table, asked, seen: BTreeSet::new(), outline: Outline::default() };
    gather.stage(table.target);
    let mut outline = gather.outline;
    outline.name = stage_name(stage);
    outline.description = description(&stage.comments, &outline.name);
    outline.args.sort_by_key(|arg| arg.span);
    outline.secrets.sort_by_key(|mount| mount.span);
    outline.ssh.sort_by_key(|mount| mount.span);
    outline
}

struct Gather<'g, 'a> {
    table: &'g StageTable<'a>,
    asked: &'g BTreeMap<usize, Asked>,
    seen: BTreeSet<usize>,
    outline: Outline,
}

impl Gather<'_, '_> {
    fn stage(&mut self, index: usize) {
        if !self.seen.insert(index) {
            return;
        }
        if let Some(asked) = self.asked.get(&index) {
            let used = self.table.global.with_dependencies(&asked.used);
            for name in &used {
                let arg = asked.declared.get(name).or_else(|| self.table.global.declaration(name));
                if let Some(arg) = arg.filter(|_| self.outline.args.iter().all(|known| known.name != *name)) {
                    self.outline.args.push(arg.clone());
                }
            }
            add_new(&mut self.outline.secrets, &asked.secrets);
            add_new(&mut self.outline.ssh, &asked.ssh);
        }
        let entry = &self.table.entries[index];
        for source in std::iter::once(&entry.base).chain(entry.needs.iter().map(|need| &need.source)) {
            if let Source::Stage(below) = source {
                self.stage(*below);
            }
        }
    }
}

fn add_new(known: &mut Vec<OutlineMount>, more: &[OutlineMount]) {
    for mount in more {
        if known.iter().all(|k| k.id != mount.id) {
            known.push(mount.clone());
        }
    }
}

impl GlobalScope {
    /// Names with those that the defaults of their global declarations look at.
    fn with_dependencies(&self, names: &BTreeSet<String>) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        let mut open: Vec<&str> = names.iter().map(String::as_str).collect();
        while let Some(name) = open.pop() {
            if all.insert(name.to_owned()) {
                open.extend(self.dependencies(name));
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_begins_with_the_name() {
        let comments = ["about all".to_owned(), "base is where it begins".to_owned(), "base again".to_owned()];
        for (name, expected) in [("base", "is where it begins"), ("bas", ""), ("", ""), ("about", "all")] {
            assert_eq!(description(&comments, name), expected, "{name}");
        }
    }
}
