//! Which of a host's addresses answers: of IPv6 and IPv4 the one that connects first ("happy eyeballs", RFC 8305).
//!
//! ureq tries addresses one after the other, each with half the time of the one before. Where IPv6 is announced and leads nowhere, a host
//! with several addresses of each kind would get to IPv4 after most of the patience, with some milliseconds left.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_error;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// What the resolver's own choice is ahead of the other kind; Go's programs wait as long.
const HEAD_START: Duration = Duration::from_millis(300);
/// Who has not connected by then is no faster than another.
const PATIENCE: Duration = Duration::from_secs(5);

/// Finds the addresses of the one host, or the proxy, that an agent is for, and puts those in front that can be reached.
#[derive(Debug, Default)]
pub(super) struct Reachable {
    inner: DefaultResolver,
    is_ipv4: OnceLock<bool>,
}

impl Resolver for Reachable {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let mut found = self.inner.resolve(uri, config, timeout)?;
        let Some(first) = found.first().copied() else { return Ok(found) };
        // This machine refuses at once where nobody listens.
        if !first.ip().is_loopback()
            && let Some(other) = found.iter().find(|address| address.is_ipv4() != first.is_ipv4())
        {
            let is_ipv4 = *self.is_ipv4.get_or_init(|| faster(first, *other).is_ipv4());
            found.sort_by_key(|address| address.is_ipv4() != is_ipv4);
        }
        Ok(found)
    }
}

/// The one of two addresses that takes a connection first. What is sent to neither tells nobody anything.
fn faster(first: SocketAddr, other: SocketAddr) -> SocketAddr {
    let Ok(a) = begin(first) else { return other };
    match outcome(&[&a], HEAD_START) {
        Some((_, Ok(()))) => return first,
        Some((_, Err(_))) => return other,
        None => {}
    }
    let Ok(b) = begin(other) else { return first };
    match outcome(&[&a, &b], PATIENCE) {
        // Whoever fails leaves it to the other.
        Some((1, Ok(())) | (0, Err(_))) => other,
        _ => first,
    }
}

/// Begins to connect.
fn begin(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    match connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

/// Which of some connections is the first to stand or to fail, if one does in time.
fn outcome(sockets: &[&OwnedFd], patience: Duration) -> Option<(usize, Result<(), Errno>)> {
    let mut waiting: Vec<_> = sockets.iter().map(|socket| PollFd::new(socket, PollFlags::OUT)).collect();
    let patience = Timespec::try_from(patience).ok()?;
    poll(&mut waiting, Some(&patience)).ok()?;
    let number = waiting.iter().position(|socket| !socket.revents().is_empty())?;
    Some((number, socket_error(sockets[number]).unwrap_or_else(Err)))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// An address where connections neither stand nor fail: its queue is full, and what else comes is dropped.
    fn nowhere() -> (SocketAddr, Vec<TcpStream>, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        rustix::net::listen(&listener, 0).expect("a shorter queue");
        let address = listener.local_addr().expect("an address");
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
        let streams = std::iter::from_fn(connect).take(20).collect();
        (address, streams, listener)
    }

    #[test]
    fn the_address_that_connects_is_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let good = listener.local_addr().expect("an address");
        let also = TcpListener::bind("127.0.0.1:0").expect("a port");
        let refused = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
        let (hanging, _full, _listener) = nowhere();
        let slow = begin(hanging).expect("a socket");
        assert!(outcome(&[&slow], Duration::from_millis(100)).is_none(), "it leads somewhere");
        for (first, other, expected) in [
            (good, also.local_addr().expect("an address"), good),
            (refused, good, good),
            (hanging, good, good),
            (good, hanging, good),
            (hanging, refused, hanging),
        ] {
            assert_eq!(faster(first, other), expected, "{first} {other}");
        }
    }
}
