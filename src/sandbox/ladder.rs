//! What this machine lets us do, found out by doing it, and what its answers mean.
//!
//! The doing is `worker::probe`'s, in processes of its own. Here is the meaning, which needs no process: it is tested by tables.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Something that isolation needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Need {
    /// Mount and pid namespaces without a user namespace: for root.
    Direct,
    /// A user namespace.
    UserNamespace,
    /// A map of many ids in it.
    IdMap,
    /// Mounting in it.
    Mount,
    /// Overlay with an upper directory in the store.
    Overlay,
    /// A pid namespace.
    PidNamespace,
    /// A new procfs.
    Procfs,
    /// A system call filter.
    Seccomp,
    /// chroot and chown: what would be left without namespaces.
    Chroot,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "namespaces as root",
            Self::UserNamespace => "user namespace",
            Self::IdMap => "map of subordinate ids",
            Self::Mount => "mounts in a user namespace",
            Self::Overlay => "overlay on the store",
            Self::PidNamespace => "pid namespace",
            Self::Procfs => "new /proc",
            Self::Seccomp => "system call filter",
            Self::Chroot => "chroot and chown",
        })
    }
}

/// A call that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The call, as in `unshare(NEWUSER)`, or what a helper said.
    pub call: String,
    /// Its error number; 0 if it was no system call.
    pub errno: i32,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errno {
            0 => f.write_str(&self.call),
            errno => write!(f, "{}: {}", self.call, std::io::Error::from_raw_os_error(errno)),
        }
    }
}

/// One need and whether it is met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feature {
    /// What.
    pub need: Need,
    /// Whether it works.
    pub outcome: Result<(), Refused>,
}

/// How steps are isolated, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// Root with mount rights: no user namespace.
    Root,
    /// An ordinary user with subordinate ids.
    Mapped,
    /// Root without mount rights: a user namespace with the ids that there are.
    Nested,
    /// One id only. Detected, not executed by this version.
    SingleId,
    /// No overlay on the store: layers would have to be copied. Detected, not executed by this version.
    CopySnapshots,
    /// chroot only. Detected, not executed by this version.
    Chroot,
    /// Nothing.
    None,
}

impl Rung {
    /// Whether this version runs steps this way.
    pub fn is_executed(self) -> bool {
        matches!(self, Self::Root | Self::Mapped | Self::Nested)
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "root, without a user namespace",
            Self::Mapped => "user namespace with subordinate ids",
            Self::Nested => "nested user namespace",
            Self::SingleId => "user namespace with a single id",
            Self::CopySnapshots => "copies instead of overlays",
            Self::Chroot => "chroot without isolation",
            Self::None => "none",
        })
    }
}

/// Why steps cannot run here, and what to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The call that failed, with its error.
    pub call: String,
    /// Who probably refused.
    pub cause: String,
    /// What to change.
    pub fix: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}. {}; {}", self.call, self.cause, self.fix)
    }
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How steps run, or would.
    pub rung: Rung,
    /// Everything that was tried, in order.
    pub features: Vec<Feature>,
    /// Set exactly if steps do not run.
    pub refusal: Option<Refusal>,
    /// What works in a lesser way.
    pub notes: Vec<String>,
}

/// What the machine says of itself, to tell causes apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) root: bool,
    /// More than one user and one group, in our own namespace.
    pub(crate) many_ids: bool,
    /// Capabilities of [`NEEDED`] that we do not have.
    pub(crate) lacking: Vec<&'static str>,
    pub(crate) no_new_privs: bool,
    /// A seccomp filter lies on us already: we are in a container.
    pub(crate) filtered: bool,
    /// Ubuntu's restriction of user namespaces.
    pub(crate) apparmor_restricts: bool,
    /// Debian's old switch is off.
    pub(crate) clone_switch_off: bool,
    pub(crate) max_user_namespaces: Option<u64>,
    /// Name of the store's file system, if it is one that overlay cannot use.
    pub(crate) unfit_file_system: Option<&'static str>,
    pub(crate) store: PathBuf,
}

