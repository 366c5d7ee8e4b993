//! An agent, seen through a socket that belongs to a step.
//!
//! The step never gets the agent's own socket: it may list keys and have things signed, but neither add, remove nor lock keys, and
//! its user need not be the caller's.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::keys::Keyring;
use super::{Agent, FAILURE};

/// What a step may ask: a list of the keys, a signature, an extension.
const ALLOWED: [u8; 3] = [11, 13, 27];
/// No message of the protocol is longer.
const LIMIT_BYTES: usize = 256 << 10;

/// A socket for a step; dropped, nobody listens on it any more.
#[derive(Debug)]
pub struct Forwarded {
    path: PathBuf,
    dir: File,
    is_over: Arc<AtomicBool>,
}

impl Forwarded {
    /// Listens at `name` in `dir` for an agent.
    pub fn start(dir: &Path, name: &str, agent: Agent) -> io::Result<Self> {
        // Refused now, not when the step has run for an hour.
        agent.connect()?;
        // The name of a socket is short, the store's path need not be.
        let opened = File::open(dir)?;
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{name}", opened.as_raw_fd()))?;
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        thread::Builder::new().name("ssh agent".into()).spawn(move || {
            for client in listener.incoming() {
                if over.load(Ordering::Acquire) {
                    return;
                }
                let (Ok(client), Ok(mut agent)) = (client, agent.connect()) else { continue };
                // It ends with the step, which closes its end. Without a thread the client sees its socket closed.
                drop(thread::Builder::new().name("ssh agent".into()).spawn(move || serve(client, &mut *agent)));
            }
        })?;
        Ok(Self { path: dir.join(name), dir: opened, is_over })
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The socket by a name that is short enough for every program of this user, as long as this process lives.
    pub fn short_path(&self) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default();
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.dir.as_raw_fd())).join(name)
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        // The listener wakes up and looks. If it cannot be reached, its socket is gone and so is every way to the agent.
        drop(UnixStream::connect(self.short_path()));
    }
}

/// Somebody who answers messages of the protocol.
trait Asked: Send {
    fn ask(&mut self, question: &[u8]) -> io::Result<Vec<u8>>;
}

impl Asked for UnixStream {
    fn ask(&mut self, question: &[u8]) -> io::Result<Vec<u8>> {
        self.write_all(question)?;
        read_message(self)
    }
}

impl Asked for Arc<Keyring> {
    fn ask(&mut self, question: &[u8]) -> io::Result<Vec<u8>> {
        Ok(self.answer(question))
    }
}

impl Agent {
    fn connect(&self) -> io::Result<Box<dyn Asked>> {
        Ok(match self {
            Self::Socket(path) => Box::new(UnixStream::connect(path)?),
            Self::Keys(keys) => Box::new(Arc::clone(keys)),
        })
    }
}

/// Questions and answers, one after the other, until either side leaves.
fn serve(mut client: impl Read + Write, agent: &mut dyn Asked) {
    while let Ok(question) = read_message(&mut client) {
        let answer = if question.get(4).is_some_and(|kind| ALLOWED.contains(kind)) { agent.ask(&question) } else { Ok(FAILURE.to_vec()) };
        let Ok(answer) = answer else { return };
        if client.write_all(&answer).is_err() {
            return;
        }
    }
}

/// A message with its length in front.
fn read_message(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let size = u32::from_be_bytes(length) as usize;
    if size > LIMIT_BYTES {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    let mut message = vec![0; 4 + size];
    message[..4].copy_from_slice(&length);
    from.read_exact(&mut message[4..])?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        [&(body.len() as u32 + 1).to_be_bytes()[..], &[kind], body].concat()
    }

    #[test]
    fn a_step_may_list_and_sign_but_not_change_the_agent() {
        let dir = tempfile::tempdir().expect("a folder");
        let agent = UnixListener::bind(dir.path().join("agent")).expect("a socket");
        let heard = thread::spawn(move || {
            let mut heard = Vec::new();
            for stream in agent.incoming().skip(1).take(1) {
                let mut stream = stream.expect("a client");
                while let Ok(question) = read_message(&mut stream) {
                    heard.push(question[4]);
                    stream.write_all(&message(12, b"keys")).expect("the other side listens");
                }
            }
            heard
        });
        let forwarded = Forwarded::start(dir.path(), "step", Agent::Socket(dir.path().join("agent"))).expect("a socket");
        let mut client = UnixStream::connect(forwarded.short_path()).expect("it listens");
        for (kind, want) in [(11, message(12, b"keys")), (19, FAILURE.to_vec()), (13, message(12, b"keys")), (22, FAILURE.to_vec())] {
            client.write_all(&message(kind, b"x")).expect("it listens");
            assert_eq!(read_message(&mut client).expect("an answer"), want, "{kind}");
        }
        drop(client);
        assert_eq!(heard.join().expect("no panic"), [11, 13]);
    }
}
