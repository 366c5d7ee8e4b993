//! Names of git repositories, as BuildKit reads them: `https://host/repo.git#ref:dir`, `git@host:repo?branch=main&subdir=dir`. Text
//! only; nobody is asked.

use std::collections::BTreeMap;

use super::url::{is_http, percent_decoded, query_pairs};

/// A place in the history of a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitRef {
    /// What git is given to reach it, without query and fragment. It may hold a password.
    pub remote: String,
    /// How it is reached.
    pub transport: Transport,
    /// The host with its port, for secrets that are meant for it alone.
    pub host: String,
    /// A branch, a tag or a full commit hash; `None` is the default branch.
    pub reference: Option<String>,
    /// What the commit's hash begins with.
    pub checksum: Option<String>,
    /// The directory that is taken, clean and relative; empty for all.
    pub subdir: String,
    /// Whether `.git` is kept, if that is said.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are left out.
    pub skip_submodules: bool,
    /// Which time files get.
    pub mtime: GitTime,
    /// The commit of `checksum` is fetched, whatever the reference points to; the reference is only a name for it.
    pub fetch_by_commit: bool,
    /// `github.com/…`: could be a path as well, and is one for ADD.
    pub is_path_alike: bool,
}

/// How a repository is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// `http://`, `https://`
    #[default]
    Http,
    /// `ssh://`, `user@host:path`
    Ssh,
    /// `git://`
    Git,
}

/// Which time the files of a checkout get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GitTime {
    /// That of the commit: the same wherever it is checked out.
    #[default]
    Commit,
    /// `mtime=checkout`: that of the checkout.
    Checkout,
}

/// A name that is meant as a repository's, and cannot be one. The sentences are BuildKit's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GitRefError {
    /// `?tag=`
    #[error("query {0:?} has no value")]
    NoValue(String),
    /// `?tag=a&tag=b`
    #[error("query {0:?} has multiple values")]
    ManyValues(String),
    /// `?colour=red`
    #[error("unexpected query {0:?}")]
    Unexpected(String),
    /// A switch that is neither on nor off, or a time that is none.
    #[error("invalid {name} value: {value:?}{}", if name == "mtime" { " (must be \"checkout\" or \"commit\")" } else { "" })]
    Invalid {
        /// The key.
        name: String,
        /// Its value.
        value: String,
    },
    /// Two places say different things.
    #[error("{name} conflicts: {one:?} vs {other:?}")]
    Conflict {
        /// `ref` or `subdir`.
        name: &'static str,
        /// The first.
        one: String,
        /// The second.
        other: String,
    },
    /// `?tag=a&branch=b`
    #[error("branch conflicts with tag")]
    BranchAndTag,
    /// `#-x`: git would read it as a flag.
    #[error("invalid git ref {0:?}")]
    BadRef(String),
    /// A checksum that is no part of a hash.
    #[error("invalid checksum {0} for Git URL, expected hex commit hash")]
    BadChecksum(String),
    /// `--keep-git-dir` and the URL say different things.
    #[error("inconsistent keep-git-dir configuration")]
    KeepTwice,
    /// `--checksum` and the URL say different things.
    #[error("checksum mismatch {0:?} != {1:?}")]
    ChecksumTwice(String, String),
    /// `fetch-by-commit` without a whole hash.
    #[error("fetch-by-commit requires a full commit SHA checksum, got {0:?}")]
    NoCommit(String),
}

impl GitRef {
    /// Reads a name; `None` if it is something else: a path, or a file's URL.
    pub fn parse(text: &str) -> Option<Result<Self, GitRefError>> {
        let (mut git, query, fragment) = Self::split(text)?;
        if let Some((reference, subdir)) = fragment.split_once(':').or_else(|| (!fragment.is_empty()).then_some((&fragment, ""))) {
            git.reference = Some(reference.to_owned()).filter(|reference| !reference.is_empty());
            git.subdir = clean(subdir);
        }
        Some(git.with_query(&query).and_then(Self::checked))
    }

