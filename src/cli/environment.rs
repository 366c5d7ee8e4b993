//! What the process was started with, read once. Everything after this works on values.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use super::args::GlobalArgs;
use super::program::Program;

/// Variables, working directory, user and terminals of the process.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// Variables; those that are not UTF-8 are left out.
    pub variables: BTreeMap<String, String>,
    /// `SHALE_ROOT`, if it is not UTF-8: to build into another store than was asked for is worse than to refuse it.
    pub odd_root: Option<PathBuf>,
    /// The working directory.
    pub current_dir: PathBuf,
    /// Effective user id.
    pub uid: u32,
    /// The name that the program was called by.
    pub program: Program,
    /// `-D` before the command.
    pub debug: bool,
    /// Whether standard input is a terminal.
    pub stdin_is_terminal: bool,
    /// Whether standard output is a terminal.
    pub stdout_is_terminal: bool,
    /// Whether standard error is a terminal.
    pub stderr_is_terminal: bool,
}

impl Environment {
    /// Reads the process.
    pub fn current() -> Self {
        Self {
            variables: std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect(),
            odd_root: std::env::var_os("SHALE_ROOT").filter(|root| root.to_str().is_none()).map(PathBuf::from),
            // One that was deleted is missed only by whoever needs it.
            current_dir: std::env::current_dir().unwrap_or_default(),
            uid: rustix::process::geteuid().as_raw(),
            program: Program::default(),
            debug: false,
            stdin_is_terminal: std::io::stdin().is_terminal(),
            stdout_is_terminal: std::io::stdout().is_terminal(),
            stderr_is_terminal: std::io::stderr().is_terminal(),
        }
    }

    /// The same with what stands before the command. `--config` takes the place of `DOCKER_CONFIG`.
    #[must_use]
    pub fn with(mut self, global: &GlobalArgs, program: Program) -> Self {
        self.program = program;
        self.debug = global.debug;
        if let Some(dir) = &global.config {
            self.variables.insert("DOCKER_CONFIG".into(), self.resolve(dir).to_string_lossy().into_owned());
        }
        self
    }

    /// The daemon on another machine that was asked for: by `-H`, a context or the environment. It is not asked.
    pub fn remote_daemon(&self, global: &GlobalArgs) -> Option<String> {
        let context = global.context.as_deref().or_else(|| self.non_empty("DOCKER_CONTEXT")).filter(|name| *name != "default");
        let host = global.host.last().map(String::as_str).or_else(|| self.non_empty("DOCKER_HOST"));
        match host.filter(|host| !host.is_empty() && !host.starts_with("unix://") && !host.starts_with("fd://")) {
            Some(host) => Some(host.to_owned()),
            None => context.map(|name| format!("the context {name}")),
        }
    }

    /// A variable that is set, even to nothing.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// A variable that is set to something.
    pub fn non_empty(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// A variable that holds an absolute path; a relative one is ignored, as the XDG rules ask.
    pub fn absolute_path(&self, name: &str) -> Option<&Path> {
        self.non_empty(name).map(Path::new).filter(|path| path.is_absolute())
    }

    /// A path as given on the command line, made absolute.
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.current_dir.join(path)
    }

    /// The home directory; `/` (a user without an account in a container) counts as none.
    pub fn home(&self) -> Option<&Path> {
        self.absolute_path("HOME").filter(|home| *home != Path::new("/"))
    }

