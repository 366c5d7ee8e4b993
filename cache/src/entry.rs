//! The form of every small file of the store: one line that names, dates and checks it, then JSON.
//!
//! ```text
//! shale <kind> <format> <epoch> <nanoseconds since boot> <32 hex digits>\n
//! {"…": …}
//! ```
//!
//! The digits are the first half of the blake3 of the line before them, a newline, and the JSON. A file that was torn, zeroed or
//! edited is told from a whole one by them.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::durable::{Stamp, Trust};
use crate::error::StoreError;
use crate::store::Inner;

/// What a file is, and the version of its JSON.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind(&'static str, u32);

pub(crate) const STEP: Kind = Kind("step", 1);
pub(crate) const LAST: Kind = Kind("last", 1);
pub(crate) const MADE: Kind = Kind("made", 1);
pub(crate) const PACKED: Kind = Kind("packed", 1);
pub(crate) const DIFF: Kind = Kind("diff", 1);
pub(crate) const KNOWN: Kind = Kind("known", 1);
pub(crate) const TAKEN: Kind = Kind("taken", 1);
pub(crate) const POINTER: Kind = Kind("pointer", 1);
pub(crate) const IMAGE: Kind = Kind("image", 1);
pub(crate) const NAME: Kind = Kind("name", 1);
pub(crate) const BUILD: Kind = Kind("build", 1);
pub(crate) const MARK: Kind = Kind("mark", 1);

/// What is at the path of an entry.
#[derive(Debug)]
pub(crate) enum Found<T> {
    /// No file.
    Nothing,
    /// A file that is no whole entry of the kind.
    Torn,
    /// A whole entry; how far what it points to can be trusted is said apart.
    Entry(T, Trust),
}

impl<T> Found<T> {
    /// The entry, if it is whole and was written in this boot or synced in another.
    pub(crate) fn trusted(self) -> Option<T> {
        match self {
            Self::Entry(value, Trust::ThisBoot | Trust::Synced) => Some(value),
            _ => None,
        }
    }

    /// The entry, if it is whole.
    pub(crate) fn whole(self) -> Option<T> {
        match self {
            Self::Entry(value, _) => Some(value),
            _ => None,
        }
    }

    /// Whether there is a file that no lookup will ever accept.
    pub(crate) fn is_worthless(&self) -> bool {
        matches!(self, Self::Torn | Self::Entry(_, Trust::None))
    }
}

pub(crate) fn encode(kind: Kind, stamp: &Stamp, body: &[u8]) -> Vec<u8> {
    let mut out = format!("shale {} {} {} {}", kind.0, kind.1, stamp.epoch, stamp.at_nanos).into_bytes();
    let check = check(&out, body);
    out.push(b' ');
    out.extend_from_slice(check.as_bytes());
    out.push(b'\n');
    out.extend_from_slice(body);
    out
}

/// The stamp and the body of a whole entry of that kind.
pub(crate) fn decode(kind: Kind, bytes: &[u8]) -> Option<(Stamp, &[u8])> {
    let newline = bytes.iter().position(|byte| *byte == b'\n')?;
    let (line, body) = (std::str::from_utf8(&bytes[..newline]).ok()?, &bytes[newline + 1..]);
    let (head, digits) = line.rsplit_once(' ')?;
    let mut fields = head.split(' ');
    if fields.next()? != "shale" || fields.next()? != kind.0 || fields.next()?.parse() != Ok(kind.1) {
        return None;
    }
    let stamp = Stamp { epoch: fields.next()?.to_owned(), at_nanos: fields.next()?.parse().ok()? };
    (fields.next().is_none() && check(head.as_bytes(), body) == digits).then_some((stamp, body))
}

fn check(head: &[u8], body: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(head).update(b"\n").update(body);
    hasher.finalize().to_hex()[..32].to_owned()
}

impl Inner {
    /// Reads the entry at a path.
    pub(crate) fn read_entry<T: DeserializeOwned>(&self, kind: Kind, path: &Path) -> Result<Found<T>, StoreError> {
        let bytes = match read_small(path) {
            Ok(bytes) => bytes,
            Err(error) if is_absent(&error) => return Ok(Found::Nothing),
            Err(error) => return Err(StoreError::io("read", path, error)),
        };
        let Some((stamp, body)) = decode(kind, &bytes) else { return Ok(Found::Torn) };
        match serde_json::from_slice(body) {
            Ok(value) => Ok(Found::Entry(value, self.durability.trust(self.root(), &stamp))),
            Err(_) => Ok(Found::Torn),
        }
    }

