//! Puts files on disk: a layer as an overlay lower, with whiteouts as devices 0:0 and opaque directories by attribute, which is
//! the worker's to do unless all of it is plainly root's; or the files of an image into a directory of the caller's (`type=local`).
//!
//! Every path is made relative to an open directory and no link is ever followed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::num::NonZero;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod, fchown, fsetxattr,
    futimens, linkat, makedev, mkdirat, mknodat, openat, openat2, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use super::contents::{Contents, Gathered, unopened};
use super::hashing::Hashing;
use super::read::Sink;
use super::{LayerError, shown};
use crate::tree::entry::{Entry, Kind, Mtime, file_name, parent};
use crate::tree::index::Index;
use crate::tree::walk::{Options, WalkError, walk};

/// The attribute by which overlay knows an opaque directory in a user namespace.
pub const OPAQUE_XATTR: &str = "user.overlay.opaque";

/// More threads than this wait for each other in the kernel, and each has files open.
const MOST_WRITERS: usize = 8;
/// Bytes copied at once.
const COPY_BYTES: usize = 128 << 10;

/// Writes entries below a directory.
#[derive(Debug)]
pub struct Unpacker {
    root: OwnedFd,
    /// The directory of the entry before, since neighbours mostly share it.
    last_dir: Option<(Vec<u8>, OwnedFd)>,
    buffer: Vec<u8>,
    owners: Owners,
    /// Device nodes that the kernel did not let us make, for one note.
    pub skipped_devices: Vec<Vec<u8>>,
}

/// Whose the files come to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owners {
    /// As their entries say.
    Entries,
    /// Root's, as whom the steps know the caller: see [`needs_worker`].
    Root,
    /// The caller's, who need not be root: no owner is set, and directories stay writable until all is in them.
    Caller,
}

impl Unpacker {
    /// Writes below an open, empty directory.
    pub fn new(root: OwnedFd) -> Self {
        Self { root, last_dir: None, buffer: vec![0; COPY_BYTES], owners: Owners::Entries, skipped_devices: Vec::new() }
    }

    /// The same for the calling user, if no entry of the layer needs more than that: see [`needs_worker`].
    pub fn for_root_of_steps(root: OwnedFd) -> Self {
        Self { owners: Owners::Root, ..Self::new(root) }
    }

    /// Writes the caller's own files below an open directory that may hold others: those of the same path are replaced, directories
    /// joined.
    pub fn for_caller(root: OwnedFd) -> Self {
        Self { owners: Owners::Caller, ..Self::new(root) }
    }

