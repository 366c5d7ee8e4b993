//! Lists of manifests that are not pushed yet (`manifest create`), in the files of Docker's client:
//!
//! ```text
//! $DOCKER_CONFIG/manifests/
//!     registry.example-5000_app-1/              a list: its full name, `:` as `-` and `/` as `_`
//!         registry.example-5000_app-1-amd64     a member, by its own name: JSON of `oci::list::Member`
//! ```
//!
//! They lie there and not in the store so that they end with the settings that a pipeline makes for itself, and so that Docker's
//! client and shale find each other's. A list has its members in the order of their files' names.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::oci::json;
use crate::oci::list::Member;
use crate::oci::reference::Reference;

/// The lists in a folder.
#[derive(Clone, Debug)]
pub struct Drafts {
    root: PathBuf,
}

/// A list that cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    /// There is none of this name.
    #[error("No such manifest: {name}")]
    NotFound {
        /// The full name.
        name: String,
    },
    /// A file that cannot be read or written.
    #[error("cannot {deed} {}: {source}", path.display())]
    Io {
        /// What was tried.
        deed: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file that is none of ours.
    #[error("invalid manifest file {}: {source}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

impl Drafts {
    /// The lists in `root`, which need not exist.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// All members of a list.
    pub fn list(&self, list: &Reference) -> Result<Vec<Member>, DraftError> {
        let folder = self.folder(list);
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => DraftError::NotFound { name: list.to_string() },
            _ => DraftError::Io { deed: "read", path: folder.clone(), source },
        };
        let mut files = Vec::new();
        for entry in fs::read_dir(&folder).map_err(failed)? {
            files.push(entry.map_err(failed)?.path());
        }
        files.sort();
        files.iter().map(|file| read(file)?.ok_or_else(|| DraftError::NotFound { name: list.to_string() })).collect()
    }

    /// A member of a list; `None` = the list or the member does not exist.
    pub fn member(&self, list: &Reference, member: &Reference) -> Result<Option<Member>, DraftError> {
        read(&self.folder(list).join(file_name(member)))
    }

    /// Adds a member to a list or changes it. The list begins with its first member.
    pub fn put(&self, list: &Reference, name: &Reference, member: &Member) -> Result<(), DraftError> {
        let folder = self.folder(list);
        let failed = |source| DraftError::Io { deed: "write", path: folder.join(file_name(name)), source };
        fs::create_dir_all(&folder).map_err(failed)?;
        // Whole or not at all: a reader takes each file of the folder for a member. So it is written beside the folder.
        let beside = self.root.join(format!(".{}.{}", std::process::id(), file_name(name)));
        let bytes = serde_json::to_vec(member).expect("a member has text keys");
        let written = fs::write(&beside, bytes).and_then(|()| fs::rename(&beside, folder.join(file_name(name))));
        if written.is_err() {
            drop(fs::remove_file(&beside));
        }
        written.map_err(failed)
    }

    /// Removes a list.
    pub fn remove(&self, list: &Reference) -> Result<(), DraftError> {
        let folder = self.folder(list);
        fs::remove_dir_all(&folder).map_err(|source| DraftError::Io { deed: "remove", path: folder, source })
    }

    fn folder(&self, list: &Reference) -> PathBuf {
        self.root.join(file_name(list))
    }
}

/// The name as a file's. Two names can share one, as with Docker.
fn file_name(name: &Reference) -> String {
    name.to_string().replace(':', "-").replace('/', "_")
}

fn read(path: &Path) -> Result<Option<Member>, DraftError> {
    match fs::read(path) {
        Ok(bytes) => json::read(&bytes).map(Some).map_err(|source| DraftError::Invalid { path: path.into(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DraftError::Io { deed: "read", path: path.into(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::manifest::{Descriptor, Document, media};
    use shale_cache::OciDigest;

    #[test]
    fn lists_are_kept_by_the_names_of_their_members() {
        let home = tempfile::tempdir().unwrap();
        let drafts = Drafts::new(home.path().join("manifests"));
        let reference = |text: &str| Reference::parse(text).unwrap().with_default_tag();
        let list = reference("r.example:5000/team/app:1");
        assert!(matches!(drafts.list(&list), Err(DraftError::NotFound { name }) if name == "r.example:5000/team/app:1"));
        let text = format!(r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"sha256:{}","size":1}}}}"#, "0".repeat(64));
        let Ok(Document::Manifest(manifest)) = Document::parse(text.as_bytes(), None) else { panic!("{text}") };
        let descriptor = Descriptor::new(media::OCI_MANIFEST, OciDigest::sha256_of(text.as_bytes()), text.len() as u64);
        for name in ["b", "a"].map(reference) {
            let member = Member::new(&name.to_string(), descriptor.clone(), (*manifest).clone(), text.as_bytes());
            drafts.put(&list, &name, &member).unwrap();
        }
        assert!(home.path().join("manifests/r.example-5000_team_app-1/docker.io_library_a-latest").is_file());
        let names: Vec<String> = drafts.list(&list).unwrap().into_iter().map(|member| member.r#ref).collect();
        assert_eq!(names, ["docker.io/library/a:latest", "docker.io/library/b:latest"]);
        assert!(drafts.member(&list, &reference("c")).unwrap().is_none());
        drafts.remove(&list).unwrap();
        assert!(drafts.list(&list).is_err() && drafts.member(&list, &reference("a")).unwrap().is_none());
        assert_eq!(fs::read_dir(home.path().join("manifests")).unwrap().count(), 0, "nothing is left beside them");
    }
}
