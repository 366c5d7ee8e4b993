//! The archive and the layout directory.
//!
//! ```text
//! blobs/sha256/<hex>   manifests, configs, layers
//! index.json           one entry per name
//! manifest.json        docker-archive only
//! oci-layout
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::Serialize;
use shale_cache::{OciDigest, Store};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::tar_writer::TarWriter;
use super::{BuiltIndex, BuiltManifest, build_index, build_manifest};
use super::{Destination, ExportError, ExportImage, ExportIndex, Exportable, Exported, Format, MediaTypes};
use crate::oci::config::ImageConfig;
use crate::oci::manifest::{self, Descriptor, DescriptorPlatform, Document, Index};
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::source::archive::{CREATED, IMAGE_NAME, REF_NAME};

/// Behind it stands the process id: whoever gives a build up deletes what ends so.
const ENDING: &str = ".shale-";
const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Where the bytes of a file come from.
#[derive(Debug)]
enum Content {
    Bytes(Vec<u8>),
    /// A blob of the store, of this size.
    Stored(OciDigest, u64),
}

/// An item of `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DockerItem {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Writes images. Returns what was written, in the order of the images.
pub fn export(
    store: &Store,
    images: &[ExportImage],
    format: Format,
    types: MediaTypes,
    destination: Destination<'_>,
) -> Result<Vec<Exported>, ExportError> {
    let all: Vec<Exportable> = images.iter().map(|image| Exportable::Image(Box::new(image.clone()))).collect();
    export_all(store, &all, format, types, destination)
}

/// Writes images and indexes. Returns what was written, in their order.
pub fn export_all(
    store: &Store,
    all: &[Exportable],
    format: Format,
    types: MediaTypes,
    destination: Destination<'_>,
) -> Result<Vec<Exported>, ExportError> {
    let mut files = BTreeMap::new();
    let (mut entries, mut items, mut exported) = (Vec::new(), Vec::new(), Vec::new());
    for one in all {
        let (bare, names, built) = match one {
            Exportable::Image(image) => {
                let manifest = build_manifest(image, types)?;
                add_blobs(store, image, &manifest, &mut files)?;
                items.push(docker_item(image, &image.names, &manifest));
                (descriptor(image, &manifest)?, &image.names, vec![manifest])
            }
            Exportable::Index(index) => {
                let built = build_index(index, types)?;
                for ((_, image), manifest) in index.images.iter().zip(&built.manifests) {
                    add_blobs(store, image, manifest, &mut files)?;
                }
                items.extend(native_item(index, &built.manifests));
                let bare = index_descriptor(index, &built)?;
                files.insert(blob_path(&built.digest), Content::Bytes(built.bytes));
                (bare, &index.names, built.manifests)
            }
        };
        entries.extend(named(&bare, names));
        exported.push(Exported {
            manifests: built.iter().map(|manifest| manifest.digest.clone()).collect(),
            configs: built.into_iter().map(|manifest| manifest.config).collect(),
            descriptor: bare,
            names: names.iter().map(ToString::to_string).collect(),
        });
    }
    files.insert("oci-layout".into(), Content::Bytes(OCI_LAYOUT.into()));
    if format == Format::Docker {
        files.insert("manifest.json".into(), Content::Bytes(to_json(&items)));
    }
    match destination {
        Destination::Directory(dir) => write_directory(store, dir, files, entries)?,
        Destination::File(path) => {
            files.insert("index.json".into(), Content::Bytes(to_json(&Index::new(entries))));
            write_beside(path, &mut |file| {
                let tar = TarWriter::file_writer(file.try_clone().map_err(|source| ExportError::io("write", path, source))?);
                write_tar(store, &files, tar).map_err(|e| e.at(Some(path)))
            })?;
        }
        Destination::Stream(stream) => {
            files.insert("index.json".into(), Content::Bytes(to_json(&Index::new(entries))));
            write_tar(store, &files, TarWriter::stream(stream)).map_err(|e| e.at(None))?;
        }
    }
    Ok(exported)
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("only string keys")
}

