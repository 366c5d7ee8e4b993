//! Contexts and Dockerfiles that are fetched.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

use shale_cache::TmpDir;

use super::bases::Pulling;
use super::{BuildError, Services};
use crate::cli::request::BuildRequest;
use crate::layer::LayerError;
use crate::layer::compress::Decoder;
use crate::layer::read::Members;
use crate::plan::DatedStage;
use crate::plan::git::{GitRef, redacted};
use crate::plan::graph::Remote;
use crate::solve::event::{Event, TaskId};
use crate::source::context::{BuildContext, IGNORE_FILE, archive};
use crate::source::git::Repositories;
use crate::source::http::{Download, Downloads, without_secrets};

/// The name of a file that is a context by itself, as BuildKit has it.
pub(super) const FILE_NAME: &str = "context";
/// A build argument that asks for `.git` in a context.
const KEEP_GIT_DIR: &str = "BUILDKIT_CONTEXT_KEEP_GIT_DIR";

/// Fetches for one build.
#[derive(Debug)]
pub(super) struct Remotes {
    /// Files.
    pub(super) downloads: Downloads,
    /// Repositories.
    pub(super) repositories: Repositories,
    keep_git_dir: bool,
}

/// A context that came by HTTP.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) context: BuildContext,
    /// Whether it was an archive; else the file is all there is.
    pub(super) is_archive: bool,
    /// Holds its files.
    pub(super) place: TmpDir,
    /// When it was made: what the server says.
    pub(super) modified_secs: Option<i64>,
    /// The file that came.
    pub(super) blob: PathBuf,
}

impl Fetched {
    /// When it was made: what the server says, else the newest file of an archive.
    pub(super) fn made_secs(&self) -> Option<i64> {
        made_secs(self.modified_secs, &self.blob)
    }
}

/// The time of the newest file in an archive.
fn newest_secs(archive: &Path) -> Result<Option<i64>, LayerError> {
    let stream = |source| LayerError::Stream { source };
    let mut members = Members::new(Decoder::new(File::open(archive).map_err(stream)?).map_err(stream)?);
    let mut newest = None;
    while let Some(member) = members.advance()? {
        if member.kind.is_file() {
            newest = newest.max(Some(member.mtime.secs));
        }
    }
    Ok(newest)
}

impl Remotes {
    pub(super) fn new(request: &BuildRequest) -> Self {
        let keep = request.build_args.get(KEEP_GIT_DIR).map(String::as_str);
        Self {
            downloads: Downloads::new(request.registry.clone(), request.lent.clone()),
            repositories: Repositories::new(request.git.clone(), request.lent.clone()),
            keep_git_dir: matches!(keep, Some("1" | "t" | "T" | "true" | "TRUE" | "True")),
        }
    }

    /// The main context, if it is a repository, and the time of its commit.
    pub(super) fn main_git(&self, git: &GitRef, services: Services<'_>) -> Result<(BuildContext, i64), BuildError> {
        let git = if self.keep_git_dir { GitRef { keep_git_dir: Some(true), ..git.clone() } } else { git.clone() };
        let name = format!("[internal] load git source {}", git.shown_with_ref());
        self.git(&git, name, services)
    }

    /// A named context that is a repository, and the time of its commit.
    pub(super) fn named_git(&self, name: &str, git: &GitRef, services: Services<'_>) -> Result<(BuildContext, i64), BuildError> {
        self.git(git, format!("[context {name}] {}", git.shown_with_ref()), services)
    }

    fn git(&self, git: &GitRef, name: String, services: Services<'_>) -> Result<(BuildContext, i64), BuildError> {
        let checkout = shown(name, services, |task| {
            let checkout = self.repositories.get(services.store, git, &Pulling::of(services, task))?;
            services.reporter.report(Event::Note { task, text: format!("{} is commit {}", git.shown_with_ref(), checkout.commit) });
            if checkout.dir.join(IGNORE_FILE).exists() {
                let text = format!("{IGNORE_FILE} is for local directories: of a repository everything is in the context");
                services.reporter.report(Event::Note { task, text });
            }
            Ok(checkout)
        })?;
        let caches = services.store.root().join("contexts");
        let context = BuildContext::open_dir(&checkout.dir, Some(&caches))?.known_as(&git.shown_with_ref());
        Ok((context, checkout.committed_secs))
    }

