//! Directories that a layer's tar has members below but no member of, as Bazel's rules write them: upon other layers they are what
//! those say (containerd's `mkparent`), so the same tar can be another layer upon others.

use super::entry::{Entry, Kind};
use super::index::{INLINE_PATHS, Index, IndexBuilder};
use super::view::View;

/// The layer as it is upon others: its implied directories, given by path, have what the ones below have. Beside it come those that
/// this changed; `None` if it changed none.
pub fn settle(index: &Index, implied: &[Vec<u8>], below: &View) -> Option<(Index, Vec<Vec<u8>>)> {
    let mut changed = Vec::new();
    let mut builder = IndexBuilder::new();
    let entries = index.iter().map(|entry| {
        if implied.binary_search(&entry.path).is_err() {
            return entry;
        }
        let Some((_, found)) = below.get(&entry.path).filter(|(_, found)| found.kind == Kind::Dir) else { return entry };
        let settled = Entry { opaque: entry.opaque, ..found };
        if settled != entry {
            changed.push(entry.path);
        }
        settled
    });
    entries.for_each(|entry| builder.push(entry));
    if changed.is_empty() {
        return None;
    }
    for path in INLINE_PATHS {
        if let Some(content) = index.inline(path) {
            builder.inline(path, content);
        }
    }
    Some((builder.build(), changed))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::tree::entry::Mtime;

    fn dir(path: &str, mode: u32, uid: u32) -> Entry {
        Entry::new(path, Kind::Dir, mode, uid, uid, Mtime { secs: i64::from(uid), nanos: 0 })
    }

    fn file(path: &str, hardlink: Option<&str>) -> Entry {
        let digest = *blake3::hash(b"x").as_bytes();
        Entry::new(path, Kind::File { size: 1, digest, hardlink: hardlink.map(Into::into) }, 0o644, 0, 0, Mtime::default())
    }

    #[test]
    fn what_lies_below_decides_and_nothing_else_changes() {
        let below = [
            IndexBuilder::of(vec![dir("etc", 0o750, 3), dir("tmp", 0o1777, 0), dir("was", 0o700, 4), file("file", None)]).build(),
            IndexBuilder::of(vec![Entry::whiteout("was"), dir("etc", 0o751, 7)]).build(),
        ];
        let below = View::new(below.map(Arc::new).into());
        let plain = |path| Entry::new(path, Kind::Dir, 0o755, 0, 0, Mtime::default());
        let mut builder = IndexBuilder::of(vec![
            Entry { opaque: true, ..plain("etc") },
            file("etc/passwd", None),
            file("etc/second", Some("etc/passwd")),
            plain("file"),
            plain("new"),
            plain("own"),
            plain("tmp"),
            plain("was"),
        ]);
        builder.inline(b"etc/passwd", b"x");
        let index = builder.build();
        let implied: Vec<Vec<u8>> = ["etc", "file", "new", "tmp", "was"].map(Into::into).into();
        let (settled, changed) = settle(&index, &implied, &below).expect("changed");
        assert_eq!(changed, [b"etc".to_vec(), b"tmp".to_vec()]);
        let expected = [("etc", Entry { opaque: true, ..dir("etc", 0o751, 7) }), ("tmp", dir("tmp", 0o1777, 0))];
        for (before, after) in index.iter().zip(settled.iter()) {
            let wanted = expected.iter().find(|(path, _)| path.as_bytes() == before.path);
            assert_eq!(after, wanted.map_or(before, |(_, entry)| entry.clone()));
        }
        assert_eq!(settled.inline(b"etc/passwd"), Some(b"x".as_slice()));
        assert!(settle(&index, &implied, &View::default()).is_none());
    }
}
