//! The warnings of a build: those of the text, those of the plan, and those that only the context can judge.

use std::collections::BTreeSet;

use super::BuildError;
use super::inputs::Inputs;
use crate::dockerfile::Dockerfile;
use crate::dockerfile::lint::{self, CheckOptions, RULES, find_rule};
use crate::dockerfile::suggest;
use crate::plan::graph::{Plan, Warning};
use crate::plan::{PlanOptions, warnings_of_bases};
use crate::source::context::BuildContext;
use crate::span::SourceFile;

/// `BUILDKIT_DOCKERFILE_CHECK`, else what the file itself says.
pub(super) fn options(dockerfile: &Dockerfile, options: &PlanOptions) -> Result<CheckOptions, BuildError> {
    const ARGUMENT: &str = "BUILDKIT_DOCKERFILE_CHECK";
    let refused = |text: String| BuildError::Check { text };
    match options.build_args.get(ARGUMENT) {
        Some(text) => CheckOptions::parse(text)
            .map_err(|error| refused(error.to_string().replacen("check options", &format!("build-arg:{ARGUMENT}"), 1))),
        None => CheckOptions::of(dockerfile).map_err(|error| refused(error.to_string())),
    }
}

/// All warnings, in the order of their lines.
pub(super) fn warnings(inputs: &Inputs, dockerfile: &Dockerfile, plan: &Plan, check: &CheckOptions) -> Vec<Warning> {
    let mut warnings = lint::lint_stages(dockerfile, check, &plan.stages);
    warnings.extend(plan.warnings.iter().cloned());
    if let Some(ignore) = inputs.contexts.get(None).and_then(BuildContext::ignore) {
        warnings.extend(plan.copies_of(|path| ignore.surely_ignores(path)));
    }
    warnings.extend(unknown_rules(&inputs.source, dockerfile, check));
    sorted(warnings)
}

/// A context that holds the store: what is left out of it is told.
pub(super) fn store_in_context(inputs: &Inputs) -> Vec<Warning> {
    let told = |path: &[u8]| {
        let path = String::from_utf8_lossy(path);
        let text = format!("[Warning] the store of shale, {path}, lies in the context and is left out of it: add {path} to .dockerignore");
        Warning { rule: "StoreInContext", text, span: None }
    };
    inputs.contexts.iter().filter_map(|context| context.left_out().map(told)).collect()
}

/// Those that the text and the names in it give, for a file of which there is no plan.
pub(super) fn warnings_without_plan(dockerfile: &Dockerfile, options: &PlanOptions, check: &CheckOptions) -> Vec<Warning> {
    let mut warnings = lint::lint_stages(dockerfile, check, &lint::StageFacts::of_text(dockerfile));
    warnings.extend(warnings_of_bases(dockerfile, options));
    sorted(warnings)
}

fn sorted(mut warnings: Vec<Warning>) -> Vec<Warning> {
    // Words are expanded before an instruction is looked at.
    warnings.sort_by_key(|warning| (warning.span.map(|span| span.start), warning.rule != "UndefinedVar"));
    warnings
}

/// `error=true` makes violations of rules an error; what no rule is about does not count.
pub(super) fn refuse(warnings: &[Warning], check: &CheckOptions) -> Result<(), BuildError> {
    let broken: BTreeSet<&'static str> = warnings.iter().filter(|w| w.is_violation()).map(|w| w.rule).collect();
    if check.error && !broken.is_empty() { Err(BuildError::Lint(broken.into_iter().collect())) } else { Ok(()) }
}

/// Names in `skip=` and `experimental=` that no rule has: they would do nothing, in silence.
fn unknown_rules(source: &SourceFile, dockerfile: &Dockerfile, check: &CheckOptions) -> Vec<Warning> {
    let span = dockerfile.directives.check.as_ref().map(|directive| directive.span);
    let names = check.skip.iter().map(|name| ("skip", name)).chain(check.experimental.iter().map(|name| ("experimental", name)));
    let unknown = names.filter(|(_, name)| find_rule(name).is_none());
    unknown
        .map(|(option, name)| {
            let near = suggest(name, RULES.iter().map(|rule| rule.name), true);
            let better = near.map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
            let text = format!("[Warning] check={option} names no rule: {name}{better}");
            Warning { rule: "UnknownRule", text, span: span.filter(|span| source.slice(*span).contains(name.as_str())) }
        })
        .collect()
}
