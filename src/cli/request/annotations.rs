//! `--annotation [TYPE[PLATFORM][,TYPE…]:]KEY=VALUE`, as docker buildx reads it.

use super::RequestError;
use crate::export::annotation::{Annotations, Place};
use crate::oci::platform::Platform;

pub(in crate::cli) fn annotations(given: &[String]) -> Result<Annotations, RequestError> {
    let mut all = Annotations::default();
    for text in given.iter().filter(|text| !text.is_empty()) {
        add(&mut all, text).map_err(RequestError::Annotation)?;
    }
    Ok(all)
}

fn add(all: &mut Annotations, text: &str) -> Result<(), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("invalid annotation {text:?}, expected key=value"))?;
    let Some((places, key)) = key.split_once(':') else {
        all.set(Place::Manifest, None, key, value);
        return Ok(());
    };
    for place in places.split(',') {
        let (name, platform) = place_of(place)
            .ok_or_else(|| format!("invalid annotation type {place:?}, expected type and optional platform in square brackets"))?;
        let named = Place::named(name).ok_or_else(|| format!("unknown annotation type {name:?}"))?;
        let platform = platform.map(str::parse::<Platform>).transpose().map_err(|error| format!("invalid platform: {error}"))?;
        all.set(named, platform, key, value);
    }
    Ok(())
}

/// `manifest[linux/amd64]` as its two parts.
fn place_of(text: &str) -> Option<(&str, Option<&str>)> {
    let (name, platform) = match text.strip_suffix(']').map(|text| text.split_once('[')) {
        None => (text, None),
        Some(Some((name, platform))) if !platform.is_empty() => (name, Some(platform)),
        Some(_) => return None,
    };
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
    is_name.then_some((name, platform))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn places_and_platforms_are_read() {
        let given = ["a=1", "index:b=2", "manifest[linux/arm64],manifest-descriptor:c=3=4", "a=5"].map(String::from);
        let all = annotations(&given).unwrap();
        let pairs = |list: &[(&str, &str)]| list.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect::<BTreeMap<String, String>>();
        let (arm, amd) = ("linux/arm64".parse().unwrap(), "linux/amd64".parse().unwrap());
        assert_eq!(all.of(Place::Manifest, Some(&arm)), pairs(&[("a", "5"), ("c", "3=4")]));
        assert_eq!(all.of(Place::Manifest, Some(&amd)), pairs(&[("a", "5")]));
        assert_eq!(all.of(Place::ManifestDescriptor, Some(&amd)), pairs(&[("c", "3=4")]));
        assert_eq!(all.of(Place::Index, None), pairs(&[("b", "2")]));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for (text, message) in [
            ("a", "invalid annotation \"a\", expected key=value"),
            ("layer:a=b", "unknown annotation type \"layer\""),
            ("Index:a=b", "invalid annotation type \"Index\", expected type and optional platform in square brackets"),
            ("manifest[]:a=b", "invalid annotation type \"manifest[]\", expected type and optional platform in square brackets"),
        ] {
            assert_eq!(annotations(&[text.into()]).unwrap_err().to_string(), message);
        }
    }
}