impl Facts {
    /// Reads them. What cannot be read is taken to be harmless.
    pub(crate) fn gather(store: &Path, root: bool, many_ids: bool) -> Self {
        let setting = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let status_of = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map_or("0", str::trim).to_owned();
        Self {
            root,
            many_ids,
            lacking: lacking(u64::from_str_radix(&status_of("CapEff:"), 16).unwrap_or(u64::MAX)),
            no_new_privs: status_of("NoNewPrivs:") == "1",
            filtered: status_of("Seccomp:") == "2",
            apparmor_restricts: setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1),
            clone_switch_off: setting("/proc/sys/kernel/unprivileged_userns_clone") == Some(0),
            max_user_namespaces: setting("/proc/sys/user/max_user_namespaces"),
            unfit_file_system: unfit(store),
            store: store.to_owned(),
        }
    }
}

/// What root needs to give files to others and to map ids, by bits as in capabilities(7). Docker and containerd leave all of it to root in a container.
const NEEDED: [(u32, &str); 6] = [(0, "CHOWN"), (1, "DAC_OVERRIDE"), (3, "FOWNER"), (6, "SETGID"), (7, "SETUID"), (31, "SETFCAP")];

fn lacking(effective: u64) -> Vec<&'static str> {
    NEEDED.iter().filter(|(bit, _)| effective >> bit & 1 == 0).map(|(_, name)| *name).collect()
}

/// File systems that hold no upper directory, by their magic numbers.
fn unfit(store: &Path) -> Option<&'static str> {
    let existing = store.ancestors().find(|path| path.exists())?;
    match rustix::fs::statfs(existing).ok()?.f_type as u64 & 0xffff_ffff {
        0x794c_7630 => Some("overlayfs"),
        0x6969 => Some("NFS"),
        0x6573_5546 => Some("a FUSE file system"),
        0xfe53_4d42 | 0xff53_4d42 => Some("SMB"),
        _ => None,
    }
}

/// What the findings mean.
pub(crate) fn interpret(features: Vec<Feature>, facts: &Facts) -> Report {
    let (rung, refusal) = decide(&features, facts);
    let mut notes = Vec::new();
    if failure(&features, Need::Procfs).is_some() && rung.is_executed() {
        notes.push("/proc is masked by the container around: steps see a copy of it, and other processes' numbers in it".to_owned());
    }
    Report { rung, features, refusal, notes }
}

fn failure(features: &[Feature], need: Need) -> Option<&Refused> {
    features.iter().find(|f| f.need == need).and_then(|f| f.outcome.as_ref().err())
}

fn works(features: &[Feature], need: Need) -> bool {
    features.iter().any(|f| f.need == need && f.outcome.is_ok())
}

fn decide(features: &[Feature], facts: &Facts) -> (Rung, Option<Refusal>) {
    if facts.root && !facts.many_ids {
        let call = "the user namespace that shale runs in maps a single id".to_owned();
        return (Rung::SingleId, Some(single_id(call, "start shale as the user itself, or in a namespace with more ids")));
    }
    let direct = works(features, Need::Direct);
    if !direct && let Some(refused) = failure(features, Need::UserNamespace) {
        return without_namespaces(features, refused, facts);
    }
    if !direct && let Some(refused) = failure(features, Need::IdMap) {
        return (Rung::SingleId, Some(no_map(refused, facts)));
    }
    for need in [Need::Mount, Need::PidNamespace] {
        if let Some(refused) = failure(features, need) {
            return (Rung::None, Some(forbidden(refused, facts)));
        }
    }
    if let Some(refused) = failure(features, Need::Overlay) {
        return (Rung::CopySnapshots, Some(no_overlay(refused, facts)));
    }
    if let Some(refused) = failure(features, Need::Seccomp) {
        let (cause, fix) = ("this kernel has no seccomp filters", "use a kernel with CONFIG_SECCOMP_FILTER");
        return (Rung::None, Some(Refusal { call: refused.to_string(), cause: cause.to_owned(), fix: fix.to_owned() }));
    }
    let rung = match (direct, facts.root) {
        (true, _) => Rung::Root,
        (false, true) => Rung::Nested,
        (false, false) => Rung::Mapped,
    };
    (rung, None)
}

fn single_id(call: String, fix: &str) -> Refusal {
    let cause = "with one id only, files of other users cannot be made, and this version does not emulate them".to_owned();
    Refusal { call, cause, fix: fix.to_owned() }
}

