//! `shale manifest`: lists of the manifests of several platforms, made piece by piece and pushed as one, as Docker's client does.

use crate::image::{DraftError, Drafts, ImageError, ImageService, Remote};
use crate::oci::list::{Member, MemberError, indented, is_known_platform, list_json};
use crate::oci::manifest::{Descriptor, Document};
use crate::oci::reference::Reference;
use crate::source::registry::RegistryError;
use serde::Serialize;
use shale_cache::Lease;

use super::Failure;
use super::args::{
    AnnotateManifestArgs, CreateManifestArgs, InspectManifestArgs, ManifestCommand, PushManifestArgs, RegistryArgs, RemoveManifestArgs,
};
use super::console::{print, say};
use super::diagnostic::Diagnostic;
use super::environment::Environment;
use super::registry::{RegistryNotes, images};
use super::request::docker_config_file;

/// The folder of lists beside Docker's `config.json`.
const FOLDER: &str = "manifests";

/// Runs one of the commands.
pub fn run(command: &ManifestCommand, environment: &Environment) -> Result<(), Failure> {
    let home = docker_config_file(environment).map(|file| file.with_file_name(FOLDER));
    let drafts = Drafts::new(home.ok_or_else(|| Diagnostic::new("HOME and DOCKER_CONFIG are not set: there is no place for a list"))?);
    match command {
        ManifestCommand::Annotate(args) => annotate(args, &drafts),
        ManifestCommand::Create(args) => create(args, &drafts, environment),
        ManifestCommand::Inspect(args) => inspect(args, &drafts, environment),
        ManifestCommand::Push(args) => push(args, &drafts, environment),
        ManifestCommand::Rm(args) => remove(args, &drafts, environment),
    }
}

fn parsed(text: &str, deed: &str) -> Result<Reference, Failure> {
    let parsed = Reference::parse(text).map(Reference::with_default_tag);
    Ok(parsed.map_err(|error| Diagnostic::new(format!("{deed}{error}")))?)
}

fn draft_failure(error: &DraftError) -> Failure {
    Diagnostic::of(error).into()
}

fn member_failure(error: &MemberError) -> Failure {
    Diagnostic::of(error).into()
}

/// Docker's client talks to the registry itself: nothing of it comes from a daemon.
fn remote_failure(error: &ImageError) -> Failure {
    match error {
        ImageError::Registry(RegistryError::NotFound { reference, .. }) => Diagnostic::new(format!("no such manifest: {reference}")).into(),
        ImageError::Registry(error) => super::registry::registry_failure(error),
        error => Diagnostic::of(error).into(),
    }
}

/// The registries, of which those of `names` are trusted blindly if the user says so.
fn service(
    registry: &RegistryArgs,
    insecure: bool,
    names: &[&Reference],
    environment: &Environment,
) -> Result<(ImageService, Lease), Failure> {
    let mut registry = registry.clone();
    if insecure {
        registry.insecure_hosts.extend(names.iter().map(|name| name.domain().to_owned()));
    }
    images(environment, &registry)
}

fn create(args: &CreateManifestArgs, drafts: &Drafts, environment: &Environment) -> Result<(), Failure> {
    let list = parsed(&args.list, &format!("error parsing name for manifest list {}: ", args.list))?;
    match drafts.list(&list) {
        Err(DraftError::NotFound { .. }) => {}
        Err(error) => return Err(draft_failure(&error)),
        Ok(_) if args.amend => {}
        Ok(_) => return Err(Diagnostic::new("refusing to amend an existing manifest list with no --amend flag").into()),
    }
    for text in &args.members {
        let name = parsed(text, "")?;
        // What was annotated stays so when it is added again.
        let kept = drafts.member(&list, &name).map_err(|error| draft_failure(&error))?.filter(|member| member.content().is_ok());
        let member = if let Some(member) = kept {
            member
        } else {
            let (service, _lease) = service(&args.registry, args.insecure, &[&name], environment)?;
            fetched(&service, &name)?
        };
        drafts.put(&list, &name, &member).map_err(|error| draft_failure(&error))?;
    }
    print(format!("Created manifest list {list}\n"))
}

