//! The stub layer: what a step has mounted upon, and the files that it finds there, as the bottom-most of its lower layers.
//!
//! Nothing of it gets into the upper directory, and no step can change it: files are bound read-only, and what lies in a lower layer is
//! never written. So the steps of a build that want the same stub share one, which is made by the first of them.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::mounts::BoundFile;
use super::spec::{MountSource, RunRequest, StepMount};
use super::targets::{self, Shape};
use super::{Deed, Failure};

/// A file of the stub: absolute path in the step, content, mode.
type StubFile<'a> = (&'a str, &'a [u8], u32);

/// The stub of a step, and the files in it that are bound over what the image has at their paths.
pub(super) fn prepare(request: &RunRequest) -> Result<(PathBuf, Vec<BoundFile>), Failure> {
    let hosts = hosts(request);
    let mut files: Vec<StubFile<'_>> =
        request.files.iter().map(|(path, content, mode)| (path.as_str(), content.as_slice(), *mode)).collect();
    files.push(("/etc/resolv.conf", request.resolv_conf.as_bytes(), targets::FILE_MODE));
    files.push(("/etc/hosts", hosts.as_bytes(), targets::FILE_MODE));
    let stub = request.stubs.join(name(request, &files));
    if !stub.exists() {
        // Another step may be making the same one: the first to give it its name wins.
        let fresh = request.tmp.join("stub");
        fill(&fresh, request, &files)?;
        match renameat_with(CWD, &fresh, CWD, &stub, RenameFlags::NOREPLACE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(Failure::call("make the stub layer", Some(&stub), error)),
        }
    }
    let bound = files.into_iter().map(|(target, _, mode)| BoundFile {
        source: targets::inside(&stub, target),
        target: target.to_owned(),
        executable: mode & 0o111 != 0,
    });
    let bound = bound.collect();
    Ok((stub, bound))
}

/// The same name for the same stub.
fn name(request: &RunRequest, files: &[StubFile<'_>]) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut add = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    };
    for (path, content, mode) in files {
        add(path.as_bytes());
        add(content);
        add(&mode.to_le_bytes());
    }
    for mount in &request.mounts {
        add(mount.target.as_bytes());
        add(&[u8::from(mount.is_file), u8::from(is_tmpfs(mount))]);
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

fn is_tmpfs(mount: &StepMount) -> bool {
    matches!(mount.source, MountSource::Tmpfs { .. })
}

fn fill(stub: &Path, request: &RunRequest, files: &[StubFile<'_>]) -> Result<(), Failure> {
    fs::DirBuilder::new().mode(0o755).create(stub).deed_on("make the directory", stub)?;
    for path in ["/proc", "/dev", "/sys"] {
        targets::make_stub(stub, path, Shape::Dir)?;
    }
    // A file is a mount point for itself.
    for (target, content, mode) in files {
        let source = targets::make_stub(stub, target, Shape::File)?;
        fs::write(&source, content).deed_on("write", &source)?;
        if *mode != targets::FILE_MODE {
            fs::set_permissions(&source, fs::Permissions::from_mode(*mode)).deed_on("set the mode of", &source)?;
        }
    }
    for mount in &request.mounts {
        let place = targets::make_stub(stub, &mount.target, if mount.is_file { Shape::File } else { Shape::Dir })?;
        if is_tmpfs(mount) {
            // A directory of the image at this place shows its own.
            fs::set_permissions(&place, fs::Permissions::from_mode(targets::TMPFS_MODE)).deed_on("set the mode of", &place)?;
        }
    }
    Ok(())
}

fn hosts(request: &RunRequest) -> String {
    let mut text = request.hosts.clone();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    for (name, address) in &request.add_hosts {
        writeln!(text, "{address}\t{name}").expect("a String takes everything");
    }
    text
}
