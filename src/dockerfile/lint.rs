//! What is allowed but unwise: those of BuildKit's rules that the syntax tree alone can judge, in BuildKit's texts.
//!
//! Words with variables are left out: whoever knows the values asks [`check_port`], [`check_workdir`] and [`check_secret`] for them.
//! Rules that need values, images or the context (`UndefinedVar`, `UndefinedArgInFrom`, `InvalidDefaultArgInFrom`,
//! `InvalidBaseImagePlatform`, `CopyIgnoredFile`) are not found here.

mod rules;

use std::collections::BTreeMap;

pub use self::rules::{CheckError, CheckOptions, RULES, Rule, find_rule};

use super::ast::{CommandLine, Dockerfile, Instruction, InstructionKind, KeyValue, Stage};
use super::word::{self, quote};
use crate::oci::platform::Platform;
use crate::plan::graph::Warning;
use crate::span::{SourceFile, Span};

/// All warnings of a file, for all of its stages, as far as its own `# check=` wants them.
pub fn lint(file: &Dockerfile, _source: &SourceFile) -> Vec<Warning> {
    lint_stages(file, &CheckOptions::of(file).unwrap_or_default(), &StageFacts::of_text(file))
}

/// What the instructions of a stage are judged by, besides themselves.
#[derive(Clone, Debug, Default)]
pub struct StageFacts {
    /// The earlier stage that it is built from.
    pub base: Option<usize>,
    /// The image that it is built from has a `SHELL` of its own.
    pub has_shell: bool,
    /// The triggers of its base, which run first.
    pub triggers: Vec<Instruction>,
}

impl StageFacts {
    /// What the text alone says of each stage: nothing about images, and bases only where they are named without variables.
    pub fn of_text(file: &Dockerfile) -> BTreeMap<usize, Self> {
        let base = |number: usize| {
            let expanded = word::expand(&file.stages[number].base.node, file.directives.escape, &|_| None).ok()?;
            let named = |stage: &Stage| stage.name.as_ref().is_some_and(|name| name.node.to_lowercase() == expanded.text);
            file.stages[..number].iter().rposition(named).filter(|_| expanded.unmatched.is_empty())
        };
        (0..file.stages.len()).map(|number| (number, Self { base: base(number), ..Self::default() })).collect()
    }
}

/// The warnings of a file with options from elsewhere. Instructions are only looked at in the stages (by number) that `built` has;
/// names, casing and `FROM`s are, in all.
pub fn lint_stages(file: &Dockerfile, options: &CheckOptions, built: &BTreeMap<usize, StageFacts>) -> Vec<Warning> {
    let mut lint = Lint { file, options, warnings: Vec::new() };
    for span in &file.empty_continuations {
        lint.warn(&[], "NoEmptyContinuation", *span, "Empty continuation line".to_owned());
    }
    for arg in &file.global_args {
        lint.definition(arg);
    }
    for stage in &file.stages {
        lint.from(stage);
        stage.instructions.iter().for_each(|instruction| lint.definition(instruction));
    }
    lint.stage_names();
    lint.casing();
    file.stages.iter().for_each(|stage| lint.platform(stage));
    // What earlier stages leave to those that are built from them.
    let mut left: Vec<Inherited> = Vec::new();
    for (number, stage) in file.stages.iter().enumerate() {
        let mut inherited = Inherited::default();
        if let Some(facts) = built.get(&number) {
            inherited = facts.base.and_then(|base| left.get(base)).copied().unwrap_or_default();
            inherited.has_shell |= facts.has_shell;
            lint.instructions(stage, &facts.triggers, &mut inherited);
        }
        left.push(inherited);
    }
    lint.warnings
}

/// What of a stage counts for the stages on top of it.
#[derive(Clone, Copy, Debug, Default)]
struct Inherited {
    has_workdir: bool,
    has_shell: bool,
}

struct Lint<'a> {
    file: &'a Dockerfile,
    options: &'a CheckOptions,
    warnings: Vec<Warning>,
}

