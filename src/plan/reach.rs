//! What the target reaches: stages, images, and the ONBUILD triggers that its bases bring.

use std::collections::{BTreeMap, BTreeSet};

use super::error::{PlanError, PlanErrorKind};
use super::stages::{Need, Source, StageTable};
use super::{BaseImages, ImageKey, ImageReason, ImageRef, Near, lint};
use crate::dockerfile;
use crate::dockerfile::ast::{Instruction, InstructionKind};
use crate::span::{SourceFile, Span};

/// The part of a file that a target needs.
#[derive(Debug, Default)]
pub(crate) struct Reach {
    /// Stages to lower.
    pub(crate) stages: BTreeSet<usize>,
    /// Triggers that run first in a stage. Their spans point into their own texts.
    pub(crate) triggers: BTreeMap<usize, Vec<Instruction>>,
    /// Images that are needed and not among the bases.
    pub(crate) missing: Vec<ImageRef>,
}

impl Reach {
    /// Walks from the target; triggers are known only for images among `bases`.
    pub(crate) fn from_target(table: &StageTable<'_>, bases: &BaseImages) -> Result<Self, Vec<PlanError>> {
        let mut walk = Walk { table, bases, reach: Self::default(), errors: Vec::new() };
        walk.stage(table.target);
        if table.options.all_stages {
            (0..table.entries.len()).for_each(|index| walk.stage(index));
        }
        walk.reach.missing.sort_by_key(|image| image.span);
        if walk.errors.is_empty() { Ok(walk.reach) } else { Err(walk.errors) }
    }
}

struct Walk<'t, 'a> {
    table: &'t StageTable<'a>,
    bases: &'t BaseImages,
    reach: Reach,
    errors: Vec<PlanError>,
}

impl Walk<'_, '_> {
    fn stage(&mut self, index: usize) {
        if !self.reach.stages.insert(index) {
            return;
        }
        let entry = &self.table.entries[index];
        self.source(&entry.base, ImageReason::From, entry.stage.base.span);
        for need in &entry.needs {
            self.source(&need.source, need.reason, need.span);
        }
        if !entry.replaced {
            self.triggers(index, &entry.base);
        }
    }

    fn source(&mut self, source: &Source, reason: ImageReason, span: Span) {
        match source {
            Source::Stage(index) => self.stage(*index),
            Source::Image(key, written) => self.image(key, written, reason, span),
            Source::Scratch | Source::Context(_) => {}
        }
    }

    /// Notes an image that is not there; of several places the first of the file counts.
    fn image(&mut self, key: &ImageKey, written: &str, reason: ImageReason, span: Span) {
        if self.bases.contains_key(key) {
            return;
        }
        let did_you_mean = near(written, &self.table.stage_names());
        let image = ImageRef { key: key.clone(), written: written.into(), reason, span, did_you_mean };
        match self.reach.missing.iter_mut().find(|m| m.key == *key) {
            Some(known) if known.span <= span => {}
            Some(known) => *known = image,
            None => self.reach.missing.push(image),
        }
    }

    fn triggers(&mut self, index: usize, base: &Source) {
        let texts: Vec<String> = match base {
            Source::Image(key, _) => self.bases.get(key).and_then(|b| b.config.config.on_build.clone()).unwrap_or_default(),
            Source::Stage(parent) => onbuild_of(self.table, *parent),
            Source::Scratch | Source::Context(_) => Vec::new(),
        };
        let from = self.table.entries[index].stage.span;
        for text in texts {
            match self.trigger(&text, from) {
                Ok((trigger, needs)) => {
                    self.reach.triggers.entry(index).or_default().push(trigger);
                    for need in needs {
                        self.source(&need.source, need.reason, from);
                    }
                }
                Err(error) => self.errors.push(error),
            }
        }
    }

    fn trigger(&self, text: &str, from: Span) -> Result<(Instruction, Vec<Need>), PlanError> {
        let trigger = parse_trigger(text).map_err(|kind| PlanError::at(from, kind))?;
        let needs = self.table.instruction_needs(&trigger).map_err(|e| PlanError { span: Some(from), ..e })?;
        Ok((trigger, needs))
    }
}

/// Repositories that BuildKit thinks of when a name is wrong.
const COMMON: [&str; 7] = ["alpine", "busybox", "centos", "debian", "golang", "ubuntu", "fedora"];

/// What an image name may have been meant to be: a stage, else an image that is often used. A tag is left as it is.
fn near(written: &str, stages: &[String]) -> Option<Near> {
    let stage = lint::suggest(written, stages).map(Near::Stage);
    let repository = written.split_once([':', '@']).map_or(written, |(repository, _)| repository);
    stage.or_else(|| {
        let near = dockerfile::suggest(repository, COMMON, true)?;
        COMMON.iter().find(|name| **name == near).map(|name| Near::Image(name))
    })
}

/// The triggers that a stage of the file leaves to those built on it.
fn onbuild_of(table: &StageTable<'_>, index: usize) -> Vec<String> {
    let entry = &table.entries[index];
    if entry.replaced {
        return Vec::new();
    }
    let texts = entry.stage.instructions.iter().filter_map(|i| match &i.kind {
        InstructionKind::Onbuild(onbuild) => Some(onbuild.text.clone()),
        _ => None,
    });
    texts.collect()
}

/// Parses a trigger, which is a text of its own.
fn parse_trigger(text: &str) -> Result<Instruction, PlanErrorKind> {
    dockerfile::parse_trigger(&SourceFile::new("ONBUILD", text)).map_err(|errors| {
        let cause = errors.first().map(ToString::to_string).unwrap_or_default();
        PlanErrorKind::BadTrigger { trigger: text.into(), cause }
    })
}
