//! The worker's part in changing a layer's form: it alone may make, read and own files of mapped ids.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use shale_cache::DiffId;

use crate::layer::LayerError;
use crate::layer::compress::{Decoder, Encoder, PackNumbers, PackWriter};
use crate::layer::contents::{Contents, Directory, Gathered, SameTar, Shared, SourceRef, paths_text, sources_text};
use crate::layer::read::{Digested, Sink as _, read_digested};
use crate::layer::unpack::{Unpacker, write_dir, write_gathered};
use crate::layer::write::{Options, write_tar};
use crate::sandbox::{Deed, Failure, LowerLayer};
use crate::tree::entry::{Entry, Kind, Mtime};
use crate::tree::index::Index;
use crate::tree::merge::{Merged, merge as merge_indexes};
use crate::tree::walk::open_dir;

/// Bytes written at once.
const WRITE_BYTES: usize = 256 << 10;

/// How a layer is to be packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packing {
    /// Compression.
    pub encoder: Encoder,
    /// No mtime is later than this, in seconds since the epoch.
    pub clamp_secs: Option<i64>,
}

/// Where the contents of a layer that is written come from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum From {
    /// An unpacked layer, or any directory laid out like the index.
    Directory(PathBuf),
    /// A packed form of the same layer; descriptor 1 of the request.
    Packed,
    /// Many places.
    Gathered {
        /// Directories that sources name by number.
        #[serde(with = "paths_text")]
        roots: Vec<PathBuf>,
        /// Files that sources name by number.
        spools: Vec<PathBuf>,
        /// By path in the layer.
        #[serde(with = "sources_text")]
        sources: Vec<(Vec<u8>, SourceRef)>,
    },
}

/// What a layer is written as.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum To {
    /// A fresh directory becomes the unpacked form.
    Directory(PathBuf),
    /// Descriptor 0 of the request takes the packed form.
    Packed(Packing),
}

/// A layer to write.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WriteLayer {
    /// Its index in the store.
    pub index: PathBuf,
    /// Contents.
    pub from: From,
    /// Form.
    pub to: To,
}

impl std::convert::From<LayerError> for Failure {
    fn from(error: LayerError) -> Self {
        match error {
            LayerError::Changed { path } => Self::Changed { path: path.display().to_string() },
            LayerError::Io { deed, path, source } => Self::call(deed, Some(&path), source),
            other => Self::Other(other.to_string()),
        }
    }
}

/// Unpacks a blob into a fresh directory.
pub(super) fn unpack(blob: File, dest: &Path) -> Result<Digested, Failure> {
    let root = open_dir(dest).deed_on("open", dest)?;
    let tar = Decoder::new(blob).deed("read the layer")?;
    Ok(read_digested(tar, &mut Unpacker::new(root))?)
}

/// Gives directories of an unpacked layer what its index says of them.
pub(super) fn settle(index: &Path, paths: &[Vec<u8>], dest: &Path) -> Result<(), Failure> {
    let index = Index::open(index).map_err(|error| Failure::Other(error.to_string()))?;
    let mut unpacker = Unpacker::new(open_dir(dest).deed_on("open", dest)?);
    for at in paths.iter().filter_map(|path| index.find(path)) {
        unpacker.other(&index.entry(at))?;
    }
    Ok(unpacker.end(&index)?)
}

/// Writes a layer in the form that is asked for; `fds` as [`To`] and [`From`] say.
pub(super) fn write(request: WriteLayer, fds: Vec<OwnedFd>) -> Result<Option<PackNumbers>, Failure> {
    let mut fds = fds.into_iter();
    let out = match &request.to {
        To::Packed(_) => Some(fds.next().ok_or_else(|| Failure::Other("a packed form needs a descriptor".into()))?),
        To::Directory(_) => None,
    };
    let index = Index::open(&request.index).map_err(|error| Failure::Other(error.to_string()))?;
    let mut contents = match (&request.to, request.from) {
        (To::Directory(dest), From::Gathered { roots, spools, sources }) => {
            let root = open_dir(dest).deed_on("open", dest)?;
            write_gathered(&mut Unpacker::new(root), &index, &gathered(&roots, &spools, sources)?)?;
            return Ok(None);
        }
        (_, from) => contents(from, fds.next())?,
    };
    Ok(match (request.to, out) {
        (To::Packed(packing), Some(out)) => Some(pack(&index, contents.as_mut(), packing, File::from(out))?),
        (To::Directory(dest), _) => {
            let root = open_dir(&dest).deed_on("open", &dest)?;
            write_dir(&index, contents.as_mut(), root)?;
            None
        }
        (To::Packed(_), None) => unreachable!("taken above"),
    })
}

