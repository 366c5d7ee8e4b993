//! From an archive into the store: first everything is copied aside and checked, then it is committed.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};

use rayon::prelude::*;
use sha2::{Digest as _, Sha256, Sha512};
use shale_cache::{BlobRef, BlobWriter, DiffId, ImageLayer, OciDigest, Store};

use super::files::{Files, Section};
use super::{ArchiveError, FoundImage, FoundLayer, Group};
use crate::layer::compress::{Decoder, Format};
use crate::layer::is_full;
use crate::oci::manifest::media;

const CHUNK_BYTES: usize = 256 << 10;

/// An image whose blobs are in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedImage {
    /// The image id.
    pub id: OciDigest,
    /// The manifest, where the archive had one.
    pub manifest: Option<BlobRef>,
    /// The layers, bottom first.
    pub layers: Vec<ImageLayer>,
    /// Annotations of what points to it in an index of several.
    pub annotations: BTreeMap<String, String>,
}

/// A blob that is whole, but not in its place yet.
struct Checked {
    blob: BlobRef,
    /// `None` = the store has it already.
    writer: Option<BlobWriter>,
}

pub(super) fn import(store: &Store, files: &Files, groups: &[Group<FoundImage>]) -> Result<Vec<Group<ImportedImage>>, ArchiveError> {
    let mut wanted: Vec<&FoundLayer> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let images = groups.iter().flat_map(|group| &group.images);
    wanted.extend(images.flat_map(|image| &image.layers).filter(|layer| seen.insert(*layer)));
    let checked: Result<Vec<Checked>, ArchiveError> = wanted.par_iter().map(|layer| check(store, files, layer)).collect();
    let mut blobs: HashMap<&FoundLayer, BlobRef> = HashMap::new();
    for (layer, checked) in wanted.iter().zip(checked?) {
        if let Some(writer) = checked.writer {
            writer.commit_as(&checked.blob.digest, checked.blob.size_bytes)?;
        }
        blobs.insert(layer, checked.blob);
    }
    let imported = |image: &FoundImage| {
        let manifest = image.manifest.as_ref().map(|(bytes, descriptor)| {
            store.blobs().put(bytes)?;
            let (digest, media_type) = (descriptor.digest.clone(), descriptor.media_type.clone());
            Ok::<_, ArchiveError>(BlobRef { digest, size_bytes: bytes.len() as u64, media_type })
        });
        let layers = image.layers.iter().map(|layer| ImageLayer {
            diff_id: DiffId(layer.diff_id.clone()),
            layer: None,
            blob: blobs.get(layer).cloned(),
        });
        let id = store.blobs().put(&image.config)?;
        Ok::<_, ArchiveError>(ImportedImage {
            id,
            manifest: manifest.transpose()?,
            layers: layers.collect(),
            annotations: image.annotations.clone(),
        })
    };
    groups.iter().map(|group| Ok(group.with(group.images.iter().map(imported).collect::<Result<_, _>>()?))).collect()
}

/// Copies a layer aside and checks it against what is known of it.
fn check(store: &Store, files: &Files, layer: &FoundLayer) -> Result<Checked, ArchiveError> {
    match &layer.blob {
        Some((digest, size_bytes, media_type)) => check_blob(store, files, layer, digest, *size_bytes, media_type),
        None => check_bare(store, files, layer),
    }
}

/// A layer that a manifest describes.
fn check_blob(
    store: &Store,
    files: &Files,
    layer: &FoundLayer,
    digest: &OciDigest,
    size_bytes: u64,
    media_type: &str,
) -> Result<Checked, ArchiveError> {
    let blob = BlobRef { digest: digest.clone(), size_bytes, media_type: media_type.into() };
    if store.blobs().size(digest)? == Some(size_bytes) {
        return Ok(Checked { blob, writer: None });
    }
    let section = files.section(&layer.file)?;
    if section.size_bytes() != size_bytes {
        let actual = section.size_bytes();
        return Err(files.corrupt(format!("{} has {actual} bytes, its manifest says {size_bytes}", layer.file)));
    }
    let writer = store.blobs().writer()?;
    let mut hasher = Hasher::new(digest.algorithm());
    pour(section, |bytes| write(&writer, bytes, &mut hasher)).map_err(|e| failed(files, &layer.file, e))?;
    expect(files, &layer.file, digest, &hasher.digest())?;
    Ok(Checked { blob, writer: Some(writer) })
}

