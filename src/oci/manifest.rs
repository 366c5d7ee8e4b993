//! Manifests and indexes: the JSON that joins a config and layers to an image.
//!
//! Own structs rather than oci-spec's: annotations there are an unordered map, and the order of a manifest's bytes is its digest.
//! Reading is lenient about what is absent, writing is BuildKit's: two spaces of indentation, keys in the order of the Go structs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shale_cache::OciDigest;

use super::json;
use super::platform::Platform;

/// Media types.
pub mod media {
    /// OCI index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image config.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI layer, plain tar.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// OCI layer, gzip.
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// OCI layer, zstd.
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker image config.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker layer, plain tar.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker layer, gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker layer, zstd; not official, but what others write.
    pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

    const DOCKER_SCHEMA1: [&str; 2] =
        ["application/vnd.docker.distribution.manifest.v1+json", "application/vnd.docker.distribution.manifest.v1+prettyjws"];

    /// The types that a registry is asked for, best first.
    pub const ACCEPTED: [&str; 4] = [OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST];

    pub(super) fn is_schema1(media_type: &str) -> bool {
        DOCKER_SCHEMA1.contains(&media_type)
    }

    /// The Docker type of an OCI type; other types stay.
    pub fn docker_of(media_type: &str) -> &str {
        match media_type {
            OCI_INDEX => DOCKER_LIST,
            OCI_MANIFEST => DOCKER_MANIFEST,
            OCI_CONFIG => DOCKER_CONFIG,
            OCI_LAYER => DOCKER_LAYER,
            OCI_LAYER_GZIP => DOCKER_LAYER_GZIP,
            OCI_LAYER_ZSTD => DOCKER_LAYER_ZSTD,
            other => other,
        }
    }

    /// The OCI type of a Docker type; other types stay.
    pub fn oci_of(media_type: &str) -> &str {
        match media_type {
            DOCKER_LIST => OCI_INDEX,
            DOCKER_MANIFEST => OCI_MANIFEST,
            DOCKER_CONFIG => OCI_CONFIG,
            DOCKER_LAYER => OCI_LAYER,
            DOCKER_LAYER_GZIP => OCI_LAYER_GZIP,
            DOCKER_LAYER_ZSTD => OCI_LAYER_ZSTD,
            other => other,
        }
    }
}

/// The longest manifest or index that is read.
pub const MANIFEST_LIMIT_BYTES: u64 = 4 << 20;
/// The longest config that is read.
pub const CONFIG_LIMIT_BYTES: u64 = 8 << 20;

/// Bytes that are no usable manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not of a manifest's shape.
    #[error("invalid image manifest: {0}")]
    Json(#[from] serde_json::Error),
    /// The format that registries wrote before 2015.
    #[error("image manifest version 2, schema 1 is not supported: push the image again with a current tool")]
    Schema1,
    /// Neither a manifest nor an index.
    #[error("not an image: media type {media_type:?}")]
    NotAnImage {
        /// What it calls itself.
        media_type: String,
    },
    /// It can be read in two ways, which different tools would do differently.
    #[error("ambiguous image manifest: it has both \"manifests\" and \"layers\"")]
    Ambiguous,
}

/// What points to a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the blob.
    #[serde(default)]
    pub media_type: String,
    /// Digest of the blob.
    pub digest: OciDigest,
    /// Size of the blob.
    #[serde(rename = "size")]
    pub size_bytes: u64,
    /// Other places of the blob.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The blob itself in base64, where it is short.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub data: String,
    /// In an index: for which platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<DescriptorPlatform>,
    /// What kind of artifact the manifest is of, where it is no image.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub artifact_type: String,
}

/// `platform` of a descriptor, in the order of the Go struct.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescriptorPlatform {
    /// GOARCH name.
    #[serde(default)]
    pub architecture: String,
    /// GOOS name.
    #[serde(default)]
    pub os: String,
    /// Version of Windows.
    #[serde(default, rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// What the OS must have.
    #[serde(default, rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    /// CPU variant.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

/// An image of one platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// The manifest's own type.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The config.
    pub config: Descriptor,
    /// The layers, bottom first.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A list of manifests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// The index's own type.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What a name can resolve to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Box<Manifest>),
    /// Images of several platforms.
    Index(Index),
}

