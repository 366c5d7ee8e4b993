//! The one tar writer: the same index gives the same bytes.
//!
//! PAX tar in the index's order; directories end in `/`; whole-second mtimes; numeric owners without names; no atime or ctime;
//! extended headers only for what a ustar header cannot hold. Whiteouts are empty files `.wh.NAME` with all metadata zero.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use super::contents::{Contents, unopened};
use super::{LayerError, shown};
use crate::tree::entry::{ContentDigest, Entry, Kind, file_name, join, parent};
use crate::tree::index::Index;

const BLOCK_BYTES: usize = 512;
/// Bytes read from a file at once.
const COPY_BYTES: usize = 256 << 10;
/// What seven octal digits hold.
const MAX_USTAR_ID: u64 = 0o7_777_777;
/// What eleven octal digits hold.
const MAX_USTAR_SIZE: u64 = 0o77_777_777_777;
/// The prefix of a whiteout's name.
pub const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// The name of a marker that hides everything below its directory.
pub const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";

/// What the writer may change about an index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// No mtime is later than this, in seconds since the epoch (`rewrite-timestamp`).
    pub clamp_secs: Option<i64>,
    /// Whether `user.*` attributes are written besides `security.capability`.
    pub user_xattrs: bool,
}

/// Writes the tar of an index to `out`, end marker included. Contents are hashed again on the way.
pub fn write_tar(index: &Index, contents: &mut dyn Contents, options: Options, out: &mut dyn Write) -> Result<(), LayerError> {
    let mut writer = TarWriter { out, options, buffer: Vec::new() };
    for entry in index.iter() {
        writer.entry(&entry, contents)?;
    }
    writer.out.write_all(&[0; 2 * BLOCK_BYTES]).map_err(LayerError::io("write", "the layer"))
}

struct TarWriter<'a> {
    out: &'a mut dyn Write,
    options: Options,
    buffer: Vec<u8>,
}