    /// Scheme, host and path; query and fragment apart, the latter decoded.
    fn split(text: &str) -> Option<(Self, String, String)> {
        if text.starts_with("./") || text.starts_with("../") {
            return None;
        }
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let git = |transport, remote: String, host: &str| Self { remote, transport, host: host.into(), ..Self::default() };
        if place.starts_with("github.com/") {
            let git = Self { is_path_alike: true, ..git(Transport::Http, format!("https://{place}"), "github.com") };
            return Some((git, query.into(), percent_decoded(fragment)));
        }
        if let Some((scheme, after)) = place.split_once("://")
            && !scheme.is_empty()
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric())
        {
            let scheme = scheme.to_lowercase();
            let (authority, path) = after.split_once('/').unwrap_or((after, ""));
            let transport = match scheme.as_str() {
                "http" | "https" if percent_decoded(path).strip_suffix(".git").is_some() => Transport::Http,
                "ssh" => Transport::Ssh,
                "git" => Transport::Git,
                _ => return None,
            };
            let host = authority.rsplit('@').next().unwrap_or_default();
            return Some((git(transport, format!("{scheme}://{after}"), host), query.into(), percent_decoded(fragment)));
        }
        // `user@host:path`, whose path ends at the first `?`, and whose fragment is as it stands.
        let word = |text: &str, more: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c));
        let (user, after) = place.split_once('@')?;
        let (host, _) = after.split_once(':')?;
        if !word(user, "-_") || !word(host, "-.") {
            return None;
        }
        Some((git(Transport::Ssh, place.into(), host), query.into(), fragment.into()))
    }

    fn with_query(mut self, query: &str) -> Result<Self, GitRefError> {
        let mut pairs = BTreeMap::new();
        for (key, value) in query_pairs(query) {
            if pairs.insert(key.clone(), value).is_some() {
                return Err(GitRefError::ManyValues(key));
            }
        }
        for (key, value) in &pairs {
            let switch = || if value.is_empty() { Some(true) } else { parse_bool(value) };
            let switch = || switch().ok_or_else(|| GitRefError::Invalid { name: key.clone(), value: value.clone() });
            match key.as_str() {
                "keep-git-dir" => self.keep_git_dir = Some(switch()?),
                "submodules" => self.skip_submodules = !switch()?,
                "fetch-by-commit" => self.fetch_by_commit = switch()?,
                _ if value.is_empty() => return Err(GitRefError::NoValue(key.clone())),
                "ref" | "tag" | "branch" => {}
                "subdir" => {
                    let subdir = clean(value);
                    self.subdir = agreed("subdir", Some(std::mem::take(&mut self.subdir)).filter(|s| !s.is_empty()), subdir)?;
                }
                "checksum" | "commit" => self.checksum = Some(value.clone()),
                "mtime" => {
                    self.mtime = match value.as_str() {
                        "commit" => GitTime::Commit,
                        "checkout" => GitTime::Checkout,
                        _ => return Err(GitRefError::Invalid { name: key.clone(), value: value.clone() }),
                    }
                }
                _ => return Err(GitRefError::Unexpected(key.clone())),
            }
        }
        if pairs.contains_key("tag") && pairs.contains_key("branch") {
            return Err(GitRefError::BranchAndTag);
        }
        for (key, prefix) in [("ref", ""), ("tag", "refs/tags/"), ("branch", "refs/heads/")] {
            if let Some(value) = pairs.get(key) {
                let full = if value.starts_with(prefix) { value.clone() } else { format!("{prefix}{value}") };
                self.reference = Some(agreed("ref", self.reference.take(), full)?);
            }
        }
        Ok(self)
    }

    /// Takes what flags of the instruction say.
    pub(crate) fn with_flags(mut self, keep_git_dir: Option<bool>, checksum: Option<&str>) -> Result<Self, GitRefError> {
        if let (Some(flag), Some(query)) = (keep_git_dir, self.keep_git_dir)
            && flag != query
        {
            return Err(GitRefError::KeepTwice);
        }
        self.keep_git_dir = self.keep_git_dir.or(keep_git_dir);
        if let Some(flag) = checksum {
            match &self.checksum {
                Some(query) if query != flag => return Err(GitRefError::ChecksumTwice(flag.into(), query.clone())),
                _ => self.checksum = Some(flag.into()),
            }
        }
        self.checked()
    }

    fn checked(self) -> Result<Self, GitRefError> {
        if let Some(reference) = self.reference.as_ref().filter(|reference| reference.starts_with('-')) {
            return Err(GitRefError::BadRef(reference.clone()));
        }
        if let Some(checksum) = self.checksum.as_ref().filter(|sum| !sum.bytes().all(|b| b.is_ascii_hexdigit())) {
            return Err(GitRefError::BadChecksum(checksum.clone()));
        }
        let pinned = self.reference.as_deref().is_some_and(is_commit);
        if self.fetch_by_commit && !pinned && !self.checksum.as_deref().is_some_and(is_commit) {
            return Err(GitRefError::NoCommit(self.checksum.unwrap_or_default()));
        }
        Ok(self)
    }

    /// The remote without a password, for people and for a `.git/config` that is kept.
    pub fn shown(&self) -> String {
        redacted(&self.remote)
    }

    /// Its name for people: no password, and the reference and directory behind it.
    pub fn shown_with_ref(&self) -> String {
        let fragment = match (self.reference.as_deref().unwrap_or_default(), self.subdir.as_str()) {
            ("", "") => String::new(),
            (reference, "") => format!("#{reference}"),
            (reference, subdir) => format!("#{reference}:{subdir}"),
        };
        self.shown() + &fragment
    }

    /// The password in the remote; for HTTP a user alone, which is a token then.
    pub fn password(&self) -> Option<&str> {
        let (_, after) = self.remote.split_once("://")?;
        let (user, _) = after.split('/').next()?.rsplit_once('@')?;
        let alone = Some(user).filter(|_| self.transport == Transport::Http);
        user.split_once(':').map(|(_, password)| password).or(alone).filter(|password| !password.is_empty())
    }
}