fn no_map(refused: &Refused, facts: &Facts) -> Refusal {
    if facts.root && !facts.lacking.is_empty() {
        return Refusal {
            call: refused.to_string(),
            cause: format!("root lacks the capabilities {} here", facts.lacking.join(", ")),
            fix: "let the container have them (--cap-add, Kubernetes: securityContext.capabilities), or start shale as an ordinary user \
                  with a range in /etc/subuid"
                .to_owned(),
        };
    }
    if refused.errno == libc::EAGAIN {
        return forbidden(refused, facts);
    }
    let fix = if facts.no_new_privs {
        "start shale without no_new_privs (Kubernetes: allowPrivilegeEscalation: true), which keeps newuidmap from working"
    } else if refused.errno == libc::ENOENT {
        "install newuidmap and newgidmap (package uidmap or shadow-utils)"
    } else if refused.errno == libc::EACCES {
        "let this user start newuidmap and newgidmap: they are there, or a directory of PATH cannot be searched"
    } else {
        "add USER:100000:65536 to /etc/subuid and to /etc/subgid, where USER is your name"
    };
    single_id(refused.to_string(), fix)
}

fn without_namespaces(features: &[Feature], refused: &Refused, facts: &Facts) -> (Rung, Option<Refusal>) {
    let refusal = forbidden(refused, facts);
    if facts.root && works(features, Need::Chroot) {
        let cause = format!("{}; chroot would work, but this version runs no step without isolation", refusal.cause);
        return (Rung::Chroot, Some(Refusal { cause, ..refusal }));
    }
    (Rung::None, Some(refusal))
}

/// Namespaces or mounts in them are forbidden: by whom?
fn forbidden(refused: &Refused, facts: &Facts) -> Refusal {
    let (cause, fix) = if refused.errno == libc::EAGAIN {
        ("no more processes may be started", "raise the limit of processes (`ulimit -u`, or pids of the container)")
    } else if facts.max_user_namespaces == Some(0) {
        ("the sysctl user.max_user_namespaces is 0", "set it to a number such as 28633 (as root: sysctl -w user.max_user_namespaces=28633)")
    } else if facts.clone_switch_off {
        ("the sysctl kernel.unprivileged_userns_clone is 0", "set it to 1 (as root: sysctl -w kernel.unprivileged_userns_clone=1)")
    } else if facts.apparmor_restricts && !facts.root {
        (
            "AppArmor restricts user namespaces of programs without a profile (Ubuntu 23.10 and later)",
            "as root: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or give shale a profile with the rule `userns,`",
        )
    } else if facts.filtered {
        (
            "the seccomp filter of the container around forbids it",
            "start that container with --security-opt seccomp=unconfined (Kubernetes: seccompProfile Unconfined) or with a profile that \
             allows unshare, mount and pivot_root",
        )
    } else if refused.errno == libc::ENOSYS || refused.errno == libc::EINVAL {
        ("this kernel lacks it", "use a kernel of 5.12 or later with user namespaces and overlayfs")
    } else {
        (
            "a security module, a chroot or the container around forbids it",
            "allow user namespaces and mounts in them (a chroot never has them: pivot_root instead), or start shale as root",
        )
    };
    Refusal { call: refused.to_string(), cause: cause.to_owned(), fix: fix.to_owned() }
}

