//! Lists of manifests as `docker manifest` makes them: their members, as Docker's client keeps them in files, and their bytes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use shale_cache::OciDigest;

use super::manifest::{Descriptor, DescriptorPlatform, Document, Manifest, ManifestError, media};

/// The platforms that `docker manifest annotate` takes: operating system and architectures.
const KNOWN_PLATFORMS: &[(&str, &[&str])] = &[
    ("darwin", &["386", "amd64", "arm", "arm64"]),
    ("dragonfly", &["amd64"]),
    ("freebsd", &["386", "amd64", "arm"]),
    ("linux", &["386", "amd64", "arm", "arm64", "mips64", "mips64le", "ppc64le", "riscv64", "s390x"]),
    ("netbsd", &["386", "amd64", "arm"]),
    ("openbsd", &["386", "amd64", "arm"]),
    ("plan9", &["386", "amd64"]),
    ("solaris", &["amd64"]),
    ("windows", &["386", "amd64"]),
];

/// Whether `docker manifest annotate` takes a platform.
pub fn is_known_platform(platform: &DescriptorPlatform) -> bool {
    KNOWN_PLATFORMS.iter().any(|(os, architectures)| *os == platform.os && architectures.contains(&platform.architecture.as_str()))
}

/// One manifest of a list, in the keys and their order of Docker's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Member {
    /// The name that it was taken by.
    pub r#ref: String,
    /// What points to it, with its platform.
    pub descriptor: Descriptor,
    /// Its bytes in base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    raw: String,
    /// What it says, where it is of Docker's type.
    #[serde(default, rename = "SchemaV2Manifest", skip_serializing_if = "Option::is_none")]
    docker: Option<Manifest>,
    /// What it says, where it is of OCI's type.
    #[serde(default, rename = "OCIManifest", skip_serializing_if = "Option::is_none")]
    oci: Option<Manifest>,
}

