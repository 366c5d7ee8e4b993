//! COPY and ADD.

use super::error::{PlanError, PlanErrorKind};
use super::graph::{CopyOp, CopySource, InlineFile, Op};
use super::paths;
use super::stage::{StageLowering, Step};
use super::support::Feature;
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
}

impl StageLowering<'_, '_, '_> {
    pub(crate) fn copy_step(&mut self, step: &Step<'_>, copy: &Copy, instruction: &'static str) -> Result<(), PlanError> {
        let words = self.copy_words(step, copy)?;
        self.refuse_copy_flags(step, copy, instruction);
        self.check_sources(step, copy, &words, instruction)?;
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
        let op = CopyOp {
            source,
            // With --parents a `/./` in a source marks where the kept path begins, so nothing is cleaned away.
            sources: if parents { words.sources } else { words.sources.iter().map(|s| paths::source(s)).collect() },
            inline: words.inline,
            destination: paths::destination(&self.state.config.config.working_dir, &words.destination),
            chown: words.chown,
            chmod,
            unpack_archives: copy.unpack.as_ref().map_or(instruction == "ADD", |u| u.node),
            exclude: copy.exclude.iter().map(|e| e.node.clone()).collect(),
            parents,
            link: copy.link.as_ref().is_some_and(|l| l.node),
            instruction,
        };
        let display = self.copy_display(step);
        self.advance(step, Op::Copy(Box::new(op)), display, true, text);
        Ok(())
    }

    fn copy_words(&mut self, step: &Step<'_>, copy: &Copy) -> Result<Words, PlanError> {
        let chown = self.optional_word(step, copy.chown.as_ref())?;
        let chmod = self.optional_word(step, copy.chmod.as_ref())?;
        let checksum = self.optional_word(step, copy.checksum.as_ref())?;
        let sources = copy.sources.iter().map(|s| self.word(step, s)).collect::<Result<Vec<_>, _>>()?;
        let destination = self.optional_word(step, copy.destination.as_ref())?.unwrap_or_default();
        let mut inline = Vec::new();
        for heredoc in &copy.heredocs {
            let content = if heredoc.expand {
                let expanded = word::expand_raw(&heredoc.content, &|n| self.state.scope.get(n));
                self.expanded(step, heredoc.span, expanded)?
            } else {
                heredoc.content.clone()
            };
            inline.push(InlineFile { name: heredoc.name.clone(), content });
        }
        Ok(Words { chown, chmod, checksum, sources, destination, inline })
    }

    /// A flag's value; one that expands to nothing is as if it were not written.
    fn optional_word(&mut self, step: &Step<'_>, word: Option<&Spanned<String>>) -> Result<Option<String>, PlanError> {
        Ok(word.map(|w| self.word(step, w)).transpose()?.filter(|w| !w.is_empty()))
    }

    fn refuse_copy_flags(&mut self, step: &Step<'_>, copy: &Copy, instruction: &'static str) {
        let switches = [(&copy.link, Feature::Link), (&copy.parents, Feature::Parents), (&copy.keep_git_dir, Feature::KeepGitDir)];
        for (switch, feature) in switches {
            if let Some(switch) = switch.as_ref().filter(|s| s.node) {
                self.refuse_unsupported(step, switch.span, feature, instruction);
            }
        }
        if let Some(exclude) = copy.exclude.first() {
            self.refuse_unsupported(step, exclude.span, Feature::Exclude, instruction);
        }
        if let Some(unpack) = &copy.unpack {
            self.refuse_unsupported(step, unpack.span, Feature::Unpack, instruction);
        }
    }

    fn check_sources(&mut self, step: &Step<'_>, copy: &Copy, words: &Words, instruction: &'static str) -> Result<(), PlanError> {
        if let (Some(_), Some(written)) = (&words.checksum, &copy.checksum) {
            let kind = match &words.sources[..] {
                [one] if is_git(one) || is_http(one) => None,
                [_] => Some(PlanErrorKind::ChecksumOfLocal),
                _ => Some(PlanErrorKind::ChecksumOfMany),
            };
            if let Some(kind) = kind {
                return Err(PlanError::at(step.at(written.span), kind));
            }
            self.refuse_unsupported(step, written.span, Feature::Checksum, instruction);
        }
        for (source, written) in words.sources.iter().zip(&copy.sources) {
            let (feature, refusal) = if is_git(source) {
                (Feature::AddGit, PlanErrorKind::CopyGit)
            } else if is_http(source) {
                (Feature::AddUrl, PlanErrorKind::CopyUrl)
            } else {
                continue;
            };
            if instruction == "COPY" {
                return Err(PlanError::at(step.at(written.span), refusal));
            }
            self.refuse_unsupported(step, written.span, feature, instruction);
        }
        Ok(())
    }

    fn chmod(step: &Step<'_>, copy: &Copy, chmod: Option<&str>) -> Result<Option<Chmod>, PlanError> {
        let (Some(text), Some(written)) = (chmod, &copy.chmod) else { return Ok(None) };
        let bad = || PlanError::at(step.at(written.span), PlanErrorKind::BadChmod(text.into()));
        Chmod::parse(text).map(Some).ok_or_else(bad)
    }
}

/// A URL that is fetched as a file.
fn is_http(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

/// A URL that is cloned: any of git's own schemes, `user@host:path`, or http with a path that ends in `.git`.
fn is_git(source: &str) -> bool {
    if source.starts_with("git://") || source.starts_with("ssh://") {
        return true;
    }
    if is_http(source) {
        let path = source.split(['?', '#']).next().unwrap_or_default();
        return path.strip_suffix(".git").is_some();
    }
    let word = |text: &str, more: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c));
    let user_and_host = source.split_once(':').and_then(|(place, _)| place.split_once('@'));
    user_and_host.is_some_and(|(user, host)| word(user, "-_") && word(host, "-."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_sources() {
        for (source, git, http) in [
            ("https://example.com/a.tar.gz", false, true),
            ("https://example.com/a.git", true, true),
            ("https://example.com/a.git#main:dir", true, true),
            ("http://example.com/a.git/b", false, true),
            ("git://example.com/x", true, false),
            ("git@github.com:a/b.git", true, false),
            ("github.com/a/b", false, false),
            ("dir/with:colon", false, false),
            ("a@b", false, false),
            ("./git@x:y", false, false),
        ] {
            assert_eq!((is_git(source), is_http(source)), (git, http), "{source}");
        }
    }
}