    /// The open directory that holds `path`.
    fn dir_of(&mut self, path: &[u8]) -> io::Result<BorrowedFd<'_>> {
        let dir = parent(path);
        if dir.is_empty() {
            return Ok(self.root.as_fd());
        }
        if self.last_dir.as_ref().is_none_or(|(last, _)| last != dir) {
            self.last_dir = Some((dir.to_vec(), open_dir(&self.root, dir)?));
        }
        Ok(self.last_dir.as_ref().map(|(_, fd)| fd.as_fd()).expect("just set"))
    }

    /// Removes what an earlier member left at the path, unless both are directories.
    fn clear(&mut self, entry: &Entry) -> io::Result<()> {
        let is_dir = entry.is_dir();
        let dir = self.dir_of(&entry.path)?;
        match unlinkat(dir, file_name(&entry.path), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) if is_dir => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => match unlinkat(dir, file_name(&entry.path), AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY) => {
                    self.last_dir = None;
                    remove_below(&self.root, &entry.path, &|_| true)
                }
                other => Ok(other?),
            },
            Err(error) => Err(error.into()),
        }
    }

    fn make_file(&mut self, entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let name = file_name(&entry.path);
        let fd = match openat(self.dir_of(&entry.path)?, name, flags, Mode::RUSR | Mode::WUSR) {
            Err(Errno::EXIST) => {
                self.clear(entry)?;
                openat(self.dir_of(&entry.path)?, name, flags, Mode::RUSR | Mode::WUSR)?
            }
            other => other?,
        };
        let mut file = File::from(fd);
        copy(content, &mut file, &mut self.buffer)?;
        self.set_metadata(&file, entry)?;
        Ok(futimens(&file, &times(entry.mtime))?)
    }

    /// Gives a file of another unpacked layer one more name. False where that cannot be: the file system has a limit of names.
    fn share(&mut self, entry: &Entry, contents: &dyn Contents) -> Result<bool, LayerError> {
        let Some(from) = contents.shared(entry) else { return Ok(false) };
        let mut linked = || {
            let from = if parent(&entry.path).is_empty() { from.try_clone_to_owned()? } else { open_dir(from, parent(&entry.path))? };
            let name = file_name(&entry.path);
            match linkat(&from, name, self.dir_of(&entry.path)?, name, AtFlags::empty()) {
                Ok(()) => Ok(true),
                Err(Errno::MLINK | Errno::XDEV | Errno::PERM) => Ok(false),
                Err(error) => Err(error.into()),
            }
        };
        linked().map_err(LayerError::io("share", shown(&entry.path)))
    }

    fn make_other(&mut self, entry: &Entry) -> io::Result<()> {
        let name = file_name(&entry.path).to_vec();
        if entry.is_dir() {
            return self.make_dir(entry, &name);
        }
        self.clear(entry)?;
        let dir = self.dir_of(&entry.path)?;
        match &entry.kind {
            Kind::Whiteout => return Ok(mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), makedev(0, 0))?),
            Kind::Symlink { target } => symlinkat(target.as_slice(), dir, &name)?,
            Kind::Fifo => mknodat(dir, &name, FileType::Fifo, Mode::RUSR, 0)?,
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                let kind = if matches!(entry.kind, Kind::CharDevice { .. }) { FileType::CharacterDevice } else { FileType::BlockDevice };
                match mknodat(dir, &name, kind, Mode::RUSR, makedev(*major, *minor)) {
                    Err(Errno::PERM) => {
                        self.skipped_devices.push(entry.path.clone());
                        return Ok(());
                    }
                    other => other?,
                }
            }
            Kind::Dir | Kind::File { .. } => unreachable!("made elsewhere"),
        }
        if let Some((uid, gid)) = self.owner(entry) {
            let dir = self.dir_of(&entry.path)?;
            chownat(dir, &name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(|error| unowned(error, entry))?;
        }
        let dir = self.dir_of(&entry.path)?;
        if !matches!(entry.kind, Kind::Symlink { .. }) {
            rustix::fs::chmodat(dir, &name, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
        }
        Ok(utimensat(dir, &name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Whom a file is given to. Even what we make need not be ours: a directory can hand its group down.
    fn owner(&self, entry: &Entry) -> Option<(Uid, Gid)> {
        match self.owners {
            Owners::Entries => Some((Uid::from_raw(entry.uid), Gid::from_raw(entry.gid))),
            Owners::Root => Some((geteuid(), getegid())),
            Owners::Caller => None,
        }
    }

    /// Owner before mode, since a change of owner clears setuid; attributes last, since it clears capabilities too.
    fn set_metadata(&self, fd: impl AsFd, entry: &Entry) -> io::Result<()> {
        if let Some((uid, gid)) = self.owner(entry) {
            fchown(&fd, Some(uid), Some(gid)).map_err(|error| unowned(error, entry))?;
        }
        fchmod(&fd, Mode::from_raw_mode(entry.mode))?;
        for (name, value) in &entry.xattrs {
            match fsetxattr(&fd, name.as_slice(), value, XattrFlags::empty()) {
                // A file system without attributes keeps what it can.
                Ok(()) | Err(Errno::NOTSUP) => {}
                // Capabilities are root's to give.
                Err(Errno::PERM) if self.owners == Owners::Caller => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn make_dir(&mut self, entry: &Entry, name: &[u8]) -> io::Result<()> {
        let dir = self.dir_of(&entry.path)?;
        match mkdirat(dir, name, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                self.clear(entry)?;
                match mkdirat(self.dir_of(&entry.path)?, name, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error.into()),
        }
        if self.owners == Owners::Caller {
            return make_accessible(&self.root, &entry.path);
        }
        let fd = open_dir(&self.root, &entry.path)?;
        self.set_metadata(&fd, entry)?;
        if entry.opaque {
            fsetxattr(&fd, OPAQUE_XATTR, b"y", XattrFlags::empty())?;
        }
        Ok(())
    }
}

/// Writes an index with its contents below an open, empty directory: the unpacked form.
pub fn write_dir(index: &Index, contents: &mut dyn Contents, root: OwnedFd) -> Result<(), LayerError> {
    write_with(&mut Unpacker::new(root), index, contents)
}

/// Writes the files of an index below an open directory as the caller's own. What else the directory holds stays, unless `mirror`
/// is set: then it holds nothing else afterwards. Returns the device nodes that the kernel did not let us make.
pub fn write_for_caller(index: &Index, contents: &mut dyn Contents, root: OwnedFd, mirror: bool) -> Result<Vec<Vec<u8>>, LayerError> {
    let mut unpacker = Unpacker::for_caller(root);
    write_with(&mut unpacker, index, contents)?;
    if mirror {
        let removed = remove_below(&unpacker.root, b"", &|path| index.find(path).is_none());
        removed.map_err(LayerError::io("remove what is not in the result from", shown(b".")))?;
    }
    Ok(unpacker.skipped_devices)
}

fn write_with(unpacker: &mut Unpacker, index: &Index, contents: &mut dyn Contents) -> Result<(), LayerError> {
    for entry in index.iter() {
        match &entry.kind {
            Kind::File { hardlink: Some(first), .. } => unpacker.link(&entry.path, first)?,
            Kind::File { hardlink: None, .. } if unpacker.share(&entry, contents)? => {}
            Kind::File { hardlink: None, .. } => write_file(unpacker, &entry, contents.open(&entry))?,
            _ => unpacker.other(&entry)?,
        }
    }
    unpacker.end(index)
}

/// Whether only the worker can make the unpacked form of a layer.
pub fn needs_worker<'a>(mut entries: impl Iterator<Item = &'a Entry>) -> bool {
    !entries.all(needs_no_worker)
}

/// Whether the user whom the steps know as root can make an entry of an unpacked layer without privileges and without a user namespace:
/// it is root's, has no attributes, which may be capabilities, and lets its owner make files in it.
fn needs_no_worker(entry: &Entry) -> bool {
    let is_plain = match entry.kind {
        Kind::Dir => !entry.opaque && entry.mode & 0o700 == 0o700,
        Kind::File { .. } | Kind::Symlink { .. } => true,
        _ => false,
    };
    is_plain && entry.xattrs.is_empty() && (entry.uid, entry.gid) == (0, 0)
}

/// As [`write_dir`], files by all cores: to make one costs the kernel more than to read it. All of a directory are made by one thread, in the
/// index's order: on some file systems a listing tells the order in which they were made.
pub fn write_gathered(unpacker: &mut Unpacker, index: &Index, contents: &Gathered) -> Result<(), LayerError> {
    let (mut directories, mut links) = (Directories::default(), Vec::new());
    for (number, entry) in index.iter().enumerate() {
        match entry.kind {
            Kind::File { hardlink: None, .. } => directories.add(index, number),
            Kind::File { hardlink: Some(first), .. } => links.push((entry.path, first)),
            _ => unpacker.other(&entry)?,
        }
    }
    let (directories, next) = (directories.files, AtomicUsize::new(0));
    let write = |unpacker: &mut Unpacker| {
        while let Some(files) = directories.get(next.fetch_add(1, Ordering::Relaxed)) {
            for number in files {
                let entry = index.entry(*number);
                // The others end their directories and begin no more.
                let stop = |error| {
                    next.store(directories.len(), Ordering::Relaxed);
                    (*number, error)
                };
                write_file(unpacker, &entry, contents.open_any(&entry)).map_err(stop)?;
            }
        }
        Ok(())
    };
    let failed = thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(MOST_WRITERS).min(directories.len());
        // Without one of the threads the others have more to do.
        let others: Vec<_> = (1..threads)
            .filter_map(|_| {
                let mut own = Unpacker { owners: unpacker.owners, ..Unpacker::new(unpacker.root.try_clone().ok()?) };
                thread::Builder::new().spawn_scoped(scope, move || write(&mut own)).ok()
            })
            .collect();
        let own = write(unpacker);
        let ended = others.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        ended.chain([own]).filter_map(Result::err).min_by_key(|(number, _)| *number)
    });
    if let Some((_, error)) = failed {
        return Err(error);
    }
    for (path, first) in links {
        unpacker.link(&path, &first)?;
    }
    unpacker.end(index)
}

/// The files of an index by the directories that they lie in.
#[derive(Default)]
struct Directories<'a> {
    files: Vec<Vec<usize>>,
    numbers: HashMap<&'a [u8], usize>,
}

impl<'a> Directories<'a> {
    fn add(&mut self, index: &'a Index, file: usize) {
        let number = *self.numbers.entry(parent(index.path(file))).or_insert(self.files.len());
        if number == self.files.len() {
            self.files.push(Vec::new());
        }
        self.files[number].push(file);
    }
}

/// Writes one file, if its content is what the entry says.
fn write_file(unpacker: &mut Unpacker, entry: &Entry, source: io::Result<Box<dyn Read + '_>>) -> Result<(), LayerError> {
    let Kind::File { size, digest, .. } = &entry.kind else { unreachable!("the caller has looked") };
    let source = source.map_err(unopened(entry))?;
    let mut source = Hashing::new(source);
    unpacker.file(entry, &mut source)?;
    if source.read_so_far() != (*digest, *size) {
        return Err(LayerError::Changed { path: shown(&entry.path) });
    }
    Ok(())
}

impl Sink for Unpacker {
    fn file(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), LayerError> {
        self.make_file(entry, content).map_err(LayerError::io("unpack", shown(&entry.path)))
    }

    fn link(&mut self, path: &[u8], existing: &[u8]) -> Result<(), LayerError> {
        let made = (|| {
            let from = if parent(existing).is_empty() { None } else { Some(open_dir(&self.root, parent(existing))?) };
            let from = from.as_ref().map_or(self.root.as_fd(), AsFd::as_fd).try_clone_to_owned()?;
            let placeholder = Entry::whiteout(path);
            self.clear(&placeholder)?;
            let dir = self.dir_of(path)?;
            Ok(linkat(&from, file_name(existing), dir, file_name(path), AtFlags::empty())?)
        })();
        made.map_err(LayerError::io("unpack the hardlink", shown(path)))
    }

    fn other(&mut self, entry: &Entry) -> Result<(), LayerError> {
        self.make_other(entry).map_err(LayerError::io("unpack", shown(&entry.path)))
    }

    /// Directories get their times last: making their children changed them.
    fn end(&mut self, index: &Index) -> Result<(), LayerError> {
        // The deepest first: a directory may come to be closed to its owner.
        for entry in (0..index.len()).rev().filter(|i| index.is_dir(*i)).map(|i| index.entry(i)) {
            let made = (|| {
                let fd = open_dir(&self.root, &entry.path)?;
                if self.owners == Owners::Caller {
                    self.set_metadata(&fd, &entry)?;
                }
                Ok(futimens(&fd, &times(entry.mtime))?)
            })();
            made.map_err(LayerError::io("set the time of", shown(&entry.path)))?;
        }
        Ok(())
    }
}

fn copy(from: &mut dyn Read, to: &mut File, buffer: &mut [u8]) -> io::Result<()> {
    loop {
        match from.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => to.write_all(&buffer[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn open_dir(root: impl AsFd, path: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(openat2(root, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)?)
}

/// Opens a directory to its owner for as long as files are made in it.
fn make_accessible(root: &OwnedFd, path: &[u8]) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = openat2(root, path, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)?;
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode & 0o7777);
    if !mode.contains(Mode::RWXU) {
        rustix::fs::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), mode | Mode::RWXU)?;
    }
    Ok(())
}

/// Removes a path with everything below it that `unwanted` names, the deepest first; directories that are still in use stay.
fn remove_below(root: &OwnedFd, top: &[u8], unwanted: &dyn Fn(&[u8]) -> bool) -> io::Result<()> {
    let mut paths = if top.is_empty() { Vec::new() } else { vec![(top.to_vec(), true)] };
    let dir = if top.is_empty() { root.try_clone()? } else { open_dir(root, top)? };
    walk(dir.as_fd(), Options::default(), &mut |_, _| false, &mut |walked| {
        paths.push((crate::tree::entry::join(top, &walked.path), walked.stat.is_dir()));
        Ok::<(), WalkError>(())
    })
    .map_err(|error| error.source)?;
    for (path, is_dir) in paths.iter().rev().filter(|(path, _)| unwanted(path)) {
        let inside = if parent(path).is_empty() { root.try_clone()? } else { open_dir(root, parent(path))? };
        unlinkat(&inside, file_name(path), if *is_dir { AtFlags::REMOVEDIR } else { AtFlags::empty() })?;
    }
    Ok(())
}

/// Why an owner could not be given: EINVAL says that the kernel knows no such id here.
fn unowned(error: Errno, entry: &Entry) -> io::Error {
    if error != Errno::INVAL {
        return error.into();
    }
    let Entry { uid, gid, .. } = entry;
    io::Error::other(format!("its owner {uid}:{gid} is not among the ids of this user (see /etc/subuid and /etc/subgid)"))
}

fn times(mtime: Mtime) -> Timestamps {
    let time = Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::layer::contents::SourceRef;
    use crate::tree::index::IndexBuilder;
    use crate::tree::walk::open_dir;

    /// Files in directories of many sizes, a name more of one, a link, and times of directories.
    fn sample() -> (Index, Gathered) {
        let (mut builder, mut sources) = (IndexBuilder::new(), HashMap::new());
        let entry = |path: &str, kind| Entry::new(path, kind, 0o755, 0, 0, Mtime { secs: 7, nanos: 5 });
        for dir in 0..20 {
            builder.push(entry(&format!("d{dir}"), Kind::Dir));
            for file in 0..dir * 5 {
                let (path, content) = (format!("d{dir}/{file:x}"), format!("{dir} {file}").into_bytes());
                let digest = *blake3::hash(&content).as_bytes();
                builder.push(entry(&path, Kind::File { size: content.len() as u64, digest, hardlink: None }));
                sources.insert(path.into_bytes(), SourceRef::Inline(content));
            }
        }
        let digest = *blake3::hash(b"1 0").as_bytes();
        builder.push(entry("z", Kind::File { size: 3, digest, hardlink: Some(b"d1/0".to_vec()) }));
        builder.push(entry("to", Kind::Symlink { target: b"z".to_vec() }));
        (builder.build(), Gathered { roots: Vec::new(), spools: Vec::new(), sources })
    }

    /// Where a listing tells in which order files were made, as on tmpfs, two builds list the same.
    #[test]
    fn files_by_many_threads_are_the_same_and_in_the_same_order() {
        let (index, contents) = sample();
        let listed =
            |dir: &Path| -> Vec<_> { fs::read_dir(dir).expect("listed").map(|entry| entry.expect("an entry").file_name()).collect() };
        let mut orders = Vec::new();
        for _ in 0..10 {
            let place = tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" }).expect("a directory");
            let mut unpacker = Unpacker::for_caller(open_dir(place.path()).expect("opened"));
            write_gathered(&mut unpacker, &index, &contents).expect("written");
            assert_eq!(fs::read(place.path().join("d19/5e")).expect("read"), b"19 94");
            assert_eq!(fs::read(place.path().join("to")).expect("read"), b"1 0");
            let time = fs::metadata(place.path().join("d19")).and_then(|meta| meta.modified()).expect("a time");
            assert_eq!(time, std::time::UNIX_EPOCH + std::time::Duration::new(7, 5));
            orders.push((0..20).map(|dir| listed(&place.path().join(format!("d{dir}")))).collect::<Vec<_>>());
        }
        assert!(orders.iter().all(|order| *order == orders[0]));
    }

    /// What the steps' root owns is the caller's, even where a directory hands down its group.
    #[test]
    fn the_caller_writes_what_is_roots_alone() {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
        let (index, contents) = sample();
        assert!(index.iter().all(|entry| needs_no_worker(&entry)));
        let place = tempfile::tempdir().expect("a directory");
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o2755)).expect("set");
        write_gathered(&mut Unpacker::for_root_of_steps(open_dir(place.path()).expect("opened")), &index, &contents).expect("written");
        for path in ["d19", "d19/5e", "to"] {
            let is = fs::symlink_metadata(place.path().join(path)).expect("a file");
            assert_eq!((is.uid(), is.gid()), (geteuid().as_raw(), getegid().as_raw()), "{path}");
            assert!(is.is_symlink() || is.mode() & 0o7777 == 0o755, "{path}: {:o}", is.mode());
        }
        let entry = |kind, mode, uid| Entry::new("x", kind, mode, uid, 0, Mtime::default());
        let capable = Entry { xattrs: [(b"security.capability".to_vec(), b"x".to_vec())].into(), ..entry(Kind::Fifo, 0o755, 0) };
        let opaque = Entry { opaque: true, ..entry(Kind::Dir, 0o755, 0) };
        for other in [entry(Kind::Dir, 0o555, 0), entry(Kind::Dir, 0o755, 7), entry(Kind::Whiteout, 0, 0), capable, opaque] {
            assert!(!needs_no_worker(&other), "{other:?}");
        }
    }

    /// As one that changed: it is looked at again then.
    #[test]
    fn a_file_that_vanished_since_it_was_selected_has_changed() {
        let (index, mut contents) = sample();
        let place = tempfile::tempdir().expect("a directory");
        contents.roots.push(open_dir(place.path()).expect("opened"));
        contents.sources.insert(b"d3/1".to_vec(), SourceRef::Root { root: 0, path: b"gone".to_vec() });
        let error =
            write_gathered(&mut Unpacker::for_caller(open_dir(place.path()).expect("opened")), &index, &contents).expect_err("gone");
        assert!(matches!(&error, LayerError::Changed { path } if path.ends_with("d3/1")), "{error}");
    }

    #[test]
    fn of_several_files_that_changed_the_first_is_named() {
        let (index, mut contents) = sample();
        for path in ["d3/1", "d9/2", "d19/0"] {
            contents.sources.insert(path.into(), SourceRef::Inline(b"changed".to_vec()));
        }
        for _ in 0..10 {
            let place = tempfile::tempdir().expect("a directory");
            let mut unpacker = Unpacker::for_caller(open_dir(place.path()).expect("opened"));
            let error = write_gathered(&mut unpacker, &index, &contents).expect_err("they differ");
            assert!(matches!(&error, LayerError::Changed { path } if path.ends_with("d19/0")), "{error}");
        }
    }
}