/// A manifest of a registry with the platform that its config names.
fn fetched(service: &ImageService, name: &Reference) -> Result<Member, Failure> {
    let found = service.remote(name, &RegistryNotes).map_err(|error| remote_failure(&error))?;
    member_of(service, found)
}

fn member_of(service: &ImageService, found: Remote) -> Result<Member, Failure> {
    let name = found.reference.to_string();
    let Document::Manifest(manifest) = found.document else {
        return Err(Diagnostic::new(format!("{name} is a manifest list")).into());
    };
    let platform = service.remote_platform(&found.reference, &manifest, &RegistryNotes).map_err(|error| remote_failure(&error))?;
    let descriptor = Descriptor { platform: Some(platform), ..found.descriptor };
    Ok(Member::new(&name, descriptor, *manifest, &found.bytes))
}

fn annotate(args: &AnnotateManifestArgs, drafts: &Drafts) -> Result<(), Failure> {
    let list = parsed(&args.list, &format!("annotate: error parsing name for manifest list {}: ", args.list))?;
    let name = parsed(&args.member, &format!("annotate: error parsing name for manifest {}: ", args.member))?;
    let missing = || Diagnostic::new(format!("manifest for image {} does not exist in {}", args.member, args.list));
    let mut member = drafts.member(&list, &name).map_err(|error| draft_failure(&error))?.ok_or_else(missing)?;
    let mut platform = member.descriptor.platform.take().unwrap_or_default();
    for (field, new) in [(&mut platform.os, &args.os), (&mut platform.architecture, &args.arch)] {
        if !new.is_empty() {
            field.clone_from(new);
        }
    }
    for (field, new) in [(&mut platform.variant, &args.variant), (&mut platform.os_version, &args.os_version)] {
        if let Some(new) = new.as_ref().filter(|new| !new.is_empty()) {
            field.clone_from(new);
        }
    }
    for feature in &args.os_features {
        if !platform.os_features.contains(feature) {
            platform.os_features.push(feature.clone());
        }
    }
    if !is_known_platform(&platform) {
        let text = format!("manifest entry for image has unsupported os/arch combination: {}/{}", args.os, args.arch);
        return Err(Diagnostic::new(text).into());
    }
    member.descriptor.platform = Some(platform);
    drafts.put(&list, &name, &member).map_err(|error| draft_failure(&error))
}

/// A list's members must be in the registry that gets the list.
fn check_registry(member: &str, target: &Reference, deed: &str) -> Result<Reference, Failure> {
    let name = parsed(member, "")?;
    if name.domain() == target.domain() {
        return Ok(name);
    }
    let (own, wanted) = (name.domain(), target.domain());
    let text = format!("{deed}cannot use source images from a different registry than the target image: {own} != {wanted}");
    Err(Diagnostic::new(text).into())
}