/// Whether a source is a repository for ADD.
pub(crate) fn is_git(source: &str) -> bool {
    match GitRef::parse(source) {
        Some(Ok(git)) => !git.is_path_alike,
        Some(Err(_)) => !source.starts_with("github.com/"),
        None => false,
    }
}

/// Whether a source is a file that is fetched.
pub(crate) fn is_file_url(source: &str) -> bool {
    is_http(source) && !is_git(source)
}

/// Whether a text is a whole hash: 40 digits, or 64 where git uses sha256.
pub fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// As Go's `URL.Redacted`; of an HTTP address a user alone, who is a token, is taken out too.
pub fn redacted(url: &str) -> String {
    let Some((scheme, after)) = url.split_once("://") else { return url.into() };
    let (authority, path) = after.split_at(after.find('/').unwrap_or(after.len()));
    match authority.rsplit_once('@').map(|(user, host)| (user.split_once(':'), host)) {
        Some((Some((user, _)), host)) => format!("{scheme}://{user}:xxxxx@{host}{path}"),
        Some((None, host)) if scheme.starts_with("http") => format!("{scheme}://xxxxx@{host}{path}"),
        _ => url.into(),
    }
}

fn agreed(name: &'static str, known: Option<String>, said: String) -> Result<String, GitRefError> {
    match known {
        Some(one) if one != said => Err(GitRefError::Conflict { name, one, other: said }),
        _ => Ok(said),
    }
}

fn clean(path: &str) -> String {
    super::paths::destination("/", path).trim_matches('/').into()
}

