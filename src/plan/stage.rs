//! Stages → vertices, configs and history.

use std::collections::{BTreeMap, BTreeSet};

use super::error::{PlanError, PlanErrorKind};
use super::graph::{
    CopyOp, CopySource, Graph, Op, PassedBy, Plan, PlannedHistory, PlannedImage, Taken, Vertex, VertexId, Warning, WorkdirOp,
};
use super::names::{self, StepNames};
use super::options::PlanOptions;
use super::outline::{self, Asked, Outline, OutlineArg};
use super::reach::Reach;
use super::scope::{StageScope, arg_declarations, unconsumed};
use super::stages::{Source, StageTable, lower_name};
use super::{BaseImages, ImageKey, image_config, lint, paths};
use crate::dockerfile::ast::{ArgDecl, Instruction, InstructionKind, KeyValue};
use crate::dockerfile::lint::{StageFacts, check_port, check_secret, check_workdir};
use crate::dockerfile::word::{self, Expanded, Lexer, WordError};
use crate::oci::config::{HistoryEntry, ImageConfig};
use crate::oci::history;
use crate::oci::platform::Platform;
use crate::span::{SourceFile, Span, Spanned};

/// Collects one plan over all platforms.
#[derive(Debug)]
pub(crate) struct Lowering<'a> {
    source: &'a SourceFile,
    options: &'a PlanOptions,
    bases: &'a BaseImages,
    graph: Graph,
    images: Vec<PlannedImage>,
    warnings: Vec<Warning>,
    errors: Vec<PlanError>,
    image_vertices: BTreeMap<ImageKey, VertexId>,
    epoch: Option<i64>,
    stages: BTreeMap<usize, StageFacts>,
    taken: Vec<Taken>,
    asked: BTreeMap<usize, Asked>,
    outline: Outline,
}

/// A stage after its last instruction.
#[derive(Clone, Debug)]
pub(crate) struct StageState {
    pub(crate) root: VertexId,
    pub(crate) config: ImageConfig,
    pub(crate) history: Vec<PlannedHistory>,
    pub(crate) scope: StageScope,
    pub(crate) platform: Platform,
    /// A WORKDIR of this file came before, here or in a stage below.
    has_workdir: bool,
    /// Which of `user` and `workdir` of the config have a secret in them.
    pub(crate) secret_parts: BTreeSet<&'static str>,
}

impl<'a> Lowering<'a> {
    pub(crate) fn new(source: &'a SourceFile, options: &'a PlanOptions, bases: &'a BaseImages) -> Self {
        Self {
            source,
            options,
            bases,
            graph: Graph::default(),
            images: Vec::new(),
            warnings: Vec::new(),
            errors: Vec::new(),
            image_vertices: BTreeMap::new(),
            epoch: None,
            stages: BTreeMap::new(),
            taken: Vec::new(),
            asked: BTreeMap::new(),
            outline: Outline::default(),
        }
    }

    /// Lowers the stages that the target reaches, in the order of the file, and plans its image.
    pub(crate) fn platform(&mut self, table: &StageTable<'_>, reach: &Reach, platform: &Platform) {
        self.warnings.extend(table.warnings.iter().cloned());
        self.epoch = table.epoch;
        let mut done: BTreeMap<usize, StageState> = BTreeMap::new();
        for index in &reach.stages {
            let mut state = StageLowering::new(self, table, &done, *index, reach).run(reach);
            if *index == table.target {
                let asked = (!self.options.platforms.is_empty()).then_some(platform);
                let mut config = state.config.clone();
                image_config::finish(&mut config, &self.options.labels, asked);
                let history = std::mem::take(&mut state.history);
                self.images.push(PlannedImage { platform: platform.clone(), root: state.root, config, history });
            }
            done.insert(*index, state);
            let facts = self.facts(table, reach, *index);
            self.stages.entry(*index).or_insert(facts);
        }
        self.outline = outline::of_target(table, &self.asked);
        self.warnings.extend(lint::unknown_stages(&self.options.no_cache, &table.stage_names()));
        let triggers: Vec<Instruction> = reach.triggers.values().flatten().cloned().collect();
        self.warnings.extend(lint::unconsumed_build_args(&unconsumed(table.dockerfile, &triggers, &self.options.build_args)));
    }

