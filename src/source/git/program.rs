//! The `git` program: how it is started, stopped, and what of its words is repeated.

use std::io::{self, Read};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::GitError;
use crate::source::registry::Progress;
use crate::worker::{guarded, start_error};

/// How often the one who waits looks whether he is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The first wait is shorter: most commands end at once.
const FIRST_LOOK: Duration = Duration::from_millis(1);
/// No answer that is read here is longer, and no complaint is worth more.
const ANSWER_LIMIT_BYTES: usize = 16 << 20;
/// How long its output may stay open behind git.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a server may say nothing over HTTP, in seconds.
const STALLED_SECS: &str = "300";
const PROGRAM: &str = "git";

/// What git is told from outside. Nothing here is read by this module itself.
#[derive(Clone, Debug, Default)]
pub struct GitConfig {
    /// `PATH`
    pub path: Option<String>,
    /// Proxies, as variables.
    pub proxies: Vec<(String, String)>,
    /// `GIT_SSH_COMMAND`: how the caller reaches hosts by ssh.
    pub ssh_command: Option<String>,
    /// `SSH_AUTH_SOCK`: the caller's own agent.
    pub agent: Option<PathBuf>,
    /// Whether git ends with this process even where that is killed: possible in a program that calls [`crate::worker::hook`].
    pub is_guarded: bool,
}

/// Settings by name that one command is started with. Their values are seen by nobody else: they go through the environment.
pub(super) type Settings = Vec<(String, String)>;

/// A way to start git.
pub(super) struct Git<'a> {
    pub(super) config: &'a GitConfig,
    /// The socket of the agent that ssh may ask.
    pub(super) agent: Option<&'a Path>,
    /// Where hosts that were seen for the first time are noted.
    pub(super) known_hosts: &'a Path,
    /// Given to every command.
    pub(super) settings: &'a Settings,
    /// What must not be repeated.
    pub(super) secrets: &'a [String],
    pub(super) progress: &'a dyn Progress,
}

impl Git<'_> {
    /// Runs git in `dir` and gives its answer. `deed` begins the complaint if it fails.
    pub(super) fn run(&self, dir: &Path, deed: &str, arguments: &[&str]) -> Result<String, GitError> {
        match self.try_run(dir, arguments)? {
            Ok(answer) => Ok(answer),
            Err(said) => Err(GitError::Command { deed: deed.into(), said }),
        }
    }

    /// The same; the inner error is what git says about its failure.
    pub(super) fn try_run(&self, dir: &Path, arguments: &[&str]) -> Result<Result<String, String>, GitError> {
        let mut command = self.command();
        command.args(arguments).current_dir(dir).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own: with git end its helpers, and a Ctrl-C is told by us.
        command.env_clear().envs(self.environment()).process_group(0);
        let mut child = command.spawn().map_err(GitError::NoProgram)?;
        // Closed, it ends git.
        let leash = child.stdin.take();
        let (output, complaint) = (Reader::start(child.stdout.take()), Reader::start(child.stderr.take()));
        let mut pause = FIRST_LOOK;
        let status = loop {
            if let Some(status) = child.try_wait().map_err(GitError::NoProgram)? {
                break status;
            }
            if self.progress.is_cancelled() {
                stop(&mut child, leash);
                return Err(GitError::Cancelled);
            }
            thread::sleep(pause);
            pause = (pause * 2).min(LOOK_EVERY);
        };
        let (answer, complaint) = (output.end(), complaint.end());
        if let Some(error) = start_error(status, &answer) {
            return Err(GitError::NoProgram(error));
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(if status.success() { Ok(text(&answer)) } else { Err(self.repeatable(&text(&complaint), &status.to_string())) })
    }

    fn command(&self) -> Command {
        if self.config.is_guarded {
            return guarded(PROGRAM);
        }
        let mut command = Command::new(PROGRAM);
        command.stdin(Stdio::null());
        command
    }

    /// Nothing of the caller's but what is named here: neither files of settings nor variables change what is built.
    fn environment(&self) -> Vec<(String, String)> {
        let fixed = [
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            // None, for repositories of submodules too.
            ("GIT_TEMPLATE_DIR", ""),
            ("HOME", "/dev/null"),
            ("LC_ALL", "C"),
        ];
        let mut variables: Vec<(String, String)> = fixed.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        variables.extend(self.config.path.clone().map(|path| ("PATH".into(), path)));
        variables.extend(self.config.proxies.iter().cloned());
        variables.extend(self.agent.map(|agent| ("SSH_AUTH_SOCK".into(), agent.display().to_string())));
        let ssh = self.config.ssh_command.clone().unwrap_or_else(|| ssh_command(self.known_hosts));
        variables.push(("GIT_SSH_COMMAND".into(), ssh));
        // A repository must not make git read another one of this machine by way of its submodules.
        let guard = [
            ("protocol.file.allow", "user"),
            ("advice.detachedHead", "false"),
            // Servers that work say so every few seconds.
            ("http.lowSpeedLimit", "1"),
            ("http.lowSpeedTime", STALLED_SECS),
        ];
        let guard = guard.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let settings: Vec<_> = guard.iter().chain(self.settings).collect();
        variables.push(("GIT_CONFIG_COUNT".into(), settings.len().to_string()));
        for (number, (key, value)) in settings.into_iter().enumerate() {
            variables.push((format!("GIT_CONFIG_KEY_{number}"), key.clone()));
            variables.push((format!("GIT_CONFIG_VALUE_{number}"), value.clone()));
        }
        variables
    }

    /// What git said, in one line and without secrets.
    fn repeatable(&self, complaint: &str, status: &str) -> String {
        let lines = complaint.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("hint:"));
        let mut text = lines.collect::<Vec<_>>().join("; ");
        for secret in self.secrets {
            text = text.replace(secret, "xxxxx");
        }
        if text.is_empty() { status.into() } else { format!("{text}: {status}") }
    }
}

