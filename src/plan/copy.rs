//! COPY and ADD.

use std::collections::BTreeSet;

use super::error::{PlanError, PlanErrorKind};
use super::git::{GitRef, GitRefError, is_file_url, is_git};
use super::graph::{CopyOp, CopySource, InlineFile, Op, Remote, RemoteSource, UrlSource};
use super::stage::{StageLowering, Step};
use super::{paths, url};
use crate::dockerfile::ast::Copy;
use crate::dockerfile::word;
use crate::oci::history::{self, CopyText};
use crate::span::Spanned;
use crate::tree::chmod::Chmod;

/// The words of a COPY or ADD after expansion.
struct Words {
    chown: Option<String>,
    chmod: Option<String>,
    checksum: Option<String>,
    sources: Vec<String>,
    destination: String,
    inline: Vec<InlineFile>,
    /// The parts of keys that have a secret in them.
    secret_parts: BTreeSet<String>,
}

impl StageLowering<'_, '_, '_> {
    pub(crate) fn copy_step(&mut self, step: &Step<'_>, copy: &Copy, instruction: &'static str) -> Result<(), PlanError> {
        let words = self.copy_words(step, copy)?;
        Self::check_sources(step, copy, &words, instruction)?;
        let source = match &copy.from {
            Some(from) => self.copy_source(from).map_err(|kind| PlanError::at(step.at(from.span), kind))?,
            None => CopySource::Context(None),
        };
        let parents = copy.parents.as_ref().is_some_and(|p| p.node);
        let chmod = Self::chmod(step, copy, words.chmod.as_deref())?;
        let heredocs: Vec<String> = words.inline.iter().map(|f| f.name.clone()).collect();
        let text = history::copy(CopyText {
            instruction,
            parents,
            chown: words.chown.as_deref(),
            chmod: words.chmod.as_deref(),
            sources: &words.sources,
            heredocs: &heredocs,
            destination: &words.destination,
        });
        let unpack = copy.unpack.as_ref().map(|u| u.node);
        let (remotes, paths) = split_sources(step, copy, &words)?;
        let has_paths = !paths.is_empty();
        if source == CopySource::Context(None) {
            for path in &paths {
                self.note_taken(step, instruction, paths::cleaned(path));
            }
        }
        // With --chmod BuildKit copies onto what is there: a linked layer would give that mode to the directories above, too.
        let link = chmod.is_none() && copy.link.as_ref().is_some_and(|l| l.node);
        let op = CopyOp {
            source,
            // With --parents a `/./` in a source marks where the kept path begins, so nothing is cleaned away.
            sources: if parents { paths } else { paths.iter().map(|s| paths::source(s)).collect() },
            remotes,
            inline: words.inline,
            destination: paths::destination(&self.state.config.config.working_dir, &words.destination),
            chown: words.chown,
            chmod,
            unpack_archives: has_paths && unpack.unwrap_or(instruction == "ADD"),
            exclude: copy.exclude.iter().map(|e| e.node.clone()).collect(),
            parents,
            link,
            instruction,
        };
        let display = self.copy_display(step);
        self.advance(step, Op::Copy(Box::new(op)), display, true, text, words.secret_parts);
        Ok(())
    }

    fn copy_words(&mut self, step: &Step<'_>, copy: &Copy) -> Result<Words, PlanError> {
        let chown = self.optional_word(step, copy.chown.as_ref())?;
        let chmod = self.optional_word(step, copy.chmod.as_ref())?;
        let checksum = self.optional_word(step, copy.checksum.as_ref())?;
        let sources = copy.sources.iter().map(|s| self.word(step, s)).collect::<Result<Vec<_>, _>>()?;
        let destination = self.optional_word(step, copy.destination.as_ref())?.unwrap_or_default();
        let mut secret_parts = self.secret_words(&[("chown", copy.chown.as_ref()), ("chmod", copy.chmod.as_ref())]);
        if self.is_secret_path(copy.destination.as_ref().map_or("", |word| word.as_str()), &destination) {
            secret_parts.insert("destination".into());
        }
        let mut inline = Vec::new();
        for heredoc in &copy.heredocs {
            let content = if heredoc.expand {
                let scope = &self.state.scope;
                let expanded = word::expand_raw(&heredoc.content, &|name| scope.get(name));
                if expanded.as_ref().is_ok_and(|expanded| scope.has_secret(&expanded.matched)) {
                    secret_parts.insert(format!("heredoc {}", heredoc.name));
                }
                self.expanded(step, heredoc.span, expanded)?
            } else {
                heredoc.content.clone()
            };
            inline.push(InlineFile { name: heredoc.name.clone(), content });
        }
        Ok(Words { chown, chmod, checksum, sources, destination, inline, secret_parts })
    }

    /// A flag's value; one that expands to nothing is as if it were not written.
    fn optional_word(&mut self, step: &Step<'_>, word: Option<&Spanned<String>>) -> Result<Option<String>, PlanError> {
        Ok(word.map(|w| self.word(step, w)).transpose()?.filter(|w| !w.is_empty()))
    }

    fn check_sources(step: &Step<'_>, copy: &Copy, words: &Words, instruction: &'static str) -> Result<(), PlanError> {
        if let (Some(_), Some(written)) = (&words.checksum, &copy.checksum) {
            let kind = match &words.sources[..] {
                [one] if is_git(one) => None,
                [one] if is_file_url(one) => words.checksum.as_deref().and_then(checksum_fault).map(PlanErrorKind::BadChecksum),
                [_] => Some(PlanErrorKind::ChecksumOfLocal),
                _ => Some(PlanErrorKind::ChecksumOfMany),
            };
            if let Some(kind) = kind {
                return Err(PlanError::at(step.at(written.span), kind));
            }
        }
        for (source, written) in words.sources.iter().zip(&copy.sources) {
            let refusal = match source {
                git if is_git(git) => PlanErrorKind::CopyGit,
                http if is_file_url(http) => PlanErrorKind::CopyUrl,
                _ => continue,
            };
            if instruction == "COPY" {
                return Err(PlanError::at(step.at(written.span), refusal));
            }
        }
        Ok(())
    }

    fn chmod(step: &Step<'_>, copy: &Copy, chmod: Option<&str>) -> Result<Option<Chmod>, PlanError> {
        let (Some(text), Some(written)) = (chmod, &copy.chmod) else { return Ok(None) };
        let bad = || PlanError::at(step.at(written.span), PlanErrorKind::BadChmod(text.into()));
        Chmod::parse(text).map(Some).ok_or_else(bad)
    }
}

