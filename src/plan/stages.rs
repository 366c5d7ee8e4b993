//! Which stages there are, what each is built on and copies from, and which one is the target. Names only: no image is known yet.

use std::collections::BTreeMap;

use super::error::{PlanError, PlanErrorKind};
use super::graph::Warning;
use super::options::{NamedContext, PlanOptions};
use super::scope::GlobalScope;
use super::{ImageKey, epoch, lint};
use crate::dockerfile::ast::{self, Dockerfile, Instruction, InstructionKind};
use crate::dockerfile::flags::csv_fields;
use crate::dockerfile::lint::CheckOptions;
use crate::dockerfile::word;
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::span::Span;

/// Where a filesystem comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The empty filesystem.
    Scratch,
    /// A stage of the file.
    Stage(usize),
    /// An image, with its name as written.
    Image(ImageKey, String),
    /// A named directory context.
    Context(String),
}

/// A stage with its names resolved.
#[derive(Debug)]
pub(crate) struct StageEntry<'a> {
    /// What was written.
    pub(crate) stage: &'a ast::Stage,
    /// What it starts from.
    pub(crate) base: Source,
    /// A named context stands in its place: nothing of the stage itself runs.
    pub(crate) replaced: bool,
    /// `--platform=` of its FROM.
    pub(crate) platform: Option<Platform>,
    /// What its COPY and RUN read besides it, in order of instructions.
    pub(crate) needs: Vec<Need>,
    /// Names of arguments that its FROM looks at.
    pub(crate) looked_at: Vec<String>,
}

/// Something that an instruction reads from elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Need {
    pub(crate) source: Source,
    pub(crate) reason: super::ImageReason,
    pub(crate) span: Span,
}

/// The stages of a file for one target platform.
#[derive(Debug)]
pub(crate) struct StageTable<'a> {
    pub(crate) dockerfile: &'a Dockerfile,
    pub(crate) options: &'a PlanOptions,
    pub(crate) platform: Platform,
    pub(crate) build_args: BTreeMap<String, String>,
    pub(crate) global: GlobalScope,
    pub(crate) entries: Vec<StageEntry<'a>>,
    pub(crate) target: usize,
    pub(crate) epoch: Option<i64>,
    pub(crate) warnings: Vec<Warning>,
    /// Which warnings are wanted.
    pub(crate) checks: CheckOptions,
    /// Whether steps are shown without the stage's name: one stage, and no source but it.
    pub(crate) lone: bool,
    /// By short name: the name as the caller has it, and what it is.
    contexts: BTreeMap<String, (String, NamedContext)>,
}

impl<'a> StageTable<'a> {
    /// Resolves every FROM and `--from` of the file, those of unused stages too: BuildKit refuses a bad name wherever it stands.
    pub(crate) fn build(dockerfile: &'a Dockerfile, options: &'a PlanOptions, platform: &Platform) -> Result<Self, Vec<PlanError>> {
        let (table, errors) = Self::with_errors(dockerfile, options, platform)?;
        if errors.is_empty() { Ok(table) } else { Err(errors) }
    }

    /// The same with what is wrong, for the warnings of a file that has errors too.
    pub(super) fn with_errors(
        dockerfile: &'a Dockerfile,
        options: &'a PlanOptions,
        platform: &Platform,
    ) -> Result<(Self, Vec<PlanError>), Vec<PlanError>> {
        if dockerfile.stages.is_empty() {
            return Err(vec![PlanError::of_option(PlanErrorKind::NoStages)]);
        }
        let mut build_args = options.effective_build_args();
        let mut global = GlobalScope::evaluate(dockerfile, options, platform, &build_args)?;
        let epoch = epoch::resolve(dockerfile, options, &mut build_args, &mut global).map_err(|e| vec![e])?;
        let mut table = Self {
            dockerfile,
            options,
            platform: platform.clone(),
            epoch,
            build_args,
            global,
            entries: Vec::new(),
            target: 0,
            warnings: Vec::new(),
            checks: checks(dockerfile, options),
            lone: dockerfile.stages.len() == 1,
            contexts: contexts_by_short_name(&options.contexts).map_err(|e| vec![e])?,
        };
        table.warn_of_invalid_defaults();
        let mut errors = Vec::new();
        for stage in &dockerfile.stages {
            match table.entry(stage) {
                Ok(entry) => table.entries.push(entry),
                // A stand-in keeps the indexes of later stages right, so that every error can be told at once.
                Err(error) => {
                    errors.push(error);
                    table.entries.push(StageEntry {
                        stage,
                        base: Source::Scratch,
                        replaced: false,
                        platform: None,
                        needs: Vec::new(),
                        looked_at: Vec::new(),
                    });
                }
            }
        }
        match table.find_target() {
            Ok(target) => table.target = target,
            Err(error) => errors.push(error),
        }
        table.resolve_needs(&mut errors);
        table.refuse_circles(&mut errors);
        errors.sort_by_key(|e| e.span);
        Ok((table, errors))
    }

