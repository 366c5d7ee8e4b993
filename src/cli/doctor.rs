//! `shale doctor`: what this machine offers to builds, what is missing and how to get it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use shale_cache::{Disk, Store};

use crate::sandbox::SandboxError;
use crate::sandbox::ids::IdMaps;
use crate::worker::{Worker, WorkerConfig, probe};

use super::config::Config;
use super::environment::Environment;
use super::human;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// How it stands.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do, if something is to be done.
    pub advice: Option<String>,
}

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Builds work, with a limit.
    Limited,
    /// RUN steps will fail.
    Bad,
}

impl Check {
    fn new(name: &'static str, verdict: Verdict, found: impl Into<String>) -> Self {
        Self { name, verdict, found: found.into(), advice: None }
    }

    fn advice(self, text: impl Into<String>) -> Self {
        Self { advice: Some(text.into()), ..self }
    }
}

/// The report.
pub fn render(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        let mark = match check.verdict {
            Verdict::Good => "ok     ",
            Verdict::Limited => "limited",
            Verdict::Bad => "missing",
        };
        writeln!(text, "{mark}  {:width$}  {}", check.name, check.found).expect("a String takes everything");
        if let Some(advice) = &check.advice {
            writeln!(text, "{:9}{:width$}  → {advice}", "", "").expect("a String takes everything");
        }
    }
    text
}

/// Looks at the machine. The store is made if there is none, and a worker is started for a moment.
pub fn examine(environment: &Environment) -> Vec<Check> {
    let (root, note) = environment.store_root();
    let opened = Store::open(&root);
    let caps = opened.as_ref().ok().map(|_| caps(&root, environment));
    let can_write = opened.as_ref().is_ok_and(|store| !store.is_read_only());
    let sandbox = sandbox(try_sandbox(&WorkerConfig { store_root: root.clone(), privileged: false }, can_write));
    let store = match opened {
        Ok(_) => Check { advice: note, ..Check::new("store", Verdict::Good, root.display().to_string()) },
        Err(error) => Check::new("store", Verdict::Bad, error.to_string()).advice("set SHALE_ROOT to a directory of yours on a local disk"),
    };
    let mut checks = vec![store];
    checks.extend(caps);
    checks.extend([sandbox, overlay(&read("/proc/filesystems")), seccomp(&read("/proc/self/status"))]);
    if environment.uid == 0 {
        checks.push(root_user(IdMaps::current().ok()));
        return checks;
    }
    checks.push(user_namespaces(
        &read("/proc/sys/user/max_user_namespaces"),
        &read("/proc/sys/kernel/unprivileged_userns_clone"),
        &read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
    ));
    let account = account_of(&read("/etc/passwd"), environment.uid);
    for (name, file, tool) in [("uid range", "/etc/subuid", "newuidmap"), ("gid range", "/etc/subgid", "newgidmap")] {
        checks.push(id_range(name, file, &read(file), account.as_deref(), environment.uid));
        checks.push(helper(tool, environment));
    }
    checks
}

/// What root's ids are worth; `maps` are those of the namespace that we run in.
fn root_user(maps: Option<IdMaps>) -> Check {
    match maps {
        Some(maps) if !maps.has_many() => {
            Check::new("user", Verdict::Bad, "root of a user namespace with a single id, which no RUN step can do with")
        }
        _ => Check::new("user", Verdict::Good, "root: RUN steps use true ids"),
    }
}

/// What the store keeps to, and whether the disk lets it.
fn caps(root: &Path, environment: &Environment) -> Check {
    const NAME: &str = "cache caps";
    let (section, disk) = match (Config::load(environment), Disk::of(root)) {
        (Ok(config), Ok(disk)) => (config.gc, disk),
        (Err(error), _) => return Check::new(NAME, Verdict::Bad, error.to_string()),
        (_, Err(error)) => return Check::new(NAME, Verdict::Bad, error.to_string()),
    };
    let told = section.describe(disk);
    if disk.free_bytes >= section.policy(disk).min_free_bytes {
        return Check::new(NAME, Verdict::Good, told);
    }
    let found = format!("{told}; only {} of the disk are free", human::size(disk.free_bytes));
    Check::new(NAME, Verdict::Limited, found).advice("free some space: builds evict from the cache as they write")
}

/// Starts a worker, and mounts an overlay in the store, if anything can be made there: the worker itself looks at no store.
fn try_sandbox(config: &WorkerConfig, can_write: bool) -> Result<(), SandboxError> {
    Worker::start(config)?;
    if !can_write {
        return Ok(());
    }
    probe(config)?.refusal.map_or(Ok(()), |refusal| Err(SandboxError::Refused(Box::new(refusal))))
}

/// What an attempt to start a worker says: the verdict that counts, the other checks say why.
fn sandbox(attempt: Result<(), SandboxError>) -> Check {
    match attempt {
        Ok(()) => Check::new("sandbox", Verdict::Good, "RUN steps can be isolated"),
        Err(SandboxError::Refused(refusal)) => {
            Check::new("sandbox", Verdict::Bad, format!("{} ({})", refusal.call, refusal.cause)).advice(refusal.fix)
        }
        Err(error) => Check::new("sandbox", Verdict::Bad, error.to_string()),
    }
}

