//! push: an image of the store, or one that was just exported, into a registry.

use std::collections::HashMap;
use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use shale_cache::{BlobRef, ImageLayer, ImageRecord, OciDigest, Packed};

use super::resolve::merge;
use super::{ImageError, ImageService, ResolvedImage};
use crate::export::{
    BuiltIndex, BuiltManifest, ExportError, ExportImage, ExportIndex, Exportable, MediaTypes, build_index, build_manifest,
};
use crate::oci::manifest::Descriptor;
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::source::registry::{BlobState, NewManifest, Progress, Sent, UploadSession};
use crate::threads::in_parallel;

/// Blobs that one image sends at a time, as Docker does.
pub(super) const PARALLEL_BLOBS: usize = 5;

/// An image, or images of several platforms, ready to be pushed: every layer has a packed form, wherever it is.
#[derive(Debug)]
pub struct Outgoing {
    parts: Vec<Part>,
    index: Option<BuiltIndex>,
    /// Where blobs come from that are not in the store.
    bases: Vec<ResolvedImage>,
}

/// The image of one platform.
#[derive(Debug)]
struct Part {
    /// The store's image where absent blobs come from; `None` = every blob is in the store.
    image: Option<ResolvedImage>,
    export: ExportImage,
    manifest: BuiltManifest,
}

/// Under what a manifest is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushAs {
    /// The tag of the name.
    Tag,
    /// Its own digest.
    Digest,
}

/// What a registry has got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Digest of the manifest or index.
    pub digest: OciDigest,
    /// Its size.
    pub size_bytes: u64,
    /// Its media type.
    pub media_type: String,
}

/// Brings a blob into the store that is not there yet.
type Fetch<'a> = &'a (dyn Fn(&OciDigest) -> Result<(), ImageError> + Sync);

impl Outgoing {
    /// What a build has just packed.
    pub fn of(one: Exportable, types: MediaTypes) -> Result<Self, ExportError> {
        match one {
            Exportable::Image(export) => {
                let manifest = build_manifest(&export, types)?;
                Ok(Self { parts: vec![Part { image: None, export: *export, manifest }], index: None, bases: Vec::new() })
            }
            Exportable::Index(all) => {
                let index = build_index(&all, types)?;
                let parts = all.images.into_iter().zip(&index.manifests);
                let parts = parts.map(|((_, export), manifest)| Part { image: None, export, manifest: manifest.clone() }).collect();
                Ok(Self { parts, index: Some(index), bases: Vec::new() })
            }
        }
    }

    /// The same with the images that it was built upon: blobs of theirs that the registry lacks are fetched when they are sent.
    #[must_use]
    pub fn upon(mut self, bases: &[ResolvedImage]) -> Self {
        self.bases = bases.to_vec();
        self
    }

    /// What points to the manifest, or to the index.
    pub fn descriptor(&self) -> Descriptor {
        let manifest = &self.parts[0].manifest;
        let (media_type, digest, bytes) = match &self.index {
            Some(index) => (&index.media_type, &index.digest, &index.bytes),
            None => (&manifest.media_type, &manifest.digest, &manifest.bytes),
        };
        Descriptor::new(media_type, digest.clone(), bytes.len() as u64)
    }

    /// The layers from the top down, as Docker names them: DiffID and blob, each blob once.
    pub fn layers(&self) -> Vec<(&OciDigest, &OciDigest)> {
        let mut layers: Vec<(&OciDigest, &OciDigest)> = Vec::new();
        for layer in self.parts.iter().flat_map(|part| part.export.layers.iter().rev()) {
            if !layers.iter().any(|(_, blob)| *blob == &layer.blob) {
                layers.push((&layer.diff_id.0, &layer.blob));
            }
        }
        layers
    }
}

