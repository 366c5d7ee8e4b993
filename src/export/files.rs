//! The files of images: into a directory of the caller's (`type=local`), or as one tar (`type=tar`).

use std::fs::{self, File};
use std::io::{BufWriter, Write};

use super::archive::write_beside;
use super::{Destination, ExportError};
use crate::layer::LayerError;
use crate::layer::contents::Contents;
use crate::layer::unpack::write_for_caller;
use crate::layer::write::{Options, write_tar};
use crate::tree::index::Index;
use crate::tree::walk::open_dir;

/// Bytes written at once.
const WRITE_BYTES: usize = 256 << 10;

/// Writes files: as a tar with the owners that they have in the image, or into a directory as the caller's own. The directory is made
/// if it is missing, and what else it holds stays, unless `mirror` is set. Returns the device nodes that the kernel did not let us
/// make.
pub fn write_files(
    index: &Index,
    contents: &mut dyn Contents,
    destination: Destination<'_>,
    mirror: bool,
) -> Result<Vec<Vec<u8>>, ExportError> {
    let mut pack = |out: &mut dyn Write| {
        write_tar(index, contents, Options { clamp_secs: None, user_xattrs: true }, out)?;
        out.flush().map_err(LayerError::io("write", "the archive"))
    };
    match destination {
        Destination::File(path) => {
            write_beside(path, &mut |file: &File| {
                pack(&mut BufWriter::with_capacity(WRITE_BYTES, file)).map_err(|error| match error {
                    // The writer knows the file of the image; what could not be written is the archive.
                    LayerError::Io { deed: "write", source, .. } => ExportError::io("write", path, source),
                    error => error.into(),
                })
            })?;
        }
        Destination::Stream(stream) => pack(&mut BufWriter::with_capacity(WRITE_BYTES, stream)).map_err(|error| match error {
            LayerError::Io { deed: "write", source, .. } => ExportError::Stream { source },
            error => error.into(),
        })?,
        Destination::Directory(path) => {
            fs::create_dir_all(path).map_err(|source| ExportError::io("make the directory", path, source))?;
            let root = open_dir(path).map_err(|source| ExportError::io("open", path, source))?;
            return write_for_caller(index, contents, root, mirror).map_err(|error| match error {
                LayerError::Io { deed, path: below, source } => ExportError::Io { deed, path: path.join(below), source },
                error => error.into(),
            });
        }
    }
    Ok(Vec::new())
}
