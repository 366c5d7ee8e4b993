//! How large an image is when it is unpacked, for people to read.

use std::collections::HashMap;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use shale_cache::{BlobRef, DiffId, ImageLayer, ImageRecord, OciDigest};

use super::{ImageError, ImageService};
use crate::oci::manifest::media;
use crate::tree::entry::{Entry, Kind};
use crate::tree::index::Index;

/// The sizes of images that are listed together: they share layers.
pub(super) struct Sizes<'a> {
    service: &'a ImageService,
    known: HashMap<DiffId, u64>,
}

impl ImageService {
    pub(super) fn sizes(&self) -> Sizes<'_> {
        Sizes { service: self, known: HashMap::new() }
    }
}

impl Sizes<'_> {
    /// The sum of the layers' sizes.
    pub(super) fn of(&mut self, record: &ImageRecord) -> Result<u64, ImageError> {
        record.layers.iter().map(|layer| self.of_layer(layer)).sum()
    }

    /// The bytes of a layer's files; of its tar, where the store has not looked into it so far; of a blob that does not tell.
    pub(super) fn of_layer(&mut self, layer: &ImageLayer) -> Result<u64, ImageError> {
        if let Some(known) = self.known.get(&layer.diff_id) {
            return Ok(*known);
        }
        let size_bytes = self.service.look_up_size(layer)?;
        self.known.insert(layer.diff_id.clone(), size_bytes);
        Ok(size_bytes)
    }
}

impl ImageService {
    fn look_up_size(&self, layer: &ImageLayer) -> Result<u64, ImageError> {
        let layers = self.store().layers();
        let known = match layer.layer {
            None => layers.by_diff(&layer.diff_id)?,
            known => known,
        };
        match (known, &layer.blob) {
            (Some(id), _) if layers.has_index(&id)? => Ok(files_size(&layers.index_path(&id))),
            (_, Some(blob)) if media::oci_of(&blob.media_type) == media::OCI_LAYER_GZIP => {
                Ok(self.inflated_size(&blob.digest)?.filter(|size| *size > blob.size_bytes).unwrap_or(blob.size_bytes))
            }
            (_, Some(BlobRef { size_bytes, .. })) => Ok(*size_bytes),
            _ => Ok(0),
        }
    }

    /// The size that stands at the end of a gzip member (RFC 1952, ISIZE), if the blob is here: that of the content below 4 GiB.
    fn inflated_size(&self, blob: &OciDigest) -> Result<Option<u64>, ImageError> {
        let Some(mut file) = self.store().blobs().open(blob)? else { return Ok(None) };
        let mut size = [0; 4];
        let read = file.seek(SeekFrom::End(-4)).and_then(|_| file.read_exact(&mut size));
        Ok(read.ok().map(|()| u32::from_le_bytes(size).into()))
    }
}

/// The bytes of all files of a layer. An index that cannot be read counts as nothing: this is a figure for people.
fn files_size(index: &Path) -> u64 {
    let file_size = |entry: Entry| match entry.kind {
        Kind::File { size, hardlink: None, .. } => size,
        _ => 0,
    };
    Index::open(index).map_or(0, |index| index.iter().map(file_size).sum())
}