impl ImageService {
    /// What stands behind a tag, with all layers packed: an image, or those of all platforms that were built for one index. `pack`
    /// packs layers that have no blob.
    pub fn outgoing(
        &self,
        name: &Reference,
        platform: Option<&Platform>,
        pack: &mut dyn FnMut(&ImageLayer) -> Result<Packed, ImageError>,
    ) -> Result<Outgoing, ImageError> {
        let record = self.find_reference(name)?.ok_or_else(|| ImageError::NoTag { name: name.familiar() })?;
        let record = self.alone(record, platform)?;
        let built = record.built.clone();
        let types = if built.docker_media_types { MediaTypes::Docker } else { MediaTypes::Oci };
        if built.platforms.is_empty() {
            return Ok(Outgoing { parts: vec![self.part(name, record, types, pack)?], index: None, bases: Vec::new() });
        }
        let mut parts = Vec::new();
        for id in &built.platforms {
            let missing = || ImageError::MissingBlob { image: name.familiar(), digest: id.clone() };
            let one = if *id == record.id { record.clone() } else { self.store().images().get(id)?.ok_or_else(missing)? };
            parts.push(self.part(name, one, types, pack)?);
        }
        let images = parts.iter().filter_map(|part| Some((part.image.as_ref()?.config.platform(), part.export.clone())));
        let all = ExportIndex {
            names: vec![name.clone()],
            images: images.collect(),
            annotations: built.index_annotations,
            descriptor_annotations: built.index_descriptor_annotations,
        };
        let index = Some(build_index(&all, types)?);
        Ok(Outgoing { parts, index, bases: Vec::new() })
    }

    fn part(
        &self,
        name: &Reference,
        record: ImageRecord,
        types: MediaTypes,
        pack: &mut dyn FnMut(&ImageLayer) -> Result<Packed, ImageError>,
    ) -> Result<Part, ImageError> {
        let image = self.base_of(&name.to_string(), record)?;
        let layers = image.layers.iter().map(|layer| match &layer.blob {
            Some(blob) => Ok(packed(layer, blob)),
            None => pack(layer),
        });
        let layers = layers.collect::<Result<Vec<_>, _>>()?;
        let kept = match &image.record.manifest {
            Some(manifest) => self.store().blobs().read(&manifest.digest)?,
            None => None,
        };
        let (names, config, built) = (vec![name.clone()], image.config_bytes.clone(), &image.record.built);
        let (annotations, descriptor_annotations) = (built.annotations.clone(), built.descriptor_annotations.clone());
        let mut export = ExportImage { names, config, layers, annotations, descriptor_annotations, manifest: kept };
        let manifest = match build_manifest(&export, types) {
            // The layers were packed anew in another way than the manifest says.
            Err(_) if export.manifest.is_some() => {
                export.manifest = None;
                build_manifest(&export, types)?
            }
            built => built?,
        };
        Ok(Part { image: Some(image), export, manifest })
    }

    /// The tags of a repository in the store, sorted.
    pub fn tags_of(&self, repository: &Reference) -> Result<Vec<Reference>, ImageError> {
        let mut tags = Vec::new();
        for (_, names) in self.store().images().list()? {
            tags.extend(super::lookup::references(&names).into_iter().filter(|name| name.name() == repository.name()));
        }
        tags.sort();
        Ok(tags)
    }

    /// The tags that a repository has in its registry.
    pub fn remote_tags(&self, repository: &Reference, progress: &dyn Progress) -> Result<Vec<String>, ImageError> {
        Ok(self.client().tags(repository, progress)?)
    }

