//! What a solved graph becomes: packed layers, configs, the store's images, archives, files.

mod image;
mod push;

use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use shale_cache::{BuildRecord, Built, OciDigest};

use super::bases::Bases;
use super::{BuildError, BuildReport, Services};
use crate::cli::output::{Destination as Place, LayerOptions, Output, OutputKind};
use crate::cli::request::BuildRequest;
use crate::execute::ahead::Wanted;
use crate::execute::flat::{Flat, Part};
use crate::execute::forms::Forms;
use crate::export::annotation::{Annotations, Place as Annotated};
use crate::export::{Destination, ExportImage, ExportIndex, Exportable, Exported, Format, MediaTypes, export_all, write_files};
use crate::image::ImageError;
use crate::layer::compress::Encoder;
use crate::oci::manifest::{Descriptor, runs_on};
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::plan::graph::Plan;
use crate::solve::Solved;
use crate::solve::event::{Event, TaskId};
use crate::worker::Packing;
use image::{Finish, Kept, failed};

/// One archive that was written, or the store's image.
#[derive(Clone, Debug)]
pub struct Written {
    /// Digest of the manifest or index; of the config where only the store has the image.
    pub digest: OciDigest,
    /// What points to the manifest or index, where there is one.
    pub descriptor: Option<Descriptor>,
}

/// Refuses what no output can be, before anything runs for it.
pub(super) fn check(request: &BuildRequest, plan: &Plan) -> Result<(), BuildError> {
    let platforms: Vec<&Platform> = plan.images.iter().map(|image| &image.platform).collect();
    for output in request.outputs.iter().filter(|output| output.kind.is_image()) {
        if output.kind == OutputKind::Docker && request.multi_platform {
            return Err(BuildError::DockerIndex);
        }
        annotations(request, output).check(&platforms, request.multi_platform, output.docker_media_types)?;
    }
    Ok(())
}

/// Which vertices make layers of an exported image.
pub(super) fn exported(plan: &Plan) -> Vec<bool> {
    let mut exported = vec![false; plan.graph.vertices.len()];
    for image in &plan.images {
        let mut at = Some(image.root);
        while let Some(id) = at {
            exported[id.0] = true;
            at = plan.graph.vertices[id.0].parent;
        }
    }
    exported
}

/// What exported layers are to be made into, if any.
pub(super) fn wanted(request: &BuildRequest, plan: &Plan) -> Option<Wanted> {
    if request.outputs.iter().any(is_packed) {
        return Some(Wanted::Packed(first_packing(request, plan)));
    }
    request.outputs.iter().any(|output| output.kind.is_image()).then_some(Wanted::DiffId)
}

/// How the first output wants its layers; plain where only the store keeps the image.
pub(super) fn first_packing(request: &BuildRequest, plan: &Plan) -> Packing {
    let packed = request.outputs.iter().find(|output| is_packed(output));
    packed.map_or(Packing { encoder: Encoder::None, clamp_secs: None }, |output| output.layers.packing(plan.source_date_epoch))
}

fn is_archive(output: &Output) -> bool {
    matches!(output.kind, OutputKind::Oci | OutputKind::Docker)
}

/// Whether an output needs packed layers: the store's image only where somebody said how they are packed.
fn is_packed(output: &Output) -> bool {
    is_archive(output) || output.push.is_some() || (output.kind == OutputKind::Store && output.layers != LayerOptions::default())
}

/// The annotations of an output: its own stand over those of the command line.
fn annotations(request: &BuildRequest, output: &Output) -> Annotations {
    let mut all = request.annotations.clone();
    all.extend(&output.annotations);
    all
}

