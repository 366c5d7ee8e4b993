//! Plain HTTP by a proxy: the proxy is asked for the whole URL.
//!
//! ureq opens a tunnel (`CONNECT`) for every URL. Proxies allow tunnels to port 443 and refuse the rest (Squid's own settings do), and
//! curl, Go and so Docker ask them for `GET http://HOST/PATH` (RFC 9112, 3.2.2).

use std::io::{self, Read, Write};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::transport::{ConnectionDetails, Connector, TcpConnector, Transport as _, TransportAdapter};
use ureq::{Agent, Proxy, ProxyProtocol};

use super::http::authority;
use super::reach::Reachable;
use super::stream::{Stream, StreamTransport};

/// Whether plain HTTP goes by this proxy without a tunnel. To one that is itself reached by TLS, ureq knows the way.
pub(super) fn forwards(proxy: &Proxy) -> bool {
    proxy.protocol() == ProxyProtocol::Http
}

/// An agent whose requests, all of plain HTTP, go to the proxy of its settings.
pub(super) fn agent(config: Config) -> Agent {
    Agent::with_parts(config, ForwardConnector::default(), Reachable::default())
}

/// Connects to the proxy instead of the URL's host.
#[derive(Debug, Default)]
struct ForwardConnector {
    tcp: TcpConnector,
}

impl Connector for ForwardConnector {
    type Out = StreamTransport<Forwarded>;

    fn connect(&self, details: &ConnectionDetails<'_>, _none: Option<()>) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(proxy) = details.config.proxy() else { return Ok(None) };
        let way = ConnectionDetails {
            uri: proxy.uri(),
            addrs: details.resolver.resolve(proxy.uri(), details.config, details.timeout)?,
            current_time: Arc::clone(&details.current_time),
            run_connector: Arc::clone(&details.run_connector),
            register_shutdown: Arc::clone(&details.register_shutdown),
            ..*details
        };
        let Some(tcp) = self.tcp.connect(&way, None::<()>)? else { return Ok(None) };
        let socket = TransportAdapter::new(tcp.boxed(), Arc::clone(&details.current_time));
        Ok(Some(StreamTransport::new(details.config, Forwarded { socket, head: Some(Head::new(details.uri, proxy)) })))
    }
}

/// What a proxy wants in the head of a request.
#[derive(Debug)]
struct Head {
    /// `http://HOST:PORT`, in front of the path.
    origin: String,
    /// A line for a proxy with a password.
    authorization: String,
}

impl Head {
    fn new(url: &Uri, proxy: &Proxy) -> Self {
        let authorization = match (proxy.username(), proxy.password()) {
            (None, None) => String::new(),
            (user, password) => {
                let pair = format!("{}:{}", user.unwrap_or_default(), password.unwrap_or_default());
                format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(pair))
            }
        };
        Self { origin: format!("http://{}", authority(url)), authorization }
    }

    /// The same head for the proxy. ureq writes the first line of a request in one piece.
    fn put_into(&self, request: &[u8]) -> Vec<u8> {
        let path = request.iter().position(|byte| *byte == b' ').map_or(0, |space| space + 1);
        let headers = request.windows(2).position(|pair| pair == b"\r\n").map_or(path, |end| end + 2);
        [&request[..path], self.origin.as_bytes(), &request[path..headers], self.authorization.as_bytes(), &request[headers..]].concat()
    }
}

/// A connection to a proxy. It serves one request: the next one's head could not be told from the end of a body.
struct Forwarded {
    socket: TransportAdapter,
    head: Option<Head>,
}

impl Read for Forwarded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.read(buffer)
    }
}

impl Write for Forwarded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(head) = self.head.take() else { return self.socket.write(bytes) };
        self.socket.write_all(&head.put_into(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

impl Stream for Forwarded {
    const IS_TLS: bool = false;

    fn socket(&mut self) -> &mut TransportAdapter {
        &mut self.socket
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_asked_for_the_whole_url() {
        let url: Uri = "http://r.lan:5000/v2/a/blobs/x?y=z w".replace(' ', "%20").parse().expect("a URI");
        let head = |proxy: &str| Head::new(&url, &Proxy::new(proxy).expect("a proxy"));
        let request = b"PUT /v2/a?y=z HTTP/1.1\r\nhost: r.lan:5000\r\n\r\n body";
        let asked = |proxy: &str| String::from_utf8(head(proxy).put_into(request)).expect("text");
        assert_eq!(asked("http://p:1"), "PUT http://r.lan:5000/v2/a?y=z HTTP/1.1\r\nhost: r.lan:5000\r\n\r\n body");
        let known = "PUT http://r.lan:5000/v2/a?y=z HTTP/1.1\r\nProxy-Authorization: Basic dTpwQA==\r\nhost: r.lan:5000\r\n\r\n body";
        assert_eq!(asked("http://u:p%40@p:1"), known);
    }
}
