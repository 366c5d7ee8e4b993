//! pull, load, save.

use shale_cache::{Built, ImageLayer, ImageRecord, LayerId, OciDigest, Packed};

use super::lookup::Named;
use super::resolve::{merge, now_secs};
use super::{ImageError, ImageService, ResolvedImage};
use crate::export::{self, Destination, ExportImage, ExportIndex, Exportable, Exported, Format, MediaTypes};
use crate::oci::manifest::runs_on;
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::source::archive::{self, Group, ImportedImage, Input};
use crate::source::registry::Progress;
use crate::tree::index::Index;

/// An image that `load` brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The image id.
    pub id: OciDigest,
    /// The names it got; none if the archive has none.
    pub names: Vec<Reference>,
    /// The platforms that the archive names for it without having their images.
    pub left_out: Vec<String>,
}

impl ImageService {
    /// Fetches an image with all its layers (`pull`). The registry is asked, whatever the store has. The store knows of the image, and its
    /// name, once it is whole.
    pub fn pull(&self, name: &str, platform: &Platform, progress: &dyn Progress) -> Result<ResolvedImage, ImageError> {
        let _lease = self.store.lease()?;
        let invalid = |source| ImageError::Reference { text: name.into(), source };
        let reference = Reference::parse(name).map_err(invalid)?.with_default_tag();
        let remote = self.fetch_documents(&reference, platform, progress)?;
        let mut image = self.base_of(name, self.record_of(&reference, &remote)?)?;
        self.ensure_blobs(&image, progress)?;
        // Others may have learnt something about the image meanwhile.
        image.record = self.record_of(&reference, &remote)?;
        let is_named = reference.digest().is_none() && !self.stands_for_all(&reference, &remote.top, &image.record.id)?;
        let names: Vec<String> = is_named.then(|| reference.to_string()).into_iter().collect();
        self.store.images().put_named(&image.record, &names, merge)?;
        Ok(image)
    }

    /// Whether a name stands for the image already, and for those of other platforms that are in the same index: they stay.
    fn stands_for_all(&self, reference: &Reference, top: &OciDigest, id: &OciDigest) -> Result<bool, ImageError> {
        let known = self.find_reference(reference)?.filter(|known| known.id == *id && !known.built.platforms.is_empty());
        let known_as = reference.at_digest(top).to_string();
        Ok(known.is_some_and(|known| known.repo_digests.contains(&known_as)))
    }

    /// Reads images from an archive or layout into the store: of several platforms under one name all of them, or only the wanted one.
    /// A broken archive changes nothing.
    pub fn load(&self, input: Input<'_>, platform: Option<&Platform>) -> Result<Vec<Loaded>, ImageError> {
        let _lease = self.store.lease()?;
        let groups = archive::import(&self.store, input, platform)?;
        groups.into_iter().map(|group| self.keep_loaded(group)).collect()
    }

    /// Keeps what stands behind names in an archive. The names mean the image that runs here, and those that were built with it.
    fn keep_loaded(&self, group: Group<ImportedImage>) -> Result<Loaded, ImageError> {
        let Group { names, images, chosen, index, left_out } = group;
        let id = images[chosen].id.clone();
        // Two manifests may be of one image.
        let mut ids: Vec<OciDigest> = Vec::new();
        for image in &images {
            if !ids.contains(&image.id) {
                ids.push(image.id.clone());
            }
        }
        for (number, image) in images.into_iter().enumerate() {
            let joint = Built {
                platforms: if ids.len() > 1 { ids.clone() } else { Vec::new() },
                descriptor_annotations: image.annotations,
                index_annotations: index.annotations.clone(),
                index_descriptor_annotations: index.descriptor_annotations.clone(),
                docker_media_types: index.is_docker,
                ..Built::default()
            };
            let record = ImageRecord {
                id: image.id,
                manifest: image.manifest,
                layers: image.layers,
                repo_digests: Vec::new(),
                stored_at_secs: now_secs(),
                built: joint,
            };
            let record = match self.store.images().get(&record.id)? {
                Some(old) if self.is_whole(&old)? => as_loaded(old, record),
                _ => record,
            };
            self.keep(&record, if number == chosen { &names } else { &[] })?;
        }
        Ok(Loaded { id, names, left_out })
    }

