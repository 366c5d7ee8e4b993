//! Names of images as FROM and `--from` write them: whether they can be one, and their full form.

/// Why a text is no image name; prints BuildKit's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NameError {
    #[error("invalid reference format")]
    Format,
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    UpperCase(String),
    #[error("repository name must not be more than 255 characters")]
    TooLong,
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Identifier(String),
}

/// An image name in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl Name {
    /// Reads a name as people write it.
    pub(crate) fn parse(text: &str) -> Result<Self, NameError> {
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(NameError::Identifier(text.into()));
        }
        let (domain, rest) = split_domain(text);
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (rest, None),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        let path = if domain == "docker.io" && !path.contains('/') { format!("library/{path}") } else { path.to_string() };
        if path.chars().any(char::is_uppercase) {
            return Err(NameError::UpperCase(path));
        }
        let good = is_domain(&domain) && path.split('/').all(is_component) && tag.is_none_or(is_tag) && digest.is_none_or(is_digest);
        if !good {
            return Err(NameError::Format);
        }
        if domain.len() + 1 + path.len() > 255 {
            return Err(NameError::TooLong);
        }
        Ok(Self { domain, path, tag: tag.map(Into::into), digest: digest.map(Into::into) })
    }

    /// `docker.io/library/alpine:latest`: with a tag, unless a digest or tag is written.
    pub(crate) fn full(&self) -> String {
        let tagless = self.tag.is_none() && self.digest.is_none();
        let tag = if tagless { Some("latest") } else { self.tag.as_deref() };
        self.render(&format!("{}/{}", self.domain, self.path), tag)
    }

    /// `alpine`, `alpine:3`, `quay.io/x/y`: the short form by which named contexts are found, without `latest`.
    pub(crate) fn familiar(&self) -> String {
        let name = match (self.domain.as_str(), self.path.strip_prefix("library/")) {
            ("docker.io", Some(short)) if !short.contains('/') => short.to_string(),
            ("docker.io", _) => self.path.clone(),
            (domain, _) => format!("{domain}/{}", self.path),
        };
        let tag = self.tag.as_deref().filter(|t| *t != "latest" || self.digest.is_some());
        self.render(&name, tag)
    }

    fn render(&self, name: &str, tag: Option<&str>) -> String {
        let tag = tag.map(|t| format!(":{t}")).unwrap_or_default();
        let digest = self.digest.as_ref().map(|d| format!("@{d}")).unwrap_or_default();
        format!("{name}{tag}{digest}")
    }
}

fn split_domain(text: &str) -> (String, &str) {
    match text.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" || first.to_lowercase() != first => {
            (if first == "index.docker.io" { "docker.io".into() } else { first.into() }, rest)
        }
        _ => ("docker.io".into(), text),
    }
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    if port.is_some_and(|p| p.is_empty() || !p.bytes().all(|b| b.is_ascii_digit())) {
        return false;
    }
    if let Some(address) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
    }
    host.split('.').all(|label| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    })
}

/// Lower-case letters and digits, with `.`, `_`, `__` or any number of `-` between them.
fn is_component(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let (Some(first), Some(last)) = (text.bytes().next(), text.bytes().last()) else { return false };
    if !word(first) || !word(last) {
        return false;
    }
    let separators = text.split(|c: char| c.is_ascii() && word(c as u8));
    separators.filter(|s| !s.is_empty()).all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= 128 && text.bytes().next().is_some_and(word) && text.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    let parts = algorithm.split(['-', '_', '+', '.']);
    let mut parts =
        parts.map(|p| p.bytes().next().is_some_and(|b| b.is_ascii_alphabetic()) && p.bytes().all(|b| b.is_ascii_alphanumeric()));
    let length = match algorithm {
        "sha256" => hex.len() == 64,
        "sha512" => hex.len() == 128,
        _ => hex.len() >= 32,
    };
    parts.all(|good| good) && length && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_and_familiar_forms() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (text, full, familiar) in [
            ("alpine", "docker.io/library/alpine:latest", "alpine"),
            ("alpine:latest", "docker.io/library/alpine:latest", "alpine"),
            ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
            ("a/b", "docker.io/a/b:latest", "a/b"),
            ("index.docker.io/library/x", "docker.io/library/x:latest", "x"),
            ("quay.io/a/b:1", "quay.io/a/b:1", "quay.io/a/b:1"),
            ("localhost/x", "localhost/x:latest", "localhost/x"),
            ("localhost:5000/x", "localhost:5000/x:latest", "localhost:5000/x"),
            (&format!("alpine@{digest}"), &format!("docker.io/library/alpine@{digest}"), &format!("alpine@{digest}")),
        ] {
            let name = Name::parse(text).expect(text);
            assert_eq!(name.full(), full);
            assert_eq!(name.familiar(), familiar);
        }
    }

    #[test]
    fn what_is_no_name() {
        for (text, error) in [
            ("platform-", "invalid reference format"),
            ("", "invalid reference format"),
            ("a:", "invalid reference format"),
            ("a b", "invalid reference format"),
            ("a//b", "invalid reference format"),
            ("a@sha256:12", "invalid reference format"),
            ("BUG_stage", "invalid reference format: repository name (library/BUG_stage) must be lowercase"),
            ("a___b", "invalid reference format"),
            ("-.io/x", "invalid reference format"),
        ] {
            assert_eq!(Name::parse(text).expect_err(text).to_string(), error, "{text}");
        }
    }
}