impl Lint<'_> {
    fn warn(&mut self, comments: &[String], rule: &'static str, span: Span, text: String) {
        if self.options.with_comments(comments).allows(rule) {
            self.warnings.push(Warning { rule, text, span: Some(span) });
        }
    }

    /// A word's text, unless a variable has part in it.
    fn constant(&self, word: &str) -> Option<String> {
        let expanded = word::expand(word, self.file.directives.escape, &|_| None).ok()?;
        expanded.unmatched.is_empty().then_some(expanded.text)
    }

    fn from(&mut self, stage: &Stage) {
        let (Some(name), Some(keyword)) = (&stage.name, &stage.as_keyword) else { return };
        if name.node != name.node.to_lowercase() {
            self.warn(&stage.comments, "StageNameCasing", stage.span, format!("Stage name '{}' should be lowercase", name.node));
        }
        let from = &stage.keyword.node;
        let fits = match case_of(from) {
            Some(Case::Lower) => keyword.node == keyword.node.to_lowercase(),
            Some(Case::Upper) => keyword.node == keyword.node.to_uppercase(),
            // Another rule says what is wrong with `From`.
            None => true,
        };
        if !fits {
            let text = format!("'{}' and '{from}' keywords' casing do not match", keyword.node);
            self.warn(&stage.comments, "FromAsCasing", stage.span, text);
        }
        self.description("FROM", &[name.node.to_lowercase()], &stage.comments, stage.span);
    }

    /// Rules that look at an instruction wherever it stands.
    fn definition(&mut self, instruction: &Instruction) {
        match &instruction.kind {
            InstructionKind::Maintainer(_) => {
                let text = "Maintainer instruction is deprecated in favor of using label".to_owned();
                self.warn(&instruction.comments, "MaintainerDeprecated", instruction.span, text);
            }
            InstructionKind::Arg(declared) => {
                let names: Vec<_> = declared.iter().map(|arg| arg.name.node.clone()).collect();
                self.description("ARG", &names, &instruction.comments, instruction.span);
            }
            _ => {}
        }
    }

    /// The last comment before a definition describes it, and begins with its name.
    fn description(&mut self, instruction: &str, names: &[String], comments: &[String], span: Span) {
        let Some(first_word) = comments.last().and_then(|comment| comment.split(' ').next()) else { return };
        if names.iter().any(|name| name == first_word) {
            return;
        }
        let example = if let [one] = names { one } else { "<arg_key>" };
        let text = format!("Comment for {instruction} should follow the format: `# {example} <description>`");
        self.warn(comments, "InvalidDefinitionDescription", span, text);
    }

    fn stage_names(&mut self) {
        let mut seen: Vec<String> = Vec::new();
        for stage in &self.file.stages {
            let Some(name) = stage.name.as_ref().map(|name| name.node.to_lowercase()) else { continue };
            if matches!(name.as_str(), "scratch" | "context") {
                let text = format!("Stage name should not use the same name as reserved stage {}", quote(&name));
                self.warn(&[], "ReservedStageName", stage.span, text);
            }
            if seen.contains(&name) {
                let text = format!("Duplicate stage name {}, stage names should be unique", quote(&name));
                self.warn(&[], "DuplicateStageName", stage.span, text);
            }
            seen.push(name);
        }
    }

    fn casing(&mut self) {
        let keywords: Vec<(String, Span)> = self
            .file
            .stages
            .iter()
            .flat_map(|stage| {
                let instructions = stage.instructions.iter().map(|i| (i.keyword.node.clone(), i.span));
                std::iter::once((stage.keyword.node.clone(), stage.span)).chain(instructions)
            })
            .collect();
        let count = |case| keywords.iter().filter(|(keyword, _)| case_of(keyword) == Some(case)).count();
        let (majority, name) =
            if count(Case::Lower) > count(Case::Upper) { (Case::Lower, "lowercase") } else { (Case::Upper, "uppercase") };
        for (keyword, span) in &keywords {
            if case_of(keyword) != Some(majority) {
                let text = format!("Command '{keyword}' should match the case of the command majority ({name})");
                self.warn(&[], "ConsistentInstructionCasing", *span, text);
            }
        }
    }

    fn platform(&mut self, stage: &Stage) {
        let Some(platform) = &stage.platform else { return };
        // Any value will do, as long as no other text is the same.
        let env = |name: &str| (name == "TARGETPLATFORM").then(|| "\0".to_owned());
        let Ok(expanded) = word::expand(&platform.node, self.file.directives.escape, &env) else { return };
        if expanded.matched.is_empty() && expanded.unmatched.is_empty() {
            let Ok(constant) = expanded.text.parse::<Platform>() else { return };
            let name = stage.name.as_ref().map(|name| name.node.to_lowercase()).unwrap_or_default();
            if !name.contains(&constant.os) && !name.contains(&constant.architecture) {
                let text = format!("FROM --platform flag should not use constant value {}", quote(&expanded.text));
                self.warn(&stage.comments, "FromPlatformFlagConstDisallowed", stage.span, text);
            }
        } else if expanded.unmatched.is_empty() && expanded.text == "\0" {
            let text = format!("Setting platform to predefined {} in FROM is redundant as this is the default behavior", platform.node);
            self.warn(&stage.comments, "RedundantTargetPlatform", stage.span, text);
        }
    }

    /// Triggers stand where the `FROM` is that brings them.
    fn instructions(&mut self, stage: &Stage, triggers: &[Instruction], inherited: &mut Inherited) {
        let mut once = [None, None, None];
        let brought = triggers.iter().map(|trigger| (trigger, stage.span));
        for (instruction, span) in brought.chain(stage.instructions.iter().map(|own| (own, own.span))) {
            let keyword = &instruction.keyword.node;
            let mut found: Vec<(&'static str, String)> = Vec::new();
            match &instruction.kind {
                InstructionKind::Env(pairs) => {
                    for pair in pairs {
                        found.extend(legacy(pair, keyword));
                        found.extend(self.constant(&pair.key.node).and_then(|key| check_secret("ENV", &key)));
                    }
                }
                InstructionKind::Label(pairs) => found.extend(pairs.iter().filter_map(|pair| legacy(pair, keyword))),
                InstructionKind::Arg(declared) => found.extend(declared.iter().filter_map(|arg| check_secret("ARG", &arg.name.node))),
                InstructionKind::Workdir(path) => {
                    if !inherited.has_workdir {
                        found.extend(self.constant(&path.node).and_then(|path| check_workdir(&path)));
                    }
                    inherited.has_workdir = true;
                }
                InstructionKind::Expose(ports) => {
                    for port in ports.iter().filter(|port| self.constant(&port.node).is_some()) {
                        let words = word::expand_words(&port.node, self.file.directives.escape, &|_| None).unwrap_or_default();
                        found.extend(words.iter().flat_map(|word| check_port(word)));
                    }
                }
                InstructionKind::Shell(_) => inherited.has_shell = true,
                InstructionKind::Cmd(line) | InstructionKind::Entrypoint(line) => {
                    let slot = usize::from(matches!(instruction.kind, InstructionKind::Entrypoint(_)));
                    self.used_once(instruction, span, &mut once[slot]);
                    if matches!(line, CommandLine::Shell(_)) && !inherited.has_shell {
                        let text = format!("JSON arguments recommended for {keyword} to prevent unintended behavior related to OS signals");
                        found.push(("JSONArgsRecommended", text));
                    }
                }
                InstructionKind::Healthcheck(_) => self.used_once(instruction, span, &mut once[2]),
                _ => {}
            }
            for (rule, text) in found {
                self.warn(&instruction.comments, rule, span, text);
            }
        }
    }

    /// The place of the warning is the earlier instruction: it is the one without effect.
    fn used_once(&mut self, instruction: &Instruction, here: Span, earlier: &mut Option<Span>) {
        if let Some(span) = earlier.replace(here) {
            let text = format!(
                "Multiple {} instructions should not be used in the same stage because only the last one will be used",
                instruction.keyword.node
            );
            self.warn(&instruction.comments, "MultipleInstructionsDisallowed", span, text);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Lower,
    Upper,
}

fn case_of(keyword: &str) -> Option<Case> {
    if keyword == keyword.to_lowercase() {
        Some(Case::Lower)
    } else if keyword == keyword.to_uppercase() {
        Some(Case::Upper)
    } else {
        None
    }
}

fn legacy(pair: &KeyValue, keyword: &str) -> Option<(&'static str, String)> {
    let text = format!("\"{keyword} key=value\" should be used instead of legacy \"{keyword} key value\" format");
    pair.legacy.then_some(("LegacyKeyValueFormat", text))
}

/// Rule and text for the path of a stage's first `WORKDIR`, expanded.
pub fn check_workdir(path: &str) -> Option<(&'static str, String)> {
    let text = || format!("Relative workdir {} can have unexpected results if the base image changes", quote(path));
    (!path.starts_with('/')).then(|| ("WorkdirRelativePath", text()))
}

/// Rule and text for a name that `ENV` (expanded) or `ARG` sets: names with a word such as `token` or `password` in them.
pub fn check_secret(instruction: &str, name: &str) -> Option<(&'static str, String)> {
    let text = || format!("Do not use ARG or ENV instructions for sensitive data ({instruction} {})", quote(name));
    is_secret_name(name).then(|| ("SecretsUsedInArgOrEnv", text()))
}

/// Whether the name of a variable has a word in it that says that its value is a secret.
pub fn is_secret_name(name: &str) -> bool {
    const SECRET: [&str; 10] = ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
    const HARMLESS: [&str; 3] = ["public", "file", "version"];
    let has = |words: &[&str]| name.split('_').any(|part| words.iter().any(|word| part.eq_ignore_ascii_case(word)));
    has(&SECRET) && !has(&HARMLESS)
}

/// Rules and texts for one word of `EXPOSE`, expanded. A word that is no port is not for us to judge.
pub fn check_port(word: &str) -> Vec<(&'static str, String)> {
    let container = word.rsplit(':').next().unwrap_or(word);
    let (port, protocol) = container.split_once('/').unwrap_or((container, ""));
    if port.is_empty() || !matches!(protocol.to_lowercase().as_str(), "" | "tcp" | "udp" | "sctp") {
        return Vec::new();
    }
    let mut found = Vec::new();
    if protocol != protocol.to_lowercase() {
        found.push(("ExposeProtoCasing", format!("Defined protocol '{word}' in EXPOSE instruction should be lowercase")));
    }
    let host = word[..word.len() - container.len()].trim_end_matches(':');
    if !host.is_empty() {
        let text = format!("EXPOSE instruction should not define an IP address or host-port mapping, found '{word}'");
        found.push(("ExposeInvalidFormat", text));
    }
    found
}
