//! The archive and the layout directory.

use shale_cache::Store;

use super::{Destination, ExportError, ExportImage, Exported, Format, MediaTypes};

/// Writes images. Returns what was written, in the order of the images.
pub fn export(
    store: &Store,
    images: &[ExportImage],
    format: Format,
    types: MediaTypes,
    destination: Destination<'_>,
) -> Result<Vec<Exported>, ExportError> {
    let _ = (store, images, format, types, destination);
    todo!()
}
