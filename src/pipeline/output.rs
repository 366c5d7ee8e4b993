//! What a solved graph becomes: packed layers, config, the store's image, archives.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use shale_cache::{BlobRef, DiffId, ImageLayer, OciDigest};

use super::bases::Bases;
use super::{BuildError, BuildReport, Services};
use crate::cli::output::{Destination as Place, Output, OutputKind};
use crate::cli::request::BuildRequest;
use crate::execute::StepError;
use crate::execute::ahead::Wanted;
use crate::execute::forms::Forms;
use crate::export::{Destination, ExportImage, Exported, Format, MediaTypes, export};
use crate::image::ImageError;
use crate::image::assemble::{NewLayer, assemble};
use crate::layer::compress::Encoder;
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::plan::graph::{Op, Plan, PlannedImage};
use crate::solve::event::{Event, TaskId};
use crate::solve::snapshot::LayerRef;
use crate::solve::{Solved, reachable};
use crate::worker::Packing;

/// One archive that was written, or the store's image.
#[derive(Clone, Debug)]
pub struct Written {
    /// Digest of the manifest; of the config where only the store has the image.
    pub digest: OciDigest,
    /// The manifest's media type and size, where there is one.
    pub manifest: Option<(String, u64)>,
}

/// Refuses what no output can be, before anything runs for it.
pub(super) fn check(request: &BuildRequest, plan: &Plan) -> Result<(), BuildError> {
    for output in &request.outputs {
        let kind = match output.kind {
            OutputKind::Local => "local",
            OutputKind::Tar => "tar",
            OutputKind::Store | OutputKind::Oci | OutputKind::Docker | OutputKind::CacheOnly => continue,
        };
        return Err(BuildError::Unsupported { what: format!("output type={kind}") });
    }
    let needed = reachable(&plan.graph, &plan.images.iter().map(|image| image.root).collect::<Vec<_>>());
    let native = Platform::native();
    let mut runs = plan.graph.vertices.iter().zip(needed).filter(|(vertex, needed)| *needed && matches!(vertex.op, Op::Run(_)));
    if let Some((foreign, _)) = runs.find(|(vertex, _)| !native.can_run(&vertex.platform)) {
        return Err(BuildError::Unsupported { what: format!("RUN for {} on {native}", foreign.platform) });
    }
    let only_cache = request.outputs.iter().all(|output| output.kind == OutputKind::CacheOnly);
    match plan.images.len() {
        1 => Ok(()),
        _ if only_cache => Ok(()),
        _ => Err(BuildError::Unsupported { what: "an image for several platforms".into() }),
    }
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
    if request.outputs.iter().any(is_archive) {
        return Some(Wanted::Packed(first_packing(request, plan)));
    }
    request.outputs.iter().any(|output| output.kind != OutputKind::CacheOnly).then_some(Wanted::DiffId)
}

/// How the first output wants its layers; plain where only the store keeps the image.
pub(super) fn first_packing(request: &BuildRequest, plan: &Plan) -> Packing {
    let archive = request.outputs.iter().find(|output| is_archive(output));
    archive.map_or(Packing { encoder: Encoder::None, clamp_secs: None }, |output| packing(output, plan))
}

fn is_archive(output: &Output) -> bool {
    matches!(output.kind, OutputKind::Oci | OutputKind::Docker)
}

fn packing(output: &Output, plan: &Plan) -> Packing {
    output.layers.packing(plan.source_date_epoch)
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
    let mut report = BuildReport { id: None, written: Vec::new(), names: Vec::new(), tally: solved.tally };
    if request.outputs.iter().all(|output| output.kind == OutputKind::CacheOnly) {
        return Ok(report);
    }
    let [planned] = plan.images.as_slice() else { unreachable!("refused before anything ran") };
    let finish = Finish { services, plan, planned, bases, forms, solved };
    let names = names(request)?;
    report.names = names.iter().map(ToString::to_string).collect();
    let mut kept = None;
    for output in request.outputs.iter().filter(|output| is_archive(output)) {
        let what = if output.kind == OutputKind::Oci { "oci" } else { "docker" };
        let (exported, image) = finish.task(&format!("exporting to {what} image format"), |task| finish.archive(output, &names, task))?;
        report.written.push(Written {
            digest: exported.manifest.clone(),
            manifest: Some((exported.media_type.clone(), exported.manifest_size_bytes)),
        });
        kept.get_or_insert(image);
    }
    let id = finish.task("exporting to image", |task| finish.keep(kept, &names, task))?;
    if report.written.is_empty() {
        report.written.push(Written { digest: id.clone(), manifest: None });
    }
    report.id = Some(id);
    Ok(report)
}

