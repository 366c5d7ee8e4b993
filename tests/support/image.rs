//! Reads an OCI archive the way a consumer does, independently of shale's own code.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};

/// An image with its layers and the file system they make.
#[derive(Debug)]
pub struct Image {
    /// Digest of the manifest.
    pub digest: String,
    /// The manifest.
    pub manifest: Value,
    /// The config.
    pub config: Value,
    /// Each layer's entries, in tar order.
    pub layers: Vec<Vec<(String, Node)>>,
    /// The flattened file system.
    pub files: BTreeMap<String, Node>,
}

/// One path of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Type flag of the tar header: `0` file, `1` hardlink, `2` symlink, `5` directory, …
    pub kind: char,
    /// Permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u64, u64),
    /// Whole seconds.
    pub mtime: u64,
    /// Content of files.
    pub content: Vec<u8>,
    /// Target of links.
    pub link: String,
    /// `SCHILY.xattr.*` records.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

impl Image {
    /// Reads and verifies an archive: every digest and every DiffID.
    pub fn read(path: &Path) -> Self {
        let archive = Archive::read(path);
        Self::of(&archive, archive.index["manifests"][0]["digest"].as_str().expect("a digest"))
    }

    /// Reads the image of a manifest.
    pub fn of(archive: &Archive, digest: &str) -> Self {
        let digest = digest.to_owned();
        let blob = |digest: &str| archive.blob(digest);
        let manifest: Value = serde_json::from_slice(blob(&digest)).expect("JSON");
        let config: Value = serde_json::from_slice(blob(manifest["config"]["digest"].as_str().expect("text"))).expect("JSON");
        let mut layers = Vec::new();
        for (number, layer) in manifest["layers"].as_array().expect("layers").iter().enumerate() {
            let raw = plain(blob(layer["digest"].as_str().expect("text")));
            assert_eq!(sha256(&raw), config["rootfs"]["diff_ids"][number].as_str().expect("a DiffID"), "DiffID of layer {number}");
            layers.push(entries(&raw));
        }
        let with_layer = config["history"].as_array().map_or(0, |h| h.iter().filter(|e| e["empty_layer"] != true).count());
        assert_eq!(with_layer, layers.len(), "one history entry per layer");
        let files = flatten(&layers);
        Self { digest, manifest, config, layers, files }
    }

    /// Text of a file of the flattened image.
    pub fn text(&self, path: &str) -> String {
        let node = self.files.get(path).unwrap_or_else(|| panic!("no {path} in {:?}", self.files.keys().collect::<Vec<_>>()));
        String::from_utf8_lossy(&node.content).into_owned()
    }
}

/// An archive with an index.
#[derive(Debug)]
pub struct Archive {
    /// `index.json`
    pub index: Value,
    /// Every file by its name.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Archive {
    /// Reads a tar.
    pub fn read(path: &Path) -> Self {
        let files = members(path);
        Self { index: serde_json::from_slice(&files["index.json"]).expect("JSON"), files }
    }

    /// A blob, verified.
    pub fn blob(&self, digest: &str) -> &Vec<u8> {
        let hex = digest.strip_prefix("sha256:").expect("sha256");
        let bytes = &self.files[&format!("blobs/sha256/{hex}")];
        assert_eq!(sha256(bytes), digest, "a blob has another digest than its name");
        bytes
    }

    /// The image index that the first name points to.
    pub fn image_index(&self) -> Value {
        serde_json::from_slice(self.blob(self.index["manifests"][0]["digest"].as_str().expect("a digest"))).expect("JSON")
    }

    /// The images of that index by their platforms.
    pub fn images(&self) -> BTreeMap<String, Image> {
        let index = self.image_index();
        let entries = index["manifests"].as_array().expect("manifests").clone();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let one = |entry: &Value| {
            let platform = format!("{}/{}", text(&entry["platform"]["os"]), text(&entry["platform"]["architecture"]));
            (platform, Image::of(self, &text(&entry["digest"])))
        };
        entries.iter().map(one).collect()
    }
}

/// The entries of a tar file.
pub fn tar_entries(bytes: &[u8]) -> Vec<(String, Node)> {
    entries(bytes)
}

fn members(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
    let mut out = BTreeMap::new();
    for entry in archive.entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("readable");
        out.insert(name, bytes);
    }
    out
}

fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    format!("sha256:{}", digest.iter().map(|b| format!("{b:02x}")).collect::<String>())
}

fn plain(blob: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match blob {
        [0x1f, 0x8b, ..] => flate2::read::GzDecoder::new(blob).read_to_end(&mut out).map(drop).expect("gzip"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => zstd::stream::copy_decode(blob, &mut out).expect("zstd"),
        _ => out.extend_from_slice(blob),
    }
    out
}

fn entries(raw: &[u8]) -> Vec<(String, Node)> {
    let mut archive = tar::Archive::new(raw);
    let mut out = Vec::new();
    for entry in archive.entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_end_matches('/').to_owned();
        let link = entry.link_name_bytes().map(|l| String::from_utf8_lossy(&l).into_owned()).unwrap_or_default();
        let mut xattrs = BTreeMap::new();
        if let Ok(Some(extensions)) = entry.pax_extensions() {
            for extension in extensions.flatten() {
                if let Some(name) = extension.key().ok().and_then(|k| k.strip_prefix("SCHILY.xattr.")) {
                    xattrs.insert(name.to_owned(), extension.value_bytes().to_owned());
                }
            }
        }
        let header = entry.header().clone();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("readable");
        let node = Node {
            kind: char::from(header.entry_type().as_byte()),
            mode: header.mode().expect("a mode"),
            owner: (header.uid().expect("a uid"), header.gid().expect("a gid")),
            mtime: header.mtime().expect("a time"),
            content,
            link,
            xattrs,
        };
        out.push((name, node));
    }
    out
}

fn flatten(layers: &[Vec<(String, Node)>]) -> BTreeMap<String, Node> {
    let mut files: BTreeMap<String, Node> = BTreeMap::new();
    for layer in layers {
        let whiteout = |name: &str| name.rsplit('/').next().is_some_and(|last| last.starts_with(".wh."));
        for (name, _) in layer.iter().filter(|(name, _)| whiteout(name)) {
            let (dir, last) = name.rsplit_once('/').unwrap_or(("", name));
            if last == ".wh..wh..opq" {
                files.retain(|path, _| !path.starts_with(&format!("{dir}/")));
            } else {
                let gone = if dir.is_empty() { last[4..].to_owned() } else { format!("{dir}/{}", &last[4..]) };
                files.retain(|path, _| *path != gone && !path.starts_with(&format!("{gone}/")));
            }
        }
        for (name, node) in layer.iter().filter(|(name, _)| !whiteout(name)) {
            if node.kind != '5' {
                files.retain(|path, _| !path.starts_with(&format!("{name}/")));
            }
            let node = match node.kind {
                '1' => Node { content: files.get(&node.link).map(|n| n.content.clone()).unwrap_or_default(), ..node.clone() },
                _ => node.clone(),
            };
            files.insert(name.clone(), node);
        }
    }
    files
}
