//! Image names: `[domain[:port]/]path[/path…][:tag][@digest]`, by the grammar that Docker and every registry share.
//!
//! A [`Reference`] is always normalised: `alpine` and `index.docker.io/library/alpine` are both `docker.io/library/alpine`.
//! What people type and read is the *familiar* form, without `docker.io/library/`.

use std::fmt;
use std::str::FromStr;

use shale_cache::OciDigest;

/// The registry of names without a domain.
pub const DEFAULT_DOMAIN: &str = "docker.io";
/// The tag of names without a tag and without a digest.
pub const DEFAULT_TAG: &str = "latest";

const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const DEFAULT_API_HOST: &str = "registry-1.docker.io";
const DEFAULT_CREDENTIAL_KEY: &str = "https://index.docker.io/v1/";
const PATH_LIMIT_BYTES: usize = 255;
const TAG_LIMIT_BYTES: usize = 128;

/// A text that is no image name. The sentences are Docker's: scripts look for them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It does not follow the grammar.
    #[error("invalid reference format")]
    Format {
        /// What was given.
        text: String,
    },
    /// The repository holds upper-case letters.
    #[error("invalid reference format: repository name ({name}) must be lowercase")]
    Uppercase {
        /// The name without domain, tag and digest.
        name: String,
    },
    /// It looks like an image id.
    #[error("invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")]
    Identifier {
        /// What was given.
        text: String,
    },
    /// The repository is too long.
    #[error("repository name must not be more than {PATH_LIMIT_BYTES} characters")]
    TooLong {
        /// What was given.
        text: String,
    },
    /// The digest after `@` has an unknown algorithm or a wrong length.
    #[error("invalid digest {digest:?}: unsupported algorithm or length")]
    Digest {
        /// The part after `@`.
        digest: String,
    },
}

/// A normalised image name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<OciDigest>,
}

impl Reference {
    /// Reads a name as people write it. Tag and digest stay absent where none was written.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.len() == 64 && text.bytes().all(is_lower_hex) {
            return Err(ReferenceError::Identifier { text: text.into() });
        }
        let format = || ReferenceError::Format { text: text.into() };
        let (domain, remainder) = split_domain(text);
        let name = remainder.split(':').next().unwrap_or_default();
        if name.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase { name: name.into() });
        }
        let (rest, digest) = match remainder.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (remainder.as_str(), None),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        let valid = is_domain(&domain) && is_path(path) && tag.is_none_or(is_tag) && digest.is_none_or(is_digest_shaped);
        if !valid {
            return Err(format());
        }
        if path.len() > PATH_LIMIT_BYTES {
            return Err(ReferenceError::TooLong { text: text.into() });
        }
        let digest = match digest {
            Some(digest) => Some(digest.parse().map_err(|_| ReferenceError::Digest { digest: digest.into() })?),
            None => None,
        };
        Ok(Self { domain, path: path.into(), tag: tag.map(Into::into), digest })
    }

    /// `docker.io`, `localhost:5000`, …
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository inside the registry: `library/alpine`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if one was written.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was written.
    pub fn digest(&self) -> Option<&OciDigest> {
        self.digest.as_ref()
    }

    /// Domain and path: `docker.io/library/alpine`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The name as people write it: `alpine`, `user/app`, `localhost:5000/app`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        match self.path.strip_prefix(OFFICIAL_PREFIX) {
            Some(short) if !short.contains('/') => short.into(),
            _ => self.path.clone(),
        }
    }

    /// The familiar name with tag and digest.
    pub fn familiar(&self) -> String {
        self.with_suffix(self.familiar_name())
    }

    /// The same with `latest` where neither tag nor digest was written.
    #[must_use]
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.into());
        }
        self
    }

    /// Only name and digest: `name@sha256:…`.
    #[must_use]
    pub fn at_digest(&self, digest: &OciDigest) -> Self {
        Self { tag: None, digest: Some(digest.clone()), ..self.clone() }
    }

    /// The same with a digest beside its tag.
    #[must_use]
    pub fn with_digest(&self, digest: &OciDigest) -> Self {
        Self { digest: Some(digest.clone()), ..self.clone() }
    }

    /// Only name and tag, `None` where the reference has no tag.
    pub fn tagged(&self) -> Option<Self> {
        self.tag.as_ref()?;
        Some(Self { digest: None, ..self.clone() })
    }

    /// The same tag or digest in another place: `location` is `HOST[/PREFIX]`, `rest` the path below it.
    #[must_use]
    pub fn moved(&self, location: &str, rest: &str) -> Self {
        let (domain, prefix) = location.split_once('/').unwrap_or((location, ""));
        let path = [prefix.trim_matches('/'), rest].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
        Self { domain: domain.into(), path, ..self.clone() }
    }

    /// Host and port that serve the registry's API.
    pub fn api_host(&self) -> &str {
        api_host(&self.domain)
    }

    /// The key of the registry in `config.json` and for credential helpers.
    pub fn credential_key(&self) -> &str {
        credential_key(&self.domain)
    }

    fn with_suffix(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(&digest.to_string());
        }
        name
    }
}

