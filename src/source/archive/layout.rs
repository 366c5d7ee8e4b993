//! The OCI image layout: `index.json` and blobs.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use shale_cache::OciDigest;

use super::files::Files;
use super::{ArchiveError, FoundImage, FoundLayer, Group, IndexFacts};
use crate::oci::config::ImageConfig;
use crate::oci::manifest::{CONFIG_LIMIT_BYTES, Descriptor, Document, Index, MANIFEST_LIMIT_BYTES, Manifest, media};
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;

/// Annotation with a full name.
pub const IMAGE_NAME: &str = "io.containerd.image.name";
/// Annotation with a tag, or with whatever the writer took for a name.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Annotation with the time of an image.
pub const CREATED: &str = "org.opencontainers.image.created";
const INDEX_DEPTH_LIMIT: usize = 3;

/// An OCI layout directory, as the base of a build.
#[derive(Debug)]
pub struct Layout {
    files: Files,
}

/// An image in a layout directory.
#[derive(Clone, Debug)]
pub struct LayoutImage {
    /// The manifest.
    pub manifest: Manifest,
    /// The manifest as it is hashed.
    pub manifest_bytes: Vec<u8>,
    /// The manifest's digest.
    pub digest: OciDigest,
    /// The config as it is hashed.
    pub config: Vec<u8>,
}

impl Layout {
    /// Opens a layout directory.
    pub fn open(path: &Path) -> Result<Self, ArchiveError> {
        if !path.is_dir() {
            let source = std::io::ErrorKind::NotADirectory.into();
            return Err(ArchiveError::Io { deed: "open the OCI layout", path: path.into(), source });
        }
        let files = Files::Dir(path.into());
        if !files.has("index.json")? {
            return Err(ArchiveError::NotAnImage { path: path.into() });
        }
        Ok(Self { files })
    }

    /// Finds the image of a tag or a digest. With neither, the only one, or `latest`.
    pub fn find(&self, tag: Option<&str>, digest: Option<&OciDigest>, platform: &Platform) -> Result<LayoutImage, ArchiveError> {
        let index = read_index(&self.files)?;
        let images: Vec<&Descriptor> = index.manifests.iter().filter(|d| !d.is_attestation()).collect();
        let has_tag = |wanted: &str| images.iter().copied().filter(|d| tags(d).iter().any(|t| t == wanted)).cloned().collect::<Vec<_>>();
        let candidates = match (digest, tag) {
            // A digest may name a manifest that only an index in the layout points to.
            (Some(digest), _) => vec![Descriptor::new("", digest.clone(), 0)],
            (None, Some(tag)) => has_tag(tag),
            (None, None) if images.iter().all(|d| d.digest == images[0].digest || d.platform.is_some() && tags(d) == tags(images[0])) => {
                images.iter().copied().cloned().collect()
            }
            (None, None) => has_tag("latest"),
        };
        if candidates.is_empty() {
            let wanted = tag.unwrap_or("latest").to_owned();
            let offered = images.iter().flat_map(|d| tags(d)).collect();
            return Err(ArchiveError::NotFound { path: self.files.path().into(), wanted, offered });
        }
        let image = choose(&self.files, candidates, platform)?;
        let config = read_blob(&self.files, &image.manifest.config.digest, CONFIG_LIMIT_BYTES)?;
        Ok(LayoutImage { config, digest: image.descriptor.digest, manifest_bytes: image.bytes, manifest: image.manifest })
    }

    /// A blob of the layout; its digest is not checked.
    pub fn open_blob(&self, digest: &OciDigest) -> Result<File, ArchiveError> {
        let path: PathBuf = self.files.path().join(blob_path(digest));
        File::open(&path).map_err(|source| ArchiveError::Io { deed: "open", path, source })
    }
}

/// A manifest that was found.
struct Found {
    descriptor: Descriptor,
    manifest: Manifest,
    bytes: Vec<u8>,
}