    /// Writes an entry. Everything that it points to must have been written before.
    pub(crate) fn write_entry<T: Serialize>(&self, kind: Kind, path: &Path, value: &T) -> Result<(), StoreError> {
        let bytes = self.entry_bytes(kind, path, value)?;
        self.replace_file(path, |file| file.write_all(&bytes))
    }

    /// Writes an entry into a directory that nobody sees yet.
    pub(crate) fn write_unseen_entry<T: Serialize>(&self, kind: Kind, path: &Path, value: &T) -> Result<(), StoreError> {
        let bytes = self.entry_bytes(kind, path, value)?;
        std::fs::write(path, bytes).map_err(|error| StoreError::io("write", path, error))
    }

    /// The bytes of an entry that is written now.
    pub(crate) fn entry_bytes<T: Serialize>(&self, kind: Kind, path: &Path, value: &T) -> Result<Vec<u8>, StoreError> {
        let body = serde_json::to_vec(value).map_err(|source| StoreError::Encode { path: path.to_owned(), source })?;
        // These are read for what they say, which no file has to stand for: whether they survive a power loss is worth no writing back of the
        // disk.
        let is_talk = matches!(kind.0, "build" | "last" | "taken");
        let stamp = if is_talk { self.durability.unsynced_stamp() } else { self.durability.stamp() };
        Ok(encode(kind, &stamp, &body))
    }
}

/// The epoch of the entry at a path, whatever its kind.
pub(crate) fn epoch_at(path: &Path) -> Option<String> {
    let bytes = read_small(path).ok()?;
    let line = bytes.split(|byte| *byte == b'\n').next()?;
    std::str::from_utf8(line).ok()?.split(' ').nth(3).map(str::to_owned)
}

/// Reads a file of which a few kilobytes are expected: without asking for its size first, that is three system calls.
fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut bytes = vec![0; 4096];
    let mut len = 0;
    loop {
        match file.read(&mut bytes[len..]) {
            // A short read of a regular file ends at its end.
            Ok(read) if len + read < bytes.len() => {
                bytes.truncate(len + read);
                return Ok(bytes);
            }
            Ok(read) => {
                len += read;
                bytes.resize(bytes.len() * 4, 0);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether the error says that there is no such file.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> (Stamp, Vec<u8>) {
        let stamp = Stamp { epoch: "01234567-89ab-cdef-0123-456789abcdef".to_owned(), at_nanos: 5 };
        let bytes = encode(STEP, &stamp, b"{\"a\":1}");
        (stamp, bytes)
    }

    #[test]
    fn an_entry_is_read_back() {
        let (stamp, bytes) = example();
        assert_eq!(decode(STEP, &bytes), Some((stamp, b"{\"a\":1}".as_slice())));
    }

    #[test]
    fn another_kind_or_format_is_none() {
        let (_, bytes) = example();
        assert_eq!(decode(LAST, &bytes), None);
        assert_eq!(decode(Kind("step", 2), &bytes), None);
    }

    #[test]
    fn a_torn_or_changed_entry_is_none() {
        let (_, bytes) = example();
        for len in 0..bytes.len() {
            assert_eq!(decode(STEP, &bytes[..len]), None, "cut at {len}");
            let mut changed = bytes.clone();
            changed[len] ^= 1;
            assert_eq!(decode(STEP, &changed), None, "changed at {len}");
            let mut zeroed = bytes.clone();
            zeroed[len..].fill(0);
            assert_eq!(decode(STEP, &zeroed), None, "zeroed from {len}");
        }
        assert_eq!(decode(STEP, &[bytes.clone(), bytes].concat()), None);
    }

    #[test]
    fn long_entries_are_read_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        for len in [0, 1, 4095, 4096, 4097, 16384, 100_000] {
            let path = dir.path().join("file");
            std::fs::write(&path, vec![b'x'; len]).expect("written");
            assert_eq!(read_small(&path).expect("read").len(), len);
        }
    }
}
