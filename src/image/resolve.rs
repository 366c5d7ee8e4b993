//! From a name to a base image.

use std::time::{SystemTime, UNIX_EPOCH};

use shale_cache::{BlobRef, Built, DiffId, ImageLayer, ImageRecord, OciDigest};

use super::lookup::{SHORT_ID_DIGITS, parse_config};
use super::{ImageError, ImageService, LayoutName, NamedImage, Origin, PullPolicy, ResolvedImage};
use crate::oci::manifest::{self, Document, Manifest, media};
use crate::oci::platform::Platform;
use crate::oci::reference::{Reference, ReferenceError};
use crate::source::archive::Layout;
use crate::source::registry::{Progress, RemoteImage};

/// A named context may stand for a name that is itself a named context; more than this is a circle.
const ALIAS_LIMIT: usize = 8;

impl ImageService {
    /// Finds a base image: named context, then store, then registry. Manifest and config are in the store afterwards.
    ///
    /// A name with tag and digest is taken by its digest. An id or at least twelve digits of one are looked up in the store.
    pub fn resolve(
        &self,
        name: &str,
        platform: &Platform,
        policy: PullPolicy,
        progress: &dyn Progress,
    ) -> Result<ResolvedImage, ImageError> {
        let mut current = name.to_owned();
        for _ in 0..ALIAS_LIMIT {
            match self.named_context(&current) {
                Some(NamedImage::Layout(layout)) => return self.resolve_layout(name, layout, platform),
                Some(NamedImage::Image(alias)) if *alias != current => current.clone_from(alias),
                _ => return self.resolve_reference(&current, platform, policy, progress),
            }
        }
        Err(ImageError::NamedContext { text: name.into(), detail: "named contexts refer to each other in a circle".into() })
    }

    /// The named context that a FROM means: `alpine`, `alpine:latest` and the full name are one.
    fn named_context(&self, name: &str) -> Option<&NamedImage> {
        if let Some(found) = self.named.get(name) {
            return Some(found);
        }
        let full = |text: &str| Reference::parse(text).ok().map(Reference::with_default_tag);
        let wanted = full(name)?;
        self.named.iter().find(|(key, _)| full(key).as_ref() == Some(&wanted)).map(|(_, image)| image)
    }

    fn resolve_reference(
        &self,
        name: &str,
        platform: &Platform,
        policy: PullPolicy,
        progress: &dyn Progress,
    ) -> Result<ResolvedImage, ImageError> {
        if let Some(record) = self.find_full_id(name)? {
            return self.base_of(name, record);
        }
        let reference = match Reference::parse(name) {
            Ok(reference) => reference.with_default_tag(),
            Err(source @ ReferenceError::Identifier { .. }) => {
                let found = self.find_prefix(name, SHORT_ID_DIGITS)?.ok_or(ImageError::Reference { text: name.into(), source })?;
                return self.base_of(name, found);
            }
            Err(source) => return Err(ImageError::Reference { text: name.into(), source }),
        };
        // A digest names the same bytes everywhere: there is nothing to ask again.
        if policy != PullPolicy::Always || reference.digest().is_some() {
            if let Some(record) = self.find_for_platform(&reference, platform)? {
                return self.base_of(name, record);
            }
            if let Some(record) = self.find_prefix(name, SHORT_ID_DIGITS)? {
                return self.base_of(name, record);
            }
        }
        if policy == PullPolicy::Never {
            return Err(ImageError::NotFound { name: reference.familiar() });
        }
        self.fetch_base(name, &reference, platform, progress)
    }

    /// The store's image of a name, if it is for the platform, or the one that came from the same index for the platform.
    fn find_for_platform(&self, reference: &Reference, platform: &Platform) -> Result<Option<ImageRecord>, ImageError> {
        let Some(first) = self.find_reference(reference)? else { return Ok(None) };
        if self.fits(&first, platform)? {
            return Ok(Some(first));
        }
        for other in &first.built.platforms {
            if let Some(record) = self.store.images().get(other)?
                && self.fits(&record, platform)?
            {
                return Ok(Some(record));
            }
        }
        for (record, _) in self.store.images().list()? {
            if record.repo_digests.iter().any(|d| first.repo_digests.contains(d)) && self.fits(&record, platform)? {
                return Ok(Some(record));
            }
        }
        // What no registry knows was built here or loaded; it is what the name means, and plan warns about the platform.
        let is_all_there_is = first.repo_digests.is_empty() || self.is_chosen(&first, platform);
        Ok(is_all_there_is.then_some(first))
    }