/// Writes every output and keeps the image.
pub(super) fn write(
    request: &BuildRequest,
    services: Services<'_>,
    plan: &Plan,
    bases: &Bases<'_>,
    forms: &Forms<'_>,
    solved: &Solved,
) -> Result<BuildReport, BuildError> {
    let mut report = BuildReport { id: None, written: Vec::new(), names: Vec::new(), tally: solved.tally, record: BuildRecord::default() };
    let finishes = plan.images.iter().map(|planned| Finish { plan, planned, bases, forms, solved }).collect();
    let outputs = Outputs { request, services, forms, images: finishes };
    for output in &request.outputs {
        match output.kind {
            OutputKind::Local => outputs.task("exporting to client directory", |task| outputs.files(output, task))?,
            OutputKind::Tar => outputs.task("exporting to client tarball", |task| outputs.files(output, task))?,
            _ => {}
        }
    }
    let images: Vec<&Output> = request.outputs.iter().filter(|output| output.kind.is_image()).collect();
    let Some(first) = images.first() else { return Ok(report) };
    let names = names(request)?;
    report.names = names.iter().map(ToString::to_string).collect();
    // Of several platforms the index is what the result is known by, as in docker buildx; the store makes none.
    let known_by = |digest: &OciDigest, config: &OciDigest| if request.multi_platform { digest.clone() } else { config.clone() };
    let (mut kept, mut kept_id) = (None, None);
    for output in images.iter().filter(|output| is_archive(output)) {
        let what = if output.kind == OutputKind::Oci { "oci" } else { "docker" };
        let (exported, made) = outputs.task(&format!("exporting to {what} image format"), |task| outputs.archive(output, &names, task))?;
        let digest = exported.descriptor.digest.clone();
        report.id.get_or_insert_with(|| known_by(&digest, &exported.configs[0]));
        report.written.push(Written { digest, descriptor: Some(exported.descriptor) });
        // How an archive is packed says nothing of what a push of the image sends. Layers whose times were cut exist in that form only.
        if output.layers.packing(plan.source_date_epoch).clamp_secs.is_some() {
            kept.get_or_insert(made);
        }
    }
    let pushes = outputs.prepare_pushes(&names, &mut kept)?;
    // Beside an archive the store's image is an extra, which a store that cannot be written has to do without.
    let is_extra = images.iter().all(|output| is_archive(output) || output.push.is_some());
    if is_extra && services.store.is_read_only() && images.iter().any(|output| output.keep) {
        outputs.task("exporting to image", |task| {
            outputs.note(task, "not kept: the store is read-only");
            Ok(())
        })?;
    } else if images.iter().any(|output| output.keep) {
        let id = outputs.task("exporting to image", |task| outputs.keep(kept, first, &names, task))?;
        if report.written.is_empty() && pushes.is_empty() {
            report.written.push(Written { digest: id.clone(), descriptor: None });
        }
        kept_id = Some(id);
    }
    for push in pushes {
        let pushed = outputs.push(&push)?;
        report.id.get_or_insert_with(|| known_by(&pushed.digest, &push.configs[0]));
        report.names.extend(pushed.canonical);
        // What a registry has is what others will know the result by.
        report.written.insert(0, Written { digest: pushed.digest, descriptor: Some(pushed.descriptor) });
    }
    report.id = report.id.or(kept_id);
    Ok(report)
}

fn names(request: &BuildRequest) -> Result<Vec<Reference>, BuildError> {
    let mut names = request.tags.clone();
    for text in request.outputs.iter().flat_map(Output::own_names) {
        let parsed = Reference::parse(text).map_err(|source| ImageError::Reference { text: text.clone(), source })?;
        names.push(parsed);
    }
    let mut seen = Vec::new();
    for name in names.into_iter().map(Reference::with_default_tag) {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    Ok(seen)
}

/// The outputs of a build, with the images that they are made of.
struct Outputs<'a> {
    request: &'a BuildRequest,
    services: Services<'a>,
    forms: &'a Forms<'a>,
    /// One per platform, in the order that they were asked for.
    images: Vec<Finish<'a>>,
}

