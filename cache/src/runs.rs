//! The newest run of each step, by name: for explanations only.
//!
//! ```text
//! steps/last/runs-<0 to f>:   <32 hex digits of a name> <64 of a key> <8 of a check>\n
//! ```
//! Lines are added at the end, and the last one of a name counts. A file for each name would be plainer, but costs three files made
//! and three replaced for every step: that was a third of a commit, and what replaces a file is written to the disk at once (ext4).
//! Two processes that shorten one file at the same time may lose a line, which costs an explanation and nothing else.
//!
//! A process reads each file once and from then on only what was added to it: a build of a thousand new steps asks three thousand times.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::digest::CacheKey;
use crate::entry::is_absent;
use crate::error::StoreError;
use crate::store::Inner;

/// A file that is longer loses the older lines of each name, and then its oldest names until half of it is left.
const MAX_BYTES: u64 = 2 << 20;
const PREFIX: &str = "runs-";
const NAME_LEN: usize = 32;
const CHECK_LEN: usize = 8;

/// Where lines stand in the files that this process has looked into, by their paths.
#[derive(Debug, Default)]
pub(crate) struct Known(Mutex<HashMap<PathBuf, Places>>);

/// Where the last line of each name stands in one file.
#[derive(Debug, Default)]
struct Places {
    inode: u64,
    /// So much of it was looked at: whole lines.
    len: u64,
    /// By the first half of a name, which is a hash: who takes a line from there looks whether it is the right one.
    last: HashMap<[u8; NAME_LEN / 2], u32>,
}

/// Notes a key as the newest run of a name.
pub(crate) fn note(store: &Inner, name: &str, key: &CacheKey) -> Result<(), StoreError> {
    let path = path(store, name);
    add(&path, line(name, key).as_bytes()).and_then(|len| if len > MAX_BYTES { shorten(store, &path) } else { Ok(()) })
}

/// The key of the newest run of a name.
pub(crate) fn find(store: &Inner, name: &str) -> Result<Option<CacheKey>, StoreError> {
    let path = path(store, name);
    let failed = |error| StoreError::io("read", &path, error);
    let file = match File::open(&path) {
        Err(error) if is_absent(&error) => return Ok(None),
        other => other.map_err(failed)?,
    };
    let mut known = store.runs.0.lock().unwrap_or_else(PoisonError::into_inner);
    let places = known.entry(path.clone()).or_default();
    places.catch_up(&file).map_err(failed)?;
    let Some(at) = name.as_bytes().first_chunk().and_then(|half| places.last.get(half)) else { return Ok(None) };
    let mut found = [0; line_len()];
    let is_read = file.read_exact_at(&mut found, (*at).into()).is_ok();
    match parse(&found) {
        Some((own, key)) if is_read && own == name => Ok(Some(key)),
        // A line that was changed, or two names that are half the same. Many lines are passed over for one that is looked into.
        _ => {
            let bytes = read(&path)?;
            let mut of_name = lines(&bytes).rev().filter(|line| line.starts_with(name.as_bytes()));
            Ok(of_name.find_map(parse).map(|(_, key)| key))
        }
    }
}

impl Places {
    /// Looks at what was added since the last time, or at everything if the file is another one.
    fn catch_up(&mut self, file: &File) -> std::io::Result<()> {
        let meta = file.metadata()?;
        if meta.ino() != self.inode || meta.len() < self.len {
            *self = Self { inode: meta.ino(), ..Self::default() };
        }
        let (mut file, mut added) = (file, Vec::with_capacity((meta.len() - self.len) as usize));
        file.seek(SeekFrom::Start(self.len))?;
        file.read_to_end(&mut added)?;
        let mut at = 0;
        // A line without an end is cut off, or still to come.
        while let Some(len) = line_at(&added[at..]) {
            if len == line_len()
                && let Some(half) = added[at..].first_chunk()
            {
                self.last.insert(*half, (self.len as usize + at) as u32);
            }
            at += len + 1;
        }
        self.len += at as u64;
        Ok(())
    }
}