    fn facts(&self, table: &StageTable<'_>, reach: &Reach, index: usize) -> StageFacts {
        let has_shell = |key: &ImageKey| self.bases.get(key).is_some_and(|b| b.config.config.shell.as_ref().is_some_and(|s| !s.is_empty()));
        let (base, has_shell) = match &table.entries[index].base {
            Source::Stage(base) => (Some(*base), false),
            Source::Image(key, _) => (None, has_shell(key)),
            Source::Scratch | Source::Context(_) => (None, false),
        };
        StageFacts { base, has_shell, triggers: reach.triggers.get(&index).cloned().unwrap_or_default() }
    }

    /// The plan, or everything that is wrong.
    pub(crate) fn finish(mut self) -> Result<Plan, Vec<PlanError>> {
        if !self.errors.is_empty() {
            self.errors.sort_by_key(|e| e.span);
            self.errors.dedup();
            return Err(self.errors);
        }
        let mut warnings: Vec<Warning> = Vec::new();
        for warning in self.warnings {
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        warnings.sort_by_key(|w| w.span.map_or(u32::MAX, |s| s.start));
        Ok(Plan {
            graph: self.graph,
            images: self.images,
            warnings,
            source_date_epoch: self.epoch,
            stages: self.stages,
            taken: self.taken,
            outline: self.outline,
        })
    }

    /// Adds a vertex, unless an earlier platform brought the same one: what does not depend on the target is done once.
    fn push(&mut self, vertex: Vertex) -> VertexId {
        let same =
            |v: &Vertex| (&v.stage, v.ordinal, v.parent, &v.platform) == (&vertex.stage, vertex.ordinal, vertex.parent, &vertex.platform);
        if let Some(known) = self.graph.vertices.iter().position(|v| same(v) && v.op == vertex.op) {
            return VertexId(known);
        }
        self.graph.vertices.push(vertex);
        VertexId(self.graph.vertices.len() - 1)
    }
}

/// An instruction of a stage, written there or brought by its base.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step<'s> {
    pub(crate) instruction: &'s Instruction,
    /// Place in the Dockerfile: the instruction, or the FROM that brought it.
    pub(crate) span: Span,
    pub(crate) onbuild: bool,
}

impl Step<'_> {
    /// The place in the Dockerfile of a part of the instruction.
    pub(crate) fn at(&self, part: Span) -> Span {
        if self.onbuild { self.span } else { part }
    }
}

/// Lowers one stage.
pub(crate) struct StageLowering<'l, 'a, 't> {
    pub(crate) plan: &'l mut Lowering<'a>,
    pub(crate) table: &'t StageTable<'t>,
    pub(crate) state: StageState,
    done: &'l BTreeMap<usize, StageState>,
    index: usize,
    names: StepNames,
    ordinal: usize,
    no_cache: Option<PassedBy>,
    own_cmd: bool,
}

impl<'l, 'a, 't> StageLowering<'l, 'a, 't> {
    fn new(
        plan: &'l mut Lowering<'a>,
        table: &'t StageTable<'t>,
        done: &'l BTreeMap<usize, StageState>,
        index: usize,
        reach: &Reach,
    ) -> Self {
        let entry = &table.entries[index];
        let label = (!table.lone).then(|| table.label(index));
        let names = StepNames::new(label.as_deref(), count_steps(table, index, reach));
        let name = lower_name(entry.stage).unwrap_or_default();
        let platform = entry.platform.clone().unwrap_or_else(|| table.platform.clone());
        let state = StageState {
            root: VertexId(0),
            config: ImageConfig::scratch(&platform),
            history: Vec::new(),
            scope: StageScope::default(),
            platform,
            has_workdir: false,
            secret_parts: BTreeSet::new(),
        };
        let no_cache = plan.options.no_cache.covers(&name);
        Self { plan, table, state, done, index, names, ordinal: 1, no_cache, own_cmd: false }
    }

    fn run(mut self, reach: &Reach) -> StageState {
        self.begin();
        if self.table.entries[self.index].replaced {
            return self.state;
        }
        let from = self.table.entries[self.index].stage.span;
        for trigger in reach.triggers.get(&self.index).into_iter().flatten() {
            self.step(&Step { instruction: trigger, span: from, onbuild: true });
        }
        for instruction in &self.table.entries[self.index].stage.instructions {
            self.step(&Step { instruction, span: instruction.span, onbuild: false });
        }
        self.state
    }

    /// What the outline will tell of this stage.
    pub(crate) fn asked(&mut self) -> &mut Asked {
        self.plan.asked.entry(self.index).or_default()
    }