    /// Whether all layers of an image are here. How they are packed is then known, or still to be decided, and another archive of the image
    /// changes nothing about what its names stand for.
    fn is_whole(&self, record: &ImageRecord) -> Result<bool, ImageError> {
        for layer in &record.layers {
            let is_here = match (&layer.blob, &layer.layer) {
                (Some(blob), _) => self.store.blobs().size(&blob.digest)?.is_some(),
                (None, Some(id)) => self.is_layer_whole(id)?,
                (None, None) => false,
            };
            if !is_here {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether a layer is here with what its files hold.
    fn is_layer_whole(&self, layer: &LayerId) -> Result<bool, ImageError> {
        let layers = self.store.layers();
        Ok(layers.has_index(layer)?
            && (layers.has_form(layer)? || Index::of_layer(&layers.index_path(layer), *layer).is_ok_and(|index| !index.has_contents())))
    }

    /// The image of a platform without those that it was built with, if there is one.
    pub(super) fn alone(&self, record: ImageRecord, platform: Option<&Platform>) -> Result<ImageRecord, ImageError> {
        let Some(wanted) = platform else { return Ok(record) };
        let found = self.variants_of(record.clone())?.into_iter().find(|(_, offered)| runs_on(offered, wanted));
        let one = found.map_or(record, |(one, _)| one);
        Ok(ImageRecord { built: Built { platforms: Vec::new(), ..one.built }, ..one })
    }

    /// Writes images by their names, of several platforms those of one if that is wanted. `pack` packs a layer that has no blob; absent blobs are fetched.
    pub fn save(
        &self,
        names: &[&str],
        platform: Option<&Platform>,
        format: Format,
        destination: Destination<'_>,
        pack: &mut dyn FnMut(&ImageLayer) -> Result<Packed, ImageError>,
    ) -> Result<Vec<Exported>, ImageError> {
        let _lease = self.store.lease()?;
        let mut images: Vec<(ImageRecord, Vec<Reference>)> = Vec::new();
        for name in names {
            for (record, named) in self.find_all(name)? {
                let record = self.alone(record, platform)?;
                // Two names of one image may stand for other manifests of it.
                let position = images.iter().position(|(other, _)| *other == record);
                let position = position.unwrap_or_else(|| {
                    images.push((record, Vec::new()));
                    images.len() - 1
                });
                let known = &mut images[position].1;
                known.extend(named.filter(|n| !known.contains(n)));
            }
        }
        let mut exports = Vec::new();
        // An index is of Docker's type only if nothing else is in the archive; each manifest is as its image was built.
        let is_docker = images.iter().all(|(record, _)| record.built.docker_media_types);
        let types = if is_docker { MediaTypes::Docker } else { MediaTypes::Oci };
        for (record, names) in images {
            exports.push(self.exportable(record, names, pack)?);
        }
        Ok(export::export_all(&self.store, &exports, format, types, destination)?)
    }

    /// An image as it is written or pushed; one that was built for several platforms with the others, under their index.
    pub fn exportable(
        &self,
        record: ImageRecord,
        names: Vec<Reference>,
        pack: &mut dyn FnMut(&ImageLayer) -> Result<Packed, ImageError>,
    ) -> Result<Exportable, ImageError> {
        if record.built.platforms.is_empty() {
            return Ok(Exportable::Image(Box::new(self.export_image(record, names, pack)?)));
        }
        let built = record.built.clone();
        let mut images = Vec::new();
        for id in &built.platforms {
            let missing = || ImageError::MissingBlob { image: record.id.to_string(), digest: id.clone() };
            let one = if *id == record.id { record.clone() } else { self.store.images().get(id)?.ok_or_else(missing)? };
            let platform = self.config_of(&one)?.0.platform();
            images.push((platform, self.export_image(one, Vec::new(), pack)?));
        }
        let Built { index_annotations: annotations, index_descriptor_annotations: descriptor_annotations, .. } = built;
        Ok(Exportable::Index(ExportIndex { names, images, annotations, descriptor_annotations }))
    }

    /// The images that a name means to `save`: a repository without a tag means all its tags.
    fn find_all(&self, name: &str) -> Result<Vec<(ImageRecord, Option<Reference>)>, ImageError> {
        if let Ok(bare) = Reference::parse(name)
            && bare.tag().is_none()
            && bare.digest().is_none()
        {
            let mut found = Vec::new();
            for (record, names) in self.store.images().list()? {
                for name in super::lookup::references(&names).into_iter().filter(|n| n.name() == bare.name()) {
                    let tagged = self.store.images().named(&name.to_string())?;
                    found.push((tagged.unwrap_or_else(|| record.clone()), Some(name)));
                }
            }
            if !found.is_empty() {
                found.sort_by(|a, b| a.1.cmp(&b.1));
                return Ok(found);
            }
        }
        let (record, named) = self.find(name)?;
        let named = if let Named::Tag(reference) = named { Some(reference) } else { None };
        Ok(vec![(record, named)])
    }

    fn export_image(
        &self,
        record: ImageRecord,
        names: Vec<Reference>,
        pack: &mut dyn FnMut(&ImageLayer) -> Result<Packed, ImageError>,
    ) -> Result<ExportImage, ImageError> {
        let image = self.base_of(&record.id.to_string(), record)?;
        let mut layers = Vec::new();
        for (n, layer) in image.layers.iter().enumerate() {
            layers.push(match &layer.blob {
                Some(_) => {
                    let blob = self.ensure_blob(&image, n, &())?;
                    let (diff_id, media_type) = (layer.diff_id.clone(), blob.media_type);
                    Packed { blob: blob.digest, size_bytes: blob.size_bytes, diff_id, media_type }
                }
                None => pack(layer)?,
            });
        }
        let manifest = match &image.record.manifest {
            Some(manifest) => self.store.blobs().read(&manifest.digest)?,
            None => None,
        };
        let Built { annotations, descriptor_annotations, docker_media_types, .. } = image.record.built;
        let mut export = ExportImage { names, config: image.config_bytes, layers, annotations, descriptor_annotations, manifest };
        if docker_media_types && export.manifest.is_none() {
            // The same manifest as a push makes.
            export.manifest = Some(export::build_manifest(&export, MediaTypes::Docker)?.bytes);
        }
        Ok(export)
    }
}

/// An image that is here already, as an archive brings it. What its manifest is like stays, with the annotations that it has in an index.
fn as_loaded(known: ImageRecord, loaded: ImageRecord) -> ImageRecord {
    let built = if loaded.built.platforms.is_empty() {
        Built { platforms: Vec::new(), ..known.built }
    } else {
        Built { annotations: known.built.annotations, ..loaded.built }
    };
    ImageRecord { stored_at_secs: loaded.stored_at_secs, built, ..known }
}