fn blob_path(digest: &OciDigest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

fn add_blobs(
    store: &Store,
    image: &ExportImage,
    manifest: &BuiltManifest,
    files: &mut BTreeMap<String, Content>,
) -> Result<(), ExportError> {
    files.insert(blob_path(&manifest.digest), Content::Bytes(manifest.bytes.clone()));
    files.insert(blob_path(&manifest.config), Content::Bytes(image.config.clone()));
    for layer in &image.layers {
        let missing = || ExportError::MissingBlob { digest: layer.blob.clone() };
        let size_bytes = store.blobs().size(&layer.blob)?.ok_or_else(missing)?;
        if size_bytes != layer.size_bytes {
            let detail = format!("the layer {} has {size_bytes} bytes, not {}", layer.blob, layer.size_bytes);
            return Err(ExportError::Invalid { detail });
        }
        files.insert(blob_path(&layer.blob), Content::Stored(layer.blob.clone(), size_bytes));
    }
    Ok(())
}

/// What points to an image, without a name.
fn descriptor(image: &ExportImage, manifest: &BuiltManifest) -> Result<Descriptor, ExportError> {
    let config = parsed(image)?;
    let mut bare = Descriptor::new(&manifest.media_type, manifest.digest.clone(), manifest.bytes.len() as u64);
    bare.annotations.clone_from(&image.descriptor_annotations);
    bare.platform = (!config.os.is_empty() && !config.architecture.is_empty()).then(|| DescriptorPlatform::from(&config.platform()));
    add_created(&mut bare, config.created);
    Ok(bare)
}

/// What points to an index, without a name.
fn index_descriptor(index: &ExportIndex, built: &BuiltIndex) -> Result<Descriptor, ExportError> {
    let mut bare = Descriptor::new(&built.media_type, built.digest.clone(), built.bytes.len() as u64);
    bare.annotations.clone_from(&index.descriptor_annotations);
    let created = index.images.iter().map(|(_, image)| Ok(parsed(image)?.created)).collect::<Result<Vec<_>, ExportError>>()?;
    add_created(&mut bare, created.into_iter().flatten().max());
    Ok(bare)
}

fn parsed(image: &ExportImage) -> Result<ImageConfig, ExportError> {
    ImageConfig::from_json(&image.config).map_err(|e| ExportError::Invalid { detail: format!("invalid image config: {e}") })
}

/// The config's own time: the moment of the export would make two archives of one image differ.
fn add_created(descriptor: &mut Descriptor, created: Option<String>) {
    if let Some(created) = created.as_deref().and_then(whole_seconds) {
        descriptor.annotations.entry(CREATED.into()).or_insert(created);
    }
}

/// One entry of the layout's index per name, so that every tool finds every name.
fn named(bare: &Descriptor, names: &[Reference]) -> Vec<Descriptor> {
    if names.is_empty() {
        return vec![bare.clone()];
    }
    let named = names.iter().map(|name| {
        let mut descriptor = bare.clone();
        descriptor.annotations.insert(IMAGE_NAME.into(), name.to_string());
        let short = name.tag().map_or_else(|| name.to_string(), String::from);
        descriptor.annotations.insert(REF_NAME.into(), short);
        descriptor
    });
    named.collect()
}

fn whole_seconds(created: &str) -> Option<String> {
    let time = OffsetDateTime::parse(created, &Rfc3339).ok()?.to_offset(time::UtcOffset::UTC);
    time.replace_nanosecond(0).ok()?.format(&Rfc3339).ok()
}

/// Who knows no index gets the image of this machine's platform under its names.
fn native_item(index: &ExportIndex, manifests: &[BuiltManifest]) -> Option<DockerItem> {
    let native = Platform::native();
    let runs = |platform: &Platform| manifest::runs_on(platform, &native);
    let at = index.images.iter().position(|(platform, _)| runs(platform))?;
    Some(docker_item(&index.images[at].1, &index.names, &manifests[at]))
}

fn docker_item(image: &ExportImage, names: &[Reference], manifest: &BuiltManifest) -> DockerItem {
    let tags: Vec<String> = names.iter().filter(|n| n.tag().is_some()).map(Reference::familiar).collect();
    DockerItem {
        config: blob_path(&manifest.config),
        repo_tags: (!tags.is_empty()).then_some(tags),
        layers: image.layers.iter().map(|l| blob_path(&l.blob)).collect(),
    }
}

/// A failure without the name of what was written to.
enum Failure {
    Write(io::Error),
    Other(ExportError),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Write(error)
    }
}