/// A layer of a docker-archive: the config knows only the digest of its uncompressed tar. gzip and zstd stay as they are,
/// other compressions, which no manifest has a type for, are taken off.
fn check_bare(store: &Store, files: &Files, layer: &FoundLayer) -> Result<Checked, ArchiveError> {
    let section = files.section(&layer.file)?;
    let format = Format::of(&super::files::peek(&mut section.clone()).map_err(|e| failed(files, &layer.file, e.into()))?);
    let media_type = match format {
        Format::Gzip => media::OCI_LAYER_GZIP,
        Format::Zstd => media::OCI_LAYER_ZSTD,
        _ => media::OCI_LAYER,
    };
    let keeps_form = matches!(format, Format::Gzip | Format::Zstd);
    if format == Format::Plain && store.blobs().size(&layer.diff_id)? == Some(section.size_bytes()) {
        let blob = BlobRef { digest: layer.diff_id.clone(), size_bytes: section.size_bytes(), media_type: media_type.into() };
        return Ok(Checked { blob, writer: None });
    }
    let writer = store.blobs().writer()?;
    let (mut packed, mut plain) = (Hasher::new("sha256"), Hasher::new(layer.diff_id.algorithm()));
    let poured = if keeps_form {
        let mut tee = Tee { section, out: |bytes: &[u8]| write(&writer, bytes, &mut packed) };
        let unpacked = Decoder::new(&mut tee).map_err(Failure::Read).and_then(|decoder| {
            pour(decoder, |bytes| {
                plain.take(bytes);
                Ok(())
            })
        });
        // What stands after the end of the compressed stream belongs to the blob all the same.
        unpacked.and_then(|()| pour(tee, |_| Ok(())))
    } else {
        let decoder = Decoder::new(section).map_err(Failure::Read);
        decoder.and_then(|decoder| {
            pour(decoder, |bytes| {
                plain.take(bytes);
                write(&writer, bytes, &mut packed)
            })
        })
    };
    poured.map_err(|e| failed(files, &layer.file, e))?;
    expect(files, &layer.file, &layer.diff_id, &plain.digest())?;
    let size_bytes = packed.size_bytes;
    Ok(Checked { blob: BlobRef { digest: packed.digest(), size_bytes, media_type: media_type.into() }, writer: Some(writer) })
}

fn expect(files: &Files, file: &str, expected: &OciDigest, actual: &OciDigest) -> Result<(), ArchiveError> {
    if expected == actual {
        return Ok(());
    }
    Err(files.corrupt(format!("{file}: content does not match its digest: expected {expected}, got {actual}")))
}

/// Whose fault a broken copy is.
enum Failure {
    Read(io::Error),
    Write(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

fn failed(files: &Files, file: &str, failure: Failure) -> ArchiveError {
    match failure {
        Failure::Read(error) => files.corrupt(format!("{file}: {error}")),
        Failure::Write(source) => ArchiveError::Io { deed: "store the layers of", path: files.path().into(), source },
    }
}

fn write(writer: &BlobWriter, bytes: &[u8], hasher: &mut Hasher) -> Result<(), Failure> {
    let mut file: &File = writer.file();
    file.write_all(bytes).map_err(Failure::Write)?;
    hasher.take(bytes);
    Ok(())
}

fn pour(mut from: impl Read, mut to: impl FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match from.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(len) => to(&chunk[..len])?,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // What is read may be written down on the way, which is all that can find no room.
            Err(e) if is_full(&e) => return Err(Failure::Write(e)),
            Err(e) => return Err(Failure::Read(e)),
        }
    }
}

/// Passes on what it reads.
struct Tee<F> {
    section: Section,
    out: F,
}

impl<F: FnMut(&[u8]) -> Result<(), Failure>> Read for Tee<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.section.read(buffer)?;
        (self.out)(&buffer[..len]).map_err(|(Failure::Read(e) | Failure::Write(e))| e)?;
        Ok(len)
    }
}

struct Hasher {
    kind: Kind,
    size_bytes: u64,
}

enum Kind {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    fn new(algorithm: &str) -> Self {
        let kind = if algorithm == "sha512" { Kind::Sha512(Sha512::new()) } else { Kind::Sha256(Sha256::new()) };
        Self { kind, size_bytes: 0 }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.size_bytes += bytes.len() as u64;
        match &mut self.kind {
            Kind::Sha256(hasher) => hasher.update(bytes),
            Kind::Sha512(hasher) => hasher.update(bytes),
        }
    }

    fn digest(self) -> OciDigest {
        match self.kind {
            Kind::Sha256(hasher) => OciDigest::of_sha256(hasher),
            Kind::Sha512(hasher) => OciDigest::of_sha512(hasher),
        }
    }
}