fn push(args: &PushManifestArgs, drafts: &Drafts, environment: &Environment) -> Result<(), Failure> {
    let target = parsed(&args.list, "")?;
    let members = drafts.list(&target).map_err(|error| draft_failure(&error))?;
    if members.is_empty() {
        return Err(Diagnostic::new(format!("{target} not found")).into());
    }
    let mut foreign = Vec::new();
    for member in &members {
        let is_placed = member.descriptor.platform.as_ref().is_some_and(|p| !p.os.is_empty() && !p.architecture.is_empty());
        if !is_placed {
            let text = format!("manifest {} must have an OS and Architecture to be pushed to a registry", member.r#ref);
            return Err(Diagnostic::new(text).into());
        }
        let name = check_registry(&member.r#ref, &target, "")?;
        if name.path() != target.path() {
            foreign.push((name, member, member.content().map_err(|error| member_failure(&error))?));
        }
    }
    let (service, _lease) = service(&args.registry, args.insecure, &[&target], environment)?;
    let home = service.home(&target).map_err(|error| remote_failure(&error))?;
    for (name, _, (_, manifest)) in &foreign {
        service.copy_blobs(name, manifest, &target, &RegistryNotes).map_err(|error| remote_failure(&error))?;
    }
    for (_, member, (bytes, _)) in &foreign {
        let Descriptor { digest, media_type, .. } = &member.descriptor;
        let pushed = service.send_manifest(&home, digest.as_str(), bytes, media_type, &RegistryNotes);
        pushed.map_err(|error| remote_failure(&error))?;
        print(format!("Pushed ref {} with digest: {digest}\n", target.at_digest(digest)))?;
    }
    let (media_type, bytes) = list_json(&descriptors(&members));
    let name = target.digest().map_or_else(|| target.tag().unwrap_or_default().to_owned(), ToString::to_string);
    let pushed = service.send_manifest(&home, &name, &bytes, media_type, &RegistryNotes).map_err(|error| remote_failure(&error))?;
    print(format!("{}\n", pushed.digest))?;
    if args.purge {
        drafts.remove(&target).map_err(|error| draft_failure(&error))?;
    }
    Ok(())
}

fn descriptors(members: &[Member]) -> Vec<Descriptor> {
    members.iter().map(|member| member.descriptor.clone()).collect()
}

fn inspect(args: &InspectManifestArgs, drafts: &Drafts, environment: &Environment) -> Result<(), Failure> {
    let name = parsed(args.names.last().map_or("", String::as_str), "")?;
    if let [list, _] = &args.names[..] {
        let list = parsed(list, "")?;
        let member = drafts.member(&list, &name).map_err(|error| draft_failure(&error))?;
        let member = member.ok_or_else(|| draft_failure(&DraftError::NotFound { name: name.to_string() }))?;
        let bytes = member.content().map_err(|error| member_failure(&error))?.0;
        return show(args.verbose, &member, &bytes);
    }
    match drafts.list(&name) {
        Ok(members) => {
            for member in &members {
                check_registry(&member.r#ref, &name, "failed to assemble ManifestDescriptor: ")?;
            }
            return if args.verbose { print_tabbed(&members) } else { print_list(&descriptors(&members)) };
        }
        Err(DraftError::NotFound { .. }) => {}
        Err(error) => return Err(draft_failure(&error)),
    }
    let (service, _lease) = service(&args.registry, args.insecure, &[&name], environment)?;
    let found = service.remote(&name, &RegistryNotes).map_err(|error| remote_failure(&error))?;
    match &found.document {
        Document::Manifest(_) => {
            let bytes = found.bytes.clone();
            show(args.verbose, &member_of(&service, found)?, &bytes)
        }
        Document::Index(index) if !args.verbose => print_list(&index.manifests),
        Document::Index(index) => {
            let mut members = Vec::new();
            for entry in &index.manifests {
                let by_digest = name.with_digest(&entry.digest);
                let found = service.remote(&by_digest, &RegistryNotes).map_err(|error| remote_failure(&error))?;
                let Document::Manifest(manifest) = found.document else { continue };
                members.push(Member::new(&by_digest.to_string(), entry.clone(), *manifest, &found.bytes));
            }
            print_tabbed(&members)
        }
    }
}

/// One manifest: what it says, or all that is known about it.
fn show(verbose: bool, member: &Member, bytes: &[u8]) -> Result<(), Failure> {
    if verbose {
        return print_tabbed(member);
    }
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|error| Diagnostic::of(&error))?;
    print_tabbed(&value)
}

fn print_tabbed(value: &impl Serialize) -> Result<(), Failure> {
    let mut text = indented(value, "\t");
    text.push(b'\n');
    print(text)
}

fn print_list(members: &[Descriptor]) -> Result<(), Failure> {
    let mut text = list_json(members).1;
    text.push(b'\n');
    print(text)
}

/// Removes what it can and tells of the rest.
fn remove(args: &RemoveManifestArgs, drafts: &Drafts, environment: &Environment) -> Result<(), Failure> {
    let mut is_whole = true;
    for text in &args.lists {
        let removed = parsed(text, "").and_then(|list| {
            drafts.list(&list).map_err(|error| draft_failure(&error))?;
            drafts.remove(&list).map_err(|error| draft_failure(&error))
        });
        if let Err(Failure::Shown(diagnostic)) = removed {
            say(&diagnostic.render_as(environment.program));
            is_whole = false;
        }
    }
    if is_whole { Ok(()) } else { Err(Failure::Told) }
}
