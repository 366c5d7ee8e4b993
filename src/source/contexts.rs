//! The local directories of one build: the main context and those named by `--build-context`.

use std::collections::BTreeMap;

use super::context::BuildContext;

/// Local directories by name.
#[derive(Debug, Default)]
pub struct Contexts {
    /// The main context; `None` when the Dockerfile came alone on standard input.
    pub main: Option<BuildContext>,
    /// Named directories.
    pub named: BTreeMap<String, BuildContext>,
}

impl Contexts {
    /// The context of a COPY: the main one (`None`) or a named one.
    pub fn get(&self, name: Option<&str>) -> Option<&BuildContext> {
        match name {
            None => self.main.as_ref(),
            Some(name) => self.named.get(name),
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &BuildContext> {
        self.main.iter().chain(self.named.values())
    }
}