/// A member that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// The file holds no manifest.
    #[error("{name} is not a manifest")]
    NoManifest {
        /// The name of the member.
        name: String,
    },
    /// The bytes are not those that the descriptor is of.
    #[error("internal digest mismatch for {name}: expected {expected}, got {actual}")]
    Digest {
        /// The name of the member.
        name: String,
        /// The descriptor's digest.
        expected: OciDigest,
        /// The digest of the bytes.
        actual: OciDigest,
    },
    /// The manifest cannot be read.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl Member {
    /// A member of a manifest as a registry has it.
    pub fn new(name: &str, descriptor: Descriptor, manifest: Manifest, bytes: &[u8]) -> Self {
        let is_docker = descriptor.media_type == media::DOCKER_MANIFEST;
        let (docker, oci) = if is_docker { (Some(manifest), None) } else { (None, Some(manifest)) };
        Self { r#ref: name.into(), descriptor, raw: BASE64.encode(bytes), docker, oci }
    }

    /// The manifest's bytes, whose digest was checked, and what they say.
    pub fn content(&self) -> Result<(Vec<u8>, Manifest), MemberError> {
        let bytes = BASE64.decode(&self.raw).ok().filter(|bytes| !bytes.is_empty());
        let bytes = bytes.ok_or_else(|| MemberError::NoManifest { name: self.r#ref.clone() })?;
        let expected = &self.descriptor.digest;
        let actual = if expected.algorithm() == "sha512" { OciDigest::sha512_of(&bytes) } else { OciDigest::sha256_of(&bytes) };
        if actual != *expected {
            return Err(MemberError::Digest { name: self.r#ref.clone(), expected: expected.clone(), actual });
        }
        match Document::parse(&bytes, Some(&self.descriptor.media_type))? {
            Document::Manifest(manifest) => Ok((bytes, *manifest)),
            Document::Index(_) => Err(MemberError::NoManifest { name: self.r#ref.clone() }),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<'a> {
    schema_version: u32,
    media_type: &'static str,
    manifests: Vec<Entry<'a>>,
}

/// The order of Docker's registry library, not that of OCI's structs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    media_type: &'a str,
    size: u64,
    digest: &'a OciDigest,
    platform: DescriptorPlatform,
}

/// The media type and the bytes of a list. The first member decides whether it is an OCI index or Docker's list.
pub fn list_json(members: &[Descriptor]) -> (&'static str, Vec<u8>) {
    let is_oci = members.first().is_some_and(|member| member.media_type == media::OCI_MANIFEST);
    let media_type = if is_oci { media::OCI_INDEX } else { media::DOCKER_LIST };
    let manifests = members.iter().map(|descriptor| Entry {
        media_type: &descriptor.media_type,
        size: descriptor.size_bytes,
        digest: &descriptor.digest,
        platform: descriptor.platform.clone().unwrap_or_default(),
    });
    (media_type, indented(&List { schema_version: 2, media_type, manifests: manifests.collect() }, "   "))
}

/// JSON with an indentation of its own; keys keep their order.
pub fn indented(value: &impl Serialize, indent: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(indent.as_bytes());
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter)).expect("values have text keys, a Vec takes all");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, media_type: &str, platform: (&str, &str, &str)) -> Member {
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{{"mediaType":"c","digest":"sha256:{}","size":1}}}}"#,
            "0".repeat(64)
        );
        let Document::Manifest(manifest) = Document::parse(text.as_bytes(), None).unwrap() else { panic!("{text}") };
        let mut descriptor = Descriptor::new(media_type, OciDigest::sha256_of(text.as_bytes()), text.len() as u64);
        let (os, architecture, variant) = platform;
        descriptor.platform =
            Some(DescriptorPlatform { os: os.into(), architecture: architecture.into(), variant: variant.into(), ..Default::default() });
        Member::new(name, descriptor, *manifest, text.as_bytes())
    }

    #[test]
    fn a_list_is_written_as_docker_writes_it() {
        let mut arm = member("r/a:arm", media::DOCKER_MANIFEST, ("linux", "arm64", "v8"));
        let platform = arm.descriptor.platform.as_mut().unwrap();
        (platform.os_version, platform.os_features) = ("1".into(), vec!["a".into()]);
        let (media_type, bytes) = list_json(std::slice::from_ref(&arm.descriptor));
        let expected = format!(
            "{{\n   \"schemaVersion\": 2,\n   \"mediaType\": \"{media_type}\",\n   \"manifests\": [\n      {{\n         \"mediaType\": \"{}\",\n         \
             \"size\": {},\n         \"digest\": \"{}\",\n         \"platform\": {{\n            \"architecture\": \"arm64\",\n            \"os\": \
             \"linux\",\n            \"os.version\": \"1\",\n            \"os.features\": [\n               \"a\"\n            ],\n            \
             \"variant\": \"v8\"\n         }}\n      }}\n   ]\n}}",
            media::DOCKER_MANIFEST,
            arm.descriptor.size_bytes,
            arm.descriptor.digest
        );
        assert_eq!((media_type, String::from_utf8(bytes).unwrap()), (media::DOCKER_LIST, expected));
        let oci = member("r/a:oci", media::OCI_MANIFEST, ("linux", "amd64", "")).descriptor;
        assert_eq!(list_json(&[oci.clone(), arm.descriptor.clone()]).0, media::OCI_INDEX, "the first one decides");
        assert_eq!(list_json(&[arm.descriptor, oci]).0, media::DOCKER_LIST);
    }

    #[test]
    fn a_member_survives_its_file_and_damage_is_noticed() {
        let oci = member("r/a:oci", media::OCI_MANIFEST, ("linux", "amd64", ""));
        let text = serde_json::to_string(&oci).unwrap();
        assert!(text.starts_with(r#"{"Ref":"r/a:oci","Descriptor":{"mediaType":"#) && text.contains(r#","OCIManifest":{"#), "{text}");
        let mut read: Member = serde_json::from_str(&text).unwrap();
        assert_eq!(read, oci);
        assert_eq!(OciDigest::sha256_of(&read.content().unwrap().0), read.descriptor.digest);
        read.descriptor.digest = OciDigest::sha256_of(b"other");
        assert!(matches!(read.content(), Err(MemberError::Digest { .. })));
        read.raw = String::new();
        assert!(matches!(read.content(), Err(MemberError::NoManifest { .. })));
    }

    #[test]
    fn platforms_are_those_that_docker_knows() {
        let known = |os: &str, architecture: &str| {
            is_known_platform(&DescriptorPlatform { os: os.into(), architecture: architecture.into(), ..Default::default() })
        };
        assert!(known("linux", "riscv64") && known("windows", "amd64"));
        assert!(!known("linux", "ppc64") && !known("", "amd64") && !known("windows", "arm64"));
    }
}