    /// The main context, if it is a URL.
    pub(super) fn main_http(&self, url: &str, services: Services<'_>) -> Result<Fetched, BuildError> {
        let download = self.download("[internal] load remote build context".into(), url, services)?;
        let blob = services.store.blobs().path(&download.blob);
        let open = || File::open(&blob).map_err(failed("read", &blob));
        let mut start = Vec::new();
        open()?.take(512).read_to_end(&mut start).map_err(failed("read", &blob))?;
        if !archive::is_archive(&start) {
            return file_alone(url, &download, &blob, services);
        }
        let place = services.store.tmp()?;
        let context = BuildContext::from_tar(open()?, place.path())?.known_as(&without_secrets(url));
        Ok(Fetched { context, is_archive: true, place, modified_secs: download.modified_secs(), blob })
    }

    /// A named context that is a URL: the file as it is, even if it is an archive.
    pub(super) fn named_http(&self, name: &str, url: &str, services: Services<'_>) -> Result<Fetched, BuildError> {
        let download = self.download(format!("[context {name}] {}", without_secrets(url)), url, services)?;
        file_alone(url, &download, &services.store.blobs().path(&download.blob), services)
    }

    /// A Dockerfile by its URL.
    pub(super) fn text(&self, url: &str, services: Services<'_>) -> Result<Vec<u8>, BuildError> {
        let download = self.download(format!("[internal] load {}", without_secrets(url)), url, services)?;
        let blob = services.store.blobs().path(&download.blob);
        fs::read(&blob).map_err(failed("read", &blob))
    }

    /// When what a stage fetches was made; `None` where neither the server nor an archive tells.
    pub(super) fn made_secs(&self, stage: &DatedStage, services: Services<'_>) -> Result<Option<i64>, BuildError> {
        let name = format!("[internal] resolve SOURCE_DATE_EPOCH source stage {}", stage.name);
        shown(name, services, |task| {
            let progress = Pulling::of(services, task);
            Ok(match &stage.source {
                Remote::Git(git) => Some(self.repositories.get(services.store, git, &progress)?.committed_secs),
                Remote::File(file) => {
                    let checksum = file.checksum.as_deref().and_then(|text| text.parse().ok());
                    let download = self.downloads.get(services.store, &file.url, checksum.as_ref(), &progress)?;
                    made_secs(download.modified_secs(), &services.store.blobs().path(&download.blob))
                }
            })
        })
    }

    fn download(&self, name: String, url: &str, services: Services<'_>) -> Result<Download, BuildError> {
        shown(name, services, |task| Ok(self.downloads.get(services.store, url, None, &Pulling::of(services, task))?))
    }
}

/// What the server says, else the time of the newest file if it is an archive.
fn made_secs(modified_secs: Option<i64>, blob: &Path) -> Option<i64> {
    modified_secs.or_else(|| newest_secs(blob).ok().flatten())
}

/// A context of one file, with the mode and time that ADD would give it.
fn file_alone(url: &str, download: &Download, blob: &Path, services: Services<'_>) -> Result<Fetched, BuildError> {
    use std::os::unix::fs::PermissionsExt as _;
    let place = services.store.tmp()?;
    let path = place.path().join(FILE_NAME);
    let time = UNIX_EPOCH + Duration::from_secs(download.mtime_secs.max(0) as u64);
    let make = || -> io::Result<()> {
        fs::copy(blob, &path)?;
        let file = File::options().write(true).open(&path)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.set_modified(time)
    };
    make().map_err(failed("write", &path))?;
    let context = BuildContext::open_dir(place.path(), None)?.known_as(&redacted(url));
    Ok(Fetched { context, is_archive: false, place, modified_secs: download.modified_secs(), blob: blob.to_owned() })
}

/// Works as a task of its own in the progress display.
fn shown<T>(name: String, services: Services<'_>, work: impl FnOnce(TaskId) -> Result<T, BuildError>) -> Result<T, BuildError> {
    let (task, started) = (services.reporter.new_task(), Instant::now());
    services.reporter.report(Event::Started { task, name });
    let done = work(task).map_err(|error| if services.cancel.is_cancelled() { BuildError::Cancelled } else { error });
    services.reporter.report(match &done {
        Ok(_) => Event::Done { task, elapsed: started.elapsed() },
        Err(BuildError::Cancelled) => Event::Canceled { task },
        Err(error) => Event::Failed { task, error: error.to_string() },
    });
    done
}

fn failed(deed: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BuildError {
    let path = path.to_owned();
    move |source| BuildError::Io { deed, path, source }
}
