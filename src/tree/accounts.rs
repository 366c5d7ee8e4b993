//! Names of users and groups, as a filesystem's `/etc/passwd` and `/etc/group` have them.
//!
//! Owners of files (`--chown`, WORKDIR) and the user of a process (RUN's USER) follow different rules, as in BuildKit:
//!
//! | written | owner of files | process |
//! |---|---|---|
//! | `7` | 7:7, no file is read | 7, group and home of the first entry with that id, else group 0 |
//! | `name` | uid and gid of the entry; 0:0 if there is none | the same; an error if there is none |
//! | `u:g` | each on its own; a name that is unknown changes nothing, none at all is 0 | each on its own, no supplementary groups |

use super::index::Index;
use super::view::View;

const PASSWD_PATH: &[u8] = b"etc/passwd";
const GROUP_PATH: &[u8] = b"etc/group";

/// The largest id a process may have.
const MAX_ID: u32 = i32::MAX as u32;

/// Why a process cannot have a user. The sentences are those that scripts look for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// No such user.
    #[error("unable to find user {name}: no matching entries in passwd file")]
    UnknownUser {
        /// As written.
        name: String,
    },
    /// No such group.
    #[error("unable to find group {name}: no matching entries in group file")]
    UnknownGroup {
        /// As written.
        name: String,
    },
    /// An id that no process can have.
    #[error("uids and gids must be in range 0-{MAX_ID}")]
    OutOfRange {
        /// As written.
        id: String,
    },
}

/// Who owns a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Who a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessUser {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups, the group itself first.
    pub groups: Vec<u32>,
    /// Home directory, `/` if unknown.
    pub home: String,
}

/// The two files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Accounts<'a> {
    passwd: &'a [u8],
    group: &'a [u8],
}

/// The two files of a filesystem, kept for the filesystems that stand on it.
#[derive(Clone, Debug, Default)]
pub struct AccountFiles {
    passwd: Vec<u8>,
    group: Vec<u8>,
    /// No symlink leads to them.
    is_plain: bool,
}

impl AccountFiles {
    /// Reads them; a missing one is empty. `read` is asked for one that no index carries, by the path that links lead to.
    pub fn of<E>(view: &View, read: impl Fn(&[u8]) -> Result<Vec<u8>, E>) -> Result<Self, E> {
        let content = |path| match view.file(path) {
            Some((_, Some(carried))) => Ok(carried.to_vec()),
            Some((at, None)) => read(&at),
            None => Ok(Vec::new()),
        };
        let is_plain = [PASSWD_PATH, GROUP_PATH].iter().all(|path| view.resolve(path, true).is_ok_and(|at| at == *path));
        Ok(Self { passwd: content(PASSWD_PATH)?, group: content(GROUP_PATH)?, is_plain })
    }

    /// Whether they surely are the same with one more layer of this build on top.
    pub fn stay_under(&self, layer: &Index) -> bool {
        self.is_plain && layer.find(b"etc").is_none() && layer.subtree(b"etc").is_empty()
    }

    /// What they say.
    pub fn accounts(&self) -> Accounts<'_> {
        Accounts::new(&self.passwd, &self.group)
    }
}