impl fmt::Display for Reference {
    /// The full form, `docker.io/library/alpine:latest`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffix(self.name()))
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

/// Host and port that serve the API of a registry.
pub fn api_host(domain: &str) -> &str {
    if domain == DEFAULT_DOMAIN { DEFAULT_API_HOST } else { domain }
}

/// The key of a registry in `config.json` and for credential helpers.
pub fn credential_key(domain: &str) -> &str {
    if domain == DEFAULT_DOMAIN { DEFAULT_CREDENTIAL_KEY } else { domain }
}

/// The registry that an address means as people give it to `login`: a domain, or a URL with or without a path.
pub fn registry_of(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    match rest.split('/').next().unwrap_or(rest) {
        "" | DEFAULT_DOMAIN | LEGACY_DEFAULT_DOMAIN | DEFAULT_API_HOST => DEFAULT_DOMAIN,
        host => host,
    }
}

/// Splits off the domain, or supplies Docker's.
fn split_domain(text: &str) -> (String, String) {
    let (domain, rest) = match text.split_once('/') {
        Some((LEGACY_DEFAULT_DOMAIN, rest)) => (DEFAULT_DOMAIN, rest),
        // Upper case cannot be a path, so it can only have been meant as a host.
        Some((first, rest)) if first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase()) => {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, text),
    };
    if domain == DEFAULT_DOMAIN && !rest.contains('/') {
        return (domain.into(), format!("{OFFICIAL_PREFIX}{rest}"));
    }
    (domain.into(), rest.into())
}

fn is_lower_hex(b: u8) -> bool {
    matches!(b, b'0'..=b'9' | b'a'..=b'f')
}

fn is_domain(text: &str) -> bool {
    let (host_fits, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(None) => return false,
        Some(Some((address, after))) => (!address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'), after),
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            (host.split('.').all(is_domain_component), port)
        }
    };
    let port_fits = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    host_fits && (port.is_empty() || port.strip_prefix(':').is_some_and(port_fits))
}

