//! The steps that made an image, as its config tells them.

use shale_cache::OciDigest;

use super::{ImageError, ImageService};

/// One step of an image's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryStep {
    /// The image id at the newest step; what stood between is no image.
    pub id: Option<OciDigest>,
    /// When it was made, in seconds since 1970.
    pub created_secs: Option<i64>,
    /// The instruction.
    pub created_by: String,
    /// What its layer takes; 0 for a step without one.
    pub size_bytes: u64,
    /// What made it: `buildkit.dockerfile.v0`.
    pub comment: String,
}

impl ImageService {
    /// The history of an image, the oldest step first.
    pub fn history(&self, name: &str) -> Result<Vec<HistoryStep>, ImageError> {
        let (record, _) = self.find(name)?;
        let (config, _) = self.config_of(&record)?;
        let mut layers = record.layers.iter();
        let (mut steps, mut sizes) = (Vec::new(), self.sizes());
        for entry in config.history {
            let layer = if entry.empty_layer { None } else { layers.next() };
            let size_bytes = layer.map_or(Ok(0), |layer| sizes.of_layer(layer))?;
            steps.push(HistoryStep {
                id: None,
                created_secs: entry.created.as_deref().and_then(super::verbs::unix_secs),
                created_by: entry.created_by,
                size_bytes,
                comment: entry.comment,
            });
        }
        if let Some(newest) = steps.last_mut() {
            newest.id = Some(record.id);
        }
        Ok(steps)
    }
}
