//! Images of registries → an index over them, as `docker buildx imagetools create` joins them.

use std::collections::BTreeMap;

use shale_cache::OciDigest;

use crate::export::annotation::{Annotations, Place};
use crate::oci::manifest::{Descriptor, Document, Index, media};
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;

/// What an attestation of BuildKit's is about.
const SUBJECT: &str = "vnd.docker.reference.digest";

/// A manifest or an index that goes into the result.
#[derive(Clone, Debug)]
pub struct Ingredient {
    /// Where it is.
    pub source: Reference,
    /// What will point to it; a manifest's has its platform.
    pub descriptor: Descriptor,
    /// What it says.
    pub document: Document,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// What the result shall be like.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Annotations of the result and of what it points to.
    pub annotations: Annotations,
    /// Whether a single manifest is made an index of, too.
    pub prefers_index: bool,
    /// Only these platforms; empty = all.
    pub platforms: Vec<Platform>,
}

/// The result.
#[derive(Clone, Debug)]
pub struct Combined {
    /// What points to it.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What it needs in its repository, and where that is.
    pub parts: Vec<(OciDigest, Reference)>,
}

/// Images that cannot be joined so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CombineError {
    /// An annotation that has no place in an index.
    #[error("{0:?} annotations are not supported yet")]
    Manifest(&'static str),
    /// An annotation of what points to the index: nothing does.
    #[error("{0:?} annotations are invalid while creating an image")]
    IndexDescriptor(&'static str),
    /// Docker's list has no annotations.
    #[error("annotations need OCI media types, and all sources have Docker's")]
    DockerTypes,
    /// No platform that is wanted.
    #[error("none of the manifests match the provided platforms")]
    NoPlatform,
    /// The only manifest is for another platform.
    #[error("input platform {0} does not match any of the provided platforms")]
    OtherPlatform(String),
}

/// Joins them. A single one that needs no change stays as it is, byte for byte.
pub fn combine(ingredients: &[Ingredient], wish: &Wish) -> Result<Combined, CombineError> {
    let annotations = &wish.annotations;
    if !annotations.of_any(Place::Manifest).is_empty() {
        return Err(CombineError::Manifest("manifest"));
    }
    if !annotations.of_any(Place::IndexDescriptor).is_empty() {
        return Err(CombineError::IndexDescriptor("index-descriptor"));
    }
    if let [only] = ingredients
        && annotations.is_empty()
    {
        match &only.document {
            Document::Index(index) => return filtered(index, Some(only), |_| only.source.clone(), wish),
            Document::Manifest(_) if !wish.prefers_index => {
                let platform = only.descriptor.normal_platform();
                if !platform.as_ref().is_none_or(|platform| is_wanted(platform, wish)) {
                    return Err(CombineError::OtherPlatform(platform.map(|p| p.to_string()).unwrap_or_default()));
                }
                let parts = vec![(only.descriptor.digest.clone(), only.source.clone())];
                return Ok(Combined { descriptor: only.descriptor.clone(), bytes: only.bytes.clone(), parts });
            }
            Document::Manifest(_) => {}
        }
    }
    let (mut entries, mut sources) = (Vec::<Descriptor>::new(), BTreeMap::new());
    for ingredient in ingredients {
        let own = std::slice::from_ref(&ingredient.descriptor);
        let new = if let Document::Index(index) = &ingredient.document { &index.manifests[..] } else { own };
        for entry in new {
            add(&mut entries, entry);
            sources.insert(entry.digest.to_string(), ingredient.source.clone());
        }
    }
    let is_docker = entries.iter().all(|entry| entry.media_type.starts_with("application/vnd.docker."));
    let mut index = Index::new(entries);
    if is_docker {
        if !annotations.is_empty() {
            return Err(CombineError::DockerTypes);
        }
        index.media_type = media::DOCKER_LIST.into();
    }
    index.annotations = annotations.of(Place::Index, None);
    for entry in &mut index.manifests {
        entry.annotations.extend(annotations.of(Place::ManifestDescriptor, entry.normal_platform().as_ref()));
    }
    filtered(&index, None, |digest| sources[&digest.to_string()].clone(), wish)
}

/// Adds an entry, or what a later mention of the same manifest says of it.
fn add(entries: &mut Vec<Descriptor>, new: &Descriptor) {
    match entries.iter_mut().find(|entry| entry.digest == new.digest) {
        None => entries.push(new.clone()),
        Some(known) => {
            if new.platform.is_some() {
                known.platform.clone_from(&new.platform);
            }
            known.annotations.extend(new.annotations.clone());
        }
    }
}

fn is_wanted(platform: &Platform, wish: &Wish) -> bool {
    wish.platforms.is_empty() || wish.platforms.contains(platform)
}

/// The index without what is for other platforms. `kept` is where it came from: if nothing goes, its bytes stay.
fn filtered(
    index: &Index,
    kept: Option<&Ingredient>,
    source_of: impl Fn(&OciDigest) -> Reference,
    wish: &Wish,
) -> Result<Combined, CombineError> {
    let is_named = |entry: &Descriptor| entry.platform.is_none() || entry.normal_platform().is_some_and(|p| is_wanted(&p, wish));
    let stays = |entry: &&Descriptor| {
        let subject = entry.annotations.get(SUBJECT).filter(|_| entry.is_attestation());
        let subject = subject.and_then(|digest| index.manifests.iter().find(|other| other.digest.as_str() == digest));
        wish.platforms.is_empty() || subject.map_or_else(|| is_named(entry), is_named)
    };
    let manifests: Vec<Descriptor> = index.manifests.iter().filter(stays).cloned().collect();
    if manifests.is_empty() {
        return Err(CombineError::NoPlatform);
    }
    let is_whole = manifests.len() == index.manifests.len();
    let parts = manifests.iter().map(|entry| (entry.digest.clone(), source_of(&entry.digest))).collect();
    if let Some(kept) = kept.filter(|_| is_whole) {
        return Ok(Combined { descriptor: kept.descriptor.clone(), bytes: kept.bytes.clone(), parts });
    }
    let index = Index { manifests, ..index.clone() };
    let bytes = index.to_json();
    let media_type = if index.media_type.is_empty() { media::OCI_INDEX } else { &index.media_type };
    let descriptor = Descriptor::new(media_type, OciDigest::sha256_of(&bytes), bytes.len() as u64);
    Ok(Combined { descriptor, bytes, parts })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::manifest::DescriptorPlatform;

    fn reference(text: &str) -> Reference {
        Reference::parse(text).unwrap()
    }

    fn manifest(source: &str, media_type: &str, platform: &str) -> Ingredient {
        let blob = format!(r#"{{"mediaType":"c","digest":"{}","size":1}}"#, OciDigest::sha256_of(platform.as_bytes()));
        let text = format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{blob}}}"#);
        let mut descriptor = Descriptor::new(media_type, OciDigest::sha256_of(text.as_bytes()), text.len() as u64);
        descriptor.platform = Some(DescriptorPlatform::from(&platform.parse::<Platform>().unwrap()));
        let document = Document::parse(text.as_bytes(), None).unwrap();
        Ingredient { source: reference(source), descriptor, document, bytes: text.into_bytes() }
    }

    fn wish(platforms: &[&str]) -> Wish {
        let platforms = platforms.iter().map(|text| text.parse().unwrap()).collect();
        Wish { annotations: Annotations::default(), prefers_index: true, platforms }
    }

    fn as_ingredient(combined: &Combined, source: &str) -> Ingredient {
        let document = Document::parse(&combined.bytes, None).unwrap();
        Ingredient { source: reference(source), descriptor: combined.descriptor.clone(), document, bytes: combined.bytes.clone() }
    }

    fn entries(combined: &Combined) -> Vec<Descriptor> {
        let Document::Index(index) = Document::parse(&combined.bytes, None).unwrap() else { panic!("no index") };
        index.manifests
    }

    #[test]
    fn manifests_and_indexes_become_one_index() {
        let amd = manifest("r/a:amd", media::OCI_MANIFEST, "linux/amd64");
        let arm = manifest("r/b:arm", media::OCI_MANIFEST, "linux/arm64");
        let first = combine(&[amd.clone(), arm.clone()], &wish(&[])).unwrap();
        assert_eq!(first.descriptor.media_type, media::OCI_INDEX);
        assert_eq!(first.parts, [(amd.descriptor.digest.clone(), amd.source.clone()), (arm.descriptor.digest.clone(), arm.source)]);
        let old = as_ingredient(&first, "r/a:list");
        let more = manifest("r/a:s390x", media::DOCKER_MANIFEST, "linux/s390x");
        let second = combine(&[old.clone(), more, amd], &wish(&[])).unwrap();
        let platforms: Vec<String> = entries(&second).iter().map(|entry| entry.normal_platform().unwrap().to_string()).collect();
        assert_eq!(platforms, ["linux/amd64", "linux/arm64", "linux/s390x"], "each once");
        assert_eq!(combine(&[old], &wish(&[])).unwrap().bytes, first.bytes, "alone it stays as it is");
    }

    #[test]
    fn the_kind_follows_the_sources() {
        let docker = manifest("r/a", media::DOCKER_MANIFEST, "linux/amd64");
        assert_eq!(combine(std::slice::from_ref(&docker), &wish(&[])).unwrap().descriptor.media_type, media::DOCKER_LIST);
        let copy = combine(std::slice::from_ref(&docker), &Wish { prefers_index: false, ..wish(&[]) }).unwrap();
        assert_eq!((copy.bytes, copy.descriptor), (docker.bytes.clone(), docker.descriptor.clone()));
        let mut annotated = wish(&[]);
        annotated.annotations.set(Place::Index, None, "k", "v");
        assert_eq!(combine(&[docker], &annotated).unwrap_err(), CombineError::DockerTypes);
        annotated.annotations.set(Place::ManifestDescriptor, None, "d", "e");
        let made = combine(&[manifest("r/a", media::OCI_MANIFEST, "linux/amd64")], &annotated).unwrap();
        let Document::Index(index) = Document::parse(&made.bytes, None).unwrap() else { panic!("no index") };
        assert_eq!((index.annotations["k"].as_str(), index.manifests[0].annotations["d"].as_str()), ("v", "e"));
        annotated.annotations.set(Place::Manifest, None, "m", "n");
        assert!(matches!(combine(&[], &annotated), Err(CombineError::Manifest(_))));
    }

    #[test]
    fn platforms_are_chosen_with_their_attestations() {
        let amd = manifest("r/a:amd", media::OCI_MANIFEST, "linux/amd64");
        let arm = manifest("r/a:arm", media::OCI_MANIFEST, "linux/arm64");
        let mut proof = manifest("r/a:proof", media::OCI_MANIFEST, "unknown/unknown");
        proof.descriptor.annotations.insert(SUBJECT.into(), arm.descriptor.digest.to_string());
        let all = combine(&[amd.clone(), arm.clone(), proof.clone()], &wish(&[])).unwrap();
        let one = combine(&[as_ingredient(&all, "r/a:all")], &wish(&["linux/arm64/v8"])).unwrap();
        let kept: Vec<OciDigest> = entries(&one).into_iter().map(|entry| entry.digest).collect();
        assert_eq!(kept, [arm.descriptor.digest.clone(), proof.descriptor.digest]);
        assert_eq!(combine(std::slice::from_ref(&amd), &wish(&["linux/s390x"])).unwrap_err(), CombineError::NoPlatform);
        let copied = combine(&[amd], &Wish { prefers_index: false, ..wish(&["linux/s390x"]) });
        assert_eq!(copied.unwrap_err(), CombineError::OtherPlatform("linux/amd64".into()));
    }
}
