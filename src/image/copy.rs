//! Images from registry to registry: what a name points to there, and its way into another repository.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use shale_cache::{BlobRef, OciDigest};

use super::push::PARALLEL_BLOBS;
use super::{ImageError, ImageService};
use crate::oci::json;
use crate::oci::manifest::{Descriptor, DescriptorPlatform, Document, Manifest, ManifestError};
use crate::oci::reference::Reference;
use crate::source::registry::{BlobState, Progress, RegistryError, Sent};
use crate::threads::in_parallel;

/// An index may name another index; deeper nesting is nobody's image.
const INDEX_DEPTH_LIMIT: usize = 3;

/// What a registry has under a name.
#[derive(Clone, Debug)]
pub struct Remote {
    /// The name.
    pub reference: Reference,
    /// What points to it; its platform is not known.
    pub descriptor: Descriptor,
    /// What it says.
    pub document: Document,
    /// Its bytes, as they are hashed.
    pub bytes: Vec<u8>,
}

impl ImageService {
    /// What a name points to in its registry, a manifest or an index.
    pub fn remote(&self, reference: &Reference, progress: &dyn Progress) -> Result<Remote, ImageError> {
        let found = self.client().document(reference, progress)?;
        Ok(Remote { reference: reference.clone(), descriptor: found.descriptor, document: found.document, bytes: found.bytes })
    }

    /// Where a name is written to.
    pub fn home(&self, reference: &Reference) -> Result<Reference, ImageError> {
        Ok(self.client().home(reference)?)
    }

    /// The config of a manifest in a registry.
    pub fn remote_config(&self, reference: &Reference, manifest: &Manifest, progress: &dyn Progress) -> Result<Vec<u8>, ImageError> {
        Ok(self.client().config_of(reference, manifest, progress)?)
    }

    /// The platform that the config of a manifest is for.
    pub fn remote_platform(
        &self,
        reference: &Reference,
        manifest: &Manifest,
        progress: &dyn Progress,
    ) -> Result<DescriptorPlatform, ImageError> {
        let config = self.remote_config(reference, manifest, progress)?;
        let invalid = |source: serde_json::Error| RegistryError::Manifest { reference: reference.to_string(), source: source.into() };
        Ok(json::read(&config).map_err(invalid)?)
    }

    /// Brings a manifest or an index with everything below it from one repository into another, where it is known by its digest.
    pub fn copy_image(&self, from: &Reference, top: &OciDigest, to: &Reference, progress: &dyn Progress) -> Result<(), ImageError> {
        self.copy_below(from, top, to, INDEX_DEPTH_LIMIT, progress)
    }

    fn copy_below(
        &self,
        from: &Reference,
        digest: &OciDigest,
        to: &Reference,
        depth: usize,
        progress: &dyn Progress,
    ) -> Result<(), ImageError> {
        if from.name() == to.name() {
            return Ok(());
        }
        let found = self.remote(&from.at_digest(digest), progress)?;
        match &found.document {
            Document::Manifest(manifest) => self.copy_blobs(from, manifest, to, progress)?,
            Document::Index(_) if depth == 0 => {
                let source = ManifestError::NotAnImage { media_type: "index of indexes".into() };
                return Err(RegistryError::Manifest { reference: from.to_string(), source }.into());
            }
            Document::Index(index) => {
                for entry in &index.manifests {
                    self.copy_below(from, &entry.digest, to, depth - 1, progress)?;
                }
            }
        }
        let home = self.home(to)?;
        self.send_manifest(&home, digest.as_str(), &found.bytes, &found.descriptor.media_type, progress)?;
        Ok(())
    }

    /// Brings the blobs of a manifest from one repository into another, several at a time. What the registry does not take from its
    /// own repository goes through the store.
    pub fn copy_blobs(&self, from: &Reference, manifest: &Manifest, to: &Reference, progress: &dyn Progress) -> Result<(), ImageError> {
        let home = self.home(to)?;
        let mut seen = HashSet::new();
        // What has an address of its own is not the registry's to hold.
        let all = std::iter::once(&manifest.config).chain(&manifest.layers);
        let blobs: Vec<&Descriptor> = all.filter(|blob| blob.urls.is_empty() && seen.insert(&blob.digest)).collect();
        let one = |blob: &Descriptor| self.copy_blob(from, blob, &home, progress);
        // The first one alone: it brings the token that all others use.
        let Some((first, rest)) = blobs.split_first() else { return Ok(()) };
        one(first)?;
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let work = || {
            while let Some(blob) = rest.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = one(blob) {
                    next.store(rest.len(), Ordering::Relaxed);
                    failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                }
            }
        };
        in_parallel(PARALLEL_BLOBS.min(rest.len()), work);
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn copy_blob(&self, from: &Reference, blob: &Descriptor, home: &Reference, progress: &dyn Progress) -> Result<(), ImageError> {
        let source = self.home(from)?;
        let mount_from = if source.domain() == home.domain() { vec![source.path().to_owned()] } else { Vec::new() };
        let tell = |state: BlobState| progress.on_blob(blob.digest.as_str(), &state);
        match self.client().place_blob(home, &blob.digest, &mount_from, progress)? {
            Sent::Present => tell(BlobState::Present),
            Sent::Mounted(path) => tell(BlobState::Mounted(path)),
            Sent::Absent(session) => {
                tell(BlobState::Started);
                if self.store().blobs().size(&blob.digest)?.is_none() {
                    let (digest, media_type) = (blob.digest.clone(), blob.media_type.clone());
                    self.download_from(
                        from,
                        &BlobRef { digest, size_bytes: blob.size_bytes, media_type },
                        &super::push::Fetching(progress),
                    )?;
                }
                self.upload(home, &blob.digest, blob.size_bytes, session, progress)?;
                tell(BlobState::Done);
            }
        }
        Ok(())
    }
}
