//! How the main process and the worker talk.
//!
//! The control socket (SOCK_SEQPACKET) starts the worker and then carries one byte with one descriptor per request: the end of a
//! stream socket that belongs to this request alone. On that one go a byte with the request's descriptors, then frames: the
//! request, and back the replies. So a request waits for another one at most while that is read, and whoever dies closes what the other one reads.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, open};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shale_cache::DiffId;

use super::layers::{self, WriteLayer};
use crate::layer::compress::PackNumbers;
use crate::sandbox::handover::{receive_with_fds, send_with_fds};
use crate::sandbox::{Exit, Failure, LowerLayer, RunRequest};

/// The worker's first word: requests are welcome.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Ready;

/// What the worker is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Run a command. Descriptors: its stdout and its stderr.
    Run(Box<RunRequest>),
    /// Unpack a blob into a fresh directory. Descriptor: the blob.
    Unpack(PathBuf),
    /// Give directories of an unpacked layer, by path, what its index says of them: the index file, and where the layer is.
    Settle(PathBuf, Vec<Vec<u8>>, PathBuf),
    /// Write a layer in another form, with the niceness of who asks. Descriptors: as `layers::{To, From}` say.
    Write(Box<WriteLayer>, i32),
    /// Read a few contents of mapped ids, by path.
    Read(Box<layers::From>, Vec<Vec<u8>>),
    /// Make one layer of several, bottom first, in a fresh directory.
    Merge(Vec<LowerLayer>, PathBuf),
    /// Delete trees of mapped ids.
    Remove(Vec<PathBuf>),
    /// Compare unpacked forms with their indexes: pairs of a directory and an index file.
    Compare(Vec<(PathBuf, PathBuf)>),
    /// Say how many bytes trees of mapped ids take.
    Measure(Vec<PathBuf>),
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// The command ended; what it wrote is in the pipes.
    Exited(Exit),
    /// The upper directory is normalised; the bytes behind are its index.
    Captured {
        /// The directory.
        upper: PathBuf,
        /// Modification times that the command can have made lie between these, both included: (seconds, nanoseconds).
        window: [(i64, u32); 2],
        /// The digest of the layer's tar, if it was wanted and the layer is small.
        diff_id: Option<DiffId>,
    },
    /// Unpacked, with the digest of the tar and the directories that it has no members of; the bytes behind are the index.
    Unpacked(DiffId, Vec<Vec<u8>>),
    /// Written; digests and size of a packed form.
    Written(Option<PackNumbers>),
    /// What was read, in the order that was asked for.
    Contents(Vec<Vec<u8>>),
    /// Merged; the bytes are the index.
    Merged,
    /// The first difference of each, in the order that was asked for.
    Compared(Vec<Option<String>>),
    /// Allocated bytes, in the order that was asked for; nothing where even the worker may not look.
    Measured(Vec<Option<u64>>),
    /// Done, nothing to say.
    Done,
    /// Not done.
    Failed(Failure),
}

/// The main process asks a running step to stop.
pub(super) const STOP: u8 = b's';
/// The main process does not want to wait for the step to stop.
pub(super) const KILL: u8 = b'k';

/// The control socket comes as stdin, the only descriptor besides stdout and stderr that survives the start of a program.
pub(super) fn take_control() -> io::Result<OwnedFd> {
    let control = io::stdin().as_fd().try_clone_to_owned()?;
    let null = open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(null)?;
    Ok(control)
}

/// Sends a value as one message of the control socket.
pub(super) fn send_start(socket: impl AsFd, value: &impl Serialize) -> io::Result<()> {
    send_with_fds(socket.as_fd(), &serde_json::to_vec(value)?, &[])
}

/// Receives a value from the control socket; `None` when it is closed.
pub(super) fn receive_start<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<T>> {
    let mut bytes = [0; 4096];
    let (len, _) = receive_with_fds(socket.as_fd(), &mut bytes)?;
    if len == 0 { Ok(None) } else { Ok(Some(serde_json::from_slice(&bytes[..len])?)) }
}

/// Writes a value, and bytes behind it, as one frame.
pub(super) fn write_frame(mut to: impl Write, value: &impl Serialize, blob: &[u8]) -> io::Result<()> {
    // The places of a large context's files are tens of megabytes: they are encoded where they are sent from.
    let mut frame = vec![0; 12];
    serde_json::to_writer(&mut frame, value)?;
    let json_len = (frame.len() - 12) as u32;
    frame[..4].copy_from_slice(&json_len.to_le_bytes());
    frame[4..12].copy_from_slice(&(blob.len() as u64).to_le_bytes());
    to.write_all(&frame)?;
    drop(frame);
    to.write_all(blob)
}

/// Reads a frame.
pub(super) fn read_frame<T: DeserializeOwned>(mut from: impl Read) -> io::Result<(T, Vec<u8>)> {
    let mut head = [0; 12];
    from.read_exact(&mut head)?;
    let (json_len, blob_len) = head.split_at(4);
    let json_len = u32::from_le_bytes(json_len.try_into().expect("four bytes")) as usize;
    let blob_len = u64::from_le_bytes(blob_len.try_into().expect("eight bytes")) as usize;
    let mut json = vec![0; json_len];
    from.read_exact(&mut json)?;
    let mut blob = vec![0; blob_len];
    from.read_exact(&mut blob)?;
    Ok((serde_json::from_slice(&json)?, blob))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_survives_the_way() {
        let mut wire = Vec::new();
        write_frame(&mut wire, &Reply::Exited(Exit::Code(3)), b"blob").unwrap();
        let (reply, blob): (Reply, _) = read_frame(&wire[..]).unwrap();
        assert!(matches!(reply, Reply::Exited(Exit::Code(3))), "{reply:?}");
        assert_eq!(blob, b"blob");
        assert!(read_frame::<Reply>(&wire[..wire.len() - 1]).is_err());
    }
}