    /// Notes a source in the main context, unless nobody wants to hear of it.
    pub(crate) fn note_taken(&mut self, step: &Step<'_>, instruction: &'static str, path: String) {
        let taken = Taken { instruction, path, span: step.span };
        let wanted = self.table.checks.with_comments(&step.instruction.comments).allows("CopyIgnoredFile");
        if wanted && !self.plan.taken.contains(&taken) {
            self.plan.taken.push(taken);
        }
    }

    /// Sets the state to what FROM says.
    fn begin(&mut self) {
        let table = self.table;
        let entry = &table.entries[self.index];
        self.asked().used.extend(entry.looked_at.iter().cloned());
        let platform = self.state.platform.clone();
        match &entry.base {
            Source::Stage(parent) => {
                if let Some(parent) = self.done.get(parent) {
                    self.state = parent.clone();
                }
            }
            Source::Scratch => {
                // The config of scratch is of the target's platform, whatever FROM asks for.
                self.state.platform = table.platform.clone();
                self.state.config = ImageConfig::scratch(&table.platform);
                self.state.root = self.scratch_vertex();
            }
            Source::Image(key, written) => {
                self.state.root = self.image_vertex(key, true);
                if let Some(base) = self.plan.bases.get(key) {
                    self.state.config = base.config.clone();
                    let actual = base.config.platform();
                    // Of what a named context puts in its place FROM says no platform.
                    let is_named = table.base_text(entry.stage).is_some_and(|text| text != *written);
                    let warning = lint::base_platform(written, &platform, &actual, entry.stage.span).filter(|_| !is_named);
                    lint::add_wanted(&mut self.plan.warnings, &table.checks, &entry.stage.comments, warning);
                }
            }
            Source::Context(name) => self.state.root = self.context_vertex(name),
        }
        image_config::begin(&mut self.state.config);
        let env = self.state.config.config.env.clone().unwrap_or_default();
        self.state.scope.set_env_list(&env);
    }

    fn step(&mut self, step: &Step<'_>) {
        if let Err(error) = self.apply(step) {
            self.plan.errors.push(error);
        }
    }

    fn apply(&mut self, step: &Step<'_>) -> Result<(), PlanError> {
        let kind = |kind: PlanErrorKind| PlanError::at(step.span, kind);
        let text = match &step.instruction.kind {
            InstructionKind::Run(run) => return self.run_step(step, run),
            InstructionKind::Copy(copy) => return self.copy_step(step, copy, "COPY"),
            InstructionKind::Add(copy) => return self.copy_step(step, copy, "ADD"),
            InstructionKind::Workdir(path) => return self.workdir_step(step, path),
            InstructionKind::Onbuild(onbuild) => {
                image_config::onbuild(&mut self.state.config, &onbuild.text);
                return Ok(());
            }
            InstructionKind::Arg(_) => self.arg(step)?,
            InstructionKind::Env(list) => {
                for pair in list {
                    self.warn_of_values(step, &pair.key, |name| check_secret("ENV", name).into_iter().collect());
                }
                let pairs = self.pairs(step, list)?;
                // All values were expanded before the first of them counts.
                let derived: Vec<bool> = list.iter().map(|pair| self.names_secret(&pair.value)).collect();
                for ((name, value), is_derived) in pairs.iter().zip(derived) {
                    self.state.scope.set_env(name, value, is_derived);
                }
                image_config::env(&mut self.state.config, &pairs)
            }
            InstructionKind::Label(list) => {
                let pairs = self.pairs(step, list)?;
                image_config::label(&mut self.state.config, &pairs)
            }
            InstructionKind::Cmd(command) => {
                self.own_cmd = true;
                image_config::cmd(&mut self.state.config, command)
            }
            InstructionKind::Entrypoint(command) => image_config::entrypoint(&mut self.state.config, command, self.own_cmd),
            InstructionKind::Expose(words) => {
                for word in words {
                    self.warn_of_ports(step, word);
                }
                let words = self.split_words(step, words)?;
                image_config::expose(&mut self.state.config, &words).map_err(kind)?
            }
            InstructionKind::Healthcheck(check) => image_config::healthcheck(&mut self.state.config, check),
            InstructionKind::Maintainer(name) => image_config::maintainer(&mut self.state.config, name),
            InstructionKind::Shell(words) => image_config::set_shell(&mut self.state.config, words),
            InstructionKind::Stopsignal(signal) => {
                let signal = self.word(step, signal)?;
                image_config::stop_signal(&mut self.state.config, signal).map_err(kind)?
            }
            InstructionKind::User(user) => {
                self.note_secret("user", self.names_secret(user));
                let user = self.word(step, user)?;
                image_config::user(&mut self.state.config, user)
            }
            InstructionKind::Volume(words) => {
                let words = words.iter().map(|w| self.word(step, w)).collect::<Result<Vec<_>, _>>()?;
                image_config::volume(&mut self.state.config, &words).map_err(kind)?
            }
        };
        self.remember(text, None);
        Ok(())
    }

