//! Debian's registry on a free port of the loopback, with one user who may do everything and nobody else.

use std::fs;
use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use super::{Lab, skip};

/// A user of the registry.
pub const USER: &str = "ci";
/// The user's password.
pub const PASSWORD: &str = "secret";
/// bcrypt of the password, as htpasswd writes it.
const HASH: &str = "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";

/// A registry; it ends with the value.
pub struct Registry {
    process: Child,
    /// `127.0.0.1:PORT`
    pub host: String,
}

impl Registry {
    /// Starts it; `None`, and a line that says so, if it is not installed.
    pub fn start(lab: &Lab) -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
        let (users, file) = (lab.path("users"), lab.path("registry.yml"));
        fs::write(&users, format!("{USER}:{HASH}\n")).expect("a file");
        let settings = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nauth:\n  htpasswd:\n    realm: ci\n    path: {}\n\
             http:\n  addr: 127.0.0.1:{port}\n",
            lab.path("registry").display(),
            users.display()
        );
        fs::write(&file, settings).expect("a file");
        let process = match Command::new("docker-registry").arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
            Ok(process) => process,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                skip("registry", "docker-registry is not installed");
                return None;
            }
            Err(error) => panic!("docker-registry: {error}"),
        };
        let registry = Self { process, host: format!("127.0.0.1:{port}") };
        let is_up = (0..400).any(|_| {
            thread::sleep(Duration::from_millis(25));
            TcpStream::connect(&registry.host).is_ok()
        });
        assert!(is_up, "the registry does not listen");
        Some(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