    fn entry(&mut self, stage: &'a ast::Stage) -> Result<StageEntry<'a>, PlanError> {
        let escape = self.dockerfile.directives.escape;
        let base = word::expand(&stage.base, escape, &|n| self.global.get(n)).map_err(|e| PlanError::at(stage.base.span, e))?;
        let undefined = lint::undefined_in_from(&self.global, &base.unmatched, stage.span);
        lint::add_wanted(&mut self.warnings, &self.checks, &stage.comments, undefined);
        if base.text.is_empty() {
            return Err(PlanError::at(stage.base.span, PlanErrorKind::BlankBase(stage.base.node.clone())));
        }
        let mut looked_at = base.matched;
        let platform = stage.platform.as_ref().map(|p| self.stage_platform(stage, p, &mut looked_at)).transpose()?;
        let wanted = platform.clone().unwrap_or_else(|| self.platform.clone());
        let name = lower_name(stage);
        if let Some(name) = &name
            && let Some(source) = self.named_context(name, &wanted)
        {
            return Ok(StageEntry { stage, base: source, replaced: true, platform, needs: Vec::new(), looked_at: Vec::new() });
        }
        // FROM finds earlier stages by their exact lower-case name, and of several the last.
        let earlier = self.entries.iter().rposition(|e| lower_name(e.stage).is_some_and(|n| n == base.text));
        let base = match earlier {
            Some(index) => Source::Stage(index),
            None => self.outside(&base.text, &wanted).map_err(|kind| PlanError::at(stage.base.span, kind))?,
        };
        Ok(StageEntry { stage, base, replaced: false, platform, needs: Vec::new(), looked_at })
    }

    /// What a FROM names, its arguments expanded.
    pub(crate) fn base_text(&self, stage: &ast::Stage) -> Option<String> {
        word::expand(&stage.base, self.dockerfile.directives.escape, &|n| self.global.get(n)).ok().map(|base| base.text)
    }

    fn stage_platform(
        &mut self,
        stage: &ast::Stage,
        written: &crate::span::Spanned<String>,
        looked_at: &mut Vec<String>,
    ) -> Result<Platform, PlanError> {
        let escape = self.dockerfile.directives.escape;
        let expanded = word::expand(written, escape, &|n| self.global.get(n));
        let expanded = expanded.map_err(|e| PlanError::at(written.span, PlanErrorKind::PlatformWord(e)))?;
        let undefined = lint::undefined_in_from(&self.global, &expanded.unmatched, stage.span);
        lint::add_wanted(&mut self.warnings, &self.checks, &stage.comments, undefined);
        looked_at.extend(expanded.matched.iter().cloned());
        let expression = written.node.clone();
        let known = self.global.names();
        let suggestion = expanded.unmatched.iter().find_map(|name| lint::suggest(name, &known));
        if expanded.text.is_empty() {
            return Err(PlanError::at(written.span, PlanErrorKind::EmptyPlatform { expression, suggestion }));
        }
        let bad = |cause| PlanError::at(written.span, PlanErrorKind::BadPlatform { expression, cause, suggestion });
        expanded.text.parse().map_err(bad)
    }

    /// An image, scratch or named context: whatever is not a stage.
    pub(crate) fn outside(&self, name: &str, platform: &Platform) -> Result<Source, PlanErrorKind> {
        if name == "scratch" {
            return Ok(Source::Scratch);
        }
        let parsed = Reference::parse(name).map_err(|cause| PlanErrorKind::BadImageName { name: name.into(), cause })?;
        if let Some(source) = self.named_context(name, platform) {
            return Ok(source);
        }
        Ok(Source::Image(ImageKey { name: parsed.with_default_tag().to_string(), platform: platform.clone() }, name.into()))
    }

    fn named_context(&self, name: &str, platform: &Platform) -> Option<Source> {
        if name.eq_ignore_ascii_case("scratch") || name.eq_ignore_ascii_case("context") {
            return None;
        }
        let short = short_name(&Reference::parse(name).ok()?);
        let with_platform = format!("{short}::{platform}");
        let (given, context) = self.contexts.get(&with_platform).or_else(|| self.contexts.get(&short))?;
        Some(match context {
            NamedContext::Dir => Source::Context(given.clone()),
            NamedContext::Image(image) => match image.strip_prefix("docker-image://").unwrap_or(image) {
                "scratch" => Source::Scratch,
                image => {
                    let full = Reference::parse(image).map_or_else(|_| image.to_string(), |r| r.with_default_tag().to_string());
                    Source::Image(ImageKey { name: full, platform: platform.clone() }, image.into())
                }
            },
        })
    }

    /// The stage of a COPY `--from`: a number, a name of any stage, or something outside.
    pub(crate) fn copy_source(&self, from: &str) -> Result<Source, PlanErrorKind> {
        let expanded = word::expand(from, self.dockerfile.directives.escape, &|_| None)?;
        if expanded.text != from {
            return Err(PlanErrorKind::VariableInFrom);
        }
        match from.parse::<i64>() {
            Ok(index) => match usize::try_from(index) {
                Ok(i) if i < self.dockerfile.stages.len() => Ok(Source::Stage(i)),
                _ => Err(PlanErrorKind::BadStageIndex(index)),
            },
            Err(_) => self.stage_or_outside(from),
        }
    }

    /// A stage by name (the last of that name), or something outside for the target platform.
    pub(crate) fn stage_or_outside(&self, name: &str) -> Result<Source, PlanErrorKind> {
        let lower = name.to_lowercase();
        match self.dockerfile.stages.iter().rposition(|s| lower_name(s).is_some_and(|n| n == lower)) {
            Some(index) => Ok(Source::Stage(index)),
            None => self.outside(name, &self.platform),
        }
    }

    fn find_target(&self) -> Result<usize, PlanError> {
        let Some(target) = self.options.target.as_ref().filter(|t| !t.is_empty()) else { return Ok(self.entries.len() - 1) };
        let lower = target.to_lowercase();
        self.entries.iter().rposition(|e| lower_name(e.stage).is_some_and(|n| n == lower)).ok_or_else(|| {
            let known = self.stage_names();
            let suggestion = lint::suggest(target, &known);
            PlanError::of_option(PlanErrorKind::NoTarget { target: target.clone(), suggestion, known })
        })
    }

    /// The names of all stages that have one.
    pub(crate) fn stage_names(&self) -> Vec<String> {
        self.dockerfile.stages.iter().filter_map(lower_name).collect()
    }

    fn resolve_needs(&mut self, errors: &mut Vec<PlanError>) {
        for index in 0..self.entries.len() {
            if self.entries[index].replaced {
                continue;
            }
            let stage = self.entries[index].stage;
            let mut needs = Vec::new();
            for instruction in &stage.instructions {
                match self.instruction_needs(instruction) {
                    Ok(found) => needs.extend(found),
                    Err(error) => errors.push(error),
                }
            }
            self.lone &= needs.iter().all(|n| matches!(n.source, Source::Stage(_))) && !has_mount(stage);
            self.entries[index].needs = needs;
        }
    }

    /// What one instruction reads from elsewhere.
    pub(crate) fn instruction_needs(&self, instruction: &Instruction) -> Result<Vec<Need>, PlanError> {
        match &instruction.kind {
            InstructionKind::Copy(copy) => {
                let Some(from) = &copy.from else { return Ok(Vec::new()) };
                let source = self.copy_source(from).map_err(|kind| PlanError::at(from.span, kind))?;
                Ok(vec![Need { source, reason: super::ImageReason::CopyFrom, span: from.span }])
            }
            InstructionKind::Run(run) => {
                let mounts = run.mounts.iter().filter_map(|mount| Some((mount.span, mount_from(mount)?)));
                let resolve = |(span, from): (Span, String)| {
                    let source = self.stage_or_outside(&from).map_err(|kind| PlanError::at(span, kind))?;
                    Ok(Need { source, reason: super::ImageReason::MountFrom, span })
                };
                mounts.map(resolve).collect()
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Stages that copy from each other in a ring. FROM cannot close one: it only sees earlier stages.
    fn refuse_circles(&self, errors: &mut Vec<PlanError>) {
        let mut done = vec![false; self.entries.len()];
        for start in 0..self.entries.len() {
            if let Some(span) = self.find_circle(start, &mut done, &mut vec![false; self.entries.len()]) {
                errors.push(PlanError::at(span, PlanErrorKind::Circular(self.label(start))));
                return;
            }
        }
    }

    fn find_circle(&self, stage: usize, done: &mut [bool], open: &mut [bool]) -> Option<Span> {
        if done[stage] {
            return None;
        }
        done[stage] = true;
        open[stage] = true;
        for need in &self.entries[stage].needs {
            if let Source::Stage(next) = need.source {
                if open[next] {
                    return Some(need.span);
                }
                if let Some(found) = self.find_circle(next, done, open) {
                    return Some(found);
                }
            }
        }
        open[stage] = false;
        None
    }

    /// `build`, or `stage-1` where there is no name.
    pub(crate) fn label(&self, index: usize) -> String {
        lower_name(self.entries[index].stage).unwrap_or_else(|| format!("stage-{index}"))
    }

    /// Names that are only valid because a build argument is given.
    fn warn_of_invalid_defaults(&mut self) {
        let Ok(defaults) = GlobalScope::evaluate(self.dockerfile, self.options, &self.platform, &BTreeMap::new()) else { return };
        for stage in &self.dockerfile.stages {
            let Ok(base) = word::expand(&stage.base, self.dockerfile.directives.escape, &|n| defaults.get(n)) else { return };
            if Reference::parse(&base.text).is_err() {
                let warning = lint::invalid_default_in_from(&stage.base, stage.span);
                lint::add_wanted(&mut self.warnings, &self.checks, &[], [warning]);
            }
        }
    }
}

/// `alpine`, `alpine:3`, `quay.io/x/y`: the form by which named contexts are found, without `latest`.
fn short_name(reference: &Reference) -> String {
    let familiar = reference.familiar();
    familiar.strip_suffix(":latest").map_or(familiar.clone(), Into::into)
}

/// `BUILDKIT_DOCKERFILE_CHECK` goes before the file's own directive. What neither can be read is the linter's to refuse.
fn checks(dockerfile: &Dockerfile, options: &PlanOptions) -> CheckOptions {
    let given = options.build_args.get("BUILDKIT_DOCKERFILE_CHECK");
    given.map_or_else(|| CheckOptions::of(dockerfile), |text| CheckOptions::parse(text)).unwrap_or_default()
}

/// The name of a stage as it is looked up.
pub(crate) fn lower_name(stage: &ast::Stage) -> Option<String> {
    stage.name.as_ref().map(|n| n.to_lowercase())
}

fn has_mount(stage: &ast::Stage) -> bool {
    stage.instructions.iter().any(|i| matches!(&i.kind, InstructionKind::Run(run) if !run.mounts.is_empty()))
}

/// `from=` of a `--mount`, the last of several; the parser has read the fields once already.
fn mount_from(mount: &str) -> Option<String> {
    let fields = csv_fields(mount).unwrap_or_default();
    let from = fields.iter().rev().filter_map(|field| field.split_once('=')).find(|(key, _)| key.eq_ignore_ascii_case("from"));
    from.map(|(_, value)| value.to_owned()).filter(|value| !value.is_empty())
}

fn contexts_by_short_name(contexts: &BTreeMap<String, NamedContext>) -> Result<BTreeMap<String, (String, NamedContext)>, PlanError> {
    let mut out = BTreeMap::new();
    for (name, context) in contexts {
        let (base, platform) = name.split_once("::").map_or((name.as_str(), None), |(base, platform)| (base, Some(platform)));
        let parsed =
            Reference::parse(base).map_err(|cause| PlanError::of_option(PlanErrorKind::BadContextName { name: name.clone(), cause }))?;
        let short = short_name(&parsed);
        out.insert(platform.map_or(short.clone(), |p| format!("{short}::{p}")), (name.clone(), context.clone()));
    }
    Ok(out)
}