    fn arg(&mut self, step: &Step<'_>) -> Result<String, PlanError> {
        let mut told = Vec::new();
        for declaration in arg_declarations(step.instruction) {
            let name = declaration.name.node.clone();
            let value = self.arg_value(step, declaration)?;
            self.note_arg(step, declaration, value.as_deref());
            let is_derived = self.is_arg_derived(declaration);
            self.state.scope.declare_arg(&name, value.as_deref(), is_derived);
            told.push((name, value));
        }
        Ok(history::arg(&told))
    }

    /// A declaration that only takes over a global one is told where that stands.
    fn note_arg(&mut self, step: &Step<'_>, declaration: &ArgDecl, value: Option<&str>) {
        let name = &declaration.name.node;
        let is_own = declaration.default.is_some() || self.table.build_args.contains_key(name) || self.table.global.get(name).is_none();
        let arg = OutlineArg {
            name: name.clone(),
            description: outline::description(&step.instruction.comments, name),
            value: value.unwrap_or_default().into(),
            span: step.span,
        };
        let asked = self.asked();
        asked.used.insert(name.clone());
        if is_own {
            asked.declared.insert(name.clone(), arg);
        }
    }

    fn arg_value(&mut self, step: &Step<'_>, declaration: &ArgDecl) -> Result<Option<String>, PlanError> {
        let name = &declaration.name.node;
        match (self.table.build_args.get(name), &declaration.default) {
            (Some(given), _) => Ok(Some(given.clone())),
            (None, Some(default)) => self.word(step, default).map(Some),
            (None, None) => Ok(self.table.global.get(name)),
        }
    }

    fn pairs(&mut self, step: &Step<'_>, list: &[KeyValue]) -> Result<Vec<(String, String)>, PlanError> {
        list.iter().map(|pair| Ok((self.word(step, &pair.key)?, self.word(step, &pair.value)?))).collect()
    }

    fn split_words(&self, step: &Step<'_>, words: &[Spanned<String>]) -> Result<Vec<String>, PlanError> {
        let mut sorted: Vec<_> = words.iter().collect();
        sorted.sort_by(|a, b| a.node.cmp(&b.node));
        let mut out = Vec::new();
        for word in sorted {
            let split = word::expand_words(word, self.escape(), &|n| self.state.scope.get(n));
            out.extend(split.map_err(|e| PlanError::at(step.at(word.span), e))?);
        }
        Ok(out)
    }

    /// Expands a word and warns of names that nobody declared.
    pub(crate) fn word(&mut self, step: &Step<'_>, word: &Spanned<String>) -> Result<String, PlanError> {
        let expanded = word::expand(word, self.escape(), &|n| self.state.scope.get(n));
        self.expanded(step, word.span, expanded)
    }

    /// The text of an expansion; what was undefined becomes a warning.
    pub(crate) fn expanded(&mut self, step: &Step<'_>, at: Span, result: Result<Expanded, WordError>) -> Result<String, PlanError> {
        let expanded = result.map_err(|e| PlanError::at(step.at(at), e))?;
        self.warn(step, lint::undefined_variables(&self.state.scope, &expanded.unmatched, step.span));
        Ok(expanded.text)
    }

    fn warn(&mut self, step: &Step<'_>, found: Vec<Warning>) {
        lint::add_wanted(&mut self.plan.warnings, &self.table.checks, &step.instruction.comments, found);
    }

