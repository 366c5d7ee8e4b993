//! Config, history and layers of an image, from the plan and the solved graph.

use shale_cache::DiffId;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::oci::config::{HistoryEntry, ImageConfig};
use crate::plan::graph::PlannedImage;

/// A point in time: seconds and nanoseconds since the epoch.
pub type Timestamp = (i64, u32);

/// The layer of one history entry.
#[derive(Clone, Debug)]
pub struct NewLayer {
    /// Uncompressed digest as it is exported.
    pub diff_id: DiffId,
    /// When the step that made it ended.
    pub created: Timestamp,
}

/// Adds what the vertices made to a planned image: DiffIDs, history and times. `new_layers` are the layers of the entries with a
/// vertex, in order. The planned config still has the base's time.
///
/// Metadata before the first new layer takes that layer's time, after it the previous one's (BuildKit); without any layer the
/// base's, else the epoch. With `epoch_secs` every time of ours is the epoch.
pub fn assemble(planned: &PlannedImage, new_layers: &[NewLayer], epoch_secs: Option<i64>) -> ImageConfig {
    let mut config = planned.config.clone();
    account_for_layers(&mut config);
    let base_created = config.created.take();
    let stamp = |time: Timestamp| epoch_secs.map_or(time, |epoch| (epoch, 0));
    let first = new_layers.first().map(|layer| stamp(layer.created));
    let without_layers = base_created.or_else(|| epoch_secs.map(|epoch| rfc3339((epoch, 0))));
    let mut time = first;
    let mut layers = new_layers.iter();
    for planned in &planned.history {
        if planned.vertex.is_some() {
            time = layers.next().map(|layer| stamp(layer.created));
        }
        let created = time.map(rfc3339).or_else(|| without_layers.clone());
        config.history.push(HistoryEntry { created, ..planned.entry.clone() });
    }
    config.created = time.map(rfc3339).or(without_layers);
    config.rootfs.diff_ids.extend(new_layers.iter().map(|layer| layer.diff_id.0.to_string()));
    config
}

/// Gives a base as many entries with a layer as it has layers: who reads an image goes through both side by side. Of too many the first
/// lose theirs (BuildKit); too few are followed by some without words. BuildKit adds those behind its own, where they tell of wrong layers.
fn account_for_layers(config: &mut ImageConfig) {
    let layers = config.rootfs.diff_ids.len();
    let told = config.history.iter().filter(|entry| !entry.empty_layer).count();
    let surplus = config.history.iter_mut().filter(|entry| !entry.empty_layer).take(told.saturating_sub(layers));
    surplus.for_each(|entry| entry.empty_layer = true);
    let untold = HistoryEntry { created: config.created.clone(), ..HistoryEntry::default() };
    config.history.extend(std::iter::repeat_n(untold, layers.saturating_sub(told)));
}

/// RFC 3339 in UTC with the nanoseconds that are there, as Go prints times.
pub fn rfc3339((secs, nanos): Timestamp) -> String {
    let time =
        OffsetDateTime::from_unix_timestamp(secs).unwrap_or(OffsetDateTime::UNIX_EPOCH) + time::Duration::nanoseconds(i64::from(nanos));
    time.format(&Rfc3339).expect("every time of the range prints")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::platform::Platform;
    use crate::plan::graph::{PlannedHistory, VertexId};

    fn planned(steps: &[(&str, bool)]) -> PlannedImage {
        let platform = Platform::native();
        let history = steps
            .iter()
            .map(|(text, layer)| PlannedHistory {
                entry: HistoryEntry { created_by: (*text).into(), empty_layer: !layer, ..HistoryEntry::default() },
                vertex: layer.then_some(VertexId(0)),
            })
            .collect();
        PlannedImage { config: ImageConfig::scratch(&platform), platform, root: VertexId(0), history }
    }

    fn layer(byte: u8, secs: i64) -> NewLayer {
        NewLayer { diff_id: DiffId(shale_cache::OciDigest::sha256_of(&[byte])), created: (secs, 0) }
    }

    #[test]
    fn metadata_takes_the_time_of_the_layer_before_it_or_of_the_first() {
        let image = planned(&[("ENV a=b", false), ("RUN x", true), ("CMD y", false), ("COPY z", true), ("USER u", false)]);
        let config = assemble(&image, &[layer(1, 10), layer(2, 20)], None);
        let times: Vec<_> = config.history.iter().map(|h| h.created.as_deref().unwrap_or_default()).collect();
        let (ten, twenty) = ("1970-01-01T00:00:10Z", "1970-01-01T00:00:20Z");
        assert_eq!(times, [ten, ten, ten, twenty, twenty]);
        assert_eq!(config.created.as_deref(), Some(twenty));
        assert_eq!(config.rootfs.diff_ids.len(), 2);
    }

    #[test]
    fn the_epoch_is_every_time_of_ours() {
        let config = assemble(&planned(&[("RUN x", true), ("RUN y", true)]), &[layer(1, 5), layer(2, 20)], Some(10));
        let times: Vec<_> = config.history.iter().map(|h| h.created.as_deref().unwrap_or_default()).collect();
        assert_eq!(times, ["1970-01-01T00:00:10Z"; 2]);
    }

    #[test]
    fn an_image_without_layers_takes_the_time_of_its_base_or_the_epoch() {
        let mut image = planned(&[("CMD x", false)]);
        assert_eq!(assemble(&image, &[], None).created, None);
        assert_eq!(assemble(&image, &[], Some(1)).created.as_deref(), Some("1970-01-01T00:00:01Z"));
        image.config.created = Some("2020-02-02T02:02:02Z".to_owned());
        assert_eq!(assemble(&image, &[], Some(1)).created.as_deref(), Some("2020-02-02T02:02:02Z"));
    }

    #[test]
    fn every_layer_of_a_base_has_an_entry_whatever_the_base_tells() {
        let entry = |created_by: &str, empty_layer| HistoryEntry { created_by: created_by.into(), empty_layer, ..HistoryEntry::default() };
        for (told, layers, expected) in [
            (vec![], 2, vec![("", false), ("", false)]),
            (vec![("a", false), ("b", true)], 2, vec![("a", false), ("b", true), ("", false)]),
            (vec![("a", false), ("b", true), ("c", false)], 1, vec![("a", true), ("b", true), ("c", false)]),
            (vec![("a", true)], 0, vec![("a", true)]),
        ] {
            let mut image = planned(&[("RUN x", true)]);
            image.config.history = told.iter().map(|(text, empty)| entry(text, *empty)).collect();
            image.config.rootfs.diff_ids = vec!["sha256:0".into(); layers];
            let history = assemble(&image, &[layer(1, 10)], None).history;
            let (own, base) = history.split_last().expect("entries");
            let base: Vec<_> = base.iter().map(|entry| (entry.created_by.as_str(), entry.empty_layer)).collect();
            assert_eq!((base, own.created_by.as_str()), (expected, "RUN x"));
        }
    }
}
