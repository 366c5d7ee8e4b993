//! The largest parts of a selection, for the note that a context is large.

use std::collections::BTreeMap;

use crate::tree::entry::{file_name, join};

/// A path and the bytes in and below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sized {
    /// Relative to the root.
    pub path: Vec<u8>,
    /// In bytes.
    pub size_bytes: u64,
}

#[derive(Default)]
struct Dir<'a> {
    size_bytes: u64,
    below: BTreeMap<&'a [u8], Dir<'a>>,
}

/// The `count` largest paths of a selection of regular files, the largest first; none lies below another. A directory is named
/// rather than its files, unless nearly all of it is one child: then that one is.
pub fn biggest<'a>(files: impl IntoIterator<Item = (&'a [u8], u64)>, count: usize) -> Vec<Sized> {
    let mut root = Dir::default();
    for (path, size_bytes) in files {
        let mut dir = &mut root;
        dir.size_bytes += size_bytes;
        for component in path.split(|b| *b == b'/') {
            dir = dir.below.entry(component).or_default();
            dir.size_bytes += size_bytes;
        }
    }
    let mut found: Vec<Sized> = root.below.iter().map(|(name, dir)| narrowed(name.to_vec(), dir)).collect();
    found.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.path.cmp(&b.path)));
    found.truncate(count);
    found
}

fn narrowed(mut path: Vec<u8>, mut dir: &Dir<'_>) -> Sized {
    // Nine tenths in one child say more about the child.
    while let Some((name, child)) = dir.below.iter().find(|(_, child)| child.size_bytes / 9 >= dir.size_bytes / 10 && dir.size_bytes > 0) {
        path = join(&path, name);
        dir = child;
    }
    debug_assert!(!file_name(&path).is_empty(), "components of a clean path have names");
    Sized { path, size_bytes: dir.size_bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_stand_for_their_files() {
        let files: [(&[u8], u64); 7] = [
            (b".git/objects/a", 400),
            (b".git/objects/b", 500),
            (b".git/HEAD", 10),
            (b"node_modules/x/i.js", 300),
            (b"node_modules/y/i.js", 200),
            (b"video.mp4", 700),
            (b"src/main.rs", 3),
        ];
        let got: Vec<_> = biggest(files, 3).into_iter().map(|s| (String::from_utf8(s.path).unwrap(), s.size_bytes)).collect();
        assert_eq!(got, [(".git/objects".into(), 900), ("video.mp4".into(), 700), ("node_modules".into(), 500)]);
        assert!(biggest([], 5).is_empty());
    }
}
