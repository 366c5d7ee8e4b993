//! TLS connections whose verifier also knows *self-signed* server certificates.
//!
//! Docker's own instructions for a private registry make one certificate that is CA and server at once, and put it into
//! `certs.d`. webpki refuses such a certificate as a server's; Go's verifier, and so Docker, trusts it. Here it is accepted if
//! exactly this certificate is among the trusted ones and it names the host. ureq takes no verifier, so the connector is ours, too.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use ureq::unversioned::transport::{
    ConnectProxyConnector, ConnectionDetails, Connector, DefaultConnector, Either, SocksConnector, TcpConnector, Transport,
    TransportAdapter,
};

use super::reach::Reachable;
use super::stream::{Stream, StreamTransport};

/// An agent for plain HTTP.
pub(super) fn plain_agent(config: ureq::config::Config) -> ureq::Agent {
    ureq::Agent::with_parts(config, DefaultConnector::default(), Reachable::default())
}

/// An agent that makes its connections by these TLS settings.
pub(super) fn agent(config: ureq::config::Config, tls: Arc<ClientConfig>) -> ureq::Agent {
    let tunnel = ().chain(SocksConnector::default()).chain(ConnectProxyConnector::default());
    let connector = tunnel.chain(TcpConnector::default()).chain(TlsConnector { config: tls });
    ureq::Agent::with_parts(config, connector, Reachable::default())
}

/// Decides about a server's certificate.
#[derive(Debug)]
pub(super) struct Verifier {
    provider: Arc<CryptoProvider>,
    /// `None` = any certificate will do.
    inner: Option<Arc<WebPkiServerVerifier>>,
    trusted: Vec<CertificateDer<'static>>,
}

impl Verifier {
    /// A verifier for the trust anchors of `inner`; `trusted` are these as certificates.
    pub(super) fn new(
        provider: Arc<CryptoProvider>,
        inner: Option<Arc<WebPkiServerVerifier>>,
        trusted: Vec<CertificateDer<'static>>,
    ) -> Self {
        Self { provider, inner, trusted }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(inner) = &self.inner else { return Ok(ServerCertVerified::assertion()) };
        match inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // "Other" is where "a CA used as a server" hides; an expired certificate has an error of its own.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_))) if self.trusted.iter().any(|c| c == end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Puts TLS on a connection where the URL asks for it.
#[derive(Debug)]
struct TlsConnector {
    config: Arc<ClientConfig>,
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, StreamTransport<StreamOwned<ClientConnection, TransportAdapter>>>;

    fn connect(&self, details: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else { return Ok(None) };
        if !details.needs_tls() || transport.is_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(|_| ureq::Error::Tls("not a host name"))?;
        let to_io = |e: rustls::Error| ureq::Error::Io(std::io::Error::new(std::io::ErrorKind::InvalidData, e));
        let mut connection = ClientConnection::new(Arc::clone(&self.config), name).map_err(to_io)?;
        let mut socket = TransportAdapter::new(transport.boxed(), Arc::clone(&details.current_time));
        socket.set_timeout(details.timeout);
        connection.complete_io(&mut socket)?;
        Ok(Some(Either::B(StreamTransport::new(details.config, StreamOwned::new(connection, socket)))))
    }
}

impl Stream for StreamOwned<ClientConnection, TransportAdapter> {
    const IS_TLS: bool = true;

    fn socket(&mut self) -> &mut TransportAdapter {
        self.get_mut()
    }
}