fn names(request: &BuildRequest) -> Result<Vec<Reference>, BuildError> {
    let mut names = request.tags.clone();
    for text in request.outputs.iter().flat_map(|output| &output.names) {
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

/// The config of an image and its layers, ready for the store's record.
struct Kept {
    config: Vec<u8>,
    layers: Vec<ImageLayer>,
}

struct Finish<'a> {
    services: Services<'a>,
    plan: &'a Plan,
    planned: &'a PlannedImage,
    bases: &'a Bases<'a>,
    forms: &'a Forms<'a>,
    solved: &'a Solved,
}

impl Finish<'_> {
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

    fn layers(&self) -> &[LayerRef] {
        &self.solved.snapshot(self.planned.root).layers
    }

    /// The config, once the DiffID of every layer is known.
    fn config(&self, diff_ids: &[DiffId], epoch_secs: Option<i64>) -> Vec<u8> {
        let new = self.layers().iter().zip(diff_ids).filter_map(|(layer, diff_id)| match layer {
            LayerRef::Own { created, .. } => Some(NewLayer { diff_id: diff_id.clone(), created: *created }),
            LayerRef::Base { .. } => None,
        });
        let new: Vec<NewLayer> = new.collect();
        assemble(self.planned, &new, epoch_secs).to_json()
    }

    fn archive(&self, output: &Output, names: &[Reference], task: TaskId) -> Result<(Exported, Kept), BuildError> {
        let packing = packing(output, self.plan);
        self.note(task, "exporting layers");
        let packed = self.packed(packing)?;
        let diff_ids: Vec<DiffId> = packed.iter().map(|layer| layer.diff_id.clone()).collect();
        let config = self.config(&diff_ids, self.plan.source_date_epoch);
        let image =
            ExportImage { names: names.to_vec(), config: config.clone(), layers: packed, annotations: BTreeMap::new(), manifest: None };
        let layers = self.image_layers(&image.layers)?;
        self.services.store.blobs().put(&config)?;
        let format = if output.kind == OutputKind::Oci { Format::Oci } else { Format::Docker };
        let mut stdout;
        let destination = match &output.destination {
            Place::Path(path) if output.as_directory => Destination::Directory(path),
            Place::Path(path) => Destination::File(path),
            Place::Stdout | Place::None => {
                stdout = std::io::stdout().lock();
                Destination::Stream(&mut stdout)
            }
        };
        let written = export(self.services.store, &[image], format, MediaTypes::Oci, destination)?;
        let exported = written.into_iter().next().expect("one image in, one out");
        self.note(task, format!("exporting manifest {}", exported.manifest));
        self.note(task, format!("exporting config {}", exported.config));
        Ok((exported, Kept { config, layers }))
    }

    /// Every layer as a blob; those that are not packed yet are packed side by side.
    fn packed(&self, packing: Packing) -> Result<Vec<shale_cache::Packed>, BuildError> {
        let layers = self.layers();
        let packed: Vec<Result<shale_cache::Packed, StepError>> = std::thread::scope(|scope| {
            let handles: Vec<_> = layers.iter().map(|layer| scope.spawn(move || self.forms.packed(layer, packing))).collect();
            handles.into_iter().map(|handle| handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        packed.into_iter().collect::<Result<_, _>>().map_err(Self::failed)
    }

    fn image_layers(&self, packed: &[shale_cache::Packed]) -> Result<Vec<ImageLayer>, BuildError> {
        let one = |(layer, packed): (&LayerRef, &shale_cache::Packed)| {
            let own = match layer {
                LayerRef::Own { layer, .. } => Some(*layer),
                LayerRef::Base { diff_id, .. } => self.services.store.layers().by_diff(diff_id)?,
            };
            let blob = BlobRef { digest: packed.blob.clone(), size_bytes: packed.size_bytes, media_type: packed.media_type.clone() };
            Ok(ImageLayer { diff_id: packed.diff_id.clone(), layer: own, blob: Some(blob) })
        };
        self.layers().iter().zip(packed).map(one).collect()
    }

    /// Keeps the image in the store, with names or dangling. Where no archive was written no layer is packed for it: the image id
    /// needs the DiffIDs alone.
    fn keep(&self, kept: Option<Kept>, names: &[Reference], task: TaskId) -> Result<OciDigest, BuildError> {
        let Kept { config, layers } = match kept {
            Some(kept) => kept,
            None => self.unpacked_image()?,
        };
        let id = self.services.images.commit(names, &config, layers)?;
        self.note(task, format!("writing image {id}"));
        for name in names {
            self.note(task, format!("naming to {name}"));
        }
        Ok(id)
    }

    fn unpacked_image(&self) -> Result<Kept, BuildError> {
        let mut layers = Vec::new();
        for layer in self.layers() {
            let diff_id = self.forms.diff_id(layer, None).map_err(Self::failed)?;
            layers.push(match layer {
                LayerRef::Own { layer, .. } => ImageLayer { diff_id, layer: Some(*layer), blob: None },
                LayerRef::Base { image, number, .. } => self.bases.images()[image.0].layers[*number].clone(),
            });
        }
        let diff_ids: Vec<DiffId> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
        Ok(Kept { config: self.config(&diff_ids, self.plan.source_date_epoch), layers })
    }

    fn failed(cause: StepError) -> BuildError {
        match cause {
            StepError::Cancelled => BuildError::Cancelled,
            cause => BuildError::Step { at: None, name: "exporting layers".into(), cause },
        }
    }
}

/// Writes a small file of the request at once: `--iidfile`, `--metadata-file`.
pub fn write_file(path: &Path, content: &[u8]) -> Result<(), BuildError> {
    let written = std::fs::File::create(path).and_then(|mut file| file.write_all(content));
    written.map_err(|source| BuildError::Io { deed: "write", path: path.to_owned(), source })
}