fn no_overlay(refused: &Refused, facts: &Facts) -> Refusal {
    let store = facts.store.display();
    let copies = "this version does not copy layers instead";
    match facts.unfit_file_system {
        Some(name) => Refusal {
            call: refused.to_string(),
            cause: format!("the store {store} is on {name}, which cannot hold an overlay, and {copies}"),
            fix: "mount a volume there, or set SHALE_ROOT to a directory on ext4, xfs, btrfs or tmpfs".to_owned(),
        },
        None if refused.errno == libc::ENODEV => Refusal {
            call: refused.to_string(),
            cause: format!("this kernel has no overlayfs, and {copies}"),
            fix: "load the module (as root: modprobe overlay)".to_owned(),
        },
        None => Refusal {
            call: refused.to_string(),
            cause: format!("overlay does not work on the file system of {store} or is forbidden, and {copies}"),
            fix: "use a kernel of 5.12 or later, and set SHALE_ROOT to a directory on ext4, xfs, btrfs or tmpfs".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feature(need: Need, errno: i32) -> Feature {
        let outcome = if errno == 0 { Ok(()) } else { Err(Refused { call: "call()".to_owned(), errno }) };
        Feature { need, outcome }
    }

    #[test]
    fn findings_and_their_meaning() {
        use Need::*;
        let user = || Facts { many_ids: true, store: "/store".into(), ..Facts::default() };
        let root = || Facts { root: true, ..user() };
        let good = [(Mount, 0), (Overlay, 0), (PidNamespace, 0), (Procfs, 0), (Seccomp, 0)];
        let with = |first: &[(Need, i32)], changed: &[(Need, i32)]| -> Vec<Feature> {
            let rest = good.iter().map(|g| changed.iter().find(|c| c.0 == g.0).unwrap_or(g));
            first.iter().chain(rest).map(|(need, errno)| feature(*need, *errno)).collect()
        };
        let mapped = [(UserNamespace, 0), (IdMap, 0)];
        let (eperm, einval, eacces) = (libc::EPERM, libc::EINVAL, libc::EACCES);
        // What was found, facts, rung, and words of the refusal.
        let table: Vec<(Vec<Feature>, Facts, Rung, &str)> = vec![
            (with(&[(Direct, 0)], &[]), root(), Rung::Root, ""),
            (with(&mapped, &[]), user(), Rung::Mapped, ""),
            (with(&[(Direct, eperm), (UserNamespace, 0), (IdMap, 0)], &[]), root(), Rung::Nested, ""),
            (with(&[(Direct, 0)], &[]), Facts { many_ids: false, ..root() }, Rung::SingleId, "single id"),
            (with(&[(UserNamespace, 0), (IdMap, eperm)], &[]), user(), Rung::SingleId, "/etc/subuid"),
            (with(&[(UserNamespace, 0), (IdMap, libc::ENOENT)], &[]), user(), Rung::SingleId, "package uidmap"),
            (with(&[(UserNamespace, 0), (IdMap, libc::EAGAIN)], &[]), user(), Rung::SingleId, "`ulimit -u`"),
            (with(&[(UserNamespace, 0), (IdMap, eacces)], &[]), user(), Rung::SingleId, "let this user start newuidmap"),
            (with(&[(UserNamespace, 0), (IdMap, eperm)], &[]), Facts { no_new_privs: true, ..user() }, Rung::SingleId, "no_new_privs"),
            (
                with(&[(Direct, eperm), (UserNamespace, 0), (IdMap, eperm)], &[]),
                Facts { lacking: lacking(0x8000_004b), ..root() },
                Rung::SingleId,
                "the capabilities SETUID here",
            ),
            (with(&mapped, &[(Mount, eacces)]), Facts { apparmor_restricts: true, ..user() }, Rung::None, "apparmor_restrict"),
            (vec![feature(UserNamespace, eperm)], Facts { filtered: true, ..user() }, Rung::None, "seccomp=unconfined"),
            (
                vec![feature(UserNamespace, libc::ENOSPC)],
                Facts { max_user_namespaces: Some(0), ..user() },
                Rung::None,
                "max_user_namespaces",
            ),
            (vec![feature(UserNamespace, eperm)], Facts { clone_switch_off: true, ..user() }, Rung::None, "userns_clone=1"),
            (
                vec![feature(Direct, eperm), feature(UserNamespace, eperm), feature(Chroot, 0)],
                Facts { filtered: true, ..root() },
                Rung::Chroot,
                "without isolation",
            ),
            (
                with(&mapped, &[(Overlay, einval)]),
                Facts { unfit_file_system: Some("overlayfs"), ..user() },
                Rung::CopySnapshots,
                "SHALE_ROOT",
            ),
            (with(&mapped, &[(Overlay, libc::ENODEV)]), user(), Rung::CopySnapshots, "modprobe overlay"),
            (with(&mapped, &[(Procfs, eperm)]), user(), Rung::Mapped, ""),
            (with(&mapped, &[(Seccomp, einval)]), user(), Rung::None, "CONFIG_SECCOMP_FILTER"),
        ];
        for (features, facts, rung, words) in table {
            let report = interpret(features, &facts);
            assert_eq!(report.rung, rung, "{report:?}");
            assert_eq!(report.refusal.is_none(), rung.is_executed(), "{report:?}");
            let text = report.refusal.as_ref().map_or_else(String::new, ToString::to_string);
            assert!(text.contains(words), "{words} is not in: {text}");
            if let Some(refusal) = report.refusal {
                assert!([refusal.call, refusal.cause, refusal.fix].iter().all(|part| !part.is_empty()));
            }
        }
    }

    #[test]
    fn a_copied_proc_is_noted() {
        let features = vec![feature(Need::Direct, 0), feature(Need::Procfs, libc::EPERM)];
        let facts = Facts { root: true, many_ids: true, ..Facts::default() };
        assert_eq!(interpret(features, &facts).notes.len(), 1);
    }
}
