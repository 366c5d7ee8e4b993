//! The frontend that a file asks for: `# syntax=`, `// syntax=`, or a JSON file with a `syntax` key.

pub use super::lines::detect_syntax as asked_for;

use crate::oci::reference::Reference;

/// The newest version of the language that the parser knows, (major, minor).
pub const LANGUAGE: (u32, u32) = (1, 20);

/// What a frontend is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frontend {
    /// The Dockerfile frontend, in a version that the parser covers.
    Known,
    /// The Dockerfile frontend in a later version.
    Newer,
    /// Another program: only what runs frontends could run it.
    Other,
}

/// Judges a frontend by its image name: `docker/dockerfile` and `docker/dockerfile-upstream`, from Docker Hub or a mirror of it.
pub fn judge(name: &str) -> Frontend {
    if name == "dockerfile.v0" {
        return Frontend::Known;
    }
    let Ok(reference) = Reference::parse(name) else { return Frontend::Other };
    let path = reference.familiar();
    let path = path.split('@').next().unwrap_or_default();
    let slash = path.rfind('/').unwrap_or(0);
    let (repository, tag) = match path[slash..].find(':') {
        Some(colon) => (&path[..slash + colon], &path[slash + colon + 1..]),
        None => (path, ""),
    };
    let is_dockerfile = ["docker/dockerfile", "docker/dockerfile-upstream"]
        .iter()
        .any(|known| repository.strip_suffix(known).is_some_and(|mirror| mirror.is_empty() || mirror.ends_with('/')));
    match version(tag) {
        _ if !is_dockerfile => Frontend::Other,
        Some(version) if version > LANGUAGE => Frontend::Newer,
        _ => Frontend::Known,
    }
}

/// `1`, `1.7`, `1.7.0-labs` → major and minor; nothing for `labs`, `latest` and the like. A major version alone is its newest minor one
/// that is known.
fn version(tag: &str) -> Option<(u32, u32)> {
    let numbers = tag.split('-').next().unwrap_or_default();
    let mut parts = numbers.split('.').map(str::parse::<u32>);
    let major = parts.next()?.ok()?;
    let minor = parts.next().and_then(Result::ok).unwrap_or(if major == LANGUAGE.0 { LANGUAGE.1 } else { 0 });
    Some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::span::SourceFile;

    #[test]
    fn frontends_are_told_apart() {
        for (name, expected) in [
            ("docker/dockerfile", Frontend::Known),
            ("docker/dockerfile:1", Frontend::Known),
            ("docker/dockerfile:1.20", Frontend::Known),
            ("docker/dockerfile:1.7.0-labs", Frontend::Known),
            ("docker/dockerfile:labs", Frontend::Known),
            ("docker.io/docker/dockerfile-upstream:master", Frontend::Known),
            ("docker/dockerfile:1.3@sha256:42399d4635eddd7a9b8a24be879d2f9a930d0ed040a61324cfdf59ef1357b3b2", Frontend::Known),
            ("mirror.example:5000/hub/docker/dockerfile:1.4", Frontend::Known),
            ("dockerfile.v0", Frontend::Known),
            ("docker/dockerfile:1.21", Frontend::Newer),
            ("docker/dockerfile:2", Frontend::Newer),
            ("docker/dockerfile-upstream:1.99.0-labs", Frontend::Newer),
            ("docker/buildpacks", Frontend::Other),
            ("example/dockerfile", Frontend::Other),
            ("notdocker/dockerfile:1", Frontend::Other),
            ("dockerfile:1", Frontend::Other),
            ("A B", Frontend::Other),
            ("", Frontend::Other),
        ] {
            assert_eq!(judge(name), expected, "{name}");
        }
    }

    #[test]
    fn files_ask_in_many_ways() {
        for (text, expected) in [
            ("# syntax=a/b:1\nFROM x", Some("a/b:1")),
            ("#syntax = a/b:1 --flag\n", Some("a/b:1")),
            ("# SYNTAX=a\n", Some("a")),
            ("\u{feff}# syntax=a\n", Some("a")),
            ("#!/usr/bin/env build\n# syntax=a\n", Some("a")),
            ("# escape=`\n# syntax=a\n", Some("a")),
            ("# check=skip=all\r\n# syntax=a\r\n", Some("a")),
            ("// syntax=a\nwhatever", Some("a")),
            ("#!/bin/x\n// syntax=a\n", Some("a")),
            ("{\"syntax\": \"a\", \"other\": [1]}", Some("a")),
            ("#!/bin/x\n{\"syntax\": \"a\"}", Some("a")),
            ("# a comment\n# syntax=a\n", None),
            ("FROM x\n# syntax=a\n", None),
            ("# escape=`\n# escape=`\n# syntax=a\n", None),
            ("{\"syntax\": 1}", None),
            ("{\"syntax\": \"a\"", None),
            ("# syntax=\n", None),
            ("", None),
        ] {
            let source = SourceFile::new("Dockerfile", text);
            let asked = asked_for(&source);
            assert_eq!(asked.as_ref().map(|asked| asked.node.as_str()), expected, "{text:?}");
            assert!(asked.is_none_or(|asked| source.slice(asked.span) == asked.node), "{text:?}");
        }
    }
}
