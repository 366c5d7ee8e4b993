//! What a high stack of layers remembers of the questions that it was asked.
//!
//! To ask each of a thousand layers for each of their thousands of paths would make a view's cost the product of both. So whoever
//! asks often gets a table of all paths, made once at the cost of one walk; and whoever goes down a tree finds, for every directory
//! that was listed, which layers have something in its children.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::{Child, Level, View, implied_dir};
use crate::tree::entry::Entry;

/// The lowest stack for which it pays to remember anything.
const HIGH_STACK: usize = 16;

/// So many questions to one layer cost as much as one entry in the table. A step that asks for the few paths of its destination makes none.
const TABLE_COST: usize = 8;

/// The memory of one view.
#[derive(Debug, Default)]
pub(super) struct Memory {
    asked: AtomicUsize,
    table: OnceLock<Table>,
    levels: Mutex<HashMap<Vec<u8>, Level>>,
}

/// Every path of a view.
#[derive(Debug, Default)]
pub(super) struct Table {
    hasher: RandomState,
    /// By the hash of a path, the layer that decides and the number of its entry there: a fraction of what the paths would take.
    entries: HashMap<u64, (u32, u32)>,
    /// Directories that no layer has an entry for, with the layer that implies them; and paths whose hash another path has.
    others: HashMap<Vec<u8>, (usize, Option<usize>)>,
}

impl Memory {
    /// The level of a directory that was seen as a child of another.
    pub(super) fn level(&self, path: &[u8]) -> Option<Level> {
        self.levels.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned()
    }
}

impl View {
    /// Remembers the levels of directories.
    pub(super) fn remember(&self, children: &BTreeMap<Vec<u8>, Child>) {
        if self.layers.len() < HIGH_STACK {
            return;
        }
        let mut levels = self.memory.levels.lock().unwrap_or_else(PoisonError::into_inner);
        for (path, child) in children.iter().filter(|(_, child)| !child.level.members.is_empty()) {
            levels.entry(path.clone()).or_insert_with(|| child.level.clone());
        }
    }

    /// The table of all paths, once so many questions were asked that it costs less than they did.
    pub(super) fn table(&self) -> Option<&Table> {
        if self.layers.len() < HIGH_STACK {
            return None;
        }
        if let Some(table) = self.memory.table.get() {
            return Some(table);
        }
        let asked = self.memory.asked.fetch_add(1, Ordering::Relaxed);
        let entries: usize = self.layers.iter().map(|index| index.len()).sum();
        (asked * self.layers.len() > TABLE_COST * entries).then(|| self.memory.table.get_or_init(|| Table::of(self)))
    }
}

impl Table {
    fn of(view: &View) -> Self {
        let mut table = Self::default();
        table.add(view, &[], &view.top());
        table
    }

    fn add(&mut self, view: &View, dir: &[u8], level: &Level) {
        for (path, child) in view.merge(dir, level) {
            match child.own {
                Some((layer, i)) => self.add_entry(&path, layer, i),
                None => drop(self.others.insert(path.clone(), (child.level.members[0].0, None))),
            }
            if !child.level.members.is_empty() {
                self.add(view, &path, &child.level);
            }
        }
    }

    fn add_entry(&mut self, path: &[u8], layer: usize, i: usize) {
        use std::collections::hash_map::Entry::{Occupied, Vacant};
        match self.entries.entry(self.hasher.hash_one(path)) {
            Vacant(free) => {
                free.insert((layer as u32, i as u32));
            }
            Occupied(_) => drop(self.others.insert(path.to_vec(), (layer, Some(i)))),
        }
    }

    /// As [`View::get`].
    pub(super) fn get(&self, view: &View, path: &[u8]) -> Option<(usize, Entry)> {
        if let Some((layer, i)) = self.entries.get(&self.hasher.hash_one(path)) {
            let (layer, i) = (*layer as usize, *i as usize);
            if view.layers[layer].path(i) == path {
                return Some((layer, view.layers[layer].entry(i)));
            }
        }
        let (layer, own) = self.others.get(path)?;
        Some((*layer, own.map_or_else(|| implied_dir(path.to_vec()), |i| view.layers[*layer].entry(i))))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::tree::entry::{Kind, Mtime};
    use crate::tree::index::{Index, IndexBuilder};

    /// Layers that add, replace and remove, deep and shallow.
    fn stack(count: usize) -> Vec<Arc<Index>> {
        let file = |path: String, n: usize| {
            let kind = Kind::File { size: n as u64, digest: [n as u8; 32], hardlink: None };
            Entry::new(path, kind, 0o644, 0, 0, Mtime::default())
        };
        let layer = |n: usize| {
            let mut builder = IndexBuilder::new();
            builder.push(file("shared/current".into(), n));
            builder.push(file(format!("own/{n}/deep/file"), n));
            builder.push(Entry::new(format!("own/{n}"), Kind::Dir, 0o700, n as u32, 0, Mtime::default()));
            if n > 0 {
                builder.push(Entry::whiteout(format!("own/{}/deep", n - 1)));
            }
            if n == 30 {
                builder.push(Entry { opaque: true, ..Entry::new("own/3", Kind::Dir, 0o755, 0, 0, Mtime::default()) });
            }
            Arc::new(builder.build())
        };
        (0..count).map(layer).collect()
    }

    #[test]
    fn the_table_says_what_the_layers_say() {
        let view = View::new(stack(40));
        let mut paths: Vec<Vec<u8>> = view.walk(b"").into_iter().map(|found| found.entry.path).collect();
        paths.extend(["own/3/deep", "own/38/deep/file", "nothing", "shared/current/below"].map(|path| path.as_bytes().to_vec()));
        // A fresh view answers its first question from the layers.
        let from_layers: Vec<_> = paths.iter().map(|path| View::new(view.layers.clone()).get(path)).collect();
        let table = Table::of(&view);
        let from_table: Vec<_> = paths.iter().map(|path| table.get(&view, path)).collect();
        assert_eq!(from_table, from_layers);
    }

    #[test]
    fn a_listing_is_the_same_from_memory() {
        let view = View::new(stack(40));
        let asked_down = view.walk(b"");
        assert!(view.memory.level(b"own/39/deep").is_some(), "it was seen");
        for dir in asked_down.iter().filter(|found| found.entry.is_dir()) {
            assert_eq!(view.children(&dir.entry.path), View::new(view.layers.clone()).children(&dir.entry.path));
        }
    }
}