/// The keys that tell what a document is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    manifests: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// The media type that it has where nobody said another one.
    pub fn media_type(&self) -> &str {
        let (own, default) = match self {
            Self::Manifest(manifest) => (&manifest.media_type, media::OCI_MANIFEST),
            Self::Index(index) => (&index.media_type, media::OCI_INDEX),
        };
        if own.is_empty() { default } else { own }
    }

    /// Reads a manifest or an index. `content_type` is what the registry or the descriptor called it.
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Self, ManifestError> {
        let probe: Probe = json::read(bytes)?;
        let named = if probe.media_type.is_empty() { content_type.unwrap_or_default() } else { &probe.media_type };
        if probe.schema_version == 1 || probe.fs_layers.is_some() || media::is_schema1(named) {
            return Err(ManifestError::Schema1);
        }
        if probe.manifests.is_some() && (probe.layers.is_some() || probe.config.is_some()) {
            return Err(ManifestError::Ambiguous);
        }
        let by_name = match named {
            media::OCI_INDEX | media::DOCKER_LIST => Some(true),
            media::OCI_MANIFEST | media::DOCKER_MANIFEST => Some(false),
            _ => None,
        };
        match (by_name, probe.manifests.is_some(), probe.config.is_some()) {
            (Some(true) | None, true, _) => Ok(Self::Index(json::read(bytes)?)),
            (Some(false) | None, _, true) => Ok(Self::Manifest(json::read(bytes)?)),
            _ => Err(ManifestError::NotAnImage { media_type: named.into() }),
        }
    }
}

impl Descriptor {
    /// A bare descriptor.
    pub fn new(media_type: &str, digest: OciDigest, size_bytes: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size_bytes,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            data: String::new(),
            platform: None,
            artifact_type: String::new(),
        }
    }

    /// Whether it is a statement about another manifest rather than an image.
    pub fn is_attestation(&self) -> bool {
        self.annotations.get("vnd.docker.reference.type").is_some_and(|t| t == "attestation-manifest")
            || self.platform.as_ref().is_some_and(|p| p.os == "unknown" && p.architecture == "unknown")
    }

    /// The platform in normal form, `None` where none is named or it cannot be read.
    pub fn normal_platform(&self) -> Option<Platform> {
        self.platform.as_ref()?.normal()
    }
}

impl DescriptorPlatform {
    /// The platform in normal form.
    pub fn normal(&self) -> Option<Platform> {
        let mut text = format!("{}/{}", self.os, self.architecture);
        if !self.variant.is_empty() {
            text.push('/');
            text.push_str(&self.variant);
        }
        text.parse().ok()
    }
}

impl From<&Platform> for DescriptorPlatform {
    fn from(platform: &Platform) -> Self {
        Self {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            os_version: String::new(),
            os_features: Vec::new(),
            variant: platform.variant.clone(),
        }
    }
}

impl Manifest {
    /// The bytes that are hashed: two spaces of indentation, as BuildKit writes it.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("a manifest has only string keys")
    }
}

impl Index {
    /// An OCI index.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self { schema_version: 2, media_type: media::OCI_INDEX.into(), manifests, annotations: BTreeMap::new() }
    }

    /// The bytes that are hashed, as BuildKit writes them.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("an index has only string keys")
    }

    /// The entry for a platform: the same variant first, then the nearest older one that the CPU also runs, then the same of the
    /// architecture before it (containerd's `platforms.Only`).
    pub fn choose(&self, wanted: &Platform) -> Option<&Descriptor> {
        let images: Vec<&Descriptor> = self.manifests.iter().filter(|d| !d.is_attestation()).collect();
        if let [only] = images[..]
            && only.platform.is_none()
        {
            return Some(only);
        }
        let nearest = |wanted: &Platform| {
            let ranked = images.iter().filter_map(|d| Some((distance(&d.normal_platform()?, wanted)?, *d)));
            // min_by_key keeps the first of equals, as the order in an index is a preference.
            ranked.min_by_key(|(distance, _)| *distance).map(|(_, d)| d)
        };
        nearest(wanted).or_else(|| nearest(&wanted.predecessor()?))
    }

    /// The platforms that it offers, for errors.
    pub fn platforms(&self) -> Vec<String> {
        self.manifests.iter().filter(|d| !d.is_attestation()).filter_map(Descriptor::normal_platform).map(|p| p.to_string()).collect()
    }
}

/// How far an offered platform is from the wanted one: 0 = the same, `None` = it would not run.
fn distance(offered: &Platform, wanted: &Platform) -> Option<u32> {
    if offered.satisfies(wanted) {
        return Some(0);
    }
    if offered.os != wanted.os || offered.architecture != wanted.architecture {
        return None;
    }
    // An amd64 without variant is v1. Older variants run on newer CPUs, never the reverse.
    let level = |variant: &str| if variant.is_empty() { Some(1) } else { variant.strip_prefix('v')?.parse::<u32>().ok() };
    level(&wanted.variant)?.checked_sub(level(&offered.variant)?)
}