/// A file of the kernel or of the machine; what cannot be read is empty.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn overlay(filesystems: &str) -> Check {
    let known = filesystems.lines().any(|line| line.split_whitespace().next_back() == Some("overlay"));
    if known {
        return Check::new("overlayfs", Verdict::Good, "known to the kernel");
    }
    // The module may be loaded on the first mount, so this is no verdict on RUN.
    Check::new("overlayfs", Verdict::Limited, "not loaded").advice("modprobe overlay")
}

fn seccomp(status: &str) -> Check {
    if status.lines().any(|line| line.starts_with("Seccomp:")) {
        return Check::new("seccomp", Verdict::Good, "filters can be installed");
    }
    Check::new("seccomp", Verdict::Bad, "the kernel has no system call filters")
}

fn user_namespaces(limit: &str, clone: &str, apparmor: &str) -> Check {
    let name = "user namespaces";
    if limit.trim() == "0" {
        return Check::new(name, Verdict::Bad, "user.max_user_namespaces is 0").advice("sysctl user.max_user_namespaces=15000");
    }
    if clone.trim() == "0" {
        return Check::new(name, Verdict::Bad, "kernel.unprivileged_userns_clone is 0").advice("sysctl kernel.unprivileged_userns_clone=1");
    }
    if apparmor.trim() == "1" {
        return Check::new(name, Verdict::Limited, "AppArmor restricts them to programs with a profile")
            .advice("sysctl kernel.apparmor_restrict_unprivileged_userns=0, or give shale a profile with `userns,`");
    }
    Check::new(name, Verdict::Good, "allowed")
}

/// The account's name in the text of /etc/passwd.
fn account_of(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

fn id_range(name: &'static str, file: &str, text: &str, account: Option<&str>, uid: u32) -> Check {
    let uid_text = uid.to_string();
    let range = text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let (start, count) = (fields.next()?, fields.next()?.parse::<u64>().ok()?);
        (Some(owner) == account || owner == uid_text).then(|| (start.to_owned(), count))
    });
    let who = account.unwrap_or(&uid_text);
    let advice = format!("echo {who}:100000:65536 >> {file}");
    match range {
        Some((start, count)) if count >= 65536 => Check::new(name, Verdict::Good, format!("{count} ids from {start} ({file})")),
        Some((start, count)) => Check::new(name, Verdict::Limited, format!("only {count} ids from {start} ({file})")).advice(advice),
        None => Check::new(name, Verdict::Bad, format!("{file} has none for {who}")).advice(advice),
    }
}

fn helper(tool: &'static str, environment: &Environment) -> Check {
    let path = environment.get("PATH").unwrap_or("/usr/local/bin:/usr/bin:/bin");
    match path.split(':').map(|dir| Path::new(dir).join(tool)).find(|file| file.is_file()) {
        Some(file) => Check::new(tool, Verdict::Good, file.display().to_string()),
        None => Check::new(tool, Verdict::Bad, "not in PATH").advice("apt-get install uidmap"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::ids::Extent;

    #[test]
    fn id_ranges_are_found_by_name_or_number() {
        for (text, verdict) in [
            ("ada:100000:65536\n", Verdict::Good),
            ("other:1:2\n1000:200000:65536\n", Verdict::Good),
            ("ada:100000:1000\n", Verdict::Limited),
            ("adam:100000:65536\n", Verdict::Bad),
            ("", Verdict::Bad),
            ("ada:100000\n", Verdict::Bad),
        ] {
            let check = id_range("uid range", "/etc/subuid", text, Some("ada"), 1000);
            assert_eq!((check.verdict, check.advice.is_none()), (verdict, verdict == Verdict::Good), "{text:?}");
        }
    }

    #[test]
    fn the_kernel_s_switches_are_told_apart() {
        for ((limit, clone, apparmor), verdict) in [
            (("63000\n", "1\n", "0\n"), Verdict::Good),
            (("63000", "", ""), Verdict::Good),
            (("0\n", "1", ""), Verdict::Bad),
            (("5", "0\n", ""), Verdict::Bad),
            (("5", "", "1\n"), Verdict::Limited),
        ] {
            assert_eq!(user_namespaces(limit, clone, apparmor).verdict, verdict, "{limit:?} {clone:?} {apparmor:?}");
        }
    }

    #[test]
    fn root_of_a_single_id_is_not_enough() {
        let extents = |count| vec![Extent { inside: 0, outside: 1000, count }];
        let maps = |uids, gids| IdMaps { uids: extents(uids), gids: extents(gids) };
        for (maps, verdict) in [
            (Some(maps(1, 1)), Verdict::Bad),
            (Some(maps(65536, 1)), Verdict::Bad),
            (Some(maps(65536, 65536)), Verdict::Good),
            (None, Verdict::Good),
        ] {
            assert_eq!(root_user(maps.clone()).verdict, verdict, "{maps:?}");
        }
    }

    #[test]
    fn accounts_are_found_by_id() {
        let passwd = "root:x:0:0::/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\n";
        assert_eq!(account_of(passwd, 1000).as_deref(), Some("ada"));
        assert_eq!(account_of(passwd, 7), None);
    }

    #[test]
    fn the_report_lines_up() {
        let checks = [Check::new("a", Verdict::Good, "fine"), Check::new("longer", Verdict::Bad, "gone").advice("get it")];
        insta::assert_snapshot!(render(&checks), @r"
        ok       a       fine
        missing  longer  gone
                         → get it
        ");
    }
}