struct User<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> Accounts<'a> {
    /// Takes the files' contents; a missing file is empty.
    pub fn new(passwd: &'a [u8], group: &'a [u8]) -> Self {
        Self { passwd, group }
    }

    /// The owner that `--chown=SPEC` or a WORKDIR under `USER SPEC` gives. Unknown names count as root, as in BuildKit.
    pub fn owner(&self, spec: &str) -> Owner {
        let (user, group) = split(spec);
        let mut owner = match file_id(user) {
            Some(id) => Owner { uid: id, gid: id },
            None => self.users().find(|u| u.name == user).map_or(Owner::default(), |u| Owner { uid: u.uid, gid: u.gid }),
        };
        if let Some(group) = group {
            let known = match group {
                "" => Some(0),
                group => file_id(group).or_else(|| self.groups().find(|g| g.name == group).map(|g| g.gid)),
            };
            owner.gid = known.unwrap_or(owner.gid);
        }
        owner
    }

    /// What [`Self::owner`] takes for another name than the one in `--chown=SPEC`, in words.
    pub fn mistaken(&self, spec: &str) -> Vec<String> {
        let (user, group) = split(spec);
        let owner = self.owner(spec);
        let no_user = !user.is_empty() && file_id(user).is_none() && self.users().all(|known| known.name != user);
        let unknown = |name: &&str| !name.is_empty() && file_id(name).is_none() && self.groups().all(|known| known.name != *name);
        let user = no_user.then(|| format!("there is no user {user:?} in /etc/passwd: the files are root's"));
        let group =
            group.filter(unknown).map(|name| format!("there is no group {name:?} in /etc/group: the files' group is {}", owner.gid));
        user.into_iter().chain(group).collect()
    }

    /// Whether the owner in `--chown=SPEC` depends on the filesystem's files.
    pub fn owner_needs_files(spec: &str) -> bool {
        let (user, group) = split(spec);
        let is_name = |text: &str| !text.is_empty() && file_id(text).is_none();
        is_name(user) || group.is_some_and(is_name)
    }

    /// The user that a process under `USER SPEC` runs as; an empty one is root.
    pub fn process(&self, spec: &str) -> Result<ProcessUser, AccountError> {
        let (user, group) = split(spec);
        // Both given as numbers: no file is asked, so there are no supplementary groups.
        if let (Some(uid), Some(gid)) = (file_id(user), group.and_then(file_id)) {
            return Ok(ProcessUser { uid, gid, groups: vec![gid], home: self.home(uid) });
        }
        let user = if user.is_empty() { "0" } else { user };
        let number = user.parse::<i64>().ok();
        let entry = self.users().find(|u| u.name == user || number == Some(u.uid.into()));
        let (uid, mut gid) = match (&entry, number) {
            (Some(entry), _) => (entry.uid, entry.gid),
            (None, Some(number)) => (in_range(number, user)?, 0),
            (None, None) => return Err(AccountError::UnknownUser { name: user.to_owned() }),
        };
        let mut groups = Vec::new();
        if let Some(group) = group.filter(|g| !g.is_empty()) {
            let number = group.parse::<i64>().ok();
            gid = match (self.groups().find(|g| g.name == group || number == Some(g.gid.into())), number) {
                (Some(found), _) => found.gid,
                (None, Some(number)) => in_range(number, group)?,
                (None, None) => return Err(AccountError::UnknownGroup { name: group.to_owned() }),
            };
        } else if let Some(entry) = &entry {
            groups.extend(self.groups().filter(|g| g.members.split(',').any(|m| m == entry.name)).map(|g| g.gid));
        }
        if !groups.contains(&gid) {
            groups.insert(0, gid);
        }
        Ok(ProcessUser { uid, gid, groups, home: self.home(uid) })
    }

    fn home(&self, uid: u32) -> String {
        let home = self.users().find(|u| u.uid == uid).map_or("", |u| u.home);
        if home.is_empty() { "/".to_owned() } else { home.to_owned() }
    }

    fn users(&self) -> impl Iterator<Item = User<'a>> + use<'a> {
        lines(self.passwd).map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().unwrap_or_default();
            let (uid, gid) = (id(fields.nth(1)), id(fields.next()));
            User { name, uid, gid, home: fields.nth(1).unwrap_or_default() }
        })
    }

    fn groups(&self) -> impl Iterator<Item = Group<'a>> + use<'a> {
        lines(self.group).map(|line| {
            let mut fields = line.split(':');
            let name = fields.next().unwrap_or_default();
            let gid = id(fields.nth(1));
            Group { name, gid, members: fields.next().unwrap_or_default() }
        })
    }
}

/// Non-empty lines; one that is no UTF-8 names nobody that a Dockerfile could.
fn lines(file: &[u8]) -> impl Iterator<Item = &str> {
    file.split(|b| *b == b'\n').filter_map(|line| std::str::from_utf8(line).ok()).map(str::trim).filter(|line| !line.is_empty())
}

/// A number in the files; what is none counts as 0.
fn id(field: Option<&str>) -> u32 {
    field.and_then(|f| f.parse().ok()).unwrap_or_default()
}

/// A number in `--chown`, or `root`.
fn file_id(text: &str) -> Option<u32> {
    if text == "root" { Some(0) } else { text.parse::<i32>().ok().and_then(|id| id.try_into().ok()) }
}

fn in_range(number: i64, written: &str) -> Result<u32, AccountError> {
    u32::try_from(number).ok().filter(|id| *id <= MAX_ID).ok_or_else(|| AccountError::OutOfRange { id: written.to_owned() })
}

