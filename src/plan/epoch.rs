//! Where the time of a build comes from: a number of seconds, a context, or a stage that does nothing but fetch.

use std::collections::BTreeMap;

use time::OffsetDateTime;

use super::copy::remote;
use super::error::{PlanError, PlanErrorKind};
use super::graph::Remote;
use super::options::{EPOCH_ARG, PlanOptions};
use super::scope::{GlobalScope, arg_declarations};
use super::stages::lower_name;
use crate::dockerfile::ast::{Copy, Dockerfile, InstructionKind, Stage};
use crate::dockerfile::word::{self, WordError};

/// What a stage must be whose time `SOURCE_DATE_EPOCH` takes. The sentences are BuildKit's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EpochFault {
    /// It stands on an image or on another stage.
    #[error("SOURCE_DATE_EPOCH stage must use FROM scratch")]
    NotScratch,
    /// It does more than fetch.
    #[error("SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported {0} instruction")]
    Instruction(String),
    /// None or several ADD.
    #[error("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD")]
    NotOne,
    /// An ADD of several things, or of a heredoc.
    #[error("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD source")]
    NotOneSource,
    /// An ADD of a local file.
    #[error("SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD")]
    NotRemote,
}

/// A stage whose time is the build's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatedStage {
    /// As `SOURCE_DATE_EPOCH` names it.
    pub name: String,
    /// What the stage fetches.
    pub source: Remote,
}

/// What a `SOURCE_DATE_EPOCH` may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dated {
    /// A context: `context` is the main one.
    Context(String),
    /// A stage that only fetches.
    Stage(DatedStage),
}

/// What `SOURCE_DATE_EPOCH` names, if it names anything: who fetches it puts its time into [`PlanOptions::source_times`].
pub fn dated(dockerfile: &Dockerfile, options: &PlanOptions) -> Result<Option<Dated>, Vec<PlanError>> {
    let build_args = options.effective_build_args();
    let platform = options.platforms.first().unwrap_or(&options.build_platform);
    let global = GlobalScope::evaluate(dockerfile, options, platform, &build_args)?;
    let Some(name) = written(&build_args, &global) else { return Ok(None) };
    if name.parse::<i64>().is_ok() {
        return Ok(None);
    }
    if is_context(&name, options) {
        return Ok(Some(Dated::Context(name)));
    }
    let Some(stage) = stage_called(dockerfile, &name) else { return Ok(None) };
    let source = source(stage, dockerfile, &build_args, &global).map_err(|error| vec![error])?;
    Ok(Some(Dated::Stage(DatedStage { name, source })))
}

/// The seconds; stages then see them in the place of a name.
pub(super) fn resolve(
    dockerfile: &Dockerfile,
    options: &PlanOptions,
    build_args: &mut BTreeMap<String, String>,
    global: &mut GlobalScope,
) -> Result<Option<i64>, PlanError> {
    let Some(text) = written(build_args, global) else { return Ok(None) };
    if let Ok(seconds) = text.parse() {
        // RFC 3339 has four digits for the year.
        let is_date = OffsetDateTime::from_unix_timestamp(seconds).is_ok_and(|date| (0..=9999).contains(&date.year()));
        return if is_date { Ok(Some(seconds)) } else { Err(PlanError::of_option(PlanErrorKind::BadEpoch(text))) };
    }
    if !is_context(&text, options) {
        let stage = stage_called(dockerfile, &text).ok_or_else(|| PlanError::of_option(PlanErrorKind::BadEpoch(text.clone())))?;
        source(stage, dockerfile, build_args, global)?;
    }
    let epoch = options.source_times.get(&text).copied();
    let seconds = epoch.map(|seconds| seconds.to_string()).unwrap_or_default();
    match build_args.get_mut(EPOCH_ARG) {
        Some(given) => *given = seconds,
        None => global.replace(EPOCH_ARG, &seconds),
    }
    Ok(epoch)
}

fn written(build_args: &BTreeMap<String, String>, global: &GlobalScope) -> Option<String> {
    build_args.get(EPOCH_ARG).cloned().or_else(|| global.get(EPOCH_ARG)).filter(|text| !text.is_empty())
}

fn is_context(name: &str, options: &PlanOptions) -> bool {
    name == "context" || options.contexts.contains_key(name)
}

fn stage_called<'a>(dockerfile: &'a Dockerfile, name: &str) -> Option<&'a Stage> {
    dockerfile.stages.iter().find(|stage| lower_name(stage).is_some_and(|known| known == name.to_lowercase()))
}

