//! The docker-archive: `manifest.json`, configs and layers under any names.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::files::Files;
use super::{ArchiveError, FoundImage, FoundLayer};
use crate::oci::config::ImageConfig;
use crate::oci::manifest::{CONFIG_LIMIT_BYTES, MANIFEST_LIMIT_BYTES};
use crate::oci::reference::Reference;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// All images of a docker-archive, with their names.
pub(super) fn images(files: &Files) -> Result<Vec<(FoundImage, Vec<Reference>)>, ArchiveError> {
    let bytes = files.read("manifest.json", MANIFEST_LIMIT_BYTES)?;
    let items: Vec<Item> = serde_json::from_slice(&bytes).map_err(|e| files.corrupt(format!("invalid manifest.json: {e}")))?;
    items.into_iter().map(|item| image(files, item)).collect()
}

fn image(files: &Files, item: Item) -> Result<(FoundImage, Vec<Reference>), ArchiveError> {
    let config = files.read(&item.config, CONFIG_LIMIT_BYTES)?;
    let parsed = ImageConfig::from_json(&config).map_err(|e| files.corrupt(format!("invalid image config {}: {e}", item.config)))?;
    let diff_ids = parsed.rootfs.diff_ids;
    let layer_files = item.layers.unwrap_or_default();
    if diff_ids.len() != layer_files.len() {
        return Err(files.corrupt(format!("manifest.json has {} layers, the config {}", layer_files.len(), diff_ids.len())));
    }
    let layers = diff_ids.iter().zip(layer_files).map(|(diff_id, file)| {
        let diff_id = diff_id.parse().map_err(|e| files.corrupt(format!("DiffID {e}")))?;
        Ok(FoundLayer { diff_id, file, blob: None })
    });
    let layers = layers.collect::<Result<_, ArchiveError>>()?;
    let names = item.repo_tags.unwrap_or_default().into_iter().map(|name| {
        let reference = Reference::parse(&name).map_err(|e| files.corrupt(format!("invalid tag {name:?}: {e}")))?;
        Ok(reference.with_default_tag())
    });
    Ok((FoundImage { config, manifest: None, layers, annotations: BTreeMap::new() }, names.collect::<Result<_, ArchiveError>>()?))
}
