//! Debian's registry on the loopback device, for tests that want a real one.
#![allow(dead_code, unreachable_pub, reason = "every test file uses its own part of it")]
#![allow(clippy::print_stderr, reason = "skips are for whoever runs the tests")]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

/// Its only user, where it wants one.
pub const USER: &str = "user";
/// The user's password.
pub const PASSWORD: &str = "secret";
/// bcrypt of the password, as htpasswd writes it.
const HASH: &str = "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";

/// A registry on a free port; ends with the test.
pub struct Registry {
    process: Child,
    pub host: String,
}

impl Registry {
    /// `None`, and a line that says so, if it is not installed. `http` goes under `http:` of its settings.
    pub fn start(dir: &Path, http: &str, auth: &str) -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let data = dir.join("registry");
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n{auth}http:\n  addr: 127.0.0.1:{port}\n{http}",
            data.display()
        );
        let file = dir.join("registry.yml");
        fs::write(&file, config).expect("a file");
        let started = Command::new("docker-registry").arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let process = match started {
            Ok(process) => process,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("SKIP: docker-registry: not installed");
                return None;
            }
            Err(e) => panic!("docker-registry: {e}"),
        };
        let registry = Self { process, host: format!("127.0.0.1:{port}") };
        let is_up = (0..400).any(|_| {
            thread::sleep(Duration::from_millis(25));
            TcpStream::connect(&registry.host).is_ok()
        });
        assert!(is_up, "the registry does not listen");
        Some(registry)
    }

    /// One that wants a user.
    pub fn with_user(dir: &Path) -> Option<Self> {
        let users = dir.join("users");
        fs::write(&users, format!("{USER}:{HASH}\n")).expect("a file");
        Self::start(dir, "", &format!("auth:\n  htpasswd:\n    realm: r\n    path: {}\n", users.display()))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
