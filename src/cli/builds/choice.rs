//! Which build is meant.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use shale_cache::{BuildRecord, BuildResult};

use crate::oci::reference::Reference;
use crate::plan::secret::without_user_info;

/// What `buildx.build.ref` of the metadata file puts before an id.
const FULL_REF: &str = "default/default/";
/// What image ids begin with.
const SHA256: &str = "sha256:";
/// Digits of an id that say enough.
const LEAST_DIGITS: usize = 4;

/// The builds that a name fits.
#[derive(Debug, PartialEq)]
pub(super) enum Choice<'a> {
    One(&'a BuildRecord),
    None,
    /// The beginning of so many ids, of builds or else of images.
    Several(usize),
}

/// Finds a build among records, the newest of which is the first. The name is `^N` for the Nth before the newest, an image's name,
/// an id or its beginning, be it of a build or of the image that it made, or a directory or URL, which is taken as the context. No name stands for the last build that has ended: of the
/// working directory if one is on record, else of all.
pub(super) fn choose<'a>(
    records: &'a [BuildRecord],
    name: Option<&str>,
    current_dir: &Path,
    directory: &dyn Fn(&str) -> Option<PathBuf>,
) -> Choice<'a> {
    let one = |found: Option<&'a BuildRecord>| found.map_or(Choice::None, Choice::One);
    let ended = || records.iter().filter(|record| record.result != BuildResult::Running);
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return one(ended().find(|record| is_of(record, current_dir)).or(ended().next()).or(records.first()));
    };
    if let Some(number) = name.strip_prefix('^').and_then(|number| number.parse::<usize>().ok()) {
        return one(records.get(number));
    }
    let id = name.strip_prefix(FULL_REF).unwrap_or(name);
    let full = Reference::parse(name).ok().map(|name| name.with_default_tag().to_string());
    let is_image = |record: &&BuildRecord| full.as_ref().is_some_and(|full| record.tags.contains(full));
    if let Some(record) = records.iter().find(|record| record.id == id).or_else(|| records.iter().find(is_image)) {
        return Choice::One(record);
    }
    let fitting: Vec<&BuildRecord> = records.iter().filter(|record| id.len() >= LEAST_DIGITS && record.id.starts_with(id)).collect();
    match fitting[..] {
        [record] => Choice::One(record),
        [] => match of_image(records, name) {
            Choice::None => one(records.iter().find(|record| is_fetched_from(record, name)).or_else(|| {
                let dir = directory(name)?;
                records.iter().find(|record| is_of(record, &dir))
            })),
            found => found,
        },
        _ => Choice::Several(fitting.len()),
    }
}

/// The newest of the builds that made the image of an id, which may be short and without its `sha256:`.
fn of_image<'a>(records: &'a [BuildRecord], id: &str) -> Choice<'a> {
    let digits = id.strip_prefix(SHA256).unwrap_or(id);
    if digits.len() < LEAST_DIGITS {
        return Choice::None;
    }
    let image = |record: &'a BuildRecord| record.image.as_deref()?.strip_prefix(SHA256).filter(|image| image.starts_with(digits));
    let images: BTreeSet<&str> = records.iter().filter_map(image).collect();
    match (images.len(), records.iter().find(|record| image(record).is_some())) {
        (0, _) | (_, None) => Choice::None,
        (1, Some(newest)) => Choice::One(newest),
        (count, _) => Choice::Several(count),
    }
}

/// Whether a repository or URL is a build's context.
fn is_fetched_from(record: &BuildRecord, name: &str) -> bool {
    !Path::new(&record.context).is_absolute() && record.context == without_user_info(name)
}

/// Whether a directory is a build's context, or lies in it.
fn is_of(record: &BuildRecord, dir: &Path) -> bool {
    let real = fs::canonicalize(dir);
    context_of(record).is_some_and(|context| real.as_deref().unwrap_or(dir).starts_with(context))
}

/// The directory that was the context.
pub(super) fn context_of(record: &BuildRecord) -> Option<PathBuf> {
    let path = Path::new(&record.context);
    path.is_absolute().then(|| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()))
}

/// The root of the Git repository that a directory lies in.
pub(super) fn repository_around(dir: &Path) -> Option<PathBuf> {
    let dir = fs::canonicalize(dir).ok()?;
    dir.ancestors().find(|dir| dir.join(".git").exists()).map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::super::rows::example;
    use super::*;

    #[test]
    fn a_build_is_found_by_place_id_name_and_context() {
        let with = |id: &str, tag: &str, context: &str, result| BuildRecord {
            tags: vec![format!("docker.io/library/{tag}")],
            context: context.into(),
            result,
            ..example(id)
        };
        let records = [
            with("00d0000000000004", "other:1", "/w/other", BuildResult::Running),
            with("00c0000000000003", "app:2", "/w/app", BuildResult::Ok),
            with("00b0000000000002", "app:1", "/w/app", BuildResult::Failed),
            with("00b1000000000001", "lib:1", "/w/lib", BuildResult::Ok),
            with("00a0000000000000", "git:1", "https://***@h/a.git#main", BuildResult::Ok),
        ];
        for (name, dir, expected) in [
            (None, "/", Ok("00c")),
            (None, "/w/lib", Ok("00b1")),
            (None, "/w/lib/src", Ok("00b1")),
            (None, "/w/other", Ok("00c")),
            (Some("^0"), "/", Ok("00d")),
            (Some("^3"), "/", Ok("00b1")),
            (Some("^5"), "/", Err(0)),
            (Some("00b0"), "/", Ok("00b0")),
            (Some("00c0000000000003"), "/", Ok("00c")),
            (Some("default/default/00c0000000000003"), "/", Ok("00c")),
            (Some("00b"), "/", Err(0)),
            (Some("app:1"), "/", Ok("00b0")),
            (Some("app"), "/", Err(0)),
            (Some("lib"), "/w", Ok("00b1")),
            (Some("https://u:pw@h/a.git#main"), "/", Ok("00a")),
            (Some("https://h/a.git"), "/", Err(0)),
        ] {
            let directory = |name: &str| (name == "lib").then(|| Path::new(dir).join(name));
            match (choose(&records, name, Path::new(dir), &directory), expected) {
                (Choice::One(found), Ok(id)) => assert!(found.id.starts_with(id), "{name:?} in {dir}: {}", found.id),
                (Choice::None, Err(0)) => {}
                (found, _) => panic!("{name:?} in {dir}: {found:?}"),
            }
        }
        let made = |id: &str, image: &str| BuildRecord { image: Some(format!("sha256:{image}")), ..example(id) };
        let records = [made("00c0000000000003", "ab12cd"), made("00b0000000000002", "ab12cd"), made("00a0000000000001", "ab1234")];
        let nowhere = |name| choose(&records, Some(name), Path::new("/"), &|_| None);
        for name in ["sha256:ab12cd", "ab12cd", "ab12c"] {
            assert_eq!(nowhere(name), Choice::One(&records[0]), "{name}: the newest that made it");
        }
        assert_eq!(nowhere("sha256:ab1234"), Choice::One(&records[2]));
        assert_eq!((nowhere("ab12"), nowhere("ab1"), nowhere("sha256:")), (Choice::Several(2), Choice::None, Choice::None));
        let twins = [example("00b0000000000002"), example("00b0000000000001")];
        assert_eq!(choose(&twins, Some("00b0"), Path::new("/"), &|_| None), Choice::Several(2));
    }
}