    /// Pushes to a name: all blobs, then the manifests, then the index over them. The store remembers under which digest the registry
    /// knows its image.
    pub fn push(&self, outgoing: &Outgoing, target: &Reference, push_as: PushAs, progress: &dyn Progress) -> Result<Pushed, ImageError> {
        let home = self.client().home(target)?;
        for part in &outgoing.parts {
            let fetch = |digest: &OciDigest| {
                let images = part.image.iter().chain(&outgoing.bases);
                let is_it = |layer: &ImageLayer| layer.blob.as_ref().is_some_and(|blob| blob.digest == *digest);
                let mut places = images.filter_map(|image| Some((image, image.layers.iter().position(is_it)?)));
                places.next().map_or(Ok(()), |(image, n)| self.ensure_blob(image, n, &Fetching(progress)).map(drop))
            };
            self.send_blobs(&home, &part.export, &fetch, progress)?;
        }
        let (bytes, media_type) = match &outgoing.index {
            None => (&outgoing.parts[0].manifest.bytes, &outgoing.parts[0].manifest.media_type),
            Some(index) => {
                for BuiltManifest { bytes, media_type, digest, .. } in outgoing.parts.iter().map(|part| &part.manifest) {
                    self.send_manifest(&home, digest.as_str(), bytes, media_type, progress)?;
                }
                (&index.bytes, &index.media_type)
            }
        };
        let digest = outgoing.descriptor().digest;
        let name = match push_as {
            PushAs::Tag => target.tag().unwrap_or(crate::oci::reference::DEFAULT_TAG),
            PushAs::Digest => digest.as_str(),
        };
        let pushed = self.send_manifest(&home, name, bytes, media_type, progress)?;
        for part in &outgoing.parts {
            if let Some(image) = &part.image {
                self.learn(&image.record, &part.export, &part.manifest, &[target.at_digest(&pushed.digest).to_string()])?;
            }
        }
        Ok(pushed)
    }

    /// Puts a manifest or index whose parts are in the repository under a tag or its own digest.
    pub fn send_manifest(
        &self,
        target: &Reference,
        name: &str,
        bytes: &[u8],
        media_type: &str,
        progress: &dyn Progress,
    ) -> Result<Pushed, ImageError> {
        let digest = OciDigest::sha256_of(bytes);
        self.client().push_manifest(target, name, &NewManifest { bytes, media_type, digest: &digest }, progress)?;
        Ok(Pushed { digest, size_bytes: bytes.len() as u64, media_type: media_type.to_owned() })
    }

    /// Notes under which digests registries know an image. A read-only store learns nothing.
    pub fn note_pushed(&self, id: &OciDigest, repo_digests: &[String]) -> Result<(), ImageError> {
        if self.store().is_read_only() {
            return Ok(());
        }
        let _lock = self.store().images().lock()?;
        let Some(mut record) = self.store().images().get(id)? else { return Ok(()) };
        for known_as in repo_digests {
            if !record.repo_digests.contains(known_as) {
                record.repo_digests.push(known_as.clone());
            }
        }
        Ok(self.store().images().put(&record)?)
    }

    fn learn(&self, old: &ImageRecord, export: &ExportImage, manifest: &BuiltManifest, known_as: &[String]) -> Result<(), ImageError> {
        if self.store().is_read_only() {
            return Ok(());
        }
        self.store().blobs().put(&manifest.bytes)?;
        let size_bytes = manifest.bytes.len() as u64;
        let layers = old.layers.iter().zip(&export.layers).map(|(layer, packed)| {
            let blob = BlobRef { digest: packed.blob.clone(), size_bytes: packed.size_bytes, media_type: packed.media_type.clone() };
            ImageLayer { blob: Some(blob), ..layer.clone() }
        });
        let new = ImageRecord {
            manifest: Some(BlobRef { digest: manifest.digest.clone(), size_bytes, media_type: manifest.media_type.clone() }),
            layers: layers.collect(),
            repo_digests: known_as.to_vec(),
            ..old.clone()
        };
        let images = self.store().images();
        let _lock = images.lock()?;
        let Some(record) = images.get(&old.id)? else { return Ok(()) };
        // What was pushed is what its name stands for; the image itself may have been built in another way since.
        let learnt =
            if record.built == new.built { new.clone() } else { ImageRecord { repo_digests: known_as.to_vec(), ..record.clone() } };
        images.put(&merge(learnt, record))?;
        for name in export.names.iter().map(ToString::to_string) {
            if images.resolve(&name)?.is_some_and(|id| id == old.id) {
                images.tag(&name, &new)?;
            }
        }
        Ok(())
    }

