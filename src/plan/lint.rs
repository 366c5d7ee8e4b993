//! The warnings that need values: names and sentences as BuildKit has them. Those that the text alone gives are `dockerfile::lint`'s.

use super::graph::Warning;
use super::options::NoCache;
use super::scope::{GlobalScope, StageScope};
use crate::dockerfile;
use crate::dockerfile::lint::CheckOptions;
use crate::dockerfile::word::quote;
use crate::oci::platform::Platform;
use crate::span::Span;

/// Adds what the file's `# check=`, and that above the instruction, want to hear.
pub(crate) fn add_wanted(
    warnings: &mut Vec<Warning>,
    checks: &CheckOptions,
    comments: &[String],
    found: impl IntoIterator<Item = Warning>,
) {
    let checks = checks.with_comments(comments);
    warnings.extend(found.into_iter().filter(|w| checks.allows(w.rule)));
}

/// A warning of a rule that is judged by `dockerfile::lint`, about a word with variables.
pub(crate) fn of_word(span: Span, found: impl IntoIterator<Item = (&'static str, String)>) -> Vec<Warning> {
    found.into_iter().map(|(rule, text)| warning(rule, span, text)).collect()
}

fn warning(rule: &'static str, span: Span, text: String) -> Warning {
    Warning { rule, text, span: Some(span) }
}

/// `FROM alpine:$TPYO`
pub(crate) fn undefined_in_from(scope: &GlobalScope, unmatched: &[String], span: Span) -> Vec<Warning> {
    let unknown = unmatched.iter().filter(|name| !scope.knows(name));
    unknown
        .map(|name| {
            let better = suggest(name, &scope.names()).map(|b| format!(" (did you mean {b}?)")).unwrap_or_default();
            warning("UndefinedArgInFrom", span, format!("FROM argument '{name}' is not declared{better}"))
        })
        .collect()
}

/// `$TPYO` in an instruction of a stage.
pub(crate) fn undefined_variables(scope: &StageScope, unmatched: &[String], span: Span) -> Vec<Warning> {
    let unknown = unmatched.iter().filter(|name| !scope.declares(name));
    unknown
        .map(|name| {
            let better = suggest(name, &scope.names()).map(|b| format!(" (did you mean ${b}?)")).unwrap_or_default();
            warning("UndefinedVar", span, format!("Usage of undefined variable '${name}'{better}"))
        })
        .collect()
}

/// A FROM that only build arguments make valid.
pub(crate) fn invalid_default_in_from(base: &str, span: Span) -> Warning {
    warning("InvalidDefaultArgInFrom", span, format!("Default value for ARG {base} results in empty or invalid base image name"))
}

/// A base of another platform than the one that was asked for.
pub(crate) fn base_platform(name: &str, wanted: &Platform, actual: &Platform, span: Span) -> Option<Warning> {
    let known = !actual.os.is_empty() && !actual.architecture.is_empty();
    (known && (wanted.os != actual.os || wanted.architecture != actual.architecture)).then(|| {
        let (wanted, actual) = (quote(&wanted.to_string()), quote(&actual.to_string()));
        let text = format!("Base image {name} was pulled with platform {actual}, expected {wanted} for current build");
        warning("InvalidBaseImagePlatform", span, text)
    })
}

/// `--build-arg` that nothing declares.
pub(crate) fn unconsumed_build_args(left: &[(String, Option<String>)]) -> Option<Warning> {
    let names: Vec<&str> = left.iter().map(|(name, _)| name.as_str()).collect();
    let near: Vec<&str> = left.iter().filter_map(|(_, near)| near.as_deref()).collect();
    let better = if near.is_empty() { String::new() } else { format!(" (did you mean {}?)", near.join(", ")) };
    let text = format!("[Warning] One or more build-args [{}] were not consumed{better}", names.join(" "));
    (!left.is_empty()).then_some(Warning { rule: "UnconsumedBuildArg", text, span: None })
}

/// `--no-cache-filter` with names that no stage has.
pub(crate) fn unknown_stages(no_cache: &NoCache, stages: &[String]) -> Option<Warning> {
    let NoCache::Stages(names) = no_cache else { return None };
    let unknown: Vec<&str> = names.iter().map(String::as_str).filter(|name| !stages.contains(&name.to_lowercase())).collect();
    let near: Vec<String> = unknown.iter().filter_map(|name| suggest(name, stages)).collect();
    let better = match (near.is_empty(), stages.is_empty()) {
        (false, _) => format!(" (did you mean {}?)", near.join(", ")),
        (true, false) => format!(" (stages of this file: {})", stages.join(", ")),
        (true, true) => " (no stage of it has a name: FROM … AS name gives it one)".to_owned(),
    };
    let text = format!("[Warning] --no-cache-filter names stages that are not in the file: {}{better}", unknown.join(", "));
    (!unknown.is_empty()).then_some(Warning { rule: "NoCacheFilter", text, span: None })
}

/// A name that is less than three edits away; nothing if the name itself is there.
pub(crate) fn suggest(name: &str, options: &[String]) -> Option<String> {
    dockerfile::suggest(name, options.iter().map(String::as_str), true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_are_near_and_not_the_name_itself() {
        let known = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(suggest("BULIDPLATFORM", &known(&["BUILDPLATFORM", "TARGETPLATFORM"])).as_deref(), Some("BUILDPLATFORM"));
        assert_eq!(suggest("foo", &known(&["PATH"])), None);
        assert_eq!(suggest("PATH", &known(&["PATHS", "PATH"])), None);
    }
}