fn is_domain_component(text: &str) -> bool {
    !text.is_empty() && !text.starts_with('-') && !text.ends_with('-') && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn is_path(text: &str) -> bool {
    text.split('/').all(is_path_component)
}

/// Runs of `[a-z0-9]`, joined by one of `.`, `_`, `__` or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    if !bytes.first().is_some_and(|b| is_word(*b)) || !bytes.last().is_some_and(|b| is_word(*b)) {
        return false;
    }
    bytes.split(|b| is_word(*b)).all(|s| matches!(s, b"" | b"." | b"_" | b"__") || s.iter().all(|b| *b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= TAG_LIMIT_BYTES && text.bytes().next().is_some_and(is_word) && text.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
}

/// What the grammar takes for a digest; whether the algorithm is known is another question with another error.
fn is_digest_shaped(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    let component_fits =
        |c: &str| c.bytes().next().is_some_and(|b| b.is_ascii_alphabetic()) && c.bytes().all(|b| b.is_ascii_alphanumeric());
    algorithm.split(['-', '_', '+', '.']).all(component_fits) && hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    const HEX: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn names_are_normalised_and_familiar_forms_go_back() {
        let d = format!("sha256:{HEX}");
        let cases = [
            ("alpine", "docker.io/library/alpine", "alpine"),
            ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
            ("user/app", "docker.io/user/app", "user/app"),
            ("a/b/c:t", "docker.io/a/b/c:t", "a/b/c:t"),
            ("docker.io/alpine", "docker.io/library/alpine", "alpine"),
            ("docker.io/library/alpine:x", "docker.io/library/alpine:x", "alpine:x"),
            ("index.docker.io/alpine", "docker.io/library/alpine", "alpine"),
            ("index.docker.io/user/app", "docker.io/user/app", "user/app"),
            ("library/alpine", "docker.io/library/alpine", "alpine"),
            ("library/a/b", "docker.io/library/a/b", "library/a/b"),
            ("localhost/app", "localhost/app", "localhost/app"),
            ("localhost:5000/app:T", "localhost:5000/app:T", "localhost:5000/app:T"),
            ("gcr.io/p/i", "gcr.io/p/i", "gcr.io/p/i"),
            ("UPPER/app", "UPPER/app", "UPPER/app"),
            ("Host.Example:8/app", "Host.Example:8/app", "Host.Example:8/app"),
            ("[::1]:5000/app:1", "[::1]:5000/app:1", "[::1]:5000/app:1"),
            ("[fe80::1]/app", "[fe80::1]/app", "[fe80::1]/app"),
            ("a--b/c__d.e_f", "docker.io/a--b/c__d.e_f", "a--b/c__d.e_f"),
            ("x:_t-1.A", "docker.io/library/x:_t-1.A", "x:_t-1.A"),
            ("0123456789ab", "docker.io/library/0123456789ab", "0123456789ab"),
            (&format!("x@{d}"), &format!("docker.io/library/x@{d}"), &format!("x@{d}")),
            (&format!("x:t@{d}"), &format!("docker.io/library/x:t@{d}"), &format!("x:t@{d}")),
        ];
        for (text, full, familiar) in cases {
            let reference = Reference::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(reference.to_string(), full, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
        }
    }

    #[test]
    fn errors_are_dockers_sentences() {
        let long = format!("a/{}", "b".repeat(255));
        let cases = [
            ("", "invalid reference format"),
            (":tag", "invalid reference format"),
            ("a b", "invalid reference format"),
            ("a:", "invalid reference format"),
            ("a:-t", "invalid reference format"),
            ("a:b:c", "invalid reference format"),
            ("a//b", "invalid reference format"),
            ("/a", "invalid reference format"),
            ("a/", "invalid reference format"),
            ("a___b", "invalid reference format"),
            ("a.-b", "invalid reference format"),
            ("-a", "invalid reference format"),
            ("a@", "invalid reference format"),
            ("a@sha256:abc", "invalid reference format"),
            ("host:port/a", "invalid reference format"),
            ("-h.io/a", "invalid reference format"),
            ("[::1/a", "invalid reference format"),
            ("[]:5/a", "invalid reference format"),
            ("[::1]x/a", "invalid reference format"),
            ("é", "invalid reference format"),
            ("https://gcr.io/x", "invalid reference format"),
            ("Alpine", "invalid reference format: repository name (library/Alpine) must be lowercase"),
            ("user/App:1", "invalid reference format: repository name (user/App) must be lowercase"),
            ("gcr.io/Up/x@sha256:1", "invalid reference format: repository name (Up/x@sha256) must be lowercase"),
            (HEX, &format!("invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings")),
            (&long, "repository name must not be more than 255 characters"),
            (&format!("a@md5:{HEX}"), &format!("invalid digest \"md5:{HEX}\": unsupported algorithm or length")),
            (&format!("a@sha256:{HEX}00"), &format!("invalid digest \"sha256:{HEX}00\": unsupported algorithm or length")),
        ];
        for (text, message) in cases {
            let error = Reference::parse(text).expect_err(text);
            assert_eq!(error.to_string(), message, "{text}");
        }
        assert!(Reference::parse(&format!("a:{}", "t".repeat(128))).is_ok());
        assert!(Reference::parse(&format!("a:{}", "t".repeat(129))).is_err());
    }

    #[test]
    fn addresses_of_registries() {
        for (address, registry) in [
            ("", "docker.io"),
            ("docker.io", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("https://registry.example.com/", "registry.example.com"),
            ("http://localhost:5000/v2/", "localhost:5000"),
            ("localhost:5000", "localhost:5000"),
            ("r.io/team", "r.io"),
        ] {
            assert_eq!(registry_of(address), registry, "{address}");
        }
    }

    #[test]
    fn hosts_and_defaults() {
        let alpine = Reference::parse("alpine").expect("a name");
        assert_eq!((alpine.api_host(), alpine.credential_key()), ("registry-1.docker.io", "https://index.docker.io/v1/"));
        assert_eq!(alpine.clone().with_default_tag().tag(), Some("latest"));
        let local = Reference::parse("localhost:5000/a:1").expect("a name");
        assert_eq!((local.api_host(), local.credential_key()), ("localhost:5000", "localhost:5000"));
        let pinned = Reference::parse(&format!("a:1@sha256:{HEX}")).expect("a name");
        assert_eq!(pinned.clone().with_default_tag(), pinned);
        assert_eq!(pinned.tagged().expect("a tag").to_string(), "docker.io/library/a:1");
        let digest = pinned.digest().expect("a digest");
        assert_eq!(alpine.at_digest(digest).to_string(), format!("docker.io/library/alpine@sha256:{HEX}"));
        assert_eq!(Reference::parse(&format!("a@sha256:{HEX}")).expect("a name").with_default_tag().tag(), None);
    }

    /// The grammar as one expression, for names whose domain is written out.
    fn grammar() -> Regex {
        let component = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])";
        let domain = format!(r"(?:{component}(?:\.{component})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?");
        let path = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*";
        let tag = "[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,127}";
        let digest = "[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}";
        Regex::new(&format!("^{domain}/{path}(?:/{path})*(?::{tag})?(?:@{digest})?$")).expect("an expression")
    }

    proptest! {
        #[test]
        fn agrees_with_the_grammar(text in "([a-zA-Z0-9.:\\[\\]-]{1,8}|a\\.b:5)/[a-z0-9._/-]{1,12}(:[a-zA-Z_.:-]{0,4})?") {
            let (domain, rest) = split_domain(&text);
            let expected = grammar().is_match(&format!("{domain}/{rest}"));
            prop_assert_eq!(Reference::parse(&text).is_ok(), expected, "{}", text);
        }

        #[test]
        fn printed_forms_read_back(text in "(localhost:5000/|gcr\\.io/|docker\\.io/|u/|)[a-z]{1,3}(/[a-z0-9]{1,3}){0,2}(:[a-z0-9]{1,4})?") {
            let reference = Reference::parse(&text).expect("fits the grammar");
            prop_assert_eq!(&Reference::parse(&reference.to_string()).expect("the full form"), &reference);
            prop_assert_eq!(&Reference::parse(&reference.familiar()).expect("the familiar form"), &reference);
        }

        #[test]
        fn never_panics(text in "\\PC{0,40}") {
            drop(Reference::parse(&text));
        }
    }
}
