//! The tar of an archive: blobs and a few JSON files. Layers have a writer of their own, for trees.

use std::fs::File;
use std::io::{self, Write};

use tar::{EntryType, Header};

const BLOCK_BYTES: u64 = 512;
const FILE_MODE: u32 = 0o444;
const DIRECTORY_MODE: u32 = 0o755;

/// Writes entries with modes and owners that never vary and no times.
pub(super) struct TarWriter<'a> {
    out: Out<'a>,
}

enum Out<'a> {
    /// Kept as a file, so that the kernel copies blobs into it.
    File(File),
    Stream(&'a mut dyn Write),
}

impl Out<'_> {
    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::File(file) => file,
            Self::Stream(stream) => *stream,
        }
    }
}

impl<'a> TarWriter<'a> {
    pub(super) fn file_writer(file: File) -> Self {
        Self { out: Out::File(file) }
    }

    pub(super) fn stream(stream: &'a mut dyn Write) -> Self {
        Self { out: Out::Stream(stream) }
    }

    /// A directory; `name` ends with `/`.
    pub(super) fn directory(&mut self, name: &str) -> io::Result<()> {
        self.header(name, EntryType::Directory, DIRECTORY_MODE, 0)
    }

    /// A file out of memory.
    pub(super) fn bytes(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.header(name, EntryType::Regular, FILE_MODE, bytes.len() as u64)?;
        self.out.writer().write_all(bytes)?;
        self.pad(bytes.len() as u64)
    }

    /// A file out of another one.
    pub(super) fn file(&mut self, name: &str, from: &mut File, size_bytes: u64) -> io::Result<()> {
        self.header(name, EntryType::Regular, FILE_MODE, size_bytes)?;
        let copied = match &mut self.out {
            Out::File(file) => io::copy(from, file)?,
            Out::Stream(stream) => io::copy(from, *stream)?,
        };
        if copied != size_bytes {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{name}: {copied} of {size_bytes} bytes")));
        }
        self.pad(size_bytes)
    }

    /// The two empty blocks at the end.
    pub(super) fn finish(mut self) -> io::Result<()> {
        let out = self.out.writer();
        out.write_all(&[0; 2 * BLOCK_BYTES as usize])?;
        out.flush()
    }

    fn header(&mut self, name: &str, kind: EntryType, mode: u32, size_bytes: u64) -> io::Result<()> {
        let mut header = Header::new_ustar();
        if header.set_path(name).is_err() {
            // A sha512 digest is longer than the field: a PAX record has the name, the field what fits of it.
            self.pax_path(name)?;
            header.set_path(&name[..name.len().min(99)])?;
        }
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size_bytes);
        self.write_header(&mut header)
    }

    fn pax_path(&mut self, name: &str) -> io::Result<()> {
        // The length counts itself.
        let rest = format!(" path={name}\n");
        let mut len = rest.len();
        while len != rest.len() + len.to_string().len() {
            len = rest.len() + len.to_string().len();
        }
        let record = format!("{len}{rest}");
        let mut header = Header::new_ustar();
        header.set_path("PaxHeaders/name")?;
        header.set_entry_type(EntryType::XHeader);
        header.set_mode(FILE_MODE);
        header.set_size(record.len() as u64);
        self.write_header(&mut header)?;
        self.out.writer().write_all(record.as_bytes())?;
        self.pad(record.len() as u64)
    }

    fn write_header(&mut self, header: &mut Header) -> io::Result<()> {
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        self.out.writer().write_all(header.as_bytes())
    }

    fn pad(&mut self, size_bytes: u64) -> io::Result<()> {
        let pad = (BLOCK_BYTES - size_bytes % BLOCK_BYTES) % BLOCK_BYTES;
        self.out.writer().write_all(&[0; BLOCK_BYTES as usize][..pad as usize])
    }
}