/// What the stage fetches, as its own ARGs have it.
fn source(
    stage: &Stage,
    dockerfile: &Dockerfile,
    build_args: &BTreeMap<String, String>,
    global: &GlobalScope,
) -> Result<Remote, PlanError> {
    let escape = dockerfile.directives.escape;
    let mut own: BTreeMap<String, String> = BTreeMap::new();
    let base = word::expand(&stage.base, escape, &|name| value(name, &own, global)).map_err(|e| PlanError::at(stage.span, e))?;
    if base.text != "scratch" {
        return Err(PlanError::at(stage.span, EpochFault::NotScratch));
    }
    let mut found = None;
    for instruction in &stage.instructions {
        let failed = |error: WordError| PlanError::at(instruction.span, error);
        let fault = |fault| Err(PlanError::at(instruction.span, fault));
        match &instruction.kind {
            InstructionKind::Arg(_) => {
                for declaration in arg_declarations(instruction) {
                    let given = build_args.get(&declaration.name.node).cloned();
                    let default = declaration.default.as_ref();
                    let expand = |text: &str| word::expand(text, escape, &|name| value(name, &own, global)).map(|done| done.text);
                    let default = default.map(|text| expand(text)).transpose().map_err(failed)?;
                    if let Some(value) = given.or(default) {
                        own.insert(declaration.name.node.clone(), value);
                    }
                }
            }
            InstructionKind::Add(_) if found.is_some() => return fault(EpochFault::NotOne),
            InstructionKind::Add(add) => {
                let expand = |text: &str| word::expand(text, escape, &|name| value(name, &own, global)).map(|done| done.text);
                let Some(source) = only_source(add) else { return fault(EpochFault::NotOneSource) };
                let source = expand(source).map_err(failed)?;
                let checksum = add.checksum.as_ref().map(|text| expand(text)).transpose().map_err(failed)?;
                match remote(&source, add, checksum.filter(|sum| !sum.is_empty())) {
                    Some(remote) => found = Some(remote.map_err(|error| PlanError::at(instruction.span, error))?),
                    None => return fault(EpochFault::NotRemote),
                }
            }
            _ => return fault(EpochFault::Instruction(instruction.keyword.to_uppercase())),
        }
    }
    found.ok_or_else(|| PlanError::at(stage.span, EpochFault::NotOne))
}

fn only_source(add: &Copy) -> Option<&str> {
    match &add.sources[..] {
        [one] if add.heredocs.is_empty() => Some(one),
        _ => None,
    }
}

/// `SOURCE_DATE_EPOCH` itself is not known yet.
fn value(name: &str, own: &BTreeMap<String, String>, global: &GlobalScope) -> Option<String> {
    own.get(name).cloned().or_else(|| global.get(name).filter(|_| name != EPOCH_ARG))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::parse;
    use crate::span::SourceFile;

    fn asked(text: &str, options: &PlanOptions) -> Result<Option<Dated>, String> {
        let source = SourceFile::new("Dockerfile", text);
        let (dockerfile, errors) = parse(&source);
        let dockerfile = dockerfile.unwrap_or_else(|| panic!("{errors:?}"));
        dated(&dockerfile, options).map_err(|errors| errors[0].to_string())
    }

    /// What is named, and what is fetched for it.
    fn shown(dated: &Dated) -> (&str, String) {
        match dated {
            Dated::Context(name) => (name, String::new()),
            Dated::Stage(DatedStage { name, source: Remote::File(file) }) => (name, file.url.clone()),
            Dated::Stage(DatedStage { name, source: Remote::Git(git) }) => (name, git.shown_with_ref()),
        }
    }

    #[test]
    fn a_stage_that_only_fetches_is_found() {
        let options = PlanOptions::default();
        for (rest, what) in [
            ("FROM scratch AS Src\nADD https://h/a.git#v1 /\n", Some("https://h/a.git#v1")),
            ("FROM scratch AS src\nARG V=2\nADD https://h/a-$V.tar /\n", Some("https://h/a-2.tar")),
            ("ARG B=scratch\nFROM $B AS src\nADD https://h/a /\nFROM src\n", Some("https://h/a")),
            ("FROM scratch\n", None),
        ] {
            let found = asked(&format!("ARG SOURCE_DATE_EPOCH=src\n{rest}"), &options).expect(rest);
            assert_eq!(found.as_ref().map(|dated| shown(dated).1).as_deref(), what, "{rest}");
        }
        assert_eq!(asked("ARG SOURCE_DATE_EPOCH=7\nFROM scratch\n", &options), Ok(None));
        let mut options = options;
        options.build_args.insert(EPOCH_ARG.into(), "src".into());
        options.build_args.insert("V".into(), "9".into());
        let found = asked("FROM scratch AS src\nARG V=2\nADD https://h/$V /\n", &options).expect("a stage").expect("a stage");
        assert_eq!(shown(&found), ("src", "https://h/9".into()));
        options.build_args.insert(EPOCH_ARG.into(), "lib".into());
        assert!(asked("FROM scratch\n", &options).is_ok_and(|dated| dated.is_none()));
        options.contexts.insert("lib".into(), super::super::options::NamedContext::Dir);
        assert_eq!(asked("FROM scratch\n", &options), Ok(Some(Dated::Context("lib".into()))));
    }

    #[test]
    fn a_stage_that_does_more_is_refused() {
        for (rest, sentence) in [
            ("FROM busybox AS src\nADD https://h/a /\n", "must use FROM scratch"),
            ("FROM scratch AS src\nCOPY a /\n", "does not meet source-only requirements: unsupported COPY instruction"),
            ("FROM scratch AS src\n", "must contain exactly one remote ADD"),
            ("FROM scratch AS src\nADD https://h/a /\nADD https://h/b /\n", "must contain exactly one remote ADD"),
            ("FROM scratch AS src\nADD https://h/a https://h/b /\n", "must contain exactly one remote ADD source"),
            ("FROM scratch AS src\nADD <<E /f\nE\n", "must contain exactly one remote ADD source"),
            ("FROM scratch AS src\nADD a /\n", "source must be a single HTTP(S) or Git ADD"),
        ] {
            let error = asked(&format!("ARG SOURCE_DATE_EPOCH=src\n{rest}"), &PlanOptions::default()).expect_err(rest);
            assert_eq!(error, format!("SOURCE_DATE_EPOCH stage {sentence}"), "{rest}");
        }
    }
}
