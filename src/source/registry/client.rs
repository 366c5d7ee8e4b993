//! One request about a repository: its address, its credentials, the registry's challenge.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use shale_cache::OciDigest;
use ureq::http::Method;

use super::auth::{self, Scope, Tokens};
use super::config::{Progress, RegistryConfig};
use super::credentials::{self, Credential};
use super::error::RegistryError;
use super::http::{self, Payload, Request, Response, Transport};
use super::retry::{Fault, with_retry};
use crate::oci::reference::{Reference, api_host};

/// Talks to registries. Shared by all threads of a build; remembers connections and tokens.
#[derive(Debug, Default)]
pub struct Client {
    pub(super) transport: Transport,
    pub(super) tokens: Tokens,
    /// Mirrors that did not answer; asking them again for every blob would cost a wait each.
    given_up: Mutex<HashSet<String>>,
}

/// A request about a repository.
pub(super) struct Call<'a> {
    pub(super) scope: Scope<'a>,
    pub(super) method: Method,
    /// Whole URL. Outside the registry's own origin it gets no credentials.
    pub(super) url: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) payload: Payload<'a>,
}

impl Client {
    /// A client; nothing is read or connected yet.
    pub fn new(config: RegistryConfig) -> Self {
        Self { transport: Transport::new(config), ..Self::default() }
    }

    /// Tries user and password, or an identity token, on a registry. Gives the identity token that stands for them from now on, if
    /// the registry made one.
    pub fn login(&self, registry: &str, credential: &Credential, progress: &dyn Progress) -> Result<Option<String>, RegistryError> {
        let host = api_host(registry);
        with_retry(self.transport.config().retry, host, progress, || auth::try_login(&self.transport, host, credential))
    }

    /// The credential that is kept for a registry as a whole.
    pub fn stored_credential(&self, registry: &str) -> Result<Option<Credential>, RegistryError> {
        Ok(credentials::lookup_host(self.transport.config(), registry)?.credential)
    }

    /// Where a repository is written to.
    pub fn home(&self, reference: &Reference) -> Result<Reference, RegistryError> {
        self.transport.config().home(reference)
    }

    pub(super) fn is_given_up(&self, mirror: &Reference) -> bool {
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner).contains(mirror.domain())
    }

    pub(super) fn note_failure(&self, mirror: &Reference, error: &RegistryError) {
        let is_out_of_order = match error {
            RegistryError::Unreachable { .. } | RegistryError::Tls { .. } | RegistryError::RateLimited { .. } => true,
            // As often as it was asked: each blob would cost the same patience again.
            RegistryError::Status { status, .. } => *status == 429 || *status >= 500,
            _ => false,
        };
        if is_out_of_order {
            self.given_up.lock().unwrap_or_else(PoisonError::into_inner).insert(mirror.domain().to_owned());
        }
    }

    /// The URL of something in a repository: `manifests/latest`, `blobs/uploads/`.
    pub(super) fn url(&self, reference: &Reference, path: &str) -> String {
        format!("{}/v2/{}/{path}", self.transport.base(reference.api_host()), reference.path())
    }

    /// Sends a request to read something of a repository.
    pub(super) fn request(
        &self,
        reference: &Reference,
        method: Method,
        path: &str,
        accept: &[&'static str],
        from_byte: u64,
    ) -> Result<Response, Fault> {
        let request = Request { method, accept: accept.to_vec(), from_byte, ..Request::get(self.url(reference, path)) };
        self.send(Scope::pull(reference), request, Payload::Nothing)
    }

    /// Sends any request about a repository.
    pub(super) fn call(&self, call: Call<'_>) -> Result<Response, Fault> {
        let Call { scope, method, url, headers, payload } = call;
        self.send(scope, Request { method, conditions: headers, ..Request::get(url) }, payload)
    }

    /// Sends a request with the credentials that it may have, and answers the registry's challenge once.
    fn send(&self, scope: Scope<'_>, mut request: Request, payload: Payload<'_>) -> Result<Response, Fault> {
        let (host, base) = (scope.reference.api_host(), self.transport.base(scope.reference.api_host()));
        // Another thread may just have found out that the host speaks TLS, or the registry names itself without: neither is taken up on it.
        if base.starts_with("https:") && http::is_same_origin(&format!("http://{host}"), &request.url) {
            request.url = http::moved_to(&base, &request.url);
        }
        if !http::is_same_origin(&base, &request.url) {
            return self.transport.send_with(&request, payload);
        }
        request.authorization = self.tokens.get(scope);
        let response = self.transport.send_home(host, &mut request, payload)?;
        // Who a redirect leads to is not the registry: what it asks for is not answered with the registry's credentials.
        if response.status != 401 || response.is_foreign {
            return Ok(response);
        }
        request.authorization = Some(self.tokens.answer(&self.transport, scope, response)?);
        let response = self.transport.send_with(&request, payload)?;
        if response.status == 401 && !response.is_foreign {
            return Err(self.tokens.refusal(&self.transport, scope, response).into());
        }
        Ok(response)
    }

    /// The error for a status that a read does not expect.
    pub(super) fn unexpected(&self, reference: &Reference, response: Response) -> RegistryError {
        match response.status {
            404 => not_found(reference),
            403 if !response.is_foreign => self.tokens.refusal(&self.transport, Scope::pull(reference), response),
            _ => response.into_error(),
        }
    }

    /// The same for a blob that a manifest names.
    pub(super) fn unexpected_of_blob(&self, reference: &Reference, digest: &OciDigest, response: Response) -> RegistryError {
        if response.status == 404 {
            let (reference, host) = (reference.to_string(), reference.api_host().to_owned());
            return RegistryError::BlobNotFound { reference, digest: digest.clone(), host };
        }
        self.unexpected(reference, response)
    }
}

pub(super) fn not_found(reference: &Reference) -> RegistryError {
    RegistryError::NotFound { reference: reference.to_string(), host: reference.api_host().into() }
}