/// Makes one unpacked layer of several in a fresh directory; returns its index.
pub(super) fn merge(lowers: &[LowerLayer], dest: &Path) -> Result<Vec<u8>, Failure> {
    let indexes = lowers.iter().map(|lower| Index::open(&lower.index).map(Arc::new)).collect::<Result<Vec<_>, _>>();
    let Merged { index, sources } = merge_indexes(&indexes.map_err(|error| Failure::Other(error.to_string()))?);
    let roots = lowers.iter().map(|lower| open_dir(&lower.fs).deed_on("open", &lower.fs)).collect::<Result<_, _>>()?;
    let root = open_dir(dest).deed_on("open", dest)?;
    write_dir(&index, &mut Shared { roots, sources }, root)?;
    Ok(index.as_bytes().to_vec())
}

/// The digest of the tar of an unpacked layer.
pub(super) fn diff_id(index: &Index, root: &Path) -> Result<DiffId, Failure> {
    let mut writer = PackWriter::new(std::io::sink(), Encoder::None).deed("begin a tar")?;
    let mut contents = Directory::new(open_dir(root).deed_on("open", root)?);
    write_tar(index, &mut contents, Options { clamp_secs: None, user_xattrs: false }, &mut writer)?;
    Ok(writer.finish().deed("end a tar")?.0.diff_id)
}

/// Reads whole contents, for what an index carries.
pub(super) fn read(from: From, paths: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, Failure> {
    let mut contents = contents(from, None)?;
    let read = paths.iter().map(|path| {
        let entry = Entry::new(path.clone(), Kind::Dir, 0, 0, 0, Mtime::default());
        let mut bytes = Vec::new();
        contents.open(&entry).and_then(|mut source| source.read_to_end(&mut bytes)).deed_on("read", crate::layer::shown(path))?;
        Ok(bytes)
    });
    read.collect()
}

fn contents(from: From, fd: Option<OwnedFd>) -> Result<Box<dyn Contents>, Failure> {
    Ok(match from {
        From::Directory(path) => Box::new(Directory::new(open_dir(&path).deed_on("open", &path)?)),
        From::Packed => {
            let blob = fd.ok_or_else(|| Failure::Other("a packed source needs a descriptor".into()))?;
            Box::new(SameTar::new(Decoder::new(File::from(blob)).deed("read the layer")?))
        }
        From::Gathered { roots, spools, sources } => Box::new(gathered(&roots, &spools, sources)?),
    })
}

/// Opens what sources name.
pub fn gathered(roots: &[PathBuf], spools: &[PathBuf], sources: Vec<(Vec<u8>, SourceRef)>) -> Result<Gathered, Failure> {
    let roots = roots.iter().map(|path| open_dir(path).deed_on("open", path)).collect::<Result<_, _>>()?;
    let spools = spools.iter().map(|path| File::open(path).deed_on("open", path)).collect::<Result<_, _>>()?;
    Ok(Gathered { roots, spools, sources: HashMap::from_iter(sources) })
}

/// Packs a layer into a file.
pub fn pack(index: &Index, contents: &mut dyn Contents, packing: Packing, out: File) -> Result<PackNumbers, LayerError> {
    let mut writer =
        PackWriter::new(BufWriter::with_capacity(WRITE_BYTES, out), packing.encoder).map_err(LayerError::io("write", "the blob"))?;
    write_tar(index, contents, Options { clamp_secs: packing.clamp_secs, user_xattrs: false }, &mut writer)?;
    let (numbers, out) = writer.finish().map_err(LayerError::io("write", "the blob"))?;
    out.into_inner().map_err(|error| LayerError::io("write", "the blob")(error.into_error()))?;
    Ok(numbers)
}
