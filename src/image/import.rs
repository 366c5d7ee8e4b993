//! import: a tar of files → the layer of an image.

use std::io::{self, BufWriter, Read, Write as _};

use shale_cache::{BlobRef, ImageLayer, StoreError};

use super::{ImageError, ImageService};
use crate::layer::compress::{DEFAULT_GZIP_LEVEL, Decoder, Encoder, PackWriter};
use crate::layer::read::{Digested, read_index};
use crate::layer::{LayerError, is_full};

impl ImageService {
    /// Reads a tar, compressed or not, and keeps it as a layer. What is no tar leaves the store as it was.
    pub fn import_layer(&self, tar: &mut dyn Read) -> Result<ImageLayer, ImageError> {
        let failed = |source: LayerError| match source {
            // Nothing is wrong with the archive, which is copied while it is read.
            LayerError::Stream { source } if is_full(&source) => {
                ImageError::Store(StoreError::Full { deed: "write into", path: self.store().root().join("blobs"), source })
            }
            source => ImageError::Tar { source },
        };
        let encoder = Encoder::Gzip { level: DEFAULT_GZIP_LEVEL };
        let writer = self.store().blobs().writer()?;
        let broken = |source: io::Error| failed(LayerError::Stream { source });
        let out = writer.file().try_clone().map_err(broken)?;
        let mut pack = PackWriter::new(BufWriter::new(out), encoder).map_err(broken)?;
        let plain = Decoder::new(tar).map_err(broken)?;
        let Digested { index, implied, diff_id } = read_index(Copied { from: plain, to: &mut pack }).map_err(failed)?;
        let (numbers, out) = pack.finish().map_err(broken)?;
        out.into_inner().map_err(|error| broken(error.into_error()))?;
        writer.commit_as(&numbers.blob, numbers.size_bytes)?;
        let layer = self.store().layers().put_index(index.as_bytes())?;
        if implied.is_empty() {
            // A tar with such directories is another layer upon others.
            self.store().layers().set_by_diff(&diff_id, &layer)?;
        }
        let blob = BlobRef { digest: numbers.blob, size_bytes: numbers.size_bytes, media_type: encoder.media_type().into() };
        Ok(ImageLayer { diff_id, layer: Some(layer), blob: Some(blob) })
    }
}

/// Writes down what is read.
struct Copied<'a, R, W: io::Write> {
    from: R,
    to: &'a mut PackWriter<W>,
}

impl<R: Read, W: io::Write> Read for Copied<'_, R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.from.read(buffer)?;
        self.to.write_all(&buffer[..len])?;
        Ok(len)
    }
}