    /// Warns of words that only their values make unwise; the others the syntax tree told.
    fn warn_of_values(&mut self, step: &Step<'_>, written: &str, judge: impl Fn(&str) -> Vec<(&'static str, String)>) {
        let Ok(expanded) = word::expand(written, self.escape(), &|n| self.state.scope.get(n)) else { return };
        if !expanded.matched.is_empty() || !expanded.unmatched.is_empty() {
            self.warn(step, lint::of_word(step.span, judge(&expanded.text)));
        }
    }

    /// A variable may hold several ports.
    fn warn_of_ports(&mut self, step: &Step<'_>, written: &str) {
        let split = word::expand_words(written, self.escape(), &|n| self.state.scope.get(n)).unwrap_or_default();
        for port in split {
            self.warn_of_values(step, written, |_| check_port(&port));
        }
    }

    pub(crate) fn escape(&self) -> char {
        self.table.dockerfile.directives.escape
    }

    fn workdir_step(&mut self, step: &Step<'_>, path: &Spanned<String>) -> Result<(), PlanError> {
        if !std::mem::replace(&mut self.state.has_workdir, true) {
            self.warn_of_values(step, path, |path| check_workdir(path).into_iter().collect());
        }
        let written = path;
        let path = self.word(step, path)?;
        self.note_secret("workdir", self.is_secret_path(written, &path));
        let text = image_config::workdir(&mut self.state.config, &path);
        let directory = self.state.config.config.working_dir.clone();
        if directory == "/" {
            self.remember(text, None);
            return Ok(());
        }
        let name = self.display(step);
        let op = WorkdirOp { path: paths::clean(&directory), user: self.state.config.config.user.clone(), created_secs: self.plan.epoch };
        // The parts of keys call it the path.
        let secret_parts = self.state.secret_parts.iter().map(|part| part.replace("workdir", "path")).collect();
        self.advance(step, Op::Workdir(op), name, false, text, secret_parts);
        Ok(())
    }

    /// The instruction as progress shows it, variables expanded where that works and nobody minds.
    fn display(&self, step: &Step<'_>) -> String {
        self.shown(Lexer::new(self.escape()), step.instruction.original.trim().to_owned())
    }

    /// [`Self::display`] for COPY and ADD.
    pub(crate) fn copy_display(&self, step: &Step<'_>) -> String {
        self.display(step)
    }

    /// [`Self::display`] for RUN: its text is the shell's, so quotes and unknown variables stay.
    pub(crate) fn run_display(&self, step: &Step<'_>, summary: Option<&str>) -> String {
        let summary = summary.map(|s| format!(" ({s})")).unwrap_or_default();
        self.shown(Lexer::for_display(self.escape()), format!("{}{summary}", step.instruction.original.trim()))
    }

    /// Names are shown and kept, so variables that are secret stay as they were written.
    fn shown(&self, lexer: Lexer, original: String) -> String {
        let scope = &self.state.scope;
        lexer.expand_but(&original, &|name| scope.get(name), &|name| scope.is_secret(name)).map_or(original, |expanded| expanded.text)
    }

    /// Puts a filesystem step on top of the stage, with its history entry.
    pub(crate) fn advance(
        &mut self,
        step: &Step<'_>,
        op: Op,
        display: String,
        cached_unless_asked: bool,
        created_by: String,
        secret_parts: BTreeSet<String>,
    ) {
        let shown = self.options().names_platforms().then(|| names::platform(&self.state.platform, &self.state.scope));
        let name = self.names.step(shown.as_deref(), step.onbuild, &display);
        let vertex = Vertex {
            op,
            parent: Some(self.state.root),
            name,
            source: Some((self.plan.source.clone(), step.span)),
            stage: self.site(),
            ordinal: self.ordinal,
            secret_parts,
            no_cache: self.no_cache.filter(|_| cached_unless_asked),
            platform: self.state.platform.clone(),
        };
        self.ordinal += 1;
        self.state.root = self.plan.push(vertex);
        self.remember(created_by, Some(self.state.root));
    }

    fn remember(&mut self, created_by: String, vertex: Option<VertexId>) {
        self.state.history.push(PlannedHistory { entry: history::entry(created_by, vertex.is_none()), vertex });
    }

    /// The name of the stage, else its number.
    fn site(&self) -> String {
        lower_name(self.table.entries[self.index].stage).unwrap_or_else(|| self.index.to_string())
    }

    /// A vertex below the numbered steps: scratch, an image, a context.
    fn ground(&mut self, op: Op, parent: Option<VertexId>, name: String, platform: Platform) -> VertexId {
        let span = self.table.entries[self.index].stage.span;
        let source = Some((self.plan.source.clone(), span));
        let secret_parts = BTreeSet::new();
        self.plan.push(Vertex { op, parent, name, source, stage: self.site(), ordinal: 0, secret_parts, no_cache: None, platform })
    }

    fn scratch_vertex(&mut self) -> VertexId {
        let platform = self.state.platform.clone();
        self.ground(Op::Scratch, None, "FROM scratch".into(), platform)
    }

    /// The vertex of an image; the first that asks for it names it.
    fn image_vertex(&mut self, key: &ImageKey, counted: bool) -> VertexId {
        let digest = self.plan.bases.get(key).and_then(|b| b.digest.as_ref()).filter(|_| !key.name.contains('@'));
        let from = format!("FROM {}{}", key.name, digest.map(|d| format!("@{d}")).unwrap_or_default());
        let shown = self.options().names_platforms().then(|| key.platform.to_string());
        let name = if counted { self.names.step(shown.as_deref(), false, &from) } else { from };
        if let Some(known) = self.plan.image_vertices.get(key) {
            return *known;
        }
        let id = self.plan.bases.get(key).map(|b| b.id).expect("lower() asks for images before it lowers");
        let vertex = self.ground(Op::Image(id), None, name, key.platform.clone());
        self.plan.image_vertices.insert(key.clone(), vertex);
        vertex
    }

    /// FROM a named directory: everything that it holds, on nothing.
    fn context_vertex(&mut self, name: &str) -> VertexId {
        let scratch = self.scratch_vertex();
        let op = CopyOp {
            source: CopySource::Context(Some(name.into())),
            sources: vec![".".into()],
            remotes: Vec::new(),
            inline: Vec::new(),
            destination: "/".into(),
            chown: None,
            chmod: None,
            unpack_archives: false,
            exclude: Vec::new(),
            parents: false,
            link: false,
            instruction: "COPY",
        };
        let (shown, platform) = (format!("[context {name}] load from client"), self.state.platform.clone());
        let vertex = self.ground(Op::Copy(Box::new(op)), Some(scratch), shown, platform);
        let entry = HistoryEntry { comment: "buildkit.exporter.image.v0".into(), ..HistoryEntry::default() };
        self.state.history.push(PlannedHistory { entry, vertex: Some(vertex) });
        vertex
    }

    /// What `--from` reads.
    pub(crate) fn copy_source(&mut self, from: &str) -> Result<CopySource, PlanErrorKind> {
        Ok(match self.table.copy_source(from)? {
            Source::Stage(index) => match self.done.get(&index) {
                Some(stage) => CopySource::Vertex(stage.root),
                None => return Err(PlanErrorKind::CopyFromLater { from: from.into(), stage: self.shown_label() }),
            },
            Source::Scratch => CopySource::Vertex(self.scratch_vertex()),
            Source::Image(key, _) => CopySource::Vertex(self.image_vertex(&key, false)),
            Source::Context(name) => CopySource::Context(Some(name)),
        })
    }

    /// What `from` of a mount reads.
    pub(crate) fn mount_source(&mut self, from: &str, target: &str) -> Result<CopySource, PlanErrorKind> {
        Ok(match self.table.stage_or_outside(from)? {
            Source::Stage(index) => match self.done.get(&index) {
                Some(stage) => CopySource::Vertex(stage.root),
                None => return Err(PlanErrorKind::MountFromLater { from: from.into(), target: target.into() }),
            },
            Source::Scratch => CopySource::Vertex(self.scratch_vertex()),
            Source::Image(key, _) => CopySource::Vertex(self.image_vertex(&key, false)),
            Source::Context(name) => CopySource::Context(Some(name)),
        })
    }

    fn shown_label(&self) -> String {
        if self.table.lone { String::new() } else { self.table.label(self.index) }
    }

    pub(crate) fn options(&self) -> &'a PlanOptions {
        self.plan.options
    }
}

/// How many numbered steps a stage has: its FROM unless it is scratch or a stage, every filesystem instruction, every trigger.
fn count_steps(table: &StageTable<'_>, index: usize, reach: &Reach) -> usize {
    let entry = &table.entries[index];
    let from = usize::from(matches!(entry.base, Source::Image(..) | Source::Context(_)));
    let steps = entry.stage.instructions.iter().filter(|i| {
        use InstructionKind::{Add, Copy, Run, Workdir};
        matches!(i.kind, Add(_) | Copy(_) | Run(_) | Workdir(_))
    });
    from + steps.count() + reach.triggers.get(&index).map_or(0, Vec::len)
}