/// All images of a layout, for `load`: of several platforms under one name all that are here, or the wanted one.
pub(super) fn images(files: &Files, platform: Option<&Platform>) -> Result<Vec<Group<FoundImage>>, ArchiveError> {
    let index = read_index(files)?;
    let mut by_name: BTreeMap<Option<Reference>, Vec<Descriptor>> = BTreeMap::new();
    for descriptor in index.manifests.into_iter().filter(|d| !d.is_attestation()) {
        by_name.entry(name_of(&descriptor)).or_default().push(descriptor);
    }
    let mut images: Vec<Group<FoundImage>> = Vec::new();
    for (name, descriptors) in by_name {
        let mut groups = vec![descriptors];
        if name.is_none() && groups[0].iter().any(|d| d.platform.is_none()) {
            // Images without names and platforms have nothing to do with each other.
            groups = groups.remove(0).into_iter().map(|d| vec![d]).collect();
        }
        for candidates in groups {
            let mut group = group(files, candidates, platform)?;
            group.names.extend(name.clone());
            match images.iter_mut().find(|known| known.digests().eq(group.digests())) {
                Some(known) => known.names.append(&mut group.names),
                None => images.push(group),
            }
        }
    }
    Ok(images)
}

/// What stands behind one name.
fn group(files: &Files, candidates: Vec<Descriptor>, platform: Option<&Platform>) -> Result<Group<FoundImage>, ArchiveError> {
    if platform.is_none()
        && let Some(group) = all_platforms(files, &candidates)?
    {
        return Ok(group);
    }
    let one = choose(files, candidates, platform.unwrap_or(&Platform::native()))?;
    Ok(Group::of_one(describe(files, one)?, Vec::new()))
}