/// The length of the line that bytes begin with; `None` if it has no end. Nearly all are of one length.
fn line_at(bytes: &[u8]) -> Option<usize> {
    if bytes.get(line_len()) == Some(&b'\n') && !bytes[..NAME_LEN].contains(&b'\n') {
        return Some(line_len());
    }
    bytes.iter().position(|byte| *byte == b'\n')
}

/// Whether a file of `steps/last` holds lines of ours.
pub(crate) fn is_of_runs(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// Whether no line was changed. One that was cut off hides nothing but itself: a power loss or a full disk leaves such.
pub(crate) fn is_unchanged(path: &Path) -> Result<bool, StoreError> {
    let bytes = read(path)?;
    Ok(lines(&bytes).all(|line| line.len() != line_len() || parse(line).is_some()))
}

fn path(store: &Inner, name: &str) -> PathBuf {
    store.root().join("steps/last").join(format!("{PREFIX}{}", &name[..1]))
}

/// Adds at the end with a single write, which others do not come between. Returns how long the file is now.
fn add(path: &Path, bytes: &[u8]) -> Result<u64, StoreError> {
    let failed = |error| StoreError::io("write", path, error);
    let mut file = loop {
        match File::options().append(true).create(true).open(path) {
            // A pruning may remove the empty directory at any time.
            Err(error) if is_absent(&error) => crate::tmp::make_dirs(path.parent().unwrap_or(path)).map_err(failed)?,
            other => break other.map_err(failed)?,
        }
    };
    file.write_all(bytes).map_err(failed)?;
    Ok(file.metadata().map_err(failed)?.len())
}

fn shorten(store: &Inner, path: &Path) -> Result<(), StoreError> {
    let bytes = read(path)?;
    let mut names = std::collections::HashSet::new();
    let mut kept: Vec<&[u8]> = lines(&bytes).rev().filter(|line| parse(line).is_some_and(|(name, _)| names.insert(name))).collect();
    kept.truncate(MAX_BYTES as usize / 2 / (line_len() + 1));
    kept.reverse();
    store.replace_file(path, |file| {
        let mut out = std::io::BufWriter::new(file);
        kept.iter().try_for_each(|line| out.write_all(line).and_then(|()| out.write_all(b"\n")))?;
        out.flush()
    })
}

fn read(path: &Path) -> Result<Vec<u8>, StoreError> {
    match std::fs::read(path) {
        Err(error) if is_absent(&error) => Ok(Vec::new()),
        other => other.map_err(|error| StoreError::io("read", path, error)),
    }
}

fn lines(bytes: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

fn line(name: &str, key: &CacheKey) -> String {
    let text = format!("{name} {}", key.to_hex());
    let check = check(&text);
    format!("{text} {check}\n")
}

const fn line_len() -> usize {
    NAME_LEN + 1 + 64 + 1 + CHECK_LEN
}

fn check(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..CHECK_LEN].to_owned()
}

/// Name and key of a whole line.
fn parse(line: &[u8]) -> Option<(&str, CacheKey)> {
    if line.len() != line_len() {
        return None;
    }
    let (text, digits) = std::str::from_utf8(line).ok()?.rsplit_once(' ')?;
    let (name, key) = text.split_once(' ')?;
    let key = key.parse().ok()?;
    (name.len() == NAME_LEN && check(text) == digits).then_some((name, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> CacheKey {
        format!("{byte:02x}").repeat(32).parse().expect("a key")
    }

    fn name(number: usize) -> String {
        format!("0{number:015x}{number:016x}")
    }

    #[test]
    fn a_line_is_read_back_and_a_torn_one_is_none() {
        let line = line(&name(7), &key(1));
        let bytes = line.trim_end().as_bytes();
        assert_eq!(parse(bytes), Some((name(7).as_str(), key(1))));
        for at in 0..bytes.len() {
            assert_eq!(parse(&bytes[..at]), None, "cut at {at}");
            let mut changed = bytes.to_vec();
            changed[at] ^= 1;
            assert_eq!(parse(&changed), None, "changed at {at}");
        }
    }

    #[test]
    fn the_last_line_of_a_name_counts_and_damage_hides_one_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = crate::Store::open(dir.path()).expect("a store");
        let inner = &store.inner;
        assert_eq!(find(inner, &name(1)).expect("read"), None);
        for (number, byte) in [(1, 1), (2, 2), (1, 3)] {
            note(inner, &name(number), &key(byte)).expect("noted");
        }
        assert_eq!(find(inner, &name(1)).expect("read"), Some(key(3)));
        add(&path(inner, &name(1)), b"half a line").expect("added");
        note(inner, &name(1), &key(4)).expect("noted");
        note(inner, &name(1), &key(5)).expect("noted");
        assert_eq!((find(inner, &name(1)).expect("read"), find(inner, &name(2)).expect("read")), (Some(key(5)), Some(key(2))));
        assert!(is_unchanged(&path(inner, &name(1))).expect("read"));
    }

    #[test]
    fn what_others_add_is_found_too() {
        let dir = tempfile::tempdir().expect("a directory");
        let [ours, theirs] = [(); 2].map(|()| crate::Store::open(dir.path()).expect("a store"));
        let (ours, theirs) = (&ours.inner, &theirs.inner);
        // Names that are half the same, a changed line, and one whose end is still to come.
        let (twin, torn) = (format!("{}{:016x}", &name(1)[..16], 7), line(&name(3), &key(6)));
        for (number, name) in [name(1), twin.clone(), name(1), name(2)].iter().enumerate() {
            assert_eq!(find(ours, name).expect("read"), if number == 2 { Some(key(0)) } else { None });
            note(theirs, name, &key(number as u8)).expect("noted");
        }
        add(&path(ours, &name(2)), line(&name(2), &key(5)).replacen("05", "06", 1).as_bytes()).expect("added");
        add(&path(ours, &name(3)), &torn.as_bytes()[..40]).expect("added");
        assert_eq!(
            [name(1), twin, name(2), name(3)].map(|name| find(ours, &name).expect("read")),
            [Some(key(2)), Some(key(1)), Some(key(3)), None]
        );
        add(&path(ours, &name(3)), &torn.as_bytes()[40..]).expect("added");
        assert_eq!(find(ours, &name(3)).expect("read"), Some(key(6)));
        shorten(theirs, &path(ours, &name(3))).expect("shortened");
        assert_eq!([name(1), name(2), name(3)].map(|name| find(ours, &name).expect("read")), [Some(key(2)), Some(key(3)), Some(key(6))]);
    }

    #[test]
    fn a_file_that_grew_keeps_the_newest_of_each_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = crate::Store::open(dir.path()).expect("a store");
        let inner = &store.inner;
        let old: String = (0..3).map(|number| line(&name(number), &key(1))).collect();
        let many = line(&name(9), &key(2)).repeat(MAX_BYTES as usize / line_len());
        add(&path(inner, &name(0)), format!("{old}{many}").as_bytes()).expect("added");
        note(inner, &name(1), &key(3)).expect("noted");
        let found = |number| find(inner, &name(number)).expect("read");
        assert_eq!((found(0), found(1), found(2), found(9)), (Some(key(1)), Some(key(3)), Some(key(1)), Some(key(2))));
        let left = std::fs::read(path(inner, &name(0))).expect("read");
        assert_eq!(lines(&left).count(), 4);
        // More names than there is room for: the oldest go.
        let rest: String = (0..MAX_BYTES as usize / line_len()).map(|number| line(&name(number + 10), &key(4))).collect();
        add(&path(inner, &name(0)), rest.as_bytes()).expect("added");
        note(inner, &name(1), &key(5)).expect("noted");
        assert_eq!((found(0), found(1), found(10)), (None, Some(key(5)), None));
        assert!(std::fs::metadata(path(inner, &name(0))).expect("there").len() <= MAX_BYTES / 2);
    }
}