impl Failure {
    fn at(self, path: Option<&Path>) -> ExportError {
        match (self, path) {
            (Self::Other(error), _) => error,
            (Self::Write(source), Some(path)) => ExportError::Io { deed: "write", path: path.into(), source },
            (Self::Write(source), None) => ExportError::Stream { source },
        }
    }
}

fn open_blob(store: &Store, digest: &OciDigest) -> Result<File, Failure> {
    let file = store.blobs().open(digest).map_err(|e| Failure::Other(e.into()))?;
    file.ok_or_else(|| Failure::Other(ExportError::MissingBlob { digest: digest.clone() }))
}

fn write_tar(store: &Store, files: &BTreeMap<String, Content>, mut tar: TarWriter<'_>) -> Result<(), Failure> {
    let mut last_folder = "";
    tar.directory("blobs/")?;
    for (name, content) in files {
        if let Some((folder, _)) = name.rsplit_once('/').filter(|(folder, _)| *folder != last_folder) {
            tar.directory(&format!("{folder}/"))?;
            last_folder = folder;
        }
        match content {
            Content::Bytes(bytes) => tar.bytes(name, bytes)?,
            Content::Stored(digest, size_bytes) => tar.file(name, &mut open_blob(store, digest)?, *size_bytes)?,
        }
    }
    Ok(tar.finish()?)
}

/// Writes a file beside its place and renames it, so that nobody ever sees half of one. Devices and pipes are written to directly.
pub(super) fn write_beside(path: &Path, write: &mut dyn FnMut(&File) -> Result<(), ExportError>) -> Result<(), ExportError> {
    let failed = |deed| move |source| ExportError::io(deed, path, source);
    let path = match fs::metadata(path) {
        // A link stays a link: what it points to is replaced.
        Ok(meta) if meta.is_file() => &fs::canonicalize(path).map_err(failed("open"))?,
        Ok(meta) if meta.is_dir() => return Err(failed("write")(io::ErrorKind::IsADirectory.into())),
        Ok(_) => {
            let file = File::options().write(true).open(path).map_err(failed("open"))?;
            return write(&file);
        }
        Err(_) => path,
    };
    let beside = Beside::new(path)?;
    write(&beside.file)?;
    beside.rename(path)
}

/// A file next to its final place; removed unless it is renamed.
struct Beside {
    file: File,
    path: PathBuf,
    is_renamed: bool,
}

impl Beside {
    fn new(target: &Path) -> Result<Self, ExportError> {
        let prefix = format!(".{}.", target.file_name().unwrap_or_default().to_string_lossy());
        remove_left_by_the_dead(target, &prefix);
        // No file that is there is taken, be it another's or a link to one: processes of two containers can have the same id.
        let (path, file) = loop {
            let random = RandomState::new().hash_one(&prefix) as u32;
            let path = target.with_file_name(format!("{prefix}{random:08x}{ENDING}{}", std::process::id()));
            match File::options().write(true).create_new(true).open(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                opened => break (path, opened),
            }
        };
        // The user knows the target, not our temporary name.
        let file = file.map_err(|source| ExportError::Io { deed: "create", path: target.into(), source })?;
        // Says that we live, also to processes that cannot see ours. Some network file systems have no locks.
        let _ = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        Ok(Self { file, path, is_renamed: false })
    }