impl TarWriter<'_> {
    fn entry(&mut self, entry: &Entry, contents: &mut dyn Contents) -> Result<(), LayerError> {
        let failed = || LayerError::io("write", shown(&entry.path));
        match &entry.kind {
            Kind::Whiteout => {
                let name = [WHITEOUT_PREFIX, file_name(&entry.path)].concat();
                self.header(&Entry::whiteout(join(parent(&entry.path), &name)), EntryType::Regular, &[], 0).map_err(failed())
            }
            Kind::Dir => {
                self.header(entry, EntryType::Directory, &[], 0).map_err(failed())?;
                if entry.opaque {
                    let marker = Entry::whiteout(join(&entry.path, OPAQUE_MARKER));
                    self.header(&marker, EntryType::Regular, &[], 0).map_err(failed())?;
                }
                Ok(())
            }
            Kind::File { hardlink: Some(first), .. } => self.header(entry, EntryType::Link, first, 0).map_err(failed()),
            Kind::File { size, digest, hardlink: None } => {
                self.header(entry, EntryType::Regular, &[], *size).map_err(failed())?;
                self.content(entry, *size, digest, contents)
            }
            Kind::Symlink { target } => self.header(entry, EntryType::Symlink, target, 0).map_err(failed()),
            Kind::Fifo => self.header(entry, EntryType::Fifo, &[], 0).map_err(failed()),
            Kind::CharDevice { .. } => self.header(entry, EntryType::Char, &[], 0).map_err(failed()),
            Kind::BlockDevice { .. } => self.header(entry, EntryType::Block, &[], 0).map_err(failed()),
        }
    }

    /// Copies a file's bytes, which must be those that the index was made of.
    fn content(&mut self, entry: &Entry, size: u64, digest: &ContentDigest, contents: &mut dyn Contents) -> Result<(), LayerError> {
        let mut source = contents.open(entry).map_err(unopened(entry))?;
        let mut hash = blake3::Hasher::new();
        self.buffer.resize(COPY_BYTES, 0);
        let mut left = size;
        loop {
            // One byte more than is left shows a file that grew.
            let want = COPY_BYTES.min(usize::try_from(left).unwrap_or(COPY_BYTES).saturating_add(1));
            let read = match source.read(&mut self.buffer[..want]) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(LayerError::io("read", shown(&entry.path))(error)),
            };
            if read as u64 > left || (read == 0 && left > 0) {
                return Err(LayerError::Changed { path: shown(&entry.path) });
            }
            if read == 0 {
                break;
            }
            hash.update(&self.buffer[..read]);
            self.out.write_all(&self.buffer[..read]).map_err(LayerError::io("write", shown(&entry.path)))?;
            left -= read as u64;
        }
        if hash.finalize().as_bytes() != digest {
            return Err(LayerError::Changed { path: shown(&entry.path) });
        }
        self.pad(size).map_err(LayerError::io("write", shown(&entry.path)))
    }

    fn header(&mut self, entry: &Entry, kind: EntryType, link: &[u8], size: u64) -> io::Result<()> {
        let mut name = entry.path.clone();
        if kind == EntryType::Directory {
            name.push(b'/');
        }
        let mtime = self.options.clamp_secs.map_or(entry.mtime.secs, |clamp| entry.mtime.secs.min(clamp));
        let records = self.records(entry, &name, link, size, mtime);
        if !records.is_empty() {
            let mut header = Header::new_ustar();
            set_field(&mut header.as_old_mut().name, &[b"PaxHeaders.0/", file_name(&entry.path)].concat());
            header.set_entry_type(EntryType::XHeader);
            header.set_mode(0o644);
            header.set_size(records.len() as u64);
            self.finish_header(header)?;
            self.out.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        let mut header = Header::new_ustar();
        set_field(&mut header.as_old_mut().name, &name);
        set_field(&mut header.as_old_mut().linkname, link);
        header.set_entry_type(kind);
        header.set_mode(entry.mode);
        header.set_uid(u64::from(entry.uid).min(MAX_USTAR_ID));
        header.set_gid(u64::from(entry.gid).min(MAX_USTAR_ID));
        header.set_size(size.min(MAX_USTAR_SIZE));
        header.set_mtime(mtime.clamp(0, MAX_USTAR_SIZE as i64) as u64);
        if let Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } = entry.kind {
            header.set_device_major(major)?;
            header.set_device_minor(minor)?;
        }
        self.finish_header(header)
    }

    fn finish_header(&mut self, mut header: Header) -> io::Result<()> {
        header.set_cksum();
        self.out.write_all(header.as_bytes())
    }

    /// PAX records for what the header cannot hold, sorted by keyword.
    fn records(&self, entry: &Entry, name: &[u8], link: &[u8], size: u64, mtime: i64) -> Vec<u8> {
        let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut number = |key: &str, value: i128| records.push((key.into(), value.to_string().into()));
        if u64::from(entry.gid) > MAX_USTAR_ID {
            number("gid", entry.gid.into());
        }
        if !(0..=MAX_USTAR_SIZE as i64).contains(&mtime) {
            number("mtime", mtime.into());
        }
        if size > MAX_USTAR_SIZE {
            number("size", size.into());
        }
        if u64::from(entry.uid) > MAX_USTAR_ID {
            number("uid", entry.uid.into());
        }
        for (key, text) in [("path", name), ("linkpath", link)] {
            if text.len() > 100 || !text.is_ascii() {
                records.push((key.into(), text.to_vec()));
            }
        }
        for (key, value) in &entry.xattrs {
            if key == b"security.capability" || (self.options.user_xattrs && key.starts_with(b"user.")) {
                records.push(([b"SCHILY.xattr.", key.as_slice()].concat(), value.clone()));
            }
        }
        records.sort();
        records.iter().flat_map(|(key, value)| record(key, value)).collect()
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let over = (size % BLOCK_BYTES as u64) as usize;
        if over == 0 { Ok(()) } else { self.out.write_all(&[0; BLOCK_BYTES][over..]) }
    }
}

/// `LENGTH KEY=VALUE\n`, where LENGTH counts itself.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length.to_string().len() + rest != length {
        length = length.to_string().len() + rest;
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// Fills a header field; what does not fit stands in a PAX record.
fn set_field(field: &mut [u8; 100], text: &[u8]) {
    let fits = text.len().min(field.len());
    field[..fits].copy_from_slice(&text[..fits]);
}

#[cfg(test)]
mod tests {
    use super::record;

    #[test]
    fn a_record_counts_its_own_length() {
        for value_len in [0, 1, 5, 80, 86, 87, 88, 89, 90, 900, 985, 986, 987, 988, 9_980, 100_000] {
            let bytes = record(b"path", &vec![b'x'; value_len]);
            let text = String::from_utf8(bytes.clone()).expect("ASCII");
            assert_eq!(text.split_once(' ').expect("a length").0.parse::<usize>().expect("a number"), bytes.len(), "{value_len}");
        }
    }
}