    /// Where the store is, and a note where the choice needs a word.
    pub fn store_root(&self) -> (PathBuf, Option<String>) {
        if let Some(root) = &self.odd_root {
            return (self.resolve(root), None);
        }
        if let Some(root) = self.non_empty("SHALE_ROOT") {
            return (self.resolve(Path::new(root)), None);
        }
        if self.uid == 0 {
            return ("/var/lib/shale".into(), None);
        }
        if let Some(data) = self.absolute_path("XDG_DATA_HOME") {
            return (data.join("shale"), None);
        }
        if let Some(home) = self.home() {
            return (home.join(".local/share/shale"), None);
        }
        // Jenkins pods run as ids without an account. The store must not lie inside the workspace, where `COPY . .` would
        // take it; Jenkins' own place for temporary files beside the workspace lives as long as the workspace does.
        let workspace = self.absolute_path("WORKSPACE_TMP").map(Path::to_path_buf);
        let beside = || self.absolute_path("WORKSPACE").map(|path| PathBuf::from(format!("{}@tmp", path.display())));
        let root = match workspace.or_else(beside) {
            Some(workspace) => workspace.join("shale"),
            None => self.absolute_path("TMPDIR").unwrap_or(Path::new("/tmp")).join(format!("shale-{}", self.uid)),
        };
        let note = format!("no home directory: the store is {}; set SHALE_ROOT to keep it elsewhere", root.display());
        (root, Some(note))
    }
}

#[cfg(test)]
pub(super) fn test_environment(variables: &[(&str, &str)]) -> Environment {
    Environment {
        variables: variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        current_dir: "/work dir".into(),
        uid: 1000,
        ..Environment::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_elsewhere_is_noticed() {
        let host = |host: &str| GlobalArgs { host: vec![host.into()], ..GlobalArgs::default() };
        let context = GlobalArgs { context: Some("ci".into()), ..GlobalArgs::default() };
        let none = GlobalArgs::default();
        for (variables, global, expected) in [
            (&[][..], &none, None),
            (&[("DOCKER_HOST", "tcp://ci:2375")], &none, Some("tcp://ci:2375")),
            (&[("DOCKER_HOST", "unix:///var/run/docker.sock")], &none, None),
            (&[("DOCKER_HOST", "tcp://a")], &host("ssh://b"), Some("ssh://b")),
            (&[], &context, Some("the context ci")),
            (&[("DOCKER_CONTEXT", "default")], &none, None),
        ] {
            assert_eq!(test_environment(variables).remote_daemon(global).as_deref(), expected, "{variables:?}");
        }
    }

    #[test]
    fn the_flag_for_the_configuration_wins() {
        let global = GlobalArgs { config: Some("cfg".into()), ..GlobalArgs::default() };
        let environment = test_environment(&[("DOCKER_CONFIG", "/old")]).with(&global, Program::Docker);
        assert_eq!((environment.get("DOCKER_CONFIG"), environment.program), (Some("/work dir/cfg"), Program::Docker));
    }

    #[test]
    fn the_store_is_where_the_rules_say() {
        for (variables, uid, root, noted) in [
            (&[("SHALE_ROOT", "st"), ("HOME", "/home/u")][..], 0, "/work dir/st", false),
            (&[("HOME", "/root"), ("XDG_DATA_HOME", "/x")], 0, "/var/lib/shale", false),
            (&[("HOME", "/home/u"), ("XDG_DATA_HOME", "/x")], 7, "/x/shale", false),
            (&[("HOME", "/home/u"), ("XDG_DATA_HOME", "x")], 7, "/home/u/.local/share/shale", false),
            (&[("HOME", "/home/u"), ("SHALE_ROOT", "")], 7, "/home/u/.local/share/shale", false),
            (&[("HOME", "/"), ("WORKSPACE", "/ws/job")], 7, "/ws/job@tmp/shale", true),
            (&[("WORKSPACE", "/ws/job"), ("WORKSPACE_TMP", "/ws/t")], 7, "/ws/t/shale", true),
            (&[("TMPDIR", "/scratch")], 7, "/scratch/shale-7", true),
            (&[], 7, "/tmp/shale-7", true),
        ] {
            let environment = Environment { uid, ..test_environment(variables) };
            let (found, note) = environment.store_root();
            assert_eq!((found.as_path(), note.is_some()), (Path::new(root), noted), "{variables:?}");
        }
    }
}
