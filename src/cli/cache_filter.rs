//! `--filter KEY=VALUE` of the commands that prune and count the build cache.

use shale_cache::{ItemFilter, ItemKind};

use crate::dockerfile::duration::parse_duration;

const NANOS: i64 = 1_000_000_000;

/// Docker's word for a kind of entries.
pub fn kind_name(kind: ItemKind) -> &'static str {
    match kind {
        ItemKind::Layer | ItemKind::Blob => "regular",
        ItemKind::Mount => "exec.cachemount",
        ItemKind::Context => "source.local",
        ItemKind::Checkout => "source.git.checkout",
        ItemKind::Build => "internal",
    }
}

const KINDS: &[ItemKind] = &[ItemKind::Layer, ItemKind::Blob, ItemKind::Mount, ItemKind::Context, ItemKind::Checkout, ItemKind::Build];

fn split(filter: &str) -> (&str, Option<&str>) {
    match filter.split_once('=') {
        Some((key, value)) => (key, Some(value.strip_prefix('=').unwrap_or(value))),
        None => (filter, None),
    }
}

/// Reads the filters of the build cache, as `docker buildx prune` has them.
pub fn of_cache(filters: &[String]) -> Result<ItemFilter, String> {
    let mut out = ItemFilter::default();
    let mut age = None;
    for filter in filters {
        let (key, value) = split(filter);
        let wanted = || value.filter(|value| !value.is_empty()).ok_or_else(|| format!("the filter {key:?} needs a value"));
        match key {
            "until" | "unused-for" => {
                match age {
                    Some(other) if other != key => return Err("conflicting filters \"until\" and \"unused-for\"".into()),
                    Some(_) => return Err(format!("{key:?} filter expects only one value")),
                    None => age = Some(key),
                }
                out.unused_for_secs = Some(seconds(wanted()?).map_err(|_| format!("{key:?} filter expects a duration (e.g., '24h')"))?);
            }
            "id" => out.id = Some(wanted()?.trim_end_matches('*').to_owned()),
            "type" | "type!" => {
                let value = wanted()?;
                let is_named = |kind: &&ItemKind| (kind_name(**kind) == value) == (key == "type");
                if value != "frontend" && !KINDS.iter().any(|kind| kind_name(*kind) == value) {
                    return Err(format!("there are no entries of type {value:?}"));
                }
                out.kinds = Some(KINDS.iter().filter(is_named).copied().collect());
            }
            "inuse" | "in-use" => out.is_in_use = Some(truth(key, value)?),
            "shared" => out.is_shared = Some(truth(key, value)?),
            "private" => out.is_shared = Some(!truth(key, value)?),
            "description" | "description~" => out.description = Some(wanted()?.to_owned()),
            // Labels are of images: no entry has one.
            "label" | "label!" => out.kinds = Some(Vec::new()),
            _ => return Err(format!("invalid filter '{key}'")),
        }
    }
    Ok(out)
}

fn truth(key: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => Err(format!("invalid filter '{key}={other}'")),
    }
}

fn seconds(text: &str) -> Result<i64, String> {
    parse_duration(text).map(|nanos| nanos / NANOS).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(filters: &[&str]) -> Result<ItemFilter, String> {
        of_cache(&filters.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn filters_of_the_cache_read_as_buildx_s() {
        assert_eq!(cache(&["until=24h"]).unwrap().unused_for_secs, Some(86_400));
        assert_eq!(cache(&["unused-for=90m"]).unwrap().unused_for_secs, Some(5_400));
        assert_eq!(cache(&["type=exec.cachemount"]).unwrap().kinds, Some(vec![ItemKind::Mount]));
        assert_eq!(cache(&["type==regular"]).unwrap().kinds, Some(vec![ItemKind::Layer, ItemKind::Blob]));
        assert_eq!(cache(&["type!=regular"]).unwrap().kinds.unwrap().len(), 4);
        assert_eq!(cache(&["id=ab*", "inuse", "shared=false"]).unwrap().is_in_use, Some(true));
        for (filters, error) in [
            (&["until=soon"][..], "\"until\" filter expects a duration (e.g., '24h')"),
            (&["until=1h", "unused-for=1h"], "conflicting filters \"until\" and \"unused-for\""),
            (&["until=1h", "until=2h"], "\"until\" filter expects only one value"),
            (&["colour=red"], "invalid filter 'colour'"),
            (&["type=cake"], "there are no entries of type \"cake\""),
            (&["inuse=perhaps"], "invalid filter 'inuse=perhaps'"),
            (&["id"], "the filter \"id\" needs a value"),
        ] {
            assert_eq!(cache(filters).unwrap_err(), error);
        }
    }
}