/// The sources that are fetched, and the others.
fn split_sources(step: &Step<'_>, copy: &Copy, words: &Words) -> Result<(Vec<RemoteSource>, Vec<String>), PlanError> {
    let (mut remotes, mut paths) = (Vec::new(), Vec::new());
    for (number, source) in words.sources.iter().enumerate() {
        let Some(what) = remote(source, copy, words.checksum.clone()) else {
            paths.push(source.clone());
            continue;
        };
        let written = copy.sources.get(number).map_or(step.instruction.span, |written| written.span);
        let what = what.map_err(|error| PlanError::at(step.at(written), error))?;
        remotes.push(RemoteSource { what, after: paths.len() });
    }
    Ok((remotes, paths))
}

/// What an expanded source is that must be fetched; `None` for a path.
pub(super) fn remote(source: &str, copy: &Copy, checksum: Option<String>) -> Option<Result<Remote, GitRefError>> {
    if is_git(source) {
        let keep = copy.keep_git_dir.as_ref().map(|keep| keep.node);
        return Some(GitRef::parse(source)?.and_then(|git| git.with_flags(keep, checksum.as_deref())).map(Remote::Git));
    }
    let unpack = copy.unpack.as_ref().is_some_and(|unpack| unpack.node);
    let file = || UrlSource { url: source.into(), name: url::file_name(source), checksum, unpack };
    url::is_http(source).then(|| Ok(Remote::File(file())))
}

/// What is wrong with a `--checksum` of a file, in the words of the library that BuildKit reads it with.
fn checksum_fault(text: &str) -> Option<&'static str> {
    let Some((algorithm, hex)) = text.split_once(':').filter(|(algorithm, hex)| !algorithm.is_empty() && !hex.is_empty()) else {
        return Some("invalid checksum digest format");
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || "+._-".contains(c);
    if algorithm != "sha256" {
        let looks_right = algorithm.chars().all(is_name) && hex.chars().all(|c| c.is_ascii_alphanumeric() || "=_-".contains(c));
        return Some(if looks_right { "unsupported digest algorithm" } else { "invalid checksum digest format" });
    }
    if hex.len() != 64 {
        return Some("invalid checksum digest length");
    }
    let is_hex = hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (!is_hex).then_some("invalid checksum digest format")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_judged_as_by_buildkit() {
        let good = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(checksum_fault(&good), None);
        for (text, fault) in [
            ("sha256", "invalid checksum digest format"),
            ("sha256:", "invalid checksum digest format"),
            ("md5:00", "unsupported digest algorithm"),
            ("sha256:00", "invalid checksum digest length"),
            (&good.to_uppercase().replace("SHA", "sha"), "invalid checksum digest format"),
        ] {
            assert_eq!(checksum_fault(text), Some(fault), "{text}");
        }
    }
}
