//! list, tag, remove, commit.

use std::collections::{BTreeMap, BTreeSet};

use shale_cache::{Built, ImageLayer, ImageRecord, OciDigest};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::lookup::{Named, references, short_id};
use super::resolve::{merge, now_secs};
use super::{ImageError, ImageService};
use crate::oci::reference::Reference;

/// One image of `images`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSummary {
    /// The image id.
    pub id: OciDigest,
    /// Its names, sorted; none for a dangling image.
    pub names: Vec<Reference>,
    /// `name@digest` under which registries know it, familiar forms.
    pub repo_digests: Vec<String>,
    /// RFC 3339 time of the config.
    pub created: Option<String>,
    /// How large it is when it is unpacked.
    pub size_bytes: u64,
    /// LABELs of the config.
    pub labels: BTreeMap<String, String>,
}

impl ImageSummary {
    /// When it was made, in seconds since 1970.
    pub fn created_secs(&self) -> Option<i64> {
        unix_secs(self.created.as_deref()?)
    }
}

/// A time of a config, RFC 3339, in seconds since 1970.
pub(super) fn unix_secs(text: &str) -> Option<i64> {
    OffsetDateTime::parse(text, &Rfc3339).ok().map(OffsetDateTime::unix_timestamp)
}

/// What `remove` did, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// `Untagged: alpine:latest`
    Untagged(String),
    /// `Deleted: sha256:…`
    Deleted(String),
}

impl ImageService {
    /// The images, newest first.
    pub fn list(&self) -> Result<Vec<ImageSummary>, ImageError> {
        let all = self.store.images().list()?;
        // Images of other platforms under a name are no images of their own.
        let others = self.members()?;
        let shown = all.into_iter().filter(|(record, names)| !names.is_empty() || !others.contains(&record.id));
        let mut sizes = self.sizes();
        let images = shown.map(|(record, names)| {
            let (created, labels) = match self.config_of(&record) {
                Ok((config, _)) => (config.created, config.config.labels.unwrap_or_default()),
                // A list that one lost config makes unreadable helps nobody.
                Err(ImageError::MissingBlob { .. } | ImageError::Invalid { .. }) => (None, BTreeMap::new()),
                Err(error) => return Err(error),
            };
            let size_bytes = sizes.of(&record)?;
            let repo_digests = references(&record.repo_digests).iter().map(Reference::familiar).collect();
            Ok(ImageSummary { id: record.id, names: references(&names), repo_digests, created, size_bytes, labels })
        });
        images.collect()
    }

    /// Gives an image another name. Returns it.
    pub fn tag(&self, source: &str, target: &str) -> Result<Reference, ImageError> {
        let invalid = |e| ImageError::Reference { text: target.into(), source: e };
        let name = Reference::parse(target).map_err(invalid)?.with_default_tag();
        if name.digest().is_some() {
            return Err(ImageError::DigestTag { name: target.into() });
        }
        let images = self.store.images();
        let _lock = images.lock()?;
        let (record, _) = self.find(source)?;
        images.tag(&name.to_string(), &record)?;
        Ok(name)
    }

    /// Removes a name, or an image with all its names. Blobs and layers go when the store is pruned.
    ///
    /// By name, or by `name@digest`: the image itself goes with its last name. By id: an image with several names needs `force`.
    pub fn remove(&self, name: &str, force: bool) -> Result<Vec<Removal>, ImageError> {
        let _lock = self.store.images().lock()?;
        let (record, named) = self.find(name)?;
        let tagged = self.store.images().tagged()?;
        let own = tagged.iter().filter(|(_, image)| image.id == record.id).map(|(name, _)| name.clone());
        let names = references(&own.collect::<Vec<_>>());
        match named {
            Named::Tag(tag) if names.len() > 1 => {
                self.store.images().untag(&tag.to_string())?;
                self.forget_members(&record)?;
                Ok(vec![Removal::Untagged(tag.familiar())])
            }
            Named::Digest(digest) if known_otherwise(&record, &digest, &names) => self.forget_digest(record, &digest),
            Named::Id | Named::Digest(_) if names.len() > 1 && !force => {
                Err(ImageError::Conflict { short_id: short_id(&record.id).into() })
            }
            _ => self.delete(&record, &names, tagged),
        }
    }

