//! Which build is meant.

use std::fs;
use std::path::{Path, PathBuf};

use shale_cache::{BuildRecord, BuildResult};

use crate::oci::reference::Reference;

/// What `buildx.build.ref` of the metadata file puts before an id.
const FULL_REF: &str = "default/default/";
/// Digits of an id that say enough.
const LEAST_DIGITS: usize = 4;

/// The builds that a name fits.
#[derive(Debug, PartialEq)]
pub(super) enum Choice<'a> {
    One(&'a BuildRecord),
    None,
    /// The beginning of so many ids.
    Several(usize),
}

/// Finds a build among records, the newest of which is the first. The name is `^N` for the Nth before the newest, an image's name,
/// an id or its beginning, or a directory, which is taken as the context. No name stands for the last build that has ended: of the
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
        [] => one(directory(name).and_then(|dir| records.iter().find(|record| is_of(record, &dir)))),
        _ => Choice::Several(fitting.len()),
    }
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
        ];
        for (name, dir, expected) in [
            (None, "/", Ok("00c")),
            (None, "/w/lib", Ok("00b1")),
            (None, "/w/lib/src", Ok("00b1")),
            (None, "/w/other", Ok("00c")),
            (Some("^0"), "/", Ok("00d")),
            (Some("^3"), "/", Ok("00b1")),
            (Some("^4"), "/", Err(0)),
            (Some("00b0"), "/", Ok("00b0")),
            (Some("00c0000000000003"), "/", Ok("00c")),
            (Some("default/default/00c0000000000003"), "/", Ok("00c")),
            (Some("00b"), "/", Err(0)),
            (Some("app:1"), "/", Ok("00b0")),
            (Some("app"), "/", Err(0)),
            (Some("lib"), "/w", Ok("00b1")),
        ] {
            let directory = |name: &str| (name == "lib").then(|| Path::new(dir).join(name));
            match (choose(&records, name, Path::new(dir), &directory), expected) {
                (Choice::One(found), Ok(id)) => assert!(found.id.starts_with(id), "{name:?} in {dir}: {}", found.id),
                (Choice::None, Err(0)) => {}
                (found, _) => panic!("{name:?} in {dir}: {found:?}"),
            }
        }
        let twins = [example("00b0000000000002"), example("00b0000000000001")];
        assert_eq!(choose(&twins, Some("00b0"), Path::new("/"), &|_| None), Choice::Several(2));
    }
}