impl Outputs<'_> {
    /// Runs something under a line of its own in the display.
    fn task<T>(&self, name: &str, work: impl FnOnce(TaskId) -> Result<T, BuildError>) -> Result<T, BuildError> {
        let reporter = self.services.reporter;
        let (task, started) = (reporter.new_task(), Instant::now());
        reporter.report(Event::Started { task, name: name.to_owned() });
        let done = work(task);
        reporter.report(match &done {
            Ok(_) => Event::Done { task, elapsed: started.elapsed() },
            Err(error) => Event::Failed { task, error: error.to_string() },
        });
        done
    }

    fn note(&self, task: TaskId, text: impl Into<String>) {
        self.services.reporter.report(Event::Note { task, text: text.into() });
    }

    /// Which of the images the store's names mean: the one that runs here, else the first.
    fn native(&self) -> usize {
        let native = Platform::native();
        self.images.iter().position(|image| runs_on(&image.planned.platform, &native)).unwrap_or(0)
    }

    /// The files of the images: side by side in a folder for each platform, or all in one place.
    fn files(&self, output: &Output, task: TaskId) -> Result<(), BuildError> {
        let is_split = output.platform_split.unwrap_or(self.request.multi_platform);
        let parts: Vec<Part<'_>> = self
            .images
            .iter()
            .map(|image| {
                let platform = image.planned.platform.to_string();
                Part { directory: is_split.then(|| platform.replace('/', "_")), platform, snapshot: image.snapshot() }
            })
            .collect();
        let flat = Flat::new(self.forms, &parts, self.images[0].plan.source_date_epoch).map_err(failed)?;
        let mut stdout;
        let destination = match &output.destination {
            Place::Path(path) if output.kind == OutputKind::Local => Destination::Directory(path),
            Place::Path(path) => Destination::File(path),
            Place::Stdout | Place::None => {
                stdout = std::io::stdout().lock();
                Destination::Stream(&mut stdout)
            }
        };
        self.note(task, if output.kind == OutputKind::Local { "copying files" } else { "sending tarball" });
        let skipped = flat.with_contents(self.forms, |index, contents| write_files(index, contents, destination, output.mirror));
        for device in skipped.map_err(failed)?? {
            self.note(task, format!("skipped the device node /{}: making it needs root", String::from_utf8_lossy(&device)));
        }
        Ok(())
    }

    fn archive(&self, output: &Output, names: &[Reference], task: TaskId) -> Result<(Exported, Vec<Kept>), BuildError> {
        self.note(task, "exporting layers");
        let (one, kept) = self.exportable(output, names, false)?;
        let format = if output.kind == OutputKind::Oci { Format::Oci } else { Format::Docker };
        let types = if output.docker_media_types { MediaTypes::Docker } else { MediaTypes::Oci };
        let mut stdout;
        let destination = match &output.destination {
            Place::Path(path) if output.as_directory => Destination::Directory(path),
            Place::Path(path) => Destination::File(path),
            Place::Stdout | Place::None => {
                stdout = std::io::stdout().lock();
                Destination::Stream(&mut stdout)
            }
        };
        let written = export_all(self.services.store, &[one], format, types, destination)?;
        let exported = written.into_iter().next().expect("one image in, one out");
        for (manifest, config) in exported.manifests.iter().zip(&exported.configs) {
            self.note(task, format!("exporting manifest {manifest}"));
            self.note(task, format!("exporting config {config}"));
        }
        if self.request.multi_platform {
            self.note(task, format!("exporting manifest list {}", exported.descriptor.digest));
        }
        Ok((exported, kept))
    }

    /// The images as an output wants them, packed, `lazy` without the blobs of bases; joined by an index where several platforms are built.
    fn exportable(&self, output: &Output, names: &[Reference], lazy: bool) -> Result<(Exportable, Vec<Kept>), BuildError> {
        let annotations = annotations(self.request, output);
        let (mut images, mut kept) = (Vec::new(), Vec::new());
        for image in &self.images {
            let platform = &image.planned.platform;
            let (made, layers) = image.packed(&output.layers, lazy)?;
            // An archive takes it from here.
            if !self.services.store.is_read_only() {
                self.services.store.blobs().put(&made.config)?;
            }
            let one = ExportImage {
                names: names.to_vec(),
                config: made.config.clone(),
                layers,
                annotations: annotations.of(Annotated::Manifest, Some(platform)),
                descriptor_annotations: annotations.of(Annotated::ManifestDescriptor, Some(platform)),
                manifest: None,
            };
            images.push((platform.clone(), one));
            kept.push(made);
        }
        let one = if self.request.multi_platform {
            Exportable::Index(ExportIndex {
                names: names.to_vec(),
                images,
                annotations: annotations.of(Annotated::Index, None),
                descriptor_annotations: annotations.of(Annotated::IndexDescriptor, None),
            })
        } else {
            let (_, image) = images.into_iter().next().expect("a build has an image");
            Exportable::Image(Box::new(image))
        };
        Ok((one, kept))
    }

    /// Keeps the images in the store, with names or dangling; several belong together under the names of the one that runs here.
    /// Where no output packed them no layer is packed for it.
    fn keep(&self, kept: Option<Vec<Kept>>, output: &Output, names: &[Reference], task: TaskId) -> Result<OciDigest, BuildError> {
        let images = match kept {
            Some(kept) => kept,
            None if output.kind == OutputKind::Store && is_packed(output) => self.exportable(output, names, false)?.1,
            None => self.images.iter().map(Finish::unpacked).collect::<Result<_, _>>()?,
        };
        if !output.unpack {
            // Everything is known that a layer has to be read for.
            self.forms.tidy();
            self.forms.dismiss_worker();
        }
        let annotations = annotations(self.request, output);
        let ids: Vec<OciDigest> = images.iter().map(|image| OciDigest::sha256_of(&image.config)).collect();
        let native = self.native();
        for (number, (kept, image)) in images.into_iter().zip(&self.images).enumerate() {
            let platform = Some(&image.planned.platform);
            let built = Built {
                platforms: if self.request.multi_platform { ids.clone() } else { Vec::new() },
                annotations: annotations.of(Annotated::Manifest, platform),
                descriptor_annotations: annotations.of(Annotated::ManifestDescriptor, platform),
                index_annotations: annotations.of(Annotated::Index, None),
                index_descriptor_annotations: annotations.of(Annotated::IndexDescriptor, None),
                docker_media_types: output.docker_media_types,
            };
            let own_names = if number == native { names } else { &[] };
            let id = self.services.images.commit(own_names, &kept.config, kept.layers, built)?;
            self.note(task, format!("writing image {id}"));
            if output.unpack {
                self.forms.lowers(image.snapshot()).map_err(failed)?;
            }
        }
        for name in names {
            self.note(task, format!("naming to {name}"));
        }
        Ok(ids[native].clone())
    }
}

/// Whether a path is that of a file itself, so that it can be removed.
pub fn is_plain_file(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file())
}

/// Writes a small file of the request at once: `--iidfile`, `--metadata-file`.
pub fn write_file(path: &Path, content: &[u8]) -> Result<(), BuildError> {
    let written = std::fs::File::create(path).and_then(|mut file| file.write_all(content));
    written.map_err(|source| {
        // Whoever looks for the file must not find half of it. A device is left alone, and a link as well.
        if is_plain_file(path) {
            drop(std::fs::remove_file(path));
        }
        BuildError::Io { deed: "write", path: path.to_owned(), source }
    })
}