    fn rename(mut self, target: &Path) -> Result<(), ExportError> {
        fs::rename(&self.path, target).map_err(|source| ExportError::Io { deed: "rename to", path: target.into(), source })?;
        self.is_renamed = true;
        Ok(())
    }
}

/// Removes what killed processes left beside a target: their ids are nobody's, and their locks are free.
fn remove_left_by_the_dead(target: &Path, prefix: &str) {
    let Some(parent) = target.parent() else { return };
    let dir = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    for entry in fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix(prefix)?.split_once(ENDING)?.1.parse::<u32>().ok());
        if id.is_none_or(|id| Path::new("/proc").join(id.to_string()).exists()) {
            continue;
        }
        let is_free = |file: File| rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        if File::open(entry.path()).is_ok_and(is_free) {
            drop(fs::remove_file(entry.path()));
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !self.is_renamed {
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Adds images to a layout directory, which may hold others. The index goes last: until then nothing has changed for a reader.
fn write_directory(store: &Store, dir: &Path, files: BTreeMap<String, Content>, entries: Vec<Descriptor>) -> Result<(), ExportError> {
    // What is no layout is left as it is.
    merged(dir, entries.clone())?;
    for (name, content) in files {
        write_into(store, dir, &name, &content)?;
    }
    // Another build may add its images at the same time. Some network file systems have no locks.
    let own = File::open(dir).map_err(|source| ExportError::io("open", dir, source))?;
    let _ = rustix::fs::flock(&own, FlockOperation::LockExclusive);
    write_into(store, dir, "index.json", &Content::Bytes(to_json(&merged(dir, entries)?)))
}

/// Writes one file of a layout directory. A blob that is there is kept if it is whole: nothing here is synced.
fn write_into(store: &Store, dir: &Path, name: &str, content: &Content) -> Result<(), ExportError> {
    let path = dir.join(name);
    let failed = |deed| {
        let path = path.clone();
        move |source| ExportError::Io { deed, path, source }
    };
    if let Content::Stored(digest, size_bytes) = content
        && fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() == *size_bytes)
        && File::open(&path).and_then(|file| OciDigest::of_reader(file, digest.algorithm())).is_ok_and(|found| found == *digest)
    {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(dir);
    fs::create_dir_all(parent).map_err(failed("create"))?;
    let mut beside = Beside::new(&path)?;
    match content {
        Content::Bytes(bytes) => beside.file.write_all(bytes).map_err(failed("write"))?,
        Content::Stored(digest, _) => {
            let mut blob = open_blob(store, digest).map_err(|e| e.at(Some(&path)))?;
            io::copy(&mut blob, &mut beside.file).map_err(failed("write")).map(drop)?;
        }
    }
    beside.rename(&path)
}

/// The index of a directory with our entries in place of those of the same name.
fn merged(dir: &Path, entries: Vec<Descriptor>) -> Result<Index, ExportError> {
    let not_a_layout = |detail: String| ExportError::NotALayout { path: dir.into(), detail };
    let old = match fs::read(dir.join("index.json")) {
        Ok(bytes) => match Document::parse(&bytes, Some(crate::oci::manifest::media::OCI_INDEX)) {
            Ok(Document::Index(index)) => index.manifests,
            Ok(Document::Manifest(_)) => return Err(not_a_layout("index.json is a manifest".into())),
            Err(e) => return Err(not_a_layout(e.to_string())),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(ExportError::Io { deed: "read", path: dir.join("index.json"), source }),
    };
    let name = |d: &Descriptor| d.annotations.get(IMAGE_NAME).or_else(|| d.annotations.get(REF_NAME)).cloned();
    let is_replaced = |o: &Descriptor| entries.iter().any(|e| name(e) == name(o) && (name(o).is_some() || e.digest == o.digest));
    let mut manifests: Vec<Descriptor> = old.into_iter().filter(|o| !is_replaced(o)).collect();
    manifests.extend(entries);
    Ok(Index::new(manifests))
}