/// A boolean as Go reads it.
fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> GitRef {
        GitRef::parse(text).unwrap_or_else(|| panic!("{text} is no repository")).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn what_is_a_repository() {
        for (source, git, file) in [
            ("https://example.com/a.tar.gz", false, true),
            ("https://example.com/a.git", true, false),
            ("HTTPS://example.com/a.git", true, false),
            ("https://example.com/a.git#main:dir", true, false),
            ("https://example.com/a.git?colour=red", true, false),
            ("http://example.com/a.git/b", false, true),
            ("https://example.com/a?b=.git", false, true),
            ("git://example.com/x", true, false),
            ("ssh://git@example.com:22/x", true, false),
            ("git@github.com:a/b.git", true, false),
            ("github.com/a/b", false, false),
            ("github.com/a/b?colour=red", false, false),
            ("file:///a.git", false, false),
            ("dir/with:colon", false, false),
            ("a@b", false, false),
            ("./git@x:y", false, false),
            ("../git@x:y", false, false),
        ] {
            assert_eq!((is_git(source), is_file_url(source)), (git, file), "{source}");
        }
        assert!(parsed("github.com/a/b").is_path_alike);
    }

    #[test]
    fn references_and_directories() {
        for (text, remote, host, reference, subdir) in [
            ("https://u:pw@h:8/a.git", "https://u:pw@h:8/a.git", "h:8", "", ""),
            ("https://h/a.git#main", "https://h/a.git", "h", "main", ""),
            ("https://h/a.git#feat/x:/a/../b/", "https://h/a.git", "h", "feat/x", "b"),
            ("https://h/a.git#:d", "https://h/a.git", "h", "", "d"),
            ("git@h.io:a/b.git#v1:../..", "git@h.io:a/b.git", "h.io", "v1", ""),
            ("git@h:a?tag=v1&subdir=x%2Fy", "git@h:a", "h", "refs/tags/v1", "x/y"),
            ("github.com/a/b#r", "https://github.com/a/b", "github.com", "r", ""),
            ("https://h/a.git?branch=refs/heads/m#refs/heads/m", "https://h/a.git", "h", "refs/heads/m", ""),
            ("https://h/a.git?ref=x#:y", "https://h/a.git", "h", "x", "y"),
        ] {
            let git = parsed(text);
            let reference = Some(reference.to_owned()).filter(|r| !r.is_empty());
            assert_eq!(
                (git.remote.as_str(), git.host.as_str(), git.reference, git.subdir.as_str()),
                (remote, host, reference, subdir),
                "{text}"
            );
        }
    }

    #[test]
    fn queries_say_how() {
        let sum = "0".repeat(40);
        let git = parsed(&format!("https://h/a.git?keep-git-dir&submodules=false&mtime=checkout&fetch-by-commit=1&commit={sum}"));
        assert_eq!((git.keep_git_dir, git.skip_submodules, git.mtime, git.fetch_by_commit), (Some(true), true, GitTime::Checkout, true));
        assert_eq!(git.checksum, Some(sum));
        for (query, sentence) in [
            ("colour=red", "unexpected query \"colour\""),
            ("tag=", "query \"tag\" has no value"),
            ("ref=a&ref=b", "query \"ref\" has multiple values"),
            ("tag=a&branch=b", "branch conflicts with tag"),
            ("ref=a#b", "ref conflicts: \"b\" vs \"a\""),
            ("subdir=a#:b", "subdir conflicts: \"b\" vs \"a\""),
            ("keep-git-dir=x", "invalid keep-git-dir value: \"x\""),
            ("mtime=now", "invalid mtime value: \"now\" (must be \"checkout\" or \"commit\")"),
            ("ref=-x", "invalid git ref \"-x\""),
            ("checksum=xyz", "invalid checksum xyz for Git URL, expected hex commit hash"),
            ("fetch-by-commit&checksum=ab", "fetch-by-commit requires a full commit SHA checksum, got \"ab\""),
        ] {
            let error = GitRef::parse(&format!("https://h/a.git?{query}")).expect("a repository").expect_err(query);
            assert_eq!(error.to_string(), sentence, "{query}");
        }
    }

    #[test]
    fn flags_and_the_url_must_agree() {
        let git = parsed("https://h/a.git?keep-git-dir=false&checksum=ab");
        assert_eq!(git.clone().with_flags(Some(true), None), Err(GitRefError::KeepTwice));
        assert_eq!(git.clone().with_flags(None, Some("cd")), Err(GitRefError::ChecksumTwice("cd".into(), "ab".into())));
        assert_eq!(git.clone().with_flags(Some(false), Some("ab")), Ok(git));
        assert_eq!(parsed("https://h/a.git").with_flags(Some(true), None).map(|git| git.keep_git_dir), Ok(Some(true)));
    }

    #[test]
    fn passwords_are_not_shown() {
        let git = parsed("https://u:pw@h/a.git#r:d");
        assert_eq!((git.shown_with_ref().as_str(), git.password()), ("https://u:xxxxx@h/a.git#r:d", Some("pw")));
        assert_eq!(parsed("https://token@h/a.git").shown(), "https://xxxxx@h/a.git");
        assert_eq!(parsed("ssh://git@h/a.git").shown(), "ssh://git@h/a.git");
        assert_eq!(parsed("git@h:a.git").password(), None);
    }
}