fn split(spec: &str) -> (&str, Option<&str>) {
    match spec.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::tree::entry::{Entry, Kind, Mtime};
    use crate::tree::index::IndexBuilder;

    const PASSWD: &[u8] =
        b"root:x:0:0:root:/root:/bin/sh\n\nbuild:x:1001:1002:,,,:/home/build:/bin/sh\nnobody:x:65534:65534::/:\n77:x:5:6::/n:\n";
    const GROUP: &[u8] = b"root:x:0:\nwheel:x:10:root,build\nstaff:x:50:other,build\n1:x:9:\nbuild:x:1002:\n";

    fn layer(entries: Vec<Entry>) -> Index {
        let mut builder = IndexBuilder::of(entries);
        builder.inline(PASSWD_PATH, PASSWD);
        builder.build()
    }

    fn dir(path: &str) -> Entry {
        Entry::new(path, Kind::Dir, 0o755, 0, 0, Mtime::default())
    }

    #[test]
    fn files_stay_until_a_layer_comes_near_them() {
        let kind = Kind::File { size: PASSWD.len() as u64, digest: *blake3::hash(PASSWD).as_bytes(), hardlink: None };
        let file = |path: &str| Entry::new(path, kind.clone(), 0o644, 0, 0, Mtime::default());
        let link = |path: &str, target: &str| Entry::new(path, Kind::Symlink { target: target.into() }, 0o777, 0, 0, Mtime::default());
        let of = |view: &View| AccountFiles::of(view, |path| Err(crate::layer::shown(path)));
        let files = |entries| of(&View::new(vec![Arc::new(layer(entries))])).expect("nothing is read");
        let found = files(vec![dir("etc"), file("etc/passwd")]);
        assert_eq!(found.accounts().owner("build"), Owner { uid: 1001, gid: 1002 });
        assert!(found.stay_under(&layer(vec![dir("usr"), file("usr/etc"), file("etcetera")])));
        for near in [file("etc/passwd"), file("etc/shadow"), dir("etc"), Entry::whiteout("etc"), Entry::whiteout("etc/group"), file("etc")]
        {
            assert!(!found.stay_under(&layer(vec![near.clone()])), "{near:?}");
        }
        // What a link leads to may lie anywhere.
        for far in [vec![link("etc", "/usr")], vec![dir("etc"), link("etc/group", "/run/group")]] {
            assert!(!files(far.clone()).stay_under(&layer(vec![dir("usr")])), "{far:?}");
        }
        assert!(of(&View::default()).expect("nothing is read").stay_under(&layer(vec![dir("usr")])));
        // Which no index carries.
        let led = View::new(vec![Arc::new(layer(vec![dir("etc"), link("etc/passwd", "../run/x"), dir("run"), file("run/x")]))]);
        assert_eq!(of(&led).expect_err("it is read"), crate::layer::shown(b"run/x"));
        let read = AccountFiles::of(&led, |_| Ok::<_, ()>(PASSWD.to_vec())).expect("it is read");
        assert_eq!(read.accounts().owner("build"), Owner { uid: 1001, gid: 1002 });
    }

    #[test]
    fn names_that_count_as_others_are_told() {
        let accounts = Accounts::new(PASSWD, GROUP);
        let (user, group) = ("in /etc/passwd: the files are root's", "in /etc/group: the files' group is");
        for (spec, expected) in [
            ("build:staff", vec![]),
            ("7:8", vec![]),
            (":", vec![]),
            ("nosuch", vec![format!("there is no user \"nosuch\" {user}")]),
            ("build:nosuch", vec![format!("there is no group \"nosuch\" {group} 1002")]),
            ("4294967294:x", vec![format!("there is no user \"4294967294\" {user}"), format!("there is no group \"x\" {group} 0")]),
        ] {
            assert_eq!(accounts.mistaken(spec), expected, "{spec}");
        }
    }

    #[test]
    fn owners_of_files() {
        let accounts = Accounts::new(PASSWD, GROUP);
        let cases = [
            ("1000", (1000, 1000)),
            ("root", (0, 0)),
            ("build", (1001, 1002)),
            ("build:staff", (1001, 50)),
            ("build:7", (1001, 7)),
            ("7:build", (7, 1002)),
            ("7:", (7, 0)),
            (":staff", (0, 50)),
            ("nosuch", (0, 0)),
            ("build:nosuch", (1001, 1002)),
            ("77", (77, 77)),
        ];
        for (spec, (uid, gid)) in cases {
            assert_eq!(accounts.owner(spec), Owner { uid, gid }, "{spec}");
        }
        assert_eq!(Accounts::default().owner("build:staff"), Owner::default());
        assert!(Accounts::owner_needs_files("build:7") && Accounts::owner_needs_files("7:build"));
        for spec in ["7:8", "root", "", "7:"] {
            assert!(!Accounts::owner_needs_files(spec), "{spec}");
            assert_eq!(Accounts::default().owner(spec), accounts.owner(spec), "{spec}");
        }
    }

    #[test]
    fn users_of_processes() {
        let accounts = Accounts::new(PASSWD, GROUP);
        let cases = [
            ("", (0, 0, vec![0, 10], "/root")),
            ("root", (0, 0, vec![0, 10], "/root")),
            ("build", (1001, 1002, vec![1002, 10, 50], "/home/build")),
            ("1001", (1001, 1002, vec![1002, 10, 50], "/home/build")),
            ("1001:1002", (1001, 1002, vec![1002], "/home/build")),
            ("build:staff", (1001, 50, vec![50], "/home/build")),
            ("4242", (4242, 0, vec![0], "/")),
            ("4242:wheel", (4242, 10, vec![10], "/")),
            ("77", (5, 6, vec![6], "/n")),
            ("build:1", (1001, 9, vec![9], "/home/build")),
        ];
        for (spec, (uid, gid, groups, home)) in cases {
            assert_eq!(accounts.process(spec), Ok(ProcessUser { uid, gid, groups, home: home.into() }), "{spec}");
        }
        assert_eq!(accounts.process("nosuch"), Err(AccountError::UnknownUser { name: "nosuch".into() }));
        assert_eq!(accounts.process("build:nosuch"), Err(AccountError::UnknownGroup { name: "nosuch".into() }));
        assert_eq!(accounts.process("-5"), Err(AccountError::OutOfRange { id: "-5".into() }));
        assert_eq!(Accounts::default().process("").map(|p| (p.uid, p.home)), Ok((0, "/".into())));
    }
}