    /// Keeps a built image: config and record go into the store, the names move to it. Returns the image id.
    pub fn commit(&self, names: &[Reference], config: &[u8], layers: Vec<ImageLayer>, built: Built) -> Result<OciDigest, ImageError> {
        let id = self.store.blobs().put(config)?;
        let record = ImageRecord { id: id.clone(), manifest: None, layers, repo_digests: Vec::new(), stored_at_secs: now_secs(), built };
        self.keep(&record, names)?;
        Ok(id)
    }

    /// Puts a record, with what was known about the image before, and gives it names, which stand for it as it is here.
    pub(super) fn keep(&self, tagged: &ImageRecord, names: &[Reference]) -> Result<(), ImageError> {
        let names: Vec<String> = names.iter().map(|name| name.clone().with_default_tag().to_string()).collect();
        Ok(self.store.images().put_named(tagged, &names, merge)?)
    }

    /// Removes an image with all its names. `tagged` has the names of all images, read once: who removes many asks for each.
    fn delete(&self, record: &ImageRecord, names: &[Reference], tagged: Vec<(String, ImageRecord)>) -> Result<Vec<Removal>, ImageError> {
        self.store.require_writable(&format!("remove the image {} from images/", record.id))?;
        let images = self.store.images();
        let (own, others): (Vec<_>, Vec<_>) = tagged.into_iter().partition(|(_, image)| image.id == record.id);
        for (name, _) in &own {
            images.untag(name)?;
        }
        let is_member = others.iter().any(|(_, image)| image.built.platforms.contains(&record.id));
        if !is_member {
            images.remove_named(&record.id, &[])?;
        }
        let own = own.iter().map(|(_, image)| image).chain([record]);
        own.into_iter().try_for_each(|image| self.forget_members(image))?;
        let mut done: Vec<Removal> = names.iter().map(|n| Removal::Untagged(n.familiar())).collect();
        if !is_member {
            done.extend(references(&record.repo_digests).iter().map(|n| Removal::Untagged(n.familiar())));
            done.push(Removal::Deleted(record.id.to_string()));
        }
        Ok(done)
    }

    /// The images that some name stands for as one of several platforms.
    fn members(&self) -> Result<BTreeSet<OciDigest>, ImageError> {
        let tagged = self.store.images().tagged()?;
        Ok(tagged.into_iter().flat_map(|(_, image)| image.built.platforms).collect())
    }

    /// Removes the images of other platforms that were part of one whose name is gone, unless they have names or are part of others.
    fn forget_members(&self, image: &ImageRecord) -> Result<(), ImageError> {
        if image.built.platforms.is_empty() {
            return Ok(());
        }
        let (images, members) = (self.store.images(), self.members()?);
        for other in image.built.platforms.iter().filter(|other| !members.contains(other)) {
            if images.names_of(other)?.is_empty() {
                images.remove(other)?;
            }
        }
        Ok(())
    }

    /// Takes a name by digest away from an image that has others.
    fn forget_digest(&self, mut record: ImageRecord, digest: &Reference) -> Result<Vec<Removal>, ImageError> {
        record.repo_digests.retain(|known| *known != digest.to_string());
        self.store.images().put(&record)?;
        Ok(vec![Removal::Untagged(digest.familiar())])
    }
}

/// Whether an image has other names than one by digest. That of its manifest finds it too, and is none where nobody pulled it by it.
fn known_otherwise(record: &ImageRecord, digest: &Reference, names: &[Reference]) -> bool {
    let others = record.repo_digests.iter().filter(|known| **known != digest.to_string()).count();
    others < record.repo_digests.len() && names.len() + others > 0
}
