//! `shale import`: an image of one layer, made of a tar of files.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use shale_cache::Built;
use time::OffsetDateTime;

use crate::dockerfile::ast::Dockerfile;
use crate::dockerfile::parse;
use crate::image::assemble::rfc3339;
use crate::oci::config::{HistoryEntry, ImageConfig, RunConfig};
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::plan::{BaseImages, LowerError, PlanOptions, lower};
use crate::source::http::Downloads;
use crate::source::secret::Lent;
use crate::span::SourceFile;

use super::Failure;
use super::args::ImportArgs;
use super::console::print;
use super::diagnostic::Diagnostic;
use super::environment::Environment;
use super::image::failure;
use super::registry::{RegistryNotes, images, platform};
use super::request::registry_config_with;

/// What `--change` takes.
const CHANGES: &[&str] =
    &["CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL", "ONBUILD", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"];
/// The stage that the instructions stand in while they are read.
const STAGE: &str = "FROM scratch\n";

/// Runs the command: prints the id of the new image.
pub fn run(args: &ImportArgs, environment: &Environment) -> Result<(), Failure> {
    let name = args.name.as_deref().map(|name| Reference::parse(name).map(Reference::with_default_tag)).transpose();
    let name = name.map_err(|error| Diagnostic::of(&error))?;
    let platform = platform(args.platform.as_deref(), environment)?.unwrap_or_else(Platform::native);
    let run = changed(&args.changes, &platform)?;
    let (service, _lease) = images(environment, &args.registry)?;
    let is_url = args.source.starts_with("http://") || args.source.starts_with("https://");
    let layer = match args.source.as_str() {
        "-" if environment.stdin_is_terminal => {
            return Err(Diagnostic::new("a tar is read from standard input, and that is a terminal").into());
        }
        "-" => service.import_layer(&mut std::io::stdin().lock()),
        url if is_url => {
            let config = registry_config_with(environment, &args.registry).map_err(|error| Diagnostic::of(&error))?;
            let found = Downloads::new(config, Lent::default()).get(service.store(), url, None, &RegistryNotes);
            let blob = found.map_err(|error| Diagnostic::of(&error).of_engine())?.blob;
            let file = service.store().blobs().open(&blob).map_err(|error| super::image::store_failure(&error))?;
            let mut file: Box<dyn Read> = match file {
                Some(file) => Box::new(file),
                None => Box::new(std::io::empty()),
            };
            service.import_layer(&mut file)
        }
        path => {
            let path = environment.resolve(Path::new(path));
            let file = File::open(&path);
            let mut file = file.map_err(|error| Diagnostic::new(format!("cannot open {}", path.display())).because(error.to_string()))?;
            service.import_layer(&mut file)
        }
    };
    let layer = layer.map_err(|error| failure(&error))?;
    let created = rfc3339((OffsetDateTime::now_utc().unix_timestamp(), 0));
    // Docker's client streams a file: for the daemon it is nameless.
    let origin = if is_url { &args.source } else { "-" };
    let comment = args.message.clone().filter(|text| !text.is_empty()).unwrap_or_else(|| format!("Imported from {origin}"));
    let mut config = ImageConfig { config: run, created: Some(created.clone()), ..ImageConfig::scratch(&platform) };
    config.rootfs.diff_ids.push(layer.diff_id.0.to_string());
    config.history = vec![HistoryEntry { created: Some(created), comment, ..HistoryEntry::default() }];
    let names: Vec<Reference> = name.into_iter().collect();
    let id = service.commit(&names, &config.to_json(), vec![layer], Built::default()).map_err(|error| failure(&error))?;
    print(format!("{id}\n"))
}

/// The settings that instructions make of none.
fn changed(changes: &[String], platform: &Platform) -> Result<RunConfig, Failure> {
    if changes.is_empty() {
        return Ok(RunConfig::default());
    }
    let (none, source) = (SourceFile::new("--change", STAGE), SourceFile::new("--change", format!("{STAGE}{}\n", changes.join("\n"))));
    let (_, before) = planned(&none, platform)?;
    let (file, mut after) = planned(&source, platform)?;
    for instruction in file.stages.iter().flat_map(|stage| &stage.instructions) {
        let keyword = instruction.keyword.node.to_uppercase();
        if !CHANGES.contains(&keyword.as_str()) {
            return Err(Diagnostic::new(format!("{keyword} is not a valid change command")).of_engine().into());
        }
    }
    // A build gives every image a PATH, an import does not.
    if let Some(env) = after.env.as_mut() {
        env.retain(|pair| !before.env.iter().flatten().any(|given| given == pair));
    }
    after.env = after.env.filter(|env| !env.is_empty());
    Ok(after)
}

/// A file and the settings that it makes.
fn planned(source: &SourceFile, platform: &Platform) -> Result<(Dockerfile, RunConfig), Failure> {
    let (file, errors) = parse(source);
    if let Some(error) = errors.first() {
        return Err(Diagnostic::of(error).of_engine().into());
    }
    let file =
        file.filter(|file| file.stages.len() == 1).ok_or_else(|| Diagnostic::new("FROM is not a valid change command").of_engine())?;
    let options = PlanOptions { platforms: vec![platform.clone()], ..PlanOptions::default() };
    let plan = match lower(&file, source, &options, &BaseImages::new()) {
        Ok(plan) => plan,
        Err(LowerError::NeedsImages(_)) => return Err(Diagnostic::new("an image is not a valid change command").of_engine().into()),
        Err(LowerError::Errors(errors)) => {
            let error = errors.first().map_or_else(|| Diagnostic::new("invalid change"), |error| Diagnostic::of(error));
            return Err(error.of_engine().into());
        }
    };
    let image = plan.images.into_iter().next();
    Ok((file, image.map(|image| image.config.config).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(changes: &[&str]) -> Result<RunConfig, String> {
        let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
        changed(&changes, &Platform::native()).map_err(|failure| match failure {
            Failure::Shown(diagnostic) => diagnostic.message,
            other => format!("{other:?}"),
        })
    }

    #[test]
    fn changes_make_settings() {
        assert_eq!(of(&[]).unwrap(), RunConfig::default());
        let made = of(&["ENV A=b C=d", "cmd [\"sh\"]", "EXPOSE 80", "WORKDIR /w", "LABEL l=1"]).unwrap();
        assert_eq!(made.env.unwrap(), ["A=b", "C=d"]);
        assert_eq!((made.cmd.unwrap(), made.working_dir.as_str()), (vec!["sh".to_owned()], "/w"));
        assert!(made.exposed_ports.unwrap().contains_key("80/tcp") && made.labels.unwrap()["l"] == "1");
        assert_eq!(of(&["ENV PATH=/x"]).unwrap().env.unwrap(), ["PATH=/x"]);
    }

    #[test]
    fn what_runs_something_is_no_change() {
        assert_eq!(of(&["RUN true"]).unwrap_err(), "RUN is not a valid change command");
        assert_eq!(of(&["FROM x"]).unwrap_err(), "FROM is not a valid change command");
        assert!(of(&["BOGUS x"]).unwrap_err().contains("unknown instruction"));
    }
}