/// Whether an image of one platform can stand where another is wanted.
pub fn runs_on(offered: &Platform, wanted: &Platform) -> bool {
    distance(offered, wanted).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn index(platforms: &[&str]) -> Index {
        let entries = platforms.iter().map(|text| {
            let digest = OciDigest::sha256_of(text.as_bytes());
            let mut descriptor = Descriptor::new(media::OCI_MANIFEST, digest, 1);
            let parts: Vec<&str> = text.split('/').collect();
            descriptor.platform = Some(DescriptorPlatform {
                os: parts[0].into(),
                architecture: parts[1].into(),
                variant: parts.get(2).copied().unwrap_or_default().into(),
                os_version: String::new(),
                os_features: Vec::new(),
            });
            descriptor
        });
        Index::new(entries.collect())
    }

    #[test]
    fn platform_choice() {
        let cases = [
            (vec!["linux/amd64", "linux/arm64"], "linux/arm64", Some("linux/arm64")),
            (vec!["linux/amd64", "linux/arm64/v8"], "linux/arm64", Some("linux/arm64/v8")),
            (vec!["linux/arm/v5", "linux/arm/v6", "linux/arm64"], "linux/arm/v7", Some("linux/arm/v6")),
            (vec!["linux/arm/v7"], "linux/arm/v6", None),
            (vec!["linux/amd64", "linux/amd64/v3"], "linux/amd64", Some("linux/amd64")),
            (vec!["linux/amd64", "linux/amd64/v3"], "linux/amd64/v3", Some("linux/amd64/v3")),
            (vec!["linux/amd64"], "linux/amd64/v2", Some("linux/amd64")),
            (vec!["unknown/unknown", "linux/s390x"], "linux/amd64", None),
            (vec!["windows/amd64", "linux/386"], "linux/amd64", Some("linux/386")),
            (vec!["linux/386", "linux/amd64"], "linux/amd64/v2", Some("linux/amd64")),
            (vec!["linux/amd64"], "linux/386", None),
            (vec!["linux/arm/v6", "linux/arm/v7"], "linux/arm64", Some("linux/arm/v7")),
        ];
        for (offered, wanted, expected) in cases {
            let index = index(&offered);
            let chosen = index.choose(&wanted.parse().expect("a platform")).map(|d| d.digest.clone());
            assert_eq!(chosen, expected.map(|e| OciDigest::sha256_of(e.as_bytes())), "{offered:?} for {wanted}");
        }
    }

    #[test]
    fn documents_are_told_apart() {
        let manifest =
            format!(r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"{D}","size":1}},"layers":null,"annotations":null}}"#);
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"m","digest":"{D}","size":1}}]}}"#);
        assert!(matches!(Document::parse(manifest.as_bytes(), None), Ok(Document::Manifest(_))));
        assert!(matches!(Document::parse(manifest.as_bytes(), Some(media::DOCKER_MANIFEST)), Ok(Document::Manifest(_))));
        assert!(matches!(Document::parse(index.as_bytes(), Some("text/plain")), Ok(Document::Index(_))));
        let cases = [
            (r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(), None, "schema 1 is not supported"),
            (manifest.clone(), Some(media::OCI_INDEX), "not an image"),
            (r#"{"schemaVersion":2}"#.to_owned(), None, "not an image"),
            (index.replace("\"manifests\"", "\"layers\":[],\"manifests\""), None, "ambiguous"),
            ("<html>".to_owned(), None, "invalid image manifest"),
            (manifest.replace(D, "sha256:1"), None, "invalid image manifest"),
        ];
        for (text, content_type, message) in cases {
            let error = Document::parse(text.as_bytes(), content_type).expect_err(&text);
            assert!(error.to_string().contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn written_as_buildkit_writes() {
        let digest: OciDigest = D.parse().expect("a digest");
        let manifest = Manifest {
            schema_version: 2,
            media_type: media::OCI_MANIFEST.into(),
            config: Descriptor::new(media::OCI_CONFIG, digest, 7),
            layers: Vec::new(),
            annotations: BTreeMap::from([("b".into(), "2".into()), ("a".into(), "1".into())]),
        };
        let expected = format!(
            "{{\n  \"schemaVersion\": 2,\n  \"mediaType\": \"application/vnd.oci.image.manifest.v1+json\",\n  \"config\": {{\n    \
             \"mediaType\": \"application/vnd.oci.image.config.v1+json\",\n    \"digest\": \"{D}\",\n    \"size\": 7\n  }},\n  \
             \"layers\": [],\n  \"annotations\": {{\n    \"a\": \"1\",\n    \"b\": \"2\"\n  }}\n}}"
        );
        assert_eq!(String::from_utf8(manifest.to_json()).expect("text"), expected);
    }
}
