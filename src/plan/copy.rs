//! COPY and ADD.

use super::error::{PlanError, PlanErrorKind};
use super::graph::{CopyOp, CopySource, InlineFile, Op, UrlSource};
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
        let unpack = copy.unpack.as_ref().map(|u| u.node);
        let (urls, paths) = split_sources(&words, unpack == Some(true));
        let has_paths = !paths.is_empty();
        let op = CopyOp {
            source,
            // With --parents a `/./` in a source marks where the kept path begins, so nothing is cleaned away.
            sources: if parents { paths } else { paths.iter().map(|s| paths::source(s)).collect() },
            urls,
            inline: words.inline,
            destination: paths::destination(&self.state.config.config.working_dir, &words.destination),
            chown: words.chown,
            chmod,
            unpack_archives: has_paths && unpack.unwrap_or(instruction == "ADD"),
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
                [one] if is_git(one) => None,
                [one] if is_http(one) => words.checksum.as_deref().and_then(checksum_fault).map(PlanErrorKind::BadChecksum),
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
                http if is_http(http) => PlanErrorKind::CopyUrl,
                _ => continue,
            };
            if instruction == "COPY" {
                return Err(PlanError::at(step.at(written.span), refusal));
            }
            if is_git(source) {
                self.refuse_unsupported(step, written.span, Feature::AddGit, instruction);
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

/// The URLs among the sources, and the others.
fn split_sources(words: &Words, unpack: bool) -> (Vec<UrlSource>, Vec<String>) {
    let (mut urls, mut paths) = (Vec::new(), Vec::new());
    for source in &words.sources {
        if is_http(source) {
            let (name, checksum) = (url_name(source), words.checksum.clone());
            urls.push(UrlSource { url: source.clone(), name, checksum, unpack, after: paths.len() });
        } else {
            paths.push(source.clone());
        }
    }
    (urls, paths)
}

/// The last part of a URL's path; BuildKit's name where there is none.
fn url_name(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest).split(['?', '#']).next().unwrap_or_default();
    let path = percent_decoded(rest.split_once('/').map_or("", |(_, path)| path));
    match path.trim_end_matches('/').rsplit('/').next() {
        None | Some("" | "." | "..") => "__unnamed__".into(),
        Some(name) => name.into(),
    }
}

/// `%41` → `A`; what cannot be decoded stays.
fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|byte| bytes[at] == b'%' && *byte != 0);
        out.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8(out).unwrap_or_else(|_| text.into())
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
    fn files_are_named_by_the_path_of_their_url() {
        for (url, name) in [
            ("http://h/foo", "foo"),
            ("http://h/a/b.tar.gz?x=/y#/z", "b.tar.gz"),
            ("http://h/dir/", "dir"),
            ("http://h", "__unnamed__"),
            ("http://h/", "__unnamed__"),
            ("http://h?a=/b", "__unnamed__"),
            ("http://h/a/..", "__unnamed__"),
            ("http://h/a%20b", "a b"),
            ("http://h/a%2f..%2F..", "__unnamed__"),
            ("http://h/100%", "100%"),
        ] {
            assert_eq!(url_name(url), name, "{url}");
        }
    }

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