    /// Whether an image is what its index has for a platform, although it is for another one.
    fn is_chosen(&self, record: &ImageRecord, platform: &Platform) -> bool {
        let chosen_of = |name: &String| {
            let index = self.store.blobs().read(Reference::parse(name).ok()?.digest()?).ok()??;
            match Document::parse(&index, None) {
                Ok(Document::Index(index)) => index.choose(platform).map(|chosen| chosen.digest.clone()),
                _ => None,
            }
        };
        let own = record.manifest.as_ref().map(|manifest| &manifest.digest);
        record.repo_digests.iter().filter_map(chosen_of).any(|chosen| Some(&chosen) == own)
    }

    fn fits(&self, record: &ImageRecord, platform: &Platform) -> Result<bool, ImageError> {
        let platforms = self.config_of(record).map(|(config, _)| manifest::DescriptorPlatform::from(&config.platform()).normal());
        match platforms {
            Ok(offered) => Ok(offered.is_some_and(|offered| manifest::runs_on(&offered, platform))),
            // A config that was lost can be fetched again.
            Err(ImageError::MissingBlob { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A base from the store.
    pub(super) fn base_of(&self, name: &str, record: ImageRecord) -> Result<ResolvedImage, ImageError> {
        let (config, config_bytes) = self.config_of(&record)?;
        let repositories: Vec<_> = record.repo_digests.iter().filter_map(|d| Reference::parse(d).ok()).collect();
        let origin = if repositories.is_empty() { Origin::Store } else { Origin::Registry(repositories) };
        let layers = self.with_known_layers(&record.layers)?;
        Ok(ResolvedImage { name: name.into(), record, config, config_bytes, layers, origin })
    }

    /// A base from its registry. The name then points to it in the store, so that it stays inspectable.
    pub(super) fn fetch_base(
        &self,
        name: &str,
        reference: &Reference,
        platform: &Platform,
        progress: &dyn Progress,
    ) -> Result<ResolvedImage, ImageError> {
        let remote = self.fetch_documents(reference, platform, progress)?;
        let record = self.record_of(reference, &remote)?;
        let is_named = reference.digest().is_none() && !self.has_same_index(reference, &remote.top)?;
        let names: Vec<String> = is_named.then(|| reference.to_string()).into_iter().collect();
        self.store.images().put_named(&record, &names, merge)?;
        self.base_of(name, record)
    }

    /// The manifests and the config behind a name, which are in the store then.
    pub(super) fn fetch_documents(
        &self,
        reference: &Reference,
        platform: &Platform,
        progress: &dyn Progress,
    ) -> Result<RemoteImage, ImageError> {
        let blobs = self.store.blobs();
        // A blob that cannot be read is fetched; a store that cannot be read says so when it is written to.
        let known = |digest: &OciDigest| blobs.read(digest).ok().flatten();
        let remote = self.client.resolve(reference, platform, &known, progress)?;
        for bytes in remote.documents.iter().chain([&remote.config]) {
            self.put_if_absent(bytes)?;
        }
        Ok(remote)
    }

    /// Whether the name already points to an image out of the same index. A build for two platforms would otherwise move the
    /// name to and fro.
    fn has_same_index(&self, reference: &Reference, top: &OciDigest) -> Result<bool, ImageError> {
        let known_as = reference.at_digest(top).to_string();
        Ok(self.find_reference(reference)?.is_some_and(|record| record.repo_digests.contains(&known_as)))
    }

    /// The record of a remote image, with what the store knew about it before.
    pub(super) fn record_of(&self, reference: &Reference, remote: &RemoteImage) -> Result<ImageRecord, ImageError> {
        let manifest_bytes = remote.documents.last().map_or(&[][..], Vec::as_slice);
        let manifest = manifest_ref(&remote.manifest, manifest_bytes, &remote.manifest_descriptor.digest);
        let layers = layers_of(&reference.to_string(), &remote.manifest, &remote.config)?;
        let known_as = reference.at_digest(&remote.top).to_string();
        let id = OciDigest::sha256_of(&remote.config);
        let record = ImageRecord {
            id,
            manifest: Some(manifest),
            layers,
            repo_digests: vec![known_as],
            stored_at_secs: now_secs(),
            built: Built::default(),
        };
        Ok(match self.store.images().get(&record.id)? {
            Some(old) => merge(record, old),
            None => record,
        })
    }

    fn put_if_absent(&self, bytes: &[u8]) -> Result<(), ImageError> {
        if self.store.blobs().size(&OciDigest::sha256_of(bytes))?.is_none() {
            self.store.blobs().put(bytes)?;
        }
        Ok(())
    }

    fn resolve_layout(&self, name: &str, layout: &LayoutName, platform: &Platform) -> Result<ResolvedImage, ImageError> {
        let image = Layout::open(&layout.path)?.find(layout.tag.as_deref(), layout.digest.as_ref(), platform)?;
        let layers = layers_of(&layout.to_string(), &image.manifest, &image.config)?;
        self.put_if_absent(&image.config)?;
        let record = ImageRecord {
            id: OciDigest::sha256_of(&image.config),
            manifest: Some(manifest_ref(&image.manifest, &image.manifest_bytes, &image.digest)),
            layers,
            repo_digests: Vec::new(),
            stored_at_secs: now_secs(),
            built: Built::default(),
        };
        Ok(ResolvedImage {
            name: name.into(),
            config: parse_config(&layout.to_string(), &image.config)?,
            config_bytes: image.config,
            layers: self.with_known_layers(&record.layers)?,
            record,
            origin: Origin::Layout(layout.path.clone()),
        })
    }
}

/// A record that is put again keeps what was learnt about the image before.
pub(super) fn merge(mut new: ImageRecord, old: ImageRecord) -> ImageRecord {
    let mut is_packed_anew = false;
    for (layer, before) in new.layers.iter_mut().zip(old.layers) {
        if layer.diff_id == before.diff_id {
            layer.layer = layer.layer.or(before.layer);
            is_packed_anew |= layer.blob.is_some() && layer.blob != before.blob;
            layer.blob = layer.blob.take().or(before.blob);
        }
    }
    // It names the blobs and has the annotations.
    let is_another = is_packed_anew || (new.manifest.is_none() && new.built != old.built);
    new.manifest = new.manifest.or(old.manifest.filter(|_| !is_another));
    for digest in old.repo_digests {
        if !new.repo_digests.contains(&digest) {
            new.repo_digests.push(digest);
        }
    }
    new
}

fn manifest_ref(manifest: &Manifest, bytes: &[u8], digest: &OciDigest) -> BlobRef {
    let media_type = if manifest.media_type.is_empty() { media::OCI_MANIFEST } else { &manifest.media_type };
    BlobRef { digest: digest.clone(), size_bytes: bytes.len() as u64, media_type: media_type.into() }
}

/// Joins a manifest's layers to its config's DiffIDs.
pub(super) fn layers_of(image: &str, manifest: &Manifest, config: &[u8]) -> Result<Vec<ImageLayer>, ImageError> {
    let invalid = |detail: String| ImageError::Invalid { image: image.into(), detail };
    let diff_ids = parse_config(image, config)?.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers.len() {
        let media_type = &manifest.config.media_type;
        if !matches!(media_type.as_str(), media::OCI_CONFIG | media::DOCKER_CONFIG) {
            return Err(invalid(format!("not an image: its config is of media type {media_type:?}")));
        }
        return Err(invalid(format!("the manifest has {} layers, the config {}", manifest.layers.len(), diff_ids.len())));
    }
    let layers = diff_ids.iter().zip(&manifest.layers).map(|(diff_id, layer)| {
        let diff_id: DiffId = diff_id.parse().map_err(|e| invalid(format!("DiffID {e}")))?;
        let blob = BlobRef { digest: layer.digest.clone(), size_bytes: layer.size_bytes, media_type: layer.media_type.clone() };
        Ok(ImageLayer { diff_id, layer: None, blob: Some(blob) })
    });
    layers.collect()
}

pub(super) fn now_secs() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}