/// The images of an index of several platforms, without those that the archive has only the names of, as where `docker save` wrote down
/// what was pulled for one. `None` = it is something else, or nothing of it is here.
fn all_platforms(files: &Files, candidates: &[Descriptor]) -> Result<Option<Group<FoundImage>>, ArchiveError> {
    let mut index = Index::new(candidates.to_vec());
    let mut facts = IndexFacts::default();
    if let [only] = candidates {
        // The archive's own index names the image's.
        if !files.has(&blob_path(&only.digest))? {
            return Ok(None);
        }
        let (Document::Index(inner), _) = read_document(files, only)? else { return Ok(None) };
        let is_own = |key: &str| ![IMAGE_NAME, REF_NAME, CREATED].contains(&key);
        let annotations = only.annotations.iter().filter(|(key, _)| is_own(key));
        facts.descriptor_annotations = annotations.map(|(key, value)| (key.clone(), value.clone())).collect();
        facts.annotations.clone_from(&inner.annotations);
        facts.is_docker = inner.media_type == media::DOCKER_LIST;
        index = inner;
    }
    let mut entries: Vec<Descriptor> = Vec::new();
    for entry in index.manifests.into_iter().filter(|d| !d.is_attestation()) {
        if entry.platform.is_none() {
            return Ok(None);
        }
        // One that stands for several platforms is still one image.
        if entries.iter().all(|other| other.platform != entry.platform && other.digest != entry.digest) {
            entries.push(entry);
        }
    }
    let (mut images, mut here, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
    for entry in &entries {
        match whole(files, entry)? {
            Some(image) => {
                images.push(image);
                here.push(entry.clone());
            }
            None => left_out.extend(entry.normal_platform().map(|platform| platform.to_string())),
        }
    }
    if images.is_empty() {
        return Ok(None);
    }
    let here = Index::new(here);
    let native = here.choose(&Platform::native());
    let chosen = native.and_then(|native| here.manifests.iter().position(|entry| entry.digest == native.digest));
    Ok(Some(Group { names: Vec::new(), images, chosen: chosen.unwrap_or(0), index: facts, left_out }))
}

/// An image of which everything is in the archive.
fn whole(files: &Files, entry: &Descriptor) -> Result<Option<FoundImage>, ArchiveError> {
    if !files.has(&blob_path(&entry.digest))? {
        return Ok(None);
    }
    let (Document::Manifest(manifest), bytes) = read_document(files, entry)? else { return Ok(None) };
    for part in manifest.layers.iter().chain([&manifest.config]) {
        if !files.has(&blob_path(&part.digest))? {
            return Ok(None);
        }
    }
    let mut image = describe(files, Found { descriptor: entry.clone(), manifest: *manifest, bytes })?;
    image.annotations.clone_from(&entry.annotations);
    Ok(Some(image))
}

fn describe(files: &Files, found: Found) -> Result<FoundImage, ArchiveError> {
    let Found { descriptor, manifest, bytes } = found;
    let config = read_blob(files, &manifest.config.digest, CONFIG_LIMIT_BYTES)?;
    let parsed = ImageConfig::from_json(&config).map_err(|e| files.corrupt(format!("invalid image config: {e}")))?;
    let diff_ids = &parsed.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers.len() {
        return Err(files.corrupt(format!("the manifest has {} layers, the config {}", manifest.layers.len(), diff_ids.len())));
    }
    let layers = diff_ids.iter().zip(&manifest.layers).map(|(diff_id, layer)| {
        let diff_id = diff_id.parse().map_err(|e| files.corrupt(format!("DiffID {e}")))?;
        let blob = Some((layer.digest.clone(), layer.size_bytes, layer.media_type.clone()));
        Ok(FoundLayer { diff_id, file: blob_path(&layer.digest), blob })
    });
    let layers = layers.collect::<Result<_, ArchiveError>>()?;
    let media_type = if manifest.media_type.is_empty() { media::OCI_MANIFEST } else { &manifest.media_type };
    let descriptor = Descriptor::new(media_type, descriptor.digest, bytes.len() as u64);
    Ok(FoundImage { config, manifest: Some((bytes, descriptor)), layers, annotations: BTreeMap::new() })
}

/// Picks among the manifests of one name, through indexes.
fn choose(files: &Files, candidates: Vec<Descriptor>, platform: &Platform) -> Result<Found, ArchiveError> {
    let mut index = Index::new(candidates);
    for _ in 0..INDEX_DEPTH_LIMIT {
        let same = index.manifests.iter().all(|d| d.digest == index.manifests[0].digest);
        let chosen = if same { index.manifests.first() } else { index.choose(platform) };
        let Some(descriptor) = chosen.cloned() else {
            let (wanted, offered) = (platform.to_string(), index.platforms());
            return Err(ArchiveError::NoPlatform { path: files.path().into(), wanted, offered });
        };
        match read_document(files, &descriptor)? {
            (Document::Manifest(manifest), bytes) => return Ok(Found { descriptor, manifest: *manifest, bytes }),
            (Document::Index(inner), _) => index = inner,
        }
    }
    Err(files.corrupt("indexes of indexes"))
}

/// A manifest or an index, and its bytes.
fn read_document(files: &Files, descriptor: &Descriptor) -> Result<(Document, Vec<u8>), ArchiveError> {
    let bytes = read_blob(files, &descriptor.digest, MANIFEST_LIMIT_BYTES)?;
    let named = Some(descriptor.media_type.as_str()).filter(|t| !t.is_empty());
    let document = Document::parse(&bytes, named).map_err(|source| ArchiveError::Manifest { path: files.path().into(), source })?;
    Ok((document, bytes))
}

fn read_index(files: &Files) -> Result<Index, ArchiveError> {
    let bytes = files.read("index.json", MANIFEST_LIMIT_BYTES)?;
    match Document::parse(&bytes, Some(media::OCI_INDEX)) {
        Ok(Document::Index(index)) if !index.manifests.is_empty() => Ok(index),
        Ok(_) => Err(files.corrupt("index.json names no image")),
        Err(source) => Err(ArchiveError::Manifest { path: files.path().into(), source }),
    }
}

/// A blob that is small enough to be read whole, checked.
fn read_blob(files: &Files, digest: &OciDigest, limit_bytes: u64) -> Result<Vec<u8>, ArchiveError> {
    let bytes = files.read(&blob_path(digest), limit_bytes)?;
    let actual = if digest.algorithm() == "sha512" { OciDigest::sha512_of(&bytes) } else { OciDigest::sha256_of(&bytes) };
    if actual != *digest {
        return Err(files.corrupt(format!("content does not match its digest: expected {digest}, got {actual}")));
    }
    Ok(bytes)
}

fn blob_path(digest: &OciDigest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// The name of an entry. A bare tag names nothing that could be loaded.
fn name_of(descriptor: &Descriptor) -> Option<Reference> {
    let full = descriptor.annotations.get(IMAGE_NAME);
    let name = full.or_else(|| descriptor.annotations.get(REF_NAME).filter(|n| n.contains(['/', ':'])))?;
    let reference = Reference::parse(name).ok()?.with_default_tag();
    reference.tag().is_some().then_some(reference).and_then(|r| r.tagged())
}

/// What can stand after the path of `oci-layout://`.
fn tags(descriptor: &Descriptor) -> Vec<String> {
    let named = descriptor.annotations.get(REF_NAME).cloned();
    let mut tags: Vec<String> = named.into_iter().collect();
    tags.extend(name_of(descriptor).and_then(|n| n.tag().map(String::from)));
    tags.dedup();
    tags
}