    /// Sends config and layers, several at a time.
    fn send_blobs(&self, target: &Reference, image: &ExportImage, fetch: Fetch<'_>, progress: &dyn Progress) -> Result<(), ImageError> {
        let origins = self.origins(target)?;
        let mut blobs: Vec<(&OciDigest, u64)> = Vec::new();
        for layer in image.layers.iter().rev() {
            if !blobs.iter().any(|(digest, _)| *digest == &layer.blob) {
                blobs.push((&layer.blob, layer.size_bytes));
            }
        }
        // The first one alone: it brings the token that all others use, or the registry's refusal once instead of five times.
        let config = self.store().blobs().put(&image.config)?;
        let none = Vec::new();
        self.send_blob(target, &config, image.config.len() as u64, &none, &|_| Ok(()), progress)?;
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let work = || {
            while let Some((digest, size_bytes)) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let known_in = origins.get(digest).unwrap_or(&none);
                if let Err(error) = self.send_blob(target, digest, *size_bytes, known_in, fetch, progress) {
                    // The others end what they have begun and begin nothing more.
                    next.store(blobs.len(), Ordering::Relaxed);
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            }
        };
        in_parallel(PARALLEL_BLOBS.min(blobs.len()), work);
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn send_blob(
        &self,
        target: &Reference,
        digest: &OciDigest,
        size_bytes: u64,
        known_in: &[String],
        fetch: Fetch<'_>,
        progress: &dyn Progress,
    ) -> Result<(), ImageError> {
        let tell = |state: BlobState| progress.on_blob(digest.as_str(), &state);
        match self.client().place_blob(target, digest, known_in, progress)? {
            Sent::Present => tell(BlobState::Present),
            Sent::Mounted(path) => tell(BlobState::Mounted(path)),
            Sent::Absent(session) => {
                fetch(digest)?;
                tell(BlobState::Started);
                self.upload(target, digest, size_bytes, session, progress)?;
                tell(BlobState::Done);
            }
        }
        Ok(())
    }

    pub(super) fn upload(
        &self,
        target: &Reference,
        digest: &OciDigest,
        size_bytes: u64,
        session: UploadSession,
        progress: &dyn Progress,
    ) -> Result<(), ImageError> {
        let missing = || ImageError::MissingBlob { image: target.familiar(), digest: digest.clone() };
        let file: File = self.store().blobs().open(digest)?.ok_or_else(missing)?;
        Ok(self.client().upload_blob(target, digest, &file, size_bytes, session, progress)?)
    }

    /// The repositories of the target's registry in which blobs are, as far as the store knows, by blob.
    fn origins(&self, target: &Reference) -> Result<HashMap<OciDigest, Vec<String>>, ImageError> {
        let mut origins: HashMap<OciDigest, Vec<String>> = HashMap::new();
        for (record, _) in self.store().images().list()? {
            let repositories = super::lookup::references(&record.repo_digests);
            let paths: Vec<&str> = repositories.iter().filter(|r| r.domain() == target.domain()).map(Reference::path).collect();
            for blob in record.layers.iter().filter_map(|layer| layer.blob.as_ref()) {
                let known = origins.entry(blob.digest.clone()).or_default();
                for path in paths.iter().filter(|path| **path != target.path()) {
                    if !known.iter().any(|k| k == path) {
                        known.push((*path).to_owned());
                    }
                }
            }
        }
        Ok(origins)
    }
}

/// A download in the middle of a push: what is told of blobs is about the push alone.
pub(super) struct Fetching<'a>(pub(super) &'a dyn Progress);

impl Progress for Fetching<'_> {
    fn on_wait(&self, what: &str, cause: &str, delay: Duration) {
        self.0.on_wait(what, cause, delay);
    }

    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}

fn packed(layer: &ImageLayer, blob: &BlobRef) -> Packed {
    let BlobRef { digest, size_bytes, media_type } = blob.clone();
    Packed { blob: digest, size_bytes, diff_id: layer.diff_id.clone(), media_type }
}
