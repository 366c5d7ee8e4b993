//! Where the files of a build come from: the context, the Dockerfile, named contexts.

use std::path::{Path, PathBuf};

use super::RequestError;
use crate::cli::environment::Environment;
use crate::image::{LayoutName, NamedImage};
use crate::oci::reference::Reference;

/// Where the build context is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContextSource {
    /// A directory, absolute; not looked at yet.
    Dir(PathBuf),
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
    /// A path inside a context that comes as an archive.
    InContext(String),
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
}

pub(super) fn context_source(path: &Path, environment: &Environment) -> Result<ContextSource, RequestError> {
    if path == Path::new("-") {
        return Ok(ContextSource::Stdin);
    }
    let text = path.to_string_lossy();
    let remote = ["http://", "https://", "git://", "ssh://", "git@", "github.com/", "docker-image://", "oci-layout://"];
    if remote.iter().any(|prefix| text.starts_with(prefix)) {
        return Err(RequestError::RemoteContext { text: text.into() });
    }
    Ok(ContextSource::Dir(environment.resolve(path)))
}

pub(super) fn dockerfile_source(
    file: Option<&Path>,
    context: &ContextSource,
    environment: &Environment,
) -> Result<DockerfileSource, RequestError> {
    match (file, context) {
        (None, _) => Ok(DockerfileSource::Default),
        (Some(path), _) if path.as_os_str().is_empty() => Ok(DockerfileSource::Default),
        (Some(path), ContextSource::Stdin) if path == Path::new("-") => Err(RequestError::StdinTwice),
        (Some(path), ContextSource::Dir(_)) if path == Path::new("-") => Ok(DockerfileSource::Stdin),
        (Some(path), ContextSource::Dir(_)) => Ok(DockerfileSource::File(environment.resolve(path))),
        (Some(path), ContextSource::Stdin) => Ok(DockerfileSource::InContext(path.to_string_lossy().into())),
    }
}

pub(super) fn named_context(text: &str, environment: &Environment) -> Result<(String, NamedContext), RequestError> {
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
    if value.contains("://") || value.starts_with("git@") || value.starts_with("target:") {
        return Err(error("only directories, docker-image:// and oci-layout:// are supported yet"));
    }
    Ok((name, NamedContext::Dir(environment.resolve(Path::new(value)))))
}
