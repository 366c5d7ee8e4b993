//! The ids that a build may use: ranges of the calling user, and how they are mapped.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::process::{Command, Stdio};

use rustix::process::{getegid, geteuid};
use shale_cache::MapId;

/// A run of ids: `count` ids from `inside` are those from `outside` of the parent namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First id inside.
    pub inside: u32,
    /// First id outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// The kernel takes at most this many extents per map.
const MAX_EXTENTS: usize = 340;
/// The whole range: what a process outside of any user namespace sees.
const ALL: Extent = Extent { inside: 0, outside: 0, count: u32::MAX };

/// How ids of a build are ids of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMaps {
    /// Users.
    pub uids: Vec<Extent>,
    /// Groups.
    pub gids: Vec<Extent>,
}

/// Why there is no map.
#[derive(Debug, thiserror::Error)]
pub enum IdsError {
    /// The user has no range.
    #[error("no subordinate ids for {user} in {file}")]
    NoRange {
        /// Name, or number if it has none.
        user: String,
        /// `/etc/subuid` or `/etc/subgid`.
        file: &'static str,
    },
    /// The helper could not be started.
    #[error("cannot start {program}: {source}")]
    Helper {
        /// `newuidmap` or `newgidmap`.
        program: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The helper refused.
    #[error("{program} refused: {message}")]
    Refused {
        /// `newuidmap` or `newgidmap`.
        program: &'static str,
        /// What it said.
        message: String,
    },
    /// A map could not be read or written.
    #[error("cannot access {path}: {source}")]
    Map {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
}

impl IdMaps {
    /// The maps of our own user namespace.
    pub fn current() -> Result<Self, IdsError> {
        let read = |path: &str| {
            let text = fs::read_to_string(path).map_err(|source| IdsError::Map { path: path.to_owned(), source })?;
            Ok(parse_map(&text))
        };
        Ok(Self { uids: read("/proc/self/uid_map")?, gids: read("/proc/self/gid_map")? })
    }

    /// Whether every id is mapped to itself.
    pub fn is_whole(&self) -> bool {
        self.uids == [ALL] && self.gids == [ALL]
    }

    /// Whether a build can use more than one user and one group.
    pub fn has_many(&self) -> bool {
        let count = |extents: &[Extent]| extents.iter().map(|e| u64::from(e.count)).sum::<u64>();
        count(&self.uids) > 1 && count(&self.gids) > 1
    }

    /// Every id that we have, under the number that it has for us.
    #[must_use]
    pub fn identity(&self) -> Self {
        let same = |extents: &[Extent]| extents.iter().map(|e| Extent { outside: e.inside, ..*e }).collect();
        Self { uids: same(&self.uids), gids: same(&self.gids) }
    }

    /// The caller as root, its subordinate ranges behind.
    pub fn of_caller() -> Result<Self, IdsError> {
        let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
        let name = user_name(uid, &fs::read_to_string("/etc/passwd").unwrap_or_default());
        let extents = |file: &'static str, own: u32| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let extents = with_ranges(own, &parse_ranges(&text, name.as_deref(), uid));
            if extents.len() < 2 {
                return Err(IdsError::NoRange { user: name.clone().unwrap_or_else(|| uid.to_string()), file });
            }
            Ok(extents)
        };
        Ok(Self { uids: extents("/etc/subuid", uid)?, gids: extents("/etc/subgid", gid)? })
    }

    /// Names the map: files made under one map mean something else under another one.
    pub fn map_id(&self, ours: &Self) -> MapId {
        if self.is_whole() && ours.is_whole() {
            return MapId("true".to_owned());
        }
        let text = format!("{}|{}|{}|{}", text_of(&self.uids), text_of(&self.gids), text_of(&ours.uids), text_of(&ours.gids));
        let hash = blake3::hash(text.as_bytes()).to_hex();
        MapId(format!("map-{}", &hash[..16]))
    }

    /// Writes the maps of `pid` ourselves: we are root here.
    pub fn write(&self, pid: u32) -> Result<(), IdsError> {
        for (file, extents) in [("uid_map", &self.uids), ("gid_map", &self.gids)] {
            let path = format!("/proc/{pid}/{file}");
            fs::write(&path, text_of(extents)).map_err(|source| IdsError::Map { path, source })?;
        }
        Ok(())
    }

    /// Has the maps of `pid` written by the setuid helpers, both at the same time.
    pub fn write_by_helpers(&self, pid: u32) -> Result<(), IdsError> {
        let start = |program: &'static str, extents: &[Extent]| {
            let mut command = Command::new(program);
            command.arg(pid.to_string()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
            for e in extents {
                command.args([e.inside, e.outside, e.count].map(|n| n.to_string()));
            }
            command.spawn().map_err(|source| IdsError::Helper { program, source })
        };
        let uid = start("newuidmap", &self.uids)?;
        let gid = start("newgidmap", &self.gids);
        let finish = |program: &'static str, child: std::process::Child| {
            let output = child.wait_with_output().map_err(|source| IdsError::Helper { program, source })?;
            if output.status.success() {
                return Ok(());
            }
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(IdsError::Refused { program, message: if message.is_empty() { output.status.to_string() } else { message } })
        };
        finish("newuidmap", uid)?;
        finish("newgidmap", gid?)
    }
}