/// A host that nobody knows is taken at its word, as BuildKit does, and remembered; one that has changed is refused.
fn ssh_command(known_hosts: &Path) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let files = format!("UserKnownHostsFile=\"{}\" ~/.ssh/known_hosts", known_hosts.display());
    format!("ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o {}", quoted(&files))
}

/// Reads a stream beside the process, which would wait for a full pipe.
struct Reader {
    bytes: Arc<Mutex<Vec<u8>>>,
    /// Broken when the stream has ended.
    ended: mpsc::Receiver<()>,
}

impl Reader {
    fn start(stream: Option<impl Read + Send + 'static>) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let (reading, ended) = mpsc::channel();
        if let Some(stream) = stream {
            let bytes = Arc::clone(&bytes);
            thread::spawn(move || {
                read(stream, &bytes);
                drop(reading);
            });
        }
        Self { bytes, ended }
    }

    /// What git has written, which has ended. Something that it left behind may hold the stream open: an ssh for later connections.
    fn end(self) -> Vec<u8> {
        let _ = self.ended.recv_timeout(LAST_WORDS);
        std::mem::take(&mut *self.bytes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn read(mut stream: impl Read, bytes: &Mutex<Vec<u8>>) {
    let mut chunk = [0; 8 << 10];
    loop {
        match stream.read(&mut chunk) {
            // What is cut off or broken is told by the exit status.
            Ok(0) => return,
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return,
            Err(_) => {}
            Ok(len) => {
                let mut bytes = bytes.lock().unwrap_or_else(PoisonError::into_inner);
                let room = ANSWER_LIMIT_BYTES - bytes.len();
                bytes.extend_from_slice(&chunk[..len.min(room)]);
            }
        }
    }
}

/// Ends git and what it has started. Its guard, if it has one, does so when there is no leash.
fn stop(child: &mut Child, leash: Option<ChildStdin>) {
    if leash.is_none() {
        // It may have ended by itself.
        let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
    }
    drop(leash);
    drop(child.wait());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git<'a>(config: &'a GitConfig, settings: &'a Settings, progress: &'a dyn Progress) -> Git<'a> {
        Git { config, agent: None, known_hosts: Path::new("/k h"), settings, secrets: &[], progress }
    }

    #[test]
    fn a_missing_program_is_told_by_name() {
        let config = GitConfig { path: Some("/nowhere".into()), ..GitConfig::default() };
        let error = git(&config, &Vec::new(), &()).run(Path::new("/"), "x", &["version"]).expect_err("no git there");
        assert!(error.to_string().starts_with("failed to find git binary: "), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("git")));
    }

    #[test]
    fn secrets_go_by_the_environment_and_are_not_repeated() {
        let config = GitConfig::default();
        let settings = vec![("http.https://h/.extraheader".to_owned(), "Authorization: s3cret".to_owned())];
        let secrets = ["s3cret".to_owned()];
        let git = Git { secrets: &secrets, ..git(&config, &settings, &()) };
        let variables = git.environment();
        assert!(variables.contains(&("GIT_CONFIG_COUNT".into(), "5".into())));
        assert!(variables.contains(&("GIT_CONFIG_VALUE_4".into(), "Authorization: s3cret".into())));
        assert!(!variables.iter().any(|(name, _)| name == "PATH" || name == "SSH_AUTH_SOCK"));
        assert_eq!(git.repeatable("hint: x\nfatal: s3cret is wrong\n\n", "exit status: 128"), "fatal: xxxxx is wrong: exit status: 128");
    }

    #[test]
    fn a_command_ends_when_nobody_waits_for_it() {
        struct Gone;
        impl Progress for Gone {
            fn is_cancelled(&self) -> bool {
                true
            }
        }
        let dir = tempfile::tempdir().expect("a folder");
        // A git that never ends.
        let path = dir.path().join("git");
        std::fs::write(&path, "#!/bin/sh\nexec sleep 1000\n").expect("written");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
        let config = GitConfig { path: Some(format!("{}:/usr/bin:/bin", dir.path().display())), ..GitConfig::default() };
        let error = git(&config, &Vec::new(), &Gone).run(dir.path(), "x", &[]).expect_err("stopped");
        assert!(matches!(error, GitError::Cancelled));
    }

    #[test]
    fn ssh_takes_odd_paths() {
        assert!(ssh_command(Path::new("/it's here/k")).ends_with(r#"-o 'UserKnownHostsFile="/it'\''s here/k" ~/.ssh/known_hosts'"#));
    }
}
