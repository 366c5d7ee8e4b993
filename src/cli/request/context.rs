//! Where the files of a build come from: the context, the Dockerfile, named contexts.

use std::path::{Path, PathBuf};

use super::RequestError;
use crate::cli::environment::Environment;
use crate::image::{LayoutName, NamedImage};
use crate::oci::reference::Reference;
use crate::plan::git::{GitRef, GitRefError, redacted};

/// Where the build context is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContextSource {
    /// A directory, absolute; not looked at yet.
    Dir(PathBuf),
    /// A git repository.
    Git(GitRef),
    /// A URL: an archive, or a Dockerfile alone; its first bytes tell.
    Http(String),
    /// Standard input: a tar archive, or a Dockerfile alone; its first bytes tell.
    Stdin,
}

/// Where the Dockerfile is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DockerfileSource {
    /// `Dockerfile` in the context.
    Default,
    /// A file of this machine, absolute.
    File(PathBuf),
    /// A path inside a context that is no local directory.
    InContext(String),
    /// A file by its URL.
    Url(String),
    /// Standard input.
    Stdin,
}

/// A context of `--build-context`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedContext {
    /// A directory, absolute.
    Dir(PathBuf),
    /// `docker-image://ref`, `oci-layout://path[:tag][@digest]`
    Image(NamedImage),
    /// A git repository.
    Git(GitRef),
    /// A URL, whose file lies in it under the name `context`.
    Http(String),
}

pub(in crate::cli) fn context_source(path: &Path, environment: &Environment) -> Result<ContextSource, RequestError> {
    if path == Path::new("-") {
        return Ok(ContextSource::Stdin);
    }
    if path.as_os_str().is_empty() {
        return Err(RequestError::NoContext);
    }
    let dir = environment.resolve(path);
    // As in docker: what is a directory here is one, whatever it looks like.
    let text = path.to_string_lossy();
    Ok(match if dir.is_dir() { None } else { remote(&text) } {
        None => ContextSource::Dir(dir),
        Some(Remote::Git(git)) => ContextSource::Git(git.map_err(|cause| RequestError::Git { text: redacted(&text), cause })?),
        Some(Remote::Http(url)) => ContextSource::Http(url),
    })
}

/// What is fetched.
enum Remote {
    Git(Result<GitRef, GitRefError>),
    Http(String),
}

fn remote(text: &str) -> Option<Remote> {
    let http = text.starts_with("http://") || text.starts_with("https://");
    GitRef::parse(text).map(Remote::Git).or_else(|| http.then(|| Remote::Http(text.into())))
}

pub(super) fn dockerfile_source(
    file: Option<&Path>,
    context: &ContextSource,
    environment: &Environment,
) -> Result<DockerfileSource, RequestError> {
    let Some(path) = file.filter(|path| !path.as_os_str().is_empty()) else { return Ok(DockerfileSource::Default) };
    if path == Path::new("-") {
        return if *context == ContextSource::Stdin { Err(RequestError::StdinTwice) } else { Ok(DockerfileSource::Stdin) };
    }
    let text = path.to_string_lossy();
    if text.starts_with("http://") || text.starts_with("https://") {
        return Ok(DockerfileSource::Url(text.into()));
    }
    Ok(match context {
        ContextSource::Dir(_) => DockerfileSource::File(environment.resolve(path)),
        ContextSource::Git(_) | ContextSource::Http(_) if path.is_absolute() => DockerfileSource::File(path.into()),
        ContextSource::Git(_) | ContextSource::Http(_) | ContextSource::Stdin => DockerfileSource::InContext(text.into()),
    })
}

/// Reads a `--build-context`: its name in the familiar form, and what it is.
pub(in crate::cli) fn named_context(text: &str, environment: &Environment) -> Result<(String, NamedContext), RequestError> {
    let error = |reason: &str| RequestError::NamedContext { text: text.into(), reason: reason.into() };
    let (name, value) = text.split_once('=').ok_or_else(|| error("expected name=value"))?;
    if name.is_empty() || value.is_empty() {
        return Err(error("expected name=value"));
    }
    // FROM names are looked up in the familiar form, and `:latest` is what no tag means.
    let name = Reference::parse(name).map_err(|e| error(&e.to_string()))?.familiar();
    let name = name.strip_suffix(":latest").unwrap_or(&name).to_owned();
    if let Some(image) = value.strip_prefix("docker-image://") {
        return Ok((name, NamedContext::Image(NamedImage::Image(image.into()))));
    }
    if let Some(layout) = value.strip_prefix("oci-layout://") {
        let (rest, digest) = layout.split_once('@').map_or((layout, None), |(rest, digest)| (rest, Some(digest)));
        let digest = digest.map(|digest| digest.parse().map_err(|_| error("the digest is malformed"))).transpose()?;
        // A colon after the last slash starts a tag; one before it is part of the path.
        let colon = rest.rfind(':').filter(|colon| !rest[*colon..].contains('/'));
        let (path, tag) = colon.map_or((rest, None), |colon| (&rest[..colon], Some(rest[colon + 1..].to_owned())));
        let path = environment.resolve(Path::new(path));
        return Ok((name, NamedContext::Image(NamedImage::Layout(LayoutName { path, tag, digest }))));
    }
    if value.starts_with("target:") {
        return Err(RequestError::Target(name));
    }
    let dir = environment.resolve(Path::new(value));
    match remote(value) {
        Some(Remote::Git(Ok(git))) if !(git.is_path_alike && dir.is_dir()) => Ok((name, NamedContext::Git(git))),
        Some(Remote::Git(Err(cause))) => Err(RequestError::Git { text: redacted(value), cause }),
        Some(Remote::Http(url)) => Ok((name, NamedContext::Http(url))),
        None if value.contains("://") => Err(error("only directories, docker-image://, oci-layout://, git and http(s) URLs are contexts")),
        _ => Ok((name, NamedContext::Dir(dir))),
    }
}