fn text_of(extents: &[Extent]) -> String {
    extents.iter().fold(String::new(), |mut text, e| {
        writeln!(text, "{} {} {}", e.inside, e.outside, e.count).expect("a String takes everything");
        text
    })
}

fn parse_map(text: &str) -> Vec<Extent> {
    text.lines()
        .filter_map(|line| {
            let mut numbers = line.split_ascii_whitespace().map(str::parse);
            let mut next = || numbers.next()?.ok();
            Some(Extent { inside: next()?, outside: next()?, count: next()? })
        })
        .collect()
}

fn user_name(uid: u32, passwd: &str) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// The ranges (first id, count) of a user, who may stand there by name or by number.
fn parse_ranges(text: &str, name: Option<&str>, uid: u32) -> Vec<(u32, u32)> {
    let number = uid.to_string();
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let who = fields.next()?;
            let (start, count) = (fields.next()?.parse::<u32>().ok()?, fields.next()?.parse::<u32>().ok()?);
            ((Some(who) == name || who == number) && start.checked_add(count).is_some() && count > 0).then_some((start, count))
        })
        .collect()
}

/// `own` becomes 0, the ranges follow one after the other; ranges that overlap what is there already are left out.
fn with_ranges(own: u32, ranges: &[(u32, u32)]) -> Vec<Extent> {
    let mut extents = vec![Extent { inside: 0, outside: own, count: 1 }];
    let mut inside: u32 = 1;
    for (start, count) in ranges {
        let free = extents.iter().all(|e| start + count <= e.outside || e.outside + e.count <= *start);
        let Some(end) = inside.checked_add(*count) else { continue };
        if free && extents.len() < MAX_EXTENTS {
            extents.push(Extent { inside, outside: *start, count: *count });
            inside = end;
        }
    }
    extents
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_a_user_by_name_and_by_number() {
        let text = "ann:100000:65536\nbob:165536:65536\n\n1000:300000:1000\nann:5:x\n# ann:1:1\nann:4294967295:2\nann:7:0\n";
        assert_eq!(parse_ranges(text, Some("ann"), 1000), [(100_000, 65536), (300_000, 1000)]);
        assert_eq!(parse_ranges(text, None, 1000), [(300_000, 1000)]);
        assert_eq!(parse_ranges(text, Some("cleo"), 7), []);
    }

    #[test]
    fn all_ranges_are_used_one_after_the_other_without_overlaps() {
        let extents = with_ranges(1000, &[(100_000, 65536), (100_500, 10), (300_000, 1000), (900, 200)]);
        let want = [(0, 1000, 1), (1, 100_000, 65536), (65537, 300_000, 1000)];
        assert_eq!(extents, want.map(|(inside, outside, count)| Extent { inside, outside, count }));
    }

    #[test]
    fn names_of_maps_differ_where_the_maps_do() {
        let whole = IdMaps { uids: vec![ALL], gids: vec![ALL] };
        let mapped = |outside| IdMaps { uids: with_ranges(1000, &[(outside, 65536)]), gids: with_ranges(1000, &[(outside, 65536)]) };
        assert_eq!(whole.map_id(&whole).0, "true");
        assert!(mapped(100_000).map_id(&whole).0.starts_with("map-"));
        assert_ne!(mapped(100_000).map_id(&whole), mapped(200_000).map_id(&whole));
        assert_ne!(mapped(100_000).map_id(&whole), mapped(100_000).map_id(&mapped(300_000)));
        assert!(mapped(300_000).has_many() && !IdMaps { uids: with_ranges(7, &[]), gids: vec![ALL] }.has_many());
    }

    #[test]
    fn maps_as_the_kernel_prints_them() {
        assert_eq!(parse_map("         0          0 4294967295\n"), [ALL]);
        assert_eq!(user_name(2000, "root:x:0:0::/:/bin/sh\nrig:x:2000:2000::/:/bin/sh\n").as_deref(), Some("rig"));
    }
}
